"""Both ways to the disk leave the same store, and keep what they acknowledged."""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opm_engine.buffers import BufferPool
from opm_engine.plan import Place
from opm_engine.writers import shard_file, shard_index, sinks
from opm_engine.writers.appender import AppendSink
from opm_engine.writers.layout import Layout
from opm_engine.writers.sink import Codec, Sink
from opm_engine.writers.sinks import Backend, open_sink
from opm_engine.writers.whole_shards import WholeShardSink
from sharding import (
    ORDERS,
    Lines,
    line_of,
    new_array,
    places_of,
    planes_layout,
    put_planes,
    readings,
    shards,
    truth,
    volumes_layout,
)

CODECS: tuple[Codec, ...] = ("none", "lz4", "zstd")
BACKENDS: tuple[Backend, ...] = ("append", "tensorstore")
LARGE = planes_layout(c=2, z=3, depth=2, y=64, x=600)  # past the page cache

both = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def _appending(request: pytest.FixtureRequest) -> None:
    backend = getattr(request.node, "callspec", None)
    if shard_file.pwrite is None and backend and "append" in backend.params.values():
        pytest.skip("nothing can be appended on this platform")


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def check(folder: Path, expected: Any) -> None:
    for reader, pixels in readings(folder).items():
        assert np.array_equal(pixels, expected), reader


@both
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "layout", [planes_layout(2, 2, 5, 2), LARGE], ids=["buffered", "direct"]
)
def test_planes_are_read_by_others(
    tmp_path: Path, backend: Backend, codec: Codec, layout: Layout
) -> None:
    folder, lines = new_array(tmp_path / "0", layout, codec), Lines()
    pixels, places = truth(layout), places_of(layout, "interleaved")
    before = pixels.copy()
    sink = open_sink([folder], [layout], codec, lines, backend=backend)
    put_planes(sink, pixels, places)
    sink.flush()
    assert sink.acknowledged == len(places)
    assert sorted(lines.lines) == sorted((place, line_of(place)) for place in places)
    check(folder, pixels)
    sink.close()
    assert np.array_equal(pixels, before)
    check(folder, pixels)
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {"", ".json"}


@both
@pytest.mark.parametrize("order", ORDERS)
def test_planes_come_in_any_order(tmp_path: Path, backend: Backend, order: str) -> None:
    layout = planes_layout(t=7, c=2, z=3, depth=2)
    folder, lines = new_array(tmp_path / "0", layout, "lz4"), Lines()
    places = places_of(layout, order)
    sink = open_sink([folder], [layout], "lz4", lines, backend=backend)
    put_planes(sink, truth(layout), places)
    sink.close()
    assert sink.acknowledged == len(places)
    if backend == "append":
        assert lines.places == places  # in the order in which they came
    check(folder, truth(layout))


@both
def test_positions_differ_and_what_never_came_is_dark(
    tmp_path: Path, backend: Backend
) -> None:
    planned = [planes_layout(z=5, depth=3), planes_layout(z=2, depth=2)]
    folders = [
        new_array(tmp_path / str(p), layout, "zstd") for p, layout in enumerate(planned)
    ]
    sink = open_sink(folders, planned, "zstd", Lines(), backend=backend)
    for p, layout in enumerate(planned):
        places = places_of(layout, "interleaved", p)
        put_planes(sink, truth(layout, p), places[:-1])
    sink.close()
    for p, (folder, layout) in enumerate(zip(folders, planned, strict=True)):
        expected = truth(layout, p)
        expected[0, 0, -1] = 0
        check(folder, expected)


VOLUMES = {
    "whole bricks": volumes_layout((2, 2, 6, 12, 9), slabs=3, rows=4, depth=2),
    "edges": volumes_layout((1, 2, 7, 11, 9), slabs=2, rows=4, depth=3),
    "one slab": volumes_layout((2, 1, 5, 4, 9), slabs=1, rows=4, depth=5),
    "bricks of one plane": volumes_layout((2, 1, 3, 4, 9), slabs=1, rows=4, depth=1),
    "direct": volumes_layout((1, 1, 10, 75, 600), slabs=2, rows=32, depth=3),
}


@both
@pytest.mark.parametrize(
    ("codec", "way"),
    [
        *(("lz4", way) for way in ("whole", "forward", "backward", "several")),
        *(("none", way) for way in ("whole", "backward")),
        ("zstd", "forward"),
    ],
)
@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_come_whole_or_in_slabs(
    tmp_path: Path, backend: Backend, codec: Codec, way: str, name: str
) -> None:
    layout = VOLUMES[name]
    folder, lines = new_array(tmp_path / "0", layout, codec), Lines()
    pixels = truth(layout)
    sink = open_sink([folder], [layout], codec, lines, backend=backend)
    volumes = [
        Place(t, 0, c, 0)
        for t in range(layout.shape[0])
        for c in range(layout.shape[1])
    ]
    for place in volumes:
        volume = pixels[place.t, place.channel]
        if way == "whole":
            sink.put(place, volume, line_of(place))
            continue
        rows = layout.chunk[3] * (2 if way == "several" else 1)
        starts = list(range(0, layout.shape[3], rows))
        for y in starts[::-1] if way == "backward" else starts:
            last = y == (0 if way == "backward" else starts[-1])
            slab = volume[:, y : y + rows]
            sink.put_slab(place, y, slab, line_of(place) if last else None)
    sink.close()
    assert lines.lines == [(place, line_of(place)) for place in volumes]
    assert sink.acknowledged == len(volumes)
    check(folder, pixels)


@both
def test_slabs_of_channels_that_are_interleaved(
    tmp_path: Path, backend: Backend
) -> None:
    layout = VOLUMES["edges"]
    folder, lines = new_array(tmp_path / "0", layout, "lz4"), Lines()
    sink = open_sink([folder], [layout], "lz4", lines, backend=backend)
    for y in (0, 4, 8):
        for c in (0, 1):
            slab = truth(layout)[0, c, :, y : y + 4]
            sink.put_slab(Place(0, 0, c, 0), y, slab, b"\n" if y == 8 else None)
    sink.flush()
    assert sorted(lines.places) == [Place(0, 0, 0, 0), Place(0, 0, 1, 0)]
    sink.close()
    check(folder, truth(layout))


@both
@pytest.mark.parametrize(("first", "n_rows"), [(1, 4), (0, 3), (8, 2)])
def test_rows_that_are_no_chunks_are_refused(
    tmp_path: Path, backend: Backend, first: int, n_rows: int
) -> None:
    layout = VOLUMES["edges"]
    folder = new_array(tmp_path / "0", layout, "lz4")
    sink = open_sink([folder], [layout], "lz4", Lines(), backend=backend)
    slab = np.zeros((7, n_rows, 9), "u2")
    with pytest.raises(ValueError, match=f"rows {first} to {first + n_rows} are not"):
        sink.put_slab(Place(0, 0, 0, 0), first, slab)
    sink.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.tuples(*(st.integers(1, 3), st.integers(1, 2), st.integers(1, 7))),
    st.integers(1, 5),
    st.sampled_from(["u1", "<u2", "<f4"]),
    st.sampled_from(CODECS),
    st.sampled_from(ORDERS),
    st.sampled_from(BACKENDS),
)
def test_any_shape_type_and_order(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: tuple[int, int, int],
    depth: int,
    dtype: str,
    codec: Codec,
    order: str,
    backend: Backend,
) -> None:
    shape = (*sizes, 5, 8)
    chunk = (1, 1, 1, 5, 8)
    layout = Layout(shape, (1, 1, depth, 5, 8), chunk, np.dtype(dtype).name)
    folder = new_array(tmp_path_factory.mktemp("any") / "0", layout, codec)
    pixels = truth(layout).astype(dtype)
    sink = open_sink([folder], [layout], codec, Lines(), backend=backend)
    for place in places_of(layout, order):
        sink.put(place, pixels[place.t, place.channel, place.plane], b"\n")
    sink.close()
    check(folder, pixels)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", [LARGE, VOLUMES["edges"]], ids=["planes", "volumes"])
def test_an_appended_shard_holds_what_others_would_write(
    tmp_path: Path, codec: Codec, layout: Layout
) -> None:
    folders = {b: new_array(tmp_path / b, layout, codec) for b in BACKENDS}
    pixels = truth(layout)
    for backend, folder in folders.items():
        sink = open_sink([folder], [layout], codec, Lines(), backend=backend)
        if layout is LARGE:
            put_planes(sink, pixels, places_of(layout, "by channel"))
        else:
            for c in (0, 1):
                sink.put(Place(0, 0, c, 0), pixels[0, c], b"\n")
        sink.close()
    names = {b: [p.relative_to(f) for p in shards(f)] for b, f in folders.items()}
    assert names["append"] == names["tensorstore"]
    for name in names["append"]:
        ours, others = (chunks_in(folders[b] / name, layout, codec) for b in BACKENDS)
        assert ours == others


def chunks_in(path: Path, layout: Layout, codec: Codec) -> dict[int, bytes]:
    """Chunks of a shard, decompressed."""
    data = path.read_bytes()
    table = shard_index.read(path, layout.n_chunks)
    decode = bytes if codec == "none" else numcodecs.blosc.decompress
    return {
        number: decode(data[at : at + size])
        for number, (at, size) in enumerate(table.tolist())
        if at != shard_index.ABSENT
    }


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
    layout = VOLUMES["direct"]
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


# ---------------------------------------------------------------- which way is taken


@pytest.mark.parametrize(
    ("backend", "can_append", "expected"),
    [
        ("auto", True, AppendSink),
        ("auto", False, WholeShardSink),
        ("append", True, AppendSink),
        ("tensorstore", True, WholeShardSink),
    ],
)
def test_the_way_is_chosen_by_trial(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: Backend,
    can_append: bool,
    expected: type[Sink],
) -> None:
    if not can_append:
        monkeypatch.setattr(shard_file, "pwrite", None)
    folder = new_array(tmp_path / "0", LARGE, "lz4")
    sink = open_sink([folder], [LARGE], "lz4", Lines(), backend=backend)
    sink.close()
    assert type(sink) is expected
    assert [path.name for path in folder.iterdir()] == ["zarr.json"]


@pytest.mark.parametrize(("layout", "block"), [(LARGE, 4096), (planes_layout(), 64)])
def test_small_planes_go_through_the_page_cache(
    tmp_path: Path, layout: Layout, block: int
) -> None:
    if shard_file.probe(tmp_path) != shard_file.DIRECT_BLOCK:
        pytest.skip("this file system has no way past its cache")
    folder = new_array(tmp_path / "0", layout, "none")
    sink = open_sink([folder], [layout], "none", Lines(), backend="append")
    put_planes(sink, truth(layout), [Place(0, 0, 0, 0)])
    sink.close()
    (shard,) = shards(folder)
    used = layout.chunk_bytes + shard_index.index_bytes(layout.n_chunks)
    assert shard.stat().st_size == -(-used // block) * block


def test_appending_is_refused_where_it_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_file, "pwrite", None)
    with pytest.raises(OSError, match="use another backend"):
        sinks.open_sink([tmp_path], [LARGE], "lz4", Lines(), backend="append")
