"""The same scan on every board that the model knows, as far as its lines allow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opm_engine import DaqError, Scope
from opm_engine.config import ConfigError
from scales import (
    FAST,
    LINE_MS,
    RISE_MS,
    assert_dark_between,
    assert_lit_alone,
    scaled,
    show,
    window_ms,
)
from sequences import scan, settings

LIGHT_MS = window_ms(5.0) - RISE_MS
NO_ENABLE: dict[str, Any] = {"daq__laser_enable": None}
"""The PCI-6733 has no port beside the one that is clocked."""

BOARDS: dict[str, dict[str, Any]] = {
    "USB-6341": {},
    "PCIe-6343": {},
    "PCIe-6363": {},
    "PCIe-6738": {},
    "PCI-6733": NO_ENABLE,
}


def assert_dark(scope: Scope) -> None:
    board, enable = scope.twin.board, scope.microscope.daq.laser_enable
    lines = [laser.line for laser in scope.microscope.lasers]
    assert not any(board.line(line) for line in [*lines, *filter(None, [enable])])
    assert board.volts("ao0") == 0
    assert board.open_tasks() == []


@pytest.mark.parametrize("motion", ["stepped", "ramp"])
@pytest.mark.parametrize("board", BOARDS)
def test_the_same_scan(board: str, motion: str) -> None:
    sequence = scan(
        time_plan={"interval": 0, "loops": 2}, metadata=settings(motion=motion)
    )
    with scaled(simulation__board=board, **FAST, **BOARDS[board]) as scope:
        assert scope.daq.capabilities.product == board
        shown = show(scope, sequence)
        assert_dark(scope)
    c, z = shown.index["c"], shown.index["z"]
    # pulses that the board makes end the light by whole samples, or a little later
    assert_lit_alone(shown, LIGHT_MS, atol=2 * LINE_MS)
    assert_dark_between(shown, 1 if motion == "stepped" else 3)
    if motion == "stepped":
        np.testing.assert_allclose(shown.y_um, 0.5 * z - 1, atol=0.005)
    else:
        behind_um = 0.5 * (z + c / 2) - 1 - shown.y_um
        assert 0 < behind_um.min() <= behind_um.max() < 0.2 * 0.05


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no clocked lines": (
        "USB-6008",
        {},
        r"USB-6008.*no buffered lines.*(PCIe|X Series|USB-63)",
    ),
    "no such line": (
        "PCIe-6738",
        {"lasers": [{"name": "a", "line": "port0/line2"}]},
        r"lasers\.a: Dev1 \(PCIe-6738\) has no port0/line2",
    ),
    "no enable": (
        "PCI-6733",
        {},
        r"daq\.laser_enable: .*PCI-6733.* has no port1/line1",
    ),
    "no filter": (
        "PCI-6733",
        {**NO_ENABLE, "camera__exposure_out__debounce_us": 2.56},
        r"camera\.exposure_out\.debounce_us: .*PCI-6733.*no digital filters; use 0",
    ),
    "no inputs": (
        "PCIe-6738",
        {"daq__record": [{"name": "power", "channel": "ai0"}]},
        r"daq\.record\.power: .*PCIe-6738.* has no ai0",
    ),
    "no output": (
        "USB-6341",
        {"daq__galvo__channel": "ao2"},
        r"simulation\.board: a USB-6341 cannot be wired: .* ao2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_board_cannot_do_is_refused_at_opening(name: str) -> None:
    board, changes, says = REFUSED[name]
    with (
        pytest.raises((ConfigError, DaqError), match=says),
        scaled(simulation__board=board, **changes),
    ):
        pass
