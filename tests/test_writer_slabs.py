"""Volumes that reach `OMEZarrWriter` slab by slab, while the scan runs."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import useq
import yaozarrs

from opm_engine.plan import Stream
from opm_engine.writers import OMEZarrWriter
from opm_engine.writers.reading import open_image, read_frames
from writing import (
    SEQUENCE,
    Index,
    assert_holds,
    carrier,
    indices,
    send,
    send_slab,
    stream_for,
    wait_written,
)

ROWS = 8
AT = {"t": 0, "p": 0, "c": 0}


def slabs_stream(n_y: int = 20, **sizes: int) -> Stream:
    stream = stream_for(**sizes, shape=(5, n_y, 7))
    return stream.model_copy(update={"slab_rows": ROWS})


def slabs_of(stream: Stream) -> list[tuple[int, int]]:
    n_y = stream.shape[1]
    return [(y, min(ROWS, n_y - y)) for y in range(0, n_y, ROWS)]


def forwards(stream: Stream) -> list[tuple[Index, int, int]]:
    return [(at, *slab) for at in indices(stream, "tpc") for slab in slabs_of(stream)]


def backwards(stream: Stream) -> list[tuple[Index, int, int]]:
    return [
        (at, *slab) for at in indices(stream, "tpc") for slab in slabs_of(stream)[::-1]
    ]


def interleaved(stream: Stream) -> list[tuple[Index, int, int]]:
    return [
        ({"t": t, "p": p, "c": c}, *slab)
        for t in range(stream.n_times)
        for p in range(len(stream.positions))
        for slab in slabs_of(stream)
        for c in range(len(stream.channels))
    ]


def anyhow(stream: Stream) -> list[tuple[Index, int, int]]:
    slabs = forwards(stream)
    random.Random(1).shuffle(slabs)
    return slabs


@pytest.mark.parametrize("backend", ["append", "tensorstore"])
@pytest.mark.parametrize("n_y", [7, 8, 20], ids=lambda n: f"{n} rows")
@pytest.mark.parametrize("order", [forwards, backwards, interleaved, anyhow])
def test_slabs_make_volumes(tmp_path: Path, order: Any, n_y: int, backend: Any) -> None:
    stream = slabs_stream(n_y, t=2, p=2, c=2)
    # two slabs per shard
    bytes_of_two = 2 * ROWS * 5 * 7 * 2
    writer = OMEZarrWriter(tmp_path / "x", shard_bytes=bytes_of_two, backend=backend)
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    for slab in order(stream):
        send_slab(writer, stream, *slab)
    writer.sequenceFinished(SEQUENCE)
    sent = indices(stream, "tpc")
    assert_holds(writer.path, stream, sent)
    assert writer.frames_written == len(sent)
    yaozarrs.validate_zarr_store(str(writer.path))
    told = [frame["index"] for p in range(2) for frame in read_frames(writer.path, p)]
    assert sorted(map(str, told)) == sorted(map(str, sent))


def test_a_slab_can_be_read_before_its_volume_is_whole(tmp_path: Path) -> None:
    stream = slabs_stream(24)
    writer = OMEZarrWriter(tmp_path / "x", backend="append")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    send_slab(writer, stream, AT, 0, ROWS)
    send_slab(writer, stream, AT, 16, ROWS)
    writer.sequenceFinished(SEQUENCE)  # cancelled
    assert writer.frames_written == 0
    assert list(read_frames(writer.path)) == []
    whole = OMEZarrWriter(tmp_path / "y")
    whole.sequenceStarted(SEQUENCE, carrier(stream))
    send(whole, stream, AT)
    wait_written(whole, 1)
    here, there = (open_image(w.path)[0, 0] for w in (writer, whole))
    np.testing.assert_array_equal(here[:, :ROWS], there[:, :ROWS])
    np.testing.assert_array_equal(here[:, 16:], there[:, 16:])
    assert not here[:, ROWS:16].any()
    whole.sequenceFinished(SEQUENCE)


@pytest.mark.parametrize(
    ("first_row", "slab", "message"),
    [
        (8, np.ones((5, 8, 7), "u2"), "volume p=0, t=0, c=0 rows 8 to 15 came twice"),
        (0, np.ones((5, 8, 6), "u2"), r"expected uint16 \(5, 8, 7\), got"),
        (0, np.ones((4, 8, 7), "u2"), r"expected uint16 \(5, 8, 7\), got"),
        (0, np.ones((5, 8, 7), "f4"), "got float32"),
        (0, np.ones((8, 7), "u2"), r"got uint16 \(8, 7\)"),
        (16, np.ones((5, 8, 7), "u2"), "rows 16 to 23 lie outside the 20"),
        (-8, np.ones((5, 8, 7), "u2"), "rows -8 to -1 lie outside the 20"),
        (4, np.ones((5, 4, 7), "u2"), "rows"),
    ],
    ids=["twice", "x", "z", "dtype", "plane", "beyond", "before", "off the grid"],
)
def test_a_slab_that_does_not_fit(
    tmp_path: Path, first_row: int, slab: Any, message: str
) -> None:
    stream = slabs_stream()
    writer = OMEZarrWriter(tmp_path / "x")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    send_slab(writer, stream, AT, 8, ROWS)
    with pytest.raises(ValueError, match=message) as error:
        writer.slabReady(slab, first_row, useq.MDAEvent(index=AT), {})
    assert writer.error is error.value


@pytest.mark.parametrize("complete", [False, True])
def test_a_volume_comes_whole_or_in_slabs(tmp_path: Path, complete: bool) -> None:
    stream = slabs_stream()
    writer = OMEZarrWriter(tmp_path / "x")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    for slab in slabs_of(stream)[: None if complete else 1]:
        send_slab(writer, stream, AT, *slab)
    with pytest.raises(ValueError, match="volume p=0, t=0, c=0 came twice"):
        send(writer, stream, AT)
    writer = OMEZarrWriter(tmp_path / "y")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    send(writer, stream, AT)
    with pytest.raises(ValueError, match="volume p=0, t=0, c=0 came twice"):
        send_slab(writer, stream, AT, 0, ROWS)


def test_slabs_of_planes(tmp_path: Path) -> None:
    stream = stream_for()
    writer = OMEZarrWriter(tmp_path / "x")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    with pytest.raises(ValueError, match="no volumes"):
        writer.slabReady(np.ones((3, 4, 5), "u2"), 0, useq.MDAEvent(index=AT), {})
