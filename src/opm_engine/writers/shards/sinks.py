"""`open_sink`: the fastest way to the disk that works here.

Separate from the sinks themselves because it alone knows that there are two: appending
to shards where platform and file system allow it, whole shards by tensorstore where
they do not. Both leave the same store.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from opm_engine.writers.shards import file
from opm_engine.writers.shards.appender import AppendSink
from opm_engine.writers.shards.index import BOUNDARY
from opm_engine.writers.shards.layout import Layout
from opm_engine.writers.shards.sink import Codec, Journal, Sink
from opm_engine.writers.shards.whole_shards import WholeShardSink

Backend = Literal["auto", "append", "tensorstore"]

DIRECT_BYTES = 2**16
"""Pieces from this size on go past the page cache, where that works."""

BUDGET_BYTES = 2**28
"""Memory that may wait for the disk, by default."""


def open_sink(
    folders: Sequence[Path],
    layouts: Sequence[Layout],
    codec: Codec,
    journal: Journal,
    *,
    budget_bytes: int = BUDGET_BYTES,
    backend: Backend = "auto",
) -> Sink:
    """Open the way to the disk.

    Nothing is synced: what is acknowledged survives the end of this process, but a
    power cut may take what the system and the drive had not written yet.

    Parameters
    ----------
    folders : sequence of Path
        The array's folder of each position, with its metadata in it.
    layouts : sequence of Layout
        Of each position.
    codec : {"lz4", "zstd", "none"}
        As the arrays' metadata say.
    journal : Journal
        Gets each item's line once the item is on disk.
    budget_bytes : int
        Memory of all that waits for the disk. One item is taken in any case.
    backend : {"auto", "append", "tensorstore"}
        ``"auto"`` appends if a trial in the first folder shows that it works.

    Returns
    -------
    Sink

    Raises
    ------
    OSError
        If nothing can be written there, or ``"append"`` was asked and does not work.
    """
    block = None if backend == "tensorstore" else block_for(folders[0], layouts)
    if block is None and backend == "append":
        msg = f"{folders[0]}: files cannot be appended to; use another backend"
        raise OSError(msg)
    return make_sink(block, folders, layouts, codec, journal, budget_bytes=budget_bytes)


def block_for(folder: Path, layouts: Sequence[Layout]) -> int | None:
    """Find out, by a trial, how shards in a folder are best appended to.

    Returns
    -------
    int or None
        As `file.probe` returns it; past the page cache only where pieces are large.

    Raises
    ------
    OSError
        If nothing at all can be written there.
    """
    block = file.probe(folder)
    smallest = min(layout.chunks_per_piece * layout.chunk_bytes for layout in layouts)
    return BOUNDARY if block is not None and smallest < DIRECT_BYTES else block


def make_sink(
    block: int | None,
    folders: Sequence[Path],
    layouts: Sequence[Layout],
    codec: Codec,
    journal: Journal,
    *,
    budget_bytes: int,
) -> Sink:
    """Open the way to the disk that `block_for` found; see `open_sink`."""
    if block is None:
        return WholeShardSink(folders, layouts, journal, budget_bytes=budget_bytes)
    return AppendSink(
        folders, layouts, codec, journal, block=block, budget_bytes=budget_bytes
    )
