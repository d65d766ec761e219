"""`OMEZarrWriter` from run to run: paths, refusals, failing disks, foreign engines."""

import errno
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import useq
import yaozarrs

from opm_engine.writers import OMEZarrWriter, room, store
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.node import write_node
from opm_engine.writers.shards import file as shard_file
from writing import (
    NOTHING_KNOWN,
    SEQUENCE,
    Index,
    assert_holds,
    carrier,
    indices,
    item,
    record,
    send,
    stream_for,
)

# -- paths ---------------------------------------------------------------------


def test_an_existing_path_is_refused_before_any_frame(tmp_path: Path) -> None:
    stream = stream_for()
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    sent = record(writer, stream)
    with pytest.raises(FileExistsError, match="path, or overwrite it") as first:
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
    with pytest.raises(FileExistsError, match="is not a zarr store"):
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
        ("a{x}.zarr", "lz4", "run:03d"),
        ("a{}.zarr", "lz4", "run:03d"),
        ("a{run.real}.zarr", "lz4", "run:03d"),
        ("a{run:>9}.zarr", "lz4", "run:03d"),
        ("a{run}}.zarr", "lz4", "run:03d"),
        ("x.zarr", "gzip", "lz4, zstd, none"),
    ],
)
def test_bad_arguments(path: str, codec: Any, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        OMEZarrWriter(path, codec=codec)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shard_bytes": 0}, "shard_bytes must be 1 or more, not 0"),
        ({"budget_bytes": -1}, "budget_bytes must be 1 or more, not -1"),
        ({"pyramid": "now"}, "pyramid must be one of off, live, close, not 'now'"),
        ({"backend": "zarr"}, "backend must be one of auto, append, tensorstore"),
    ],
)
def test_other_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OMEZarrWriter("x.zarr", **arguments)


@pytest.mark.parametrize(
    ("codec", "needs"),
    [("lz4", "2097152.0 GB, well compressed"), ("none", "8388608.0 GB")],
)
def test_a_disk_too_small_is_refused(tmp_path: Path, codec: Any, needs: str) -> None:
    stream = stream_for(t=10**6, z=1000, shape=(2048, 2048))  # 8.4 PB
    writer = OMEZarrWriter(tmp_path / "x.zarr", codec=codec)
    with pytest.raises(OSError, match=rf"needs {needs}; .* has \d"):
        writer.sequenceStarted(SEQUENCE, carrier(stream))
    assert not writer.path.exists()


def test_nobody_else_writes_or_mends_an_open_store(tmp_path: Path) -> None:
    stream = stream_for()
    writer = OMEZarrWriter(tmp_path / "x.zarr", overwrite=True)
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    other = OMEZarrWriter(tmp_path / "x.zarr", overwrite=True)
    with pytest.raises(BlockingIOError, match="is being written"):
        other.checkSequence(SEQUENCE, carrier(stream))
    with pytest.raises(BlockingIOError, match="is being written"):
        other.sequenceStarted(SEQUENCE, carrier(stream))
    writer.checkSequence(SEQUENCE, carrier(stream))  # the run before has no end
    sent = record(writer, stream)
    assert_holds(writer.path, stream, sent)
    assert_holds(writer.path, stream, record(other, stream))


def test_a_small_disk_is_told_in_megabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    writer = OMEZarrWriter(tmp_path / "x.zarr", codec="none")
    with pytest.raises(OSError, match=r"needs 3\.0 MB; .* has 1\.0 MB"):
        writer.checkSequence(SEQUENCE, carrier(stream_for(z=3, shape=(500, 1000))))


@pytest.mark.parametrize(
    ("compressed", "angle_deg", "share"),
    [(False, 45.0, 1), (True, None, 1 / 4), (True, 45.0, 3 / 16), (True, 1.0, 0)],
)
def test_what_lies_outside_the_scan_takes_no_room(
    compressed: bool, angle_deg: float | None, share: float
) -> None:
    """At 45° as much of Y is dark as the volume is high: here a quarter."""
    cube = {"scale_um": (0.1, 0.1, 0.1)}
    volumes = stream_for(shape=(100, 400, 8)).model_copy(update=cube)
    least = room.least_bytes(volumes, compressed=compressed, angle_deg=angle_deg)
    assert least == pytest.approx(share * 2 * 100 * 400 * 8, rel=1e-4)


@pytest.mark.parametrize("n_positions", [1, 3])
def test_a_store_is_there_at_once_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_positions: int
) -> None:
    """So whenever its making is broken off, the next try finds no half of one."""
    path = tmp_path / "x.zarr"
    stream = stream_for(p=n_positions)
    was_there = []

    def write(folder: Path, document: dict[str, Any]) -> None:
        was_there.append(path.exists())
        write_node(folder, document)

    monkeypatch.setattr(store, "write_node", write)
    writer = OMEZarrWriter(path)
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    assert len(was_there) >= 2
    assert not any(was_there)
    assert sorted(tmp_path.iterdir()) == [path]
    writer.sequenceFinished(SEQUENCE)


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".x.zarr.partial"
    for name in ("new", "old"):
        (left / name / "0").mkdir(parents=True)
    stream = stream_for()
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    sent = record(writer, stream)
    assert_holds(writer.path, stream, sent)
    assert sorted(tmp_path.iterdir()) == [writer.path]


@pytest.mark.parametrize("at_once", [False, True])
def test_what_cannot_be_made_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    stream = stream_for()
    writer = OMEZarrWriter(tmp_path / "x.zarr", overwrite=True)
    sent = record(writer, stream)

    def write(folder: Path, document: dict[str, Any]) -> None:
        raise OSError(errno.EIO, "broken")

    if at_once:
        left = tmp_path / ".x.zarr.partial"
        left.mkdir()
        with StoreLock(left), pytest.raises(BlockingIOError):
            writer.sequenceStarted(SEQUENCE, carrier(stream))
    else:
        monkeypatch.setattr(store, "write_node", write)
        with pytest.raises(OSError, match="broken"):
            writer.sequenceStarted(SEQUENCE, carrier(stream))
        assert sorted(tmp_path.iterdir()) == [writer.path]
    assert_holds(writer.path, stream, sent)


def test_a_budget_beyond_memory_is_refused(tmp_path: Path) -> None:
    writer = OMEZarrWriter(tmp_path / "x.zarr", budget_bytes=2**60)
    with pytest.raises(MemoryError, match=r"budget_bytes.* needs .* are available"):
        writer.checkSequence(SEQUENCE, carrier(stream_for()))
    assert not writer.path.exists()


@pytest.mark.parametrize("pyramid", ["off", "live"])
def test_where_nothing_can_be_appended(
    tmp_path: Path, pyramid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that was begun is let go again."""
    monkeypatch.setattr(shard_file, "probe", lambda folder: None)
    stream = stream_for().model_copy(update={"unbounded": True})
    n_before = threading.active_count()
    writer = OMEZarrWriter(
        tmp_path / "x.zarr", backend="append", pyramid=pyramid, overwrite=True
    )
    with pytest.raises(OSError, match="cannot be appended to; use another backend"):
        writer.sequenceStarted(SEQUENCE, carrier(stream))
    StoreLock(writer.path).release()
    deadline_s = time.monotonic() + 30
    while threading.active_count() > n_before and time.monotonic() < deadline_s:
        time.sleep(1e-3)
    assert threading.active_count() == n_before


def test_how_long_it_may_last_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stream = stream_for().model_copy(update={"unbounded": True})
    record(OMEZarrWriter(tmp_path / "x.zarr"), stream)
    assert "is not known; there is room for" in caplog.text


# -- frames that do not belong, and disks that fail ------------------------------


@pytest.mark.parametrize(
    ("image", "index", "message"),
    [
        (np.ones((4, 6), "u2"), {}, r"expected uint16 \(4, 5\), got uint16 \(4, 6\)"),
        (np.ones((4, 5), "u1"), {}, r"expected uint16 \(4, 5\), got uint8 \(4, 5\)"),
        (np.ones((4, 5), "u2"), {"t": 2}, "t = 2 .* 2 planned"),
        (np.ones((4, 5), "u2"), {"p": 1}, "no position p=1, g=0"),
        (np.ones((4, 5), "u2"), {"c": -1}, "c = -1 .* 1 planned"),
        (np.ones((4, 5), "u2"), {"z": 3}, "z = 3 .* 3 planned"),
        (np.ones((4, 5), "u2"), {"g": 1}, "no position p=0, g=1"),
        (np.ones((4, 5), "u2"), {"cam": 1}, "cam = 1 .* 1 planned"),
    ],
    ids=["shape", "dtype", "t", "p", "c", "z", "g", "cam"],
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
    with pytest.raises(ValueError, match=message):
        send(writer, stream, good)
    writer.sequenceFinished(SEQUENCE)
    assert_holds(writer.path, stream, [good])


@pytest.mark.parametrize(
    ("shape", "again", "message"),
    [
        ((4, 5), {"t": 1, "c": 0, "z": 2}, "plane p=0, t=1, c=0, z=2 came twice"),
        ((4, 5), {"t": 0, "c": 1, "z": 0}, "plane p=0, t=0, c=1, z=0 came twice"),
        (
            (4, 5),
            {"c": 1},
            "plane p=0, t=0, c=1, z=0 came twice",
        ),  # a missing axis means 0
        ((2, 4, 5), {"t": 1, "c": 0}, "volume p=0, t=1, c=0 came twice"),
        ((2, 4, 5), {"t": 1, "c": 0, "z": 1}, "volume p=0, t=1, c=0 came twice"),
    ],
    ids=["held back", "on disk", "short index", "volume", "volume with z"],
)
def test_nothing_is_written_over(
    tmp_path: Path, shape: tuple[int, ...], again: Index, message: str
) -> None:
    stream = stream_for(t=2, c=2, shape=shape)
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    sent = indices(stream, "tpzc")[:-1]  # the last shard of c=0 is whole, c=1 is not
    for at in sent:
        send(writer, stream, at)
    other = np.full(shape, 7, np.uint16)
    with pytest.raises(ValueError, match=f"^{message}; save it in a run of its own"):
        writer.frameReady(other, useq.MDAEvent(index=again), {})
    writer.sequenceFinished(SEQUENCE)
    assert_holds(writer.path, stream, sent)


def test_the_same_burst_queued_twice(tmp_path: Path) -> None:
    stream = stream_for()
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(NOTHING_KNOWN, {})
    sent = indices(stream, "tpzc")
    for at in sent:
        send(writer, stream, at, carrier(stream) if at["z"] == 0 else None)
    with pytest.raises(ValueError, match="came twice"):
        send(writer, stream, sent[0], carrier(stream))
    writer.sequenceFinished(SEQUENCE)
    assert_holds(writer.path, stream, sent)


OTHER = useq.MDASequence(channels=["561"])


@pytest.mark.parametrize("loose", [False, True], ids=["sequence", "list of events"])
@pytest.mark.parametrize(
    "stranger",
    [
        useq.MDAEvent(),
        useq.MDAEvent(index={"c": 0, "z": 1}, sequence=OTHER),
        useq.MDAEvent(index={}, sequence=OTHER),
    ],
    ids=["snap", "another sequence's", "another sequence's only one"],
)
def test_an_event_of_another_sequence(
    tmp_path: Path, stranger: useq.MDAEvent, loose: bool
) -> None:
    stream = stream_for()
    image = item(stream, {"t": 0, "p": 0, "c": 0, "z": 2})
    sent = {"t": 0, "p": 0, "c": 0, "z": 2}
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(NOTHING_KNOWN if loose else SEQUENCE, carrier(stream))
    equal = SEQUENCE.model_copy()
    assert equal is not SEQUENCE
    first = useq.MDAEvent.model_construct(index=sent, sequence=equal)
    writer.frameReady(image, first, carrier(stream))
    with pytest.raises(ValueError, match=r"not of the run's sequence.* of its own"):
        writer.frameReady(image, stranger, {})
    writer.sequenceFinished(SEQUENCE)
    assert_holds(writer.path, stream, [sent])


def test_the_z_of_a_volume_says_nothing(tmp_path: Path) -> None:
    stream = stream_for(shape=(2, 4, 5))
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    at = {"t": 0, "p": 0, "c": 0, "z": 99}
    send(writer, stream, at)
    writer.sequenceFinished(SEQUENCE)
    assert_holds(writer.path, stream, [at])


@pytest.mark.parametrize("backend", ["append", "tensorstore"])
@pytest.mark.parametrize("when", ["frameReady", "sequenceFinished"])
def test_a_write_error_comes_out(tmp_path: Path, when: str, backend: Any) -> None:
    stream = stream_for(t=300, z=2)
    writer = OMEZarrWriter(tmp_path / "{run}.zarr", backend=backend)
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    (writer.path / "0" / "c").write_text("in the way")
    first, *others = indices(stream, "tpzc")

    def go_on() -> None:
        send(writer, stream, first)
        for at in others if when == "frameReady" else ():
            send(writer, stream, at)
            time.sleep(1e-3)
        writer.sequenceFinished(SEQUENCE)

    with pytest.raises(OSError, match=r"0\.zarr") as error:
        go_on()
    assert writer.error is error.value
    assert writer.frames_written == 0
    with pytest.raises(OSError, match=r"0\.zarr"):
        send(writer, stream, others[-1])
    writer.sequenceFinished(SEQUENCE)
    yaozarrs.validate_zarr_store(str(writer.path))

    stream = stream_for()
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


@pytest.mark.parametrize(
    "sequence", [NOTHING_KNOWN, useq.MDASequence()], ids=["placeholder", "empty"]
)
def test_a_list_of_events_opens_at_its_first_frame(
    tmp_path: Path, sequence: useq.MDASequence
) -> None:
    stream = stream_for(t=2)
    writer = OMEZarrWriter(tmp_path / "x.zarr")
    writer.sequenceStarted(sequence, {"extra": {}})
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
    writer.sequenceFinished(SEQUENCE)
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
