"""Warnings: what works, but not as the user may think.

Separate because nothing depends on them. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opm_engine.plan.model import ScanPlan


def warnings_of(plan: ScanPlan) -> Iterator[str]:
    """Yield them, each a sentence that names its field."""
    if not plan.blanking:
        yield "blanking is off: light during readout smears neighbouring planes"
    if plan.is_moving:
        yield _smear(plan)
    if plan.mode == "stage" and plan.n_times > 1 and not plan.interval_s:
        yield (
            "time_plan: the stage returns before each volume, so an interval of 0 is "
            "not without a gap"
        )
    elif plan.n_times > 1 and not plan.interval_s and "t" not in plan.burst_axes:
        yield (
            "time_plan: an interval of 0 is not without a gap here: between time "
            "points come other positions, presets or exposures"
        )
    if plan.mode == "projection":
        yield from _dark_sweep(plan)
    one_time_s = plan.duration_s / plan.n_times
    if 0 < plan.interval_s < one_time_s and plan.n_times > 1:
        yield (
            f"time_plan: a time point takes {one_time_s:.3g} s or more, longer than "
            f"the interval of {plan.interval_s:g} s; they will follow late"
        )


def _smear(plan: ScanPlan) -> str:
    what = 'mode "stage"' if plan.mode == "stage" else 'motion "ramp"'
    smears_um = [
        abs(plan.step_um) / plan.frames_per_plane * c.light_ms / c.timing.period_ms
        for c in plan.channels
    ]
    text = (
        f"{what}: the scan moves on by {max(smears_um):.3g} µm while a plane is lit, "
        "and smears by as much"
    )
    if plan.channel_offsets_um:
        listed = ", ".join(f"{offset_um:.3g}" for offset_um in plan.channel_offsets_um)
        text += f"; channels lie {listed} µm along the scan (channel_offsets_um)"
    return text


def _dark_sweep(plan: ScanPlan) -> Iterator[str]:
    for channel in plan.channels:
        part = channel.light_ms / channel.timing.window_ms
        if part < 0.9:
            yield (
                f'mode "projection": "{channel.name}" is lit for {part:.0%} of the '
                "window only; the galvos need the rest to gain and lose speed"
            )
