"""`OMEZarrWriter`: every pixel decoded from disk by a reader that is not ours."""

import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import useq
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from opm_engine.plan import BLOCK, ChannelInfo, PositionInfo, Stream
from opm_engine.writers import OMEZarrWriter

SEQUENCE = useq.MDASequence(channels=["488"])
NOTHING_KNOWN = useq.MDASequence()  # what sequenceStarted gets for lists of events
Index = dict[str, int]


def stream_for(
    *, t: int = 1, p: int = 1, c: int = 1, z: int = 3, shape: tuple[int, ...] = (4, 5)
) -> Stream:
    return Stream(
        kind="planes" if len(shape) == 2 else "volumes",
        shape=shape,
        scale_um=(0.4, 0.115, 0.115),
        translation_um=(0.0, -12.5, 0.0),
        n_planes=z if len(shape) == 2 else 1,
        n_times=t,
        interval_s=2.0,
        channels=tuple(ChannelInfo(name=f"laser {i}") for i in range(c)),
        positions=tuple(PositionInfo(name=f"well {i}", x_um=i) for i in range(p)),
    )


def carrier(stream: Stream) -> dict[str, Any]:
    """What a run's summary, or the first frame of a burst, carries."""
    block = {
        "version": "1",
        "angle_deg": 30.0,
        "camera_offset": 100.0,
        "stream": stream.model_dump(mode="json"),
    }
    return {"extra": {BLOCK: block}}


def indices(stream: Stream, order: str) -> list[Index]:
    sizes = {
        "t": stream.n_times,
        "p": len(stream.positions),
        "c": len(stream.channels),
        "z": stream.n_planes,
    }
    ranges = [range(sizes[axis]) for axis in order]
    return [dict(zip(order, at, strict=True)) for at in itertools.product(*ranges)]


def item(stream: Stream, at: Index) -> npt.NDArray[np.uint16]:
    """Pixels that differ from each other and say which index they belong to."""
    number = ((at["t"] * 7 + at["p"]) * 5 + at["c"]) * 11 + at.get("z", 0)
    within = np.arange(math.prod(stream.shape)).reshape(stream.shape)
    return ((number * 131 + within * 17) % 65521 + 1).astype(np.uint16)


def send(
    writer: OMEZarrWriter, stream: Stream, at: Index, meta: dict[str, Any] | None = None
) -> None:
    writer.frameReady(item(stream, at), useq.MDAEvent(index=at), meta or {})


def record(
    writer: OMEZarrWriter, stream: Stream, order: str = "tpzc", stop: int | None = None
) -> list[Index]:
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    sent = indices(stream, order)[:stop]
    for at in sent:
        send(writer, stream, at)
    writer.sequenceFinished(SEQUENCE)
    return sent


def images(path: Path, stream: Stream) -> list[zarr.Group]:
    root = zarr.open_group(path, mode="r")
    n_images = len(stream.positions)
    return [root] if n_images == 1 else [root[str(p)] for p in range(n_images)]


def assert_holds(path: Path, stream: Stream, sent: list[Index]) -> None:
    """Every item that was sent is where it belongs, and nothing else is anywhere."""
    n_z = stream.n_planes if stream.kind == "planes" else stream.shape[0]
    shape = (stream.n_times, len(stream.channels), n_z, *stream.shape[-2:])
    expected = np.zeros((len(stream.positions), *shape), stream.dtype)
    for at in sent:
        where = (at["p"], at["t"], at["c"])
        if stream.kind == "planes":
            where += (at["z"],)
        expected[where] = item(stream, at)
    found = np.stack([image["0"][:] for image in images(path, stream)])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("shape", [(4, 5), (6, 4, 5)], ids=["planes", "volumes"])
@pytest.mark.parametrize("p", [1, 3], ids=["one position", "three positions"])
def test_every_pixel_and_a_valid_layout(
    tmp_path: Path, p: int, shape: tuple[int, ...], codec: Any
) -> None:
    stream = stream_for(t=2, p=p, c=2, shape=shape)
    path = tmp_path / "new" / "folder" / "x.ome.zarr"
    writer = OMEZarrWriter(path, codec=codec)
    sent = record(writer, stream)
    assert_holds(path, stream, sent)
    assert writer.frames_written == len(sent)
    assert (writer.path, writer.error) == (path, None)
    yaozarrs.validate_zarr_store(str(path))
    groups = {name for name, _ in zarr.open_group(path, mode="r").groups()}
    assert groups == (set() if p == 1 else {"OME", "0", "1", "2"})


@pytest.mark.parametrize("order", ["tpzc", "tpcz", "ptcz", "zctp", "cztp"])
def test_any_order_of_arrival(tmp_path: Path, order: str) -> None:
    stream = stream_for(t=2, p=2, c=3, z=5)
    writer = OMEZarrWriter(tmp_path / "x.zarr", shard_bytes=3 * 40)
    sent = record(writer, stream, order)
    assert_holds(writer.path, stream, sent)
    assert writer.frames_written == len(sent)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_shape_and_any_gaps(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sizes = {axis: data.draw(st.integers(1, 3), label=axis) for axis in "tpc"}
    depth = data.draw(st.integers(1, 6), label="depth")
    plane = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)), label="plane")
    shape = data.draw(st.sampled_from([plane, (depth, *plane)]), label="shape")
    stream = stream_for(**sizes, z=depth, shape=shape)
    planes = data.draw(st.integers(1, 4), label="planes per shard")
    path = tmp_path_factory.mktemp("any") / "x.zarr"
    writer = OMEZarrWriter(path, shard_bytes=planes * math.prod(plane) * 2)
    everything = indices(stream, "tpzc")
    sent = data.draw(
        st.lists(st.sampled_from(everything), unique_by=lambda at: tuple(at.values()))
    )
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    for at in sent:
        send(writer, stream, at)
    writer.sequenceFinished(SEQUENCE)
    assert_holds(path, stream, sent)
    assert writer.frames_written == len(sent)


def test_a_shard_is_one_volume_or_an_even_part(tmp_path: Path) -> None:
    stream = stream_for(z=10, shape=(2048, 2048))  # 8 MiB per plane, 64 per shard
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    array = zarr.open_array(writer.path / "0", mode="r")
    assert array.shards == (1, 1, 5, 2048, 2048)
    assert array.chunks == (1, 1, 1, 2048, 2048)
    assert array.metadata.dimension_names == tuple("tczyx")


def test_only_whole_shards_are_written_before_the_end(tmp_path: Path) -> None:
    stream = stream_for(z=5)
    writer = OMEZarrWriter(tmp_path / "x.zarr", shard_bytes=3 * 40)
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    written = []
    for at in indices(stream, "tpzc"):
        send(writer, stream, at)
        written.append(writer.frames_written)
    assert written == [0, 0, 3, 3, 5]
    assert_holds(writer.path, stream, indices(stream, "tpzc"))


def test_everything_is_told_before_the_first_frame(tmp_path: Path) -> None:
    stream = stream_for(t=2, p=2, c=2)
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    yaozarrs.validate_zarr_store(str(writer.path))
    for p, image in enumerate(images(writer.path, stream)):
        ome = image.attrs["ome"]
        (dataset,) = ome["multiscales"][0]["datasets"]
        scale, translation = dataset["coordinateTransformations"]
        assert scale["scale"] == [2.0, 1.0, 0.4, 0.115, 0.115]
        assert translation["translation"] == [0.0, 0.0, 0.0, -12.5, 0.0]
        channels = ome["omero"]["channels"]
        assert [channel["label"] for channel in channels] == ["laser 0", "laser 1"]
        assert channels[0]["window"]["start"] == 100
        block = dict(image.attrs[BLOCK])
        position = block.pop("position")
        assert (position["index"], position["name"]) == (p, f"well {p}")
        assert block == carrier(stream)["extra"][BLOCK]


def test_a_cancelled_run_keeps_what_came(tmp_path: Path) -> None:
    stream = stream_for(t=2, p=2, c=2, z=4)
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    sent = record(writer, stream, stop=11)
    assert_holds(writer.path, stream, sent)
    yaozarrs.validate_zarr_store(str(writer.path))
    arrays = [image["0"] for image in images(writer.path, stream)]
    assert [array.nchunks_initialized for array in arrays] == [2 * 4, 2 * 4]
    stored = [len(list((writer.path / p / "0" / "c").rglob("0"))) for p in "01"]
    assert all(stored)


def test_a_dark_plane_is_written_too(tmp_path: Path) -> None:
    stream = stream_for(z=1)
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    dark = np.zeros(stream.shape, np.uint16)
    writer.frameReady(dark, useq.MDAEvent(index={}), {})
    assert zarr.open_array(writer.path / "0", mode="r").nchunks_initialized == 1


def test_the_caller_may_reuse_its_buffer(tmp_path: Path) -> None:
    stream = stream_for(t=2, c=2, z=4)
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    buffer = np.empty(stream.shape, np.uint16)
    for at in indices(stream, "tpzc"):
        buffer[:] = item(stream, at)
        writer.frameReady(buffer, useq.MDAEvent(index=at), {})
        buffer[:] = 7
    writer.sequenceFinished(SEQUENCE)
    assert_holds(writer.path, stream, indices(stream, "tpzc"))


# -- paths ---------------------------------------------------------------------


def test_an_existing_path_is_refused_before_any_frame(tmp_path: Path) -> None:
    stream = stream_for()
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    sent = record(writer, stream)
    with pytest.raises(FileExistsError, match=r"overwrite=True.*\{run:03d\}") as first:
        writer.sequenceStarted(SEQUENCE, carrier(stream))
    assert writer.error is first.value
    with pytest.raises(FileExistsError):
        send(writer, stream, sent[0])
    writer.sequenceFinished(SEQUENCE)
    assert_holds(writer.path, stream, sent)


def test_overwrite_replaces_the_whole_store(tmp_path: Path) -> None:
    writer = OMEZarrWriter(tmp_path / "x.zarr", overwrite=True)
    record(writer, stream_for(p=3))
    stream = stream_for(z=2)
    sent = record(writer, stream)
    assert_holds(writer.path, stream, sent)
    assert not (writer.path / "OME").exists()


@pytest.mark.parametrize("what", ["file", "folder", "empty folder"])
def test_overwrite_deletes_nothing_but_stores(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.zarr"
    if what == "file":
        path.write_text("precious")
    else:
        path.mkdir()
    if what == "folder":
        (path / "thesis.txt").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="not a zarr store"):
        record(OMEZarrWriter(path, overwrite=True), stream_for())
    assert sorted(tmp_path.rglob("*")) == before


def test_run_numbers(tmp_path: Path) -> None:
    stream = stream_for()
    writer = OMEZarrWriter(tmp_path / "run_{run:03d}.zarr")
    (tmp_path / "run_001.zarr").mkdir()
    names = []
    for _ in range(3):
        sent = record(writer, stream)
        assert_holds(writer.path, stream, sent)
        names.append(writer.path.name)
    assert names == ["run_000.zarr", "run_002.zarr", "run_003.zarr"]


@pytest.mark.parametrize(
    ("path", "codec", "names"),
    [
        ("{run}_{day}.zarr", "lz4", "run:03d"),
        ("{run:x.zarr", "lz4", "run:03d"),
        ("x.zarr", "gzip", "lz4, zstd, none"),
    ],
)
def test_bad_arguments(path: str, codec: Any, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        OMEZarrWriter(path, codec=codec)


@pytest.mark.parametrize("codec", ["lz4", "none"])
def test_a_disk_too_small_is_refused(tmp_path: Path, codec: Any) -> None:
    stream = stream_for(t=10**6, z=1000, shape=(2048, 2048))  # 8.4 PB
    writer = OMEZarrWriter(tmp_path / "x.zarr", codec=codec)
    with pytest.raises(OSError, match=r"needs 8388608\.0 GB.* has \d"):
        writer.sequenceStarted(SEQUENCE, carrier(stream))
    assert not writer.path.exists()


# -- frames that do not belong, and disks that fail ------------------------------


@pytest.mark.parametrize(
    ("image", "index", "message"),
    [
        (np.ones((4, 6), "u2"), {}, r"expected uint16 \(4, 5\), got uint16 \(4, 6\)"),
        (np.ones((4, 5), "u1"), {}, r"expected uint16 \(4, 5\), got uint8 \(4, 5\)"),
        (np.ones((4, 5), "u2"), {"t": 2}, "t = 2 .* 2 planned"),
        (np.ones((4, 5), "u2"), {"p": 1}, "p = 1 .* 1 planned"),
        (np.ones((4, 5), "u2"), {"c": -1}, "c = -1 .* 1 planned"),
        (np.ones((4, 5), "u2"), {"z": 3}, "z = 3 .* 3 planned"),
        (np.ones((4, 5), "u2"), {"g": 1}, "g = 1 .* 1 planned"),
    ],
    ids=["shape", "dtype", "t", "p", "c", "z", "g"],
)
def test_a_frame_that_does_not_belong(
    tmp_path: Path, image: npt.NDArray[Any], index: Index, message: str
) -> None:
    stream = stream_for(t=2)
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    good = indices(stream, "tpzc")[0]
    send(writer, stream, good)
    # useq's events refuse negative indices; other engines may not use useq's
    event = useq.MDAEvent.model_construct(index=index)
    with pytest.raises(ValueError, match=message) as first:
        writer.frameReady(image, event, {})
    assert writer.error is first.value
    assert_holds(writer.path, stream, [good])  # at once: nobody may call us again
    with pytest.raises(ValueError, match=message):
        send(writer, stream, good)
    writer.sequenceFinished(SEQUENCE)


def test_the_z_of_a_volume_says_nothing(tmp_path: Path) -> None:
    stream = stream_for(shape=(2, 4, 5))
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    at = {"t": 0, "p": 0, "c": 0, "z": 99}
    send(writer, stream, at)
    assert_holds(writer.path, stream, [at])


@pytest.mark.parametrize("when", ["frameReady", "sequenceFinished"])
def test_a_write_error_comes_out(tmp_path: Path, when: str) -> None:
    stream = stream_for(t=2, z=2)
    writer = OMEZarrWriter(tmp_path / "{run}.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    shutil.rmtree(writer.path)
    writer.path.write_text("in the way")
    first, second, *_ = indices(stream, "tpzc")
    send(writer, stream, first)
    with pytest.raises(OSError, match=r"0\.zarr") as error:
        if when == "frameReady":
            send(writer, stream, second)
        else:
            writer.sequenceFinished(SEQUENCE)
    assert writer.error is error.value
    assert writer.frames_written == 0
    writer.sequenceFinished(SEQUENCE)

    assert_holds(tmp_path / "1.zarr", stream, record(writer, stream))
    assert writer.error is None


# -- runs of other kinds ---------------------------------------------------------


def test_finishing_without_a_run_is_harmless(tmp_path: Path) -> None:
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceFinished(SEQUENCE)
    record(writer, stream_for())
    writer.sequenceFinished(SEQUENCE)
    assert writer.error is None


def test_a_run_without_an_end_is_closed_by_the_next(tmp_path: Path) -> None:
    stream = stream_for()
    writer = OMEZarrWriter(tmp_path / "{run}.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    first = indices(stream, "tpzc")[0]
    send(writer, stream, first)
    sent = record(writer, stream)
    assert_holds(tmp_path / "0.zarr", stream, [first])
    assert_holds(tmp_path / "1.zarr", stream, sent)
    assert writer.frames_written == len(sent)


def test_a_list_of_events_opens_at_its_first_frame(tmp_path: Path) -> None:
    stream = stream_for(t=2)
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(NOTHING_KNOWN, {"extra": {}})
    assert not writer.path.exists()
    for at in indices(stream, "tpzc"):  # one burst per time point
        send(writer, stream, at, carrier(stream) if at["z"] == 0 else None)
    writer.sequenceFinished(NOTHING_KNOWN)
    assert_holds(writer.path, stream, indices(stream, "tpzc"))


def test_a_changed_burst_is_refused(tmp_path: Path) -> None:
    stream, other = stream_for(t=2), stream_for(t=2, z=4)
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(NOTHING_KNOWN, {})
    first = indices(stream, "tpzc")[0]
    send(writer, stream, first, carrier(stream))
    with pytest.raises(ValueError, match=r"changed within the run \(n_planes\)"):
        send(writer, other, first, carrier(other))
    assert_holds(writer.path, stream, [first])


def test_frames_that_nothing_describes_are_refused(tmp_path: Path) -> None:
    stream = stream_for()
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(NOTHING_KNOWN, {})
    with pytest.raises(ValueError, match="nothing said what frames will come"):
        send(writer, stream, indices(stream, "tpzc")[0])


@pytest.mark.parametrize("as_list", [False, True], ids=["sequence", "list of events"])
def test_an_engine_that_is_not_ours(tmp_path: Path, as_list: bool) -> None:
    stream = stream_for(t=2, p=2, c=2, z=3)
    sequence = useq.MDASequence(
        channels=["488", "561"],
        z_plan={"range": 2, "step": 1},
        time_plan={"interval": 0, "loops": 2},
        stage_positions=[(0, 0), (1, 0)],
        axis_order="tpcz",
    )
    summary = {"image_infos": ({"height": 4, "width": 5, "dtype": "uint16"},)}
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(NOTHING_KNOWN if as_list else sequence, summary)
    assert writer.path.exists() is not as_list
    for event in sequence:
        writer.frameReady(item(stream, dict(event.index)), event, {})
    writer.sequenceFinished(sequence)
    assert_holds(writer.path, stream, indices(stream, "tpcz"))
    yaozarrs.validate_zarr_store(str(writer.path))
