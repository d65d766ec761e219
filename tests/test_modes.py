"""Galvo scans, read from the pixels: each plane where it should be, lit by its laser.

The expected offsets come from the sequence alone, not from the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import useq

import opm_engine.engine
from opm_engine import PlanError, Scope
from opm_engine.daq.protocol import Waveform
from opm_engine.daq.waveforms import burst_waveform
from scales import (
    FAST,
    LINE_MS,
    RISE_MS,
    Shown,
    assert_dark_between,
    assert_lit_alone,
    scaled,
    show,
    window_ms,
)
from sequences import scan, settings

EXPOSURE_MS = 5.0
LIGHT_MS = window_ms(EXPOSURE_MS) - RISE_MS
LIGHT_ATOL_MS = 2 * LINE_MS
"""A ramp's light ends a line time before the window, in whole samples."""

STEP_UM, N_PLANES, N_TIMES = 0.5, 5, 3
UM_PER_MS = STEP_UM / 2 / EXPOSURE_MS
"""Speed of a ramp with two interleaved channels."""

STEPPED_UM = 0.005
"""The galvo has settled to 1 % of a step of 0.5 µm; rounded counts are 0.0005 µm."""

BEHIND_MS = 0.0, 0.2
"""By how much of a ramp's time planes lie behind: the galvo follows 0.05 ms late
(2 damping / omega), and each stair of 0.25 ms is centred; less than a stair."""


@pytest.fixture(scope="module")
def scope() -> Iterator[Scope]:
    with scaled(**FAST) as scope:
        yield scope


def sequence(
    *, gapless: bool = True, order: str = "tpzc", go_up: bool = True, **wishes: Any
) -> useq.MDASequence:
    range_um = STEP_UM * (N_PLANES - 1)
    return scan(
        z_plan={"range": range_um, "step": STEP_UM, "go_up": go_up},
        time_plan={"interval": 0 if gapless else 0.01, "loops": N_TIMES},
        axis_order=order,
        metadata=settings(**wishes),
    )


@dataclass(frozen=True)
class Case:
    """A scan, and how many dark frames it takes in all."""

    name: str
    sequence: useq.MDASequence
    n_dark: int = 0
    is_ramp: bool = False
    both_ways: bool = False


CASES = [
    Case("stepped", sequence(), n_dark=2),
    Case("stepped-sequential", sequence(order="tpcz"), n_dark=5),
    Case("stepped-backwards", sequence(go_up=False), n_dark=2),
    Case("stepped-interval", sequence(gapless=False)),
    Case("both-ways", sequence(bidirectional=True), both_ways=True),
    Case(
        "both-ways-backwards",
        sequence(bidirectional=True, go_up=False),
        both_ways=True,
    ),
    # One frame to gain speed before each volume, one to return between two.
    Case("ramp", sequence(motion="ramp"), n_dark=5, is_ramp=True),
    Case("ramp-backwards", sequence(motion="ramp", go_up=False), 5, is_ramp=True),
    Case("ramp-sequential", sequence(motion="ramp", order="tpcz"), 11, is_ramp=True),
    Case("ramp-interval", sequence(motion="ramp", gapless=False), 3, is_ramp=True),
    Case(
        "ramp-both-ways",
        sequence(motion="ramp", bidirectional=True),
        n_dark=5,
        is_ramp=True,
        both_ways=True,
    ),
]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def behind_um(case: Case, shown: Shown) -> tuple[np.ndarray, np.ndarray]:
    """How far each plane lies behind where it should be, the way the scan goes.

    And the speed of the scan.
    """
    t, c, z = (shown.index[axis] for axis in "tcz")
    plan = case.sequence.z_plan
    way = np.where(case.both_ways & (t % 2 == 1), -1, 1) * (1 if plan.go_up else -1)
    middle = (N_PLANES - 1) / 2
    wanted_um = way * STEP_UM * (z - middle)
    interleaved = str(case.sequence.axis_order[-1]) == "c"
    speed = UM_PER_MS * (1 if interleaved else 2)
    if case.is_ramp and interleaved:
        wanted_um = wanted_um + way * c * STEP_UM / 2
    return way * (wanted_um - shown.y_um), speed


def assert_where_it_should_be(case: Case, shown: Shown) -> None:
    distance_um, speed = behind_um(case, shown)
    if case.is_ramp:
        earliest, latest = BEHIND_MS
        assert distance_um.min() > earliest * speed
        assert distance_um.max() < latest * speed
    else:
        np.testing.assert_allclose(distance_um, 0, atol=STEPPED_UM)


def assert_right(case: Case, shown: Shown) -> None:
    assert_where_it_should_be(case, shown)
    assert_lit_alone(shown, LIGHT_MS, LIGHT_ATOL_MS)
    assert_dark_between(shown, case.n_dark)


@EACH
def test_every_plane_is_where_it_should_be(case: Case, scope: Scope) -> None:
    shown = show(scope, case.sequence)
    assert_right(case, shown)
    # z_pos is where a plane lies; the metadata name what is not as usual
    z_um = np.array([event.z_pos for event in shown.collect.events])
    np.testing.assert_allclose(shown.y_um, z_um, atol=STEP_UM / 2 + STEPPED_UM)
    stream = shown.block["stream"]
    interleaved_ramp = case.is_ramp and "sequential" not in case.name
    assert stream["channel_offsets_um"] == ([0, 0.25] if interleaved_ramp else [])
    assert stream["bidirectional"] == case.both_ways


def rolled(n: int) -> Callable[[Waveform], Waveform]:
    """Volts that come so many samples late."""

    def late(waveform: Waveform) -> Waveform:
        return replace(waveform, analog=np.roll(waveform.analog, n, axis=1))

    return late


def reversed_sign(waveform: Waveform) -> Waveform:
    return replace(waveform, analog=-waveform.analog, initial_v=-waveform.initial_v)


def lasers_swapped(waveform: Waveform) -> Waveform:
    return replace(waveform, digital=np.array([0, 2, 1], np.uint32)[waveform.digital])


def light_in_the_dark(waveform: Waveform) -> Waveform:
    """The first laser flashes in the last planned frame that is dark."""
    k = waveform.samples_per_frame
    digital = waveform.digital.copy()
    digital.reshape(-1, k)[-1, 0] |= 1 if len(digital) < waveform.n_samples else 0
    return replace(waveform, digital=digital)


FAULTS = {
    "late": rolled(1),
    "early": rolled(-1),
    "sign": reversed_sign,
    "lasers": lasers_swapped,
    "flash": light_in_the_dark,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.name in ("stepped", "ramp")],
    ids=lambda case: case.name,
)
def test_a_fault_is_seen(
    case: Case, fault: str, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        opm_engine.engine,
        "burst_waveform",
        lambda *args: FAULTS[fault](burst_waveform(*args)),
    )
    shown = show(scope, case.sequence)
    with pytest.raises(AssertionError):
        assert_right(case, shown)


def test_planes_wait_until_the_galvo_has_settled() -> None:
    """A galvo that takes as long as it says shows planes where they should be.

    The readout is 1.01 ms: room for a step of 0.5 µm at 1 V/ms (0.025 ms) and 0.98 ms.
    """
    case = CASES[0]
    with scaled(daq__galvo__settle_ms=0.98) as slow:
        assert_where_it_should_be(case, show(slow, case.sequence))
    with (
        scaled(daq__galvo__settle_ms=1.0) as slower,
        pytest.raises(PlanError, match=r"z_plan: a step of 0\.5 µm"),
    ):
        show(slower, case.sequence)


PULSES = {"488": 1.0, "561": 2.0}


@pytest.mark.parametrize("motion", ["stepped", "ramp"])
def test_pulses_give_their_dose(motion: str, scope: Scope) -> None:
    """Channels share an exposure and differ in light, to 1 % of a window."""
    shown = show(scope, sequence(motion=motion, pulse_ms=PULSES))
    wanted_ms = np.array(list(PULSES.values()))[shown.index["c"]] - RISE_MS
    assert_lit_alone(shown, wanted_ms, atol=0.05)
    first, second = (shown.light_ms[shown.index["c"] == c, c].mean() for c in (0, 1))
    assert (second + RISE_MS) / (first + RISE_MS) == pytest.approx(2, rel=0.01)
