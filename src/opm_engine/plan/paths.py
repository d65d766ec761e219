"""Volts of the galvos over the samples of one burst's period.

Separate from the waveforms, which add light, because it is about motion alone. One
function per kind of movement. A sample's volts are those of the middle of the time
for which they are held, so that stairs lie evenly about the path. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from opm_engine.plan.motion import progress
from opm_engine.plan.projection import sweeps
from opm_engine.plan.ramp import Ramp, ramp_of
from opm_engine.plan.scan import hold_ms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opm_engine.config import Galvo, Microscope
    from opm_engine.plan.model import ScanPlan
    from opm_engine.plan.parts import Burst, PlannedChannel

    Volts = NDArray[np.float64]


class Path(NamedTuple):
    """What one analog output does: first volts, settled before the first edge, then.

    ``volts`` is (runs * frames_per_run * samples_per_frame,).
    """

    channel: str
    initial_v: float
    volts: Volts


def period_runs(plan: ScanPlan, burst: Burst) -> int:
    """Return after how many runs all repeats."""
    if plan.bidirectional:
        return min(2, burst.n_runs)
    one_by_one = "c" in plan.burst_axes and not plan.interleaved
    return len(plan.channels) if one_by_one else 1


def galvo_paths(
    plan: ScanPlan, burst: Burst, microscope: Microscope
) -> tuple[Path, ...]:
    """Paths of the scan galvo and, in mode ``projection``, of the projection galvo."""
    galvo = microscope.daq.galvo
    channel = plan.channels_of(burst)[0]
    if plan.mode == "projection":
        return _sweeping(plan, burst, channel, microscope)
    if plan.mode == "stage":
        n_samples = burst.frames_per_run * channel.sampling.samples_per_frame
        volts = np.full(n_samples, galvo.volts_at(plan.rest_um))
    elif plan.motion == "ramp":
        return (_ramping(plan, burst, channel, galvo),)
    else:
        volts = _stepping(plan, burst, channel, galvo)
    return (Path(galvo.channel, float(volts[0]), volts),)


def held_ms(channel: PlannedChannel, n_frames: int) -> Volts:
    """Middle of the time for which each sample of some frames is held, in ms."""
    sampling = channel.sampling
    starts_ms = np.arange(sampling.samples_per_frame) * sampling.sample_ms
    middles_ms = starts_ms + sampling.sample_ms / 2
    middles_ms[-1] = starts_ms[-1] + hold_ms(channel) / 2
    frames_ms = np.arange(n_frames)[:, np.newaxis] * channel.timing.period_ms
    return np.asarray((frames_ms + middles_ms).ravel())


def _planes(plan: ScanPlan, burst: Burst, run: int) -> NDArray[np.intp]:
    """Planes of a run's lit frames, (n_lit,), numbered along the scan."""
    planes = np.arange(burst.n_lit) // plan.frames_per_plane
    return planes[::-1] if plan.is_backward(burst.index.get("t", run)) else planes


def _stepping(
    plan: ScanPlan, burst: Burst, channel: PlannedChannel, galvo: Galvo
) -> Volts:
    """At rest in each window; on to the next plane at its end.

    With two samples per frame the way back is equal steps, one per edge, from the end
    of the last window on; with more it is a smooth move in the dark frames.
    """
    n_runs, n_lit = period_runs(plan, burst), burst.n_lit
    n_window = channel.sampling.n_window
    n_samples = channel.sampling.samples_per_frame
    offsets_um = [
        plan.start_um + _planes(plan, burst, r) * plan.step_um for r in range(n_runs)
    ]
    planes_v = galvo.offset_v + galvo.volts_per_um * np.array(offsets_um)
    samples = np.empty((n_runs, burst.frames_per_run, n_samples))
    samples[:, :n_lit] = planes_v[..., np.newaxis]
    samples[:, : n_lit - 1, n_window:] = planes_v[:, 1:, np.newaxis]
    last, following = planes_v[:, -1:], np.roll(planes_v[:, :1], -1, axis=0)
    flat = samples.reshape(n_runs, -1)
    if n_samples == 2:
        n_steps = 2 * burst.n_dark
        done = np.arange(1, n_steps + 1) / max(n_steps, 1)
        flat[:, 2 * n_lit - 1 : -1] = last + done * (following - last)
        flat[:, -1:] = following if burst.n_runs > 1 else last
    elif burst.n_dark:
        back_ms = burst.n_dark * channel.timing.period_ms
        back_ms -= galvo.settle_ms + hold_ms(channel)
        way_v = float(last[0, 0] - following[0, 0])
        done = progress(galvo, way_v, held_ms(channel, burst.n_dark) / back_ms)
        flat[:, n_lit * n_samples :] = last + done * (following - last)
    return flat.ravel()


def _ramping(
    plan: ScanPlan, burst: Burst, channel: PlannedChannel, galvo: Galvo
) -> Path:
    """Lead-in and planes at constant speed, then the way to the next run's start."""
    n_runs, n_planes = period_runs(plan, burst), plan.geometry.n_planes
    ramps: list[Ramp] = []
    for run in range(n_runs):
        planes = _planes(plan, burst, run)
        ends_um = plan.offset_um(int(planes[0])), plan.offset_um(int(planes[-1]))
        ramps.append(
            ramp_of(
                channel, galvo, ends_um, n_planes, plan.frames_per_plane, plan.n_lead
            )
        )
    n_moving = burst.n_lead + burst.n_lit
    times_ms, back_ms = held_ms(channel, n_moving), held_ms(channel, burst.n_dark)
    given_ms = max(burst.n_dark, 1) * channel.timing.period_ms
    parts = []
    for ramp, following in zip(ramps, [*ramps[1:], ramps[0]], strict=True):
        way_um = following.start_um - ramp.stop_um
        done = progress(galvo, way_um * galvo.volts_per_um, back_ms / given_ms)
        parts += [ramp.offsets_um(times_ms), ramp.stop_um + done * way_um]
    volts = galvo.offset_v + galvo.volts_per_um * np.concatenate(parts)
    return Path(galvo.channel, galvo.volts_at(ramps[0].start_um), volts)


def _sweeping(
    plan: ScanPlan, burst: Burst, channel: PlannedChannel, microscope: Microscope
) -> tuple[Path, ...]:
    """The same sweep in every frame."""
    n_frames = period_runs(plan, burst) * burst.frames_per_run
    times_ms = held_ms(channel, 1)
    return tuple(
        Path(
            sweep.galvo.channel,
            sweep.ends_v[0],
            np.tile(sweep.volts(times_ms), n_frames),
        )
        for sweep in sweeps(channel, microscope, plan.rest_um, plan.range_um)
    )
