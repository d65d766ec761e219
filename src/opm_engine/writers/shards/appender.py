"""`AppendSink`: pixels to shards as fast as the disk takes them.

Separate from the cutting (`pieces`), the encoding (`batch`) and the files
(`open_shards`), so that it holds nothing but the way between them::

    put -> queue (bounded by bytes) -> encoders (1 or 2) -> one writer -> journal

An encoder takes the oldest pieces and a free buffer together, so what the writer waits
for always has one. Small pieces that wait anyway share a buffer and a write. The writer
keeps the order in which items came. Knows no format.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy.typing as npt

from opm_engine.buffers import BufferPool
from opm_engine.plan import Place
from opm_engine.writers.shards import pieces
from opm_engine.writers.shards.batch import Batch, Job, room_bytes
from opm_engine.writers.shards.layout import Layout
from opm_engine.writers.shards.open_shards import OpenShards
from opm_engine.writers.shards.sink import Codec, Journal

N_ENCODERS: dict[Codec, int] = {"none": 1, "lz4": 2, "zstd": 2}
"""Threads that encode, so that each codec keeps up with a fast disk."""

SPARE_BUFFERS = 2
"""Buffers beyond one per encoder: one being written, one waiting."""

BATCH_BYTES = 2**20
"""Size of a buffer, unless one piece is larger."""

MAX_WAITING = 4096
"""Pieces that wait, however small: as many are written within a fraction of 1 s."""


def n_buffers(codec: Codec) -> int:
    """Return how many buffers an `AppendSink` holds at most."""
    in_compressors = N_ENCODERS[codec] * (codec != "none")  # memory of their own
    return N_ENCODERS[codec] + SPARE_BUFFERS + in_compressors


class AppendSink:
    """A `Sink` that appends to shards; see the module.

    Parameters
    ----------
    folders : sequence of Path
        The array's folder of each position.
    layouts : sequence of Layout
        Of each position.
    codec : {"lz4", "zstd", "none"}
    journal : Journal
    block : int
        As `file.probe` returned it.
    budget_bytes : int
        Memory of all that waits, buffers included. One item is taken in any case.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        layouts: Sequence[Layout],
        codec: Codec,
        journal: Journal,
        *,
        block: int,
        budget_bytes: int,
    ) -> None:
        self._layouts = layouts
        self._codec: Codec = codec
        self._journal = journal
        self._block = block
        self._shards = OpenShards(folders, layouts, block)
        self._piece_bytes = [room_bytes(layout, block) for layout in layouts]
        self._buffer_bytes = max(BATCH_BYTES, *self._piece_bytes)
        n_encoders = N_ENCODERS[codec]
        pool = BufferPool(max_spare_bytes=0)
        self._buffers = [
            pool.take((self._buffer_bytes,), "uint8")
            for _ in range(n_encoders + SPARE_BUFFERS)
        ]
        held_anyway = n_buffers(codec) * self._buffer_bytes
        self._room_bytes = max(0, budget_bytes - held_anyway)
        self._held_bytes = 0
        self._acknowledged = 0
        self._error: BaseException | None = None
        self._is_closing = False
        self._to_encode: deque[Job] = deque()
        self._to_write: deque[Batch] = deque()
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # to be encoded, or a buffer
        self._encoded = threading.Condition(self._lock)  # to be written
        self._room = threading.Condition(self._lock)  # for more, or all is written
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            for work, name in [
                (self._write_all, "shard-writer"),
                *((self._encode_all, f"shard-encoder-{i}") for i in range(n_encoders)),
            ]
        ]
        for thread in self._threads:
            thread.start()

    @property
    def acknowledged(self) -> int:
        """Items on disk and in the journal; from any thread."""
        return self._acknowledged

    # ---- called by the owner ------------------------------------------------

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
        jobs = [Job(place, piece, 0, None) for piece in cut]
        # All of them are views of one memory, free with the last.
        jobs[-1] = jobs[-1]._replace(n_bytes=slab.nbytes, line=line)
        self._queue(jobs)

    def flush(self) -> None:
        """Return when all that was put is on disk; see `Sink`."""
        with self._lock:
            while (self._to_encode or self._to_write) and self._error is None:
                self._room.wait()
        self._raise_if_failed()

    def close(self) -> None:
        """Write what can be written, and end; see `Sink`."""
        with self._lock:
            self._is_closing = True
            self._wake_all()
        for thread in self._threads:
            thread.join()
        self._buffers.clear()
        self._raise_if_failed()

    def _queue(self, jobs: list[Job]) -> None:
        n_bytes = sum(job.n_bytes for job in jobs)
        with self._lock:
            if self._is_closing:
                msg = "this sink is closed"
                raise ValueError(msg)
            while self._error is None and not self._has_room(n_bytes):
                self._room.wait()
            if self._error is None:
                self._held_bytes += n_bytes
                self._to_encode.extend(jobs)
                self._work.notify(len(jobs))
        self._raise_if_failed()

    def _has_room(self, n_bytes: int) -> bool:
        fits = self._held_bytes + n_bytes <= self._room_bytes
        return not self._held_bytes or (fits and len(self._to_encode) < MAX_WAITING)

    def _raise_if_failed(self) -> None:
        error = self._error
        if isinstance(error, OSError):
            raise copy(error) from error
        if error is not None:
            msg = f"the shards could not be written: {error}"
            raise OSError(msg) from error

    # ---- the threads --------------------------------------------------------

    def _encode_all(self) -> None:
        while (batch := self._next_to_encode()) is not None:
            batch.encode(self._layouts, self._codec, self._block)
            n_bytes = sum(job.n_bytes for job in batch.jobs)
            batch.jobs = []  # and with them the pixels
            with self._lock:
                batch.is_encoded = True
                self._held_bytes -= n_bytes
                self._room.notify_all()
                self._encoded.notify()

    def _write_all(self) -> None:
        try:
            while (batch := self._next_to_write()) is not None:
                self._write(batch)
        finally:
            self._shards.close()

    def _write(self, batch: Batch) -> None:
        for shard, append in batch.appends.items():
            self._shards.append(*shard, append.data, append.numbers, append.sizes)
        for place, line in batch.lines:
            self._journal.add(place, line)
            self._acknowledged += 1
        with self._lock:
            self._buffers.append(batch.buffer)
            if self._error is None:
                self._to_write.popleft()
            self._work.notify_all()
            if not (self._to_write or self._to_encode):
                self._room.notify_all()

    def _next_to_encode(self) -> Batch | None:
        with self._lock:
            while self._error is None:
                if self._to_encode and self._buffers:
                    batch = Batch(self._buffers.pop(), self._take_jobs())
                    self._to_write.append(batch)
                    return batch
                if self._is_closing and not self._to_encode:
                    return None
                self._work.wait()
        return None

    def _take_jobs(self) -> list[Job]:
        """Take what waits and fits in a buffer, whichever shards it belongs to."""
        jobs: list[Job] = []
        room = self._buffer_bytes
        while self._to_encode:
            room -= self._piece_bytes[self._to_encode[0].place.position]
            if jobs and room < 0:
                break
            jobs.append(self._to_encode.popleft())
        return jobs

    def _next_to_write(self) -> Batch | None:
        with self._lock:
            while self._error is None:
                if self._to_write and self._to_write[0].is_encoded:
                    return self._to_write[0]
                if self._is_closing and not (self._to_write or self._to_encode):
                    return None
                self._encoded.wait()
        return None

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread; what it meets is raised by the next call of the owner."""
        try:
            work()
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            self._fail(error)
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
            self._to_encode.clear()
            self._to_write.clear()
            self._wake_all()

    def _wake_all(self) -> None:
        for condition in (self._work, self._encoded, self._room):
            condition.notify_all()
