"""`GalvoResponse`: where the galvo is, given the volts it was told.

Separate because it is mechanics alone: a damped second-order system, propagated
exactly from one voltage step to the next. Knows neither board nor micrometres.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Trace = tuple[NDArray[np.float64], NDArray[np.float64]]

NATURAL_HZ = 2500.0
DAMPING = 0.75


class GalvoResponse:
    """An underdamped galvo that follows a piecewise-constant voltage.

    It starts settled at ``volts``. ``advance`` moves its state on; ``positions``
    looks ahead without doing so, since camera frames overlap in time.

    Parameters
    ----------
    time_s, volts : float
        When it starts, and where it rests then.
    natural_hz : float
        Undamped natural frequency.
    damping : float
        Damping ratio, 0 < damping < 1.
    """

    def __init__(
        self,
        time_s: float = 0.0,
        volts: float = 0.0,
        *,
        natural_hz: float = NATURAL_HZ,
        damping: float = DAMPING,
    ) -> None:
        omega = 2 * math.pi * natural_hz
        self._decay = damping * omega
        self._omega = omega * math.sqrt(1 - damping**2)
        self._omega_squared = omega**2
        self.time_s = time_s
        self._position_v = volts
        self._speed_v_per_s = 0.0

    def positions(self, trace: Trace, times_s: ArrayLike) -> NDArray[np.float64]:
        """Positions at some times, as the volts that would hold the galvo there.

        Parameters
        ----------
        trace : (times, volts)
            Steps of the drive from ``self.time_s`` on; the first value holds there.
        times_s : (T,) float64
            Not before ``self.time_s``.

        Returns
        -------
        ndarray, (T,) float64
        """
        times = np.asarray(times_s, dtype=np.float64)
        found = np.empty_like(times)
        for begin, end, volts, state in self._segments(trace, times.max(initial=0.0)):
            inside = (times >= begin) & (times <= end)
            found[inside] = self._propagate(state, volts, times[inside] - begin)[0]
        return found

    def advance(self, trace: Trace, time_s: float) -> None:
        """Move the state on to ``time_s``, driven by ``trace``."""
        for begin, end, volts, state in self._segments(trace, time_s):
            position, speed = self._propagate(state, volts, np.array([end - begin]))
            self.time_s = end
            self._position_v, self._speed_v_per_s = float(position[0]), float(speed[0])

    def _segments(
        self, trace: Trace, until_s: float
    ) -> list[tuple[float, float, float, tuple[float, float]]]:
        """Return (begin, end, volts, state at begin) of each constant stretch."""
        state = (self._position_v, self._speed_v_per_s)
        segments = []
        begins = np.maximum(trace[0], self.time_s)
        ends = np.minimum(np.append(begins[1:], np.inf), until_s)
        for begin, end, volts in zip(begins, ends, trace[1], strict=True):
            if end < begin or (end == begin and end != until_s):
                continue
            segments.append((float(begin), float(end), float(volts), state))
            position, speed = self._propagate(state, volts, np.array([end - begin]))
            state = float(position[0]), float(speed[0])
        return segments

    def _propagate(
        self, state: tuple[float, float], volts: float, elapsed_s: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Closed solution of x'' + 2 d x' + w0^2 (x - volts) = 0, underdamped."""
        away, speed = state[0] - volts, state[1]
        fading = np.exp(-self._decay * elapsed_s)
        cos = np.cos(self._omega * elapsed_s)
        sin = np.sin(self._omega * elapsed_s) / self._omega
        position = volts + fading * (away * cos + (speed + self._decay * away) * sin)
        pull = self._decay * speed + self._omega_squared * away
        return position, fading * (speed * cos - pull * sin)
