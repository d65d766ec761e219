"""Samples per frame and light of each channel, for what a scan asks of them.

Separate from ``sampling``, which knows one channel, because it looks at settings and
mode. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opm_engine.plan.projection import gather_margin_ms
from opm_engine.plan.sample_clock import (
    MAX_PERIOD_SAMPLES,
    PULSE_RESOLUTION,
    RAMP_RESOLUTION,
    READOUT_RESOLUTION,
    SWEEP_RESOLUTION,
    clocked,
    lit,
)
from opm_engine.plan.settings import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opm_engine.config import Microscope
    from opm_engine.plan.model import ScanPlan
    from opm_engine.plan.parts import PlannedChannel
    from opm_engine.plan.settings import ScanSettings


def plan_light(
    channels: tuple[PlannedChannel, ...],
    settings: ScanSettings,
    pulse_ms: Mapping[str, float],
    microscope: Microscope,
) -> tuple[PlannedChannel, ...]:
    """Give channels the samples that ramp, sweep or pulses need; else two per frame.

    Channels of equal exposure get equal samples: they share one camera sequence.
    """
    pulsed = any(channel.name in pulse_ms for channel in channels)
    if not (pulsed or settings.motion == "ramp" or settings.mode == "projection"):
        return channels
    line_ms = microscope.camera.line_time_us / 1000
    planned = []
    for channel in channels:
        timing = channel.timing
        wanted_ms = [timing.period_ms / RAMP_RESOLUTION]
        if pulsed:
            wanted_ms.append(timing.window_ms / PULSE_RESOLUTION)
        if settings.mode == "projection":
            wanted_ms.append(timing.window_ms / SWEEP_RESOLUTION)
            wanted_ms.append(timing.readout_ms / READOUT_RESOLUTION)
        where = f'channels["{channel.name}"]'
        sampling = clocked(timing, min(wanted_ms), line_ms, where)
        channel = channel.model_copy(update={"sampling": sampling})
        margin_ms = 0.0
        if settings.mode == "projection" and settings.range_um is not None:
            margin_ms = gather_margin_ms(channel, microscope, settings.range_um)
        planned.append(lit(channel, pulse_ms, margin_ms))
    return tuple(planned)


def refuse_long_arrays(plan: ScanPlan) -> None:
    """Refuse volumes of more samples than should be held in memory."""
    burst = next(plan.bursts())
    per_frame = max(c.sampling.samples_per_frame for c in plan.channels)
    n_samples = burst.frames_per_run * per_frame
    if n_samples > MAX_PERIOD_SAMPLES:
        msg = (
            f"z_plan: {burst.n_lit} frames of {per_frame} samples each make "
            f"{n_samples} samples, {MAX_PERIOD_SAMPLES} at most; use a larger step, or "
            'motion "stepped" without pulse_ms'
        )
        raise PlanError(msg)
