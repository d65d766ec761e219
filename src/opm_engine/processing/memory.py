"""`Reserve`: the memory that a run's deskew takes, refused or touched before it starts.

Separate from the deskewers, which take it bit by bit. Counts what is alive at once:
volumes that are open together, or the slabs of them that are. What outputs keep of what
they were given is their own affair.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.buffers import BufferPool, refuse_beyond_memory
from opm_engine.plan import Stream, is_loose
from opm_engine.processing.sampling import SLAB_ROWS
from opm_engine.processing.taps import N_TABLES, table_bytes

if TYPE_CHECKING:
    import useq

    from opm_engine.processing.scan import Scan

TOUCHED_BYTES = 3 * 2**29
"""At most so much is touched before a run."""

WAITING_BYTES = 2**31
"""What may wait for slow outputs and, in a run, is kept when it comes back: as much as
a relay lets wait by itself."""


class Reserve:
    """Memory for volumes, kept from run to run.

    Attributes
    ----------
    pool : BufferPool
        Where the deskewers of the run take their memory.
    """

    def __init__(self) -> None:
        self.pool = BufferPool(0)
        self._n_kept = 0

    def refuse_too_large(
        self, scan: Scan, sequence: useq.MDASequence, wants: frozenset[str]
    ) -> None:
        """Refuse a run that memory cannot hold.

        Parameters
        ----------
        scan : Scan
        sequence : useq.MDASequence
        wants : frozenset of str
            Methods through which outputs want volumes.

        Raises
        ------
        MemoryError
            With the numbers.
        """
        n_open = n_open_volumes(sequence, scan.planes)
        n_kinds = sum(1 for _ in islice(scan.kinds(), N_TABLES))
        sampling = scan.sampling
        planes = n_open * (sampling.reach + 1) * math.prod(scan.planes.shape) * 4
        tables = n_kinds * table_bytes(sampling)
        n_bytes = n_open * _volume_bytes(scan, wants) + planes + tables
        shape = "({}, {}, {})".format(*sampling.shape)
        kind = (
            "whole"
            if "frameReady" in wants
            else f"as {sampling.n_open_slabs} slabs of {SLAB_ROWS} rows"
        )
        what = f"Deskew of {n_open} volume(s) {shape} at a time, {kind},"
        refuse_beyond_memory(max(0, n_bytes - self.pool.spare_bytes), what)

    def prepare(
        self, scan: Scan, sequence: useq.MDASequence, wants: frozenset[str]
    ) -> None:
        """Take memory and touch it, so that no plane waits for fresh pages.

        Twice as much is touched: outputs hold on to volumes while they write them away.
        """
        n_open = n_open_volumes(sequence, scan.planes)
        n_kept = 2 * n_open * _volume_bytes(scan, wants)
        is_enough = n_kept <= self._n_kept
        if not is_enough:
            self._n_kept = n_kept
            self.pool.keep(0)  # it is of another size
        self.pool.keep(self._n_kept + WAITING_BYTES)
        if is_enough:
            return
        n_z, n_y, n_x = scan.shape
        n_pieces = n_open
        if "frameReady" not in wants:
            n_pieces *= scan.sampling.n_open_slabs
            n_y = min(SLAB_ROWS, n_y)
        most = TOUCHED_BYTES // (n_z * n_y * n_x * 2)
        pieces = [
            self.pool.take((n_z, n_y, n_x), np.uint16)
            for _ in range(min(2 * n_pieces, most))
        ]
        for piece in pieces:
            piece.fill(0)

    def relax(self) -> None:
        """Keep no more between runs than was touched for them."""
        self.pool.keep(self._n_kept)


def n_open_volumes(sequence: useq.MDASequence, planes: Stream) -> int:
    """Return how many volumes have some of their planes at the same time.

    Those of axes that count faster than z, and of all cameras.
    """
    n_channels = len(planes.channels) // planes.n_cameras
    sizes = {"t": planes.n_times, "p": len(planes.positions), "c": n_channels}
    if is_loose(sequence):
        return planes.n_cameras * n_channels
    parts = [p.sequence for p in sequence.stage_positions if p.sequence is not None]
    n_open = 1
    for part in (sequence, *parts):
        inner = set("".join(part.axis_order).partition("z")[2].replace("g", "p"))
        n_open = max(n_open, math.prod(sizes.get(axis, 1) for axis in inner))
    return planes.n_cameras * n_open


def most_open_volumes(sequence: useq.MDASequence, planes: Stream) -> float:
    """Return from how many open volumes on the oldest must have lost its last planes.

    Twice what the sequence says, as some engines interleave what it does not; more
    cannot be said of loose events.
    """
    if is_loose(sequence):
        return math.inf
    return 2 * max(n_open_volumes(sequence, planes), len(planes.channels))


def _volume_bytes(scan: Scan, wants: frozenset[str]) -> int:
    """Return what one open volume takes, with its projections."""
    sampling = scan.sampling
    n_z, n_y, n_x = sampling.shape
    n_bytes = sampling.n_open_slabs * sampling.slab_bytes
    if "frameReady" in wants:
        n_bytes = n_z * n_y * n_x * 2
    if "projectionsReady" in wants:
        n_bytes += 2 * (n_y * n_x + n_z * n_x + n_z * n_y)
    return n_bytes
