"""`GalvoResponse`: where the galvo is, given the volts it was told.

Separate because it is mechanics alone: a damped second-order system, propagated
exactly from one voltage step to the next. Knows neither board nor micrometres.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.simulation.render import follow_galvo

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
        self._state = float(time_s), float(volts), 0.0

    @property
    def time_s(self) -> float:
        """How far it has been followed."""
        return self._state[0]

    def positions(self, trace: Trace, times_s: ArrayLike) -> NDArray[np.float64]:
        """Positions at some times, as the volts that would hold the galvo there.

        Parameters
        ----------
        trace : (times, volts)
            Steps of the drive from ``self.time_s`` on; the first value holds there.
        times_s : (T,) float64
            Ascending, from ``self.time_s`` on; earlier ones count as that.

        Returns
        -------
        ndarray, (T,) float64
        """
        times = np.asarray(times_s, dtype=np.float64)
        found = np.empty_like(times)
        self._follow(trace, times, found)
        return found

    def advance(self, trace: Trace, time_s: float) -> None:
        """Move the state on to ``time_s``, driven by ``trace``."""
        if time_s > self.time_s:
            self._state = self._follow(trace, np.array([time_s]), np.empty(1))

    def _follow(
        self, trace: Trace, times: NDArray[np.float64], found: NDArray[np.float64]
    ) -> tuple[float, float, float]:
        drive = trace[0], np.asarray(trace[1], dtype=np.float64)
        state: tuple[float, float, float] = follow_galvo(
            *drive, self._state, self._decay, self._omega, times, found
        )
        return state
