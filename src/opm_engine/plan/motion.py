"""Motion of a galvo within its limits: how long it takes, where it is when.

Pure kinematics, separate because the planner (does it fit?) and the waveforms (which
volts?) must agree. Times in ms, distances in volts. Knows no frames and no sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opm_engine.config import Galvo


def reach_v(galvo: Galvo, time_ms: float) -> float:
    """Farthest move from rest to rest in a time; the inverse of ``galvo.move_ms``."""
    slew, limit = galvo.slew_v_per_ms, galvo.acceleration_v_per_ms2
    if limit is None:
        return slew * time_ms
    if time_ms < 2 * slew / limit:
        return limit * time_ms**2 / 4
    return slew * (time_ms - slew / limit)


def gather_ms(galvo: Galvo, speed_v_per_ms: float) -> float:
    """Time to reach a speed from rest; 0 without an acceleration limit."""
    limit = galvo.acceleration_v_per_ms2
    return 0.0 if limit is None else abs(speed_v_per_ms) / limit


def progress(
    galvo: Galvo, distance_v: float, times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How much of a move from rest to rest is done, 0 to 1.

    The fastest move's shape: constant acceleration, constant speed, constant
    deceleration; slower when it is stretched over a longer time.

    Parameters
    ----------
    galvo : Galvo
    distance_v : float
    times : ndarray
        As parts of the time that the move is given; 0 before, 1 after it.
    """
    u = np.clip(times, 0.0, 1.0)
    move_ms = galvo.move_ms(distance_v)
    gather = 0.0
    if galvo.acceleration_v_per_ms2 is not None and move_ms:
        full_ms = galvo.slew_v_per_ms / galvo.acceleration_v_per_ms2
        gather = min(full_ms / move_ms, 0.5)
    if not gather:
        return u
    speed = 1 / (1 - gather)
    return np.where(
        u < gather,
        speed * u**2 / (2 * gather),
        np.where(
            u <= 1 - gather,
            speed * (u - gather / 2),
            1 - speed * (1 - u) ** 2 / (2 * gather),
        ),
    )


@dataclass(frozen=True)
class Glide:
    """From rest to constant speed, on to an end, and to rest again.

    Position is speed times *effective* time: constant while at rest, time itself
    while at speed. So ``position = line(effective(t))`` for the line that it follows.

    Attributes
    ----------
    begin_ms, end_ms : float
        Between which it moves at constant speed.
    gather_ms : float
        To get there from rest before, and to rest after.
    """

    begin_ms: float
    end_ms: float
    gather_ms: float

    @property
    def start_ms(self) -> float:
        """Effective time at rest before."""
        return self.begin_ms - self.gather_ms / 2

    @property
    def stop_ms(self) -> float:
        """Effective time at rest after."""
        return self.end_ms + self.gather_ms / 2

    def effective(self, times_ms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Effective times."""
        if not self.gather_ms:
            return np.clip(times_ms, self.begin_ms, self.end_ms)
        before = np.clip(times_ms - self.begin_ms + self.gather_ms, 0, self.gather_ms)
        after = np.clip(times_ms - self.end_ms, 0, self.gather_ms)
        return (
            self.start_ms
            + before**2 / (2 * self.gather_ms)
            + np.clip(times_ms - self.begin_ms, 0, self.end_ms - self.begin_ms)
            + after
            - after**2 / (2 * self.gather_ms)
        )


def sweep_gather_ms(galvo: Galvo, distance_v: float, time_ms: float) -> float | None:
    """Time that a sweep in a given time spends on reaching its speed.

    The sweep covers ``distance_v`` at constant speed v = d / (T - 2 g), and g = v / a
    on both sides to reach it: 2 a g² - a T g + d = 0.

    Returns
    -------
    float or None
        g, at most T / 4; None if no acceleration that the galvo has is enough.
    """
    limit = galvo.acceleration_v_per_ms2
    if limit is None:
        return 0.0
    root = time_ms**2 - 8 * abs(distance_v) / limit
    return None if root < 0 else (time_ms - math.sqrt(root)) / 4
