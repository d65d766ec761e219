"""`check`: figures against hand-computed ones, and not a photon."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import useq

from opm_engine import DaqError, PlanError, Scope
from opm_engine.checkup import check
from opm_engine.properties import InstrumentError
from scales import FAST, STAGE
from sequences import scan, settings
from test_engine import assert_dark
from twins import microscope, opened

LINES = ("port0/line0", "port0/line1", "port1/line1")

# 208 rows x 4.868 µs; all rows expose for 5 ms less that.
READOUT_MS, WINDOW_MS = 1.012544, 3.987456


@pytest.fixture(scope="module")
def scope() -> Iterator[Scope]:
    second = {
        "channel": "ao1",
        "volts_per_um": 0.04,
        "range_v": [-5, 5],
        "slew_v_per_ms": 10.0,
        "settle_ms": 0.2,
        "shear_ratio": 1.1547,
    }
    changes = {
        "daq__projection": second,
        "scan_stage": STAGE,
        "camera__profile": "demo",
    }
    with opened(**FAST, **changes) as scope:
        yield scope


@pytest.fixture(autouse=True)
def in_the_dark(scope: Scope) -> Iterator[None]:
    """Whatever is checked, no laser line and no enable line ever rises."""
    rises = [scope.twin.board.rises(line) for line in LINES]
    yield
    assert [scope.twin.board.rises(line) for line in LINES] == rises
    assert_dark(scope)


FIGURES: dict[str, tuple[useq.MDASequence, dict[str, Any]]] = {
    # 10 lit frames and 1 to return in 5 ms each; a step of 0.025 V takes 0.0025 ms
    "stepped": (
        scan(),
        {
            "volume_rate_hz": 1000 / 55,
            "light_duty": {"488": 5 * WINDOW_MS / 55, "561": 5 * WINDOW_MS / 55},
            "galvo_margin_ms": READOUT_MS - 0.0025 - 0.2,
            "samples_per_frame": 2,
            "n_planes": 5,
            "frame_rate_hz": 200,
        },
    ),
    # one after the other: each channel returns by itself
    "sequential": (
        scan(axis_order="tpcz", time_plan={"interval": 1, "loops": 2}),
        {
            "volume_rate_hz": 1000 / 60,
            "light_duty": {"488": 5 * WINDOW_MS / 60, "561": 5 * WINDOW_MS / 60},
        },
    ),
    "both ways": (
        scan(metadata=settings(bidirectional=True)),
        {"volume_rate_hz": 1000 / 50},
    ),
    # one frame more to gain speed
    "ramp": (scan(metadata=settings(motion="ramp")), {"volume_rate_hz": 1000 / 60}),
    "pulses": (
        scan(metadata=settings(pulse_ms={"561": 1.0})),
        {"light_duty": {"488": 5 * WINDOW_MS / 55, "561": 5 * 1.0 / 55}},
    ),
    "single": (
        scan(z_plan=None),
        {"volume_rate_hz": 1000 / 10, "light_duty": {"488": 0.39875, "561": 0.39875}},
    ),
    "projection": (
        scan(z_plan=None, metadata=settings(mode="projection", range_um=10.0)),
        {"volume_rate_hz": 1000 / 10},
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures(name: str, scope: Scope) -> None:
    sequence, wanted = FIGURES[name]
    report = check(scope, sequence)
    assert report["board"] == "PCIe-6363"
    assert report["channels"] == ["488", "561"]
    assert report["programmed"]
    for key, value in wanted.items():
        # rounded to 4 digits; clocked light ends up to two line times early
        assert report[key] == pytest.approx(value, abs=1e-3), key


def test_stage_scans_are_checked_without_moving(scope: Scope) -> None:
    here = scope.core.getXYPosition()
    report = check(scope, scan(metadata=settings(mode="stage")))
    assert report["volume_rate_hz"] == pytest.approx(1000 / (5 * 14), abs=1e-3)
    assert scope.core.getXYPosition() == here


def test_without_a_sequence_all_lasers_are_scanned(scope: Scope) -> None:
    report = check(scope)
    # 2.1 ms of exposure (twice the readout, rounded up), 101 planes of two channels;
    # 2 V back at 10 V/ms and 0.2 ms take one frame
    assert report["n_planes"] == 101
    assert report["volume_rate_hz"] == pytest.approx(1000 / (2.1 * 203), abs=1e-4)
    assert report["warnings"] == []


def test_the_free_running_camera_agrees(scope: Scope) -> None:
    found = check(scope, scan(), run_camera=True)["exposure_out"]
    assert found["wrong"] == []
    assert found["period_ms"] == pytest.approx(1027 * 4.868e-3, abs=1e-4)
    assert found["high_ms"] == pytest.approx((1027 - 207) * 4.868e-3, abs=1e-4)
    assert found["low_ms"] == pytest.approx(207 * 4.868e-3, abs=1e-4)
    assert found["active_ms"] == found["high_ms"]
    assert found["planned_period_ms"] == 5
    assert found["jitter_ms"] < 0.01


def test_a_running_scope_is_left_alone(scope: Scope) -> None:
    with ThreadPoolExecutor(1) as another:
        another.submit(scope.engine.turn.take).result()
        try:
            with pytest.raises(RuntimeError, match="in progress"):
                check(scope)
        finally:
            scope.engine.turn.release()


REFUSED = {
    "galvo": (scan(z_plan={"range": 300, "step": 0.5}), PlanError, "range_v"),
    "laser": (scan(channels=[{"config": "405", "exposure": 5}]), PlanError, "405"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_said_in_words(name: str, scope: Scope) -> None:
    sequence, error, says = REFUSED[name]
    with pytest.raises(error, match=says):
        check(scope, sequence)


def test_a_board_that_refuses(scope: Scope) -> None:
    scope.twin.board.fail("StartTask", -200279)
    with pytest.raises(DaqError, match="-200279"):
        check(scope)
    assert check(scope)["programmed"]


# ------------------------------------------------- a camera that is not as described


def disagreement(real: dict[str, Any], described: dict[str, Any]) -> list[str]:
    """What ``check --run-camera`` says of a camera that was described wrongly."""
    with opened(**real) as scope:
        scope.microscope = scope.engine.microscope = microscope(**described)
        rises = [scope.twin.board.rises(line) for line in LINES]
        try:
            report = check(scope, scan(), run_camera=True)
        finally:
            assert [scope.twin.board.rises(line) for line in LINES] == rises
            assert_dark(scope)
    wrong: list[str] = report["exposure_out"]["wrong"]
    return wrong


KIND = {"TriggerSource": "Internal", "ExposureOutPolarity": "ActiveHigh"}
FIRST_ROW = {"camera__properties": {**KIND, "ExposureOutKind": "FirstRow"}}
ANY_ROW = {"camera__properties": {**KIND, "ExposureOutKind": "AnyRow"}}


@pytest.mark.parametrize(
    ("real", "described"),
    [
        ({}, {"camera__line_time_us": 6.0}),
        ({}, {"camera__line_time_us": 4.0}),
        (FIRST_ROW, FIRST_ROW),
        (ANY_ROW, ANY_ROW),
    ],
    ids=["line time too long", "line time too short", "first row", "any row"],
)
def test_wrong_times_are_named(real, described) -> None:
    (says,) = disagreement(real, described)
    assert says.startswith("camera.exposure_out: active for ")
    assert says.endswith("check line_time_us, kind and polarity")


def test_an_exposure_out_that_shows_nothing() -> None:
    low = {"OUTPUT TRIGGER KIND[0]": "LOW"}
    silent = {"camera__profile": "hamamatsu", "camera__properties": low}
    with pytest.raises(InstrumentError, match=r"10 exposures, but 0 came at .*\.kind"):
        disagreement(silent, silent)


@pytest.mark.parametrize("polarity", ["active_high", "active_low"])
def test_a_wrong_polarity_is_named(polarity: str) -> None:
    """The other way round: the line is active while the camera does not expose."""
    other = "ActiveLow" if polarity == "active_high" else "ActiveHigh"
    wrong = {
        "camera__properties": {"ExposureOutPolarity": other},
        "camera__exposure_out__polarity": polarity,
    }
    with opened(**wrong) as scope:
        with pytest.raises(DaqError, match=r"PFI0 is .*\.polarity is wrong"):
            check(scope, scan())
        assert_dark(scope)
