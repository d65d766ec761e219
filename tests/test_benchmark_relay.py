"""The relay's benchmark runs and prints what it promises; how fast is not judged."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from conftest import ROOT


def run(*options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/relay.py"), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_prints_one_json_object() -> None:
    found = json.loads(run("--json", "--repeats", "1", "--frames", "10"))
    figures = {
        "wake": {"p50_ms", "p99_ms"},
        "flood_1": {"emit_us", "frames_per_s"},
        "flood_3": {"emit_us", "frames_per_s"},
    }
    for part, names in figures.items():
        for relay in ("ours", "tree", "stock", "stock_over_ours"):
            assert found[part][relay].keys() == names
            values = found[part][relay].values()
            assert all(math.isfinite(value) and value > 0 for value in values)


@pytest.mark.slow
def test_prints_a_table() -> None:
    text = run("--repeats", "1", "--frames", "10")
    for words in ("wake", "flood_3", "stock_over_ours"):
        assert words in text
