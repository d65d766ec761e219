"""A shard that is appended to is whole at every moment, whatever the disk does."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from opm_engine.buffers import BufferPool
from opm_engine.writers.shards import file as shard_file
from opm_engine.writers.shards import index as shard_index
from opm_engine.writers.shards.file import DIRECT_BLOCK, ShardFile, probe, tail_bytes

N_CHUNKS = 9
THROUGH_CACHE = shard_index.BOUNDARY

pytestmark = pytest.mark.skipif(
    shard_file.pwrite is None, reason="nothing can be appended on this platform"
)


@pytest.fixture(params=[DIRECT_BLOCK, THROUGH_CACHE], ids=["direct", "buffered"])
def block(request: pytest.FixtureRequest, tmp_path: Path) -> int:
    if request.param == DIRECT_BLOCK and probe(tmp_path) != DIRECT_BLOCK:
        pytest.skip("this file system has no way past its cache")
    return int(request.param)


def chunk(number: int, size: int) -> npt.NDArray[np.uint8]:
    return (np.arange(size) * 7 + number + 1).astype(np.uint8)


def append(shard: ShardFile, block: int, sizes: dict[int, int]) -> None:
    total = sum(sizes.values())
    buffer = BufferPool().take((total + tail_bytes(N_CHUNKS, block),), "uint8")
    buffer[:] = 99
    buffer[:total] = np.concatenate([chunk(n, size) for n, size in sizes.items()])
    shard.append(buffer, list(sizes), list(sizes.values()))


def held(path: Path) -> dict[int, int]:
    """Sizes of the chunks that a shard holds, each checked byte by byte."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    sizes = {}
    for number, (offset, size) in enumerate(shard_index.read(path, N_CHUNKS).tolist()):
        if offset != shard_index.ABSENT:
            assert np.array_equal(data[offset : offset + size], chunk(number, size))
            sizes[number] = size
    return sizes


def test_every_append_leaves_a_whole_shard(tmp_path: Path, block: int) -> None:
    path = tmp_path / "c/0/0"
    shard = ShardFile(path, N_CHUNKS, block)
    assert not path.exists()  # nobody can open a shard without an index
    before = b""
    expected: dict[int, int] = {}
    for sizes in ({4: 5000}, {0: 1, 8: 4096}, {1: 4100, 2: 77, 3: 64}):
        append(shard, block, sizes)
        expected |= sizes
        assert held(path) == expected
        assert shard.n_written == len(expected)
        data = path.read_bytes()
        assert data.startswith(before)  # nothing is written over
        assert len(data) % block == 0
        before = data
    shard.close()
    shard.close()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["0"]


def test_a_shard_that_is_come_back_to_goes_on(tmp_path: Path, block: int) -> None:
    path = tmp_path / "0"
    for number in (3, 1, 2):
        shard = ShardFile(path, N_CHUNKS, block)
        append(shard, block, {number: 1000 + number})
        shard.close()
    assert held(path) == {1: 1001, 2: 1002, 3: 1003}


def test_direct_writes_go_on_behind_a_buffered_end(tmp_path: Path) -> None:
    path = tmp_path / "0"
    for number, block in enumerate([THROUGH_CACHE, probe(tmp_path) or THROUGH_CACHE]):
        shard = ShardFile(path, N_CHUNKS, block)
        append(shard, block, {number: 100})
        shard.close()
    assert held(path) == {0: 100, 1: 100}


def test_a_torn_shard_is_not_appended_to(tmp_path: Path, block: int) -> None:
    path = tmp_path / "0"
    shard = ShardFile(path, N_CHUNKS, block)
    append(shard, block, {0: 9000})
    shard.close()
    os.truncate(path, 5000)
    with pytest.raises(ValueError, match="torn"):
        ShardFile(path, N_CHUNKS, block)


def test_a_shard_without_chunks_leaves_nothing(tmp_path: Path, block: int) -> None:
    ShardFile(tmp_path / "0", N_CHUNKS, block).close()
    assert list(tmp_path.iterdir()) == []


class Disk:
    """Writes `most` bytes at a call, and nothing beyond `size`."""

    def __init__(self, size: int = 2**62, most: int = 2**62, number: int = 0) -> None:
        self.size, self.most, self.number = size, most, number

    def __call__(self, fd: int, data: Any, offset: int) -> int:
        n_bytes = min(len(data), self.most, self.size - offset)
        if n_bytes <= 0 and self.number:
            raise OSError(self.number, os.strerror(self.number))
        return os.pwrite(fd, data[:n_bytes], offset) if n_bytes > 0 else 0


@pytest.mark.parametrize("most", [1000, 4096, 4100, 10_000])
def test_short_writes_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    block = THROUGH_CACHE
    monkeypatch.setattr(shard_file, "pwrite", Disk(most=most))
    shard = ShardFile(tmp_path / "0", N_CHUNKS, block)
    append(shard, block, {0: 9000})
    append(shard, block, {1: 20_000, 2: 3})
    shard.close()
    assert held(tmp_path / "0") == {0: 9000, 1: 20_000, 2: 3}


def test_a_direct_write_that_ends_within_a_block_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if probe(tmp_path) != DIRECT_BLOCK:
        pytest.skip("this file system has no way past its cache")

    def pwrite(fd: int, data: Any, offset: int) -> int:
        return min(5000, os.pwrite(fd, data, offset))

    monkeypatch.setattr(shard_file, "pwrite", pwrite)
    shard = ShardFile(tmp_path / "0", N_CHUNKS, DIRECT_BLOCK)
    append(shard, DIRECT_BLOCK, {0: 20_000})
    shard.close()
    assert held(tmp_path / "0") == {0: 20_000}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EIO, 0])
@pytest.mark.parametrize("room", [0, 1, 64, 4096, 20_000])
def test_a_full_disk_costs_no_chunk_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, number: int, room: int
) -> None:
    path = tmp_path / "0"
    shard = ShardFile(path, N_CHUNKS, block)
    append(shard, block, {0: 9000})
    before = path.read_bytes()
    room -= room % block  # the file system's own granularity
    monkeypatch.setattr(shard_file, "pwrite", Disk(len(before) + room, number=number))
    with pytest.raises(OSError, match=str(path)) as caught:
        append(shard, block, {1: 40_000})
    assert caught.value.errno == (number or errno.ENOSPC)
    assert path.read_bytes() == before
    monkeypatch.setattr(shard_file, "pwrite", os.pwrite)  # there is room again
    append(shard, block, {1: 50})
    shard.close()
    assert held(path) == {0: 9000, 1: 50}


def test_the_first_chunk_that_fails_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(shard_file, "pwrite", Disk(0))
    shard = ShardFile(tmp_path / "0", N_CHUNKS, block)
    with pytest.raises(OSError, match="No space"):
        append(shard, block, {0: 9000})
    shard.close()
    assert list(tmp_path.iterdir()) == []


def refusing_direct(fd: int, data: Any, offset: int) -> int:
    import fcntl

    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return os.pwrite(fd, data, offset)


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="needs O_DIRECT to refuse it")
def test_a_file_system_that_opens_direct_but_does_not_write_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_file, "pwrite", refusing_direct)
    assert probe(tmp_path) == THROUGH_CACHE
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_file, "pwrite", Disk(0))
    with pytest.raises(OSError, match="No space"):
        probe(tmp_path)
    monkeypatch.setattr(shard_file, "pwrite", None)
    assert probe(tmp_path) is None


class Killed(BaseException):
    """What no handler catches."""


@pytest.mark.parametrize("n_pages", range(12))
def test_killed_while_the_page_cache_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_pages: int
) -> None:
    """The kernel copies page by page, and a kill ends it between two of them."""
    path = tmp_path / "shard"
    shard = ShardFile(path, N_CHUNKS, THROUGH_CACHE)
    before = {0: 100, 1: 9000}
    append(shard, THROUGH_CACHE, before)
    left = n_pages

    def copy_pages(fd: int, data: Any, offset: int) -> int:
        nonlocal left
        done = 0
        while done < len(data):
            if not left:
                raise Killed
            left -= 1
            n_bytes = min(
                shard_file.PAGE - (offset + done) % shard_file.PAGE, len(data)
            )
            done += os.pwrite(fd, data[done : done + n_bytes], offset + done)
            assert held(path) in (before, after)  # whoever looks just now
        return done

    sizes = {3: 4000, 4: 20_000}
    after = before | sizes
    monkeypatch.setattr(shard_file, "pwrite", copy_pages)
    if n_pages < 8:
        with pytest.raises(Killed):
            append(shard, THROUGH_CACHE, sizes)
        assert held(path) == before
    else:
        append(shard, THROUGH_CACHE, sizes)
        assert held(path) == after
    monkeypatch.undo()
    again = ShardFile(path, N_CHUNKS, THROUGH_CACHE)
    append(again, THROUGH_CACHE, {7: 5000})
    again.close()
    assert held(path).items() >= (before | {7: 5000}).items()
