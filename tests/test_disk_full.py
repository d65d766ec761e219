"""The disk is too small, fills up, or is slow: told beforehand, or nothing is lost."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomli_w

from crashing import STREAMS, acknowledged, process, told, write
from opm_engine import OMEZarrWriter, ThreadRelay
from opm_engine.relay import Branch
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.reading import read_frames
from opm_engine.writers.saving import Saving
from opm_engine.writers.shards import file as shard_file
from opm_engine.writers.upkeep.repair import repair
from sequences import scan
from test_crash import assert_kept
from twins import microscope, opened, read

LASERS = ("port0/line0", "port0/line1")
LONG = scan(time_plan={"interval": 0, "loops": 30})
N_LONG = 300
LIMIT = 220 * 4096
"""Bytes of a file, where a process may not write more."""


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def disk_of(free: int) -> Callable[[Any], Usage]:
    return lambda path: Usage(2**40, 2**40 - free, free)


# ---- told beforehand -----------------------------------------------------------------


def test_raw_and_deskewed_share_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fits alone. Together they do not: refused with the numbers, before light."""
    with opened() as scope:
        scope.acquire(scan(), tmp_path / "fits", codec="none")
        raw, deskewed = (
            read(tmp_path / "fits" / f"{name}.ome.zarr").nbytes
            for name in ("raw", "deskewed")
        )
        n_free = max(raw, deskewed) + min(raw, deskewed) // 2
        monkeypatch.setattr(shutil, "disk_usage", disk_of(n_free))
        before = scope.twin.status()["rises"]
        both = r"raw\.\S+ needs \S+ MB and \S+deskewed\.\S+ needs \S+ MB; .* has .* MB"
        with pytest.raises(OSError, match=both) as e:
            scope.acquire(scan(), tmp_path / "out", codec="none")
        assert e.value.errno == errno.ENOSPC
        assert not (tmp_path / "out").exists()
        assert scope.twin.status()["rises"] == before
        monkeypatch.setattr(shutil, "disk_usage", disk_of(raw + deskewed))
        scope.acquire(scan(), tmp_path / "out", codec="none")
        monkeypatch.setattr(shutil, "disk_usage", disk_of(0))
        # What is replaced counts as free.
        scope.acquire(scan(), tmp_path / "out", codec="none", overwrite=True)


# ---- it fills up ---------------------------------------------------------------------


@contextmanager
def slow_close(board: Any) -> Iterator[list[bool]]:
    """Let stores close slowly, and note whether there is light meanwhile."""
    lit: list[bool] = []
    close_at_once = Saving.close

    def close(saving: Saving, *, is_whole: bool) -> None:
        for _ in range(100):
            lit.append(any(board.line(line) for line in LASERS))
            time.sleep(2e-3)
        close_at_once(saving, is_whole=is_whole)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saving, "close", close)
        yield lit


@pytest.mark.parametrize("n_writes", [6, 20])
def test_light_goes_off_first(
    n_writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = itertools.count()
    genuine = shard_file.pwrite
    assert genuine is not None

    def pwrite(fd: int, data: Any, offset: int) -> int:
        if next(writes) < n_writes:
            return genuine(fd, data, offset)
        time.sleep(0.05)  # and the other writes wait behind it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shard_file, "pwrite", pwrite)
    monkeypatch.setattr(shard_file, "probe", lambda folder: shard_file.DIRECT_BLOCK)
    writer = OMEZarrWriter(tmp_path / "x.ome.zarr")
    with opened() as scope:
        relay = ThreadRelay(Branch(writer, name="raw"))
        with (
            slow_close(scope.twin.board) as lit,
            relay.connected(scope.core.mda),
            pytest.raises(OSError, match="No space") as caught,
        ):
            scope.core.mda.run(LONG)
        assert caught.value.errno == errno.ENOSPC
        assert lit
        assert not any(lit)
        assert not any(scope.twin.board.line(line) for line in LASERS)
    n_kept = writer.frames_written
    assert 0 < n_kept < N_LONG
    told = {frame["index"]["z"] for frame in read_frames(tmp_path / "x.ome.zarr")}
    assert told
    report = repair(tmp_path / "x.ome.zarr")
    assert report.frames_present >= n_kept
    assert report.frames_present + report.frames_missing == N_LONG


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["small", "large", "volumes"])
@pytest.mark.parametrize("backend", ["append", "tensorstore"])
def test_acknowledged_frames_stay(kind: str, backend: str, tmp_path: Path) -> None:
    store, progress = tmp_path / "x.ome.zarr", tmp_path / "told.txt"
    limit = {"small": 30_000, "large": LIMIT, "volumes": 250_000}[kind]
    if backend == "tensorstore" and kind == "small":
        limit = 4_000  # it writes all of a shard at once, here smaller than the limit
    with process(write, store, progress, kind, "none", backend, limit) as writer:
        writer.join(20)
    assert writer.exitcode == 1
    n_acknowledged, n_sent = told(progress)
    assert_kept(store, STREAMS[kind], n_acknowledged, n_sent)


@pytest.mark.slow
def test_run_ends_with_the_reason(tmp_path: Path) -> None:
    """The command, in a process whose files may not grow beyond a size."""
    table = microscope().model_dump(mode="json", exclude_none=True)
    (tmp_path / "scope.toml").write_text(tomli_w.dumps(table))
    long = scan(z_plan={"range": 100, "step": 0.5})
    (tmp_path / "scan.yaml").write_text(long.yaml())
    code = (
        "import resource;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}));"
        "from opm_engine.cli import main; main()"
    )
    words = "run", "scan.yaml", "--microscope", "scope.toml", "--out", "out"
    more = "--codec", "none", "--progress-file", "progress.jsonl", "--json"
    done = subprocess.run(
        [sys.executable, "-c", code, *words, *more],
        cwd=tmp_path,
        env={**os.environ, "PYMM_LOG_FILE": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    # Micro-Manager has a log of its own, which may be larger already.
    lines = done.stderr.splitlines()
    (line,) = (line for line in lines if not line.startswith("Logging: "))
    assert line.startswith("error: ")
    assert "File too large" in line
    n_acknowledged = acknowledged(tmp_path / "progress.jsonl")
    assert 0 < n_acknowledged < 402
    for name in ("raw", "deskewed"):
        report = repair(tmp_path / "out" / f"{name}.ome.zarr")
        assert report.frames_missing > 0
        if name == "raw":
            assert report.frames_present >= n_acknowledged


# ---- somebody else is there ----------------------------------------------------------


@pytest.mark.parametrize("has_data", [True, False])
def test_a_folder_is_acquired_into_once_at_a_time(
    has_data: bool, tmp_path: Path
) -> None:
    """Whoever comes second is refused, and takes nothing away from the first."""
    out = tmp_path / "out"
    out.mkdir()
    with opened() as scope, StoreLock(out):
        if has_data:
            (out / "raw.ome.zarr").mkdir()
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(BlockingIOError, match="out is being written or replayed"):
            scope.acquire(scan(), out, overwrite=has_data)
        assert sorted(tmp_path.rglob("*")) == before


def test_a_run_has_its_folder_to_itself(tmp_path: Path) -> None:
    refused = []

    def try_it(*_: object) -> None:
        if not refused:
            with pytest.raises(BlockingIOError) as caught:
                StoreLock(tmp_path / "out")
            refused.append(caught.value)

    with opened() as scope:
        scope.acquire(scan(), tmp_path / "out", on_frame=try_it)
    assert refused
    StoreLock(tmp_path / "out").release()


# ---- it is slow ----------------------------------------------------------------------


def test_a_slow_disk_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = shard_file.pwrite
    assert genuine is not None

    def pwrite(fd: int, data: Any, offset: int) -> int:
        time.sleep(0.01)
        return genuine(fd, data, offset)

    monkeypatch.setattr(shard_file, "pwrite", pwrite)
    progress = tmp_path / "progress.jsonl"
    with opened() as scope:
        acquisition = scope.acquire(
            scan(time_plan={"interval": 0, "loops": 8}),
            tmp_path / "out",
            progress_file=progress,
        )
    report = acquisition.report()
    assert (report["frames_lost"], report["frames_acknowledged"]) == (0, 80)
    assert acknowledged(progress) == 80
    assert json.loads(progress.read_text().splitlines()[0]) == {"acknowledged": 0}
    for name, n_items in (("raw", 80), ("deskewed", 16)):
        mended = repair(tmp_path / "out" / f"{name}.ome.zarr")
        assert (mended.frames_present, mended.frames_missing) == (n_items, 0)
        assert mended.repaired == []
