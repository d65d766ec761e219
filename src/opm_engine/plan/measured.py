"""A plan with what camera and stage turned out to do.

Separate from the plan because only the engine asks for it, once it has measured. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opm_engine.plan.sample_clock import refit
from opm_engine.plan.settings import PlanError
from opm_engine.plan.stage import plan_stage, step_of

if TYPE_CHECKING:
    from opm_engine.geometry import Geometry
    from opm_engine.plan.model import ScanPlan
    from opm_engine.plan.parts import CameraTiming, Whole

PERIOD_TOLERANCE = 0.01
"""Part of the planned frame period by which the measured one may differ."""


def as_measured(
    plan: ScanPlan, period_ms: float, stage_speed_um_per_s: float | None
) -> ScanPlan:
    """See `ScanPlan.measured`."""
    planned_ms = plan.channels[0].timing.period_ms
    ratio = period_ms / planned_ms
    if not abs(ratio - 1) <= PERIOD_TOLERANCE:
        msg = (
            f"camera: a frame takes {period_ms:.5g} ms, planned were {planned_ms:.5g} "
            f"ms; ask for an exposure of {period_ms:.5g} ms or, if the readout is "
            "longer than planned, correct camera.line_time_us"
        )
        raise PlanError(msg)
    channels = tuple(
        refit(channel, _scaled(channel.timing, ratio)) for channel in plan.channels
    )
    plan = plan.model_copy(update={"channels": channels})
    if plan.stage is None:
        return plan
    speed = stage_speed_um_per_s or plan.stage.speed_um_per_s
    return _with_step(plan, step_of(plan.stage, plan.step_um, ratio, speed))


def _scaled(timing: CameraTiming, ratio: float) -> CameraTiming:
    """Timing with another period; what is set stays, the window gets the difference."""
    period_ms = timing.period_ms * ratio
    window_ms = timing.window_ms + period_ms - timing.period_ms
    return timing.model_copy(update={"period_ms": period_ms, "window_ms": window_ms})


def _with_step(plan: ScanPlan, step_um: float) -> ScanPlan:
    """In mode ``stage``: another step, from the same first plane on."""
    assert plan.stage is not None
    geometry = plan.geometry
    return plan.model_copy(
        update={
            "step_um": step_um,
            "geometry": _stretched(geometry, step_um),
            "whole": plan.whole and _whole_with_step(plan.whole, step_um),
            "stage": plan_stage(
                plan.channels[0].timing,
                plan.start_um,
                step_um,
                geometry.n_planes * plan.frames_per_plane,
                plan.frames_per_plane,
                plan.stage.ramp_ms,
                plan.stage.n_lead,
            ),
        }
    )


def _stretched(geometry: Geometry, step_um: float) -> Geometry:
    """The same first plane, another step."""
    longer_um = (abs(step_um) - geometry.step_um) * (geometry.n_planes - 1)
    backwards = geometry.scan_direction < 0
    return geometry.model_copy(
        update={
            "step_um": abs(step_um),
            "origin_um": geometry.origin_um - backwards * longer_um,
        }
    )


def _whole_with_step(whole: Whole, step_um: float) -> Whole:
    """All scans have one step. One that is measured already stays as it is."""
    ratio = abs(step_um) / whole.geometry.step_um
    positions = []
    for site in whole.positions:
        if site.origin_um is not None:
            n_planes = site.n_planes or whole.geometry.n_planes
            own = {"n_planes": n_planes, "origin_um": site.origin_um}
            scan = _stretched(whole.geometry.model_copy(update=own), step_um)
            site = site.model_copy(update={"origin_um": scan.origin_um})
        positions.append(site)
    return whole.model_copy(
        update={
            "geometry": _stretched(whole.geometry, step_um),
            "channel_offsets_um": tuple(x * ratio for x in whole.channel_offsets_um),
            "positions": tuple(positions),
        }
    )
