"""The galvo's continuous ramp: through all planes at constant speed.

Separate because the planner (lead-in, way back, range) and the waveforms (volts) must
agree on it. Pure.

Plane *n* is at its nominal offset in the middle of its (first channel's) window, so
channel *c* of *C* interleaved ones lies ``c / C`` of a step further along. Before the
first plane the galvo gains speed, and settles at that speed, in dark frames: no edge
comes before the first exposure. It stops in the readout of the last plane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opm_engine.geometry import EPSILON
from opm_engine.plan.motion import Glide, gather_ms
from opm_engine.plan.settings import PlanError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from opm_engine.config import Galvo
    from opm_engine.plan.parts import PlannedChannel


@dataclass(frozen=True)
class Ramp:
    """One run of planes; times in ms from the start of its first lead-in frame.

    Attributes
    ----------
    first_um : float
        Offset of the plane that comes first.
    um_per_ms : float
        Signed speed.
    middle_ms : float
        When the first plane is reached.
    glide : Glide
    """

    first_um: float
    um_per_ms: float
    middle_ms: float
    glide: Glide

    def offsets_um(self, times_ms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Offsets at some times."""
        return self.first_um + self.um_per_ms * (
            self.glide.effective(times_ms) - self.middle_ms
        )

    @property
    def start_um(self) -> float:
        """Where it rests before."""
        return self.first_um + self.um_per_ms * (self.glide.start_ms - self.middle_ms)

    @property
    def stop_um(self) -> float:
        """Where it rests after."""
        return self.first_um + self.um_per_ms * (self.glide.stop_ms - self.middle_ms)


def ramp_of(
    channel: PlannedChannel,
    galvo: Galvo,
    planes_um: tuple[float, float],
    n_planes: int,
    frames_per_plane: int,
    n_lead: int | None = None,
) -> Ramp:
    """Ramp of one run.

    Parameters
    ----------
    channel : PlannedChannel
        One of those that the run acquires; their timing is the same.
    galvo : Galvo
    planes_um : (first, last)
        Offsets of the planes that come first and last.
    n_planes, frames_per_plane : int
    n_lead : int, optional
        Dark frames before; by default as many as it takes.
    """
    period_ms = channel.timing.period_ms
    window_ms = channel.sampling.n_window * channel.sampling.sample_ms
    n_frames = n_planes * frames_per_plane
    first_um, last_um = planes_um
    um_per_ms = (last_um - first_um) / (n_planes - 1) / (frames_per_plane * period_ms)
    if n_lead is None:
        n_lead = lead_frames(channel, galvo, um_per_ms)
    begin_ms = n_lead * period_ms
    return Ramp(
        first_um=first_um,
        um_per_ms=um_per_ms,
        middle_ms=begin_ms + window_ms / 2,
        glide=Glide(
            begin_ms=begin_ms - galvo.settle_ms,
            end_ms=begin_ms + (n_frames - 1) * period_ms + window_ms,
            gather_ms=gather_ms(galvo, um_per_ms * galvo.volts_per_um),
        ),
    )


def lead_frames(channel: PlannedChannel, galvo: Galvo, um_per_ms: float) -> int:
    """Dark frames in which the galvo gains its speed and settles."""
    run_up_ms = gather_ms(galvo, um_per_ms * galvo.volts_per_um) + galvo.settle_ms
    return math.ceil(run_up_ms / channel.timing.period_ms - EPSILON)


def refuse_ramp(ramp: Ramp, channel: PlannedChannel, galvo: Galvo) -> None:
    """Refuse a ramp that is too fast, or that cannot stop in a readout."""
    speed = abs(ramp.um_per_ms * galvo.volts_per_um)
    timing = channel.timing
    if speed > galvo.slew_v_per_ms * (1 + EPSILON):
        longer_ms = timing.exposure_ms * speed / galvo.slew_v_per_ms
        msg = (
            f"z_plan: a ramp of {speed:.4g} V/ms is faster than daq.galvo."
            f"slew_v_per_ms = {galvo.slew_v_per_ms:g}; use a smaller step, or an "
            f"exposure of {math.ceil(longer_ms * 10) / 10:g} ms or more"
        )
        raise PlanError(msg)
    sampling = channel.sampling
    # it must rest when the last sample of a burst has been played
    room_ms = (sampling.samples_per_frame - 1 - sampling.n_window) * sampling.sample_ms
    if ramp.glide.gather_ms > room_ms:
        msg = (
            f"z_plan: to stop from the ramp's speed the galvo takes "
            f"{ramp.glide.gather_ms:.3f} ms, longer than the {room_ms:.3f} ms that the "
            f"readout of {timing.readout_ms:.3f} ms leaves; use a smaller step, "
            'a longer exposure, or motion "stepped"'
        )
        raise PlanError(msg)
