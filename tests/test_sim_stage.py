"""The scanning stage: its motion, its controller, and what the camera sees of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench import (
    BOTH_OFF,
    EXPOSURE_S,
    FIRST,
    LINE_S,
    OFFSET,
    RISE_MS,
    ROWS,
    WINDOW_MS,
    Bench,
    described,
    on_bench,
    wait_for,
)
from opm_engine.config import Microscope
from opm_engine.simulation.motion import HISTORY_S, Stretch, Track, stopped_at, travel
from opm_engine.simulation.trigger import TriggerLine

SCAN_RAMP_MS = 10.0
SCAN = {
    "label": "XY",
    "range_um": (-1000.0, 1000.0),
    "max_speed_um_per_s": 5000.0,
    "ramp_ms": SCAN_RAMP_MS,
}
COUNTS_PER_MS_UM = 100.0


class Places:
    """Brightness in counts per ms: 2000, plus 100 per µm of scan offset."""

    def __init__(self) -> None:
        self.origins_um: set[tuple[float, ...]] = set()

    def plane(
        self,
        offset_um: float,
        laser_index: int,
        origin_um: tuple[float, float, float],
        shape: tuple[int, int],
    ) -> np.ndarray:
        self.origins_um.add(tuple(round(um, 6) for um in origin_um))
        counts = 2000 + COUNTS_PER_MS_UM * offset_um
        return np.full(shape, counts, dtype=np.float32)

    @staticmethod
    def read(frames: np.ndarray) -> np.ndarray:
        """Mean scan offset of each frame, in µm."""
        counts = frames.astype(float).mean(axis=(1, 2)) - OFFSET
        return (counts / (WINDOW_MS - RISE_MS) - 2000) / COUNTS_PER_MS_UM


def scanning(demo: Microscope, **changes: object) -> Microscope:
    return described(demo, camera={"profile": "demo"}, scan_stage=SCAN | changes)


@pytest.fixture
def bench(demo: Microscope) -> Iterator[Bench]:
    with on_bench(scanning(demo), Places()) as bench:
        bench.play([FIRST, BOTH_OFF])
        yield bench


def prepare(
    bench: Bench, start_um: float, stop_um: float, speed: float, axis: str = "Y"
) -> None:
    core = bench.core
    core.setProperty("XY", f"MotorSpeed{axis}-S(mm/s)", speed)
    core.setProperty("XY", "ScanFastAxisStartPosition(mm)", start_um / 1e3)
    core.setProperty("XY", "ScanFastAxisStopPosition(mm)", stop_um / 1e3)


def run(bench: Bench) -> None:
    bench.core.setProperty("XY", "ScanState", "Running")


def state(bench: Bench) -> str:
    return str(bench.core.getProperty("XY", "ScanState"))


# ----------------------------------------------------------------- motion

SPEEDS = st.floats(1, 1e4)
RAMPS = st.one_of(st.just(0.0), st.floats(1e-3, 0.5))
PLACES = st.floats(-5000, 5000)


@settings(deadline=None)
@given(from_um=PLACES, to_um=PLACES, speed=SPEEDS, ramp_s=RAMPS)
def test_travel_goes_from_rest_to_rest(
    from_um: float, to_um: float, speed: float, ramp_s: float
) -> None:
    assume(abs(to_um - from_um) > 1e-3)
    track = Track(from_um)
    track.follow(travel(1.0, from_um, to_um, speed, ramp_s))
    times = np.linspace(0.9, track.end_s + 0.1, 4001)
    places = track.positions(times)
    assert places[0] == from_um
    assert places[-1] == to_um
    speeds = np.diff(places) / np.diff(times)
    assert (np.sign(to_um - from_um) * speeds > -1e-6 * speed).all()
    assert abs(speeds).max() <= speed * 1.0001
    way_um = abs(to_um - from_um)
    if way_um > speed * ramp_s:
        assert track.end_s - 1 == pytest.approx(way_um / speed + ramp_s)


@settings(deadline=None)
@given(
    from_um=st.floats(-90, 90),
    to_um=st.floats(-900, 900),
    speed=SPEEDS,
    ramp_s=RAMPS,
)
def test_limits_stop_what_would_leave_them(
    from_um: float, to_um: float, speed: float, ramp_s: float
) -> None:
    assume(abs(to_um - from_um) > 1e-3)
    way = travel(0.0, from_um, to_um, speed, ramp_s)
    track = Track(from_um)
    track.follow(stopped_at(way, (-100.0, 100.0)))
    places = track.positions(np.linspace(0, way[-1].time_s, 999))
    assert (abs(places) <= 100 + 1e-6).all()
    assert track.end_um == pytest.approx(np.clip(to_um, -100, 100))


def test_a_motion_at_a_limit_may_only_go_inward() -> None:
    for to_um, end_um in [(200.0, 100.0), (-50.0, -50.0)]:
        way = travel(0.0, 100.0, to_um, 1000, 0.1)
        assert stopped_at(way, (-100.0, 100.0))[-1].position_um == end_um


def test_a_track_remembers_and_forgets() -> None:
    track = Track(1.0)
    for number in range(2000):
        track.follow([Stretch(number * 0.1, float(number))])
    assert track.positions([199.9, 199.0, 195.05]).tolist() == [1999, 1990, 1950]
    assert len(track._stretches) < 20 * HISTORY_S


def test_a_track_is_at_rest_where_it_was_halted() -> None:
    track = Track()
    track.follow(travel(0.0, 0.0, 100.0, 100.0, 0.1))
    track.rest(0.55)
    assert track.end_um == pytest.approx(50)
    assert track.positions([0.3, 0.55, 9]) == pytest.approx([25, 50, 50])


# ------------------------------------------------------------- controller


def test_speed_is_rounded_and_reads_back(bench: Bench) -> None:
    core = bench.core
    for asked, got in [(0.08012, 0.0801), (1.23456, 1.2346), (1e-9, 1e-4)]:
        core.setProperty("XY", "MotorSpeedY-S(mm/s)", asked)
        assert float(core.getProperty("XY", "MotorSpeedY-S(mm/s)")) == got
    assert float(core.getProperty("XY", "MotorSpeedX-S(mm/s)")) == 5.0


def test_other_property_names_may_be_configured(demo: Microscope) -> None:
    names = {"speed_mm_s": "Speed-{axis}", "state": "Scan", "running": "Go"}
    with on_bench(scanning(demo, properties=names), Places()) as bench:
        assert bench.core.hasProperty("XY", "Speed-Y")
        assert bench.core.getAllowedPropertyValues("XY", "Scan") == ("Idle", "Go")


def test_plain_moves_take_time_and_end_within_the_limits(bench: Bench) -> None:
    core = bench.core
    core.setProperty("XY", "UpperLimX(mm)", 0.1)
    core.setXYPosition(500, -40)
    assert core.deviceBusy("XY")
    core.waitForDevice("XY")
    assert core.getXYPosition() == pytest.approx((100, -40))


def test_the_demo_stage_moves_at_once(demo: Microscope) -> None:
    with on_bench(described(demo), Places()) as bench:
        bench.core.setXYPosition(500, -40)
        assert not bench.core.deviceBusy("XY")
        assert bench.core.getXYPosition() == (500, -40)
        assert bench.core.hasProperty("XY", "ScanState")


def test_halt_stops_at_once(bench: Bench) -> None:
    prepare(bench, 0, 1000, 1.0)
    run(bench)
    wait_for(lambda: bench.core.getYPosition() > 10)
    bench.core.stop("XY")
    halted_um = bench.core.getYPosition()
    assert state(bench) == "Idle"
    assert not bench.core.deviceBusy("XY")
    time.sleep(0.02)
    assert bench.core.getYPosition() == halted_um


def test_state_idle_halts_a_scan(bench: Bench) -> None:
    prepare(bench, 0, 1000, 1.0)
    run(bench)
    assert state(bench) == "Running"
    bench.core.setProperty("XY", "ScanState", "Idle")
    assert not bench.core.deviceBusy("XY")


@pytest.mark.parametrize("runaway", [False, True])
def test_a_scan_ends_at_its_stop_or_at_a_limit(bench: Bench, runaway: bool) -> None:
    assert bench.core.simulated_stage is not None
    bench.core.simulated_stage.runaway = runaway
    bench.core.setProperty("XY", "UpperLimY(mm)", 0.050)
    bench.core.setProperty("XY", "LowerLimY(mm)", -0.050)
    prepare(bench, -10, 10, 1.0)
    run(bench)
    wait_for(lambda: state(bench) == "Idle")
    assert bench.core.getYPosition() == pytest.approx(50 if runaway else 10)


def test_a_taken_back_pulse_does_not_come() -> None:
    line, cancelled = TriggerLine(), threading.Event()
    line.pulse(3.0)
    assert line.wait(2.0, cancelled) == 3.0
    line.silence(3.5)
    assert line.comes(3.0)
    line.silence(2.5)
    assert not line.comes(3.0)
    cancelled.set()
    assert line.wait(2.0, cancelled) is None


# ------------------------------------------------- what the camera sees of it


def expected_um(speed_mm_s: float, n: int) -> np.ndarray:
    """How far the sheet is from the start in the mean of each frame's light."""
    since_s = ROWS * LINE_S + 1e-3 * RISE_MS
    lit_s = np.linspace(since_s, since_s + 1e-3 * (WINDOW_MS - RISE_MS), 1000)
    times_s = lit_s + EXPOSURE_S * np.arange(n)[:, np.newaxis]
    ramp_s = SCAN_RAMP_MS / 1e3
    at_speed = times_s > ramp_s
    way_s = np.where(at_speed, times_s - ramp_s / 2, times_s**2 / (2 * ramp_s))
    return 1e3 * speed_mm_s * way_s.mean(axis=1)


@pytest.mark.parametrize(
    ("changes", "start_um", "stop_um", "sign"),
    [
        pytest.param({}, 0, 15, 1, id="forward"),
        pytest.param({}, 15, 0, 1, id="backward"),
        pytest.param({"scan_sign": -1}, 0, 15, -1, id="sign -1"),
        pytest.param({"axis": "x"}, 0, 15, 1, id="axis x"),
    ],
)
def test_frames_show_the_stage_moving_from_its_pulse_on(
    demo: Microscope,
    changes: dict[str, object],
    start_um: float,
    stop_um: float,
    sign: int,
) -> None:
    described = scanning(demo, **changes)
    with on_bench(described, Places()) as bench:
        bench.play([FIRST, BOTH_OFF])
        bench.trigger(described, by_stage=True)
        prepare(bench, start_um, stop_um, 0.5, str(changes.get("axis", "y")).upper())
        bench.core.startSequenceAcquisition(5, 0, True)
        run(bench)
        offsets_um = Places.read(bench.pop(5))
        bench.core.stopSequenceAcquisition()
    way_um = np.sign(stop_um - start_um) * expected_um(0.5, 5)
    assert offsets_um == pytest.approx(sign * (start_um + way_um), abs=0.02)


def test_scans_count_from_where_a_plain_move_went(bench: Bench) -> None:
    places = bench.core.simulated_camera._imaging._specimen  # type: ignore[union-attr]
    places.origins_um.clear()
    bench.core.setXYPosition(70, 300)
    bench.core.waitForDevice("XY")
    bench.core.setProperty("Camera", "StartTrigger", "On")
    prepare(bench, 290, 310, 0.5)
    bench.core.startSequenceAcquisition(3, 0, True)
    run(bench)
    offsets_um = Places.read(bench.pop(3))
    bench.core.stopSequenceAcquisition()
    assert offsets_um == pytest.approx(-10 + expected_um(0.5, 3), abs=0.02)
    assert places.origins_um == {(70, 300, 0)}


def test_the_camera_waits_for_the_pulse_and_hears_a_stop(bench: Bench) -> None:
    core = bench.core
    core.setProperty("Camera", "StartTrigger", "On")
    rises = bench.board.rises("PFI0")
    core.startSequenceAcquisition(3, 0, True)
    time.sleep(0.03)
    assert core.isSequenceRunning()
    assert bench.board.rises("PFI0") == rises
    began = time.monotonic()
    core.stopSequenceAcquisition()
    assert time.monotonic() - began < 1, "it did not wait to be joined"
    assert not core.isSequenceRunning()


def test_a_pulse_at_once_is_not_missed(demo: Microscope) -> None:
    described = scanning(demo, ramp_ms=0.0)
    with on_bench(described, Places()) as bench:
        bench.trigger(described, by_stage=True)
        for _ in range(3):
            bench.core.startSequenceAcquisition(1, 0, True)
            run(bench)
            assert len(bench.pop(1)) == 1
            bench.core.stopSequenceAcquisition()


def test_a_scan_halted_before_its_pulse_starts_no_camera(bench: Bench) -> None:
    core = bench.core
    core.setProperty("XY", "ScanSettlingTime(ms)", 60)
    core.setProperty("Camera", "StartTrigger", "On")
    prepare(bench, 5, 10, 0.5)
    rises = bench.board.rises("PFI0")
    core.startSequenceAcquisition(1, 0, True)
    run(bench)
    time.sleep(0.02)
    core.stop("XY")
    time.sleep(0.1)
    assert bench.board.rises("PFI0") == rises
    core.setProperty("XY", "ScanSettlingTime(ms)", 0)
    run(bench)
    offsets_um = Places.read(bench.pop(1))
    core.stopSequenceAcquisition()
    assert offsets_um == pytest.approx(5 + expected_um(0.5, 1), abs=0.02)
