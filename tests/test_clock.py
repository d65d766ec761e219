"""Simulated time on a machine that stalls, and a clock that follows another's."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opm_engine.simulation.clock import NOTICEABLE_S, Pace, SimClock


class Wall:
    """Real seconds, made by hand."""

    def __init__(self) -> None:
        self.time_s = 1e4

    def __call__(self) -> float:
        return self.time_s


class Patient(threading.Event):
    """An event whose waits last in the time made by hand, and a bit longer."""

    def __init__(self, wall: Wall, late_s: float = 0.0) -> None:
        super().__init__()
        self.wall = wall
        self.late_s = late_s

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        assert timeout >= 0
        self.wall.time_s += timeout + self.late_s
        return self.is_set()


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.mark.parametrize("scale", [1.0, 4.0, 0.5])
def test_runs_as_fast_as_it_is_told(wall: Wall, scale: float) -> None:
    clock = SimClock(scale, wall)
    wall.time_s += 3
    assert clock.now() == pytest.approx(3 * scale)
    begun_s = wall.time_s
    assert clock.sleep_until(5 * scale, Patient(wall))
    assert wall.time_s - begun_s == pytest.approx(2)
    assert clock.now() == pytest.approx(5 * scale)


def test_never_passes_what_the_camera_has_announced(wall: Wall) -> None:
    clock = SimClock(1.0, wall)
    clock.sleep_until(1.0, Patient(wall))
    wall.time_s += 30  # the machine stalls before the camera does anything
    assert clock.now() == 1.0
    assert clock.sleep_until(1.5, Patient(wall))
    assert clock.now() == 1.5  # late, but not a moment further
    wall.time_s += 30
    clock.release()
    assert clock.now() == pytest.approx(1.5)  # goes on from there, nothing is skipped
    wall.time_s += 2
    assert clock.now() == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("late_s", "next_wait_s"), [(0.009, 0.001), (0.011, 0.01)], ids=["little", "more"]
)
def test_a_little_late_is_caught_up_more_is_not(
    wall: Wall, late_s: float, next_wait_s: float
) -> None:
    clock = SimClock(1.0, wall)
    clock.sleep_until(1.0, Patient(wall, late_s))
    assert clock.sleep_until(1.0, Patient(wall), grace_s=0.01)
    begun_s = wall.time_s
    assert clock.sleep_until(1.01, Patient(wall), grace_s=0.01)
    assert wall.time_s - begun_s == pytest.approx(next_wait_s)


@pytest.mark.parametrize("time_s", [-1.0, 1.0], ids=["late", "in time"])
def test_a_cancelled_sleep_says_so(wall: Wall, time_s: float) -> None:
    cancelled = Patient(wall)
    cancelled.set()
    assert not SimClock(1.0, wall).sleep_until(time_s, cancelled)


def test_a_cancelled_sleep_ends_at_once() -> None:
    clock, cancelled = SimClock(), threading.Event()
    threading.Timer(0.05, cancelled.set).start()
    assert not clock.sleep_until(60.0, cancelled)
    assert clock.now() < 60


def test_announces_waits_and_releases(wall: Wall) -> None:
    clock, heard = SimClock(1.0, wall), []
    clock.announce = lambda: heard.append(clock.pace())
    clock.sleep_until(1.0, Patient(wall))
    clock.sleep_until(1.0 + NOTICEABLE_S / 2, Patient(wall))
    clock.sleep_until(0.9, Patient(wall))
    clock.release()
    clock.release()
    ceilings_s = [pace.ceiling_s for pace in heard]
    assert ceilings_s == [1.0, math.inf]


def test_follows_and_never_runs_backwards(wall: Wall) -> None:
    leader, follower = SimClock(2.0, wall), SimClock(1.0, wall)
    wall.time_s += 5
    assert follower.now() == 5.0
    follower.follow(leader.pace())
    assert follower.now() == 10.0
    wall.time_s += 1
    assert follower.now() == 12.0
    follower.follow(Pace(11.0, 1.0, 12.5))
    wall.time_s += 0.5
    assert follower.now() == 12.0  # stands still until the other has caught up
    wall.time_s += 0.75
    assert follower.now() == 12.25
    wall.time_s += 10
    assert follower.now() == 12.5
    follower.release()
    wall.time_s += 1
    assert follower.now() == 13.5


STEPS = st.one_of(
    st.tuples(st.just("stall"), st.floats(0, 2)),
    st.tuples(st.just("event"), st.floats(0, 0.5)),
    st.tuples(st.just("late event"), st.floats(0, 0.5)),
    st.tuples(st.just("release"), st.just(0.0)),
)


@given(
    steps=st.lists(STEPS, max_size=30),
    scale=st.floats(0.1, 10),
    grace_s=st.floats(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_whatever_stalls_time_goes_on_and_no_event_is_passed(
    steps: list[tuple[str, float]], scale: float, grace_s: float
) -> None:
    wall = Wall()
    clock, ceiling_s, seen_s = SimClock(scale, wall), math.inf, 0.0
    for what, amount_s in steps:
        if what == "stall":
            wall.time_s += amount_s
        elif what == "release":
            ceiling_s = math.inf
            clock.release()
            assert clock.now() == pytest.approx(seen_s, abs=1e-6)
        else:
            ceiling_s = clock.now() + amount_s
            late_s = 0.1 if what == "late event" else 0.0
            clock.sleep_until(ceiling_s, Patient(wall, late_s), grace_s)
            assert clock.now() == pytest.approx(ceiling_s, abs=1e-6)
        now_s = clock.now()
        assert seen_s <= now_s <= ceiling_s
        seen_s = now_s
