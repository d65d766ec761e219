"""`Shelf`: the shards of a store of volumes, each written on its own, by any process.

Separate from the handler's way to the disk, on which items come one after the other:
here whoever has computed a stretch of a volume writes the file that holds it, and no
two write one file. Knows which files are whole; nothing of how volumes come about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy.typing as npt

from opm_engine.plan import Place, Stream
from opm_engine.writers.reading import array_folders, codec_of, layouts_of_store
from opm_engine.writers.shards import index
from opm_engine.writers.shards.appender import n_buffers
from opm_engine.writers.shards.encoding import most_bytes
from opm_engine.writers.shards.file import tail_bytes
from opm_engine.writers.shards.layout import (
    VOLUME_SHARD_BYTES,
    Layout,
    ShardKey,
    layouts,
    shard_path,
)
from opm_engine.writers.shards.sink import Codec
from opm_engine.writers.shards.sinks import block_for, make_sink

Slab = tuple[int, npt.NDArray[Any]]
"""First row along Y, and pixels (Z, rows, X)."""


class VolumeShard(NamedTuple):
    """One file: rows ``first_row`` to ``stop_row`` along Y of a volume, all of Z."""

    place: Place
    key: ShardKey
    first_row: int
    stop_row: int


@dataclass(frozen=True)
class Shelf:
    """Where the shards of a store go, and how; goes from process to process.

    Attributes
    ----------
    folders : tuple of Path
        The array's folder of each position.
    layouts : tuple of Layout
    codec : {"lz4", "zstd", "none"}
    block : int or None
        As `block_for` found it: None writes shards by tensorstore.
    """

    folders: tuple[Path, ...]
    layouts: tuple[Layout, ...]
    codec: Codec
    block: int | None

    @classmethod
    def of(cls, store: Path) -> Self:
        """Find out how to write into a store that exists.

        Raises
        ------
        OSError
            If nothing can be written there.
        """
        folders, layouts = array_folders(store), layouts_of_store(store)
        block = block_for(folders[0], layouts)
        return cls(tuple(folders), tuple(layouts), codec_of(folders[0]), block)

    @classmethod
    def planned(
        cls, folder: Path, stream: Stream, codec: Codec, shard_bytes: int | None
    ) -> Self:
        """Find out how a store would be written that is to be made.

        Parameters
        ----------
        folder : Path
            Where it is tried, and nothing left: one on the same disk.
        stream : Stream
            Of volumes.
        codec, shard_bytes
            See `OMEZarrWriter`.

        Raises
        ------
        OSError
            If nothing can be written there.
        """
        to_be = layouts(stream, volume_shard_bytes=shard_bytes or VOLUME_SHARD_BYTES)
        block = block_for(folder, to_be)
        return cls((folder,) * len(to_be), tuple(to_be), codec, block)

    def shards_of(self, place: Place) -> Iterator[VolumeShard]:
        """Yield the shards of one volume."""
        layout = self.layouts[place.position]
        n_y, rows = layout.shape[3], layout.shard[3]
        for number, first_row in enumerate(range(0, n_y, rows)):
            key = place.t, place.channel, 0, number, 0
            yield VolumeShard(place, key, first_row, min(first_row + rows, n_y))

    def n_shards_of(self, place: Place) -> int:
        """Return how many shards a volume has."""
        return self.layouts[place.position].grid[3]

    def is_whole(self, shard: VolumeShard) -> bool:
        """Whether all of a shard can be read."""
        layout = self.layouts[shard.place.position]
        try:
            table = index.read(self._path(shard), layout.n_chunks)
        except (FileNotFoundError, ValueError):
            return False
        n_there = int((table[:, 0] != index.ABSENT).sum())
        return n_there == layout.n_chunks_of(shard.key)

    def write(
        self, shard: VolumeShard, slabs: Iterable[Slab], budget_bytes: int
    ) -> None:
        """Write a shard; what was there of it is written anew.

        Parameters
        ----------
        shard : VolumeShard
        slabs : iterable of (first row, pixels)
            In any order, together all of the shard. Rows count along the volume.
        budget_bytes : int
            Memory of what waits for the disk; one slab is taken in any case.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        path = self._path(shard)
        path.unlink(missing_ok=True)
        position = shard.place.position
        sink = make_sink(
            self.block,
            [self.folders[position]],
            [self.layouts[position]],
            self.codec,
            _NoJournal(),
            budget_bytes=budget_bytes,
        )
        with closing(sink):
            for first_row, slab in slabs:
                sink.put_slab(shard.place._replace(position=0), first_row, slab)

    def least_bytes(self, position: int) -> int:
        """Memory that writing a shard takes with one slab waiting."""
        layout = self.layouts[position]
        if self.block is None:  # held and encoded whole
            return 2 * layout.n_chunks * layout.chunk_bytes
        piece = layout.chunks_per_piece * most_bytes(layout.chunk_bytes)
        tail = tail_bytes(layout.n_chunks, self.block)
        return (n_buffers(self.codec) + 1) * piece + tail

    def _path(self, shard: VolumeShard) -> Path:
        return shard_path(self.folders[shard.place.position], shard.key)


class _NoJournal:
    """Volumes are told of when all their shards are there."""

    def add(self, place: Place, line: bytes) -> None:
        """Do nothing."""
