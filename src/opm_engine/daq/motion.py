"""Ramps of a galvo: where it stands at each step on the way.

Pure. Separate from ``nidaq`` so that limits of speed and acceleration can be tested
without a board.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opm_engine.config.board import Galvo

STEP_MS = 1.0


NEGLIGIBLE_V = 1e-9
"""Far below what any output resolves."""


def ramp_v(start_v: float | None, target_v: float, galvo: Galvo) -> NDArray[np.float64]:
    """Volts after each millisecond of a move from rest to rest.

    Parameters
    ----------
    start_v : float or None
        None is unknown: there is no ramp to compute then, and the move is one step.
    target_v : float
    galvo : Galvo
        Limits its speed and, if it says so, its acceleration.

    Returns
    -------
    ndarray, (n,) float64
        Ends at ``target_v``; n is at least 1.
    """
    if start_v is None or abs(target_v - start_v) < NEGLIGIBLE_V:
        return np.array([target_v])
    distance_v = abs(target_v - start_v)
    n_steps = max(1, math.ceil(galvo.move_ms(distance_v) / STEP_MS - 1e-9))
    times_ms = STEP_MS * np.arange(1, n_steps + 1, dtype=np.float64)
    travelled_v = _travelled_v(times_ms, distance_v, galvo)
    path_v = start_v + math.copysign(1.0, target_v - start_v) * travelled_v
    path_v[-1] = target_v
    return path_v


def _travelled_v(
    times_ms: NDArray[np.float64], distance_v: float, galvo: Galvo
) -> NDArray[np.float64]:
    """Distance at each time; the move takes as long as the last of them.

    A trapezoid of speed, stretched to whole steps: the same shape at less speed.
    """
    total_ms = float(times_ms[-1])
    limit = galvo.acceleration_v_per_ms2
    if limit is None:
        return distance_v * times_ms / total_ms
    rise_ms = min(galvo.slew_v_per_ms / limit, galvo.move_ms(distance_v) / 2)
    speed = distance_v / (total_ms - rise_ms)
    end = total_ms - times_ms
    travelled_v: NDArray[np.float64] = np.select(
        [times_ms < rise_ms, end < rise_ms],
        [
            speed * times_ms**2 / (2 * rise_ms),
            distance_v - speed * end**2 / (2 * rise_ms),
        ],
        speed * (times_ms - rise_ms / 2),
    )
    return travelled_v
