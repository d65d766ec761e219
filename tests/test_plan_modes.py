"""The plan of each mode: bursts, dark frames, refusals, what handlers are told."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import useq

from opm_engine.config import Microscope
from opm_engine.plan import (
    BurstEvents,
    PlanError,
    ScanPlan,
    describe,
    plan_scan,
    refuse_travel,
)
from scopes import full, powered
from sequences import TWO_CHANNELS, scan, settings

TIMES = {"interval": 0, "loops": 3}
LATER = {"interval": 1, "loops": 3}
ONE = TWO_CHANNELS[:1]


def planned(microscope: Microscope | None = None, /, **wishes: Any) -> ScanPlan:
    """Plan with settings; ``sequence_...`` changes the sequence."""
    fields = {
        name.removeprefix("sequence_"): wishes.pop(name)
        for name in list(wishes)
        if name.startswith("sequence_")
    }
    sequence = scan(metadata=settings(**wishes), **fields)
    return plan_scan(sequence, microscope or full())


class Case(NamedTuple):
    id: str
    wishes: dict[str, Any]
    n_bursts: int
    frames: int
    events: int
    lit: str
    """First frames: ``#`` lit, ``.`` dark."""


CASES = [
    Case("ramp", {"motion": "ramp"}, 1, 11, 10, ".##########"),
    Case(
        "ramp-gapless",
        {"motion": "ramp", "sequence_time_plan": TIMES},
        1,
        35,
        30,
        ".##########..##########..###",
    ),
    Case(
        "ramp-both-ways",
        {"motion": "ramp", "bidirectional": True, "sequence_time_plan": TIMES},
        1,
        35,
        30,
        ".##########..##########..###",
    ),
    Case(
        "stepped-both-ways",
        {"bidirectional": True, "sequence_time_plan": TIMES},
        1,
        30,
        30,
        "#" * 30,
    ),
    Case(
        "both-ways-with-interval",
        {"bidirectional": True, "sequence_time_plan": LATER},
        3,
        10,
        10,
        "#" * 10,
    ),
    Case("pulses", {"pulse_ms": {"488": 1.0}}, 1, 10, 10, "#" * 10),
    Case(
        "pulses-gapless",
        {"pulse_ms": {"488": 1.0}, "sequence_time_plan": TIMES},
        1,
        32,
        30,
        "##########.##",
    ),
    Case("stage", {"mode": "stage"}, 1, 13, 10, "...##########"),
    Case(
        "stage-gapless",
        {"mode": "stage", "sequence_time_plan": TIMES},
        3,
        13,
        10,
        "...##########",
    ),
    Case(
        "stage-one-by-one",
        {"mode": "stage", "sequence_axis_order": "tpcz"},
        2,
        8,
        5,
        "...#####",
    ),
    Case(
        "projection",
        {"mode": "projection", "range_um": 10.0, "sequence_z_plan": None},
        2,
        1,
        1,
        "#",
    ),
    Case(
        "projection-gapless",
        {
            "mode": "projection",
            "range_um": 10.0,
            "sequence_z_plan": None,
            "sequence_time_plan": TIMES,
        },
        1,
        6,
        6,
        "######",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_bursts(case: Case) -> None:
    plan = planned(**case.wishes)
    bursts = list(plan.bursts())
    assert [burst.n_frames for burst in bursts] == [case.frames] * case.n_bursts
    assert [burst.n_events for burst in bursts] == [case.events] * case.n_bursts
    pattern = "".join(".#"[bursts[0].is_lit(f)] for f in range(case.frames))
    assert pattern[: len(case.lit)] == case.lit
    assert pattern.count("#") == case.events


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_plan_and_block_survive_json(case: Case) -> None:
    plan, microscope = planned(**case.wishes), full()
    block = json.loads(json.dumps(describe(plan, microscope)))
    assert ScanPlan.model_validate(block["plan"]) == plan


class Refusal(NamedTuple):
    id: str
    wishes: dict[str, Any]
    says: tuple[str, ...]
    changes: Mapping[str, Any] = MappingProxyType({})


PROJECTION = {"mode": "projection", "range_um": 10.0, "sequence_z_plan": None}
SLOW = {"daq__galvo__acceleration_v_per_ms2": 0.1}

REFUSALS = [
    Refusal("ramp-single", {"motion": "ramp", "sequence_z_plan": None}, ("motion",)),
    Refusal("ramp-on-stage", {"mode": "stage", "motion": "ramp"}, ("motion",)),
    Refusal("offset-in-scan", {"offset_um": 1.0}, ("offset_um", '"single"')),
    Refusal("range-in-scan", {"range_um": 1.0}, ("range_um", '"projection"')),
    Refusal("both-ways-stage", {"mode": "stage", "bidirectional": True}, ("bidirect",)),
    Refusal(
        "both-ways-one-by-one",
        {
            "bidirectional": True,
            "sequence_axis_order": "tpcz",
            "sequence_time_plan": TIMES,
        },
        ("bidirectional", 'axis_order="tpzc"'),
    ),
    Refusal(
        "offset-too-far",
        {"offset_um": 101.0, "sequence_z_plan": None},
        ("offset_um", "-100 to 100 µm"),
    ),
    Refusal(
        "ramp-too-far",
        {"motion": "ramp", "sequence_z_plan": {"range": 200, "step": 1}},
        ("z_plan (with run-up and run-out)", "-100 to 100 µm"),
    ),
    Refusal(
        "ramp-too-fast",
        {"motion": "ramp", "sequence_z_plan": {"range": 10, "step": 5}},
        ("z_plan", "slew_v_per_ms = 0.01", "12.5 ms or more"),
        {"daq__galvo__slew_v_per_ms": 0.01},
    ),
    Refusal(
        "ramp-cannot-stop",
        {"motion": "ramp", "sequence_z_plan": {"range": 160, "step": 20}},
        ("z_plan", "to stop", 'motion "stepped"'),
        SLOW,
    ),
    Refusal(
        "step-too-fast",
        {"sequence_z_plan": {"range": 2, "step": 1}},
        ("z_plan", "step of 1 µm", "rows"),
        SLOW,
    ),
    Refusal(
        "unknown-pulse", {"pulse_ms": {"640": 1.0}}, ('pulse_ms["640"]', "488, 561")
    ),
    Refusal("long-pulse", {"pulse_ms": {"488": 4.0}}, ('pulse_ms["488"]', "3.7480")),
    Refusal(
        "endless-pulse", {"pulse_ms": {"488": math.inf}}, ('pulse_ms["488"]', "window")
    ),
    Refusal("short-pulse", {"pulse_ms": {"488": 0.001}}, ('pulse_ms["488"]', "0.037")),
    Refusal(
        "pulse-unblanked",
        {"pulse_ms": {"488": 1.0}, "blanking": False, "sequence_channels": ONE},
        ("pulse_ms", "blanking"),
    ),
    Refusal(
        "few-rows",
        {"pulse_ms": {"488": 1.0}},
        ("exposure", "more rows"),
        {"camera__roi": [0, 0, 32, 4]},
    ),
    Refusal(
        "too-many-samples",
        {
            "pulse_ms": {"488": 1.0},
            "sequence_z_plan": {"range": 99, "step": 0.001},
        },
        ("z_plan", "samples", "without pulse_ms"),
    ),
    Refusal(
        "projection-scan",
        {**PROJECTION, "sequence_z_plan": {"range": 2, "step": 1}},
        ("z_plan", '"range_um"'),
    ),
    Refusal("no-range", {**PROJECTION, "range_um": None}, ("range_um",)),
    Refusal(
        "no-second-galvo", PROJECTION, ("[daq.projection]",), {"daq__projection": None}
    ),
    Refusal(
        "projection-unblanked",
        {**PROJECTION, "blanking": False, "sequence_channels": ONE},
        ("blanking",),
    ),
    Refusal(
        "projection-pulse", {**PROJECTION, "pulse_ms": {"488": 1.0}}, ("pulse_ms",)
    ),
    Refusal(
        "sweep-too-far",
        {**PROJECTION, "offset_um": 96.0},
        ("range_um = 10", "daq.galvo", "offset_um"),
    ),
    Refusal(
        "shift-too-far",
        PROJECTION,
        ("range_um = 10", "daq.projection", "[-0.1, 1.1]"),
        {"daq__projection__range_v": [-0.1, 1.1]},
    ),
    Refusal(
        "sweep-too-fast",
        PROJECTION,
        ("range_um = 10", "slew_v_per_ms = 0.1", "5 ms or more"),
        {
            "daq__galvo__slew_v_per_ms": 0.1,
            "daq__galvo__acceleration_v_per_ms2": 100.0,
        },
    ),
    Refusal(
        "sweep-from-rest",
        PROJECTION,
        ("range_um = 10", "acceleration_v_per_ms2 = 0.1", "6.455 ms"),
        SLOW,
    ),
    Refusal(
        "late-return",
        {**PROJECTION, "range_um": 80.0},
        ("range_um = 80", "return", "rows or more", '"range_um": '),
        {"daq__galvo__slew_v_per_ms": 4.0},
    ),
    Refusal(
        "late-settling",
        PROJECTION,
        ("range_um = 10", "daq.projection", "settle", "rows or more"),
        {"daq__projection__settle_ms": 2.0},
    ),
    Refusal(
        "stage-too-fast",
        {"mode": "stage", "sequence_z_plan": {"range": 100, "step": 10}},
        ("z_plan", "1000 µm/s", "max_speed_um_per_s = 500", "10 ms or more"),
    ),
    Refusal(
        "stage-too-far",
        {"mode": "stage", "sequence_stage_positions": [(0, 0), (0, 999)]},
        ("stage_positions[1].y = 999", "scan_stage.range_um", "positions from"),
    ),
    Refusal(
        "stage-scan-too-long",
        {
            "mode": "stage",
            "sequence_z_plan": {"range": 2001, "step": 1},
            "sequence_stage_positions": [(0, 0)],
        },
        ("stage_positions[0].y", "shorter range"),
    ),
    Refusal(
        "stage-unequal",
        {
            "mode": "stage",
            "sequence_axis_order": "tpcz",
            "sequence_channels": [ONE[0], {"config": "561", "exposure": 10}],
        },
        ("channels", "5, 10", "pulse_ms"),
    ),
    Refusal(
        "filter",
        {},
        ("camera.exposure_out.debounce_us", "623"),
        {"camera__exposure_out__debounce_us": 650.0},
    ),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.id)
def test_refusals(case: Refusal) -> None:
    wishes = {k: v for k, v in case.wishes.items() if v is not None or "_plan" in k}
    with pytest.raises(PlanError) as refused:
        planned(full(**case.changes), **wishes)
    message = str(refused.value)
    assert [phrase for phrase in case.says if phrase not in message] == [], message


def test_what_a_refused_projection_is_told_works() -> None:
    slow = full(daq__galvo__slew_v_per_ms=4.0)
    wishes = {**PROJECTION, "range_um": 80.0}
    with pytest.raises(PlanError) as refused:
        planned(slow, **wishes)
    smaller_um = float(str(refused.value).rpartition(" ")[2])
    assert 10 < smaller_um < 80
    planned(slow, **{**wishes, "range_um": smaller_um})


def test_both_ways() -> None:
    """z counts as planes come; z_pos is where they are."""
    for time_plan in (TIMES, LATER):
        sequence = scan(
            metadata=settings(bidirectional=True),
            channels=ONE,
            time_plan=time_plan,
            z_plan={"range": 2, "step": 1},
            stage_positions=[(0, 0, 10)],
        )
        plan = plan_scan(sequence, full())
        events = [e for b in plan.bursts() for e in BurstEvents(sequence, plan, b)]
        assert [e.index["z"] for e in events] == [0, 1, 2] * 3
        assert [e.z_pos for e in events] == [9, 10, 11, 11, 10, 9, 9, 10, 11]
        assert plan.stream().bidirectional
        assert describe(plan, full())["bidirectional"]


@pytest.mark.parametrize("wishes", [{"motion": "ramp"}, {"mode": "stage"}])
@pytest.mark.parametrize("go_up", [True, False])
def test_interleaved_channels_lie_apart_in_a_moving_scan(wishes, go_up) -> None:
    z_plan = {"range": 2, "step": 0.5, "go_up": go_up}
    plan = planned(**wishes, sequence_z_plan=z_plan)
    assert plan.stream().channel_offsets_um == (0, 0.25)
    assert describe(plan, full())["channel_offsets_um"] == [0, 0.25]
    assert "0, 0.25 µm" in plan.warnings[0]
    assert "smears" in plan.warnings[0]
    assert planned(**wishes, sequence_axis_order="tpcz").channel_offsets_um == ()
    assert planned(**wishes, sequence_channels=ONE).channel_offsets_um == ()


def test_stepped_channels_lie_together() -> None:
    assert planned().stream().channel_offsets_um == ()
    assert planned().warnings == ()


def test_single_plane_at_an_offset() -> None:
    plan = planned(offset_um=5.0, sequence_z_plan=None)
    assert plan.mode == "single"
    assert plan.offset_um(0) == 5
    assert plan.geometry.origin_um == 5


def test_projected_pixels() -> None:
    plan = planned(**PROJECTION)
    stream = plan.stream()
    pixel_um = 0.115
    assert stream.n_planes == 1
    assert stream.scale_um == pytest.approx((1, pixel_um / 1.1547, pixel_um))
    block = describe(plan, full())
    assert block["projected_pixel_um"] == pytest.approx(stream.scale_um[1:])
    assert describe(planned(), full())["projected_pixel_um"] is None


def test_rows_of_a_projection_lie_along_y() -> None:
    """Structures at one Y fall on one row whatever their Z, if r = 1 / cos(angle)."""
    angle, pixel_um = math.radians(30), 0.115
    plan = planned(full(daq__projection__shear_ratio=1 / math.cos(angle)), **PROJECTION)
    pitch_um = plan.stream().scale_um[1]
    for y_um in (0.0, 3.0):
        for z_um in (0.0, 2.0, 5.0):
            offset_um = y_um - z_um / math.tan(angle)
            row = z_um / math.sin(angle) / pixel_um + (
                plan.shear_ratio * offset_um / pixel_um
            )
            assert row * pitch_um == pytest.approx(y_um)


# ------------------------------------------------------------------------- stage


@pytest.mark.parametrize("go_up", [True, False])
@pytest.mark.parametrize("scan_sign", [1, -1])
def test_stage_scan(go_up, scan_sign) -> None:
    microscope = full(scan_stage__scan_sign=scan_sign)
    z_plan = {"range": 20, "step": 0.5, "go_up": go_up}
    plan = planned(microscope, mode="stage", sequence_z_plan=z_plan, offset_um=3.0)
    stage, timing = plan.stage, plan.channels[0].timing
    assert stage is not None
    direction = 1 if go_up else -1
    assert stage.direction == direction
    assert stage.n_lead == math.ceil(12 / 5)
    assert stage.speed_um_per_s == pytest.approx(0.5 / (2 * 5e-3))

    def stage_um(frame: int) -> float:
        """In the middle of a frame's window; half of the ramp's time is lost."""
        passed_ms = frame * 5 + timing.readout_ms + timing.window_ms / 2
        return stage.start_um + direction * stage.speed_um_per_s / 1000 * (
            passed_ms - 12 / 2
        )

    for plane in (0, 40):
        reached_um = stage_um(stage.n_lead + 2 * plane)
        assert reached_um == pytest.approx(plan.offset_um(plane))
    # at full speed until the last window has closed: 12 ms ramp, the latter half lost
    last_um = stage_um(stage.n_lead + 2 * 40 + 1)
    assert direction * (stage.stop_um - last_um) > 0.05 * 6
    assert plan.geometry.scan_direction == scan_sign * direction
    assert plan.geometry.origin_um == 3 - 10
    assert describe(plan, microscope)["stage"] == stage.model_dump(mode="json")


def test_stage_returns_between_volumes() -> None:
    plan = planned(mode="stage", sequence_time_plan=TIMES)
    assert any("interval of 0" in warning for warning in plan.warnings)


def test_range_is_checked_later_where_no_position_is_given() -> None:
    microscope, plan = full(), planned(mode="stage")
    assert plan.stage is not None
    assert microscope.scan_stage is not None
    refuse_travel(plan.stage, microscope.scan_stage, 0.0, "the stage")
    with pytest.raises(PlanError, match="the stage = 999"):
        refuse_travel(plan.stage, microscope.scan_stage, 999.0, "the stage")


# ------------------------------------------------------------------------- measured


@pytest.mark.parametrize("go_up", [True, False])
def test_measured_stage(go_up) -> None:
    z_plan = {"range": 20, "step": 0.5, "go_up": go_up}
    plan = planned(mode="stage", sequence_z_plan=z_plan)
    measured = plan.measured(period_ms=5.04, stage_speed_um_per_s=51.0)
    step_um = 51e-3 * 2 * 5.04
    assert abs(measured.step_um) == pytest.approx(step_um)
    assert measured.geometry.step_um == pytest.approx(step_um)
    assert measured.stream().scale_um[0] == pytest.approx(step_um)
    assert measured.stream().channel_offsets_um == pytest.approx((0, step_um / 2))
    assert measured.stage is not None
    assert measured.stage.speed_um_per_s == pytest.approx(51)
    assert measured.stage.n_lead == 3
    assert measured.offset_um(0) == plan.offset_um(0)
    ends_um = measured.offset_um(0), measured.offset_um(40)
    assert measured.geometry.origin_um == pytest.approx(min(ends_um))
    assert measured.channels[0].timing.period_ms == pytest.approx(5.04)
    assert measured.channels[0].timing.exposure_ms == 5


@pytest.mark.parametrize("wishes", [{}, {"motion": "ramp"}, {"pulse_ms": {"488": 1.0}}])
@pytest.mark.parametrize("period_ms", [4.96, 5.04])
def test_measured_period(wishes, period_ms) -> None:
    measured = planned(**wishes).measured(period_ms=period_ms)
    for channel in measured.channels:
        timing, sampling = channel.timing, channel.sampling
        window_ms = period_ms - timing.readout_ms
        assert timing.period_ms == pytest.approx(period_ms)
        assert timing.window_ms == pytest.approx(window_ms)
        assert sampling.n_window * sampling.sample_ms <= window_ms + 1e-9
        if sampling.samples_per_frame > 2:
            length_ms = sampling.samples_per_frame * sampling.sample_ms
            assert length_ms < period_ms
            assert sampling.n_window < sampling.samples_per_frame
            assert channel.light[1] <= sampling.n_window


def test_measured_otherwise() -> None:
    with pytest.raises(PlanError, match=r"5\.1 ms, planned were 5 ms"):
        planned().measured(period_ms=5.1)
    with pytest.raises(PlanError, match="asked for 50 µm/s, the controller took 60"):
        planned(mode="stage").measured(period_ms=5, stage_speed_um_per_s=60)


# ------------------------------------------------------------------------- channels


def test_two_cameras() -> None:
    microscope = full(camera__sensors=["CamA", "CamB"])
    plan = planned(microscope, motion="ramp")
    stream = plan.stream()
    assert plan.n_cameras == stream.n_cameras == 2
    names = ["488 CamA", "488 CamB", "561 CamA", "561 CamB"]
    assert [channel.name for channel in stream.channels] == names
    assert stream.channel_offsets_um == (0, 0, 0.25, 0.25)
    assert next(plan.bursts()).n_frames == 11
    assert stream.place({"c": 1, "cam": 0}).channel == 2


def test_light_of_pulses() -> None:
    plan = planned(pulse_ms={"488": 1.0})
    short, full_window = plan.channels
    resolution_ms = 0.01 * short.timing.window_ms
    assert short.light_ms == pytest.approx(1, abs=resolution_ms / 2)
    assert 0.99 < full_window.light_ms / full_window.timing.window_ms <= 1
    assert short.sampling == full_window.sampling
    assert describe(plan, full())["light_ms"] == [short.light_ms, full_window.light_ms]


def test_power_outputs_must_be_told() -> None:
    microscope = powered()
    with pytest.raises(PlanError, match=r'"561" takes its power from ao3'):
        planned(microscope, laser_power={"488": 10.0})
    power = {"488": 10.0, "561": 20.0}
    assert planned(microscope, laser_power=power).laser_power == power
    one = planned(microscope, laser_power={"488": 10.0}, sequence_channels=ONE)
    assert one.laser_power == {"488": 10}


def test_dark_frames_count_in_the_duration() -> None:
    plan = planned(motion="ramp", sequence_time_plan=TIMES)
    assert plan.duration_s == pytest.approx(35 * 5e-3)


def test_events_of_modes_without_reversal_are_useqs() -> None:
    for wishes in ({"motion": "ramp"}, {"mode": "stage"}):
        sequence = scan(metadata=settings(**wishes), time_plan=TIMES)
        plan = plan_scan(sequence, full())
        events: list[useq.MDAEvent] = []
        for burst in plan.bursts():
            events += BurstEvents(sequence, plan, burst)
        assert events == list(sequence)
