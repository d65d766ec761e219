"""Both ways to the disk leave the same store, and keep what they acknowledged."""

from __future__ import annotations

from pathlib import Path

import numcodecs.blosc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opm_engine.plan import Place
from opm_engine.writers.shards import file as shard_file
from opm_engine.writers.shards import index as shard_index
from opm_engine.writers.shards import sinks
from opm_engine.writers.shards.appender import AppendSink
from opm_engine.writers.shards.layout import Layout
from opm_engine.writers.shards.sink import Codec, Sink
from opm_engine.writers.shards.sinks import Backend, open_sink
from opm_engine.writers.shards.whole_shards import WholeShardSink
from sharding import (
    BACKENDS,
    CODECS,
    LARGE,
    ORDERS,
    Lines,
    both,
    can_append,
    check,
    line_of,
    new_array,
    places_of,
    planes_layout,
    put_planes,
    shards,
    truth,
    volumes_layout,
)


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


@can_append
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


@can_append
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


# ---------------------------------------------------------------- which way is taken


@can_append
@pytest.mark.parametrize(
    ("backend", "works", "expected"),
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
    works: bool,
    expected: type[Sink],
) -> None:
    if not works:
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
