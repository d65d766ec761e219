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
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from opm_engine.plan import Place, Stream

Pixels = npt.NDArray[Any]

SHARD_BYTES = 64 * 2**20
"""Largest shard by default, uncompressed; one plane may be larger."""


class Array(Protocol):
    """An array (t, c, z, y, x) that can be written in pieces."""

    def __setitem__(self, where: tuple[int, int, slice], pixels: Pixels, /) -> None: ...


def array_shapes(stream: Stream) -> list[tuple[int, int, int, int, int]]:
    """Shape (t, c, z, y, x) of the array of each position."""
    *depth, n_rows, n_columns = stream.shape
    here = [position.n_planes or stream.n_planes for position in stream.positions]
    n_times, n_channels = stream.n_times, len(stream.channels)
    return [
        (n_times, n_channels, depth[0] if depth else n_planes, n_rows, n_columns)
        for n_planes in here
    ]


def planes_per_shard(stream: Stream, shard_bytes: int = SHARD_BYTES) -> int:
    """Planes of the largest volume that share a file: all, or an even part of them."""
    n_z = max(shape[2] for shape in array_shapes(stream))
    n_rows, n_columns = stream.shape[-2:]
    plane_bytes = n_rows * n_columns * np.dtype(stream.dtype).itemsize
    most = max(1, shard_bytes // plane_bytes)
    n_shards = math.ceil(n_z / most)
    return math.ceil(n_z / n_shards)


def n_bytes(stream: Stream) -> int:
    """Bytes of all pixels of a stream, uncompressed."""
    n_pixels = sum(math.prod(shape) for shape in array_shapes(stream))
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
        self._n_z = array_shapes(stream)[0][2]
        self._depth = depth

    def put(self, place: Place, volume: Pixels) -> int:
        """Write a volume (Z, Y, X); return the items that reached the disk: 1."""
        for start in range(0, self._n_z, self._depth):
            part = slice(start, min(start + self._depth, self._n_z))
            array = self._arrays[place.position]
            array[place.t, place.channel, part] = volume[part]
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
        self._n_z = [shape[2] for shape in array_shapes(stream)]
        self._depth = depth
        self._open: dict[Place, _OpenShard] = {}
        self._spare: list[Pixels] = []

    def put(self, place: Place, plane: Pixels) -> int:
        """Copy a plane (rows, columns); return how many planes reached the disk."""
        start = place.plane - place.plane % self._depth
        key = place._replace(plane=start)
        n_written = 0
        if key not in self._open:
            if len(self._open) == len(self._stream.channels):
                n_written += self._write(next(iter(self._open)))
            self._open[key] = self._new_shard(self._n_z[place.position] - start)
        shard = self._open[key]
        shard.planes[place.plane - start] = plane
        shard.filled[place.plane - start] = True
        if shard.filled.all():
            n_written += self._write(key)
        return n_written

    def flush(self) -> int:
        """Write what is gathered; return how many planes reached the disk."""
        return sum(self._write(key) for key in list(self._open))

    def _new_shard(self, n_left: int) -> _OpenShard:
        # Touching fresh memory costs more than the copy, so buffers go round.
        stream = self._stream
        planes = (
            self._spare.pop()
            if self._spare
            else np.empty((self._depth, *stream.shape), stream.dtype)
        )
        return _OpenShard(planes, np.zeros(min(self._depth, n_left), bool))

    def _write(self, key: Place) -> int:
        shard = self._open.pop(key)
        array = self._arrays[key.position]
        for run in _runs(shard.filled):
            where = slice(key.plane + run.start, key.plane + run.stop)
            array[key.t, key.channel, where] = shard.planes[run]
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
