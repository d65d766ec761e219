"""`RollingShutter`: when each row of a rolling-shutter camera exposes.

Pure arithmetic in seconds, separate from the camera that acts on it and from the
optics that integrate over it. Readout overlaps the next exposure: row *r* of frame
*f* integrates from ``f * period_s + r * line_time_s`` for ``exposure_s``.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ExposureOutKind = Literal["AllRows", "FirstRow", "AnyRow"]


class Event(NamedTuple):
    """Something the free-running camera does."""

    time_s: float
    what: Literal["active", "idle", "read"]
    """The exposure-out line becomes active or idle; a frame has been read."""
    frame: int


@dataclass(frozen=True)
class RollingShutter:
    """Timing of one camera setting.

    Attributes
    ----------
    n_rows : int
    line_time_s : float
        Between the starts of neighbouring rows.
    exposure_lines : int
        Exposure in line times; cameras quantise it.
    """

    n_rows: int
    line_time_s: float
    exposure_lines: int

    @property
    def exposure_s(self) -> float:
        """How long each row integrates."""
        return self.exposure_lines * self.line_time_s

    @property
    def readout_s(self) -> float:
        """How long it takes to read all rows."""
        return self.n_rows * self.line_time_s

    @property
    def period_s(self) -> float:
        """From the start of one frame to that of the next."""
        return max(self.exposure_s, self.readout_s)

    @property
    def integration_s(self) -> float:
        """From the start of the first row to the end of the last."""
        return (self.n_rows - 1) * self.line_time_s + self.exposure_s

    def row_starts(self, start_s: float) -> NDArray[np.float64]:
        """When each row starts to integrate; (rows,) float64."""
        return start_s + self.line_time_s * np.arange(self.n_rows, dtype=np.float64)

    def active_s(self, kind: ExposureOutKind | None) -> tuple[float, float] | None:
        """When exposure-out is active, from the frame's start; None if never.

        Between two frames it is idle for one line at least, as on real cameras.
        """
        if kind is None:
            return None
        rolling_s = (self.n_rows - 1) * self.line_time_s
        begin_s = rolling_s if kind == "AllRows" else 0.0
        end_s = self.integration_s if kind == "AnyRow" else self.exposure_s
        end_s = min(end_s, begin_s + self.period_s - self.line_time_s)
        return (begin_s, end_s) if end_s > begin_s else None

    def events(self, start_s: float, kind: ExposureOutKind | None) -> Iterator[Event]:
        """Everything that happens from ``start_s`` on, in order of time, for ever."""
        frames = itertools.count

        def starts_s() -> Iterator[tuple[float, int]]:
            return ((start_s + f * self.period_s, f) for f in frames())

        read = (Event(t + self.integration_s, "read", f) for t, f in starts_s())
        active_s = self.active_s(kind)
        if active_s is None:
            return read
        begin_s, end_s = active_s
        active = (Event(t + begin_s, "active", f) for t, f in starts_s())
        idle = (Event(t + end_s, "idle", f) for t, f in starts_s())
        return heapq.merge(active, idle, read, key=lambda event: event.time_s)
