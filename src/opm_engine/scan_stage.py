"""The scanning stage, through its controller's properties.

Separate from ``instrument`` because it moves during a burst and must be halted when
anything goes wrong. The path comes from the plan; this sends it to the controller, in
the controller's units, and reads back what it took.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

from opm_engine.plan.stage import refuse_travel
from opm_engine.properties import InstrumentError

if TYPE_CHECKING:
    from pymmcore_plus import CMMCorePlus

    from opm_engine.config import ScanStage
    from opm_engine.plan import StageScan

UM_PER_MM = 1000.0
POSITION_TOLERANCE_UM = 0.05
"""By which a controller may round a position: well below any step."""


Setting = Literal[
    "speed_mm_s",
    "start_mm",
    "stop_mm",
    "settling_ms",
    "state",
    "lower_limit_mm",
    "upper_limit_mm",
]
RESTORED: tuple[Setting, ...] = ("speed_mm_s", "lower_limit_mm", "upper_limit_mm")
"""What plain moves need as it was."""


def name_of(stage: ScanStage, what: Setting) -> tuple[str, str]:
    """Return the (device, property) that holds a setting of the controller."""
    name: str = getattr(stage.properties, what)
    return stage.label, name.format(axis=stage.axis.upper())


def remember(core: CMMCorePlus, stage: ScanStage) -> dict[tuple[str, str], str]:
    """Read what scans change and plain moves need."""
    properties = [name_of(stage, what) for what in RESTORED]
    return {where: core.getProperty(*where) for where in properties}


def take_speed(core: CMMCorePlus, stage: ScanStage, speed_um_per_s: float) -> float:
    """Set the speed of the scan; return what the controller made of it, in µm/s."""
    where = name_of(stage, "speed_mm_s")
    core.setProperty(*where, speed_um_per_s / UM_PER_MM)
    return float(core.getProperty(*where)) * UM_PER_MM


def restore(core: CMMCorePlus, before: dict[tuple[str, str], str]) -> None:
    """Set back what `remember` has read."""
    for where, value in before.items():
        core.setProperty(*where, value)


def refuse_beyond(stage: ScanStage | None, x_um: float, y_um: float) -> None:
    """Refuse a place beyond the range of the scanning stage, before it moves.

    Raises
    ------
    InstrumentError
        Says where it may go.
    """
    if stage is None:
        return
    low, high = stage.range_um
    position_um = y_um if stage.axis == "y" else x_um
    if not low <= position_um <= high:
        msg = (
            f"{stage.label}'s {stage.axis} = {position_um:g} µm lies outside "
            f"scan_stage.range_um = [{low:g}, {high:g}]"
        )
        raise InstrumentError(msg)


def prepare_scan(core: CMMCorePlus, stage: ScanStage, scan: StageScan) -> None:
    """Bring the stage to where a scan starts and tell its controller the rest.

    The scan is relative to where the stage stands now. The controller's own limits
    stop it soon after the scan's end, whatever becomes of this process.

    Parameters
    ----------
    core : CMMCorePlus
    stage : ScanStage
    scan : StageScan

    Raises
    ------
    InstrumentError
        If the controller does not take a setting.
    PlanError
        If the scan leaves the stage's range.
    """
    x_um, y_um = core.getXYPosition(stage.label)
    position_um = y_um if stage.axis == "y" else x_um
    refuse_travel(scan, stage, position_um, f"{stage.label}'s {stage.axis}")
    start_um, stop_um = position_um + scan.start_um, position_um + scan.stop_um
    target = (x_um, start_um) if stage.axis == "y" else (start_um, y_um)
    core.setXYPosition(stage.label, *target)
    core.waitForDevice(stage.label)
    low_um, high_um = sorted((start_um, stop_um))
    settings: dict[Setting, float] = {
        "lower_limit_mm": max(low_um - stage.margin_um, stage.range_um[0]),
        "upper_limit_mm": min(high_um + stage.margin_um, stage.range_um[1]),
        "start_mm": start_um,
        "stop_mm": stop_um,
    }
    for what, value_um in settings.items():
        where = name_of(stage, what)
        core.setProperty(*where, value_um / UM_PER_MM)
        taken_um = float(core.getProperty(*where)) * UM_PER_MM
        if abs(taken_um - value_um) > POSITION_TOLERANCE_UM:
            msg = f"scan_stage: {where[1]} = {value_um:.4f} µm, took {taken_um:.4f} µm"
            raise InstrumentError(msg)
    taken = take_speed(core, stage, scan.speed_um_per_s)
    if abs(taken / scan.speed_um_per_s - 1) > 1e-3:
        msg = (
            f"scan_stage: asked for {scan.speed_um_per_s:.6g} µm/s, the controller "
            f"took {taken:.6g}"
        )
        raise InstrumentError(msg)


def start_scan(core: CMMCorePlus, stage: ScanStage) -> None:
    """Let it go; its pulse starts the camera."""
    core.setProperty(*name_of(stage, "state"), stage.properties.running)


def halt(core: CMMCorePlus, stage: ScanStage) -> None:
    """Stop it at once, whatever it does. May be called twice."""
    state = name_of(stage, "state")
    with ExitStack() as backwards:
        backwards.callback(core.stop, stage.label)
        if core.getProperty(*state) == stage.properties.running:
            backwards.callback(core.setProperty, *state, stage.properties.idle)
