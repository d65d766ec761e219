"""Writers that are killed at any moment: what was acknowledged is there, whole."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr

from crashing import STREAMS, Found, acknowledged, process, told, wait_for, write
from opm_engine.plan import Stream
from opm_engine.writers.reading import read_frames
from opm_engine.writers.upkeep.repair import RepairReport, repair

pytestmark = pytest.mark.slow

WRITERS = [
    ("small", "none", "append"),
    ("small", "lz4", "append"),
    ("large", "none", "append"),
    ("large", "lz4", "append"),
    ("large", "zstd", "append"),
    ("volumes", "lz4", "append"),
    ("large", "lz4", "tensorstore"),
    ("volumes", "lz4", "tensorstore"),
]
N_KILLS = 3
MOST = {"small": 200, "large": 40, "volumes": 15}
"""Frames, of which some number is awaited."""


@pytest.mark.parametrize("kill", range(N_KILLS))
@pytest.mark.parametrize(("kind", "codec", "backend"), WRITERS)
def test_killed(kind: str, codec: str, backend: str, kill: int, tmp_path: Path) -> None:
    store, progress = tmp_path / "x.ome.zarr", tmp_path / "told.txt"
    rng = random.Random(f"{kind} {codec} {backend} {kill}")
    least = rng.randrange(1, MOST[kind])
    with process(write, store, progress, kind, codec, backend) as writer:
        wait_for(lambda: told(progress)[0] >= least, writer)
        time.sleep(rng.uniform(0, 0.02))
        writer.kill()
        writer.join()
    n_acknowledged, n_sent = told(progress)
    there = assert_kept(store, STREAMS[kind], n_acknowledged, n_sent)
    if backend == "append":  # it keeps the order
        assert there >= set(range(n_acknowledged))


def assert_kept(
    store: Path, stream: Stream, n_acknowledged: int, n_sent: int
) -> set[int]:
    """As many as were acknowledged are there, at once and once repaired; which ones."""
    yaozarrs.validate_zarr_store(str(store))
    at_once = Found(store, stream).assert_sound()
    assert len(at_once) >= n_acknowledged
    report = repair(store)
    yaozarrs.validate_zarr_store(str(store))
    found = Found(store, stream)
    assert report.frames_present == len(found.lines)
    assert found.assert_sound() >= at_once
    assert n_acknowledged <= report.frames_present <= n_sent + 1
    assert repair(store) == RepairReport(**{**report.as_json(), "repaired": []})
    return at_once


@pytest.mark.parametrize("least", [1, 150, 500])
def test_demo_is_killed(least: int, tmp_path: Path) -> None:
    """The whole system, as users start it; what is there decodes, and is no zeros."""
    progress, raw = tmp_path / "progress.jsonl", tmp_path / "out" / "raw.ome.zarr"
    words = "demo", "--volumes", "2", "--out", str(tmp_path / "out")
    with subprocess.Popen(
        [sys.executable, "-m", "opm_engine", *words, "--progress-file", str(progress)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        deadline_s = time.monotonic() + 90
        while acknowledged(progress) < least:
            assert running.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        running.kill()
    assert running.returncode == -signal.SIGKILL
    n_acknowledged = acknowledged(progress)
    n_told = assert_decodes(raw)
    assert n_told >= n_acknowledged
    report = repaired(raw)
    assert report["frames_present"] == assert_decodes(raw) >= n_told
    assert report["frames_present"] + report["frames_missing"] == 808
    assert repaired(raw) == {**report, "repaired": []}
    deskewed = repaired(raw.with_name("deskewed.ome.zarr"))
    assert deskewed["frames_present"] + deskewed["frames_missing"] == 8


def repaired(store: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "opm_engine", "repair", str(store), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    report: dict[str, object] = json.loads(done.stdout)
    return report


def assert_decodes(store: Path) -> int:
    """Return how many frames are told of; each is there."""
    yaozarrs.validate_zarr_store(str(store))
    root, n_told = zarr.open_group(store, mode="r"), 0
    for position in range(2):
        pixels = np.asarray(root[f"{position}/0"][:])  # type: ignore[index]
        lit = pixels.any(axis=(3, 4))
        for frame in read_frames(store, position):
            index = frame["index"]
            assert lit[index["t"], index["c"], index["z"]]
            n_told += 1
    return n_told
