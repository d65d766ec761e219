"""Arrays that the board plays: laser bits and galvo volts per camera edge.

Pure. Separate from ``nidaq`` so that what is played can be tested, drawn and compared
without a board. Two samples per frame: index ``2 f`` at the start of frame ``f``'s
exposure window, ``2 f + 1`` at its end, where the galvo leaves for the next plane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from opm_engine.daq.protocol import Waveform

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
    galvo = microscope.daq.galvo
    planes_um, masks = _lit_frames(plan, burst)
    volts = np.array([galvo.volts_at(offset_um) for offset_um in planes_um])
    digital = _digital(masks, burst, blanking=plan.blanking)
    analog = _analog(volts, burst)
    n_samples = 2 * burst.n_frames
    timings = [channel.timing for channel in plan.channels]
    shortest_ms = min(min(t.window_ms, t.readout_ms) for t in timings)
    return Waveform(
        digital=digital[:n_samples],
        lines=tuple(laser.line for laser in microscope.lasers),
        analog=analog[np.newaxis, :n_samples],
        channels=(galvo.channel,),
        initial_v=volts[:1],
        settle_ms=galvo.settle_ms,
        period_ms=plan.channels_of(burst)[0].timing.period_ms,
        n_samples=n_samples,
        max_rate_hz=1000 / shortest_ms,
        sample_ms=timings[0].window_ms,
    )


def _lit_frames(
    plan: ScanPlan, burst: Burst
) -> tuple[NDArray[np.float64], NDArray[np.uint32]]:
    """Scan offsets in µm and port values of one period's lit frames."""
    one_per_run = "c" in plan.burst_axes and not plan.interleaved
    n_runs = len(plan.channels) if one_per_run else 1
    indices = [plan.index_of(burst, event) for event in range(n_runs * burst.n_lit)]
    offsets_um = np.array([plan.offset_um(index["z"]) for index in indices])
    bits = [1 << int(c.line.rpartition("line")[2]) for c in plan.channels]
    masks = np.array([bits[index["c"]] for index in indices], dtype=np.uint32)
    return offsets_um, masks


def _digital(
    masks: NDArray[np.uint32], burst: Burst, *, blanking: bool
) -> NDArray[np.uint32]:
    """Laser bits: (frames,) -> (samples,) with dark flyback frames after each run."""
    runs = masks.reshape(-1, burst.n_lit)
    samples = np.zeros((len(runs), burst.n_lit + burst.n_dark, 2), np.uint32)
    samples[:, : burst.n_lit, 0] = runs
    if not blanking:
        samples[:, : burst.n_lit - 1, 1] = runs[:, :-1]
    return samples.ravel()


def _analog(volts: NDArray[np.float64], burst: Burst) -> NDArray[np.float64]:
    """Galvo volts: (frames,) -> (samples,), stepping when the exposure window ends.

    During flyback it returns in equal steps, one per edge, and rests for the last
    frame at the start of the next run.
    """
    runs = volts.reshape(-1, burst.n_lit)
    samples = np.empty((len(runs), burst.n_lit + burst.n_dark, 2))
    samples[:, : burst.n_lit, 0] = runs
    samples[:, : burst.n_lit - 1, 1] = runs[:, 1:]
    flat = samples.reshape(len(runs), -1)
    n_steps = 2 * burst.n_dark
    fraction = np.arange(1, n_steps + 1) / max(n_steps, 1)
    last, following = runs[:, -1:], np.roll(runs[:, :1], -1, axis=0)
    flat[:, 2 * burst.n_lit - 1 : -1] = last + fraction * (following - last)
    flat[:, -1:] = following if burst.n_runs > 1 else last
    return flat.ravel()
