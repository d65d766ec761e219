"""`Track`: where one axis of a stage is at any time, in closed form.

Separate because it is mechanics alone: stretches of constant acceleration, one after
another. Remembers the past, since a camera frame is worked out after it was exposed.
Knows neither devices nor clocks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

HISTORY_S = 10.0


class Stretch(NamedTuple):
    """Constant acceleration from a time on, in µm and seconds."""

    time_s: float
    position_um: float
    speed_um_s: float = 0.0
    acceleration_um_s2: float = 0.0

    def at(self, time_s: float) -> Stretch:
        """The same motion, described from another time on."""
        for_s = time_s - self.time_s
        gained_um_s = self.acceleration_um_s2 * for_s
        moved_um = (self.speed_um_s + gained_um_s / 2) * for_s
        return Stretch(
            time_s,
            self.position_um + moved_um,
            self.speed_um_s + gained_um_s,
            self.acceleration_um_s2,
        )

    def reaches(self, position_um: float, until_s: float) -> float | None:
        """When it first is at a position, if that is before a time."""
        a, v = self.acceleration_um_s2 / 2, self.speed_um_s
        roots = np.roots([a, v, self.position_um - position_um])
        times_s = [
            self.time_s + float(root.real)
            for root in roots
            if abs(root.imag) < 1e-12 and 0 <= root.real < until_s - self.time_s
        ]
        return min(times_s, default=None)


class Track:
    """The motion of one axis; at rest before it begins and after it ends.

    Parameters
    ----------
    position_um : float
        Where it rests at first.
    """

    def __init__(self, position_um: float = 0.0) -> None:
        # Replaced as a whole, never changed: another thread may be reading it.
        self._stretches: tuple[Stretch, ...] = (Stretch(-math.inf, position_um),)

    @property
    def end_s(self) -> float:
        """When it has come to rest."""
        return self._stretches[-1].time_s

    @property
    def end_um(self) -> float:
        """Where it comes to rest."""
        return self._stretches[-1].position_um

    def position(self, time_s: float) -> float:
        """Position at one time, in µm."""
        return float(self.positions([time_s])[0])

    def positions(self, times_s: ArrayLike) -> NDArray[np.float64]:
        """Positions at some times, in µm; (T,) float64."""
        times = np.asarray(times_s, dtype=np.float64)
        stretches = self._stretches
        if len(stretches) == 1 or times.min() >= stretches[-1].time_s:
            return np.full(times.shape, stretches[-1].position_um)
        begin_s, begin_um, speed, acceleration = np.array(stretches).T
        k = np.maximum(np.searchsorted(begin_s, times, side="right") - 1, 0)
        for_s = np.where(k > 0, times - begin_s[k], 0.0)
        moved_um = (speed[k] + acceleration[k] * for_s / 2) * for_s
        return np.asarray(begin_um[k] + moved_um, dtype=np.float64)

    def follow(self, stretches: Sequence[Stretch]) -> None:
        """From the first stretch's time on, do this; it must end at rest."""
        begin_s = stretches[0].time_s
        past = [s for s in self._stretches if s.time_s < begin_s]
        old = [s for s in past[1:] if s.time_s < begin_s - HISTORY_S]
        self._stretches = (*past[:1], *past[1 + len(old) :], *stretches)

    def rest(self, time_s: float, position_um: float | None = None) -> None:
        """Be at rest from a time on, there or wherever it is then."""
        if position_um is None:
            position_um = self.position(time_s)
        self.follow([Stretch(time_s, position_um)])


def travel(
    time_s: float, from_um: float, to_um: float, speed_um_s: float, ramp_s: float
) -> list[Stretch]:
    """Move from rest to rest: ramp up, constant speed, ramp down.

    Parameters
    ----------
    time_s : float
        When it begins.
    from_um, to_um : float
    speed_um_s : float
        Positive; short moves do not get so fast.
    ramp_s : float
        Time to get from rest to ``speed_um_s``.
    """
    way_um = to_um - from_um
    sign = math.copysign(1.0, way_um)
    reached_um_s = speed_um_s
    if abs(way_um) < speed_um_s * ramp_s:
        reached_um_s = math.sqrt(abs(way_um) * speed_um_s / ramp_s)
    up_s = ramp_s * reached_um_s / speed_um_s
    even_s = (abs(way_um) / reached_um_s - up_s) if way_um else 0.0
    push = sign * speed_um_s / ramp_s if ramp_s else 0.0
    start = Stretch(time_s, from_um, 0.0, push)
    even = Stretch(time_s + up_s, start.at(time_s + up_s).position_um)
    even = even._replace(speed_um_s=sign * reached_um_s)
    down_s = time_s + up_s + max(even_s, 0.0)
    down = even.at(down_s)._replace(acceleration_um_s2=-push)
    end = Stretch(down_s + up_s, to_um)
    return [start, even, down, end]


def stopped_at(
    stretches: Sequence[Stretch], limits_um: tuple[float, float]
) -> list[Stretch]:
    """The same motion, halted for good where it would leave the limits."""
    kept: list[Stretch] = []
    for stretch, after in zip(stretches, [*stretches[1:], None], strict=True):
        kept.append(stretch)
        until_s = math.inf if after is None else after.time_s
        for limit_um, outward in zip(limits_um, (-1, 1), strict=True):
            hit_s = stretch.reaches(limit_um, until_s)
            if hit_s is None:
                continue
            there = stretch.at(hit_s)
            if outward * (there.speed_um_s or there.acceleration_um_s2) > 0:
                return [*kept, Stretch(hit_s, limit_um)]
    return kept
