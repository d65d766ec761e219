"""What camera and stage really do, asked of them in the dark before a run.

Separate from the pure plan, which takes the answers, and from ``instrument``, which
only sets things. A stage's speed must follow the camera's measured frame period.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from opm_engine import instrument, scan_stage
from opm_engine.properties import InstrumentError

if TYPE_CHECKING:
    from pymmcore_plus import CMMCorePlus

    from opm_engine.config import Microscope, ScanStage
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
                        f"{len(times.active_ms)} came at camera.exposure_out.terminal; "
                        "check its cable, and camera.exposure_out.kind"
                    )
                    raise InstrumentError(msg)
                time.sleep(POLL_S)
        finally:
            core.stopSequenceAcquisition()
    return times


class Measurements:
    """What has been measured for the plans of one run, each thing once.

    Parameters
    ----------
    core : CMMCorePlus
    daq : Daq
    microscope : Microscope
    """

    def __init__(self, core: CMMCorePlus, daq: Daq, microscope: Microscope) -> None:
        self._core = core
        self._daq = daq
        self._microscope = microscope
        self._stage = microscope.scan_stage
        self._periods_ms: dict[float, float] = {}
        self._speeds_um_per_s: dict[float, float] = {}

    def refine(self, plan: ScanPlan) -> ScanPlan:
        """Return a stage scan's plan with the measured frame period and speed.

        Other plans need neither: each frame's edges play its samples. A plan that was
        refined already comes back as it is.

        Raises
        ------
        ConfigError, InstrumentError
            If the camera knows no way to wait for the stage.
        PlanError
            If what was measured does not fit the plan.
        """
        if plan.stage is None or self._stage is None:
            return plan
        exposure_ms = plan.channels[0].timing.exposure_ms
        if exposure_ms not in self._periods_ms:
            self._periods_ms[exposure_ms] = self._period_ms(exposure_ms)
        plan = plan.measured(period_ms=self._periods_ms[exposure_ms])
        assert plan.stage is not None
        return plan.measured(
            period_ms=self._periods_ms[exposure_ms],
            stage_speed_um_per_s=self._taken(plan.stage.speed_um_per_s, self._stage),
        )

    def _period_ms(self, exposure_ms: float) -> float:
        core = self._core
        instrument.refuse_unknown(core, self._microscope, start_triggered=True)
        instrument.prepare_camera(core, self._microscope)  # free-running
        times = measure_exposures(core, self._daq, exposure_ms)
        return float(np.median(times.period_ms))

    def _taken(self, wanted_um_per_s: float, stage: ScanStage) -> float:
        if wanted_um_per_s not in self._speeds_um_per_s:
            before = scan_stage.remember(self._core, stage)
            taken = scan_stage.take_speed(self._core, stage, wanted_um_per_s)
            scan_stage.restore(self._core, before)
            self._speeds_um_per_s[wanted_um_per_s] = taken
            self._speeds_um_per_s[taken] = taken
        return self._speeds_um_per_s[wanted_um_per_s]
