"""Runs of which nobody knows how long they will be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import useq
import yaozarrs
import zarr

from opm_engine.plan import Stream
from opm_engine.writers import OMEZarrWriter
from opm_engine.writers.reading import array_folders, open_image, stream_of_store
from writing import (
    NOTHING_KNOWN,
    SEQUENCE,
    assert_holds,
    carrier,
    indices,
    send,
    stream_for,
    wait_written,
)


def of_length(stream: Stream, n_times: int) -> Stream:
    return stream.model_copy(update={"n_times": n_times})


def unbounded(**sizes: Any) -> Stream:
    return stream_for(**sizes).model_copy(update={"unbounded": True})


@pytest.mark.parametrize("backend", ["append", "tensorstore"])
@pytest.mark.parametrize("shape", [(4, 5), (6, 4, 5)], ids=["planes", "volumes"])
@pytest.mark.parametrize("n_times", [1, 3, 21])
def test_time_grows_as_it_comes(
    tmp_path: Path, n_times: int, shape: tuple[int, ...], backend: Any
) -> None:
    stream = unbounded(t=2, p=2, c=2, shape=shape)
    writer = OMEZarrWriter(tmp_path / "x", backend=backend)
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    sent = indices(of_length(stream, n_times), "tpzc")
    for at in sent:
        send(writer, stream, at)
    writer.sequenceFinished(SEQUENCE)
    assert_holds(writer.path, of_length(stream, n_times), sent)
    assert stream_of_store(writer.path).n_times == n_times
    assert writer.frames_written == len(sent)
    yaozarrs.validate_zarr_store(str(writer.path))


def test_a_reader_sees_times_that_were_not_announced(tmp_path: Path) -> None:
    stream = unbounded(t=1, z=2)
    writer = OMEZarrWriter(tmp_path / "x", backend="append")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    for number, at in enumerate(indices(of_length(stream, 9), "tpzc"), 1):
        send(writer, stream, at)
        wait_written(writer, number)
        here = open_image(writer.path)
        assert at["t"] < here.shape[0] <= 2 * (at["t"] + 1)
        assert here[at["t"], 0, at["z"]].any()
        assert not here[at["t"] + 1 :].any()
    writer.sequenceFinished(SEQUENCE)


def test_skipped_times_are_0(tmp_path: Path) -> None:
    stream = unbounded(t=1, p=2)
    writer = OMEZarrWriter(tmp_path / "x")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    sent = [{"t": 40, "p": 0, "c": 0, "z": 1}, {"t": 3, "p": 1, "c": 0, "z": 0}]
    for at in sent:
        send(writer, stream, at)
    writer.sequenceFinished(SEQUENCE)
    assert_holds(writer.path, of_length(stream, 41), sent)


@pytest.mark.parametrize("n_times", [1, 5])
def test_loose_events_may_go_on(tmp_path: Path, n_times: int) -> None:
    """Somebody repeats a scan by hand: each burst announces the same times."""
    stream = stream_for(t=2)
    writer = OMEZarrWriter(tmp_path / "x")
    writer.sequenceStarted(NOTHING_KNOWN, {})
    sent = indices(of_length(stream, n_times), "tpzc")
    for at in sent:
        send(writer, stream, at, carrier(stream) if at["z"] == 0 else None)
    writer.sequenceFinished(NOTHING_KNOWN)
    assert_holds(writer.path, of_length(stream, max(n_times, 2)), sent)


def test_known_runs_do_not_grow(tmp_path: Path) -> None:
    stream = stream_for(t=2)
    writer = OMEZarrWriter(tmp_path / "x")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    with pytest.raises(ValueError, match="t = 2 lies outside the 2 planned"):
        send(writer, stream, {"t": 2, "p": 0, "c": 0, "z": 0})


def test_a_time_before_the_first(tmp_path: Path) -> None:
    stream = unbounded()
    writer = OMEZarrWriter(tmp_path / "x")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    event = useq.MDAEvent.model_construct(index={"t": -1})
    with pytest.raises(ValueError, match="t = -1 lies outside"):
        writer.frameReady(np.ones((4, 5), "u2"), event, {})


def test_after_an_error_time_ends_where_it_was(tmp_path: Path) -> None:
    stream = unbounded()
    writer = OMEZarrWriter(tmp_path / "x")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    sent = indices(of_length(stream, 5), "tpzc")
    for at in sent:
        send(writer, stream, at)
    with pytest.raises(ValueError, match="came twice"):
        send(writer, stream, sent[0])
    writer.sequenceFinished(SEQUENCE)
    assert_holds(writer.path, of_length(stream, 5), sent)


def test_metadata_of_a_growing_array_change_seldom(tmp_path: Path) -> None:
    stream = unbounded(z=1)
    writer = OMEZarrWriter(tmp_path / "x")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    (array,) = array_folders(writer.path)
    changes = set()
    for at in indices(of_length(stream, 1000), "tpzc"):
        send(writer, stream, at)
        changes.add((array / "zarr.json").stat().st_mtime_ns)
    writer.sequenceFinished(SEQUENCE)
    assert len(changes) < 15
    assert zarr.open_array(array, mode="r").shape[0] == 1000
