"""How an image is cut into shards and chunks.

Separate, and pure, because the writer, the repair of what a crash left and the
reprocessing of stored scans must agree on it. Knows what files are called; opens none.

A shard is a file, a chunk the smallest piece that is compressed and read. Planes: one
plane is a chunk, planes of one volume share a shard. Volumes: a chunk is a brick that
spans X and, along Y, one slab; a shard is a stretch of whole slabs, so that it is
complete as soon as the scan has passed it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from opm_engine.plan import Stream

Shape = tuple[int, int, int, int, int]
"""(t, c, z, y, x)."""

ShardKey = tuple[int, int, int, int, int]
"""Where a shard lies in the grid of an image: (t, c, z, y, x)."""

SHARD_BYTES = 64 * 2**20
"""Largest shard of planes by default, uncompressed; one plane may be larger."""

BRICK_BYTES = 2**20
"""About the size of a chunk of a volume, uncompressed."""

BRICK_ROWS = 32
"""Chunk along Y of volumes that do not come as slabs."""

VOLUME_SHARD_BYTES = 2**29
"""Largest shard of volumes by default, uncompressed; one slab may be larger."""

INDEX_SHARE = 128
"""A plane has at least this many times as many bytes as its shard has chunks.

The index of a shard, 16 bytes per chunk, is written again with every plane.
"""

SMALL_SHARD = 64
"""Chunks that a shard may have however small they are: a file costs more."""


@dataclass(frozen=True)
class Layout:
    """Shape of one image, its shards and its chunks: (t, c, z, y, x) each.

    Attributes
    ----------
    shape, shard, chunk : tuple of int
        Shards hold whole chunks; both span one t, one c and all of x.
    dtype : str
    """

    shape: Shape
    shard: Shape
    chunk: Shape
    dtype: str

    @cached_property
    def chunks_per_shard(self) -> tuple[int, int]:
        """Number of chunks of a shard along z and y."""
        return self.shard[2] // self.chunk[2], self.shard[3] // self.chunk[3]

    @cached_property
    def n_chunks(self) -> int:
        """Number of chunks of a shard; those beyond the image stay empty."""
        return math.prod(self.chunks_per_shard)

    @cached_property
    def chunks_per_piece(self) -> int:
        """Chunks that reach the disk together: a plane, or the bricks above a slab."""
        is_plane = self.chunk[2:4] == (1, self.shape[3])
        return 1 if is_plane else self.chunks_per_shard[0]

    @cached_property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk, uncompressed."""
        return math.prod(self.chunk) * np.dtype(self.dtype).itemsize

    @cached_property
    def grid(self) -> Shape:
        """Number of shards along each axis."""
        t, c, z, y, x = (
            -(-size // part) for size, part in zip(self.shape, self.shard, strict=True)
        )
        return t, c, z, y, x

    def n_chunks_of(self, key: ShardKey) -> int:
        """Return how many chunks of the shard at a place of the grid hold pixels."""
        return math.prod(
            -(-min(part, size - number * part) // chunk)
            for size, part, chunk, number in zip(
                self.shape, self.shard, self.chunk, key, strict=True
            )
        )

    def locate(self, t: int, channel: int, z: int, y: int) -> tuple[ShardKey, int]:
        """Return the shard (in the grid) of a pixel row, and its chunk in the shard."""
        shard_z, shard_y = z // self.shard[2], y // self.shard[3]
        in_z = (z % self.shard[2]) // self.chunk[2]
        in_y = (y % self.shard[3]) // self.chunk[3]
        return (t, channel, shard_z, shard_y, 0), in_z * self.chunks_per_shard[1] + in_y


def layouts(
    stream: Stream,
    shard_bytes: int = SHARD_BYTES,
    volume_shard_bytes: int = VOLUME_SHARD_BYTES,
) -> list[Layout]:
    """Lay out the image of each position.

    Parameters
    ----------
    stream : Stream
    shard_bytes, volume_shard_bytes : int
        Largest file of planes and of volumes, uncompressed.
    """
    shapes = array_shapes(stream)
    if stream.kind == "volumes":
        return [_of_volumes(shape, stream, volume_shard_bytes) for shape in shapes]
    depth = _planes_per_shard(stream, shard_bytes)
    return [
        Layout(
            shape=shape,
            shard=(1, 1, min(depth, shape[2]), *shape[3:]),
            chunk=(1, 1, 1, *shape[3:]),
            dtype=stream.dtype,
        )
        for shape in shapes
    ]


def array_shapes(stream: Stream) -> list[Shape]:
    """Shape (t, c, z, y, x) of the array of each position."""
    *depth, n_rows, n_columns = stream.shape
    here = [position.n_planes or stream.n_planes for position in stream.positions]
    n_times, n_channels = stream.n_times, len(stream.channels)
    return [
        (n_times, n_channels, depth[0] if depth else n_planes, n_rows, n_columns)
        for n_planes in here
    ]


def n_bytes(stream: Stream) -> int:
    """Bytes of all pixels of a stream, uncompressed."""
    n_pixels = sum(math.prod(shape) for shape in array_shapes(stream))
    return n_pixels * np.dtype(stream.dtype).itemsize


def items(stream: Stream) -> int:
    """Return how many planes or volumes the stream announces, over all positions."""
    shapes = array_shapes(stream)
    per_time = sum(s[1] * (s[2] if stream.kind == "planes" else 1) for s in shapes)
    return stream.n_times * per_time


def shard_path(array: Path, key: ShardKey) -> Path:
    """Return the file of a shard, in the folder of its array."""
    return array.joinpath("c", *map(str, key))


def _planes_per_shard(stream: Stream, shard_bytes: int) -> int:
    """Planes of the largest volume that share a file: all, or an even part of them."""
    n_z = max(shape[2] for shape in array_shapes(stream))
    n_rows, n_columns = stream.shape[-2:]
    plane_bytes = n_rows * n_columns * np.dtype(stream.dtype).itemsize
    n_index = max(SMALL_SHARD, plane_bytes // INDEX_SHARE)
    most = max(1, min(shard_bytes // plane_bytes, n_index))
    n_shards = math.ceil(n_z / most)
    return math.ceil(n_z / n_shards)


def _of_volumes(shape: Shape, stream: Stream, shard_bytes: int) -> Layout:
    n_z, n_y, n_x = shape[2:]
    itemsize = np.dtype(stream.dtype).itemsize
    chunk_y = min(stream.slab_rows or BRICK_ROWS, n_y)
    chunk_z = max(1, min(n_z, BRICK_BYTES // (chunk_y * n_x * itemsize)))
    shard_z = -(-n_z // chunk_z) * chunk_z
    n_slabs = -(-n_y // chunk_y)
    most = max(1, shard_bytes // (shard_z * chunk_y * n_x * itemsize))
    slabs = math.ceil(n_slabs / math.ceil(n_slabs / most))
    return Layout(
        shape=shape,
        shard=(1, 1, shard_z, slabs * chunk_y, n_x),
        chunk=(1, 1, chunk_z, chunk_y, n_x),
        dtype=stream.dtype,
    )
