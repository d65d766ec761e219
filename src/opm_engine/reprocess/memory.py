"""How much memory a shard takes, and how many may be in the making at once.

Separate, and pure, because it is decided before any process exists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.processing.taps import N_TABLES, table_bytes
from opm_engine.writers.planes import AHEAD_BYTES

if TYPE_CHECKING:
    from opm_engine.processing.scan import Scan
    from opm_engine.writers.shelf import Shelf, VolumeShard

SLACK = 1.1
"""What is asked for, to what is counted."""

MOST_SINK_BYTES = 2**28
"""That may wait for the disk; more makes nothing faster."""


@dataclass(frozen=True)
class Share:
    """Memory of one shard in the making.

    Attributes
    ----------
    ahead_bytes : int
        Planes that are read before they are needed.
    sink_bytes : int
        Slabs that wait for the disk.
    """

    ahead_bytes: int
    sink_bytes: int


def shared_out(
    memory_bytes: int, jobs: int, scan: Scan, shelf: Shelf, shard: VolumeShard
) -> tuple[int, Share]:
    """Return how many shards may be in the making at once, and the share of each.

    Parameters
    ----------
    memory_bytes : int
        For all of them.
    jobs : int
        Wanted; fewer if memory is short.
    scan : Scan
    shelf : Shelf
    shard : VolumeShard
        The largest.

    Raises
    ------
    MemoryError
        With the numbers, if there is not enough for one.
    """
    plane = math.prod(scan.planes.shape) * np.dtype(scan.planes.dtype).itemsize
    sampling = scan.sampling_at(
        shard.place,
        first_row=shard.first_row,
        n_rows=shard.stop_row - shard.first_row,
    )
    n_tables = min(N_TABLES, shelf.n_shards_of(shard.place) * len(list(scan.kinds())))
    window = sampling.n_open_slabs * sampling.slab_bytes
    window += n_tables * table_bytes(sampling)
    planes = (sampling.reach + 1) * 2 * plane + 3 * plane
    sink = shelf.least_bytes(shard.place.position)
    least = math.ceil(SLACK * (window + planes + sink))
    if least > memory_bytes:
        msg = (
            f"memory_bytes: volumes of {scan.shape} voxels need {least / 1e9:.2f} GB "
            f"for each process, {memory_bytes / 1e9:.2f} GB were given"
        )
        raise MemoryError(msg)
    jobs = min(jobs, memory_bytes // least)
    spare = memory_bytes // jobs - least
    return jobs, Share(
        ahead_bytes=plane + min(AHEAD_BYTES, spare // 2),
        sink_bytes=min(sink + spare // 2, max(sink, MOST_SINK_BYTES)),
    )
