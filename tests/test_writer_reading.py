"""Readers of stores that the writer made, that others made, and of what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import useq
import zarr

from opm_engine.plan import BLOCK, Stream
from opm_engine.writers import OMEZarrWriter, reading
from opm_engine.writers.reading import open_image
from opm_engine.writers.shards import layout
from writing import SEQUENCE, carrier, item, record, stream_for


@pytest.mark.parametrize("as_text", [False, True], ids=["Path", "str"])
@pytest.mark.parametrize("n_positions", [1, 3])
def test_every_position_opens(tmp_path: Path, n_positions: int, as_text: bool) -> None:
    stream = stream_for(p=n_positions, z=2)
    writer = OMEZarrWriter(tmp_path / "x.ome.zarr")
    record(writer, stream)
    store = str(writer.path) if as_text else writer.path
    for p in range(n_positions):
        image = open_image(store, p)
        assert image.shape == (1, 1, 2, 4, 5)
        for z in range(2):
            plane = item(stream, {"t": 0, "p": p, "c": 0, "z": z})
            np.testing.assert_array_equal(image[0, 0, z], plane)
        with pytest.raises(ValueError, match="read-only"):
            image[0, 0, 0] = 1
    for missing in (n_positions, -1):
        with pytest.raises(KeyError, match=f"no image of position {missing}"):
            open_image(store, missing)


def test_not_an_image(tmp_path: Path) -> None:
    for store in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError):
            open_image(store)
    zarr.create_group(tmp_path / "x.zarr").create_group("0")
    with pytest.raises(KeyError, match="no image of position 0"):
        open_image(tmp_path / "x.zarr")


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("p", [1, 3])
def test_what_a_store_says_of_itself(tmp_path: Path, p: int, codec: Any) -> None:
    stream = stream_for(t=2, p=p, c=2, shape=(16, 20))
    path = tmp_path / "x"
    record(OMEZarrWriter(path, codec=codec, shard_bytes=2 * 640), stream)
    assert reading.stream_of_store(path) == stream
    images = [path] if p == 1 else [path / str(number) for number in range(p)]
    assert reading.image_folders(str(path)) == images
    assert reading.array_folders(path) == [image / "0" for image in images]
    assert {reading.codec_of(folder / "0") for folder in images} == {codec}
    assert reading.layouts_of_store(path) == layout.layouts(stream, 2 * 640)
    for image, said in zip(images, reading.layouts_of_store(path), strict=True):
        array = zarr.open_array(image / "0", mode="r")
        assert (array.shape, array.shards) == (said.shape, said.shard)
        assert (array.chunks, array.dtype) == (said.chunk, said.dtype)


def test_the_blocks_of_a_run_and_of_a_position(tmp_path: Path) -> None:
    stream = stream_for(p=2)
    path = tmp_path / "x"
    meta = carrier(stream)
    meta["extra"][BLOCK]["microscope"] = {"name": "M"}
    writer = OMEZarrWriter(path)
    writer.sequenceStarted(SEQUENCE, meta)
    writer.sequenceFinished(SEQUENCE)
    run = reading.read_block(path)
    assert "position" not in run
    assert Stream.model_validate(run["stream"]) == stream
    for number in range(2):
        block = reading.read_block(path, number)
        assert block["position"]["name"] == f"well {number}"
        alone = Stream.model_validate(block["stream"])
        assert alone.positions == stream.positions[number : number + 1]
        for name in ("microscope", "sequence", "angle_deg"):
            assert block[name] == run[name]
    with pytest.raises(KeyError, match="no image of position 2"):
        reading.read_block(path, 2)


def test_images_that_hold_all_of_the_block(tmp_path: Path) -> None:
    """So stores were written before: nothing at the root, everything in each image."""
    stream = stream_for(p=2)
    record(OMEZarrWriter(tmp_path / "x"), stream)
    run = reading.read_block(tmp_path / "x")
    root = zarr.open_group(tmp_path / "x")
    for number in range(2):
        root[str(number)].attrs[BLOCK] = {**run, "position": {"index": number}}
    del root.attrs[BLOCK]
    assert reading.stream_of_store(tmp_path / "x") == stream
    assert reading.read_block(tmp_path / "x")["angle_deg"] == 30.0


def test_stores_of_another_origin(tmp_path: Path) -> None:
    path = tmp_path / "x"
    root = zarr.create_group(path)
    array = root.create_array(
        "0", shape=(1, 1, 2, 4, 5), chunks=(1, 1, 1, 4, 5), dtype="u2"
    )
    array[:] = 3
    assert open_image(path)[0, 0, 1, 0, 0] == 3
    assert reading.read_block(path) == {}
    assert list(reading.read_frames(path)) == []
    with pytest.raises(ValueError, match="does not say what it holds"):
        reading.stream_of_store(path)
    for ask in (reading.layouts_of_store, lambda path: reading.codec_of(path / "0")):
        with pytest.raises(ValueError, match="has no shards"):
            ask(path)
    gzip = zarr.create_array(
        path / "1",
        shape=(4,),
        chunks=(2,),
        shards=(4,),
        dtype="u2",
        compressors=[zarr.codecs.GzipCodec()],
    )
    assert gzip.shards == (4,)
    with pytest.raises(ValueError, match=r"was compressed with .*gzip"):
        reading.codec_of(path / "1")


FULL = useq.MDASequence(
    channels=[{"config": "488", "exposure": 5}, {"config": "561", "exposure": 2.5}],
    z_plan={"range": 60, "step": 0.4},
    time_plan={"interval": 0.5, "loops": 10},
    stage_positions=[(1, 2, 3), {"x": 4, "name": "here"}],
    axis_order="tpzc",
    metadata={"opm_engine": {"mode": "galvo", "blanking": False}, "n": np.int64(3)},
)


def test_the_sequence_can_be_run_again(tmp_path: Path) -> None:
    writer = OMEZarrWriter(tmp_path / "x")
    writer.sequenceStarted(FULL, carrier(stream_for()))
    writer.sequenceFinished(FULL)
    again = useq.MDASequence.model_validate(reading.read_block(writer.path)["sequence"])
    assert again.metadata["opm_engine"] == FULL.metadata["opm_engine"]
    assert again.replace(metadata={}) == FULL.replace(metadata={})
    assert [event.index for event in again] == [event.index for event in FULL]


def test_metadata_grow_with_the_positions_and_no_faster(tmp_path: Path) -> None:
    sizes = []
    for n_positions in (50, 100):
        path = tmp_path / str(n_positions)
        meta = carrier(stream_for(p=n_positions))
        meta["extra"][BLOCK]["plan"] = {"positions": ["here"] * n_positions}
        writer = OMEZarrWriter(path)
        writer.sequenceStarted(SEQUENCE, meta)
        writer.sequenceFinished(SEQUENCE)
        sizes.append(sum(file.stat().st_size for file in path.rglob("zarr.json")))
    assert sizes[1] < 2.02 * sizes[0]
