"""`Recorder`: samples of the analog inputs, reduced to one row per frame.

Separate from the board because it is arithmetic. The inputs are sampled by the clock
that plays the outputs, so sample *i* is taken when sample *i* of the outputs appears,
and shows what the sample before has put out. Knows no task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opm_engine.daq.clocking import Clocking
    from opm_engine.daq.protocol import Waveform


def frame_weights(waveform: Waveform, clocking: Clocking) -> NDArray[np.float64]:
    """Weight of each sample in its frame's row.

    With two samples, played by the edges of exposure-out, the row is taken at the
    falling one, when the light has been on for the whole window. With more it is the
    mean over the samples in the middle of the light: lit, and lit before; if there are
    none, over those lit before; in a dark frame, over all.

    Returns
    -------
    ndarray, (F, per_frame) float64
        F frames of a period; each row adds up to 1.
    """
    n = clocking.per_frame
    lit = clocking.expand(waveform.digital).reshape(-1, n) != 0
    if clocking.by_edges:
        return np.tile([0.0, 1.0], (len(lit), 1))
    before = np.zeros_like(lit)
    before[:, 1:] = lit[:, :-1]
    chosen = np.ones_like(lit)
    for better in (before, before & lit):
        any_better = better.any(axis=1, keepdims=True)
        chosen = np.where(any_better, better, chosen)
    weights: NDArray[np.float64] = chosen / chosen.sum(axis=1, keepdims=True)
    return weights


class Recorder:
    """Reduces samples to rows, in whatever portions they come.

    Parameters
    ----------
    weights : ndarray, (F, K) float64
        Of `frame_weights`; repeated from the start.
    n_frames : int
        Rows in all; what comes after them is left out.
    n_inputs : int
    """

    def __init__(
        self, weights: NDArray[np.float64], n_frames: int, n_inputs: int
    ) -> None:
        self._weights = weights
        self._n_frames = n_frames
        self._n_done = 0
        self._started = np.empty((0, n_inputs))

    def add(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add samples, (n, inputs); return the rows they complete, (m, inputs)."""
        samples = np.concatenate([self._started, samples])
        n_inputs, k = samples.shape[1], self._weights.shape[1]
        n_whole = len(samples) // k
        self._started = samples[n_whole * k :].copy()
        numbers = self._n_done + np.arange(n_whole)
        numbers = numbers[numbers < self._n_frames]
        self._n_done += len(numbers)
        frames = samples[: len(numbers) * k].reshape(-1, k, n_inputs)
        weights = self._weights[numbers % len(self._weights)]
        rows: NDArray[np.float64] = np.einsum("fk,fki->fi", weights, frames)
        return rows
