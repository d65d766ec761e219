"""`OMEZarrWriter`: every pixel decoded from disk by a reader that is not ours."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import useq
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from opm_engine.plan import BLOCK, Place, PositionInfo, Stream
from opm_engine.writers import OMEZarrWriter
from writing import (
    SEQUENCE,
    assert_holds,
    carrier,
    images,
    indices,
    item,
    record,
    send,
    stream_for,
    wait_written,
)


@pytest.mark.parametrize("backend", ["append", "tensorstore"])
@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("shape", [(4, 5), (6, 4, 5)], ids=["planes", "volumes"])
@pytest.mark.parametrize("p", [1, 3], ids=["one position", "three positions"])
def test_every_pixel_and_a_valid_layout(
    tmp_path: Path, p: int, shape: tuple[int, ...], codec: Any, backend: Any
) -> None:
    stream = stream_for(t=2, p=p, c=2, shape=shape)
    path = tmp_path / "new" / "folder" / "x.ome.zarr"
    writer = OMEZarrWriter(path, codec=codec, backend=backend)
    sent = record(writer, stream)
    assert_holds(path, stream, sent)
    assert writer.frames_written == len(sent)
    assert (writer.path, writer.error) == (path, None)
    yaozarrs.validate_zarr_store(str(path))
    groups = {name for name, _ in zarr.open_group(path, mode="r").groups()}
    assert groups == (set() if p == 1 else {"OME", "0", "1", "2"})


@pytest.mark.parametrize("order", ["tpzc", "tpcz", "ptcz", "zctp", "cztp"])
def test_any_order_of_arrival(tmp_path: Path, order: str) -> None:
    stream = stream_for(t=2, p=2, c=3, z=5, shape=(16, 20))  # 640 bytes
    writer = OMEZarrWriter(tmp_path / "x.zarr", shard_bytes=3 * 640)
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


@pytest.mark.parametrize("shape", [(16, 20), (6, 16, 20)], ids=["planes", "volumes"])
def test_every_item_can_be_read_before_the_end(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    stream = stream_for(c=2, z=5, shape=shape)
    writer = OMEZarrWriter(tmp_path / "x.zarr", backend="append")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    sent = indices(stream, "tpzc")
    for number, at in enumerate(sent, 1):
        send(writer, stream, at)
        wait_written(writer, number)
        assert_holds(writer.path, stream, sent[:number])
    writer.sequenceFinished(SEQUENCE)
    assert writer.frames_written == len(sent)


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
        assert block.pop("frames") == "0/frames.jsonl"
        alone = Stream.model_validate(block.pop("stream"))
        assert alone.positions == (stream.positions[p],)
        assert alone.place({"p": p, "t": 1}) == Place(1, 0, 0, 0)
        assert block == {"version": "1", "angle_deg": 30.0, "camera_offset": 100.0}
    told = dict(zarr.open_group(writer.path, mode="r").attrs[BLOCK])
    assert useq.MDASequence.model_validate(told.pop("sequence")) == SEQUENCE
    assert told == carrier(stream)["extra"][BLOCK]


def test_a_cancelled_run_keeps_what_came(tmp_path: Path) -> None:
    stream = stream_for(t=2, p=2, c=2, z=4)
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    sent = record(writer, stream, stop=11)
    assert_holds(writer.path, stream, sent)
    yaozarrs.validate_zarr_store(str(writer.path))
    arrays = [image["0"] for image in images(writer.path, stream)]
    # the shards of both channels, at t=0
    assert [array.nchunks_initialized for array in arrays] == [2 * 4, 2 * 4]


def test_a_dark_plane_is_written_too(tmp_path: Path) -> None:
    stream = stream_for(z=1)
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    dark = np.zeros(stream.shape, np.uint16)
    writer.frameReady(dark, useq.MDAEvent(index={}), {})
    writer.sequenceFinished(SEQUENCE)
    assert zarr.open_array(writer.path / "0", mode="r").nchunks_initialized == 1


TILES = tuple(
    PositionInfo(name=f"tile {p} {g}", p=p, g=g, n_planes=n_planes)
    for p, g, n_planes in [(0, 0, None), (1, 0, 7), (1, 1, 1), (2, 0, 2)]
)


@pytest.mark.parametrize("order", ["tzc", "zct", "ctz"])
def test_tiles_cameras_and_lengths_of_their_own(tmp_path: Path, order: str) -> None:
    """Grid tiles, each with its number of planes, seen by two cameras."""
    stream = stream_for(t=2, c=4, shape=(16, 20)).model_copy(
        update={"n_cameras": 2, "positions": TILES}
    )
    writer = OMEZarrWriter(tmp_path / "x.zarr", shard_bytes=4 * 640)
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    expected = [np.zeros((2, 4, n, 16, 20), np.uint16) for n in (3, 7, 1, 2)]
    for number, tile in enumerate(TILES):
        sizes = {"t": 2, "c": 2, "z": expected[number].shape[2]}
        for at in np.ndindex(*(sizes[axis] for axis in order)):
            index = dict(zip(order, at, strict=True))
            for cam in range(2):
                at_4 = {"t": index["t"], "p": number, "c": 2 * index["c"] + cam}
                image = item(stream, at_4 | {"z": index["z"]})
                index |= {"p": tile.p, "g": tile.g, "cam": cam}
                writer.frameReady(image, useq.MDAEvent(index=index), {})
                expected[number][at_4["t"], at_4["c"], index["z"]] = image
    writer.sequenceFinished(SEQUENCE)
    assert writer.error is None
    yaozarrs.validate_zarr_store(str(writer.path))
    for image, pixels in zip(images(writer.path, stream), expected, strict=True):
        np.testing.assert_array_equal(image["0"][:], pixels)
        assert image["0"].shards[2] == min(4, pixels.shape[2])
    assert writer.frames_written == sum(len(p[0, 0]) for p in expected) * 2 * 4


def test_a_plane_beyond_its_positions_end(tmp_path: Path) -> None:
    stream = stream_for().model_copy(update={"positions": TILES})
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    image = np.ones((4, 5), np.uint16)
    good = useq.MDAEvent(index={"p": 1, "g": 0, "z": 6})
    writer.frameReady(image, good, {})
    with pytest.raises(ValueError, match="plane p=1, t=0, c=0, z=6, g=0 came twice"):
        writer.frameReady(image, good, {})
    writer.sequenceFinished(SEQUENCE)
    writer = OMEZarrWriter(tmp_path / "y.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    with pytest.raises(ValueError, match="z = 2 lies outside the 2 planned"):
        writer.frameReady(image, useq.MDAEvent(index={"p": 2, "z": 2}), {})
