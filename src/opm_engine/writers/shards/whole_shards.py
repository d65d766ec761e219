"""`WholeShardSink`: shards written whole, by tensorstore, where appending cannot be.

Separate because it shares nothing with appending but what comes in and what is left on
disk. Holds items until their shard is complete, or until memory is short: then what is
there of a shard is written, and the shard rewritten when more comes. Knows no codec:
tensorstore reads it from the array's metadata.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import tensorstore

from opm_engine.plan import Place
from opm_engine.writers.node import tensorstore_spec
from opm_engine.writers.shards import pieces
from opm_engine.writers.shards.layout import Layout, ShardKey
from opm_engine.writers.shards.open_shards import MIN_OPEN
from opm_engine.writers.shards.pieces import Piece
from opm_engine.writers.shards.sink import Journal

MAX_IN_FLIGHT = 2
"""Shards that are being written at once."""

_CONTEXT = {"file_io_sync": False, "cache_pool": {"total_bytes_limit": 0}}


@dataclass(slots=True)
class _Item:
    """An item some of whose pieces are not on disk."""

    place: Place
    line: bytes | None = None
    n_pieces: int = 0


class _Held(NamedTuple):
    piece: Piece
    n_bytes: int
    item: _Item


@dataclass(slots=True)
class _Gathered:
    """What waits of a shard."""

    held: list[_Held] = field(default_factory=list)
    n_chunks: int = 0


class _Flight(NamedTuple):
    future: Any
    held: list[_Held]


class WholeShardSink:
    """A `Sink` that writes whole shards; see the module.

    Parameters
    ----------
    folders : sequence of Path
        The array's folder of each position, with its metadata in it.
    layouts : sequence of Layout
        Of each position.
    journal : Journal
    budget_bytes : int
        Memory of all that waits. One item is taken in any case.

    Raises
    ------
    OSError
        If an array cannot be opened.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        layouts: Sequence[Layout],
        journal: Journal,
        *,
        budget_bytes: int,
    ) -> None:
        self._layouts = layouts
        self._journal = journal
        context = tensorstore.Context(_CONTEXT)
        self._arrays = [
            _open(folder, layout, context)
            for folder, layout in zip(folders, layouts, strict=True)
        ]
        self._room_bytes = budget_bytes // 2  # a shard is encoded in memory, whole
        self._held_bytes = 0
        self._shards: OrderedDict[tuple[int, ShardKey], _Gathered] = OrderedDict()
        self._flights: deque[_Flight] = deque()
        self._items: dict[Place, _Item] = {}
        self._acknowledged = 0
        self._is_closed = False
        self._error: OSError | None = None

    @property
    def acknowledged(self) -> int:
        """Items on disk and in the journal; from any thread."""
        return self._acknowledged

    def put(self, place: Place, item: npt.NDArray[Any], line: bytes) -> None:
        """Write a plane (rows, columns) or a whole volume (Z, Y, X); see `Sink`."""
        self.put_slab(place, 0, item, line)

    def put_slab(
        self,
        place: Place,
        first_row: int,
        slab: npt.NDArray[Any],
        line: bytes | None = None,
    ) -> None:
        """Write rows of a volume (Z, rows, X); see `Sink`.

        Raises
        ------
        OSError
            If this or an earlier slab could not be written.
        ValueError
            If the rows do not begin and end where chunks do.
        """
        cut = pieces.cut(self._layouts[place.position], place, first_row, slab)
        self._take(place, cut, slab.nbytes, line)

    def flush(self) -> None:
        """Return when all that was put is on disk; see `Sink`."""
        self._raise_if_failed()
        while self._shards:
            self._write_oldest()
        while self._flights:
            self._land()
        self._raise_if_failed()

    def close(self) -> None:
        """Write what can be written, and end; see `Sink`."""
        try:
            self.flush()
        finally:
            while self._flights:
                self._land()
            self._shards.clear()
            self._items.clear()
            self._is_closed = True

    def _take(
        self, place: Place, cut: list[Piece], n_bytes: int, line: bytes | None
    ) -> None:
        if self._is_closed:
            msg = "this sink is closed"
            raise ValueError(msg)
        while self._flights and self._flights[0].future.done():
            self._land()
        self._raise_if_failed()
        self._make_room(n_bytes)
        self._held_bytes += n_bytes
        item = self._items.setdefault(place, _Item(place))
        item.line = line
        item.n_pieces += len(cut)
        for number, piece in enumerate(cut):
            last = number == len(cut) - 1  # all are views of one memory
            self._gather(_Held(piece, n_bytes if last else 0, item))
        self._raise_if_failed()

    def _gather(self, held: _Held) -> None:
        position, key = held.item.place.position, held.piece.key
        layout = self._layouts[position]
        if (position, key) not in self._shards:
            if len(self._shards) >= max(MIN_OPEN, layout.shape[1]):
                self._write_oldest()
            self._shards[position, key] = _Gathered()
        self._shards.move_to_end((position, key))
        shard = self._shards[position, key]
        shard.held.append(held)
        shard.n_chunks += len(held.piece.numbers)
        if shard.n_chunks == layout.n_chunks_of(key):
            self._write(position, key)

    def _make_room(self, n_bytes: int) -> None:
        while self._held_bytes and self._held_bytes + n_bytes > self._room_bytes:
            if self._flights:
                self._land()
            else:
                self._write_oldest()
            self._raise_if_failed()

    def _write_oldest(self) -> None:
        self._write(*next(iter(self._shards)))

    def _write(self, position: int, key: ShardKey) -> None:
        """Begin to write what is there of a shard, in one go."""
        while len(self._flights) >= MAX_IN_FLIGHT:
            self._land()
        held = self._shards.pop((position, key)).held
        with self._noting_errors():
            transaction = tensorstore.Transaction()
            array = self._arrays[position].with_transaction(transaction)[key[:2]]
            writes = [write for part in held for write in _begin(array, part.piece)]
            for write in writes:  # those not in the transaction by now would be lost
                write.copy.result()
            self._flights.append(_Flight(transaction.commit_async(), held))

    def _land(self) -> None:
        """Wait for the oldest shard in flight, and acknowledge what it completes."""
        flight = self._flights.popleft()
        self._held_bytes -= sum(held.n_bytes for held in flight.held)
        with self._noting_errors():
            flight.future.result()
            if self._error is None:
                self._acknowledge(flight.held)

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = self._error or error
        except (ValueError, RuntimeError) as error:  # how tensorstore says all else
            self._error = self._error or _os_error(error)

    def _acknowledge(self, landed: list[_Held]) -> None:
        for held in landed:
            item = held.item
            item.n_pieces -= 1
            if item.n_pieces == 0 and item.line is not None:
                self._journal.add(item.place, item.line)
                self._acknowledged += 1
                del self._items[item.place]

    def _raise_if_failed(self) -> None:
        if (error := self._error) is not None:
            raise copy(error) from error


def _begin(array: Any, piece: Piece) -> Iterator[Any]:
    """Begin to write the chunks of a piece to an array (z, y, x)."""
    z, y = piece.first
    for chunk in piece.chunks:
        n_z, n_y, _ = chunk.shape
        where = array[z : z + n_z, y : y + n_y]
        yield where.write(chunk, can_reference_source_data_indefinitely=True)
        z += n_z


def _open(folder: Path, layout: Layout, context: Any) -> Any:
    spec = tensorstore_spec(folder, layout.shape[0])  # which may grow
    spec["store_data_equal_to_fill_value"] = True
    try:
        return tensorstore.open(
            spec, open=True, assume_metadata=True, context=context
        ).result()
    except (ValueError, RuntimeError) as error:
        raise _os_error(error) from error


def _os_error(error: Exception) -> OSError:
    """Return a system's error with the number that it had, if it was a full disk."""
    is_full = os.strerror(errno.ENOSPC) in str(error)
    return OSError(errno.ENOSPC if is_full else errno.EIO, str(error))
