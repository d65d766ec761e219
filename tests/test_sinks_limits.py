"""What waits for the disk stays within bounds, and what it refuses is told."""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from opm_engine.buffers import BufferPool
from opm_engine.plan import Place
from opm_engine.writers.shards import file as shard_file
from opm_engine.writers.shards.layout import Layout
from opm_engine.writers.shards.sink import Codec, Sink
from opm_engine.writers.shards.sinks import Backend, open_sink
from sharding import (
    CODECS,
    LARGE,
    Lines,
    both,
    can_append,
    check,
    new_array,
    places_of,
    planes_layout,
    put_planes,
    truth,
    volumes_layout,
)

pytestmark = can_append


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


# ---------------------------------------------------------------- while it is written


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that waits for this event before each write."""
    turning = threading.Event()

    def pwrite(fd: int, data: Any, offset: int) -> int:
        assert turning.wait(30)
        return os.pwrite(fd, data, offset)

    monkeypatch.setattr(shard_file, "pwrite", pwrite)
    turning.set()
    yield turning
    turning.set()


@pytest.mark.parametrize("codec", CODECS)
def test_each_plane_can_be_read_once_it_is_acknowledged(
    tmp_path: Path, codec: Codec
) -> None:
    folder, lines = new_array(tmp_path / "0", LARGE, codec), Lines()
    pixels = truth(LARGE)
    expected = np.zeros_like(pixels)
    sink = open_sink([folder], [LARGE], codec, lines, backend="append")
    for number, place in enumerate(places_of(LARGE, "interleaved"), 1):
        put_planes(sink, pixels, [place])
        wait_until(lambda number=number: sink.acknowledged == number)
        where = place.t, place.channel, place.plane
        expected[where] = pixels[where]
        check(folder, expected)
    sink.close()


def test_nothing_is_acknowledged_before_it_is_on_disk(
    tmp_path: Path, slow_disk: threading.Event
) -> None:
    folder, lines = new_array(tmp_path / "0", LARGE, "lz4"), Lines()
    sink = open_sink([folder], [LARGE], "lz4", lines, backend="append")
    slow_disk.clear()
    put_planes(sink, truth(LARGE), places_of(LARGE, "interleaved"))  # does not wait
    time.sleep(0.05)
    assert sink.acknowledged == 0
    assert lines.lines == []
    slow_disk.set()
    sink.flush()
    assert sink.acknowledged == len(lines.lines) == 6
    sink.close()


def test_the_number_of_open_files_is_bounded(tmp_path: Path) -> None:
    layout = planes_layout(t=30, c=2, z=4, depth=4)
    folder = new_array(tmp_path / "0", layout, "none")
    sink = open_sink([folder], [layout], "none", Lines(), backend="append")
    put_planes(sink, truth(layout), places_of(layout, "times last")[:200])
    sink.flush()
    assert 0 < len(_open_files(folder)) <= 4
    sink.close()
    assert _open_files(folder) == []


def _open_files(folder: Path) -> list[Any]:
    files = psutil.Process().open_files()
    return [file for file in files if file.path.startswith(str(folder))]


def test_the_shard_used_least_recently_is_closed(tmp_path: Path) -> None:
    layout = planes_layout(t=5, z=3, depth=3)
    folder = new_array(tmp_path / "0", layout, "none")
    sink = open_sink([folder], [layout], "none", Lines(), backend="append")
    times = [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (4, 0)]
    for t, z in times:
        put_planes(sink, truth(layout), [Place(t, 0, 0, z)])
        sink.flush()
    names = [Path(f.path).relative_to(folder / "c") for f in _open_files(folder)]
    assert sorted(int(name.parts[0]) for name in names) == [0, 2, 3, 4]
    sink.close()


def test_pixels_are_let_go_once_they_are_encoded(
    tmp_path: Path, slow_disk: threading.Event
) -> None:
    folder = new_array(tmp_path / "0", LARGE, "lz4")
    sink = open_sink([folder], [LARGE], "lz4", Lines(), backend="append")
    slow_disk.clear()
    plane = truth(LARGE)[0, 0, 0].copy()
    gone = threading.Event()
    weakref.finalize(plane, gone.set)
    sink.put(Place(0, 0, 0, 0), plane, b"\n")
    del plane
    assert gone.wait(10)
    slow_disk.set()
    sink.close()


@both
def test_memory_stays_within_the_budget(
    tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted as arrays that the sink still holds, from a pool that counts."""

    def pwrite(fd: int, data: Any, offset: int) -> int:
        time.sleep(0.002)
        return os.pwrite(fd, data, offset)

    monkeypatch.setattr(shard_file, "pwrite", pwrite)
    layout = planes_layout(z=200, depth=20, y=128, x=512)
    plane_bytes, budget = layout.chunk_bytes, 40 * layout.chunk_bytes
    folder = new_array(tmp_path / "0", layout, "lz4")
    sink = open_sink(
        [folder], [layout], "lz4", Lines(), backend=backend, budget_bytes=budget
    )
    alive: set[int] = set()
    most = 0
    for place in places_of(layout, "interleaved"):
        plane = np.full((128, 512), place.plane + 1, "u2")
        alive.add(place.plane)
        weakref.finalize(plane, alive.discard, place.plane)
        sink.put(place, plane, b"\n")
        del plane
        most = max(most, len(alive))
    sink.close()
    assert alive == set()
    assert 2 <= most * plane_bytes <= budget + plane_bytes
    check(folder, np.broadcast_to(np.arange(1, 201).reshape(-1, 1, 1), layout.shape))


@both
def test_an_item_larger_than_the_budget_is_taken(
    tmp_path: Path, backend: Backend
) -> None:
    layout = volumes_layout((1, 1, 10, 75, 600), slabs=2, rows=32, depth=3)
    folder = new_array(tmp_path / "0", layout, "lz4")
    sink = open_sink(
        [folder], [layout], "lz4", Lines(), backend=backend, budget_bytes=1
    )
    sink.put(Place(0, 0, 0, 0), truth(layout)[0, 0], b"\n")
    sink.close()
    check(folder, truth(layout))


def test_buffers_that_go_round_are_not_reused_too_early(
    tmp_path: Path, slow_disk: threading.Event
) -> None:
    layout = planes_layout(z=40, depth=10, y=64, x=600)
    folder = new_array(tmp_path / "0", layout, "none")
    pool, pixels = BufferPool(), truth(layout)
    sink = open_sink([folder], [layout], "none", Lines(), backend="append")
    slow_disk.clear()
    for place in places_of(layout, "interleaved"):
        plane = pool.take((64, 600), "u2")
        plane[:] = pixels[0, 0, place.plane]
        sink.put(place, plane, b"\n")
        del plane
    slow_disk.set()
    sink.close()
    check(folder, pixels)


# ---------------------------------------------------------------- when it fails


class FullDisk:
    """Takes so many bytes and no more."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, fd: int, data: Any, offset: int) -> int:
        n_bytes = min(len(data), self.room) // 4096 * 4096
        if not n_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= n_bytes
        return os.pwrite(fd, data[:n_bytes], offset)


def put_slowly(sink: Sink, layout: Layout) -> None:
    pixels = truth(layout)
    for place in places_of(layout, "interleaved"):
        put_planes(sink, pixels, [place])
        time.sleep(0.002)


@pytest.mark.parametrize("codec", CODECS)
def test_a_full_disk_raises_soon_and_keeps_what_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: Codec
) -> None:
    layout = planes_layout(c=2, z=100, depth=7, y=64, x=600)
    folder, lines = new_array(tmp_path / "0", layout, codec), Lines()
    sink = open_sink([folder], [layout], codec, lines, backend="append")
    monkeypatch.setattr(shard_file, "pwrite", FullDisk(300_000))
    with pytest.raises(OSError, match=f"No space left.*{folder}") as caught:
        put_slowly(sink, layout)
    assert caught.value.errno == errno.ENOSPC
    for call in (sink.flush, sink.close, sink.close):
        with pytest.raises(OSError, match="No space left"):
            call()
    assert 0 < sink.acknowledged == len(lines.lines)
    pixels = truth(layout)
    expected = np.zeros_like(pixels)
    for place in lines.places:
        where = place.t, place.channel, place.plane
        expected[where] = pixels[where]
    check(folder, expected)


def test_who_waits_for_room_hears_of_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = planes_layout(z=100, depth=10, y=64, x=600)
    folder = new_array(tmp_path / "0", layout, "none")

    def pwrite(fd: int, data: Any, offset: int) -> int:
        time.sleep(0.2)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sink = open_sink(
        [folder], [layout], "none", Lines(), backend="append", budget_bytes=2**20
    )
    monkeypatch.setattr(shard_file, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space left"):
        put_slowly(sink, layout)
    with pytest.raises(OSError, match="No space left"):
        sink.close()


class FailingJournal(Lines):
    def add(self, place: Place, line: bytes) -> None:
        if len(self.lines) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().add(place, line)


@both
def test_a_journal_that_fails_stops_the_sink(tmp_path: Path, backend: Backend) -> None:
    layout = planes_layout(z=60, depth=2)
    folder, journal = new_array(tmp_path / "0", layout, "lz4"), FailingJournal()
    sink = open_sink([folder], [layout], "lz4", journal, backend=backend)
    with pytest.raises(OSError, match="No space left"):
        put_slowly(sink, layout)
    with pytest.raises(OSError, match="No space left"):
        sink.close()
    assert sink.acknowledged == 3


class WordyJournal(Lines):
    def add(self, place: Place, line: bytes) -> None:
        raise OSError("the dog ate it")


@both
def test_an_error_without_a_number_keeps_its_words(
    tmp_path: Path, backend: Backend
) -> None:
    layout = planes_layout()
    folder = new_array(tmp_path / "0", layout, "lz4")
    sink = open_sink([folder], [layout], "lz4", WordyJournal(), backend=backend)
    sink.put(Place(0, 0, 0, 0), truth(layout)[0, 0, 0], b"\n")
    with pytest.raises(OSError, match="the dog ate it"):
        sink.close()


def test_a_store_that_is_taken_away_stops_the_fallback(tmp_path: Path) -> None:
    layout = planes_layout(z=60, depth=2)
    folder = new_array(tmp_path / "0", layout, "lz4")
    sink = open_sink([folder], [layout], "lz4", Lines(), backend="tensorstore")
    (folder / "c").write_text("in the way")
    with pytest.raises(OSError, match="0/c"):
        put_slowly(sink, layout)
    with pytest.raises(OSError, match="0/c"):
        sink.close()


@both
def test_a_closed_sink_takes_nothing(tmp_path: Path, backend: Backend) -> None:
    layout = planes_layout()
    folder = new_array(tmp_path / "0", layout, "lz4")
    sink = open_sink([folder], [layout], "lz4", Lines(), backend=backend)
    sink.close()
    sink.close()
    with pytest.raises(ValueError, match="closed"):
        put_planes(sink, truth(layout), [Place(0, 0, 0, 0)])
