"""The benchmark of writing runs and prints what it promises; not how fast it is."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from opm_engine.writers.shards import file as shard_file

sys.path.append(str(ROOT / "benchmarks"))

import writer as script

pytestmark = pytest.mark.skipif(
    shard_file.pwrite is None, reason="nothing can be appended on this platform"
)


@pytest.mark.slow
def test_it_prints_one_json_object_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(["--quick", "--json", "--dir", str(tmp_path)])
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert "GB" in printed.err
    assert list(tmp_path.iterdir()) == []
    assert set(found["throughput"]) == set(script.WAYS)
    for figures in found["throughput"].values():
        assert all(math.isfinite(value) and value > 0 for value in figures.values())
    for codec in ("none", "lz4"):
        assert found["throughput"][codec]["over_ome_writers"] > 0
        times = found["paced"][codec]
        assert 0 < times["p50_ms"] <= times["p99_ms"] <= times["max_ms"]
        assert found["memory"][codec]["over_budget"] <= 1.1
    assert found["small"]["frames"] == 2000
    assert found["small"]["close_s"] < 1
    assert "of ome-writers" in script.table(found)
