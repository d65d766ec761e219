"""The scan: offsets of the planes, volts that reach them, time to get there.

Separate from ``resolve`` because it is all about the galvo and the geometry. Pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.geometry import EPSILON, Geometry
from opm_engine.plan.settings import PlanError

if TYPE_CHECKING:
    import useq

    from opm_engine.config import Microscope
    from opm_engine.plan.model import PlannedChannel


def plan_offsets(sequence: useq.MDASequence, mode: str) -> tuple[float, float, int]:
    """Start and signed step of the scan in µm, and the number of planes."""
    if mode == "single" or sequence.z_plan is None:
        return 0.0, 0.0, 1
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


def refuse_volts(microscope: Microscope, first_um: float, last_um: float) -> None:
    """Refuse offsets beyond the galvo driver's range."""
    galvo = microscope.daq.galvo
    low, high = galvo.range_v
    for offset_um in (first_um, last_um):
        volts = galvo.volts_at(offset_um)
        if not low - EPSILON <= volts <= high + EPSILON:
            reach = [(v - galvo.offset_v) / galvo.volts_per_um for v in (low, high)]
            msg = (
                f"z_plan: scan offset {offset_um:g} µm needs {volts:g} V, outside "
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
    move_ms = abs(step_um * galvo.volts_per_um) / galvo.slew_v_per_ms + galvo.settle_ms
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
    """Dark frames that the galvo needs to return and settle.

    It returns in equal steps, one per camera edge: no step may be larger than what it
    can ramp before the next edge, and the last frame is for settling.
    """
    galvo = microscope.daq.galvo
    if not range_um:
        return 0
    ramp_ms = abs(range_um * galvo.volts_per_um) / galvo.slew_v_per_ms
    timings = [channel.timing for channel in channels]
    shortest_ms = min(min(t.window_ms, t.readout_ms) for t in timings)
    by_step = ramp_ms / (2 * shortest_ms)
    by_time = (ramp_ms + galvo.settle_ms) / min(t.period_ms for t in timings)
    return math.ceil(max(by_step, by_time) - EPSILON)


def plan_geometry(
    microscope: Microscope, start_um: float, step_um: float, n_planes: int
) -> Geometry:
    """Geometry of the stack, signs of scan and camera resolved."""
    described = microscope.geometry
    _, _, n_columns, n_rows = microscope.camera.roi
    ends_um = [
        described.scan_sign * (start_um + plane * step_um)
        for plane in (0, n_planes - 1)
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
