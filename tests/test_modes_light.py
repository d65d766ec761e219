"""Laser power and shutters while scans are played: read from pixels and devices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from opm_engine import PlanError, Scope
from scales import FAST, RISE_MS, assert_dark_between, scaled, show, window_ms
from sequences import scan, settings
from test_engine import assert_dark

LIGHT_MS = window_ms(5.0) - RISE_MS
POWER = {"488": 50.0, "561": 20.0}
POWERED = [
    {
        "name": name,
        "line": f"port0/line{number}",
        "power_output": {"channel": f"ao{2 + number}", "full_v": full_v},
    }
    for number, (name, full_v) in enumerate([("488", 5.0), ("561", 2.0)])
]


@pytest.fixture(scope="module")
def scope() -> Iterator[Scope]:
    with scaled(lasers=POWERED, **FAST) as scope:
        yield scope


@pytest.mark.parametrize("order", ["tpzc", "tpcz"], ids=["interleaved", "sequential"])
@pytest.mark.parametrize("motion", ["stepped", "ramp"])
def test_power_by_analog_output(motion: str, order: str, scope: Scope) -> None:
    sequence = scan(
        time_plan={"interval": 0, "loops": 2},
        axis_order=order,
        metadata=settings(motion=motion, laser_power=POWER),
    )
    board = scope.twin.board
    began_s = scope.twin.clock.now()
    shown = show(scope, sequence)
    c = shown.index["c"]
    share = np.array(list(POWER.values()))[c] / 100
    dose_ms = shown.light_ms[np.arange(len(c)), c]
    np.testing.assert_allclose(dose_ms, share * LIGHT_MS, atol=0.02)
    assert (shown.light_ms[np.arange(len(c)), 1 - c] == 0).all()
    assert_dark_between(shown, len(shown.every) - len(c))
    assert shown.block["settings"]["laser_power"] == POWER
    for channel, volts in (("ao2", 2.5), ("ao3", 0.4)):
        _, played = board.analog_trace(channel, began_s, scope.twin.clock.now())
        assert set(played.round(6)) == {0.0, volts}
        assert board.volts(channel) == 0
    assert_dark(scope)


def test_a_power_output_holds_nothing_of_its_own(scope: Scope) -> None:
    with pytest.raises(PlanError, match=r"laser_power"):
        show(scope, scan())


def test_only_the_lasers_that_a_sequence_names_get_volts(scope: Scope) -> None:
    began_s = scope.twin.clock.now()
    images = scope.snap(["488"], exposure_ms=5.0, laser_power={"488": 100.0})
    assert list(images) == ["488"]
    _, volts = scope.twin.board.analog_trace("ao3", began_s, scope.twin.clock.now())
    assert set(volts) == {0.0}


# --------------------------------------------------------------------- shutters

SHUTTERED = [
    {"name": "488", "line": "port0/line0", "shutter": "Shutter-488"},
    {"name": "561", "line": "port0/line1", "shutter": "Shutter-561"},
]


@pytest.fixture(scope="module")
def shuttered() -> Iterator[Scope]:
    with scaled(lasers=SHUTTERED, **FAST) as scope:
        yield scope


def opened_shutters(scope: Scope, began_s: float) -> dict[str, int]:
    """How often each shutter was opened since; all are closed now."""
    counts = {}
    for laser in scope.microscope.lasers:
        assert not scope.core.getShutterOpen(laser.shutter)
        shutter = scope.core._pydevices[laser.shutter]
        _, levels = shutter.trace(began_s, scope.twin.clock.now())
        counts[laser.name] = int((np.diff(levels, prepend=0) > 0).sum())
    return counts


def test_shutters_of_lasers_are_open_during_bursts_only(shuttered: Scope) -> None:
    """One burst per time point and channel, each with its own laser's shutter."""
    core, began_s = shuttered.core, shuttered.twin.clock.now()
    open_at_frames = []

    def look(image, event, meta):
        states = [core.getShutterOpen(f"Shutter-{name}") for name in ("488", "561")]
        open_at_frames.append((event.index["c"], *states))

    core.mda.events.frameReady.connect(look)
    try:
        shown = show(
            shuttered,
            scan(time_plan={"interval": 0.1, "loops": 2}, axis_order="tpcz"),
        )
    finally:
        core.mda.events.frameReady.disconnect(look)
    assert set(open_at_frames) == {(0, True, False), (1, False, True)}
    c = shown.index["c"]
    dose_ms = shown.light_ms[np.arange(len(c)), c]
    np.testing.assert_allclose(dose_ms, LIGHT_MS, atol=2e-3)
    assert opened_shutters(shuttered, began_s) == {"488": 2, "561": 2}


def test_both_are_open_for_interleaved_channels(shuttered: Scope) -> None:
    began_s = shuttered.twin.clock.now()
    show(shuttered, scan(time_plan={"interval": 0, "loops": 3}))
    assert opened_shutters(shuttered, began_s) == {"488": 1, "561": 1}


def test_an_error_closes_them(shuttered: Scope) -> None:
    began_s = shuttered.twin.clock.now()
    shuttered.twin.board.fail("StartTask", -200279)
    with pytest.raises(RuntimeError):
        show(shuttered, scan())
    assert opened_shutters(shuttered, began_s) == {"488": 1, "561": 1}
