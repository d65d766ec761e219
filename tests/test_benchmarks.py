"""Benchmarks run and print what they promise; how fast is not judged here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import ROOT

RATES = {
    "idle": {"ours", "stock", "bare"},
    "busy": {"ours", "stock", "stock_quick", "bare"},
}


def run(*options: str, script: str = "engine") -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / f"benchmarks/{script}.py"), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    else:
        yield value


@pytest.mark.slow
def test_engine_prints_one_json_object() -> None:
    found = json.loads(run("--json", "--repeats", "1", "--frames", "10"))
    for part, names in RATES.items():
        others = names - {"ours"}
        expected = {f"{n}_fps" for n in names} | {f"ours_over_{n}" for n in others}
        assert expected <= found[part].keys()
    for name in ("ours", "stock", "stock_direct"):
        fate = found["handler"][name]
        complete = fate["frames_got"] == found["handler"]["frames"]
        assert fate["overflowed"] is not complete
    assert found["start_planes"] == 100_000
    assert found["start_ms"] > 0
    numbers = [x for x in leaves(found) if isinstance(x, float)]
    assert all(math.isfinite(number) and number > 0 for number in numbers)


@pytest.mark.slow
def test_engine_prints_a_table() -> None:
    text = run("--repeats", "1", "--frames", "10")
    for words in ("ours over bare", "stock_direct", "start of 100000 planes"):
        assert words in text


@pytest.mark.slow
def test_deskew_prints_one_json_object() -> None:
    found = json.loads(run("--json", "--quick", "--repeats", "2", script="deskew"))
    assert found["volume"] == [32, 135, 100]
    assert found["moved_mb"] == 2 * (24 * 64 * 100 + 32 * 135 * 100) / 1e6
    assert {"copy", "scipy"} <= found["median_ms"].keys()
    assert found["absent"].keys().isdisjoint(found["median_ms"])
    for name in ("streaming", "projections", "volume", "volume_projections"):
        figures = {"of_copy_bound", "over_scipy", "input_gb_per_s"}
        assert figures <= found["ratios"][name].keys()
        assert found["latency"][name]["max_ms"] >= found["latency"][name]["median_ms"]
    assert found["stall"]["max_ms"] > 0
    numbers = [x for x in leaves(found) if isinstance(x, float)]
    assert all(math.isfinite(number) and number > 0 for number in numbers)


@pytest.mark.slow
def test_deskew_prints_a_table() -> None:
    text = run("--quick", "--repeats", "2", script="deskew")
    for words in ("of_copy_bound", "after the last plane", "another thread"):
        assert words in text
