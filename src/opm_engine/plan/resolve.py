"""`plan_scan`: sequence and microscope in, frozen plan or refusal out.

The one place where a sequence is judged. Pure; named steps, each of which refuses
what it can see. Knows no device: everything it says follows from its two arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from opm_engine.plan.axes import plan_axes, plan_interval_s, plan_sizes
from opm_engine.plan.channels import plan_channels, refuse_unequal_interleaved
from opm_engine.plan.foreign import positions_of
from opm_engine.plan.model import Axis, PlannedChannel, ScanPlan
from opm_engine.plan.regular import refuse_irregular
from opm_engine.plan.scan import (
    flyback_frames,
    plan_geometry,
    plan_offsets,
    refuse_unsettled,
    refuse_volts,
)
from opm_engine.plan.settings import PlanError, ScanSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    settings = ScanSettings.of(sequence)
    refuse_irregular(sequence)
    mode = _mode(settings, sequence)
    sizes = plan_sizes(sequence)
    channels = plan_channels(sequence, microscope)
    axes = plan_axes(sequence, sizes)
    interval_s = plan_interval_s(sequence)
    start_um, step_um, n_planes = plan_offsets(sequence, mode)
    positions = positions_of(sequence)
    refuse_unequal_interleaved(axes, channels)
    _refuse_unblanked(settings, channels)
    refuse_volts(microscope, start_um, start_um + step_um * (n_planes - 1))
    refuse_unsettled(microscope, channels, step_um)
    n_flyback = flyback_frames(microscope, channels, step_um * (n_planes - 1))
    plan = ScanPlan(
        mode=mode,
        blanking=settings.blanking,
        laser_power=_laser_power(settings, microscope),
        axes=axes,
        burst_axes=_burst_axes(axes, channels, interval_s),
        channels=channels,
        positions=positions,
        n_times=sizes["t"] or 1,
        interval_s=interval_s,
        start_um=start_um,
        step_um=step_um,
        n_flyback=n_flyback,
        geometry=plan_geometry(microscope, start_um, step_um, n_planes),
    )
    return plan.model_copy(update={"warnings": tuple(_warnings(plan))})


def _mode(
    settings: ScanSettings, sequence: useq.MDASequence
) -> Literal["galvo", "single"]:
    if settings.mode not in ("galvo", "single"):
        msg = f'mode = "{settings.mode}" cannot be planned; "galvo" and "single" can'
        raise PlanError(msg)
    if settings.mode == "galvo" and not sequence.z_plan:
        msg = 'z_plan: mode "galvo" needs a scan, like {"range": 60, "step": 0.4}'
        raise PlanError(msg)
    if settings.mode == "single" and sequence.z_plan:
        msg = 'z_plan: mode "single" takes one plane; leave the z_plan out'
        raise PlanError(msg)
    return settings.mode


def _burst_axes(
    axes: tuple[Axis, ...], channels: tuple[PlannedChannel, ...], interval_s: float
) -> tuple[Axis, ...]:
    """The inner axes that one camera sequence covers.

    Interleaved channels share it. Channels one after the other have one each, so that
    presets may differ, unless gapless time points leave no room between them; then
    nothing but the laser may change.
    """
    gapless = axes[:-2][-1:] == ("t",) and interval_s == 0
    alike = len({(c.timing.exposure_ms, c.z_offset_um) for c in channels}) == 1
    if gapless and alike:
        return axes[-3:]
    if axes[-1] == "z" and len(channels) > 1:
        return ("z",)
    return axes[-2:]


def _laser_power(settings: ScanSettings, microscope: Microscope) -> dict[str, float]:
    settable = [laser.name for laser in microscope.lasers if laser.power_property]
    for name in settings.laser_power:
        if name not in settable:
            known = ", ".join(settable) or "none of this microscope's"
            msg = f'laser_power["{name}"]: lasers with a power_property: {known}'
            raise PlanError(msg)
    return dict(settings.laser_power)


def _refuse_unblanked(
    settings: ScanSettings, channels: tuple[PlannedChannel, ...]
) -> None:
    if not settings.blanking and len(channels) > 1:
        msg = (
            "blanking: lasers of several channels must be blanked during readout, "
            "else each lights the other's rows; leave blanking on"
        )
        raise PlanError(msg)


def _warnings(plan: ScanPlan) -> Iterator[str]:
    """What works, but not as the user may think."""
    if not plan.blanking:
        yield "blanking is off: light during readout smears neighbouring planes"
    one_time_s = plan.duration_s / plan.n_times
    if 0 < plan.interval_s < one_time_s and plan.n_times > 1:
        yield (
            f"time_plan: a time point takes {one_time_s:.3g} s or more, longer than "
            f"the interval of {plan.interval_s:g} s; they will follow late"
        )
