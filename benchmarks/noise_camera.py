"""A camera that delivers noise by the clock, whatever the rest of the program does.

DemoCamera's fast frames are constant, which would flatter every codec, and it slows
down when the machine is busy, which no camera does. So its core is kept for all
settings and only its sequence acquisition is replaced: frames fall due at a given rate,
wait in a circular buffer of the size that was asked for, and when that is full the
acquisition is over, as in Micro-Manager with ``stopOnOverflow``.

Each frame is copied twice, as in Micro-Manager: into the circular buffer, and out of it
into an array of its own. There the first copy is the camera thread's; here the thread
that pops does both, so that it has rather more to do than it would have.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from demo_camera import Core
from numpy.typing import NDArray

Frames = NDArray[np.uint16]

N_FRAMES = 32
"""Different ones; they come again and again in this order."""

N_SLOTS = 128
"""Of the circular buffer that are really there; more than any cache holds."""

OFFSET_COUNTS, LIGHT_COUNTS = 100, 110
"""With Poisson noise on the light: an entropy of 5.4 bits, 2.94 times less than 16.
Some counts lie beyond 255, as in most pictures, so that both bytes carry noise."""

TAGS = {
    "Binning": "1",
    "Camera": "Camera",
    "ElapsedTime-ms": "%.2f",
    "Height": "%d",
    "ImageNumber": "%d",
    "PixelType": "GRAY16",
    "ROI-X-start": "0",
    "ROI-Y-start": "0",
    "TimeReceivedByCore": "2000-01-01 00:00:00.000000",
    "Width": "%d",
}
"""What DemoCamera says of each frame."""

_TAGS = f"{len(TAGS)}\n" + "".join(
    f"s\n{name}\n_\n1\n{value}\n" for name, value in TAGS.items()
)
"""The same as MMCore serialises it."""


def noise(size: tuple[int, int], n_frames: int = N_FRAMES) -> Frames:
    """Frames (n, rows, columns) of (columns, rows) pixels with camera-like noise."""
    columns, rows = size
    light = np.random.default_rng(1).poisson(LIGHT_COUNTS, (n_frames, rows, columns))
    return (light + OFFSET_COUNTS).astype(np.uint16)


def entropy_limit(frames: Frames) -> float:
    """By how much a perfect codec would compress the frames."""
    _, counts = np.unique(frames, return_counts=True)
    share = counts / counts.sum()
    return float(8 * frames.itemsize / -(share * np.log2(share)).sum())


class NoiseCore(Core):
    """A core whose camera exposes by the clock; see the module.

    Attributes
    ----------
    frames : (n, rows, columns) uint16 array
        What the camera sees, again and again.
    began_s, period_s : float
        When the latest acquisition began, by ``perf_counter``, and its frame period.
    lost : int
        Exposures of it for which there was no room.
    """

    frames: Frames
    began_s, period_s = 0.0, 1.0
    lost = 0
    _slots: Frames
    _exposure_ms = 10.0
    _footprint_mb = 0
    _asked = _popped = 0
    _running = False

    def see(self, frames: Frames) -> None:
        """Choose what the camera sees."""
        self.frames = frames
        self._slots = np.zeros((N_SLOTS, *frames.shape[1:]), np.uint16)
        self._slots[:] = frames[0]  # touches their pages

    @property
    def due_s(self) -> float:
        """When the last exposure of the latest acquisition ends, by perf_counter."""
        return self.began_s + self._asked * self.period_s

    @property
    def capacity(self) -> int:
        """Frames that may wait."""
        return self._footprint_mb * 2**20 // self.frames[0].nbytes

    @property
    def waiting(self) -> int:
        """Frames that wait; notices an overflow."""
        exposed = int((time.perf_counter() - self.began_s) / self.period_s)
        exposed = max(0, min(exposed, self._asked))
        room = self._popped + self.capacity
        if exposed > room and not self.lost:
            self.lost = self._asked - room  # nothing that comes later is kept
        return min(exposed, self._asked - self.lost) - self._popped

    # ---- what an engine calls

    def setExposure(self, *args: Any) -> None:
        """Take it as it is: DemoCamera would round it to 0.01 ms."""
        self._exposure_ms = args[-1]

    def getExposure(self, *args: Any) -> float:
        """As it was set, in ms."""
        return self._exposure_ms

    def setCircularBufferMemoryFootprint(self, sizeMB: int) -> None:
        """Say how many frames may wait; takes no memory."""
        self._footprint_mb = sizeMB

    def getCircularBufferMemoryFootprint(self) -> int:
        """As it was set."""
        return self._footprint_mb

    def startSequenceAcquisition(self, *args: Any) -> None:
        """Expose so many times from now on."""
        self._asked, self._popped, self.lost = args[0], 0, 0
        self.period_s = self.getExposure() / 1000
        self.began_s = time.perf_counter()
        self._running = True

    def stopSequenceAcquisition(self, *args: Any) -> None:
        """Expose no more."""
        if self._running:
            self._asked = self._popped + self.waiting + self.lost
            self._running = False

    def isSequenceRunning(self, *args: Any) -> bool:
        """Whether exposures follow."""
        return self._running and not self.lost and time.perf_counter() < self.due_s

    def isBufferOverflowed(self) -> bool:
        """Whether frames were lost."""
        return self.lost > 0

    def getRemainingImageCount(self) -> int:
        """Frames that wait."""
        return self.waiting

    def popNextImageMD(self, metadata: Any) -> Frames:
        """Return the oldest that waits, in memory of its own."""
        if not self.waiting:
            msg = "the circular buffer is empty"
            raise IndexError(msg)
        number = self._popped
        rows, columns = self.frames.shape[1:]
        elapsed_ms = (number + 1) * self.period_s * 1000
        metadata.Restore(_TAGS % (elapsed_ms, rows, number, columns))
        slot = self._slots[number % N_SLOTS]
        np.copyto(slot, self.frames[number % len(self.frames)])  # the camera's thread
        image = slot.copy()  # as pymmcore does
        self._popped += 1
        return image
