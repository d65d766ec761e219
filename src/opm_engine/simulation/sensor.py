"""`SensorRun`: one run of the free-running sensor, in its own thread.

Separate from the camera device because it lives shorter: from start to stop, with
settings that cannot change meanwhile. Knows no MMCore.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from opm_engine.simulation.clock import SimClock
    from opm_engine.simulation.imaging import Imaging, Roi
    from opm_engine.simulation.shutter import ExposureOutKind, RollingShutter
    from opm_engine.simulation.trigger import TriggerLine

logger = logging.getLogger(__name__)

START_DELAY_S = 0.5e-3
"""From the command to the start of the first row."""

WAITING_FRAMES = 8
"""Frames the camera holds before the sensor has to wait."""


class Frame(NamedTuple):
    """One exposure as it leaves the camera: an image per sensor behind the splitter."""

    images: tuple[NDArray[np.uint16], ...]
    number: int
    start_s: float


class HandOver:
    """A short queue of frames that ends, at once and for both sides, when closed."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self.closed = False

    def put(self, frame: Frame) -> None:
        """Add a frame; waits while the queue is full."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.closed or len(self._frames) < WAITING_FRAMES
            )
            if not self.closed:
                self._frames.append(frame)
            self._changed.notify_all()

    def take(self) -> Frame | None:
        """Wait for a frame; None when the queue was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or bool(self._frames))
            frame = None if self.closed else self._frames.popleft()
            self._changed.notify_all()
            return frame

    def close(self) -> None:
        """End it; frames not yet taken are lost. May be called twice."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


class SensorRun:
    """Edges and frames from ``start`` until ``stop``.

    Parameters
    ----------
    shutter : RollingShutter
    imaging : Imaging
    clock : SimClock
    roi : (x, y, width, height)
        Part of the sensor that is read.
    drive : callable
        ``drive(active, time_s)`` sets exposure-out.
    kind : {"AllRows", "FirstRow", "AnyRow"}, optional
        None: exposure-out shows no exposure.
    wanted : int, optional
        Frames to hand over; later ones are only exposed. None: all.
    last : int, optional
        After so many frames the sensor does nothing more.
    not_before_s : float
        When exposure-out changed last; the first row starts after it.
    trigger : TriggerLine, optional
        Wait for its next pulse, then run free.
    """

    def __init__(
        self,
        shutter: RollingShutter,
        imaging: Imaging,
        clock: SimClock,
        *,
        roi: Roi,
        drive: Callable[[bool, float], None],
        kind: ExposureOutKind | None,
        wanted: int | None,
        last: int | None,
        not_before_s: float,
        trigger: TriggerLine | None,
    ) -> None:
        self._shutter = shutter
        self._imaging = imaging
        self._clock = clock
        self._roi = roi
        self._drive = drive
        self._kind = kind
        self._wanted = wanted
        self._last = last
        self._trigger = trigger
        self._active = False
        self._event_s = not_before_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._expose, name="simulated sensor", daemon=True
        )
        self.frames = HandOver()

    @property
    def owes_frames(self) -> bool:
        """Whether somebody still waits for frames."""
        return not self.frames.closed

    def start(self) -> None:
        """Start exposing, or waiting for a pulse that comes from now on."""
        self._event_s = max(self._event_s, self._clock.now())
        self._thread.start()

    def stop(self) -> None:
        """Stop, wait for the thread, put exposure-out at its idle level."""
        self._stopped.set()
        self.frames.close()
        self._thread.join()
        if self._active:
            self._active = False
            self._drive(False, max(self._event_s, self._clock.now()))

    def _expose(self) -> None:
        # If a cable or the optics fail, whoever waits for frames must be let go.
        try:
            self._free_run()
        except OSError as error:  # the board's process is gone, and the run says so
            logger.error("The simulated camera stops: %s", error)
        finally:
            self._clock.release()
            self.frames.close()

    def _free_run(self) -> None:
        start_s = self._first_row_s()
        if start_s is None:
            return
        self._imaging.begin(start_s)
        for event in self._shutter.events(start_s, self._kind):
            if self._last is not None and event.frame >= self._last:
                if event.what == "read":
                    self._clock.release()
                    self._stopped.wait()
                    return
                continue
            if not self._wait_for(event.time_s):
                return
            self._event_s = event.time_s
            if event.what == "read":
                self._read(event.frame, start_s + event.frame * self._shutter.period_s)
            else:
                self._active = event.what == "active"
                self._drive(self._active, event.time_s)

    def _first_row_s(self) -> float | None:
        """When the first row starts, one line after a trigger; None if stopped."""
        if self._trigger is None:
            return max(self._event_s, self._clock.now()) + START_DELAY_S
        while (pulse_s := self._trigger.wait(self._event_s, self._stopped)) is not None:
            if not self._wait_for(pulse_s):
                return None
            if self._trigger.comes(pulse_s):
                return pulse_s + self._shutter.line_time_s
            self._clock.release()  # the stage was halted before
        return None

    def _wait_for(self, time_s: float) -> bool:
        """Wait for an event; False if stopped.

        A sensor late by less than a frame catches up; if it is later, the clock is
        held back, so that software and camera keep one time.
        """
        return self._clock.sleep_until(time_s, self._stopped, self._shutter.period_s)

    def _read(self, number: int, start_s: float) -> None:
        if self._wanted is None or number < self._wanted:
            images = self._imaging.frame(self._shutter, start_s, self._roi)
            self.frames.put(Frame(images, number, start_s))
