"""What camera and stage really do, asked of them in the dark before a run.

Separate from the pure plan, which takes the answers, and from ``instrument``, which
only sets things. A stage's speed must follow the camera's measured frame period.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from opm_engine import scan_stage
from opm_engine.properties import InstrumentError

if TYPE_CHECKING:
    from pymmcore_plus import CMMCorePlus

    from opm_engine.config import Microscope
    from opm_engine.daq.measuring import ExposureTimes
    from opm_engine.daq.protocol import Daq
    from opm_engine.plan import ScanPlan

N_EXPOSURES = 10
POLL_S = 0.005
SLACK = 3.0
"""A camera is given so many times as long as its exposures should take."""


def measure_exposures(
    core: CMMCorePlus, daq: Daq, exposure_ms: float, n_exposures: int = N_EXPOSURES
) -> ExposureTimes:
    """Let the camera run free with all lasers dark and time its exposure-out.

    Parameters
    ----------
    core : CMMCorePlus
        With region and trigger as for a run.
    daq : Daq
    exposure_ms : float
        Set on the camera.
    n_exposures : int

    Raises
    ------
    InstrumentError
        If fewer edges come than exposures were asked for.
    DaqError
        If the board cannot time them.
    """
    core.setExposure(exposure_ms)
    latest_s = time.monotonic() + 1 + SLACK * n_exposures * exposure_ms / 1000
    with daq.measure_exposures(n_exposures) as meter:
        core.startSequenceAcquisition(n_exposures, 0, True)
        try:
            while len((times := meter.read()).period_ms) < n_exposures - 1:
                if time.monotonic() > latest_s:
                    msg = (
                        f"the camera was asked for {n_exposures} exposures, but "
                        f"{len(times.active_ms)} came at camera.exposure_out.terminal"
                    )
                    raise InstrumentError(msg)
                time.sleep(POLL_S)
        finally:
            core.stopSequenceAcquisition()
    return times


def measured(
    core: CMMCorePlus, daq: Daq, microscope: Microscope, plan: ScanPlan
) -> ScanPlan:
    """Return a stage scan's plan with the measured frame period and speed.

    Other plans need neither: each frame's edges play its samples.

    Raises
    ------
    PlanError
        If what was measured does not fit the plan.
    """
    stage = microscope.scan_stage
    if plan.stage is None or stage is None:
        return plan
    times = measure_exposures(core, daq, plan.channels[0].timing.exposure_ms)
    period_ms = float(np.median(times.period_ms))
    plan = plan.measured(period_ms=period_ms)
    assert plan.stage is not None
    wanted = abs(plan.stage.speed_um_per_s)
    before = scan_stage.remember(core, stage)
    taken = scan_stage.take_speed(core, stage, wanted)
    scan_stage.restore(core, before)
    return plan.measured(period_ms=period_ms, stage_speed_um_per_s=taken)
