"""What is known of each frame, beside the pixels."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import useq
from hypothesis import given, settings
from hypothesis import strategies as st

from opm_engine.plan import BLOCK, Place
from opm_engine.writers import OMEZarrWriter, journal
from opm_engine.writers.journal import FRAMES, FrameJournal
from opm_engine.writers.reading import read_frames
from writing import SEQUENCE, carrier, indices, item, record, stream_for

TAGS = {"Camera": "Sim", "Binning": "1", "PixelType": "GRAY16", "Width": "2304"}


def meta_of(number: int, **more: Any) -> dict[str, Any]:
    """As the engine makes it, with tags that vary."""
    stamp = {"ImageNumber": str(number), "ElapsedTime-ms": f"{2.5 * number:.4f}"}
    return {
        "camera_metadata": {**TAGS, **stamp},
        "runner_time_ms": 2.5 * number + 0.00001,
        "exposure_ms": 2.0,
        "position": {"x": 1.0, "y": -2.0, "z": 3.0},
        "images_remaining_in_buffer": 7,
        **more,
    }


def save(path: Path, metas: list[dict[str, Any]], **sizes: int) -> list[dict[str, Any]]:
    """Save frames with these metadata; return their indices."""
    stream = stream_for(**sizes)
    writer = OMEZarrWriter(path)
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    sent = indices(stream, "tpzc")[: len(metas)]
    for at, meta in zip(sent, metas, strict=True):
        event = useq.MDAEvent(index=at, z_pos=0.4 * at["z"])
        writer.frameReady(item(stream, at), event, meta)
    writer.sequenceFinished(SEQUENCE)
    return sent


def test_every_frame_is_told_whole(tmp_path: Path) -> None:
    metas = [meta_of(number) for number in range(12)]
    sent = save(tmp_path / "x", metas, t=2, c=2)
    told = list(read_frames(tmp_path / "x"))
    assert told == [
        {
            "index": at,
            "runner_time_ms": 2.5 * number,
            "exposure_ms": 2.0,
            "x_um": 1.0,
            "y_um": -2.0,
            "z_um": pytest.approx(0.4 * at["z"]),
            "camera_metadata": metas[number]["camera_metadata"],
        }
        for number, at in enumerate(sent)
    ]


def test_a_line_is_small_and_constants_are_told_once(tmp_path: Path) -> None:
    save(tmp_path / "x", [meta_of(number) for number in range(100)], z=100)
    text = (tmp_path / "x" / "0" / FRAMES).read_text()
    assert text.count("GRAY16") == text.count("exposure_ms") == 1
    assert len(text) / 100 < 150
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())


CASES: dict[str, list[dict[str, Any]]] = {
    "nothing known": [{}, {}],
    "less than of the first": [meta_of(0), {}, {"exposure_ms": 2.0}],
    "more than of the first": [{}, meta_of(1), {}, meta_of(3)],
    "a tag that goes": [meta_of(0), meta_of(1, camera_metadata={"Camera": "Sim"})],
    "all tags go": [meta_of(0), meta_of(1, camera_metadata={})],
    "channels with exposures of their own": [
        meta_of(number, exposure_ms=2.0 + number % 2) for number in range(6)
    ],
    "a volume's": [
        {"extra": {"deskew": {"latency_ms": 0.5, "missing": [3, 4]}}},
        {"extra": {"deskew": {"latency_ms": 0.7, "flags": ["µ"]}}},
    ],
    "numpy's numbers": [{"extra": {"n": np.int64(3), "v": np.arange(2)}}],
}


@pytest.mark.parametrize("metas", CASES.values(), ids=CASES)
def test_what_differs_from_the_first_frame(
    tmp_path: Path, metas: list[dict[str, Any]]
) -> None:
    save(tmp_path / "x", metas, z=len(metas))
    for meta, told in zip(metas, read_frames(tmp_path / "x"), strict=True):
        assert told.get("exposure_ms") == meta.get("exposure_ms")
        assert told.get("x_um") == meta.get("position", {}).get("x")
        assert told.get("camera_metadata", {}) == meta.get("camera_metadata", {})
        extra = {k: np.asarray(v).tolist() for k, v in meta.get("extra", {}).items()}
        assert told.get("extra", {}) == extra


def test_the_block_is_not_told_with_each_frame(tmp_path: Path) -> None:
    carried = carrier(stream_for())["extra"]
    save(tmp_path / "x", [{"extra": {**carried, "a": 1}}, {"extra": carried}])
    assert [told.get("extra") for told in read_frames(tmp_path / "x")] == [
        {"a": 1},
        None,
    ]
    assert BLOCK not in (tmp_path / "x" / "0" / FRAMES).read_text()


values = st.none() | st.integers() | st.text(max_size=5) | st.booleans()
records = st.fixed_dictionaries(
    {},
    optional={
        "exposure_ms": st.floats(0, 1e6),
        "camera_metadata": st.dictionaries(st.text(max_size=3), st.text(max_size=3)),
        "extra": st.dictionaries(st.sampled_from("abc"), values),
    },
)


@settings(max_examples=50, deadline=None)
@given(metas=st.lists(records, min_size=1, max_size=5))
def test_nothing_is_lost_between_the_lines(
    metas: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    book = FrameJournal([folder])
    event = useq.MDAEvent()
    for number, meta in enumerate(metas):
        line = book.line(0, {"z": number}, event, meta)
        book.add(Place(0, 0, 0, number), line)
    book.close()
    for number, told in enumerate(journal.frames_of(folder / FRAMES)):
        expected = journal.record_of(event, metas[number])
        assert told == {"index": {"z": number}, **expected}
    assert number + 1 == len(metas)


@pytest.mark.parametrize("n_bytes", [1, 20])
def test_a_torn_line_is_passed_over(tmp_path: Path, n_bytes: int) -> None:
    save(tmp_path / "x", [meta_of(number) for number in range(3)])
    path = tmp_path / "x" / "0" / FRAMES
    whole = list(read_frames(tmp_path / "x"))
    os.truncate(path, path.stat().st_size - 1 - n_bytes)
    assert list(read_frames(tmp_path / "x")) == whole[:2]


def test_many_positions_share_few_files(tmp_path: Path) -> None:
    n_positions = 3 * journal.MAX_OPEN
    folders = [tmp_path / str(p) for p in range(n_positions)]
    for folder in folders:
        folder.mkdir()
    book = FrameJournal(folders)
    n_before = psutil.Process().num_fds()
    for t in range(2):
        for p in range(n_positions):
            line = book.line(p, {"t": t, "p": p}, useq.MDAEvent(), meta_of(t))
            book.add(Place(t, p, 0, 0), line)
    assert psutil.Process().num_fds() <= n_before + journal.MAX_OPEN
    book.close()
    book.close()
    assert psutil.Process().num_fds() == n_before
    for p, folder in enumerate(folders):
        told = [frame["index"] for frame in journal.frames_of(folder / FRAMES)]
        assert told == [{"t": 0, "p": p}, {"t": 1, "p": p}]


def test_each_position_tells_of_its_own(tmp_path: Path) -> None:
    stream = stream_for(t=2, p=3, c=2)
    writer = OMEZarrWriter(tmp_path / "x")
    sent = record(writer, stream)
    for p in range(3):
        told = [frame["index"] for frame in read_frames(writer.path, p)]
        assert told == [at for at in sent if at["p"] == p]
    with pytest.raises(KeyError, match="no image of position 3"):
        list(read_frames(writer.path, 3))


def test_a_full_disk_is_no_line(tmp_path: Path, monkeypatch: Any) -> None:
    book = FrameJournal([tmp_path])
    line = book.line(0, {}, useq.MDAEvent(), {})
    monkeypatch.setattr(os, "write", lambda file, data: len(data) - 1)
    with pytest.raises(OSError, match="no room for a line"):
        book.add(Place(0, 0, 0, 0), line)
    book.close()
