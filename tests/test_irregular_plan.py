"""Sequences that are no regular grid: how they are cut into scans, and refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import useq

from irregulars import CASES, GRID, ONCE, REFUSALS, SHORT, Case, at
from opm_engine.bursts import BurstEvent, burst_events
from opm_engine.config import Microscope
from opm_engine.plan import (
    Part,
    PlanError,
    ScanPlan,
    Stream,
    describe,
    is_irregular,
    iterate,
    plan_regular,
    plan_scan,
    with_field_of_view,
)
from sequences import TWO_CHANNELS, scan, settings
from test_modes_stage import stage_microscope
from twins import microscope


@pytest.fixture(scope="module")
def small() -> Microscope:
    return microscope()


def said(event: useq.MDAEvent) -> tuple[Any, ...]:
    """What an event says, without its sequence."""
    return (
        {str(axis): number for axis, number in event.index.items()},
        type(event.action).__name__,
        (event.x_pos, event.y_pos, event.z_pos),
        event.channel.config if event.channel else None,
        event.exposure,
        event.min_start_time,
        event.keep_shutter_open,
        event.pos_name,
    )


def own_events(case: Case, microscope: Microscope) -> list[tuple[Any, ...]]:
    """useq's own iteration, with the field of view that tiles need."""
    return [said(x) for x in with_field_of_view(case.sequence.replace(), microscope)]


def scans(sequence: useq.MDASequence, microscope: Microscope) -> list[Part]:
    parts = iterate(sequence, microscope, plan_regular)
    return [part for part in parts if part.plan is not None]


IRREGULAR = [case for case in CASES if is_irregular(case.sequence)]


@pytest.mark.parametrize("case", IRREGULAR, ids=lambda case: case.id)
def test_events_are_those_of_useq(case: Case, small: Microscope) -> None:
    parts = list(iterate(case.sequence, small, plan_regular))
    events = [said(event) for part in parts for event in part.events]
    expected = own_events(case, small)
    if not case.in_order:
        assert events != expected
        events.sort(key=repr)
        expected.sort(key=repr)
    assert events == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_one_camera_sequence_per_scan(case: Case, small: Microscope) -> None:
    plan = plan_scan(case.sequence, small)
    events = burst_events(case.sequence, plan, small)
    bursts = [x for x in events if isinstance(x, BurstEvent)]
    assert len(bursts) == case.n_bursts
    assert plan.n_events == case.n_frames
    assert sum(len(burst.events) for burst in bursts) == case.n_frames
    assert [len(x.events) for x in bursts] == [x.burst.n_events for x in bursts]
    places = [plan.stream().place(e.index) for x in bursts for e in x.events]
    assert len(set(places)) == case.n_frames  # each frame has a place of its own
    ends = itertools.accumulate(len(x.events) for x in bursts)
    assert [x.burst.first_event for x in bursts] == [0, *ends][:-1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_shutter_stays_open_between_bursts_as_in_useq(case, small) -> None:
    plan = plan_scan(case.sequence, small)
    bursts = list(burst_events(case.sequence, plan, small))
    if not case.in_order:
        return
    events = list(with_field_of_view(case.sequence.replace(), small))
    kept = {repr(said(e)[:2]): e.keep_shutter_open for e in events}
    for burst in bursts:
        last = burst.events[-1] if hasattr(burst, "events") else burst
        assert burst.keep_shutter_open == kept[repr(said(last)[:2])], last.index


def test_a_sub_sequence_goes_tile_by_tile(small: Microscope) -> None:
    sequence = scan(stage_positions=[at(0, 0, grid_plan=GRID)])
    order = [
        tuple(event.index[axis] for axis in "gzc")
        for part in scans(sequence, small)
        for event in part.events
    ]
    assert order == sorted(order)


def test_tiles_lie_a_field_of_view_apart(small: Microscope) -> None:
    """Along the scan that is as long as the scan and the tilted rows together."""
    sequence = scan(
        grid_plan={"rows": 2, "columns": 2},
        axis_order="tpgzc",
        stage_positions=[at(0, 0), at(0, 0, z_plan=SHORT, grid_plan=GRID)],
    )
    plan = plan_scan(sequence, small)
    geometry = plan.geometry
    px, rows_um = geometry.pixel_size_um, 208 * geometry.pixel_size_um * 0.75**0.5
    x = [site.x_um for site in plan.stream().positions]
    y = [site.y_um for site in plan.stream().positions]
    assert x[1] - x[0] == pytest.approx(32 * px)
    assert y[1] - y[2] == pytest.approx(2 + rows_um)
    assert x[5] - x[4] == pytest.approx(32 * px)


def test_an_earlier_iteration_of_the_sequence_changes_nothing(small) -> None:
    """useq remembers tiles, and where autofocus was, across iterations."""
    sequence = scan(grid_plan=GRID, axis_order="tpgzc", autofocus_plan={"axes": ("g",)})
    wanted = [said(e) for x in iterate(sequence, small, plan_regular) for e in x.events]
    list(sequence)
    again = [said(e) for x in iterate(sequence, small, plan_regular) for e in x.events]
    assert again == wanted


AUTOFOCUS = [
    ("z", (0, 0, 3), 3.0),
    ("no-z", (0, 0), None),
]


@pytest.mark.parametrize(
    ("place", "z_um"), [x[1:] for x in AUTOFOCUS], ids=[x[0] for x in AUTOFOCUS]
)
def test_autofocus_is_never_at_the_scan_offset(place, z_um, small) -> None:
    sequence = scan(stage_positions=[place], autofocus_plan={"axes": ("p",)})
    parts = list(iterate(sequence, small, plan_regular))
    assert [part.plan is None for part in parts] == [True, False]
    assert parts[0].events[0].z_pos == z_um
    assert parts[1].events[0].z_pos == (z_um or 0) - 1


@pytest.mark.parametrize(
    "own",
    [
        {"autofocus_plan": {"axes": ("p",)}},
        {"autofocus_plan": {"axes": ("p",)}, "z_plan": SHORT},
        {"autofocus_plan": {"axes": ("p",)}, "grid_plan": GRID},
        {"autofocus_plan": {"axes": ("p",)}, "channels": TWO_CHANNELS[:1]},
    ],
    ids=["alone", "z", "grid", "channels"],
)
def test_own_autofocus_acquires_nothing_twice(own, small) -> None:
    sequence = scan(stage_positions=[at(0, 0, 1, **own)], axis_order="tpzc")
    places = [tuple(e.index.items()) for x in scans(sequence, small) for e in x.events]
    assert len(places) == len(set(places))
    n_actions = sum(x.plan is None for x in iterate(sequence, small, plan_regular))
    assert n_actions == 1


def test_z_offset_of_own_channels_moves_the_focus_not_the_scan(small) -> None:
    own = {"z_plan": SHORT, "channels": [{**TWO_CHANNELS[0], "z_offset": 1.0}]}
    sequence = scan(stage_positions=[at(0, 0, 1), at(5, 0, 2, **own)])
    first, second = (part.plan for part in scans(sequence, small))
    assert first is not None
    assert second is not None
    assert (first.start_um, second.start_um) == (-1, -0.5)
    assert [x.z_offset_um for x in second.channels] == [1]


def test_the_longest_scan_stands_for_all(small: Microscope) -> None:
    sequence = scan(
        stage_positions=[at(0, 0, z_plan=SHORT), at(5, 0)],
        time_plan={"interval": 60, "loops": 2},
    )
    plan = plan_scan(sequence, small)
    stream = plan.stream()
    assert (plan.geometry.n_planes, stream.n_planes) == (5, 5)
    assert [x.n_planes for x in stream.positions] == [3, None]
    assert [x.origin_um for x in stream.positions] == [-0.5, None]
    assert (stream.n_times, stream.interval_s) == (2, 60)


def test_every_burst_tells_the_same(small: Microscope) -> None:
    """Bursts in a queue say on their own what will come."""
    sequence = scan(
        stage_positions=[at(0, 0, z_plan=SHORT), at(5, 0)],
        channels=[TWO_CHANNELS[0], {**TWO_CHANNELS[1], "acquire_every": 2}],
        time_plan=ONCE,
    )
    plan = plan_scan(sequence, small)
    told = [
        {key: describe(burst.plan, small)[key] for key in ("stream", "geometry")}
        for burst in burst_events(sequence, plan, small)
    ]
    assert len(told) == 4
    assert all(x == told[0] for x in told)
    assert Stream.model_validate(told[0]["stream"]) == plan.stream()


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.id)
def test_refusals(case, small: Microscope) -> None:
    with pytest.raises(PlanError) as refused:
        plan_scan(case.sequence, small)
    for words in case.says:
        assert words in str(refused.value)


def test_a_well_plate(small: Microscope) -> None:
    plate = useq.WellPlatePlan(
        plate=96, a1_center_xy=(0, 0), selected_wells=([0, 0], [0, 1])
    )
    sequence = scan(stage_positions=plate, autofocus_plan={"axes": ("p",)})
    plan = plan_scan(sequence, small)
    assert [site.name for site in plan.stream().positions] == ["A1", "A2"]
    assert plan.n_events == 20


# ------------------------------------------------------------------------ stage scans


@pytest.fixture(scope="module")
def staged() -> Microscope:
    return microscope(**stage_microscope())


def stage_grid(**changes: Any) -> useq.MDASequence:
    fields = {
        "grid_plan": {"rows": 2, "columns": 1},
        "axis_order": "tpgzc",
        "metadata": settings(mode="stage"),
        **changes,
    }
    return scan(**fields)


def test_each_tile_of_stage_scans_must_be_in_reach(staged: Microscope) -> None:
    assert plan_scan(stage_grid(stage_positions=[(0, 0)]), staged).stage is not None
    with pytest.raises(PlanError, match=r"stage_positions\[1\], tile 0: y = 10\d\d"):
        plan_scan(stage_grid(stage_positions=[(0, 0), (0, 995)]), staged)


def test_stage_scans_of_another_speed(staged: Microscope) -> None:
    sequence = stage_grid(
        channels=[TWO_CHANNELS[0], {**TWO_CHANNELS[1], "acquire_every": 2}],
        time_plan=ONCE,
    )
    with pytest.raises(PlanError, match='"stage" all scans have one speed'):
        plan_scan(sequence, staged)


def test_channels_that_lie_elsewhere_at_other_times(staged: Microscope) -> None:
    first = {**TWO_CHANNELS[0], "acquire_every": 2}
    sequence = stage_grid(channels=[first, TWO_CHANNELS[1]], time_plan=ONCE)
    with pytest.raises(PlanError, match=r'channels\["561"\].*acquire_every'):
        plan_scan(sequence, staged)


@pytest.mark.parametrize("go_up", [True, False], ids=["up", "down"])
def test_the_measured_step_reaches_every_position(go_up: bool, staged) -> None:
    z_plans = [{"range": n, "step": 0.5, "go_up": go_up} for n in (2, 4)]
    sequence = scan(
        stage_positions=[at(0, 0, z_plan=z_plan) for z_plan in z_plans],
        metadata=settings(mode="stage"),
        z_plan=z_plans[0],
    )
    plan = plan_scan(sequence, staged)
    measured = plan.measured(period_ms=plan.channels[0].timing.period_ms * 1.002)
    first, second = measured.stream().positions
    parts: list[ScanPlan] = []
    for part in scans(sequence, staged):
        assert part.plan is not None
        period_ms = part.plan.channels[0].timing.period_ms * 1.002
        parts.append(part.plan.measured(period_ms=period_ms))
    assert first.origin_um == pytest.approx(parts[0].geometry.origin_um, abs=1e-9)
    assert second.origin_um is None
    assert measured.stream().scale_um[0] == pytest.approx(0.501)
    assert measured.geometry.origin_um == pytest.approx(parts[1].geometry.origin_um)
    assert measured.stream().channel_offsets_um == (0, pytest.approx(0.2505))
