"""One shard of volumes, computed from the planes that it needs: in any process.

Separate from the run, which hands shards out: whatever is here is imported by workers
that are started afresh, and what goes between processes is small.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.buffers import BufferPool
from opm_engine.processing.sampling import SLAB_ROWS
from opm_engine.reprocess.source import planes_of
from opm_engine.writers.planes import StoredPlanes

if TYPE_CHECKING:
    from opm_engine.processing.scan import Scan
    from opm_engine.reprocess.memory import Share
    from opm_engine.writers.shelf import Shelf, Slab, VolumeShard


@dataclass(frozen=True)
class Job:
    """What all shards of a run have in common.

    Attributes
    ----------
    raw : Path
        Store of planes.
    scan : Scan
        What becomes of them.
    shelf : Shelf
        Where that goes.
    share : Share
        Memory that one shard may take.
    """

    raw: Path
    scan: Scan
    shelf: Shelf
    share: Share


def work(job: Job, shard: VolumeShard) -> None:
    """Compute and write one shard.

    Raises
    ------
    OSError, ValueError
        If planes cannot be read, or the shard not be written.
    """
    job.shelf.write(shard, _slabs(job, shard), job.share.sink_bytes)


def prepare_process() -> None:
    """Make a process a worker: it outlives no parent, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(
            target=_follow, args=(parent.sentinel,), name="follow", daemon=True
        ).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _slabs(job: Job, shard: VolumeShard) -> Iterator[Slab]:
    n_rows = shard.stop_row - shard.first_row
    deskewer = job.scan.deskewer(
        shard.place,
        first_row=shard.first_row,
        n_rows=n_rows,
        whole=False,
        pool=_pool(),
    )
    if not deskewer.planes:
        yield from _dark(job, shard)
        return
    planes = planes_of(
        _stored(job.raw),
        shard.place,
        deskewer.planes,
        interpolate=job.scan.options.missing == "interpolate",
        ahead_bytes=job.share.ahead_bytes,
    )
    for plane in planes:
        slabs = deskewer.skip() if plane is None else deskewer.add(plane, lasting=True)
        for slab in slabs:
            yield slab.first_row, slab.pixels
        del slabs


def _dark(job: Job, shard: VolumeShard) -> Iterator[Slab]:
    n_z, _, n_x = job.scan.shape
    for first_row in range(shard.first_row, shard.stop_row, SLAB_ROWS):
        n_rows = min(SLAB_ROWS, shard.stop_row - first_row)
        yield first_row, np.zeros((n_z, n_rows, n_x), np.uint16)


@lru_cache(maxsize=2)
def _stored(raw: Path) -> StoredPlanes:
    return StoredPlanes(raw)


@cache
def _pool() -> BufferPool:
    """Memory of slabs; what one shard leaves serves the next."""
    return BufferPool()
