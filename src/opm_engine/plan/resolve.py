"""`plan_scan`: sequence and microscope in, frozen plan or refusal out.

The one place where a sequence is judged. Pure; named steps, each of which refuses
what it can see. Knows no device: everything it says follows from its two arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

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
    channels = plan_channels(sequence, microscope)
    axes = _axes(sequence)
    start_um, step_um, n_planes = plan_offsets(sequence, mode)
    n_times, interval_s = _times(sequence)
    positions = positions_of(sequence)
    refuse_unequal_interleaved(axes, channels)
    refuse_volts(microscope, start_um, start_um + step_um * (n_planes - 1))
    refuse_unsettled(microscope, channels, step_um)
    n_flyback = flyback_frames(microscope, channels, step_um * (n_planes - 1))
    return ScanPlan(
        mode=mode,
        blanking=settings.blanking,
        laser_power=_laser_power(settings, microscope),
        axes=axes,
        burst_axes=_burst_axes(axes, channels, interval_s),
        channels=channels,
        positions=positions,
        n_times=n_times,
        interval_s=interval_s,
        start_um=start_um,
        step_um=step_um,
        n_flyback=n_flyback,
        geometry=plan_geometry(microscope, start_um, step_um, n_planes),
        warnings=_warnings(settings, channels),
    )


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


def _axes(sequence: useq.MDASequence) -> tuple[Axis, ...]:
    """Used axes, with c and z last; a single channel's place does not matter."""
    sizes = sequence.sizes
    order: list[str] = [str(axis) for axis in sequence.axis_order]
    used = [axis for axis in order if sizes[axis]]
    if "z" not in used:
        used.insert(used.index("c") + 1, "z")
    if sizes["c"] == 1:
        used.remove("c")
        used.insert(used.index("z"), "c")
    if set(used[-2:]) != {"z", "c"}:
        msg = (
            f'axis_order = "{"".join(order)}": it must end in "zc" (channels '
            'interleaved per plane) or "cz" (one channel after the other), like "tpzc"'
        )
        raise PlanError(msg)
    return tuple(used)  # type: ignore[arg-type]  # refuse_irregular left t, p, c, z


def _times(sequence: useq.MDASequence) -> tuple[int, float]:
    if sequence.time_plan is None:
        return 1, 0.0
    n_times = sequence.sizes["t"]
    interval_s = sequence.time_plan.interval.total_seconds()  # type: ignore[union-attr]  # refuse_irregular let no phases through
    return n_times, interval_s


def _burst_axes(
    axes: tuple[Axis, ...], channels: tuple[PlannedChannel, ...], interval_s: float
) -> tuple[Axis, ...]:
    """The inner axes that one camera sequence covers.

    Channels one after the other share it if nothing but the laser changes; time
    points join if they are gapless and nothing else moves between them.
    """
    alike = len({(c.timing.exposure_ms, c.z_offset_um) for c in channels}) == 1
    if axes[-1] == "z" and not alike:
        return ("z",)
    inner = axes[-2:]
    if axes[:-2][-1:] == ("t",) and interval_s == 0:
        inner = axes[-3:]
    return inner


def _laser_power(settings: ScanSettings, microscope: Microscope) -> dict[str, float]:
    settable = [laser.name for laser in microscope.lasers if laser.power_property]
    for name in settings.laser_power:
        if name not in settable:
            known = ", ".join(settable) or "none of this microscope's"
            msg = f'laser_power["{name}"]: lasers with a power_property: {known}'
            raise PlanError(msg)
    return dict(settings.laser_power)


def _warnings(
    settings: ScanSettings, channels: tuple[PlannedChannel, ...]
) -> tuple[str, ...]:
    if settings.blanking:
        return ()
    if len(channels) > 1:
        msg = (
            "blanking: lasers of several channels must be blanked during readout, "
            "else each lights the other's rows; leave blanking on"
        )
        raise PlanError(msg)
    return ("blanking is off: light during readout smears neighbouring planes",)
