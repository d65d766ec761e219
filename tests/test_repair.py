"""What a crash may leave, made by hand, and what repair makes of it."""

from __future__ import annotations

import json
import os
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import pytest
import useq
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from opm_engine import OMEZarrWriter
from opm_engine.plan import Place, Stream
from opm_engine.writers import scene
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.reading import read_frames
from opm_engine.writers.scene import rewrite_as_05, rewrite_as_scene
from opm_engine.writers.shards.sink import Codec
from opm_engine.writers.upkeep.documents import NotAStoreError
from opm_engine.writers.upkeep.files import StoredShard
from opm_engine.writers.upkeep.info import describe_store
from opm_engine.writers.upkeep.inventory import inventory
from opm_engine.writers.upkeep.repair import RepairReport, repair
from sequences import TWO_CHANNELS, scan
from twins import opened
from writing import SEQUENCE, carrier, images, indices, item, send, stream_for

PLANES = stream_for(t=2, p=2, c=2, z=6, shape=(24, 40))
VOLUMES = stream_for(t=2, p=1, c=2, shape=(5, 70, 40))
STREAMS = {"planes": PLANES, "volumes": VOLUMES}
BACKENDS = ("append", "tensorstore")

Stores = Callable[..., Path]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Stores of each stream, whole, as each backend writes them."""
    made: dict[tuple[str, str], Path] = {}

    def store(kind: str = "planes", backend: str = "append") -> Path:
        if (kind, backend) not in made:
            path = tmp_path_factory.mktemp("whole") / "x.ome.zarr"
            writer = OMEZarrWriter(path, backend=backend, codec="lz4")
            stream = STREAMS[kind]
            writer.sequenceStarted(SEQUENCE, carrier(stream))
            sent = indices(stream, "tpzc" if kind == "planes" else "tpc")
            for number, at in enumerate(sent):
                send(writer, stream, at, {"runner_time_ms": float(sum(at.values()))})
                while backend == "append" and writer.frames_written <= number:
                    time.sleep(1e-4)  # or it would be one write with the next
            writer.sequenceFinished(SEQUENCE)
            made[kind, backend] = path
        return made[kind, backend]

    return store


def n_items(stream: Stream) -> int:
    return len(indices(stream, "tpcz" if stream.kind == "planes" else "tpc"))


def assert_sound(store: Path, stream: Stream, report: RepairReport) -> None:
    """What is said to be there is there, pixel by pixel, and told of once."""
    yaozarrs.validate_zarr_store(str(store))
    told = set()
    for position in range(len(stream.positions)):
        for frame in read_frames(store, position):
            place = stream.place(frame["index"])
            assert place not in told
            told.add(place)
    arrays = [np.asarray(image["0"][:]) for image in images(store, stream)]
    whole = set()
    for at in indices(stream, "tpcz" if stream.kind == "planes" else "tpc"):
        place = stream.place(at)
        pixels = arrays[place.position][place.t, place.channel]
        if stream.kind == "planes":
            pixels = pixels[place.plane]
        expected = item(stream, at)
        if np.array_equal(pixels, expected):
            whole.add(place)
        else:
            assert not pixels[pixels != expected].any(), f"{place} is torn"
    assert whole == told
    assert report.frames_present == len(whole)
    assert report.frames_missing == n_items(stream) - len(whole)


def assert_repeats(store: Path, report: RepairReport) -> None:
    before = {path: path.lstat().st_mtime_ns for path in store.rglob("*")}
    again = repair(store)
    assert again == RepairReport(**{**report.as_json(), "repaired": []})
    assert before == {path: path.lstat().st_mtime_ns for path in store.rglob("*")}


# ---- one thing wrong at a time -------------------------------------------------------


def shards(store: Path) -> list[Path]:
    return sorted(p for p in store.rglob("c/*/*/*/*/*") if p.is_file())


def journal(store: Path) -> Path:
    return min(store.rglob("frames.jsonl"))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def cut(path: Path, n_bytes: int) -> None:
    os.truncate(path, path.stat().st_size - n_bytes)


def drop_lines(store: Path) -> None:
    path = journal(store)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))


def nonsense_line(store: Path) -> None:
    path = journal(store)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\0" * 40 + b"\n", *lines[3:]]))


def drop_common(store: Path) -> None:
    path = journal(store)
    path.write_bytes(path.read_bytes().partition(b"\n")[2])


def tear_common(store: Path) -> None:
    path = journal(store)
    path.write_bytes(path.read_bytes()[5:])


def add_line(entry: object) -> Callable[[Path], None]:
    return lambda store: append(journal(store), json.dumps(entry).encode() + b"\n")


def image(store: Path) -> Path:
    return journal(store).parent.parent


def add_level(store: Path) -> None:
    image = journal(store).parent.parent
    shutil.copytree(image / "0", image / "1")


def level_of(text: str) -> Callable[[Path], None]:
    def make(store: Path) -> None:
        (image(store) / "1").mkdir()
        (image(store) / "1/zarr.json").write_text(text)

    return make


def half_a_level(store: Path) -> None:
    add_level(store)
    (image(store) / "1/zarr.json").unlink()
    (image(store) / "1/frames.jsonl").unlink()


def to_a_folder(store: Path) -> None:
    path = journal(store)
    path.unlink()
    path.mkdir()


def to_a_dead_link(store: Path) -> None:
    path = shards(store)[0]
    path.unlink()
    path.symlink_to("nowhere")


def set_n_times(store: Path, n_times: int) -> None:
    for path in store.glob("**/0/zarr.json"):
        document = json.loads(path.read_text())
        if document["node_type"] == "array":
            document["shape"][0] = n_times
            path.write_text(json.dumps(document))


def needs_repair(store: Path) -> bool:
    try:
        return bool(describe_store(store)["needs_repair"])
    except NotAStoreError:  # the metadata of its only image are gone
        return True


class Fault(NamedTuple):
    inject: Callable[[Path], object]
    says: tuple[str, ...]
    loses: bool = False
    """Whether frames are lost with it."""
    backends: tuple[str, ...] = BACKENDS
    """Whose stores it can happen to."""


ARRAY = ("metadata of the array of position 0 again",)
APPENDED = ("append",)
"""tensorstore gives a shard its name once it is whole."""


FAULTS = {
    "nothing": Fault(lambda store: None, ()),
    "half-a-write": Fault(
        lambda store: append(shards(store)[0], b"\x17" * 1000),
        ("cut 1000 bytes",),
        backends=APPENDED,
    ),
    "zeros-behind": Fault(
        lambda store: append(shards(store)[-1], bytes(8192)),
        ("cut 8192 bytes",),
        backends=APPENDED,
    ),
    "a-write-cut-short": Fault(
        lambda store: cut(shards(store)[0], 1),
        ("0/c/0/0/0/0/0", "dropped"),
        loses=True,
        backends=APPENDED,
    ),
    "a-shard-of-garbage": Fault(
        lambda store: shards(store)[0].write_bytes(b"x" * 5000),
        ("renamed", "dropped"),
        loses=True,
    ),
    "a-shard-of-nothing": Fault(
        lambda store: shards(store)[0].write_bytes(b""),
        ("it was empty", "dropped"),
        loses=True,
    ),
    "a-shard-that-vanished": Fault(
        lambda store: shards(store)[0].unlink(), ("dropped",), loses=True
    ),
    "an-unfinished-shard": Fault(
        lambda store: append(shards(store)[0].with_name("0.partial"), b"x" * 99),
        ("never finished",),
    ),
    "an-unfinished-key": Fault(
        lambda store: append(shards(store)[0].with_name("0.__lock"), b"x" * 99),
        ("never finished",),
    ),
    "unfinished-metadata": Fault(
        lambda store: append(store / "zarr.a1b2.partial", b"{"), ("never finished",)
    ),
    "half-a-line": Fault(
        lambda store: append(journal(store), b'{"index":{"t":'), ("torn line",)
    ),
    "lines-lost": Fault(drop_lines, ("added",)),
    "no-journal": Fault(lambda store: journal(store).unlink(), ("added",)),
    "nonsense-line": Fault(nonsense_line, ("dropped 1 lines", "added 1 lines")),
    "unfinished-level": Fault(add_level, ("removed level 1",)),
    "level-just-begun": Fault(
        lambda store: Path.mkdir(image(store) / "1"), ("level 1",)
    ),
    "level-torn": Fault(level_of('{"a'), ("level 1",)),
    "level-of-nothing": Fault(level_of("{}"), ("level 1",)),
    "level-of-a-list": Fault(level_of("[]"), ("level 1",)),
    "level-half-removed": Fault(half_a_level, ("level 1",)),
    "level-half-begun": Fault(
        lambda store: (
            Path.mkdir(image(store) / "1"),
            append(image(store) / "1/.zarr.json.new", b"{"),
        ),
        ("never finished", "level 1"),
    ),
    "a-group-of-others": Fault(level_of('{"node_type": "group"}'), ()),
    "a-folder-of-lines": Fault(to_a_folder, ("it is no file", "added")),
    "a-shard-that-leads-nowhere": Fault(
        to_a_dead_link, ("leads nowhere", "dropped"), loses=True
    ),
    "room-for-more": Fault(
        lambda store: set_n_times(store, 8), ("number of time points to 2",)
    ),
    "room-for-too-many": Fault(
        lambda store: set_n_times(store, 10**12), ("number of time points to 2",)
    ),
    "lines-of-garbage": Fault(
        lambda store: journal(store).write_bytes(b"\xff\xfe\n[]\n{}\n"),
        ("dropped 3 lines", "added"),
    ),
    "index-of-words": Fault(add_line({"index": {"t": "a"}}), ("cannot be read",)),
    "index-of-a-list": Fault(add_line({"index": [1, 2]}), ("cannot be read",)),
    "index-between": Fault(add_line({"index": {"t": 0.5}}), ("cannot be read",)),
    "tags-of-a-list": Fault(
        add_line({"index": {"t": 0}, "camera_metadata": [1]}), ("cannot be read",)
    ),
    "index-of-nothing": Fault(add_line({"index": {"t": 99}}), ("not there",)),
    "common-of-a-list": Fault(add_line({"common": [1]}), ("cannot be read",)),
    "common-lost": Fault(drop_common, ("recovered: the line is lost",)),
    "common-torn": Fault(
        tear_common, ("cannot be read", "recovered: the line is lost")
    ),
    "array-lost": Fault(lambda store: (image(store) / "0/zarr.json").unlink(), ARRAY),
    "array-torn": Fault(lambda store: cut(image(store) / "0/zarr.json", 9), ARRAY),
}


CASES = [
    (fault, kind, backend)
    for fault, case in FAULTS.items()
    for kind in STREAMS
    for backend in case.backends
]


@pytest.mark.parametrize(("fault", "kind", "backend"), CASES)
def test_repairs(
    fault: str, kind: str, backend: str, stores: Stores, tmp_path: Path
) -> None:
    store = shutil.copytree(stores(kind, backend), tmp_path / "x.ome.zarr")
    case, stream = FAULTS[fault], STREAMS[kind]
    case.inject(store)
    assert needs_repair(store) == bool(case.says)
    report = repair(store)
    assert len(report.repaired) == len(case.says), report.repaired
    for said, expected in zip(report.repaired, case.says, strict=True):
        assert expected in said
    assert (report.frames_missing > 0) == case.loses
    assert_sound(store, stream, report)
    assert_repeats(store, report)
    found = describe_store(store)
    assert found["is_whole"] != case.loses
    assert not found["needs_repair"]
    assert len(found["missing"]) == min(report.frames_missing, 20)


@pytest.mark.parametrize("kind", STREAMS)
def test_as_a_scene(kind: str, stores: Stores, tmp_path: Path) -> None:
    """Repair and description do not depend on the words that the metadata use."""
    store = shutil.copytree(stores(kind), tmp_path / "x.ome.zarr")
    before = describe_store(store)
    rewrite_as_scene(store)
    append(shards(store)[0], b"\x17" * 1000)
    report = repair(store)
    assert len(report.repaired) == 1
    assert report.frames_missing == 0
    assert {**describe_store(store), "n_bytes": 0} == {**before, "n_bytes": 0}


@pytest.mark.parametrize("begun", [rewrite_as_scene, rewrite_as_05])
def test_a_rewrite_that_was_cut_off(
    begun: Callable[[Path], None],
    stores: Stores,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Images speak as the root does, which is rewritten last."""
    store = shutil.copytree(stores(), tmp_path / "x.ome.zarr")
    if begun is rewrite_as_05:
        rewrite_as_scene(store)
    before = {path: path.read_bytes() for path in store.rglob("zarr.json")}
    rewrite, due = scene._rewrite, 1

    def cut_off(folder: Path, ome: dict[str, Any]) -> None:
        nonlocal due
        if not due:
            raise KeyboardInterrupt
        due -= 1
        rewrite(folder, ome)

    monkeypatch.setattr(scene, "_rewrite", cut_off)
    with pytest.raises(KeyboardInterrupt):
        begun(store)
    monkeypatch.undo()
    assert needs_repair(store)
    (said,) = repair(store).repaired
    assert "all images speak NGFF 0." in said
    assert {path: path.read_bytes() for path in before} == before
    assert not needs_repair(store)


def test_before_repair_it_is_told(stores: Stores, tmp_path: Path) -> None:
    store = shutil.copytree(stores("planes"), tmp_path / "x.ome.zarr")
    append(shards(store)[0], b"\x17" * 1000)
    found = inventory(store)
    assert found.needs_repair
    assert not found.is_whole
    assert found.frames_missing == 6
    assert [shard.path for shard in found.images[0].torn] == [shards(store)[0]]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_shard_cut_anywhere(
    data: st.DataObject, stores: Stores, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Appends that end before the cut are there, each whole, and no others."""
    whole = stores("planes")
    store = shutil.copytree(whole, tmp_path_factory.mktemp("cut") / "x.ome.zarr")
    path = shards(store)[0]
    size = path.stat().st_size
    left = data.draw(st.integers(0, size))
    os.truncate(path, left)
    report = repair(store)
    assert_sound(store, PLANES, report)
    held = [n for end, n in _states(whole) if end <= left]
    assert n_items(PLANES) - report.frames_present == 6 - max(held, default=0)
    shutil.rmtree(store)


def _states(store: Path) -> list[tuple[int, int]]:
    """Sizes that the first shard had, in between, and chunks that it held then."""
    data, n_index = shards(store)[0].read_bytes(), 6 * 16 + 4
    found = []
    for end in range(n_index, len(data) + 1):
        index, checksum = data[end - n_index : end - 4], data[end - 4 : end]
        if google_crc32c.value(index) == int.from_bytes(checksum, "little"):
            offsets = np.frombuffer(index, "<u8")[::2]
            found.append((end, int((offsets != 2**64 - 1).sum())))
    return found


# ---- volumes that came in part -------------------------------------------------------


def test_a_volume_cut_off(tmp_path: Path) -> None:
    """Its slabs stay readable, but it counts as missing and is not told of."""
    stream = VOLUMES.model_copy(update={"slab_rows": 32})
    writer = OMEZarrWriter(tmp_path / "x.ome.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    at = {"t": 0, "p": 0, "c": 0}
    send(writer, stream, at)
    event = useq.MDAEvent(index={"t": 0, "p": 0, "c": 1})
    volume = item(stream, {"t": 0, "p": 0, "c": 1})
    writer.slabReady(volume[:, :32], 0, event, {})
    writer.sequenceFinished(SEQUENCE)
    report = repair(tmp_path / "x.ome.zarr")
    assert (report.frames_present, report.frames_missing) == (1, 3)
    assert report.volumes_incomplete == 1
    assert report.repaired == []
    array: Any = zarr.open_group(tmp_path / "x.ome.zarr", mode="r")["0"]
    np.testing.assert_array_equal(array[0, 1, :, :32], volume[:, :32])
    assert not array[0, 1, :, 32:].any()


# ---- metadata that are gone ---------------------------------------------------------


TO_MEND = {
    "image-lost": ("1/zarr.json", None, "metadata of position 1 again"),
    "image-torn": ("1/zarr.json", "{", "metadata of position 1 again"),
    "image-of-nothing": ("1/zarr.json", '{"zarr_format": 3}', "position 1 again"),
    "array-lost": ("1/0/zarr.json", None, "array of position 1 again"),
    "list-lost": ("OME/zarr.json", None, "metadata of OME again"),
}


@pytest.mark.parametrize("scene", [False, True], ids=["05", "scene"])
@pytest.mark.parametrize("what", TO_MEND)
def test_metadata_are_made_again(
    what: str, scene: bool, stores: Stores, tmp_path: Path
) -> None:
    store = shutil.copytree(stores("planes"), tmp_path / "x.ome.zarr")
    if scene:
        rewrite_as_scene(store)
    before = {path: json.loads(path.read_text()) for path in store.rglob("zarr.json")}
    name, text, says = TO_MEND[what]
    (store / name).unlink() if text is None else (store / name).write_text(text)
    report = repair(store)
    assert [says in said for said in report.repaired] == [True]
    assert (report.frames_missing, report.left) == (0, [])
    for path, document in before.items():
        assert json.loads(path.read_text()) == document
    assert_repeats(store, report)


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
def test_how_the_only_array_is_cut_is_found(codec: Codec, tmp_path: Path) -> None:
    stream = stream_for(t=1, p=1, c=1, z=7, shape=(24, 40))
    writer = OMEZarrWriter(tmp_path / "x", codec=codec, shard_bytes=3 * 24 * 40 * 2)
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    for at in indices(stream, "tpzc"):
        send(writer, stream, at)
    writer.sequenceFinished(SEQUENCE)
    document = tmp_path / "x/0/zarr.json"
    before = json.loads(document.read_text())
    document.unlink()
    report = repair(tmp_path / "x")
    assert json.loads(document.read_text()) == before
    assert_sound(tmp_path / "x", stream, report)
    assert report.frames_missing == 0


def test_a_position_that_cannot_be_read(stores: Stores, tmp_path: Path) -> None:
    """The others are mended all the same."""
    store = shutil.copytree(stores("planes"), tmp_path / "x.ome.zarr")
    shutil.rmtree(store / "0")
    append(shards(store)[0], b"\x17" * 1000)
    found = describe_store(store)
    assert found["missing"][0] == "all of 0"
    assert found["needs_repair"]
    report = repair(store)
    assert report.left == ["0 cannot be read: its metadata are gone"]
    assert [said[:8] for said in report.repaired] == ["cut 1000"]
    assert report.frames_present == report.frames_missing == n_items(PLANES) // 2
    assert_repeats(store, report)


def test_files_outside_the_image(stores: Stores, tmp_path: Path) -> None:
    store = shutil.copytree(stores("planes"), tmp_path / "x.ome.zarr")
    stray = store / "0/0/c/0/9/0/0/0"
    stray.parent.mkdir(parents=True)
    shutil.copy(shards(store)[0], stray)
    report = repair(store)
    assert (report.frames_missing, report.repaired) == (0, [])
    assert report.left == ["0/0/c/0/9/0/0/0 lies outside the image"]
    assert describe_store(store)["strays"] == ["0/0/c/0/9/0/0/0"]


def test_time_points_beyond_the_end(stores: Stores, tmp_path: Path) -> None:
    store = shutil.copytree(stores("planes"), tmp_path / "x.ome.zarr")
    name = "0/0/c/99999999/0/0/0/0"
    (store / name).parent.mkdir(parents=True)
    shutil.copy(shards(store)[0], store / name)
    before = describe_store(store)
    report = repair(store)
    assert (before["is_whole"], before["strays"]) == (True, [name])
    assert (report.frames_missing, report.repaired) == (0, [])
    assert report.left == [f"{name} lies outside the image"]


def test_shards_are_not_compared(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be many thousands: each with each other takes minutes."""
    compared: list[object] = []
    monkeypatch.setattr(StoredShard, "__eq__", lambda *shards: compared.append(shards))
    assert inventory(stores("planes")).is_whole
    assert not compared


def test_what_millions_of_missing_frames_take(stores: Stores, tmp_path: Path) -> None:
    store = shutil.copytree(stores("planes"), tmp_path / "x.ome.zarr")
    edit(store, lambda block: block["stream"].update(n_times=100_000))
    n_planes = n_items(PLANES) // 2 * 100_000
    tracemalloc.start()
    try:
        found = describe_store(store)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found["frames_missing"] == n_planes - n_items(PLANES)
    assert found["missing"][0] == "t=2, p=0, c=0, z=0"
    assert len(found["missing"]) == 20
    assert most_bytes < 10 * n_planes


def edit(
    store: Path, change: Callable[[dict[str, Any]], object], name: str = ""
) -> None:
    """Change our block of a group."""
    path = store / name / "zarr.json"
    document = json.loads(path.read_text())
    change(document["attributes"]["opm_engine"])
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("flags", ["x", [{"t": 0}], [1], 5], ids=repr)
def test_flags_that_cannot_be_read(
    flags: object, stores: Stores, tmp_path: Path
) -> None:
    store = shutil.copytree(stores("planes"), tmp_path / "x.ome.zarr")
    edit(store, lambda block: block.update(flags=flags), "1")
    found = describe_store(store)
    assert found["flags"] == [{"p": 1, "message": "the flags of 1 cannot be read"}]
    assert found["is_whole"]


@pytest.mark.parametrize("settings", ["q", {}, None, [1]], ids=repr)
def test_settings_that_say_nothing(
    settings: object, stores: Stores, tmp_path: Path
) -> None:
    store = shutil.copytree(stores("planes"), tmp_path / "x.ome.zarr")
    edit(store, lambda block: block.update(settings=settings))
    assert "mode" not in describe_store(store)["scan"]


def test_what_is_cut_off_is_kept(stores: Stores, tmp_path: Path) -> None:
    """Twice: what was kept before is not written over."""
    store = shutil.copytree(stores("planes"), tmp_path / "x.ome.zarr")
    path = shards(store)[0]
    for name, tail in {"0.torn": b"\x17" * 1000, "0.torn1": b"\x18" * 99}.items():
        append(path, tail)
        report = repair(store)
        assert path.with_name(name).read_bytes() == tail
    assert_sound(store, PLANES, report)


def test_frames_whose_common_line_is_lost(stores: Stores, tmp_path: Path) -> None:
    store = shutil.copytree(stores("planes"), tmp_path / "x.ome.zarr")
    drop_common(store)
    repair(store)
    assert all(frame["recovered"] for frame in read_frames(store, 0))
    assert not any("recovered" in frame for frame in read_frames(store, 1))


# ---- runs of unknown length ----------------------------------------------------------


def test_time_points_are_those_that_came(stores: Stores, tmp_path: Path) -> None:
    store = tmp_path / "x.ome.zarr"
    stream = PLANES.model_copy(update={"unbounded": True})
    writer = OMEZarrWriter(store)
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    sent = [
        at | {"t": t}
        for t in range(5)
        for at in indices(stream, "tpzc")
        if at["t"] == 0
    ]
    for at in sent:
        send(writer, stream, at)
    writer.sequenceFinished(SEQUENCE)
    assert inventory(store).is_whole
    set_n_times(store, 8)  # room for more, as while it ran
    found = inventory(store)
    assert (found.frames_missing, found.needs_repair, found.is_whole) == (
        0,
        True,
        False,
    )
    report = repair(store)
    assert report.repaired == ["set the number of time points to 5"]
    assert report.frames_present == len(sent)
    assert report.frames_missing == 0
    assert_repeats(store, report)
    assert inventory(store).is_whole
    lengths = {a.shape[0] for g in images(store, stream) for _, a in g.arrays()}
    assert lengths == {5}


def test_a_list_of_events_may_have_grown(stores: Stores, tmp_path: Path) -> None:
    """It announces no end, and its arrays grow before their shards."""
    store = shutil.copytree(stores("planes"), tmp_path / "x.ome.zarr")
    edit(store, lambda block: block["stream"].update(n_times=1))
    report = repair(store)
    assert (report.frames_present, report.frames_missing) == (n_items(PLANES), 0)
    assert (report.repaired, report.left) == ([], [])


# ---- what is refused -----------------------------------------------------------------


def test_a_store_that_is_being_written(tmp_path: Path) -> None:
    store = tmp_path / "x.ome.zarr"
    writer = OMEZarrWriter(store)
    writer.sequenceStarted(SEQUENCE, carrier(PLANES))
    send(writer, PLANES, {"t": 0, "p": 0, "c": 0, "z": 0})
    with pytest.raises(BlockingIOError, match="is being written"):
        repair(store)
    writer.sequenceFinished(SEQUENCE)
    assert repair(store).frames_present == 1


def test_one_at_a_time(stores: Stores) -> None:
    held, refused = StoreLock(stores()), pytest.raises(BlockingIOError, match="written")
    with held, refused:
        StoreLock(stores())
    StoreLock(stores()).release()


def _no_shards(path: Path) -> None:
    group = zarr.create_group(path, attributes={"ome": {"version": "0.5"}})
    group.create_array("0", shape=(1, 1, 1, 2, 2), dtype="uint16")


def _no_array(path: Path) -> None:
    zarr.create_group(path)


def _array_of(text: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        group = {"ome": {"multiscales": [{"datasets": []}], "omero": {"channels": []}}}
        zarr.create_group(path, attributes=group)
        (path / "0").mkdir()
        (path / "0/zarr.json").write_text(text)

    return make


def _group_of(text: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        (path / "zarr.json").write_text(text)

    return make


NOT_STORES = {
    "empty": (_group_of(""), NotAStoreError),
    "a-list": (_group_of("[]"), NotAStoreError),
    "no-attributes": (_group_of("{}"), NotAStoreError),
    "attributes-of-a-list": (_group_of('{"attributes": [1]}'), NotAStoreError),
    "a-foreign-block": (
        _group_of('{"attributes": {"opm_engine": {"stream": {}}}}'),
        NotAStoreError,
    ),
    "a-block-of-a-list": (
        _group_of('{"attributes": {"opm_engine": [1]}}'),
        NotAStoreError,
    ),
    "an-array-of-a-list": (_array_of("[]"), NotAStoreError),
    "an-array-of-little": (_array_of('{"shape": 5, "codecs": 1}'), NotAStoreError),
    "nothing": (lambda path: None, FileNotFoundError),
    "a-folder": (Path.mkdir, NotAStoreError),
    "a-file": (Path.touch, NotAStoreError),
    "no-array": (_no_array, NotAStoreError),
    "no-shards": (_no_shards, NotAStoreError),
}


@pytest.mark.parametrize("what", NOT_STORES)
def test_not_a_store(what: str, tmp_path: Path) -> None:
    make, error = NOT_STORES[what]
    make(tmp_path / "x.ome.zarr")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=r"x\.ome\.zarr"):
        repair(tmp_path / "x.ome.zarr")
    assert sorted(tmp_path.rglob("*")) == before


def test_places_of_the_journal_are_those_of_the_stream(stores: Stores) -> None:
    """The check above would pass if nothing were told at all."""
    frames = list(read_frames(stores("planes"), 1))
    assert len(frames) == n_items(PLANES) // 2
    assert PLANES.place(frames[0]["index"]) == Place(0, 1, 0, 0)


# ---- sequences with holes ------------------------------------------------------------


def test_frames_that_were_never_asked_for_are_not_missing(tmp_path: Path) -> None:
    channels = [*TWO_CHANNELS[:1], {**TWO_CHANNELS[1], "acquire_every": 2}]
    sequence = scan(
        channels=channels,
        time_plan={"interval": 0, "loops": 3},
        axis_order="tpcz",
    )
    with opened() as scope:
        scope.acquire(sequence, tmp_path / "out")
    raw, deskewed = (
        describe_store(tmp_path / "out" / f"{name}.ome.zarr")
        for name in ("raw", "deskewed")
    )
    assert (raw["frames_present"], raw["frames_missing"]) == (25, 0)
    assert (deskewed["frames_present"], deskewed["frames_missing"]) == (5, 0)
    assert raw["is_whole"]
    assert deskewed["is_whole"]
    report = repair(tmp_path / "out" / "raw.ome.zarr")
    assert (report.frames_missing, report.repaired) == (0, [])
