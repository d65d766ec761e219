"""`Batch`: pieces that share a buffer, and are encoded into it shard by shard.

Separate from the threads of the appender, so that what they hand to each other can be
read in one piece. Knows memory and codecs; neither files nor threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from opm_engine.plan import Place
from opm_engine.writers.shards.encoding import Bytes, encode_into, most_bytes
from opm_engine.writers.shards.file import DIRECT_BLOCK, tail_bytes
from opm_engine.writers.shards.layout import Layout, ShardKey
from opm_engine.writers.shards.pieces import Piece
from opm_engine.writers.shards.sink import Codec


class Job(NamedTuple):
    """A piece on its way.

    Attributes
    ----------
    place : Place
    piece : Piece
    n_bytes : int
        Of the budget, free again once this piece is encoded.
    line : bytes, optional
        For the journal, if the item is on disk with this piece.
    """

    place: Place
    piece: Piece
    n_bytes: int
    line: bytes | None


@dataclass(slots=True)
class Append:
    """Chunks of one shard, encoded, from somewhere in a buffer on."""

    data: Bytes
    numbers: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Batch:
    """What shares a buffer.

    Attributes
    ----------
    buffer : (n,) uint8
        Page-aligned, with room for what `room_bytes` says of each piece.
    jobs : list of Job
        To be encoded.
    appends : dict
        Position and key of a shard: what goes there.
    lines : list of (Place, bytes)
        For the journal, once all of it is on disk.
    is_encoded : bool
        Whether a writer may have it.
    """

    buffer: Bytes
    jobs: list[Job]
    appends: dict[tuple[int, ShardKey], Append] = field(default_factory=dict)
    lines: list[tuple[Place, bytes]] = field(default_factory=list)
    is_encoded: bool = False

    def encode(self, layouts: Sequence[Layout], codec: Codec, block: int) -> None:
        """Encode all jobs, each shard's chunks one behind the other."""
        shards: dict[tuple[int, ShardKey], list[Job]] = {}
        for job in self.jobs:
            shards.setdefault((job.place.position, job.piece.key), []).append(job)
            if job.line is not None:
                self.lines.append((job.place, job.line))
        at = 0
        for shard, jobs in shards.items():
            layout = layouts[shard[0]]
            append = self.appends[shard] = Append(self.buffer[at:])
            used = 0
            for job in jobs:
                append.numbers += job.piece.numbers
                for chunk in job.piece.chunks:
                    size = encode_into(
                        append.data[used:], chunk, layout.chunk[2:], codec
                    )
                    append.sizes.append(size)
                    used += size
            at += used + tail_bytes(layout.n_chunks, block)
            at += -at % DIRECT_BLOCK


def room_bytes(layout: Layout, block: int) -> int:
    """Bytes of a buffer that a piece needs at most, in a shard of its own."""
    chunks = layout.chunks_per_piece * most_bytes(layout.chunk_bytes)
    return chunks + tail_bytes(layout.n_chunks, block) + DIRECT_BLOCK
