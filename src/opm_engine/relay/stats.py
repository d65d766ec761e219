"""`BranchStats`: what a branch has done; `Meter`: how fast it is at the moment.

Separate because whoever shows them needs nothing else of the relay.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opm_engine.relay.branch import Policy

SMOOTHED_S = 1.0


@dataclass(frozen=True)
class BranchStats:
    """What one branch has done in this run, or did in the last.

    At the end of a run ``received == handled + dropped``; before, the rest waits
    (`backlog_frames`, `backlog_bytes`) or is in the handler's hands. Frames that
    arrived after an error are dropped. Slabs and projections are counted like frames.

    Attributes
    ----------
    name : str
        ``"deskew/writer"`` for the branch ``writer`` of a relay below ``deskew``.
    policy : {"lossless", "latest"}
    received, handled, dropped : int
    backlog_frames, backlog_bytes : int
    latency_ms : float
        From the last handled frame's arrival until its handler returned.
    error : BaseException or None
        Its first.
    depth : int
        0 for branches of the relay itself, 1 for those of a relay below, ...
    peak_bytes : int
        Largest `backlog_bytes`.
    volumes_dropped : int
        That a ``latest`` branch skipped whole; their frames or slabs are among the
        `dropped`.
    frames_per_s, bytes_per_s : float
        Handled at present, smoothed over about a second.
    """

    name: str
    policy: Policy
    received: int
    handled: int
    dropped: int
    backlog_frames: int
    backlog_bytes: int
    latency_ms: float
    error: BaseException | None
    depth: int = 0
    peak_bytes: int = 0
    volumes_dropped: int = 0
    frames_per_s: float = 0.0
    bytes_per_s: float = 0.0


class Meter:
    """Rates over the last second or so: older events weigh less and less.

    Parameters
    ----------
    began_s : float, optional
        When counting began, by ``time.monotonic``; by default now.
    """

    def __init__(self, began_s: float | None = None) -> None:
        self._began_s = time.monotonic() if began_s is None else began_s
        self._last_s = self._began_s
        self._frames = self._bytes = 0.0

    def add(self, n_bytes: int, now_s: float | None = None) -> None:
        """Count one frame."""
        now_s = time.monotonic() if now_s is None else now_s
        kept = math.exp((self._last_s - now_s) / SMOOTHED_S)
        self._frames = self._frames * kept + 1
        self._bytes = self._bytes * kept + n_bytes
        self._last_s = now_s

    def rates(self, now_s: float | None = None) -> tuple[float, float]:
        """Return frames and bytes per second."""
        now_s = time.monotonic() if now_s is None else now_s
        if now_s <= self._began_s:
            return 0.0, 0.0
        kept = math.exp((self._last_s - now_s) / SMOOTHED_S)
        # What the weights of all the time so far add up to, so that a run that has
        # just begun does not look slow.
        weight_s = -math.expm1((self._began_s - now_s) / SMOOTHED_S) * SMOOTHED_S
        return self._frames * kept / weight_s, self._bytes * kept / weight_s
