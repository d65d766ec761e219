"""`ShardFile`: one shard, appended to chunk by chunk, readable at every moment.

Separate so that what a crash, a reader or a full disk can meet in a file is decided in
one place. Knows offsets and bytes; not what a chunk holds, nor whose it is.

Every append puts [chunks | padding | index] behind what is there, in one write, and
never touches a byte that was written before. So the file always ends in a valid index,
but for the write in flight; what that left can be cut off (`index.recover`). A
file appears under its name with its first chunk.

Past the page cache a file grows when a write is complete. Through it, it grows page by
page, and would not end in an index meanwhile: there the old index is first put where
the file will end, and is overwritten last.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opm_engine.buffers import BufferPool
from opm_engine.writers.shards import index
from opm_engine.writers.shards.encoding import Bytes

DIRECT_BLOCK = 4096
"""Writes past the page cache begin and end at multiples of this, memory too."""

PAGE = mmap.PAGESIZE
"""What the page cache takes or does not take of a write."""

PARTIAL = ".partial"
"""Suffix of a shard that holds no chunk yet; a crash may leave one."""

pwrite: Callable[[int, Any, int], int] | None = getattr(os, "pwrite", None)
"""The one call by which pixels get into shards; None where the platform has none.

Replace it to slow the disk down or to make it fail.
"""


def probe(folder: Path) -> int | None:
    """Find out how files in a folder can be appended to, by doing it.

    Returns
    -------
    int or None
        Bytes that a write must be a multiple of: `DIRECT_BLOCK` past the page cache,
        ``index.BOUNDARY`` through it; None if neither works.

    Raises
    ------
    OSError
        If nothing at all can be written there.
    """
    if pwrite is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    data = BufferPool().take((DIRECT_BLOCK,), "uint8")
    data[:] = 1
    direct = [DIRECT_BLOCK] if hasattr(os, "O_DIRECT") else []
    for block in (*direct, index.BOUNDARY):
        if _can_append(folder / f"probe{PARTIAL}", data, block):
            return block
    return None


class ShardFile:
    """One shard that is appended to; opened again, it goes on where it ended.

    Parameters
    ----------
    path : Path
        Missing folders are made.
    n_chunks : int
        Places in its index.
    block : int
        As `probe` returned it.

    Raises
    ------
    OSError
        If it cannot be created or opened.
    ValueError
        If the path exists and does not end in a valid index.
    """

    def __init__(self, path: Path, n_chunks: int, block: int) -> None:
        self._path = path
        self._block = block
        self._end = 0
        self._is_new = not path.exists()
        if self._is_new:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._table = index.empty(n_chunks)
            self._fd = _open(_partial(path), os.O_CREAT | os.O_TRUNC, block)
        else:
            self._table = index.read(path, n_chunks)
            self._fd = _open(path, 0, block)
            self._end = os.fstat(self._fd).st_size

    @property
    def n_written(self) -> int:
        """Chunks that the file holds."""
        return int((self._table[:, 0] != index.ABSENT).sum())

    def append(
        self, buffer: Bytes, numbers: Sequence[int], sizes: Sequence[int]
    ) -> None:
        """Write chunks, and make them readable.

        Parameters
        ----------
        buffer : (n,) uint8
            The chunks one behind the other, and behind them room for `tail_bytes`, that
            is overwritten. If written past the page cache: begins at a page boundary.
        numbers : sequence of int
            Of the chunks, in the shard's index.
        sizes : sequence of int
            Bytes of each.

        Raises
        ------
        OSError
            If not all of it was written. The file then ends as it did before.
        """
        start = _up(self._end, self._block)
        table, at = self._table.copy(), start
        for number, size in zip(numbers, sizes, strict=True):
            table[number] = at, size
            at += size
        tail = np.frombuffer(index.encode(table), np.uint8)
        end = self._end_behind(at, len(tail))
        data = buffer[: end - start]
        data[at - start :] = 0
        data[-len(tail) :] = tail
        try:
            if self._block != DIRECT_BLOCK and not self._is_new:
                old = np.frombuffer(index.encode(self._table), np.uint8)
                _write_all(self._fd, old, end - len(old), 1)
            _write_all(self._fd, data, start, self._block)
        except OSError as error:
            os.ftruncate(self._fd, self._end)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._table, self._end = table, end
        if self._is_new:
            _partial(self._path).rename(self._path)
            self._is_new = False

    def _end_behind(self, at: int, n_bytes: int) -> int:
        """Return where the file ends if an index follows chunks that end at ``at``."""
        end = _up(at + n_bytes, self._block)
        if n_bytes <= PAGE and (end - n_bytes) // PAGE != (end - 1) // PAGE:
            end = _up(_up(at, PAGE) + n_bytes, self._block)  # a page is written whole
        return end

    def close(self) -> None:
        """Let go of the file; may be called twice.

        Raises
        ------
        OSError
            If it cannot be closed.
        """
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        os.close(fd)
        if self._is_new:
            _partial(self._path).unlink()


def tail_bytes(n_chunks: int, block: int) -> int:
    """Room that `ShardFile.append` needs behind the chunks, at most."""
    return 2 * index.index_bytes(n_chunks) + block


def _write_all(fd: int, data: Bytes, offset: int, block: int) -> None:
    """Write all of it, or raise: a disk that fills up writes a part and says so."""
    assert pwrite is not None
    done = 0
    while done < len(data):
        n_bytes = pwrite(fd, data[done:], offset + done)
        if done + n_bytes < len(data):
            n_bytes -= n_bytes % block
        if n_bytes <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += n_bytes


def _can_append(path: Path, data: Bytes, block: int) -> bool:
    try:
        fd = _open(path, os.O_CREAT | os.O_TRUNC, block)
    except OSError as error:
        if error.errno == errno.EINVAL:  # no such thing as O_DIRECT here
            return False
        raise
    try:
        _write_all(fd, data, 0, block)
        return path.read_bytes() == data.tobytes()
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTSUP):
            return False
        raise
    finally:
        os.close(fd)
        path.unlink()


def _open(path: Path, flags: int, block: int) -> int:
    if block == DIRECT_BLOCK:
        flags |= os.O_DIRECT
    return os.open(path, os.O_RDWR | flags, 0o666)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def _up(n_bytes: int, block: int) -> int:
    return -(-n_bytes // block) * block
