"""`calibrate`: what the simulated galvo really does is found from images alone.

The description that it is given is wrong on purpose, so that nothing can be echoed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from opm_engine.calibrate import CalibrationError, calibrate
from opm_engine.plan import PlanError
from opm_engine.simulation.specimen import Optics, Specimen
from sequences import scan
from test_engine import assert_dark
from twins import Collect, microscope, opened

ROI = {"camera__roi": [0, 0, 96, 208], "simulation__noise": True}


@dataclass(frozen=True)
class Case:
    """What a galvo really is, what the description says of it, and by which laser."""

    name: str
    real: dict[str, Any]
    said: dict[str, Any]
    laser: str = "488"


def galvo(volts_per_um: float, settle_ms: float, scan_sign: int = 1) -> dict[str, Any]:
    return {
        "daq__galvo__volts_per_um": volts_per_um,
        "daq__galvo__settle_ms": settle_ms,
        "geometry__scan_sign": scan_sign,
    }


CASES = [
    Case("sign and fast", galvo(-0.04, 0.4), galvo(0.05, 0.8), laser="561"),
    Case("scale and slow", galvo(0.06, 1.3), galvo(0.05, 0.5)),
    Case("as described", galvo(0.05, 0.8), galvo(0.05, 0.8)),
    Case("scan sign", galvo(0.08, 0.8, -1), galvo(-0.07, 0.8, -1)),
    Case("at once", galvo(0.05, 0.0), galvo(0.05, 0.8)),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_galvo_is_found(case: Case) -> None:
    real, said = (microscope(**x).daq.galvo for x in (case.real, case.said))
    collect = Collect()
    with opened(**ROI, **case.real) as scope:
        scope.core.setXYPosition(10, 20)
        scope.microscope = scope.engine.microscope = microscope(**ROI, **case.said)
        lines = {"488": "port0/line0", "561": "port0/line1"}
        other = next(line for name, line in lines.items() if name != case.laser)
        rises = scope.twin.board.rises(other)
        found = calibrate(scope, case.laser)
        assert scope.core.getXYPosition() == (10, 20)
        assert scope.twin.board.rises(other) == rises
        assert_dark(scope)
        report = found.report(scope)
        scope.core.mda.run(scan(), output=[collect])
    assert found.volts_per_um == pytest.approx(real.volts_per_um, rel=0.01)
    # pulses of 0.1 ms tell it from one to the next, noise may cost another half
    assert found.settle_ms == pytest.approx(real.settle_ms, abs=0.15)
    assert found.residual_um < 0.03
    assert report["sign"] == np.sign(real.volts_per_um)
    assert report["configured"] == {
        "volts_per_um": said.volts_per_um,
        "settle_ms": said.settle_ms,
    }
    assert len(collect.images) == 10


def test_nothing_to_see() -> None:
    dark = Specimen([[0.0, 0.0, 0.0]], [[0.0, 0.0]], Optics())
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
