"""`plan_scan`: sequence and microscope in, frozen plan or refusal out.

The one place where a sequence is judged. Pure; named steps, each of which refuses
what it can see. Knows no device: everything it says follows from its two arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opm_engine.plan.advice import warnings_of
from opm_engine.plan.axes import plan_axes, plan_burst_axes, plan_interval_s, plan_sizes
from opm_engine.plan.channels import (
    plan_channels,
    plan_power,
    plan_pulses,
    refuse_unblanked,
    refuse_unequal_interleaved,
)
from opm_engine.plan.foreign import positions_of
from opm_engine.plan.irregular import is_irregular, plan_irregular
from opm_engine.plan.light import plan_light, refuse_long_arrays
from opm_engine.plan.model import ScanPlan
from opm_engine.plan.modes import plan_mode
from opm_engine.plan.movement import plan_movement
from opm_engine.plan.regular import refuse_unplayable
from opm_engine.plan.scan import plan_geometry, plan_offsets
from opm_engine.plan.settings import ScanSettings

if TYPE_CHECKING:
    import useq

    from opm_engine.config import Microscope


def plan_scan(sequence: useq.MDASequence, microscope: Microscope) -> ScanPlan:
    """Plan a scan.

    Parameters
    ----------
    sequence : useq.MDASequence
        The z plan is the scan: relative µm along the coverslip. Settings are in
        ``metadata["opm_engine"]``.
    microscope : Microscope

    Returns
    -------
    ScanPlan

    Raises
    ------
    PlanError
        If this microscope cannot play it; names the field and what would work.
    """
    refuse_unplayable(sequence)
    if is_irregular(sequence):
        return plan_irregular(sequence, microscope, plan_regular)
    return plan_regular(sequence, microscope)


def plan_regular(sequence: useq.MDASequence, microscope: Microscope) -> ScanPlan:
    """Plan a sequence whose events form one regular grid; see `plan_scan`."""
    settings = ScanSettings.of(sequence)
    mode = plan_mode(settings, sequence, microscope)
    sizes = plan_sizes(sequence)
    channels = plan_channels(sequence, microscope)
    axes = plan_axes(sequence, sizes)
    interval_s = plan_interval_s(sequence)
    offsets_um = plan_offsets(sequence, settings.offset_um)
    refuse_unequal_interleaved(axes, channels)
    refuse_unblanked(settings, channels)
    laser_power = plan_power(settings, channels, microscope)
    pulse_ms = plan_pulses(settings, microscope)
    channels = plan_light(channels, settings, pulse_ms, microscope)
    plan = ScanPlan(
        mode=mode,
        motion=settings.motion,
        bidirectional=settings.bidirectional,
        blanking=settings.blanking,
        laser_power=laser_power,
        pulse_ms=pulse_ms,
        axes=axes,
        burst_axes=plan_burst_axes(axes, channels, interval_s, mode, sizes),
        channels=channels,
        positions=positions_of(sequence),
        cameras=microscope.camera.sensors,
        n_times=sizes["t"] or 1,
        interval_s=interval_s,
        start_um=offsets_um[0],
        step_um=offsets_um[1],
        rest_um=settings.offset_um,
        range_um=settings.range_um or 0.0,
        geometry=plan_geometry(microscope, mode, offsets_um, settings.offset_um),
    )
    plan = plan_movement(plan, microscope)
    refuse_long_arrays(plan)
    return plan.model_copy(update={"warnings": tuple(warnings_of(plan))})
