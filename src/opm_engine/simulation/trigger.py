"""`TriggerLine`: the wire from the scanning stage to the camera's trigger input.

Separate so that stage and camera know a wire, not each other. The stage knows its
motion in advance, so it says when the pulse will come; halted before, it takes it back.
"""

from __future__ import annotations

import threading

POLL_S = 1e-3


class TriggerLine:
    """A wire that carries single pulses, in simulated seconds. Thread-safe."""

    def __init__(self) -> None:
        self._pulse_s: float | None = None

    def pulse(self, time_s: float) -> None:
        """There will be a pulse at this time, and no other yet to come."""
        self._pulse_s = time_s

    def silence(self, time_s: float) -> None:
        """Nothing comes any more after this time."""
        if self._pulse_s is not None and self._pulse_s > time_s:
            self._pulse_s = None

    def comes(self, time_s: float) -> bool:
        """Whether the pulse of this time is still to come, or has come."""
        return self._pulse_s == time_s

    def wait(self, since_s: float, cancelled: threading.Event) -> float | None:
        """Wait until a pulse is under way that comes at ``since_s`` or later.

        Returns
        -------
        float or None
            When it comes; None if cancelled.
        """
        while not cancelled.is_set():
            pulse_s = self._pulse_s
            if pulse_s is not None and pulse_s >= since_s:
                return pulse_s
            cancelled.wait(POLL_S)
        return None
