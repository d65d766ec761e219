"""`calibrate`: what the simulated galvo really does is found from images alone.

The description that it is given is wrong on purpose, so that nothing can be echoed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opm_engine.calibrate import CalibrationError, calibrate
from opm_engine.plan import PlanError
from opm_engine.simulation.specimen import Optics, Specimen
from test_engine import assert_dark
from twins import Collect, microscope, opened

ROI = {"camera__roi": [0, 0, 96, 208], "simulation__noise": True}

GALVOS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # what it really is, and what the description says
    "as described": ({}, {}),
    "scale": ({"daq__galvo__volts_per_um": 0.06}, {"daq__galvo__volts_per_um": 0.05}),
    "sign": ({"daq__galvo__volts_per_um": -0.04}, {"daq__galvo__volts_per_um": 0.05}),
    "scan sign": (
        {"daq__galvo__volts_per_um": 0.08, "geometry__scan_sign": -1},
        {"daq__galvo__volts_per_um": -0.07, "geometry__scan_sign": -1},
    ),
    "fast": ({"daq__galvo__settle_ms": 0.4}, {"daq__galvo__settle_ms": 0.8}),
    "slow": ({"daq__galvo__settle_ms": 1.3}, {"daq__galvo__settle_ms": 0.5}),
}


@pytest.mark.parametrize("name", GALVOS)
def test_the_galvo_is_found(name: str) -> None:
    real, described = GALVOS[name]
    galvo = microscope(**real).daq.galvo
    with opened(**ROI, **real) as scope:
        scope.core.setXYPosition(10, 20)
        scope.microscope = scope.engine.microscope = microscope(**ROI, **described)
        found = calibrate(scope)
        assert scope.core.getXYPosition() == (10, 20)
        assert_dark(scope)
        report = found.report(scope)
    assert found.volts_per_um == pytest.approx(galvo.volts_per_um, rel=0.01)
    # pulses of 0.1 ms tell it from one to the next
    assert found.settle_ms == pytest.approx(galvo.settle_ms, abs=0.1)
    assert found.residual_um < 0.02
    assert report["sign"] == np.sign(galvo.volts_per_um)
    said = microscope(**described).daq.galvo
    assert report["configured"] == {
        "volts_per_um": said.volts_per_um,
        "settle_ms": said.settle_ms,
    }


def test_another_laser_and_no_handler() -> None:
    """It calls nobody who listens to runs of sequences with frames that are not his."""
    with opened(**ROI) as scope:
        rises = scope.twin.board.rises
        first, second = rises("port0/line0"), rises("port0/line1")
        found = calibrate(scope, "561")
        assert rises("port0/line0") == first
        assert rises("port0/line1") > second
    assert found.volts_per_um == pytest.approx(0.05, rel=0.01)


def test_nothing_to_see() -> None:
    dark = Specimen(np.zeros((0, 3)), np.zeros((0, 2)), Optics())
    with opened(dark, **ROI) as scope:
        with pytest.raises(CalibrationError, match="bring more structure into view"):
            calibrate(scope)
        assert_dark(scope)
        assert scope.core.getXYPosition() == (0, 0)


def test_a_galvo_that_cannot_reach_far_enough() -> None:
    with (
        opened(**ROI, daq__galvo__range_v=[-0.3, 0.3]) as scope,
        pytest.raises(PlanError, match=r"range_v"),
    ):
        calibrate(scope)


def test_runs_work_afterwards() -> None:
    collect = Collect()
    from sequences import scan

    with opened(**ROI) as scope:
        calibrate(scope)
        scope.core.mda.run(scan(), output=[collect])
        assert len(collect.images) == 10
        assert_dark(scope)
