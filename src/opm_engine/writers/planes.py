"""`StoredPlanes`: the planes of a stored run, one after the other, read ahead.

Separate from the readers of metadata because this is about speed: pixels go into
reused memory, in a thread of its own, while whoever asked works on those before. Knows
nothing of sequences, and no order but the one that it is asked for.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tensorstore

from opm_engine.buffers import BufferPool
from opm_engine.plan import Place
from opm_engine.writers.reading import array_folders, layouts_of_store, stream_of_store
from opm_engine.writers.shards import index
from opm_engine.writers.shards.layout import ShardKey, shard_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

AHEAD_BYTES = 64 * 2**20
"""Of planes that are read before they are asked for, unless said otherwise."""

_INDEXES = 64
"""Indexes of shards that are kept."""


class StoredPlanes:
    """Planes of a store, and which of them are there.

    Parameters
    ----------
    store : str or Path
        Of raw planes, as ``OMEZarrWriter`` writes it; nobody writes it now.

    Attributes
    ----------
    stream : Stream
        What the store was made for.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    ValueError
        If it does not say what it holds, or does not hold planes.
    """

    def __init__(self, store: str | Path) -> None:
        self.store = Path(store)
        self.stream = stream_of_store(self.store)
        if self.stream.kind != "planes":
            msg = f"{store} holds {self.stream.kind}, not the raw planes of a camera"
            raise ValueError(msg)
        self._folders = array_folders(self.store)
        self._layouts = layouts_of_store(self.store)
        self._arrays: dict[int, Any] = {}
        self._index = lru_cache(_INDEXES)(self._read_index)
        self._pool = BufferPool(2 * AHEAD_BYTES)

    def has(self, place: Place) -> bool:
        """Whether a plane is there, whole.

        Raises
        ------
        OSError
            If the index of its shard cannot be read.
        """
        layout = self._layouts[place.position]
        key, chunk = layout.locate(place.t, place.channel, place.plane, 0)
        table = self._index(place.position, key)
        return table is not None and bool(table[chunk, 0] != index.ABSENT)

    def present(self, place: Place) -> npt.NDArray[np.bool_]:
        """Return which planes (N,) of the volume that a place is in are there.

        Raises
        ------
        OSError
            If the index of a shard cannot be read.
        """
        n_planes = self._layouts[place.position].shape[2]
        planes = (place._replace(plane=n) for n in range(n_planes))
        return np.fromiter(map(self.has, planes), bool, n_planes)

    def read(
        self, places: Iterable[Place], ahead_bytes: int = AHEAD_BYTES
    ) -> Iterator[npt.NDArray[Any] | None]:
        """Yield planes (rows, columns) in the order in which they are asked for.

        Parameters
        ----------
        places : iterable of Place
        ahead_bytes : int
            How much is read before it is asked for; a plane at least.

        Yields
        ------
        ndarray or None
            The caller's to keep; None for a plane that is not there.

        Raises
        ------
        OSError, ValueError
            If one cannot be read.
        """
        n_bytes = int(np.prod(self.stream.shape)) * np.dtype(self.stream.dtype).itemsize
        n_ahead = max(1, ahead_bytes // n_bytes)
        pending: deque[Any] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="read ahead") as reader:
            try:
                for place in places:
                    pending.append(reader.submit(self._read, place))
                    if len(pending) > n_ahead:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                reader.shutdown(wait=False, cancel_futures=True)

    def _read(self, place: Place) -> npt.NDArray[Any] | None:
        if not self.has(place):
            return None
        plane = self._pool.take(self.stream.shape, self.stream.dtype)
        where = place.t, place.channel, place.plane
        source = self._array(place.position)[where]
        tensorstore.array(plane, copy=False).write(source).result()
        return plane

    def _array(self, position: int) -> Any:
        if position not in self._arrays:
            folder = str(self._folders[position])
            self._arrays[position] = tensorstore.open(
                {"driver": "zarr3", "kvstore": {"driver": "file", "path": folder}},
                read=True,
            ).result()
        return self._arrays[position]

    def _read_index(self, position: int, key: ShardKey) -> index.Table | None:
        path = shard_path(self._folders[position], key)
        try:
            return index.read(path, self._layouts[position].n_chunks)
        except FileNotFoundError:
            return None
        except ValueError as error:
            msg = f'{error}; "opm-engine repair {self.store}" mends it'
            raise OSError(msg) from error
