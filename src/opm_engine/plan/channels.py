"""Channels of a scan: which laser, which exposure, how much light, at which power.

Separate from ``resolve`` because it is all about the camera and the lasers. Pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from opm_engine.plan.parts import Axis, CameraTiming, PlannedChannel
from opm_engine.plan.sample_clock import edges_only
from opm_engine.plan.settings import PlanError, ScanSettings

if TYPE_CHECKING:
    import useq

    from opm_engine.config import Laser, Microscope


MAX_EXPOSURE_MS = 600_000


def plan_channels(
    sequence: useq.MDASequence, microscope: Microscope
) -> tuple[PlannedChannel, ...]:
    """Match the sequence's channels with the microscope's lasers."""
    if not sequence.channels:
        names = ", ".join(microscope.laser_names)
        msg = f"channels: which laser? Name at least one of {names}"
        raise PlanError(msg)
    configs = [channel.config for channel in sequence.channels]
    for config in configs:
        if configs.count(config) > 1:
            msg = f'channels: "{config}" is there twice; name each laser once'
            raise PlanError(msg)
    return tuple(_channel(channel, microscope) for channel in sequence.channels)


def _channel(channel: useq.Channel, microscope: Microscope) -> PlannedChannel:
    where = f'channels["{channel.config}"]'
    if channel.group != microscope.channel_group:
        msg = (
            f'{where}.group is "{channel.group}"; this microscope\'s lasers are in '
            f'the group "{microscope.channel_group}"'
        )
        raise PlanError(msg)
    laser = _laser(channel.config, microscope, where)
    if channel.exposure is None or not 0 < channel.exposure <= MAX_EXPOSURE_MS:
        msg = (
            f"{where}.exposure = {channel.exposure}; give it in ms, "
            f"{MAX_EXPOSURE_MS} at most"
        )
        raise PlanError(msg)
    timing = _timing(channel.exposure, microscope, where)
    return PlannedChannel(
        name=channel.config,
        group=channel.group,
        line=laser.line,
        colour=laser.colour,
        timing=timing,
        sampling=edges_only(timing),
        z_offset_um=channel.z_offset,
    )


def _laser(name: str, microscope: Microscope, where: str) -> Laser:
    for laser in microscope.lasers:
        if laser.name == name:
            return laser
    names = ", ".join(microscope.laser_names)
    msg = f"{where}.config: no such laser; this microscope has {names}"
    raise PlanError(msg)


def _timing(exposure_ms: float, microscope: Microscope, where: str) -> CameraTiming:
    camera = microscope.camera
    if camera.exposure_out.kind != "all_rows":
        msg = (
            f'camera.exposure_out.kind = "{camera.exposure_out.kind}" would light '
            "rows of two frames in overlapped readout; set the camera's output, and "
            'this field, to "all_rows"'
        )
        raise PlanError(msg)
    n_rows = camera.roi[3]
    readout_ms = n_rows * camera.line_time_us / 1000
    window_ms = exposure_ms - readout_ms
    if window_ms < camera.line_time_us / 1000:
        msg = (
            f"{where}.exposure = {exposure_ms:g} ms is not longer than the readout of "
            f"{n_rows} rows ({readout_ms:.3f} ms), so no moment remains in which all "
            f"rows expose; use {_round_up(2 * readout_ms)} ms or more, or fewer rows "
            "in camera.roi"
        )
        raise PlanError(msg)
    filter_ms = camera.exposure_out.debounce_us / 1000
    if filter_ms >= min(window_ms, readout_ms) / 2:
        shortest_us = min(window_ms, readout_ms) * 1000
        msg = (
            f"camera.exposure_out.debounce_us = {filter_ms * 1000:g} would eat edges: "
            f"at {where}.exposure = {exposure_ms:g} ms the shortest phase takes "
            f"{shortest_us:.4g} µs; keep the filter under half of it, "
            f"{shortest_us / 2:.4g} µs"
        )
        raise PlanError(msg)
    return CameraTiming(
        exposure_ms=exposure_ms,
        readout_ms=readout_ms,
        period_ms=exposure_ms,
        window_ms=window_ms,
    )


def _round_up(value_ms: float) -> str:
    return f"{math.ceil(value_ms * 10) / 10:g}"


def refuse_unequal_interleaved(
    axes: tuple[Axis, ...], channels: tuple[PlannedChannel, ...]
) -> None:
    """Refuse what would have to change from plane to plane."""
    if axes[-1] != "c":
        return
    offsets_um = {channel.z_offset_um for channel in channels}
    if len(offsets_um) > 1:
        msg = (
            f"channels: interleaved channels must share one z_offset, not "
            f"{_listed(offsets_um)}; give them the same, or acquire one after the "
            'other: axis_order="tpcz"'
        )
        raise PlanError(msg)
    exposures_ms = {channel.timing.exposure_ms for channel in channels}
    if len(exposures_ms) > 1:
        shortest = min(channels, key=lambda channel: channel.timing.exposure_ms)
        pulse_ms = math.floor(shortest.timing.window_ms * 1000) / 1000
        msg = (
            f"channels: interleaved channels must share one exposure, not "
            f"{_listed(exposures_ms)}; either acquire one after the other: "
            f'axis_order="tpcz"; or give all an exposure of {max(exposures_ms):g} ms '
            f'and shorten the light: "pulse_ms": {{"{shortest.name}": {pulse_ms:g}}} '
            "in the settings"
        )
        raise PlanError(msg)


def refuse_unequal_on_stage(channels: tuple[PlannedChannel, ...]) -> None:
    """The stage has one speed, so one step: channels must share their exposure."""
    exposures_ms = {channel.timing.exposure_ms for channel in channels}
    if len(exposures_ms) > 1:
        msg = (
            'channels: in mode "stage" they must share one exposure, not '
            f'{_listed(exposures_ms)}; "pulse_ms" in the settings shortens the light'
        )
        raise PlanError(msg)


def _listed(values: set[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))


def plan_power(
    settings: ScanSettings,
    channels: tuple[PlannedChannel, ...],
    microscope: Microscope,
) -> dict[str, float]:
    """Percent of each laser that the settings name.

    An analog output holds nothing of its own: a laser that has one must be named.
    """
    settable = [
        laser.name
        for laser in microscope.lasers
        if laser.power_property or laser.power_output
    ]
    for name in settings.laser_power:
        if name not in settable:
            known = ", ".join(settable) or "none of this microscope's"
            msg = (
                f'laser_power["{name}"]: lasers with a power_property or a '
                f"power_output: {known}"
            )
            raise PlanError(msg)
    used = {channel.name for channel in channels}
    for laser in microscope.lasers:
        if laser.power_output and laser.name in used - settings.laser_power.keys():
            msg = (
                f'laser_power: "{laser.name}" takes its power from '
                f"{laser.power_output.channel}, so say how much, in percent, like "
                f'"laser_power": {{"{laser.name}": 10.0}}'
            )
            raise PlanError(msg)
    return dict(settings.laser_power)


def plan_pulses(settings: ScanSettings, microscope: Microscope) -> dict[str, float]:
    """Length of pulses in ms, by laser."""
    for name in settings.pulse_ms:
        if name not in microscope.laser_names:
            known = ", ".join(microscope.laser_names)
            msg = f'pulse_ms["{name}"]: no such laser; this microscope has {known}'
            raise PlanError(msg)
    return dict(settings.pulse_ms)


def refuse_unblanked(
    settings: ScanSettings, channels: tuple[PlannedChannel, ...]
) -> None:
    """Refuse light of several channels during readout."""
    if not settings.blanking and len(channels) > 1:
        msg = (
            "blanking: lasers of several channels must be blanked during readout, "
            "else each lights the other's rows; leave blanking on"
        )
        raise PlanError(msg)
