"""Flags and analog inputs in a store, and refusals before anything is created."""

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from opm_engine.plan import BLOCK, Flag, Inputs
from opm_engine.writers import OMEZarrWriter
from opm_engine.writers.reading import open_image, read_flags, read_inputs
from writing import (
    NOTHING_KNOWN,
    SEQUENCE,
    assert_holds,
    carrier,
    images,
    indices,
    record,
    send,
    stream_for,
)

NAMES = ("laser 488", "galvo")


def volts(first: int, n_frames: int) -> Inputs:
    """Inputs that say which frame they belong to."""
    rows = np.arange(first, first + n_frames)[:, None] + np.array([0.0, 0.5])
    return Inputs(first, NAMES, rows)


@pytest.mark.parametrize("p", [1, 3], ids=["one position", "three positions"])
def test_a_flag_is_on_disk_at_once(tmp_path: Path, p: int) -> None:
    stream = stream_for(t=2, p=p, c=2)
    writer = OMEZarrWriter(tmp_path / "x.ome.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    sent = indices(stream, "tpzc")
    for at in sent[:5]:
        send(writer, stream, at)
    last = p - 1
    writer.noteReady(Flag({"t": 1, "p": last}, "an edge too many"))
    writer.noteReady(Flag({"p": last, "z": 2}, "and one missing"))
    entries = [
        {"t": 1, "p": last, "message": "an edge too many"},
        {"t": 0, "p": last, "z": 2, "message": "and one missing"},
    ]
    for at in sent[5:]:
        send(writer, stream, at)
    for _ in range(2):  # before and after it is closed
        for number, image in enumerate(images(writer.path, stream)):
            block = dict(image.attrs[BLOCK])
            assert block.pop("flags", []) == (entries if number == last else [])
            assert block["angle_deg"] == carrier(stream)["extra"][BLOCK]["angle_deg"]
            assert block["position"]["p"] == number
        writer.sequenceFinished(SEQUENCE)
    assert read_flags(writer.path, last) == (
        Flag({"t": 1, "p": last}, "an edge too many"),
        Flag({"t": 0, "p": last, "z": 2}, "and one missing"),
    )
    assert p == 1 or read_flags(writer.path) == ()
    yaozarrs.validate_zarr_store(str(writer.path))
    assert_holds(writer.path, stream, sent)


def test_a_reader_never_sees_half_of_the_metadata(tmp_path: Path) -> None:
    writer = OMEZarrWriter(tmp_path / "x.ome.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream_for(t=99)))
    ending, counts = threading.Event(), []

    def read() -> None:
        while not ending.is_set():
            counts.append(len(read_flags(writer.path)))

    with ThreadPoolExecutor() as pool:
        reader = pool.submit(read)
        for t in range(99):
            writer.noteReady(Flag({"t": t}, "lost" * 99))
        ending.set()
        reader.result()
    assert counts == sorted(counts)
    assert len(set(counts)) > 5
    assert len(read_flags(writer.path)) == 99


def test_metadata_that_cannot_be_written_stay(tmp_path: Path) -> None:
    writer = OMEZarrWriter(tmp_path / "x.ome.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream_for()))
    before = (writer.path / "zarr.json").read_bytes()
    (writer.path / ".zarr.json.new").mkdir()  # where the new ones would be written
    with pytest.raises(OSError, match="zarr"):
        writer.noteReady(Flag({}, "lost"))
    writer.sequenceFinished(SEQUENCE)
    assert (writer.path / "zarr.json").read_bytes() == before


@pytest.mark.parametrize("p", [1, 2], ids=["one position", "two positions"])
def test_inputs_stand_beside_the_images(tmp_path: Path, p: int) -> None:
    stream = stream_for(t=2, p=p, c=2)  # 12 frames per position
    writer = OMEZarrWriter(tmp_path / "x.ome.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    assert read_inputs(writer.path) is None
    writer.noteReady(volts(0, 5))
    writer.noteReady(volts(7, 3))
    for at in indices(stream, "tpzc"):
        send(writer, stream, at)
    writer.sequenceFinished(SEQUENCE)
    array = zarr.open_array(writer.path / "inputs", mode="r")
    assert array.dtype == np.float64
    assert dict(array.attrs) == {"names": list(NAMES), "unit": "V"}
    inputs = read_inputs(writer.path)
    assert (inputs.first_frame, inputs.names) == (0, NAMES)
    expected = np.full((12 * p, 2), math.nan)
    expected[:5], expected[7:10] = volts(0, 5).volts, volts(7, 3).volts
    np.testing.assert_array_equal(inputs.volts, expected)
    # and nobody minds
    yaozarrs.validate_zarr_store(str(writer.path))
    assert_holds(writer.path, stream, indices(stream, "tpzc"))
    for number in range(p):
        image = writer.path if p == 1 else writer.path / str(number)
        (node,) = Reader(parse_url(image))()
        assert node.data[0].shape == open_image(writer.path, number).shape


def test_more_inputs_than_planned_and_other_names(tmp_path: Path) -> None:
    stream = stream_for(c=4).model_copy(update={"n_cameras": 2})  # 6 exposures
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    writer.noteReady(volts(0, 2))
    assert len(read_inputs(writer.path).volts) == 6
    writer.noteReady(volts(5, 3))
    assert read_inputs(writer.path).volts[:, 0].tolist()[5:] == [5, 6, 7]
    with pytest.raises(ValueError, match="came in a run that records") as error:
        writer.noteReady(Inputs(8, ("galvo",), np.zeros((1, 1))))
    assert writer.error is error.value


def test_a_flag_of_no_position(tmp_path: Path) -> None:
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream_for()))
    with pytest.raises(ValueError, match="no position p=1"):
        writer.noteReady(Flag({"p": 1}, "lost"))


def test_a_note_without_a_run_is_harmless(tmp_path: Path) -> None:
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    notes = Flag({}, "lost"), volts(0, 1)
    for note in notes:
        writer.noteReady(note)
    record(writer, stream_for())
    for note in notes:
        writer.noteReady(note)
    assert read_flags(writer.path) == ()
    assert read_inputs(writer.path) is None


def test_flags_of_a_store_that_has_no_block(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "x.zarr")
    assert read_flags(tmp_path / "x.zarr") == ()
    with pytest.raises(KeyError, match="no image of position 1"):
        read_flags(tmp_path / "x.zarr", 1)


@pytest.mark.parametrize("sequence", [SEQUENCE, NOTHING_KNOWN], ids=["known", "loose"])
def test_a_taken_path_is_refused_beforehand(tmp_path: Path, sequence) -> None:
    stream = stream_for()
    summary = {} if sequence is NOTHING_KNOWN else carrier(stream)
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.checkSequence(sequence, summary)
    assert list(tmp_path.iterdir()) == []  # nothing was created
    record(writer, stream)
    before = json.dumps(dict(zarr.open_group(writer.path, mode="r").attrs))
    with pytest.raises(FileExistsError, match="overwrite it"):
        writer.checkSequence(sequence, summary)
    OMEZarrWriter(writer.path, overwrite=True).checkSequence(sequence, summary)
    assert json.dumps(dict(zarr.open_group(writer.path, mode="r").attrs)) == before


def test_a_disk_too_small_is_refused_beforehand(tmp_path: Path) -> None:
    stream = stream_for(t=10**6, z=1000, shape=(2048, 2048))
    with pytest.raises(OSError, match="needs"):
        OMEZarrWriter(tmp_path / "x").checkSequence(SEQUENCE, carrier(stream))
