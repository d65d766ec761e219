"""`SimClock`: the one time base of board, camera and galvo.

Separate because the board must timestamp what software writes with the same clock
that paces the camera. Simulated time runs ``time_scale`` times as fast as the wall
clock; when the machine cannot keep up, it stands still instead of skipping, so that
the camera's frames stay evenly spaced in simulated time.
"""

from __future__ import annotations

import threading
import time


class SimClock:
    """Simulated seconds since it was made; never runs backwards.

    Parameters
    ----------
    time_scale : float
        Simulated seconds per second.
    """

    def __init__(self, time_scale: float = 1.0) -> None:
        self._scale = time_scale
        self._lock = threading.Lock()
        self._latest_s = 0.0
        self._origin = time.perf_counter()

    def now(self) -> float:
        """Simulated time in seconds."""
        with self._lock:
            elapsed_s = (time.perf_counter() - self._origin) * self._scale
            self._latest_s = max(self._latest_s, elapsed_s)
            return self._latest_s

    def sleep_until(self, time_s: float, cancelled: threading.Event) -> bool:
        """Wait for ``time_s``; if it has passed, hold the clock back to it.

        Returns
        -------
        bool
            False if ``cancelled`` was set before.
        """
        with self._lock:
            # Not from now(): after a stall that stands still until this has caught up.
            elapsed_s = (time.perf_counter() - self._origin) * self._scale
            late_s = elapsed_s - time_s
            if late_s > 0:
                self._origin += late_s / self._scale
        if late_s > 0:
            return not cancelled.is_set()
        return not cancelled.wait(-late_s / self._scale)
