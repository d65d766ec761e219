"""What moves during a scan, within its limits, and the dark frames that it costs.

Separate from ``resolve`` because it needs a plan of everything else. Each kind of
movement is judged by one function, which returns the fields that it decides. Pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from opm_engine.geometry import EPSILON
from opm_engine.plan.channels import refuse_unequal_on_stage
from opm_engine.plan.projection import refuse_sweep, sweeps
from opm_engine.plan.ramp import lead_frames, ramp_of, refuse_ramp
from opm_engine.plan.scan import flyback_frames, refuse_unsettled, refuse_volts
from opm_engine.plan.settings import PlanError
from opm_engine.plan.stage import plan_stage, refuse_speed, refuse_travel

if TYPE_CHECKING:
    from opm_engine.config import Microscope
    from opm_engine.plan.model import ScanPlan


def plan_movement(plan: ScanPlan, microscope: Microscope) -> ScanPlan:
    """Return the plan with lead-in, flyback and path of whatever moves.

    Raises
    ------
    PlanError
        If galvo or stage cannot do it; says what they could.
    """
    _refuse_bidirectional(plan)
    if plan.mode == "stage":
        decided = _stage(plan, microscope)
    elif plan.mode == "projection":
        decided = _projection(plan, microscope)
    elif plan.motion == "ramp":
        decided = _ramp(plan, microscope)
    else:
        decided = _steps(plan, microscope)
    return plan.model_copy(update=decided)


def _refuse_bidirectional(plan: ScanPlan) -> None:
    runs_of_channels = "c" in plan.burst_axes and not plan.interleaved
    if plan.bidirectional and runs_of_channels and len(plan.channels) > 1:
        msg = (
            "bidirectional: channels one after the other would fly back between them; "
            'interleave them: axis_order="tpzc"'
        )
        raise PlanError(msg)


def _steps(plan: ScanPlan, microscope: Microscope) -> dict[str, Any]:
    """Galvo at rest while a plane is exposed."""
    n_last = plan.geometry.n_planes - 1
    field = "z_plan" if n_last else "offset_um"
    refuse_volts(microscope, (plan.offset_um(0), plan.offset_um(n_last)), field)
    refuse_unsettled(microscope, plan.channels, plan.step_um)
    if plan.bidirectional:
        return {"n_flyback": 0}
    range_um = plan.step_um * n_last
    return {"n_flyback": flyback_frames(microscope, plan.channels, range_um)}


def _ramp(plan: ScanPlan, microscope: Microscope) -> dict[str, Any]:
    """Galvo at constant speed through the planes."""
    galvo = microscope.daq.galvo
    n_planes, per_plane = plan.geometry.n_planes, plan.frames_per_plane
    ends_um = plan.offset_um(0), plan.offset_um(n_planes - 1)
    n_lead = n_flyback = 0
    for channel in plan.channels:
        there = ramp_of(channel, galvo, ends_um, n_planes, per_plane)
        back = ramp_of(channel, galvo, ends_um[::-1], n_planes, per_plane)
        refuse_ramp(there, channel, galvo)
        following = back if plan.bidirectional else there
        reached_um = there.start_um, there.stop_um, following.start_um
        refuse_volts(
            microscope,
            (*reached_um, following.stop_um),
            "z_plan (with run-up and run-out)",
        )
        return_v = (following.start_um - there.stop_um) * galvo.volts_per_um
        return_ms = galvo.move_ms(return_v)
        frames = math.ceil(return_ms / channel.timing.period_ms - EPSILON)
        n_flyback = max(n_flyback, frames)
        n_lead = max(n_lead, lead_frames(channel, galvo, there.um_per_ms))
    return {"n_lead": n_lead, "n_flyback": n_flyback}


def _projection(plan: ScanPlan, microscope: Microscope) -> dict[str, Any]:
    """Both galvos through their range in every frame."""
    shear_ratio = 0.0
    for channel in plan.channels:
        pair = sweeps(channel, microscope, plan.rest_um, plan.range_um)
        for sweep in pair:
            refuse_sweep(sweep, microscope, plan.range_um)
    if microscope.daq.projection is not None:
        shear_ratio = microscope.daq.projection.shear_ratio
    return {"shear_ratio": shear_ratio}


def _stage(plan: ScanPlan, microscope: Microscope) -> dict[str, Any]:
    """Stage at constant speed, galvo at rest."""
    stage, timing = microscope.scan_stage, plan.channels[0].timing
    if stage is None:
        return {}
    refuse_unequal_on_stage(plan.channels)
    refuse_volts(microscope, (plan.rest_um,), "offset_um")
    scan = plan_stage(
        timing,
        plan.start_um,
        plan.step_um,
        plan.geometry.n_planes * plan.frames_per_plane,
        plan.frames_per_plane,
        stage.ramp_ms,
    )
    refuse_speed(scan, stage, timing)
    for number, position in enumerate(plan.positions):
        place_um = position.x_um if stage.axis == "x" else position.y_um
        if place_um is not None:
            where = f"stage_positions[{number}].{stage.axis}"
            refuse_travel(scan, stage, place_um, where)
    return {"stage": scan, "n_lead": scan.n_lead}
