"""The scan: offsets of the planes, volts that reach them, time to get there.

Separate from ``resolve`` because it is all about the galvo and the geometry. Pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.geometry import EPSILON, Geometry
from opm_engine.plan.motion import reach_v
from opm_engine.plan.settings import PlanError

if TYPE_CHECKING:
    import useq

    from opm_engine.config import Microscope
    from opm_engine.plan.parts import PlannedChannel


def plan_offsets(
    sequence: useq.MDASequence, rest_um: float
) -> tuple[float, float, int]:
    """Start and signed step of the scan in µm, and the number of planes.

    Without a z plan there is one, at ``rest_um``.
    """
    if sequence.z_plan is None:
        return rest_um, 0.0, 1
    if not sequence.z_plan.is_relative:
        msg = (
            f"z_plan: {type(sequence.z_plan).__name__} has absolute positions, which "
            'would ignore position.z; use "range" and "step", like '
            '{"range": 60, "step": 0.4}'
        )
        raise PlanError(msg)
    offsets_um = np.asarray(list(sequence.z_plan), dtype=float)
    if offsets_um.size < 2:
        msg = (
            'z_plan: a scan has at least two planes, so "range" must be at least '
            '"step"; leave z_plan out for a single plane'
        )
        raise PlanError(msg)
    steps_um = np.diff(offsets_um)
    step_um = float(steps_um.mean())
    if abs(step_um) < EPSILON or np.ptp(steps_um) > 1e-6:
        msg = 'z_plan: planes must be evenly spaced; use "range" and "step"'
        raise PlanError(msg)
    return float(offsets_um[0]), round(step_um, 9), int(offsets_um.size)


def refuse_volts(
    microscope: Microscope, offsets_um: tuple[float, ...], field: str
) -> None:
    """Refuse offsets beyond the galvo driver's range; ``field`` asked for them."""
    galvo = microscope.daq.galvo
    low, high = galvo.range_v
    for offset_um in offsets_um:
        volts = galvo.volts_at(offset_um)
        if not low - EPSILON <= volts <= high + EPSILON:
            reach = [(v - galvo.offset_v) / galvo.volts_per_um for v in (low, high)]
            msg = (
                f"{field}: scan offset {offset_um:g} µm needs {volts:g} V, outside "
                f"daq.galvo.range_v = [{low:g}, {high:g}] V; offsets from "
                f"{min(reach):g} to {max(reach):g} µm can be reached"
            )
            raise PlanError(msg)


def refuse_unsettled(
    microscope: Microscope, channels: tuple[PlannedChannel, ...], step_um: float
) -> None:
    """The galvo has the readout, in which lasers are off, to reach the next plane."""
    galvo = microscope.daq.galvo
    if not step_um:
        return
    move_ms = galvo.move_ms(step_um * galvo.volts_per_um) + galvo.settle_ms
    for channel in channels:
        if move_ms > channel.timing.readout_ms:
            rows = math.ceil(move_ms * 1000 / microscope.camera.line_time_us)
            msg = (
                f"z_plan: a step of {abs(step_um):g} µm takes the galvo {move_ms:.3f} "
                f"ms to reach and settle, longer than the readout of "
                f"{channel.timing.readout_ms:.3f} ms in which the lasers are off; "
                f"use a smaller step, or {rows} rows or more in camera.roi"
            )
            raise PlanError(msg)


def flyback_frames(
    microscope: Microscope, channels: tuple[PlannedChannel, ...], range_um: float
) -> int:
    """Dark frames that a stepping galvo needs to return and settle.

    With two samples per frame it returns in equal steps, one per camera edge: each a
    move from rest to rest that is done before the next edge; the last frame is for
    settling too.
    """
    galvo = microscope.daq.galvo
    if not range_um:
        return 0
    range_v = abs(range_um * galvo.volts_per_um)
    n_frames = 1
    for channel in channels:
        timing = channel.timing
        needed_ms = galvo.move_ms(range_v) + galvo.settle_ms
        if channel.sampling.samples_per_frame == 2:
            step_v = reach_v(galvo, min(timing.window_ms, timing.readout_ms))
            n_frames = max(n_frames, math.ceil(range_v / (2 * step_v) - EPSILON))
        else:
            needed_ms += hold_ms(channel)
        n_frames = max(n_frames, math.ceil(needed_ms / timing.period_ms - EPSILON))
    return n_frames


def hold_ms(channel: PlannedChannel) -> float:
    """Time from the last sample of a frame to the next frame."""
    sampling = channel.sampling
    last_ms = (sampling.samples_per_frame - 1) * sampling.sample_ms
    return channel.timing.period_ms - last_ms


def plan_geometry(
    microscope: Microscope,
    mode: str,
    offsets_um: tuple[float, float, int],
    rest_um: float,
) -> Geometry:
    """Geometry of the stack, signs of scan and camera resolved.

    Parameters
    ----------
    microscope : Microscope
    mode : str
    offsets_um : (start, step, number of planes)
        Of the galvo or, in mode ``stage``, of the stage.
    rest_um : float
        Scan offset of the galvo in mode ``stage``.
    """
    described, stage = microscope.geometry, microscope.scan_stage
    start_um, step_um, n_planes = offsets_um
    _, _, n_columns, n_rows = microscope.camera.roi
    sign, shift_um = described.scan_sign, 0.0
    if mode == "stage" and stage is not None:
        sign, shift_um = stage.scan_sign, described.scan_sign * rest_um
    ends_um = [
        shift_um + sign * (start_um + plane * step_um) for plane in (0, n_planes - 1)
    ]
    return Geometry(
        angle_deg=described.angle_deg,
        step_um=abs(step_um) or described.pixel_size_um,
        pixel_size_um=described.pixel_size_um,
        n_planes=n_planes,
        n_rows=n_rows,
        n_columns=n_columns,
        scan_direction=1 if ends_um[1] >= ends_um[0] else -1,
        flip_rows=described.flip_rows,
        flip_columns=described.flip_columns,
        origin_um=min(ends_um),
    )
