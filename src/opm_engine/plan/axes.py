"""Axes of a scan: which are used, in which order, how long, how far apart in time.

Separate from ``resolve`` because it looks at the sequence alone, and because it must
judge sizes without listing what they count: a slip of the hand asks for 10^9 planes.
Pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from opm_engine.plan.parts import AXES, Axis
from opm_engine.plan.settings import PlanError

if TYPE_CHECKING:
    import useq

    from opm_engine.plan.modes import Mode
    from opm_engine.plan.parts import PlannedChannel

MAX_PLANES = 100_000
MAX_EVENTS = 10**9


def plan_sizes(sequence: useq.MDASequence) -> dict[Axis, int]:
    """Length of each axis of a regular sequence; 0 if it is not used.

    Raises
    ------
    PlanError
        If a number of the sequence is not finite, or there are too many of something.
    """
    if sequence.z_plan:
        _refuse_infinite("z_plan", vars(sequence.z_plan))
    for number, position in enumerate(sequence.stage_positions):
        _refuse_infinite(f"stage_positions[{number}]", vars(position))
    sizes: dict[Axis, int] = {
        "t": _n_times(sequence.time_plan) if sequence.time_plan else 0,
        "p": len(sequence.stage_positions),
        "g": 0,
        "c": len(sequence.channels),
        "z": max(sequence.z_plan.num_positions(), 0) if sequence.z_plan else 0,
    }
    if sizes["z"] > MAX_PLANES:
        msg = f"z_plan: {sizes['z']} planes; {MAX_PLANES} at most, use a larger step"
        raise PlanError(msg)
    if math.prod(size or 1 for size in sizes.values()) > MAX_EVENTS:
        msg = f"time_plan: {sizes['t']} time points make more than {MAX_EVENTS} frames"
        raise PlanError(msg)
    return sizes


def plan_axes(sequence: useq.MDASequence, sizes: dict[Axis, int]) -> tuple[Axis, ...]:
    """Used axes, outermost first, with c and z last.

    Where a single channel stands does not matter, nor a z that is not there.

    Raises
    ------
    PlanError
        If the order leaves an axis out, or c and z are not innermost.
    """
    order = "".join(str(axis) for axis in sequence.axis_order)
    left_out = [axis for axis in AXES if sizes[axis] and axis not in order]
    if left_out:
        msg = f'axis_order = "{order}" leaves out "{left_out[0]}"; try "tpzc"'
        raise PlanError(msg)
    used: list[Axis] = [axis for axis in sorted(AXES, key=order.find) if sizes[axis]]
    if "z" not in used:
        used.insert(used.index("c") + 1, "z")
    if sizes["c"] == 1:
        used.remove("c")
        used.insert(used.index("z"), "c")
    if set(used[-2:]) != {"z", "c"}:
        msg = (
            f'axis_order = "{order}": it must end in "zc" (channels interleaved per '
            'plane) or "cz" (one channel after the other), like "tpzc"'
        )
        raise PlanError(msg)
    return tuple(used)


def plan_interval_s(sequence: useq.MDASequence) -> float:
    """Seconds between time points; 0 means without a gap."""
    if sequence.time_plan is None:
        return 0.0
    interval: Any = getattr(sequence.time_plan, "interval", None)
    return float(interval.total_seconds())


def plan_burst_axes(
    axes: tuple[Axis, ...],
    channels: tuple[PlannedChannel, ...],
    interval_s: float,
    mode: Mode,
    sizes: dict[Axis, int],
) -> tuple[Axis, ...]:
    """Return the inner axes that one camera sequence covers.

    Interleaved channels share it. Channels one after the other have one each, so that
    presets may differ, unless gapless time points leave no room between them; then
    nothing but the laser may change. A stage must return before each volume.
    """
    outer = [axis for axis in axes[:-2] if axis == "t" or sizes[axis] > 1]
    gapless = outer[-1:] == ["t"] and interval_s == 0 and mode != "stage"
    alike = len({(c.timing.exposure_ms, c.z_offset_um) for c in channels}) == 1
    if gapless and alike:
        return axes[axes.index("t") :]
    if axes[-1] == "z" and len(channels) > 1:
        return ("z",)
    return axes[-2:]


def _n_times(time_plan: Any) -> int:
    if phases := getattr(time_plan, "phases", None):
        return sum(map(_n_times, phases))
    try:
        interval_s = time_plan.interval.total_seconds()
        n_times = int(time_plan.num_timepoints())
    except ZeroDivisionError:
        interval_s, n_times = 0.0, 0
    if interval_s < 0 or n_times < 1:
        msg = 'time_plan: use {"interval": 0 or more, "loops": 1 or more}'
        raise PlanError(msg)
    return n_times


def _refuse_infinite(where: str, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if isinstance(value, float) and not math.isfinite(value):
            msg = f"{where}.{name} = {value} is not a finite number"
            raise PlanError(msg)
