"""The benchmark of everything at once: what it says must be so; not how fast it is."""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pymmcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from opm_engine.frames import parse_tags

sys.path.append(str(ROOT / "benchmarks"))

import system as script
from at_once.bottleneck import bottleneck
from at_once.rates import Search, rates_hz
from at_once.trial import Trial, check, run
from at_once.watch import Outcome
from demo_camera import demo_core
from noise_camera import NoiseCore, entropy_limit, noise

SIZE = (128, 64)
FRAME_BYTES = 2 * 128 * 64


def system(folder: Path, *options: str) -> None:
    script.main(["--dir", str(folder), *options])


@pytest.mark.slow
def test_it_prints_one_json_object_and_leaves_nothing(tmp_path: Path, capfd) -> None:
    names = ["raw_lz4", "everything", "stock_everything"]
    system(tmp_path, "--quick", "--json", "--only", ",".join(names))
    stdout, stderr = capfd.readouterr()
    found = json.loads(stdout)
    assert list(found["contenders"]) == names
    for each in found["contenders"].values():
        assert each["bottleneck"]
        assert [step["rate_hz"] for step in each["tried"]]
    assert "everything_200_hz" in found["goals"]
    assert min(found["machine"]["disk_mb_s"]) > 0
    assert f"needs up to {found['disk_needed_gb']} GB" in stderr
    assert not list(tmp_path.iterdir())


REFUSED = {
    "disk": (["--max-rate", "1e9"], "GB are needed"),
    "contender": (["--only", "raw,everything"], "--only knows no raw"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses_before_it_starts(name: str, tmp_path: Path) -> None:
    options, words = REFUSED[name]
    with pytest.raises(SystemExit, match=words):
        system(tmp_path, *options)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the search


def searched(rates: list[float], holds_hz: float, full_hz: float) -> Search:
    """Short trials hold up to one rate, full ones up to another."""
    search = Search(rates)
    for _ in range(100):
        if (step := search.step()) is None:
            return search
        limit_hz = full_hz if step.is_full else holds_hz
        search.tell(step, held=step.rate_hz <= limit_hz)
    raise AssertionError("the search does not end")


@given(
    rates=st.lists(st.integers(1, 1000), min_size=1, unique=True).map(sorted),
    holds=st.integers(0, 1001),
    full=st.integers(0, 1001),
)
def test_search_ends_at_the_highest_rate_that_held(rates, holds, full) -> None:
    search = searched(rates, holds, full)
    limit = min(holds, full) if len(rates) > 1 else full
    held = [rate for rate in rates if rate <= limit]
    assert search.held_hz == (held[-1] if held else None)


def test_rates_pass_through_both_goals() -> None:
    rates = rates_hz(25, 800)
    assert rates[0] == 25
    assert rates[-1] == 800
    assert {200, 400} <= set(rates)
    assert max(b / a for a, b in itertools.pairwise(rates)) < 1.13


# ---------------------------------------------------------------- the camera


def test_frames_are_camera_like_noise() -> None:
    frames = noise(SIZE, 8)
    assert 2.8 < entropy_limit(frames) < 3.1
    assert not np.array_equal(frames[0], frames[1])


def test_camera_delivers_by_the_clock_and_says_which_frame() -> None:
    frames = noise(SIZE, 4)
    with demo_core(SIZE, 1, NoiseCore) as core:
        core.see(frames)
        core.setCircularBufferMemoryFootprint(1)
        core.setExposure(1.0)
        began_s = time.perf_counter()
        core.startSequenceAcquisition(10, 0, True)
        metadata = pymmcore.Metadata()
        for number in range(10):
            while not core.getRemainingImageCount():
                time.sleep(1e-4)
            assert time.perf_counter() - began_s >= (number + 1) * 1e-3
            image = core.popNextImageMD(metadata)
            np.testing.assert_array_equal(image, frames[number % 4])
            assert parse_tags(metadata.Serialize())["ImageNumber"] == str(number)
        assert not core.isSequenceRunning()
        assert not core.isBufferOverflowed()


def test_camera_stops_when_its_buffer_is_full() -> None:
    with demo_core(SIZE, 1, NoiseCore) as core:
        core.see(noise(SIZE, 4))
        core.setCircularBufferMemoryFootprint(1)
        capacity = 2**20 // FRAME_BYTES
        core.setExposure(0.01)
        core.startSequenceAcquisition(10 * capacity, 0, True)
        while not core.isBufferOverflowed():
            core.getRemainingImageCount()
        assert core.getRemainingImageCount() == capacity
        assert core.lost == 9 * capacity
        core.popNextImageMD(pymmcore.Metadata())
        time.sleep(0.01)
        assert core.getRemainingImageCount() == capacity - 1


# ---------------------------------------------------------------- a trial


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Trial, np.ndarray, Path, Outcome]:
    trial = Trial("everything", 100.0, 0.2, SIZE, planes=10)
    folder = tmp_path_factory.mktemp("trial")
    frames = noise(SIZE, 8)
    return trial, frames, folder, run(trial, frames, folder)


def test_trial_counts_what_was_handled(finished) -> None:
    *_, outcome = finished
    assert not [why for why in outcome.why_not if "after the last" not in why]
    assert (outcome.frames, outcome.volumes) == (20, 2)
    assert 0 < outcome.saved_hz <= 100
    assert outcome.stored_mb > 0


def test_trial_sees_that_other_pixels_were_stored(finished) -> None:
    trial, frames, folder, _ = finished
    outcome = Outcome(trial.rate_hz, trial.seconds, 20, 2)
    check(trial, frames, folder, outcome)
    assert not outcome.why_not
    check(trial, frames[::-1], folder, outcome)
    assert "plane t=0, z=0 was not stored as it was" in outcome.why_not


class SmallBuffer(NoiseCore):
    @property
    def capacity(self) -> int:
        return 3


def test_trial_sees_an_overflow(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("at_once.trial.NoiseCore", SmallBuffer)
    trial = Trial("raw_none", 5000.0, 0.1, SIZE, planes=10)
    outcome = run(trial, noise(SIZE, 8), tmp_path)
    assert any("overflowed" in why for why in outcome.why_not)
    assert not outcome.is_sustained


# ---------------------------------------------------------------- the verdict

SEEN: dict[str, Any] = asdict(
    Outcome(
        rate_hz=100.0,
        seconds=5.0,
        frames=600,
        volumes=2,
        why_not=["handled late"],
        backlog_mb={"camera": 900.0, "Deskew": 700.0, "OMEZarrWriter": 1.0},
        cpu={"relay-Deskew": 0.5, "MainThread": 0.2},
        cores_busy=0.9,
        cores_others=0.1,
        disk_mb_s=100.0,
    )
)
VERDICTS = {
    "thread": ({"cpu": {"relay-Deskew": 0.95}}, "Deskew: its thread computed all"),
    "cores": ({"cores_others": 1.0}, "Deskew: all cores were busy (0.90 with this"),
    "disk": ({"disk_mb_s": 900.0}, "Deskew: the disk took 900 of 1000 MB/s"),
    "waits": ({}, "Deskew: its thread kept 0.50 cores busy"),
    "runner": (
        {"backlog_mb": {"camera": 900.0}},
        "in front of camera: its thread kept",
    ),
    "nothing": ({"backlog_mb": {"camera": 1.0}}, "handled late"),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_bottleneck_is_named(name: str) -> None:
    change, words = VERDICTS[name]
    assert words in bottleneck({**SEEN, **change}, 2.36, 1000.0, n_cores=2)
