"""The index at the end of a shard: where in the file each chunk lies.

Separate because the writer, the readers of a growing store and the repair of a torn
one must agree on it to the byte. Knows the zarr v3 sharding codec (index at the end,
little endian, crc32c), and nothing of pixels.

A shard that is appended to holds an index behind each append. The last one counts; if
what was written last is torn, the one before it does.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.uint64]
"""(n_chunks, 2): offset and number of bytes of each chunk; `ABSENT` twice for none."""

ABSENT = np.uint64(2**64 - 1)
"""Offset and length of a chunk that was never written."""

BOUNDARY = 64
"""Every append of ours ends at a multiple of this many bytes."""

_WINDOW = 2**22
_RETRY_S = 0.002


def index_bytes(n_chunks: int) -> int:
    """Size in bytes of the index of a shard of so many chunks."""
    return 16 * n_chunks + 4


def empty(n_chunks: int) -> Table:
    """Return the table (n_chunks, 2) of a shard without chunks."""
    return np.full((n_chunks, 2), ABSENT)


def encode(table: Table) -> bytes:
    """Return the bytes of an index.

    Parameters
    ----------
    table : (n_chunks, 2) uint64
    """
    entries = table.astype("<u8", copy=False).tobytes()
    return entries + _checksum(entries)


def decode(data: bytes, n_chunks: int) -> Table | None:
    """Return the table (n_chunks, 2) uint64, or None if these bytes are no index."""
    if len(data) != index_bytes(n_chunks):
        return None
    entries = data[:-4]
    if _checksum(entries) != data[-4:]:
        return None
    return np.frombuffer(entries, "<u8").astype(np.uint64).reshape(n_chunks, 2)


def read(path: Path, n_chunks: int) -> Table:
    """Return the index (n_chunks, 2) at the end of a shard, which may be growing.

    Raises
    ------
    FileNotFoundError
        If there is no such shard.
    ValueError
        If the file does not end in an index, twice: it is torn (see `recover`).
    """
    table = decode(_tail(path, n_chunks), n_chunks)
    if table is None:  # it grew while it was read
        time.sleep(_RETRY_S)
        table = decode(_tail(path, n_chunks), n_chunks)
    if table is None:
        msg = f"{path} does not end in an index of {n_chunks} chunks: it is torn"
        raise ValueError(msg)
    return table


def recover(path: Path, n_chunks: int) -> tuple[Table, int]:
    """Find the last whole state of a shard that may be torn.

    Returns
    -------
    table : (n_chunks, 2) uint64
        All `ABSENT` if nothing is whole.
    n_valid_bytes : int
        Cut the file to this size, and it ends in that index. 0 if nothing is whole.

    Raises
    ------
    FileNotFoundError
        If there is no such shard.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        table = _index_ending_at(file, size, n_chunks)
        if table is not None:
            return table, size
        last = size - size % BOUNDARY
        for stop in range(last, 0, -_WINDOW):
            for end in _candidates(file, stop, n_chunks):
                table = _index_ending_at(file, end, n_chunks)
                if table is not None:
                    return table, end
    return empty(n_chunks), 0


def _checksum(entries: bytes) -> bytes:
    return int(google_crc32c.value(entries)).to_bytes(4, "little")


def _tail(path: Path, n_chunks: int) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - index_bytes(n_chunks)))
        return file.read(index_bytes(n_chunks))


def _index_ending_at(file: Any, end: int, n_chunks: int) -> Table | None:
    start = end - index_bytes(n_chunks)
    if start < 0:
        return None
    file.seek(start)
    table = decode(file.read(end - start), n_chunks)
    return table if table is not None and _lies_before(table, start) else None


def _lies_before(table: Table, end: int) -> bool:
    """Whether every chunk of a table lies before a place in the file."""
    there = table[table[:, 0] != ABSENT]
    limit = np.uint64(end)
    inside = (there[:, 0] <= limit) & (there[:, 1] <= limit - there[:, 0])
    return bool(inside.all())


def _candidates(file: Any, stop: int, n_chunks: int) -> list[int]:
    """Return where in the window before `stop` an index may end, last first.

    Looks at the first entry only: all but few places are ruled out without a checksum.
    """
    n_index = index_bytes(n_chunks)
    ends = np.arange(max(BOUNDARY, stop - _WINDOW + BOUNDARY), stop + 1, BOUNDARY)
    ends = ends[ends >= n_index]
    if not ends.size:
        return []
    base = int(ends[0]) - n_index
    file.seek(base)
    data = np.frombuffer(file.read(int(ends[-1]) - base), np.uint8)
    starts = ends - n_index
    first = data[(starts - base)[:, None] + np.arange(16)].view("<u8")
    offset, length = first[:, 0], first[:, 1]
    absent = (offset == ABSENT) & (length == ABSENT)
    limit = starts.astype(np.uint64)
    likely = absent | ((offset < limit) & (length <= limit) & (length > 0))
    return [int(end) for end in ends[likely][::-1]]
