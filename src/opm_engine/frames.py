"""Frames off the circular buffer, with as few calls into the core as possible.

Separate from the engine because it is about speed alone: each call into the core
releases the interpreter lock and, with another thread busy, waits to get it back. One
reused ``Metadata``, one parse of its serialised form and a count that is asked for only
now and then take little more than two calls per frame where the stock engine takes
about forty.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import pymmcore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from pymmcore_plus import CMMCorePlus

POLL_S = 5e-4
"""Sleep while the circular buffer is empty."""

BATCH = 16
"""Frames that are popped on one count of what the circular buffer holds."""

CAMERA_TAG = "CameraChannelIndex"
"""How the Multi Camera device ends the tag that tells its cameras apart."""


class Frame(NamedTuple):
    """One popped image (rows, columns), its camera tags, and which camera's it is.

    ``remaining`` is how many more the circular buffer holds at least.
    """

    image: NDArray[np.uint16]
    tags: dict[str, str]
    remaining: int
    camera: int = 0


class FrameSource:
    """Pops the frames of one camera sequence.

    Parameters
    ----------
    core : CMMCorePlus
        Its camera's sequence acquisition runs or has run.
    n_exposures : int
        Asked of the camera.
    n_cameras : int
        Images per exposure. They are yielded in the order of the cameras, however
        they arrive.

    Attributes
    ----------
    popped : int
        Exposures of which all images were yielded.
    """

    def __init__(self, core: CMMCorePlus, n_exposures: int, n_cameras: int = 1) -> None:
        self._core = core
        self._metadata = pymmcore.Metadata()
        self._n_exposures = n_exposures
        self._waiting = self._batch = 0
        self._early: list[deque[Frame]] = [deque() for _ in range(n_cameras)]
        self.popped = 0

    def frames(
        self, ending: Callable[[], bool], first_timeout_s: float, timeout_s: float
    ) -> Iterator[Frame]:
        """Yield frames until all came, or the camera stopped and the buffer is empty.

        Parameters
        ----------
        ending : callable
            Whether the camera was stopped on purpose: then what the buffer holds is
            yielded and no more is waited for. Asked while the buffer is empty; may
            raise.
        first_timeout_s, timeout_s : float
            How long to wait for the first and for any further frame.

        Raises
        ------
        MemoryError
            If the circular buffer overflowed, after what it held was yielded.
        TimeoutError
            If no frame comes.
        """
        patience_s, latest_s = first_timeout_s, time.monotonic()
        while self.popped < self._n_exposures:
            if frame := self._pop():
                patience_s, latest_s = timeout_s, time.monotonic()
                yield from self._in_order(frame)
            elif not self._may_follow(ending):
                return
            elif time.monotonic() > latest_s + patience_s:
                msg = f"no frame for {patience_s:.1f} s after {self.popped} frames"
                raise TimeoutError(msg)
            else:
                time.sleep(POLL_S)

    def _pop(self) -> Frame | None:
        if not self._batch:
            self._waiting = self._core.getRemainingImageCount()
            self._batch = min(self._waiting, BATCH)
            if not self._batch:
                return None
        self._batch -= 1
        self._waiting -= 1
        image = self._core.popNextImageMD(self._metadata)  # replaces all its tags
        return Frame(image, parse_tags(self._metadata.Serialize()), self._waiting)

    def _may_follow(self, ending: Callable[[], bool]) -> bool:
        """Whether frames may follow although the buffer was empty a moment ago."""
        core = self._core
        over = ending() or not core.isSequenceRunning()
        overflowed = core.isBufferOverflowed()
        # Asked last: whoever stopped the camera meanwhile may have left frames.
        if not (over or overflowed) or core.getRemainingImageCount():
            return True
        if overflowed:
            missing = self._n_exposures - self.popped
            msg = f"circular buffer overflowed; {missing} frames were lost"
            raise MemoryError(msg)
        return False

    def _in_order(self, frame: Frame) -> Iterator[Frame]:
        """Yield the exposures that the frame completes, camera by camera."""
        if len(self._early) == 1:
            self.popped += 1
            yield frame
            return
        camera = camera_number(frame.tags)
        self._early[camera].append(frame._replace(camera=camera))
        while all(self._early):
            self.popped += 1
            for early in self._early:
                yield early.popleft()


def camera_number(tags: dict[str, str]) -> int:
    """Return which camera of a Multi Camera device made a frame."""
    return next((int(tags[name]) for name in tags if name.endswith(CAMERA_TAG)), 0)


def parse_tags(serialised: str) -> dict[str, str]:
    r"""Read MMCore's serialised metadata.

    Parameters
    ----------
    serialised : str
        Number of tags, then for each a line ``s`` (single) or ``a`` (array), name,
        device, read-only flag, and the value or the number of values and the values.

    Returns
    -------
    dict
        Tag name to value; arrays joined by spaces.
    """
    lines = serialised.split("\n")
    tags: dict[str, str] = {}
    at = 1
    for _ in range(int(lines[0])):
        value, after = at + 4, at + 5
        if lines[at] != "s":
            value, after = after, after + int(lines[at + 4])
        tags[lines[at + 1]] = " ".join(lines[value:after])
        at = after
    return tags


def frame_metadata(frame: Frame, *, started_ms: float, **common: Any) -> dict[str, Any]:
    """Metadata of one frame in pymmcore-plus's ``FrameMetaV1`` form.

    Parameters
    ----------
    frame : Frame
    started_ms : float
        When the camera was started, since the run began.
    **common
        Fields that are the same, or cheap to make, for each frame of a burst.
    """
    return {
        "format": "frame-dict",
        "version": "1.0",
        "property_values": (),
        "hardware_triggered": True,
        "images_remaining_in_buffer": frame.remaining,
        "camera_metadata": frame.tags,
        "runner_time_ms": started_ms + float(frame.tags.get("ElapsedTime-ms", 0)),
        **common,
    }
