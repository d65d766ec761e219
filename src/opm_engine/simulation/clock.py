"""`SimClock`: the one time base of board, camera and galvo.

Separate because the board must timestamp what software writes with the same clock
that paces the camera. Simulated time runs ``time_scale`` times as fast as the wall
clock. When the machine cannot keep up, it stands still instead of skipping: the
camera's frames stay evenly spaced, and nobody ever sees a time at which the camera
should already have done something that it has not done yet. A clock in another process
follows by what `pace` says of this one.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

NOTICEABLE_S = 1e-3
"""Waits longer than this are announced."""


class Pace(NamedTuple):
    """How simulated time goes at the moment.

    Attributes
    ----------
    now_s : float
    time_scale : float
        Simulated seconds per second.
    ceiling_s : float
        Where it stands still until told otherwise.
    """

    now_s: float
    time_scale: float
    ceiling_s: float


class SimClock:
    """Simulated seconds since it was made; never runs backwards. Thread-safe.

    Parameters
    ----------
    time_scale : float
        Simulated seconds per second.
    wall : callable
        Real seconds.

    Attributes
    ----------
    announce : callable
        Called when `sleep_until` is about to wait noticeably and when the ceiling goes,
        for whoever keeps another clock in step. Must not block.
    """

    def __init__(
        self, time_scale: float = 1.0, wall: Callable[[], float] = time.perf_counter
    ) -> None:
        self.announce: Callable[[], None] = lambda: None
        self._scale = time_scale
        self._wall = wall
        self._lock = threading.Lock()
        self._latest_s = 0.0
        self._ceiling_s = math.inf
        self._origin = wall()

    def now(self) -> float:
        """Simulated time in seconds."""
        return self.pace().now_s

    def pace(self) -> Pace:
        """Time, scale and ceiling at the moment."""
        with self._lock:
            return Pace(self._advance(), self._scale, self._ceiling_s)

    def follow(self, pace: Pace) -> None:
        """Go on as another clock goes; stand still until it has caught up."""
        with self._lock:
            self._advance()
            self._scale = pace.time_scale
            self._ceiling_s = pace.ceiling_s
            self._origin = self._wall() - pace.now_s / self._scale

    def sleep_until(
        self, time_s: float, cancelled: threading.Event, grace_s: float = 0.0
    ) -> bool:
        """Wait for ``time_s``, which no clock passes before the next call.

        Parameters
        ----------
        time_s : float
            When the caller will do something.
        cancelled : Event
            Ends the wait.
        grace_s : float
            A caller no later than this catches up; for one that is later, the clock is
            held back to ``time_s``.

        Returns
        -------
        bool
            False if ``cancelled`` was set before.
        """
        with self._lock:
            self._ceiling_s = time_s
            late_s = self._elapsed_s() - time_s
            if late_s > grace_s:
                self._hold_back(late_s)
        if late_s < -NOTICEABLE_S * self._scale:
            self.announce()
            with self._lock:
                late_s = self._elapsed_s() - time_s
        if late_s >= 0:
            return not cancelled.is_set()
        return not cancelled.wait(-late_s / self._scale)

    def release(self) -> None:
        """Run freely from now on: nothing is announced any more."""
        with self._lock:
            if math.isinf(self._ceiling_s):
                return
            late_s = self._elapsed_s() - max(self._advance(), self._ceiling_s)
            self._ceiling_s = math.inf
            if late_s > 0:
                self._hold_back(late_s)
        self.announce()

    def _elapsed_s(self) -> float:
        return (self._wall() - self._origin) * self._scale

    def _advance(self) -> float:
        reached_s = min(self._elapsed_s(), self._ceiling_s)
        self._latest_s = max(self._latest_s, reached_s)
        return self._latest_s

    def _hold_back(self, late_s: float) -> None:
        self._origin += late_s / self._scale
