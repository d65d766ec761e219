"""Channels of a scan: which laser, which exposure, and the camera's timing.

Separate from ``resolve`` because it is all about the camera and the lasers. Pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from opm_engine.plan.model import Axis, CameraTiming, PlannedChannel
from opm_engine.plan.settings import PlanError

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
    return PlannedChannel(
        name=channel.config,
        group=channel.group,
        line=laser.line,
        colour=laser.colour,
        timing=_timing(channel.exposure, microscope, where),
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
    for what in ("exposure", "z_offset"):
        values = {
            channel.timing.exposure_ms if what == "exposure" else channel.z_offset_um
            for channel in channels
        }
        if len(values) > 1:
            listed = ", ".join(f"{value:g}" for value in sorted(values))
            msg = (
                f"channels: interleaved channels must share one {what}, not {listed}; "
                f'give them the same, or acquire one after the other: axis_order="tpcz"'
            )
            raise PlanError(msg)
