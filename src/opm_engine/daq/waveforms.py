"""Arrays that the board plays: laser bits, galvo volts, laser powers over samples.

Pure. Separate from ``nidaq`` so that what is played can be tested, drawn and compared
without a board. Motion comes from ``plan.paths``; here light and power join it. See
`Waveform` for when a sample appears.

Light is on in the samples of a frame that its channel's plan says, and nowhere else;
with blanking off from the first of them in a run to the last. Every period ends dark.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.daq.protocol import Waveform
from opm_engine.plan import galvo_paths, period_runs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opm_engine.config import Microscope
    from opm_engine.plan import Burst, ScanPlan


def burst_waveform(plan: ScanPlan, burst: Burst, microscope: Microscope) -> Waveform:
    """Waveform of one burst.

    Parameters
    ----------
    plan : ScanPlan
    burst : Burst
        One of the plan's bursts.
    microscope : Microscope
        Names the lines and says how many volts move the light sheet how far.

    Returns
    -------
    Waveform
        One period; dark after its last sample.
    """
    paths = galvo_paths(plan, burst, microscope)
    powers = _powers(plan, burst, microscope)
    channel = plan.channels_of(burst)[0]
    sampling, timing = channel.sampling, channel.timing
    n_samples = sampling.samples_per_frame * burst.n_frames
    analog = np.stack([*(path.volts for path in paths), *powers.values()])
    fastest_ms = sampling.sample_ms
    if sampling.samples_per_frame == 2:
        fastest_ms = min(timing.window_ms, timing.readout_ms)
    daq = microscope.daq
    galvos = [daq.galvo] + ([daq.projection] if daq.projection else [])
    return Waveform(
        digital=_digital(plan, burst)[:n_samples],
        lines=tuple(laser.line for laser in microscope.lasers),
        analog=analog[:, :n_samples],
        channels=(*(path.channel for path in paths), *powers),
        initial_v=np.array([path.initial_v for path in paths] + [0.0] * len(powers)),
        settle_ms=max(galvo.settle_ms for galvo in galvos[: len(paths)]),
        period_ms=timing.period_ms,
        n_samples=n_samples,
        max_rate_hz=1000 / fastest_ms,
        sample_ms=sampling.sample_ms,
        samples_per_frame=sampling.samples_per_frame,
        window_ms=timing.window_ms,
    )


def darkened(waveform: Waveform, microscope: Microscope) -> Waveform:
    """Return the same motion without light: lines low, power outputs at 0 V."""
    powers = {x.power_output.channel for x in microscope.lasers if x.power_output}
    is_power = np.array([channel in powers for channel in waveform.channels])
    return replace(
        waveform,
        digital=np.zeros_like(waveform.digital),
        analog=np.where(is_power[:, np.newaxis], 0.0, waveform.analog),
    )


def _channel_numbers(plan: ScanPlan, burst: Burst) -> NDArray[np.intp]:
    """Channel of each lit frame of a period: (runs, n_lit)."""
    n_runs = period_runs(plan, burst)
    shape = n_runs, burst.n_lit
    if "c" in burst.index:
        return np.full(shape, burst.index["c"])
    if plan.interleaved:
        return np.broadcast_to(np.arange(burst.n_lit) % len(plan.channels), shape)
    runs = np.arange(n_runs) % len(plan.channels)
    return np.broadcast_to(runs[:, np.newaxis], shape)


def _shape(plan: ScanPlan, burst: Burst) -> tuple[int, int, int]:
    """(runs, frames, samples) of a period."""
    n_samples = plan.channels_of(burst)[0].sampling.samples_per_frame
    return period_runs(plan, burst), burst.frames_per_run, n_samples


def _lit(burst: Burst) -> slice:
    """Lit frames of a run."""
    return slice(burst.n_lead, burst.n_lead + burst.n_lit)


def _digital(plan: ScanPlan, burst: Burst) -> NDArray[np.uint32]:
    """Laser bits (samples,) uint32."""
    numbers = _channel_numbers(plan, burst)
    samples = np.zeros(_shape(plan, burst), np.uint32)
    lit = samples[:, _lit(burst)]
    for number, channel in enumerate(plan.channels):
        bit = 1 << int(channel.line.rpartition("line")[2])
        first, stop = channel.light if plan.blanking else (0, None)
        lit[numbers == number, first:stop] = bit
    if not plan.blanking:
        lit[:, -1, channel.light[1] :] = 0
    return np.asarray(samples.ravel())


def _powers(
    plan: ScanPlan, burst: Burst, microscope: Microscope
) -> dict[str, NDArray[np.float64]]:
    """Volts (samples,) of each power output that the plan uses, by analog channel.

    On during the frames of its channel, from the start of each window on; 0 V in all
    others and from the end of a run's last window on.
    """
    numbers = _channel_numbers(plan, burst)
    n_window = plan.channels_of(burst)[0].sampling.n_window
    lasers = {laser.name: laser for laser in microscope.lasers}
    powers = {}
    for number, channel in enumerate(plan.channels):
        output = lasers[channel.name].power_output
        if output is None:
            continue
        samples = np.zeros(_shape(plan, burst))
        lit = samples[:, _lit(burst)]
        lit[numbers == number] = output.full_v * plan.laser_power[channel.name] / 100
        lit[:, -1, n_window:] = 0.0
        powers[output.channel] = np.asarray(samples.ravel())
    return powers
