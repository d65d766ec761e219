"""Writers that are killed at any moment: what was acknowledged is there, whole."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import yaozarrs

from crashing import STREAMS, Found, process, told, wait_for, write
from opm_engine.plan import Stream
from opm_engine.writers.repair import RepairReport, repair

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
N_KILLS = 6


@pytest.mark.parametrize(("kind", "codec", "backend"), WRITERS)
def test_killed(kind: str, codec: str, backend: str, tmp_path: Path) -> None:
    rng = random.Random(f"{kind} {codec} {backend}")
    for kill in range(N_KILLS):
        store, progress = tmp_path / f"{kill}.ome.zarr", tmp_path / f"{kill}.txt"
        with process(write, store, progress, kind, codec, backend) as writer:
            least = rng.randrange(1, 200 if kind == "small" else 60)
            wait_for(lambda: told(progress)[0] >= least, writer)
            time.sleep(rng.uniform(0, 0.03))
            writer.kill()
            writer.join()
        n_acknowledged, n_sent = told(progress)
        assert_kept(store, STREAMS[kind], n_acknowledged, n_sent)


def assert_kept(store: Path, stream: Stream, n_acknowledged: int, n_sent: int) -> None:
    """Whatever was acknowledged is there, at once and once repaired."""
    yaozarrs.validate_zarr_store(str(store))
    at_once = Found(store, stream).assert_sound()
    print(n_acknowledged, len(at_once), n_sent, at_once >= set(range(n_acknowledged)))
    assert len(at_once) >= n_acknowledged
    report = repair(store)
    yaozarrs.validate_zarr_store(str(store))
    found = Found(store, stream)
    assert report.frames_present == len(found.lines)
    assert found.assert_sound() >= at_once
    assert n_acknowledged <= report.frames_present <= n_sent + 1
    print(report.repaired)
    again = repair(store)
    assert again == RepairReport(**{**report.as_json(), "repaired": []})
