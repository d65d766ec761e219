"""`ExposureLog`: whether the camera's edges came as regularly as planned.

Separate from the board because it is arithmetic on time stamps. A count of edges alone
cannot tell: a camera that exposes on after the last asked frame makes up for an edge
that the board missed, although light and galvo have slipped by one from there on. When
each edge came can tell, however late software looks.

Knows what the board saw, not what the camera did: whole exposures missed before the
first one seen leave no gap. Only `accounts.Accounts.check_progress` can find those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from opm_engine.daq.protocol import Irregularity

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMEBASE = "100kHzTimebase"

TICKS_PER_MS = 100
"""Of the timebase."""

TOLERANCE = 0.1
"""Of the frame period: less than any missed edge, more than a camera's jitter."""

MIN_TOLERANCE_TICKS = 3


class ExposureLog:
    """Time stamps of one burst, reduced to what has to be known of them.

    Both edges of each exposure are stamped, or the first one alone where the board
    detects no changes. An edge is regular if it follows the latest of the same kind
    after one frame period.

    Parameters
    ----------
    n_planned : int
        Edges that have planned samples; later ones are counted but not judged.
    period_ms : float
        From frame to frame.
    per_exposure : {2, 1}
        Edges of each exposure that are stamped.
    bits : int
        Of the counter, after which stamps wrap around.
    active_ms : float, optional
        From the first to the second edge of an exposure. It tells the edges apart: a
        first one that was missed would turn light and darkness round.

    Attributes
    ----------
    irregular : Irregularity or None
        The first planned exposure that did not follow its predecessor in time.
    """

    def __init__(
        self,
        n_planned: int,
        period_ms: float,
        per_exposure: int = 2,
        bits: int = 32,
        active_ms: float | None = None,
    ) -> None:
        self.irregular: Irregularity | None = None
        self._n_planned = n_planned
        self._period_ms = period_ms
        self._stride = per_exposure
        self._mask = np.uint32((1 << bits) - 1)
        self._active_ms = active_ms if per_exposure == 2 else None
        self._n_edges = 0
        self._latest = np.empty(0, np.uint32)

    @property
    def exposures(self) -> int:
        """Exposures that have begun."""
        return -(-self._n_edges // self._stride)

    def add(self, stamps: NDArray[np.uint32]) -> None:
        """Add the next edges.

        Parameters
        ----------
        stamps : ndarray, (n,) uint32
            Ticks since some moment; they may wrap around, as 32 bits do in 12 hours.
        """
        ticks = np.concatenate([self._latest, stamps])
        self._judge_widths(ticks)
        stride = self._stride
        first_judged = self._n_edges - self._latest.size + stride
        self._n_edges += stamps.size
        self._latest = ticks[-stride:].copy()
        if self.irregular is None:
            # unsigned, so the difference is right across the wrap
            apart = ((ticks[stride:] - ticks[:-stride]) & self._mask).astype(np.int64)
            self._judge(apart[: max(0, self._n_planned - first_judged)], first_judged)

    def _judge_widths(self, ticks: NDArray[np.uint32]) -> None:
        """Look for the first exposure that lasted too long or too short.

        Those that the log has seen the end of before are judged already.
        """
        if self._active_ms is None or self.irregular is not None:
            return
        first = self._n_edges - self._latest.size
        ends = np.arange(first + 1, first + ticks.size)
        new = (ends % 2 == 1) & (ends >= self._n_edges) & (ends < self._n_planned)
        widths = ((ticks[1:] - ticks[:-1]) & self._mask).astype(np.int64)
        active = self._active_ms * TICKS_PER_MS
        tolerance = max(TOLERANCE * self._period_ms * TICKS_PER_MS, MIN_TOLERANCE_TICKS)
        wrong = np.flatnonzero(new & (np.abs(widths - active) > tolerance))
        if wrong.size:
            self.irregular = Irregularity(
                exposure=int(ends[wrong[0]]) // 2,
                interval_ms=float(widths[wrong[0]]) / TICKS_PER_MS,
                planned_ms=self._active_ms,
                is_width=True,
            )

    def _judge(self, apart: NDArray[np.int64], first_edge: int) -> None:
        """Look for the first irregular edge; ``apart`` in ticks, from that edge on."""
        period = self._period_ms * TICKS_PER_MS
        tolerance = max(TOLERANCE * period, MIN_TOLERANCE_TICKS)
        wrong = np.flatnonzero(np.abs(apart - period) > tolerance)
        if wrong.size:
            self.irregular = Irregularity(
                exposure=(first_edge + int(wrong[0])) // self._stride,
                interval_ms=float(apart[wrong[0]]) / TICKS_PER_MS,
                planned_ms=self._period_ms,
            )
