"""Projection: both galvos sweep within one window and are back before the next.

Separate because the planner and the waveforms must agree on it. Pure.

Within the window each galvo gains speed (dark), sweeps its range at constant speed
(lit) and stops (dark); in the readout it moves back and settles. The image is shifted
by ``shear_ratio`` times the scan offset, so a structure at (Y, Z) falls on row

    s' = Z / (px sin) + (r d) / px,  d = Y - Z / tan,

which for r = 1 / cos(angle) is Y r / px whatever Z: rows lie px / r apart along Y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.geometry import EPSILON
from opm_engine.plan.motion import Glide, progress, reach_v, sweep_gather_ms
from opm_engine.plan.settings import PlanError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opm_engine.config import Galvo, Microscope, ProjectionGalvo
    from opm_engine.plan.parts import PlannedChannel


@dataclass(frozen=True)
class Sweep:
    """What one galvo does in every frame.

    Attributes
    ----------
    galvo : Galvo
    table : str
        Its table in the microscope's description.
    first_v, last_v : float
        Volts at both ends of the lit sweep.
    channel : PlannedChannel
        Light begins and ends with the constant speed.
    """

    galvo: Galvo
    table: str
    first_v: float
    last_v: float
    channel: PlannedChannel

    @property
    def glide(self) -> Glide:
        """Times in ms from the start of the window."""
        sample_ms = self.channel.sampling.sample_ms
        first, stop = self.channel.light
        gather_ms = first * sample_ms
        return Glide(gather_ms, stop * sample_ms, gather_ms)

    @property
    def v_per_ms(self) -> float:
        """Signed speed."""
        return (self.last_v - self.first_v) / (self.glide.end_ms - self.glide.begin_ms)

    @property
    def ends_v(self) -> tuple[float, float]:
        """Where it rests before and after."""
        over_v = self.v_per_ms * self.glide.gather_ms / 2
        return self.first_v - over_v, self.last_v + over_v

    @property
    def return_ms(self) -> float:
        """Time for the way back, without settling."""
        sampling = self.channel.sampling
        return (sampling.samples_per_frame - 1 - sampling.n_window) * sampling.sample_ms

    def volts(self, times_ms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Volts at times of one frame."""
        start_v, stop_v = self.ends_v
        effective_ms = self.glide.effective(times_ms)
        out = start_v + self.v_per_ms * (effective_ms - self.glide.start_ms)
        since_ms = times_ms - self.glide.end_ms - self.glide.gather_ms
        back_ms = self.return_ms - self.galvo.settle_ms
        done = progress(self.galvo, stop_v - start_v, since_ms / back_ms)
        return np.asarray(out - done * (stop_v - start_v))


def sweeps(
    channel: PlannedChannel, microscope: Microscope, centre_um: float, range_um: float
) -> tuple[Sweep, Sweep]:
    """Sweeps of the scan galvo and of the projection galvo, for a channel's frames."""
    scan, shift = microscope.daq.galvo, _shift(microscope)
    low_um, high_um = centre_um - range_um / 2, centre_um + range_um / 2
    ratio = shift.shear_ratio
    return (
        Sweep(
            scan, "daq.galvo", scan.volts_at(low_um), scan.volts_at(high_um), channel
        ),
        Sweep(
            shift,
            "daq.projection",
            shift.volts_at(ratio * low_um),
            shift.volts_at(ratio * high_um),
            channel,
        ),
    )


def gather_margin_ms(
    channel: PlannedChannel, microscope: Microscope, range_um: float
) -> float:
    """Part of the window, at both ends, in which the galvos gain and lose speed.

    Raises
    ------
    PlanError
        If their acceleration is not enough for the window.
    """
    window_ms = channel.sampling.n_window * channel.sampling.sample_ms
    shift = _shift(microscope)
    margins = []
    for table, galvo, distance_um in (
        ("daq.galvo", microscope.daq.galvo, range_um),
        ("daq.projection", shift, range_um * shift.shear_ratio),
    ):
        distance_v = abs(distance_um * galvo.volts_per_um)
        margin_ms = sweep_gather_ms(galvo, distance_v, window_ms)
        # samples are whole: room for one more
        if margin_ms is None or margin_ms > window_ms / 5:
            limit = galvo.acceleration_v_per_ms2 or math.inf
            enough_ms = math.sqrt(distance_v / limit / 0.12)
            msg = (
                f"range_um = {range_um:g}: {table} cannot sweep {distance_v:.4g} V "
                f"in a window of {window_ms:.4g} ms within acceleration_v_per_ms2 = "
                f"{limit:g}; use a window of {enough_ms:.4g} ms or more (a longer "
                "exposure), or a smaller range"
            )
            raise PlanError(msg)
        margins.append(margin_ms)
    return max(margins)


def refuse_sweep(sweep: Sweep, microscope: Microscope, range_um: float) -> None:
    """Refuse a sweep that is too fast, too far, or not back in time."""
    galvo, table = sweep.galvo, sweep.table
    speed = abs(sweep.v_per_ms)
    if speed > galvo.slew_v_per_ms * (1 + EPSILON):
        enough_ms = abs(sweep.last_v - sweep.first_v) / galvo.slew_v_per_ms
        msg = (
            f"range_um = {range_um:g}: {table} would sweep at {speed:.4g} V/ms, faster "
            f"than its slew_v_per_ms = {galvo.slew_v_per_ms:g}; use a smaller range "
            f"or a window of {enough_ms:.4g} ms or more (a longer exposure)"
        )
        raise PlanError(msg)
    low, high = galvo.range_v
    start_v, stop_v = sweep.ends_v
    if not (
        low - EPSILON <= min(start_v, stop_v) <= max(start_v, stop_v) <= high + EPSILON
    ):
        msg = (
            f"range_um = {range_um:g}: {table} would go from {start_v:.4g} to "
            f"{stop_v:.4g} V, outside its range_v = [{low:g}, {high:g}]; use a smaller "
            "range, or another offset_um"
        )
        raise PlanError(msg)
    _refuse_late(sweep, microscope, range_um)


def _refuse_late(sweep: Sweep, microscope: Microscope, range_um: float) -> None:
    galvo = sweep.galvo
    distance_v = abs(sweep.ends_v[1] - sweep.ends_v[0])
    need_ms = galvo.move_ms(distance_v) + galvo.settle_ms
    if need_ms <= sweep.return_ms + EPSILON:
        return
    timing = sweep.channel.timing
    missing_ms = need_ms - sweep.return_ms
    rows = math.ceil(
        (timing.readout_ms + missing_ms) * 1000 / microscope.camera.line_time_us
    )
    reach = reach_v(galvo, max(sweep.return_ms - galvo.settle_ms, 0.0)) / distance_v
    msg = (
        f"range_um = {range_um:g}: {sweep.table} takes {need_ms:.3f} ms to return "
        f"{distance_v:.4g} V and settle, longer than the {sweep.return_ms:.3f} ms that "
        f"the readout leaves; use {rows} rows or more in camera.roi with an exposure "
        f"of {math.ceil((timing.exposure_ms + missing_ms) * 10) / 10:g} ms or more"
    )
    smaller_um = math.floor(range_um * reach * 100) / 100
    if smaller_um > 0:
        msg += f', or "range_um": {smaller_um:g}'
    raise PlanError(msg)


def _shift(microscope: Microscope) -> ProjectionGalvo:
    shift = microscope.daq.projection
    if shift is None:
        msg = "daq.projection: missing"
        raise PlanError(msg)
    return shift
