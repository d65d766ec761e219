"""The plan: which bursts, which events, which refusals."""

from __future__ import annotations

import itertools
import json
import math
from typing import NamedTuple

import pytest
import useq
from hypothesis import given
from hypothesis import strategies as st

from opm_engine.config import Microscope
from opm_engine.plan import (
    BurstEvents,
    PlanError,
    ScanPlan,
    Stream,
    describe,
    plan_scan,
)
from sequences import TWO_CHANNELS, scan, settings

UNEQUAL = ({"config": "488", "exposure": 5}, {"config": "561", "exposure": 10})
TIMES = {"interval": 0, "loops": 3}
PLACES = [(0, 0, 5), (10, 20)]


class Case(NamedTuple):
    id: str
    sequence: useq.MDASequence
    n_bursts: int
    frames: int
    """Frames to ask per burst; flyback is one frame for this small scan."""
    events: int


CASES = [
    Case("interleaved", scan(), 1, 10, 10),
    Case("sequential", scan(axis_order="tpcz"), 2, 5, 5),
    Case("unequal-exposures", scan(axis_order="tpcz", channels=UNEQUAL), 2, 5, 5),
    Case("gapless", scan(time_plan=TIMES), 1, 32, 30),
    Case("gapless-sequential", scan(time_plan=TIMES, axis_order="tcz"), 1, 35, 30),
    Case("interval", scan(time_plan={"interval": 1, "loops": 3}), 3, 10, 10),
    Case("positions", scan(stage_positions=PLACES), 2, 10, 10),
    Case("times-outside", scan(stage_positions=PLACES, time_plan=TIMES), 6, 10, 10),
    Case(
        "times-inside",
        scan(stage_positions=PLACES, time_plan=TIMES, axis_order="ptzc"),
        2,
        32,
        30,
    ),
    Case("single", scan(z_plan=None, axis_order="tpc"), 2, 1, 1),
    Case("single-gapless", scan(z_plan=None, time_plan=TIMES), 1, 6, 6),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_bursts(case: Case, demo: Microscope) -> None:
    plan = plan_scan(case.sequence, demo)
    bursts = list(plan.bursts())
    assert [burst.n_frames for burst in bursts] == [case.frames] * case.n_bursts
    assert [burst.n_events for burst in bursts] == [case.events] * case.n_bursts
    for burst in bursts:
        lit = sum(burst.is_lit(frame) for frame in range(burst.n_frames))
        assert lit == burst.n_events
        assert burst.is_lit(0)
        assert burst.is_lit(burst.n_frames - 1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_events_are_those_of_useq(case: Case, demo: Microscope) -> None:
    assert_events_are_those_of_useq(case.sequence, demo)


@given(
    order=st.sampled_from(["tpzc", "tpcz", "ptzc", "ptcz"]),
    n_times=st.integers(0, 3),
    interval=st.sampled_from([0, 2.5]),
    places=st.lists(
        st.sampled_from([(0, 0, 5), (1, 2), {"x": 3, "name": "A"}]), max_size=3
    ),
    channels=st.integers(1, 2),
    z_plan=st.sampled_from(
        [
            None,
            {"range": 2, "step": 0.5},
            {"range": 2, "step": 0.5, "go_up": False},
            {"above": 1, "below": 2, "step": 0.5},
        ]
    ),
    z_offset=st.sampled_from([0, 1.5]),
)
def test_events_of_regular_sequences(
    order, n_times, interval, places, channels, z_plan, z_offset
) -> None:
    sequence = scan(
        axis_order=order,
        time_plan={"interval": interval, "loops": n_times} if n_times else None,
        stage_positions=places,
        channels=[{**c, "z_offset": z_offset} for c in TWO_CHANNELS[:channels]],
        z_plan=z_plan,
    )
    assert_events_are_those_of_useq(sequence, Microscope.demo())


def assert_events_are_those_of_useq(
    sequence: useq.MDASequence, microscope: Microscope
) -> None:
    plan = plan_scan(sequence, microscope)
    bursts = [BurstEvents(sequence, plan, burst) for burst in plan.bursts()]
    events = list(itertools.chain.from_iterable(bursts))
    expected = list(sequence)
    assert events == expected
    assert [dict(e.index) for e in events] == [dict(e.index) for e in expected]
    assert [list(e.index) for e in events] == [list(e.index) for e in expected]


def test_a_long_sequence_costs_nothing_to_index(demo: Microscope) -> None:
    sequence = scan(time_plan={"interval": 0, "loops": 10_000})
    plan = plan_scan(sequence, demo)
    (burst,) = plan.bursts()
    events = BurstEvents(sequence, plan, burst)
    assert len(events) == 100_000
    assert dict(events[-1].index) == {"t": 9999, "c": 1, "z": 4}
    assert [dict(event.index) for event in events[1:3]] == [
        {"t": 0, "c": 1, "z": 0},
        {"t": 0, "c": 0, "z": 1},
    ]


@pytest.mark.parametrize(
    ("scan_sign", "go_up", "direction"),
    [(1, True, 1), (1, False, -1), (-1, True, -1), (-1, False, 1)],
)
def test_scan_direction(scan_sign, go_up, direction, demo: Microscope) -> None:
    geometry = demo.geometry.model_copy(update={"scan_sign": scan_sign})
    microscope = demo.model_copy(update={"geometry": geometry})
    z_plan = {"above": 2, "below": 1, "step": 0.5, "go_up": go_up}
    plan = plan_scan(scan(z_plan=z_plan), microscope)
    assert plan.geometry.scan_direction == direction
    assert plan.geometry.origin_um == (-1 if scan_sign == 1 else -2)
    assert plan.geometry.step_um == 0.5
    assert plan.offset_um(0) == (-1 if go_up else 2)


def test_timing(demo: Microscope) -> None:
    timing = plan_scan(scan(), demo).channels[0].timing
    assert timing.readout_ms == pytest.approx(256 * 4.868e-3)
    assert timing.period_ms == 5
    assert timing.window_ms == pytest.approx(5 - 256 * 4.868e-3)


def test_plan_and_block_are_json(demo: Microscope) -> None:
    plan = plan_scan(scan(stage_positions=PLACES, time_plan=TIMES), demo)
    block = json.loads(json.dumps(describe(plan, demo)))
    assert ScanPlan.model_validate(block["plan"]) == plan
    assert Stream.model_validate(block["stream"]) == plan.stream()
    assert Microscope.from_table(block["microscope"]) == demo
    assert block["angle_deg"] == 30
    assert block["camera_offset"] == 100


class Refusal(NamedTuple):
    id: str
    sequence: useq.MDASequence
    says: tuple[str, ...]


FOUR_MS_RETURN = {"channels": [{"config": "488", "exposure": 5}]}

REFUSALS = [
    Refusal("no-channel", scan(channels=None), ("channels", "488, 561")),
    Refusal(
        "unknown-laser",
        scan(channels=[{"config": "640", "exposure": 5}]),
        ('channels["640"]', "488, 561"),
    ),
    Refusal(
        "other-group",
        scan(channels=[{"config": "488", "exposure": 5, "group": "Filter"}]),
        ('channels["488"].group', '"Channel"'),
    ),
    Refusal("no-exposure", scan(channels=["488"]), ('channels["488"].exposure',)),
    Refusal(
        "short-exposure",
        scan(channels=[{"config": "488", "exposure": 1}]),
        ('channels["488"].exposure', "1.246 ms", "2.5 ms or more", "camera.roi"),
    ),
    Refusal(
        "unequal-interleaved",
        scan(channels=UNEQUAL),
        ("exposure", 'axis_order="tpcz"', "10 ms", '"pulse_ms": {"488": 3.753}'),
    ),
    Refusal(
        "unequal-focus-interleaved",
        scan(channels=[{**TWO_CHANNELS[0], "z_offset": 1}, TWO_CHANNELS[1]]),
        ("z_offset", 'axis_order="tpcz"'),
    ),
    Refusal(
        "z-outside",
        scan(axis_order="zptc", stage_positions=PLACES),
        ("axis_order", '"zc"', '"cz"'),
    ),
    Refusal(
        "top-bottom",
        scan(z_plan={"top": 3, "bottom": 1, "step": 0.5}),
        ("z_plan", "absolute", '"range" and "step"'),
    ),
    Refusal(
        "absolute",
        scan(z_plan={"absolute": [1, 2, 3]}),
        ("z_plan", "absolute", '"range" and "step"'),
    ),
    Refusal("uneven", scan(z_plan={"relative": [0, 1, 3]}), ("z_plan", "evenly")),
    Refusal("one-plane", scan(z_plan={"relative": [1]}), ("z_plan", "two planes")),
    Refusal("no-step", scan(z_plan={"range": 5, "step": 0}), ("z_plan", "two planes")),
    Refusal("infinite", scan(z_plan={"range": math.inf, "step": 1}), ("z_plan.range",)),
    Refusal("no-number", scan(z_plan={"range": 2, "step": math.nan}), ("z_plan.step",)),
    Refusal(
        "a-million-planes",
        scan(z_plan={"range": 1e9, "step": 0.4}),
        ("z_plan", "100000 at most"),
    ),
    Refusal(
        "too-long",
        scan(time_plan={"interval": 0, "loops": 10**9}),
        ("time_plan", "frames"),
    ),
    Refusal(
        "backwards", scan(time_plan={"interval": -1, "loops": 2}), ("time_plan", "0")
    ),
    Refusal(
        "gapless-duration",
        scan(time_plan={"interval": 0, "duration": 10}),
        ("time_plan", "loops"),
    ),
    Refusal(
        "nowhere", scan(stage_positions=[(math.nan, 0)]), ("stage_positions[0].x",)
    ),
    Refusal(
        "axis-left-out",
        scan(axis_order="zc", stage_positions=PLACES),
        ("axis_order", '"p"'),
    ),
    Refusal(
        "time-left-out", scan(axis_order="pzc", time_plan=TIMES), ("axis_order", '"t"')
    ),
    Refusal(
        "laser-twice",
        scan(channels=[TWO_CHANNELS[0], TWO_CHANNELS[0]]),
        ("channels", "twice"),
    ),
    Refusal(
        "endless-exposure",
        scan(channels=[{"config": "488", "exposure": math.inf}]),
        ('channels["488"].exposure', "ms"),
    ),
    Refusal(
        "too-far",
        scan(z_plan={"range": 300, "step": 1}),
        ("z_plan", "daq.galvo.range_v", "-100 to 100 µm"),
    ),
    Refusal(
        "too-fast",
        scan(z_plan={"range": 60, "step": 20}),
        ("z_plan", "step of 20 µm", "smaller step"),
    ),
    Refusal("no-scan", scan(z_plan=None, metadata=settings(mode="galvo")), ("z_plan",)),
    Refusal("single-scan", scan(metadata=settings(mode="single")), ("z_plan",)),
    Refusal(
        "no-stage", scan(metadata=settings(mode="stage")), ("[scan_stage]", '"galvo"')
    ),
    Refusal("mode", scan(metadata=settings(mode="gavlo")), ("mode", "'galvo'")),
    Refusal(
        "unknown-setting", scan(metadata=settings(blank=True)), ("blank", "blanking")
    ),
    Refusal(
        "blanking-off-interleaved",
        scan(metadata=settings(blanking=False)),
        ("blanking",),
    ),
    Refusal(
        "power", scan(metadata=settings(laser_power={"488": 10.0})), ("laser_power",)
    ),
    Refusal(
        "skipped-stack",
        scan(channels=[{**TWO_CHANNELS[0], "do_stack": False}]),
        ("do_stack",),
    ),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.id)
def test_refusals(case: Refusal, demo: Microscope) -> None:
    with pytest.raises(PlanError) as refused:
        plan_scan(case.sequence, demo)
    message = str(refused.value)
    assert [phrase for phrase in case.says if phrase not in message] == [], message


@pytest.mark.parametrize("kind", ["first_row", "any_row"])
def test_exposure_out_that_would_smear(kind: str, demo: Microscope) -> None:
    table = demo.model_dump(mode="json")
    table["camera"]["exposure_out"]["kind"] = kind
    with pytest.raises(PlanError, match="all_rows"):
        plan_scan(scan(), Microscope.from_table(table))


def test_an_interval_shorter_than_the_scan_warns(demo: Microscope) -> None:
    short, long = (
        plan_scan(scan(time_plan={"interval": s, "loops": 2}), demo) for s in (0.01, 5)
    )
    assert "0.05 s" in short.warnings[0]
    assert long.warnings == ()


def test_return_is_slow_enough(demo: Microscope) -> None:
    """8 V in steps of at most 1.246 V take 4 frames, though 2 would give the time."""
    sequence = scan(z_plan={"range": 160, "step": 1}, time_plan=TIMES)
    assert plan_scan(sequence, demo).n_flyback == 4


def test_blanking_off_warns(demo: Microscope) -> None:
    sequence = scan(channels=TWO_CHANNELS[:1], metadata=settings(blanking=False))
    assert "smears" in plan_scan(sequence, demo).warnings[0]


def test_one_position_does_not_cut_a_gapless_time_lapse(demo) -> None:
    times = {"interval": 0, "loops": 5}
    plan = plan_scan(scan(stage_positions=[(1, 2)], time_plan=times), demo)
    assert len(list(plan.bursts())) == 1
    events = BurstEvents(
        sequence := scan(stage_positions=[(1, 2)], time_plan=times),
        plan,
        next(plan.bursts()),
    )
    assert [e.index for e in events] == [e.index for e in sequence]
    two = plan_scan(scan(stage_positions=[(1, 2), (3, 4)], time_plan=times), demo)
    assert any("not without a gap" in warning for warning in two.warnings)
