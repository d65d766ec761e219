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

DAMPING = 0.75

SETTLED_RAD = 6.596
"""Angular natural frequency times the time after which a step stays within 1 %."""

FASTEST_MS = 0.05
"""No galvo settles faster."""


class GalvoResponse:
    """An underdamped galvo that follows a piecewise-constant voltage.

    It starts settled at ``volts``. ``advance`` moves its state on; ``positions``
    looks ahead without doing so, since camera frames overlap in time.

    Parameters
    ----------
    time_s, volts : float
        When it starts, and where it rests then.
    settle_ms : float
        After a step it stays within 1 % of it from then on.
    """

    def __init__(
        self,
        time_s: float = 0.0,
        volts: float = 0.0,
        *,
        settle_ms: float,
    ) -> None:
        omega = SETTLED_RAD / (1e-3 * max(settle_ms, FASTEST_MS))
        self._decay = DAMPING * omega
        self._omega = omega * math.sqrt(1 - DAMPING**2)
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
