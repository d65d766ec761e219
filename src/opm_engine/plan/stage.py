"""The scanning stage: how fast, from where to where, and whether it may.

Separate because the engine asks again when the camera's period and the controller's
speed have been measured. Pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from opm_engine.geometry import EPSILON
from opm_engine.plan.parts import StageScan
from opm_engine.plan.settings import PlanError

if TYPE_CHECKING:
    from opm_engine.config import ScanStage
    from opm_engine.plan.parts import CameraTiming

SPEED_TOLERANCE = 0.1
"""Part of the planned speed by which a controller may round it."""


def plan_stage(
    timing: CameraTiming,
    start_um: float,
    step_um: float,
    n_frames: int,
    frames_per_plane: int,
    ramp_ms: float,
    n_lead: int | None = None,
) -> StageScan:
    """Path of one volume.

    The camera starts with the stage's pulse; its first window opens a readout later.
    Plane 0 is where the stage is in the middle of the first lit window, at speed.

    Parameters
    ----------
    timing : CameraTiming
    start_um, step_um : float
        Of the planes, relative to the stage position; the step is signed.
    n_frames : int
        Lit frames.
    frames_per_plane : int
        Interleaved channels.
    ramp_ms : float
        From rest to constant speed.
    n_lead : int, optional
        Excess start planes; by default those of the ramp.
    """
    period_ms = timing.period_ms
    speed_um_per_ms = abs(step_um) / (frames_per_plane * period_ms)
    if n_lead is None:
        n_lead = math.ceil(ramp_ms / period_ms - EPSILON)
    first_ms = n_lead * period_ms + timing.readout_ms + timing.window_ms / 2
    # one frame to spare, for the camera's delay; the ramp down begins after it
    last_ms = (n_lead + n_frames + 1) * period_ms + timing.readout_ms
    direction: int = 1 if step_um > 0 else -1
    # half of the ramp's time is lost
    begin_um = start_um - direction * speed_um_per_ms * (first_ms - ramp_ms / 2)
    return StageScan(
        speed_um_per_s=speed_um_per_ms * 1000,
        start_um=begin_um,
        stop_um=begin_um + direction * speed_um_per_ms * last_ms,
        n_lead=n_lead,
        direction=1 if direction > 0 else -1,
        ramp_ms=ramp_ms,
    )


def refuse_speed(scan: StageScan, stage: ScanStage, timing: CameraTiming) -> None:
    """Refuse a scan that is too fast for the stage."""
    fastest = stage.max_speed_um_per_s
    if scan.speed_um_per_s > fastest * (1 + EPSILON):
        slower_ms = timing.exposure_ms * scan.speed_um_per_s / fastest
        msg = (
            f"z_plan: the stage would have to move at {scan.speed_um_per_s:.4g} µm/s, "
            f"faster than scan_stage.max_speed_um_per_s = {fastest:g}; use a smaller "
            f"step, or an exposure of {math.ceil(slower_ms * 10) / 10:g} ms or more"
        )
        raise PlanError(msg)


def refuse_travel(
    scan: StageScan, stage: ScanStage, position_um: float, where: str
) -> None:
    """Refuse a scan that leaves the stage's range.

    Parameters
    ----------
    scan : StageScan
    stage : ScanStage
    position_um : float
        Of the stage, along the scan's axis.
    where : str
        Whose position it is, like ``stage_positions[1].y``.

    Raises
    ------
    PlanError
        Says from where to where a position may lie.
    """
    low, high = stage.range_um
    first_um, last_um = sorted((scan.start_um, scan.stop_um))
    if low <= position_um + first_um + EPSILON and position_um + last_um - EPSILON <= (
        high
    ):
        return
    if last_um - first_um > high - low:
        remedy = "the scan is longer than that; use a shorter range"
    else:
        remedy = f"positions from {low - first_um:.6g} to {high - last_um:.6g} µm can"
    msg = (
        f"{where} = {position_um:g} µm: the scan moves the stage from "
        f"{position_um + scan.start_um:.6g} to {position_um + scan.stop_um:.6g} µm, "
        f"outside scan_stage.range_um = [{low:g}, {high:g}]; {remedy}"
    )
    raise PlanError(msg)


def step_of(
    planned: StageScan, step_um: float, period_ratio: float, speed_um_per_s: float
) -> float:
    """Step, in µm and signed, that a measured period and speed make.

    Parameters
    ----------
    planned : StageScan
    step_um : float
        As planned.
    period_ratio : float
        Measured over planned period.
    speed_um_per_s : float
        That the controller took.

    Raises
    ------
    PlanError
        If the speed is not nearly the planned one.
    """
    ratio = speed_um_per_s / planned.speed_um_per_s
    if not abs(ratio - 1) <= SPEED_TOLERANCE:
        msg = (
            f"scan_stage: asked for {planned.speed_um_per_s:.4g} µm/s, the controller "
            f"took {speed_um_per_s:.4g}; use a step or exposure that it can round to"
        )
        raise PlanError(msg)
    return step_um * ratio * period_ratio
