"""Makes of camera: which properties are set, and what the simulated ones do then."""

from __future__ import annotations

import time

import numpy as np
import pytest

from bench import (
    BOTH_OFF,
    FIRST,
    OFFSET,
    RISE_MS,
    WINDOW_MS,
    Ruler,
    described,
    on_bench,
)
from opm_engine.config import Camera, ConfigError, Microscope
from opm_engine.config.profiles import PROFILES, camera_properties


def camera(kind: str = "all_rows", polarity: str = "active_high", **fields) -> Camera:
    out = {"terminal": "PFI0", "kind": kind, "polarity": polarity}
    table = {"label": "Camera", "line_time_us": 5.0, "roi": (0, 0, 8, 8)}
    return Camera.model_validate(table | {"exposure_out": out} | fields)


HAMAMATSU = {
    "TRIGGER SOURCE": "INTERNAL",
    "Trigger": "NORMAL",
    "OUTPUT TRIGGER KIND[0]": "EXPOSURE",
    "OUTPUT TRIGGER POLARITY[0]": "POSITIVE",
}
START = {
    "TRIGGER SOURCE": "EXTERNAL",
    "Trigger": "START",
    "TriggerPolarity": "POSITIVE",
}


@pytest.mark.parametrize(
    ("described", "start", "expected"),
    [
        pytest.param(camera(profile="hamamatsu"), False, HAMAMATSU, id="hamamatsu"),
        pytest.param(
            camera(profile="hamamatsu"), True, HAMAMATSU | START, id="start-triggered"
        ),
        pytest.param(
            camera("any_row", "active_low", profile="hamamatsu"),
            False,
            HAMAMATSU
            | {
                "OUTPUT TRIGGER KIND[0]": "ANYROW EXPOSURE",
                "OUTPUT TRIGGER POLARITY[0]": "NEGATIVE",
            },
            id="any row, active low",
        ),
        pytest.param(
            camera(
                profile="hamamatsu",
                properties={"Trigger": "PIV", "ScanMode": 2},
                start_trigger={"TriggerPolarity": "NEGATIVE"},
            ),
            True,
            HAMAMATSU | {"ScanMode": 2} | START | {"TriggerPolarity": "NEGATIVE"},
            id="overridden and extended",
        ),
        pytest.param(camera(properties={"A": 1}), False, {"A": 1}, id="no profile"),
        pytest.param(
            camera(properties={"A": 1}, start_trigger={"A": 2}),
            True,
            {"A": 2},
            id="no profile, start-triggered",
        ),
        pytest.param(
            camera(profile="tucam"),
            False,
            {
                "Trigger Mode": "Off",
                "Output Trigger Port": "1",
                "Output Trigger Kind": "Global Exposure",
                "Output Trigger Edge Mode": "Rising",
            },
            id="tucam",
        ),
    ],
)
def test_properties_of_a_camera(
    described: Camera, start: bool, expected: dict[str, object]
) -> None:
    assert camera_properties(described, start_triggered=start) == expected


def test_the_port_comes_before_what_is_set_for_it() -> None:
    names = list(camera_properties(camera(profile="tucam"), start_triggered=False))
    assert names.index("Output Trigger Port") < names.index("Output Trigger Kind")


@pytest.mark.parametrize(
    ("described", "start", "message"),
    [
        (
            camera("first_row", profile="hamamatsu"),
            False,
            "camera.exposure_out.kind: profile 'hamamatsu' knows all_rows and any_row, "
            "not first_row",
        ),
        (camera("any_row", profile="andor"), False, "camera.exposure_out.kind"),
        (camera("first_row", profile="tucam"), False, "camera.exposure_out.kind"),
        (
            camera(polarity="active_low", profile="pvcam"),
            False,
            "camera.exposure_out.polarity: profile 'pvcam' knows active_high, not",
        ),
        (camera(profile="pco"), True, "camera.start_trigger: profile 'pco'"),
        (camera(), True, "camera.start_trigger: a camera without profile"),
    ],
)
def test_what_a_make_cannot_do_is_refused(
    described: Camera, start: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        camera_properties(described, start_triggered=start)


def made_by(demo: Microscope, make: str) -> Microscope:
    return described(demo, camera={"profile": make, "properties": {}})


@pytest.mark.parametrize("make", PROFILES)
def test_a_simulated_camera_of_any_make_obeys_its_profile(
    demo: Microscope, make: str
) -> None:
    microscope = made_by(demo, make)
    with on_bench(microscope, Ruler()) as bench:
        bench.play([FIRST, BOTH_OFF])
        frames = bench.acquire(2)
    counts = OFFSET + 1000 * (WINDOW_MS - RISE_MS)
    assert frames == pytest.approx(np.full(frames.shape, counts), abs=0.51)


@pytest.mark.parametrize("make", [m for m, p in PROFILES.items() if p.start])
def test_a_start_triggered_camera_of_any_make_waits(
    demo: Microscope, make: str
) -> None:
    microscope = made_by(demo, make)
    with on_bench(microscope, Ruler()) as bench:
        bench.trigger(microscope, by_stage=True)
        bench.core.startSequenceAcquisition(1, 0, True)
        time.sleep(0.03)
        assert bench.core.getRemainingImageCount() == 0
        bench.core.setProperty("XY", "ScanState", "Running")
        assert len(bench.pop(1)) == 1
        bench.core.stopSequenceAcquisition()


def test_a_camera_as_it_comes_shows_no_exposure(demo: Microscope) -> None:
    with on_bench(made_by(demo, "hamamatsu"), Ruler()) as bench:
        bench.core.setProperty("Camera", "OUTPUT TRIGGER KIND[0]", "LOW")
        rises = bench.board.rises("PFI0")
        assert len(bench.acquire(2)) == 2
        assert bench.board.rises("PFI0") == rises
        with pytest.raises(ValueError, match="OUTPUT TRIGGER KIND"):
            bench.core.setProperty("Camera", "OUTPUT TRIGGER KIND[0]", "Exposure")
