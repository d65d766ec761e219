"""Stored planes deskewed later: the same as live, whatever breaks it off."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import useq
from rich.console import Console

from oblique import reference
from opm_engine import Deskew, OMEZarrWriter, cli
from opm_engine.geometry import Geometry
from opm_engine.plan import BLOCK, ChannelInfo, Flag, PositionInfo, Stream
from opm_engine.processing.correction import Correction
from opm_engine.recording import Recording
from opm_engine.reprocess import reprocess, target
from opm_engine.reprocess.target import NOTE
from opm_engine.reprocess.work import prepare_process
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.reading import read_flags, read_frames, stream_of_store
from opm_engine.writers.shelf import Shelf
from opm_engine.writers.upkeep.info import describe_store
from opm_engine.writers.upkeep.inventory import inventory
from opm_engine.writers.upkeep.repair import repair
from sequences import scan, settings
from stored import (
    CASES,
    DESKEWED,
    RAW,
    SEQUENCE,
    assert_same_voxels,
    documents,
    frames_of,
    store_run,
    summary_of,
    two_cameras,
    voxels,
)

ONE = CASES["one-position"]
OUT = "out.ome.zarr"
SHARD_BYTES = 250_000
"""Two slabs of a volume of these runs: four files each."""


def again(raw: Path, **how: Any) -> Path:
    """Reprocess in threads, which start at once."""
    out = raw.parent / OUT
    with ThreadPoolExecutor(2) as threads:
        reprocess(raw, out, executor=threads, shard_bytes=SHARD_BYTES, **how)
    return out


def told_of(store: Path) -> list[dict[str, Any]]:
    """What is told of each volume, but for how long it took."""
    n_positions = len(Recording(store.parent / RAW).stream.positions)
    told = [frame for p in range(n_positions) for frame in read_frames(store, p)]
    for frame in told:
        extra = frame.pop("extra", {"deskew": {}})
        deskew = {k: v for k, v in extra["deskew"].items() if k != "latency_ms"}
        frame |= {"deskew": deskew} if deskew else {}
    return told


def _place(frame: dict[str, Any]) -> list[tuple[str, int]]:
    return sorted(frame["index"].items())


def assert_same(out: Path, live: Path, *, is_whole: bool = True) -> None:
    assert_same_voxels(out, live)
    assert documents(out) == documents(live)
    assert sorted(told_of(out), key=_place) == sorted(told_of(live), key=_place)
    assert inventory(out).is_whole == inventory(live).is_whole == is_whole
    assert is_complete(out)


def is_complete(out: Path) -> bool:
    """What the note says, of which nothing else is left."""
    (note,) = out.rglob(f"*{NOTE}*")
    return bool(json.loads(note.read_text("utf-8"))["complete"])


# ---- the same as live ----------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_same_as_live(name: str, tmp_path: Path) -> None:
    raw, live = store_run(tmp_path, CASES[name], shard_bytes=SHARD_BYTES)
    assert_same(again(raw), live)


FLAT = np.linspace(0.8, 1.2, 208 * 16).reshape(208, 16)

OPTIONS: dict[str, dict[str, Any]] = {
    "voxels": {"voxel_size_um": (0.2, 0.15)},
    "z-binned": {"z_bin": 3},
    "sheared": {"interpolation": "shear"},
    "corrected": {"correction": Correction(100, 1.5, FLAT)},
    "as-the-camera": {"correction": "camera", "missing": "interpolate"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_with_the_same_options(name: str, tmp_path: Path) -> None:
    how = OPTIONS[name]
    raw, live = store_run(
        tmp_path, CASES["bidirectional"], shard_bytes=SHARD_BYTES, **how
    )
    assert_same(again(raw, **how), live)


def test_against_the_formula(tmp_path: Path) -> None:
    raw, _ = store_run(tmp_path, ONE, live=False)
    stack = np.stack([image for image, _, _ in frames_of(ONE)])
    px = Geometry.model_validate(Recording(raw).block["geometry"]).pixel_size_um
    expected, _ = reference(stack, 30, 0.4, px, (px, px))
    found = voxels(again(raw))["0"][0, 0]
    assert np.abs(found - expected).max() <= 0.51


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_codecs(codec: str, tmp_path: Path) -> None:
    raw, live = store_run(tmp_path, ONE)
    out = again(raw, codec=codec)
    assert_same_voxels(out, live)
    compressors = documents(out)["0/zarr.json"]["codecs"][0]["configuration"]["codecs"]
    names = [c["configuration"].get("cname") for c in compressors]
    assert names == [None] + ["zstd"] * (codec == "zstd")


def test_several_cameras(tmp_path: Path) -> None:
    raw, live = store_run(
        tmp_path,
        CASES["grid"],
        keep=lambda at: (at["g"], at["z"], at["cam"]) != (1, 2, 1),
        scope=two_cameras(),
        shard_bytes=SHARD_BYTES,
    )
    assert_same(again(raw), live, is_whole=False)
    assert describe_store(live)["missing"] == [
        "t=0, p=1, c=1: 1 of its planes",
        "t=0, p=1, c=3: 1 of its planes",
    ]


def test_a_run_without_a_planned_end(tmp_path: Path) -> None:
    """It was to have one time point, and three came."""
    sequence = ONE.replace(time_plan={"interval": 0, "loops": 3})
    summary = summary_of(sequence)
    stream = summary["extra"][BLOCK]["stream"]
    stream |= {"n_times": 1, "unbounded": True}
    raw = OMEZarrWriter(tmp_path / RAW)
    live = OMEZarrWriter(tmp_path / DESKEWED, shard_bytes=SHARD_BYTES)
    for handler in (raw, Deskew(outputs=[live])):
        handler.sequenceStarted(sequence, summary)
        for frame in frames_of(sequence):
            handler.frameReady(*frame)
        handler.sequenceFinished(sequence)
    out = again(raw.path)
    assert voxels(out)["0"].shape[0] == 3
    assert_same(out, live.path)


def test_another_engines_planes(tmp_path: Path) -> None:
    raw, live = store_run(tmp_path, ONE)
    for path in raw.glob("zarr.json"):
        document = json.loads(path.read_text("utf-8"))
        block = document["attributes"][BLOCK]
        geometry = Geometry(**block["geometry"])
        document["attributes"][BLOCK] = {"stream": block["stream"]}
        path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="geometry="):
        again(raw)
    assert_same_voxels(again(raw, geometry=geometry), live)


def test_flags_come_along(tmp_path: Path) -> None:
    raw = OMEZarrWriter(tmp_path / RAW)
    raw.sequenceStarted(ONE, summary_of(ONE))
    for frame in frames_of(ONE):
        raw.frameReady(*frame)
    raw.noteReady(Flag({"t": 0, "p": 0}, "an edge too many"))
    raw.sequenceFinished(ONE)
    out = again(raw.path)
    assert read_flags(out) == read_flags(raw.path) != ()
    assert told_of(out)[0]["deskew"] == {"flags": ["an edge too many"]}


# ---- planes that are not there -------------------------------------------------

HOLES = {
    "one": {4},
    "several": {2, 3, 6},
    "first": {0, 1},
    "every-second": {1, 3, 5, 7},
    "last": {8},
    "first-and-last": {0, 4, 7, 8},
}


@pytest.mark.parametrize("missing", ["zero", "interpolate"])
@pytest.mark.parametrize("name", HOLES)
def test_holes_as_live(name: str, missing: str, tmp_path: Path) -> None:
    holes = {(0, 1, z) for z in HOLES[name]} | {(1, 0, 5)}
    sequence = CASES["bidirectional"].replace(stage_positions=())

    def kept(index: dict[str, int]) -> bool:
        return (index["t"], index["c"], index["z"]) not in holes

    raw, live = store_run(
        tmp_path, sequence, keep=kept, shard_bytes=SHARD_BYTES, missing=missing
    )
    out = again(raw, missing=missing)
    assert_same(out, live, is_whole=False)
    for store in (out, live):
        found = describe_store(store)
        assert (found["frames_present"], found["frames_missing"]) == (2, 2)
        assert found["volumes_incomplete"] == 2
        assert found["missing"] == [
            f"t=0, p=0, c=1: {len(HOLES[name])} of its planes",
            "t=1, p=0, c=0: 1 of its planes",
        ]


@pytest.mark.parametrize("name", ["bidirectional", "sequential"])
@pytest.mark.parametrize("n_frames", [1, 13, 17])
def test_a_cancelled_run_as_live(name: str, n_frames: int, tmp_path: Path) -> None:
    count = iter(range(1000))
    sequence = CASES[name].replace(stage_positions=())
    raw, live = store_run(
        tmp_path,
        sequence,
        keep=lambda index: next(count) < n_frames,
        shard_bytes=SHARD_BYTES,
    )
    out = again(raw)
    assert_same(out, live, is_whole=False)
    assert (
        describe_store(live)["volumes_incomplete"]
        == describe_store(out)["volumes_incomplete"]
        > 0
    )


def test_lines_that_tell_nothing_hide_no_lost_planes(tmp_path: Path) -> None:
    _, live = store_run(tmp_path, ONE, keep=lambda at: at["z"] != 4)
    journal = live / "0" / "frames.jsonl"
    told = journal.read_bytes()
    lost = b'"extra":{"deskew":{"missing_planes":[1]}}'
    wrong = (
        *(b"7", b'{"index":{}}', b'{"index":{"t":9},%b}' % lost),
        *(b'{"index":[0],%b}' % lost, b'{"index":{},"extra":7}'),
    )
    journal.write_bytes(told + b"\n".join(wrong) + b'\n{"index":{"t"')
    found = describe_store(live)
    assert (found["volumes_incomplete"], found["is_whole"]) == (1, False)
    assert found["missing"] == ["t=0, p=0, c=0: 1 of its planes"]


def test_a_run_that_was_broken_off(tmp_path: Path) -> None:
    """In the second volume of four, four planes in: what can be made is made."""
    count = iter(range(100))
    sequence = CASES["sequential"].replace(stage_positions=())
    raw, _ = store_run(
        tmp_path, sequence, keep=lambda index: next(count) < 13, live=False
    )
    whole, _ = store_run(tmp_path / "whole", sequence, live=False)
    out = raw.parent / OUT
    with ThreadPoolExecutor(2) as threads:
        made = reprocess(raw, out, executor=threads)
        reprocess(whole, tmp_path / "whole" / OUT, executor=threads)
    (gap,) = made.gaps
    assert gap.index == {"t": 0, "p": 0, "c": 1}
    assert gap.planes == (4, 5, 6, 7, 8)
    assert (made.n_volumes, made.n_absent) == (2, 2)
    assert [frame["index"] for frame in read_frames(out)] == [
        {"t": 0, "c": 0},
        {"t": 0, "c": 1},
    ]
    found, complete = voxels(out)["0"], voxels(tmp_path / "whole" / OUT)["0"]
    np.testing.assert_array_equal(found[0, 0], complete[0, 0])
    there = found[0, 1] != 0
    assert 0.2 < there.sum() / (complete[0, 1] != 0).sum() < 0.6
    np.testing.assert_array_equal(found[0, 1][there], complete[0, 1][there])
    assert not found[1].any()
    assert made.report()["missing_planes"] == [
        {"t": 0, "p": 0, "c": 1, "planes": [4, 5, 6, 7, 8]}
    ]


# ---- broken off ----------------------------------------------------------------


class Stops(Exception):
    pass


def stop_after(n_shards: int) -> Callable[[int, int], None]:
    def on_progress(done: int, total: int) -> None:
        if done >= n_shards:
            raise Stops

    return on_progress


def shards(store: Path) -> dict[str, int]:
    """When each file of pixels was made."""
    return {
        str(path.relative_to(store)): path.stat().st_mtime_ns
        for path in (store / "0" / "c").rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    sequence = SEQUENCE.replace(stage_positions=())
    return store_run(tmp_path_factory.mktemp("run"), sequence, shard_bytes=SHARD_BYTES)


def begun(stored: tuple[Path, Path], tmp_path: Path, n_shards: int = 5) -> Path:
    out = tmp_path / OUT
    with pytest.raises(Stops), ThreadPoolExecutor(2) as threads:
        reprocess(
            stored[0],
            out,
            executor=threads,
            shard_bytes=SHARD_BYTES,
            on_progress=stop_after(n_shards),
        )
    return out


def test_it_goes_on_where_it_was(stored: tuple[Path, Path], tmp_path: Path) -> None:
    out = begun(stored, tmp_path)
    before = shards(out)
    assert 5 <= len(before) < 16
    torn, cut = sorted(before)[:2]
    content = (out / torn).read_bytes()
    (out / torn).write_bytes(content[: len(content) // 2])
    (out / cut).unlink()
    seen: list[tuple[int, int]] = []
    with ThreadPoolExecutor(1) as thread:
        made = reprocess(
            stored[0],
            out,
            executor=thread,
            jobs=1,
            shard_bytes=SHARD_BYTES,
            on_progress=lambda *at: seen.append(at),
        )
    assert made.n_found == len(before) - 2
    assert seen == [(n, 16) for n in range(made.n_found, 17)]
    after = shards(out)
    same = {name for name in before if after[name] == before[name]}
    assert same == before.keys() - {torn, cut}
    assert_same_voxels(out, stored[1])
    assert documents(out) == documents(stored[1])
    assert is_complete(out)


CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "voxels": ({"voxel_size_um": 0.2}, "voxel_size_um = .*0.2"),
    "missing": ({"missing": "interpolate"}, "missing = zero, now interpolate"),
    "codec": ({"codec": "none"}, "codec = lz4, now none"),
    "shards": ({"shard_bytes": None}, "shard_bytes = 250000, now None"),
    "correction": ({"correction": Correction(100)}, "correction = None, now"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_with_other_options_it_does_not_go_on(
    name: str, stored: tuple[Path, Path], tmp_path: Path
) -> None:
    how, message = CHANGED[name]
    out = begun(stored, tmp_path)
    before = shards(out)
    with pytest.raises(ValueError, match=message):
        reprocess(stored[0], out, **{"shard_bytes": SHARD_BYTES, **how})
    assert shards(out) == before
    assert not is_complete(out)


def test_with_other_planes_it_does_not_go_on(
    stored: tuple[Path, Path], tmp_path: Path
) -> None:
    out = begun(stored, tmp_path)
    sequence = SEQUENCE.replace(stage_positions=())
    other, _ = store_run(tmp_path, sequence, keep=lambda at: at["z"] > 0, live=False)
    with pytest.raises(ValueError, match="begun with planes"):
        reprocess(other, out, shard_bytes=SHARD_BYTES)
    with ThreadPoolExecutor(1) as thread:
        made = reprocess(stored[0], out, executor=thread, overwrite=True)
    assert made.n_found == 0
    assert_same_voxels(out, stored[1])


def stop(*_: Any, **__: Any) -> None:
    raise Stops


def files(store: Path) -> dict[Path, int]:
    """When each file was made."""
    return {x: x.stat().st_mtime_ns for x in store.rglob("*") if x.is_file()}


def test_what_is_complete_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, live = store_run(tmp_path, ONE, shard_bytes=SHARD_BYTES)
    out = again(raw)
    before = files(out)
    with ThreadPoolExecutor(1) as thread:
        made = reprocess(raw, out, executor=thread, shard_bytes=SHARD_BYTES)
    assert made.n_found == made.n_shards == len(shards(out)) > 0
    assert files(out) == before
    with pytest.raises(ValueError, match="z_bin = 1, now 2"):
        again(raw, z_bin=2)
    assert repair(out).repaired == []
    assert describe_store(out)["is_whole"]
    lost = out / sorted(shards(out))[0]
    lost.unlink()
    with monkeypatch.context() as broken:
        broken.setattr(target.FrameJournal, "add", stop)
        with pytest.raises(Stops):
            again(raw)
    assert_same(again(raw), live)
    again(raw, overwrite=True)
    assert files(out)[lost] > before[lost]
    assert_same(out, live)


def test_what_overwrites_goes_on_too(stored: tuple[Path, Path], tmp_path: Path) -> None:
    out = begun(stored, tmp_path)
    n_made = len(shards(out))
    how: dict[str, Any] = {"shard_bytes": SHARD_BYTES, "overwrite": True}
    with ThreadPoolExecutor(1) as thread:
        assert reprocess(stored[0], out, executor=thread, **how).n_found == n_made
        assert reprocess(stored[0], out, executor=thread, **how).n_found == 0


@pytest.mark.parametrize("at", ["rename", "clear", "create", "finish"])
def test_broken_off_at_a_step(
    at: str, stored: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the shards' steps, too, the same call goes on to the end."""
    out, raw = tmp_path / OUT, stored[0]
    shutil.copytree(stored[1], out)
    how: dict[str, Any] = {"shard_bytes": SHARD_BYTES, "overwrite": True}

    def clear_half(path: Path) -> None:
        if path.exists():
            (path / "zarr.json").unlink()
            raise Stops

    owner, name, breaks = {
        "rename": (Path, "rename", stop),
        "clear": (target.paths, "clear", clear_half),
        "create": (target.OMEZarrWriter, "sequenceFinished", stop),
        "finish": (target.FrameJournal, "add", stop),
    }[at]
    with ThreadPoolExecutor(1) as thread:
        with monkeypatch.context() as broken:
            broken.setattr(owner, name, breaks)
            with pytest.raises(Stops):
                reprocess(raw, out, executor=thread, **how)
        reprocess(raw, out, executor=thread, **how)
    assert documents(out) == documents(stored[1])
    assert len(list(read_frames(out))) == len(list(read_frames(stored[1])))
    assert [x.name for x in tmp_path.iterdir()] == [OUT]
    assert is_complete(out)


NOT_OURS = {
    "live": (False, "exists: choose another path, or overwrite"),
    "folder": (True, "is not a zarr store"),
}


@pytest.mark.parametrize("name", NOT_OURS)
def test_what_is_not_ours_stays(
    name: str, stored: tuple[Path, Path], tmp_path: Path
) -> None:
    overwrite, message = NOT_OURS[name]
    out = tmp_path / OUT
    if name == "live":
        shutil.copytree(stored[1], out)
    else:
        out.mkdir()
    before = files(out)
    with pytest.raises(FileExistsError, match=message) as refused:
        reprocess(stored[0], out, overwrite=overwrite)
    assert "overwrite=True" not in str(refused.value)
    assert out.exists()
    assert files(out) == before


# ---- refusals ------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "jobs": ({"jobs": 0}, ValueError, "jobs must be 1 or more"),
    "half-a-job": ({"jobs": 1.5}, ValueError, "jobs must be a whole number, not 1.5"),
    "memory": ({"memory_bytes": 10_000}, MemoryError, "memory_bytes: .* GB were given"),
    "option": ({"zbin": 2}, TypeError, "no option zbin; .* voxel_size_um, .* z_bin, "),
    "voxels": ({"voxel_size_um": -1}, ValueError, "voxel_size_um"),
    "codec": ({"codec": "gzip"}, ValueError, "codec"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nonsense_is_refused(
    name: str, stored: tuple[Path, Path], tmp_path: Path
) -> None:
    how, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        reprocess(stored[0], tmp_path / OUT, **how)
    assert not list(tmp_path.iterdir())


def test_without_memory_what_is_there_stays(
    stored: tuple[Path, Path], tmp_path: Path
) -> None:
    """Refused, it has begun nothing and removed nothing."""
    out = tmp_path / OUT
    shutil.copytree(stored[1], out)
    before = files(out)
    with pytest.raises(MemoryError, match="memory_bytes"):
        reprocess(stored[0], out, memory_bytes=10_000, overwrite=True)
    assert files(out) == before
    shutil.rmtree(out)
    with pytest.raises(MemoryError, match="memory_bytes"):
        reprocess(stored[0], out, memory_bytes=10_000)
    with ThreadPoolExecutor(1) as thread:
        reprocess(stored[0], out, z_bin=2, executor=thread)
    assert is_complete(out)


@pytest.mark.parametrize("shard_bytes", [None, SHARD_BYTES])
def test_what_is_judged_is_what_is_made(
    shard_bytes: int | None, tmp_path: Path
) -> None:
    raw, _ = store_run(tmp_path, CASES["other-lengths"], live=False)
    out = tmp_path / OUT
    with ThreadPoolExecutor(1) as thread:
        reprocess(raw, out, executor=thread, shard_bytes=shard_bytes)
    made, stream = Shelf.of(out), stream_of_store(out)
    planned = Shelf.planned(tmp_path / "trial", stream, "lz4", shard_bytes)
    assert planned.layouts == made.layouts
    assert (planned.codec, planned.block) == (made.codec, made.block)


def test_stores_that_cannot_be_deskewed(
    stored: tuple[Path, Path], tmp_path: Path
) -> None:
    raw, deskewed = stored
    with pytest.raises(ValueError, match="holds volumes"):
        reprocess(deskewed, tmp_path / OUT)
    with pytest.raises(FileNotFoundError, match="no store at"):
        reprocess(tmp_path / "none.ome.zarr", tmp_path / OUT)
    with pytest.raises(FileNotFoundError, match="did you mean"):
        reprocess(raw.parent, raw.parent / OUT)
    for inside in (raw, raw / "deskewed", raw.parent):
        with pytest.raises(ValueError, match="beside"):
            reprocess(raw, inside, overwrite=True)
    assert (raw / "0" / "zarr.json").exists()


def test_a_run_that_goes_on_is_left_alone(
    stored: tuple[Path, Path], tmp_path: Path
) -> None:
    out = begun(stored, tmp_path)
    before = shards(out)
    for busy, overwrite in ((stored[0], False), (out, False), (out, True)):
        with StoreLock(busy), pytest.raises(BlockingIOError, match="being written"):
            reprocess(stored[0], out, shard_bytes=SHARD_BYTES, overwrite=overwrite)
    assert shards(out) == before


def test_single_planes_make_no_volume(tmp_path: Path) -> None:
    sequence = scan(z_plan=None, metadata=settings(mode="single"))
    raw, _ = store_run(tmp_path, sequence, live=False)
    with pytest.raises(ValueError, match="two planes or more"):
        reprocess(raw, tmp_path / OUT)


# ---- the command ---------------------------------------------------------------


COMMANDS = {
    "deskew": ("deskew", ".", "--out", "./again.ome.zarr"),
    "info": ("info", "."),
    "repair": ("repair", "."),
}


def command(
    words: Sequence[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> tuple[int, str]:
    """Run it in this process: status, and what it says of errors."""
    said = io.StringIO()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["opm-engine", *words])
    monkeypatch.setattr(cli.talk, "stderr", Console(file=said))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0), said.getvalue()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_folder_of_a_run_is_no_store(
    name: str, stored: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, said = command(COMMANDS[name], monkeypatch, stored[0].parent)
    assert status == 1
    assert said.strip() == "error: no store at .; did you mean raw.ome.zarr?"


def test_the_command_may_be_called_again(
    stored: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw, live = map(str, stored)
    with ThreadPoolExecutor(1) as thread:
        reprocess(raw, tmp_path / OUT, executor=thread)
    status, said = command(
        ("deskew", raw, "--out", OUT, "--json"), monkeypatch, tmp_path
    )
    assert (status, said) == (0, "")
    report = json.loads(capsys.readouterr().out)
    assert report["shards_found"] == report["shards"] > 0
    for out, more in ((OUT, ("--z-bin", "2")), (live, ())):
        words = ("deskew", raw, "--out", out, *more)
        status, said = command(words, monkeypatch, tmp_path)
        assert status == 1
        assert "choose another path, or overwrite it" in said
        assert "overwrite=" not in said
        assert "{run" not in said
    status, _ = command(("deskew", "--help"), monkeypatch, tmp_path)
    assert "300 MB" in " ".join(capsys.readouterr().out.split())


# ---- executors -----------------------------------------------------------------


class Counting(Executor):
    """Runs things in threads, and knows how many at most at once."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(8)
        self.running: set[Future[Any]] = set()
        self.most = 0

    def submit(self, fn, /, *args, **kwargs):
        future = self.threads.submit(fn, *args, **kwargs)
        self.running = {x for x in self.running if not x.done()} | {future}
        self.most = max(self.most, len(self.running))
        return future


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_more_at_once_than_jobs(
    jobs: int, stored: tuple[Path, Path], tmp_path: Path
) -> None:
    executor = Counting()
    reprocess(
        stored[0],
        tmp_path / OUT,
        executor=executor,
        jobs=jobs,
        shard_bytes=SHARD_BYTES,
    )
    executor.threads.shutdown()
    assert executor.most <= jobs
    assert_same_voxels(tmp_path / OUT, stored[1])


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly(ProcessPoolExecutor):
    """Whose third task kills its process."""

    n_tasks = 0

    def submit(self, fn, /, *args, **kwargs):
        self.n_tasks += 1
        return super().submit(_die if self.n_tasks == 3 else fn, *args, **kwargs)


@pytest.mark.slow
def test_a_worker_that_is_killed(stored: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / OUT
    how: dict[str, Any] = {"jobs": 1, "shard_bytes": SHARD_BYTES}
    with (
        Deadly(1, mp_context=get_context("spawn")) as deadly,
        pytest.raises(RuntimeError, match="call again"),
    ):
        reprocess(stored[0], out, executor=deadly, **how)
    with ThreadPoolExecutor(1) as thread:
        assert reprocess(stored[0], out, executor=thread, **how).n_found == 2
    assert_same_voxels(out, stored[1])


SCRIPT = """
import sys
from opm_engine.reprocess import reprocess
if __name__ == "__main__":
    reprocess(sys.argv[1], sys.argv[2], jobs=2, shard_bytes=int(sys.argv[3]),
              on_progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.slow
def test_killed_at_any_moment(stored: tuple[Path, Path], tmp_path: Path) -> None:
    """Again and again, until it has come through; its workers end with it."""
    out, script = tmp_path / OUT, tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(stored[0]), str(out), str(SHARD_BYTES)]
    done_before = -1
    for number, n_more in ((signal.SIGKILL, 2), (signal.SIGINT, 5), (None, 100)):
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, text=True, **pipes) as process:
            assert process.stdout is not None
            numbers, workers = [], []
            for line in process.stdout:
                numbers.append(int(line))
                if numbers[-1] >= numbers[0] + n_more and not workers:
                    workers = psutil.Process(process.pid).children(recursive=True)
                    process.send_signal(number)
        assert numbers[0] >= done_before  # nothing that was whole was lost
        assert numbers[0] > 0 or done_before < 0
        done_before = numbers[-1]
        assert len(workers) >= 2 * (number is not None)
        _, alive = psutil.wait_procs(workers, timeout=5)
        assert not alive
    assert process.returncode == 0
    assert_same_voxels(out, stored[1])
    assert documents(out) == documents(stored[1])


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text("utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def store_long_scan(folder: Path) -> Path:
    """A volume that is much longer than the part of it that is open at a time."""
    geometry = Geometry(
        angle_deg=30,
        step_um=0.4,
        pixel_size_um=0.115,
        n_planes=300,
        n_rows=512,
        n_columns=512,
    )
    stream = Stream(
        kind="planes",
        shape=(512, 512),
        n_planes=300,
        scale_um=(0.4, 0.115, 0.115),
        channels=(ChannelInfo(name="488"),),
        positions=(PositionInfo(name="0"),),
    )
    block = {
        "stream": stream.model_dump(mode="json"),
        "geometry": geometry.model_dump(mode="json"),
    }
    raw, nobody = OMEZarrWriter(folder / RAW), useq.MDASequence()
    raw.sequenceStarted(nobody, {"extra": {BLOCK: block}})
    plane = np.random.default_rng(0).poisson(100, (512, 512)).astype(np.uint16)
    for z in range(300):
        event = useq.MDAEvent(index={"z": z}, sequence=nobody)
        raw.frameReady(np.roll(plane, z, 0), event, {})
    raw.sequenceFinished(nobody)
    return raw.path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell no peak")
def test_memory_stays_within_the_budget(
    stored: tuple[Path, Path], tmp_path: Path
) -> None:
    raw = store_long_scan(tmp_path)
    volume_bytes, budget = 256 * 1483 * 512 * 2, 260_000_000
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=prepare_process
    ) as worker:
        reprocess(stored[0], tmp_path / "small", executor=worker)  # all is loaded
        base = worker.submit(_peak_bytes).result()
        reprocess(raw, tmp_path / OUT, executor=worker, jobs=1, memory_bytes=budget)
        used = worker.submit(_peak_bytes).result() - base
    assert budget < volume_bytes
    assert budget / 10 < used < budget
    assert inventory(tmp_path / OUT).is_whole
