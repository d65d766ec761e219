"""`opm-engine check`: everything programmed and verified, with all lines dark.

Separate from the engine because it reports instead of acquiring. With ``run_camera`` it
lets the camera run free, still in the dark, and compares its timing with the plan.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import useq

from opm_engine import instrument
from opm_engine.daq.waveforms import burst_waveform, darkened
from opm_engine.measured import measure_exposures
from opm_engine.plan import plan_scan

if TYPE_CHECKING:
    from opm_engine.config import Microscope
    from opm_engine.plan import ScanPlan
    from opm_engine.session import Scope

RANGE_UM, STEP_UM = 40.0, 0.4
EXPOSURE_READOUTS = 2
TIMING_TOLERANCE = 0.01
"""Part of a frame period by which measured and planned times may differ."""


def typical_sequence(microscope: Microscope) -> useq.MDASequence:
    """All lasers interleaved, over as much of 40 µm as the galvo reaches."""
    camera, galvo = microscope.camera, microscope.daq.galvo
    readout_ms = camera.roi[3] * camera.line_time_us / 1000
    exposure_ms = math.ceil(EXPOSURE_READOUTS * readout_ms * 10) / 10
    reach_um = 2 * min(
        abs((volts - galvo.offset_v) / galvo.volts_per_um) for volts in galvo.range_v
    )
    channels = [
        {"config": name, "group": microscope.channel_group, "exposure": exposure_ms}
        for name in microscope.laser_names
    ]
    powers = {laser.name: 100.0 for laser in microscope.lasers if laser.power_output}
    return useq.MDASequence(
        channels=channels,
        z_plan={"range": min(RANGE_UM, 0.9 * reach_um), "step": STEP_UM},
        axis_order="tpzc",
        metadata={"opm_engine": {"laser_power": powers}},
    )


def check(
    scope: Scope, sequence: useq.MDASequence | None = None, *, run_camera: bool = False
) -> dict[str, Any]:
    """Plan, program and verify without light.

    Parameters
    ----------
    scope : Scope
    sequence : useq.MDASequence, optional
        What to check for; by default all lasers over 40 µm.
    run_camera : bool
        Time the free-running camera's exposure-out too.

    Returns
    -------
    dict
        JSON. ``volume_rate_hz``, ``light_duty`` by channel (of the volume's time),
        ``galvo_margin_ms`` (left of the readout after a step and settling), ``board``,
        and with ``run_camera`` ``exposure_out`` with measured and planned times.

    Raises
    ------
    PlanError, DaqError, InstrumentError
        What is wrong, in words.
    """
    microscope, engine = scope.microscope, scope.engine
    engine.turn.refuse_second()
    sequence = sequence or typical_sequence(microscope)
    plan = plan_scan(sequence, microscope)
    instrument.prepare_camera(scope.core, microscope)
    instrument.prepare_exposure(scope.core, microscope, plan.channels[0])
    burst = next(plan.bursts())
    waveform = burst_waveform(plan, burst, microscope)
    try:
        scope.daq.arm(darkened(waveform, microscope))
    finally:
        engine.make_dark()
    report = {
        "board": scope.daq.capabilities.product,
        "channels": [channel.name for channel in plan.channels],
        "n_planes": plan.geometry.n_planes,
        "samples_per_frame": waveform.samples_per_frame,
        "frame_rate_hz": round(1000 / plan.channels[0].timing.period_ms, 3),
        **timing_report(plan, microscope),
        "programmed": True,
        "warnings": list(plan.warnings),
    }
    if run_camera:
        report["exposure_out"] = _exposure_out(scope, plan)
    return report


def timing_report(plan: ScanPlan, microscope: Microscope) -> dict[str, Any]:
    """Volume rate, light duty and galvo margin of a plan; pure."""
    burst = next(plan.bursts())
    channels = plan.channels_of(burst)
    period_ms = sum(c.timing.period_ms for c in channels) / len(channels)
    n_frames = burst.n_lead + burst.n_lit + plan.n_flyback
    bursts_per_volume = 1 if "c" in plan.burst_axes else len(plan.channels)
    volume_ms = n_frames * period_ms * bursts_per_volume
    galvo = microscope.daq.galvo
    step_ms = galvo.move_ms(abs(plan.step_um * galvo.volts_per_um)) + galvo.settle_ms
    return {
        "volume_rate_hz": round(1000 / volume_ms, 4),
        "light_duty": {
            channel.name: round(
                channel.light_ms * plan.geometry.n_planes / volume_ms, 4
            )
            for channel in plan.channels
        },
        "galvo_margin_ms": round(
            min(channel.timing.readout_ms for channel in channels) - step_ms, 4
        ),
    }


def _exposure_out(scope: Scope, plan: ScanPlan) -> dict[str, Any]:
    """Measured times beside those of the plan, and what does not agree."""
    timing = plan.channels[0].timing
    camera = scope.microscope.camera
    times = measure_exposures(scope.core, scope.daq, timing.exposure_ms)
    line_ms = camera.line_time_us / 1000
    planned_ms = {
        "active": timing.window_ms + line_ms,
        "period": timing.period_ms,
    }
    measured_ms = {
        "active": float(np.median(times.active_ms)),
        "period": float(np.median(times.period_ms)),
    }
    allowed_ms = max(TIMING_TOLERANCE * timing.period_ms, 2 * line_ms)
    wrong = [
        f"camera.exposure_out: {what} for {measured_ms[what]:.4f} ms, planned were "
        f"{planned_ms[what]:.4f} ms; check line_time_us, kind and polarity"
        for what in planned_ms
        if abs(measured_ms[what] - planned_ms[what]) > allowed_ms
    ]
    return {
        "high_ms": round(float(np.median(times.high_ms)), 4),
        "low_ms": round(float(np.median(times.low_ms)), 4),
        "active_ms": round(measured_ms["active"], 4),
        "period_ms": round(measured_ms["period"], 4),
        "jitter_ms": round(float(np.ptp(times.period_ms)), 4),
        "planned_active_ms": round(planned_ms["active"], 4),
        "planned_period_ms": round(planned_ms["period"], 4),
        "wrong": wrong,
    }
