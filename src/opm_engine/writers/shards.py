"""Items of a stream into sharded arrays, one write per shard.

A shard is a file of inner chunks, one plane each. Writing it plane by plane would
rewrite it for every plane, so planes are gathered in reused buffers until their shard
is whole. Separate from the handler, which knows runs and events; knows neither, only
indices, and nothing of metadata. One thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from opm_engine.plan import Stream

Pixels = npt.NDArray[Any]

SHARD_BYTES = 64 * 2**20
"""Largest shard by default, uncompressed; one plane may be larger."""


class Index(NamedTuple):
    """Where an item belongs; z is 0 for volumes."""

    p: int
    t: int
    c: int
    z: int = 0


class Array(Protocol):
    """An array (t, c, z, y, x) that can be written in pieces."""

    def __setitem__(self, where: tuple[int, int, slice], pixels: Pixels, /) -> None: ...


def array_shape(stream: Stream) -> tuple[int, int, int, int, int]:
    """Shape (t, c, z, y, x) of the array of one position."""
    *depth, n_rows, n_columns = stream.shape
    n_z = depth[0] if depth else stream.n_planes
    return stream.n_times, len(stream.channels), n_z, n_rows, n_columns


def planes_per_shard(stream: Stream, shard_bytes: int = SHARD_BYTES) -> int:
    """Planes of one volume that share a file: all, or an even part of them."""
    _, _, n_z, n_rows, n_columns = array_shape(stream)
    plane_bytes = n_rows * n_columns * np.dtype(stream.dtype).itemsize
    most = max(1, shard_bytes // plane_bytes)
    n_shards = math.ceil(n_z / most)
    return math.ceil(n_z / n_shards)


def n_bytes(stream: Stream) -> int:
    """Bytes of all pixels of a stream, uncompressed."""
    n_pixels = math.prod(array_shape(stream)) * len(stream.positions)
    return n_pixels * np.dtype(stream.dtype).itemsize


class VolumeShards:
    """Writes volumes as they come.

    Parameters
    ----------
    arrays : sequence of Array
        One per position.
    stream : Stream
        Of kind ``volumes``.
    depth : int
        Planes per shard.
    """

    def __init__(self, arrays: Sequence[Array], stream: Stream, depth: int) -> None:
        self._arrays = arrays
        self._n_z = array_shape(stream)[2]
        self._depth = depth

    def put(self, index: Index, volume: Pixels) -> int:
        """Write a volume (Z, Y, X); return the items that reached the disk: 1."""
        for start in range(0, self._n_z, self._depth):
            part = slice(start, min(start + self._depth, self._n_z))
            self._arrays[index.p][index.t, index.c, part] = volume[part]
        return 1

    def flush(self) -> int:
        """Nothing is ever held back."""
        return 0


class PlaneShards:
    """Gathers planes and writes whole shards, in whatever order planes arrive.

    At most one shard per channel is open: interleaved channels need no more. Whoever
    jumps about further pays with rewritten shards, not with memory or lost planes.

    Parameters
    ----------
    arrays : sequence of Array
        One per position.
    stream : Stream
        Of kind ``planes``.
    depth : int
        Planes per shard.
    """

    def __init__(self, arrays: Sequence[Array], stream: Stream, depth: int) -> None:
        self._arrays = arrays
        self._stream = stream
        self._depth = depth
        self._open: dict[Index, _OpenShard] = {}
        self._spare: list[Pixels] = []

    def put(self, index: Index, plane: Pixels) -> int:
        """Copy a plane (rows, columns); return how many planes reached the disk."""
        start = index.z - index.z % self._depth
        key = index._replace(z=start)
        n_written = 0
        if key not in self._open:
            if len(self._open) == len(self._stream.channels):
                n_written += self._write(next(iter(self._open)))
            self._open[key] = self._new_shard(start)
        shard = self._open[key]
        shard.planes[index.z - start] = plane
        shard.filled[index.z - start] = True
        if shard.filled.all():
            n_written += self._write(key)
        return n_written

    def flush(self) -> int:
        """Write what is gathered; return how many planes reached the disk."""
        return sum(self._write(key) for key in list(self._open))

    def _new_shard(self, start: int) -> _OpenShard:
        # Touching fresh memory costs more than the copy, so buffers go round.
        stream = self._stream
        planes = (
            self._spare.pop()
            if self._spare
            else np.empty((self._depth, *stream.shape), stream.dtype)
        )
        n_here = min(self._depth, stream.n_planes - start)
        return _OpenShard(planes, np.zeros(n_here, bool))

    def _write(self, key: Index) -> int:
        shard = self._open.pop(key)
        array = self._arrays[key.p]
        for run in _runs(shard.filled):
            where = slice(key.z + run.start, key.z + run.stop)
            array[key.t, key.c, where] = shard.planes[run]
        self._spare.append(shard.planes)
        return int(shard.filled.sum())


@dataclass(frozen=True)
class _OpenShard:
    planes: Pixels
    filled: npt.NDArray[np.bool_]


def _runs(filled: npt.NDArray[np.bool_]) -> list[slice]:
    """Return the stretches of True."""
    edges = np.flatnonzero(np.diff(filled, prepend=False, append=False))
    return [
        slice(int(start), int(stop))
        for start, stop in zip(edges[::2], edges[1::2], strict=True)
    ]
