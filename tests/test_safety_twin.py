"""Light off on every way out: what only the twin's own time and calls can show.

Each row of the table in ``docs/safety.md`` that is not in ``test_safety`` is here.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymmcore_plus.mda import RunState

from opm_engine import DaqError, OMEZarrWriter, Scope, ThreadRelay
from opm_engine import supervisor as supervisor_module
from opm_engine.accounts import FrameAccountError
from opm_engine.supervisor import SafetyError
from opm_engine.writers.reading import read_flags
from sequences import scan
from twins import Collect, opened, read

SHORT = scan()
LONG = scan(time_plan={"interval": 0, "loops": 500})
N_SHORT = 10
PERIOD_S = 6e-3
"""Frame period of these scans, rounded up."""
MARGIN_S = 0.05
LASERS = ("port0/line0", "port0/line1")
ENABLE = "port1/line1"
PARK_V = 0.25

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def shared_scope() -> Iterator[Scope]:
    """One for all: each run must leave it fit for the next."""
    with opened(daq__galvo__park_v=PARK_V) as scope:
        yield scope


@pytest.fixture
def scope(shared_scope: Scope) -> Iterator[Scope]:
    yield shared_scope
    shared_scope.twin.board.edge_filter = None
    shared_scope.core.simulated_camera.stall_after = None


@contextmanager
def finishing(scope: Scope, times: int = 1) -> Iterator[None]:
    """Within, the end of a run is announced so often; then all is as it should be."""
    finished = []
    scope.core.mda.events.sequenceFinished.connect(finished.append)
    try:
        yield
    finally:
        scope.core.mda.events.sequenceFinished.disconnect(finished.append)
    assert len(finished) == times
    assert scope.core.mda.status.phase is RunState.IDLE
    assert_dark(scope)


def assert_dark(scope: Scope) -> None:
    board = scope.twin.board
    assert [line for line in (*LASERS, ENABLE) if board.line(line)] == []
    assert board.volts("ao0") == PARK_V
    assert board.open_tasks() == []
    assert not scope.core.isSequenceRunning()


def assert_runs(scope: Scope) -> None:
    collect = Collect()
    relay = ThreadRelay(collect)
    with finishing(scope), relay.connected(scope.core.mda):
        scope.core.mda.run(SHORT)
    assert len(collect.images) == N_SHORT


@contextmanager
def at_frame(scope: Scope, number: int, what: Callable[[], Any]) -> Iterator[None]:
    """Within, something happens in the runner's thread at a frame, from 1."""
    frames = itertools.count(1)

    def handler(image, event, meta):
        if next(frames) == number:
            what()

    scope.core.mda.events.frameReady.connect(handler)
    try:
        yield
    finally:
        scope.core.mda.events.frameReady.disconnect(handler)


def dark_since_s(scope: Scope) -> float:
    """Simulated time at which the last light went off."""
    board, now_s = scope.twin.board, scope.twin.clock.now()
    traces = [board.digital_trace(x, now_s - 9, now_s) for x in (*LASERS, ENABLE)]
    times_s = np.unique(np.concatenate([times_s for times_s, _ in traces]))
    first, second, enable = (
        levels[np.searchsorted(changes_s, times_s, side="right") - 1]
        for changes_s, levels in traces
    )
    light = (first | second) & enable
    assert light.any()
    assert not light[-1]
    return float(times_s[np.flatnonzero(light)[-1] + 1])


def last_change_s(scope: Scope, line: str) -> float:
    board, now_s = scope.twin.board, scope.twin.clock.now()
    return float(board.digital_trace(line, now_s - 9, now_s)[0][-1])


def within(limit_s: float, measure: Callable[[], float], tries: int = 4) -> None:
    """Another process may take the machine for a while; not every time."""
    measured_s = []
    for _ in range(tries):
        measured_s.append(measure())
        if measured_s[-1] <= limit_s:
            return
    pytest.fail(f"{measured_s} s, not within {limit_s} s")


# --------------------------------------------------------------------- within what time


class Unplugged:
    """The cable from the camera, cut after so many edges."""

    def __init__(self, scope: Scope, after: int) -> None:
        self.clock, self.after, self.seen, self.last_s = scope.twin.clock, after, 0, 0.0
        self.board = scope.twin.board

    def __enter__(self) -> Unplugged:
        self.board.edge_filter = self
        return self

    def __exit__(self, *_: object) -> None:
        self.board.edge_filter = None

    def __call__(self, level: bool, time_s: float) -> int:
        self.seen += 1
        if self.seen <= self.after:
            self.last_s = time_s
            return 1
        return 0


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(1, id="first"),
        pytest.param(41, id="mid-exposure"),
        pytest.param(42, id="between"),
    ],
)
def test_edges_that_stop(after: int, scope: Scope) -> None:
    def measure() -> float:
        cable = Unplugged(scope, after)
        with (
            finishing(scope),
            cable,
            pytest.raises((SafetyError, FrameAccountError), match="exposures"),
        ):
            scope.core.mda.run(LONG)
        return dark_since_s(scope) - cable.last_s

    within(2 * PERIOD_S + MARGIN_S, measure)
    assert_runs(scope)


def test_a_camera_that_stalls(scope: Scope) -> None:
    """In an exposure, so that light stays on, and no frame tells of it."""
    camera = scope.core.simulated_camera

    def measure() -> float:
        camera.stall_after, cable = 30, Unplugged(scope, 59)
        with (
            finishing(scope),
            cable,
            pytest.raises((SafetyError, FrameAccountError), match="exposures"),
        ):
            scope.core.mda.run(LONG)
        camera.stall_after = None
        if scope.engine.supervisor.reason is None:
            return math.inf  # the frame loop compared just then, and was faster
        return dark_since_s(scope) - cable.last_s

    within(2 * PERIOD_S + MARGIN_S, measure, tries=6)
    assert_runs(scope)


@pytest.mark.slow
def test_cancel(scope: Scope) -> None:
    """Light off, then the galvo parked, and the camera stopped; handlers may dawdle."""
    board, cancelled_s = scope.twin.board, []

    def cancel() -> None:
        cancelled_s.append(scope.twin.clock.now())
        scope.core.mda.cancel()
        time.sleep(0.3)

    def measure() -> float:
        with finishing(scope), at_frame(scope, 30, cancel):
            scope.core.mda.run(LONG)
        times_s, volts = board.analog_trace("ao0", cancelled_s[-1], board._latest_s)
        parked = np.flatnonzero(np.diff(volts, prepend=volts[0]))[-1]
        assert times_s[parked] >= last_change_s(scope, LASERS[0])
        assert np.abs(np.diff(volts)).max() < 0.5, "it jumped"
        latest_s = max(dark_since_s(scope), last_change_s(scope, "PFI0"))
        return latest_s - cancelled_s[-1]

    within(PERIOD_S + MARGIN_S, measure)
    assert scope.engine.accounts.lost == 0
    assert_runs(scope)


@pytest.mark.parametrize("blocked", [False, True], ids=["cancel", "handler-blocks"])
def test_dark_without_another_thread(
    blocked: bool, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The camera is stopped beside the parking, if there is a thread for it."""
    start, refused, freed = threading.Thread.start, [], threading.Event()

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("camera"):
            refused.append(scope.engine.daq.light_possible)
            raise RuntimeError("can't start new thread")
        start(thread)

    def act() -> None:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        if blocked:
            threading.Thread(target=wait_for_darkness, args=(scope, freed)).start()
            freed.wait(10)
        else:
            scope.core.mda.cancel()

    monkeypatch.setattr(supervisor_module, "PATIENCE_S", 0.3)
    with finishing(scope), at_frame(scope, 30, act), blamed(blocked):
        scope.core.mda.run(LONG)
    assert refused == [False]  # and it is asked for in the dark only
    monkeypatch.undo()
    assert_runs(scope)


def blamed(blocked: bool) -> AbstractContextManager[object]:
    if blocked:
        return pytest.raises(SafetyError, match="has blocked the run")
    return nullcontext()


def wait_for_darkness(scope: Scope, then: threading.Event) -> None:
    while scope.core.isSequenceRunning():
        time.sleep(0.01)
    then.set()


def test_cancel_while_it_is_armed(scope: Scope) -> None:
    """Nothing was acquired then, and nothing is wrong."""
    for delay_s in (0, 0.005, 0.01, 0.02, 0.04):
        canceller = threading.Thread(target=cancel_at_arming, args=(scope, delay_s))
        canceller.start()
        with finishing(scope):
            scope.core.mda.run(LONG)
        canceller.join()
    assert_runs(scope)


def cancel_at_arming(scope: Scope, delay_s: float) -> None:
    while not scope.twin.board.open_tasks():
        time.sleep(0.001)
    time.sleep(delay_s)
    scope.core.mda.cancel()


# ------------------------------------------------------------- nothing wrong unnoticed


@pytest.mark.parametrize(
    "exposure",
    [
        16,
        pytest.param(12, marks=pytest.mark.slow),
        pytest.param(21, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "times", [pytest.param(0, id="missing"), pytest.param(2, id="extra")]
)
def test_an_edge_is(times: int, exposure: int, scope: Scope, tmp_path: Path) -> None:
    """Exposures 1-10 are the first volume, 11 flyback, 12-21 the second volume."""
    edges = itertools.count(2)
    scope.twin.board.edge_filter = lambda level, time_s: (
        times if next(edges) // 2 == exposure else 1
    )
    collect = Collect()
    relay = ThreadRelay(collect, OMEZarrWriter(tmp_path / "x.ome.zarr"))
    found = rf"exposure {exposure}\b.* of \d+ (came|lasted)"
    message = rf"{found}|{exposure - 1} planned exposures"
    with (
        finishing(scope),
        relay.connected(scope.core.mda),
        pytest.raises(FrameAccountError, match=message),
    ):
        scope.core.mda.run(LONG)
    times_seen = {event.index["t"] for event in collect.events}
    assert times_seen <= {0, 1}
    (flag,) = read_flags(tmp_path / "x.ome.zarr")
    assert flag.index["t"] == 1
    assert read(tmp_path / "x.ome.zarr")[0].any()
    scope.twin.board.edge_filter = None
    assert_runs(scope)


# ------------------------------------------------------------------- each single call


def calls_of_a_run(scope: Scope) -> list[tuple[str, int]]:
    board, turns = scope.twin.board, Counter[str]()
    board.calls.clear()
    assert_runs(scope)
    calls = []
    for rpc in board.calls:
        calls.append((rpc, turns[rpc]))
        turns[rpc] += 1
    return calls


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "every",
    [
        pytest.param(15, id="some"),
        pytest.param(1, id="each", marks=pytest.mark.slow),
    ],
)
def test_a_board_error_at_each_single_call(
    every: int, scope: Scope, caplog: pytest.LogCaptureFixture
) -> None:
    """Raised; only where all was dark already, at the very end, it is but logged."""
    board = scope.twin.board
    calls = calls_of_a_run(scope)
    assert len(calls) > 100
    for rpc, turn in calls[::every]:
        board.fail(rpc, -50405, after=turn)
        error = ""
        with finishing(scope):
            try:
                scope.core.mda.run(SHORT)
            except (DaqError, SafetyError) as problem:
                error = str(problem)
        struck = not any(board._faults.get(rpc, ()))
        board._faults.clear()
        told = "-50405" in error + caplog.text or rpc == "GetSystemInfoAttributeUInt32"
        assert told or not struck, (rpc, turn)
        caplog.clear()
        assert_runs(scope)


# ----------------------------------------------------------------------- the supervisor


def breaks() -> None:
    raise ValueError("out of order")


def test_a_supervisor_that_fails_goes_dark(scope: Scope) -> None:
    supervisor = scope.engine.supervisor
    attend = supervisor.attend

    def fail() -> None:
        supervisor.attend = breaks

    with (
        finishing(scope),
        at_frame(scope, 20, fail),
        pytest.raises(SafetyError, match="supervisor failed: ValueError: out of order"),
    ):
        scope.core.mda.run(LONG)
    supervisor.attend = attend
    assert_runs(scope)


def test_a_camera_that_does_not_even_stop(scope: Scope) -> None:
    supervisor, camera = scope.engine.supervisor, scope.core.simulated_camera
    stop, supervisor._stop_camera = supervisor._stop_camera, breaks
    camera.stall_after = 20
    with (
        finishing(scope),
        pytest.raises(SafetyError, match=r"stopped after 20.*and then: out of order"),
    ):
        scope.core.mda.run(LONG)
    camera.stall_after, supervisor._stop_camera = None, stop
    assert_runs(scope)


@pytest.mark.slow
def test_no_false_alarm_on_a_busy_machine() -> None:
    """Simulated time flies, and a thread of Python's own takes all it can get."""
    over = threading.Event()

    def hog() -> None:
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=hog)
    with opened(simulation__time_scale=5.0) as scope:
        thread.start()
        try:
            scope.core.mda.run(scan(time_plan={"interval": 0, "loops": 20}))
            assert scope.engine.accounts.lost == 0
        finally:
            over.set()
            thread.join()


# ------------------------------------------------------------------------- ways to run


def in_main_thread(scope: Scope, out: Path) -> None:
    scope.core.mda.run(LONG)


def in_a_worker(scope: Scope, out: Path) -> None:
    errors: list[Exception] = []

    def run() -> None:
        try:
            scope.core.mda.run(LONG)
        except SafetyError as error:
            errors.append(error)

    worker = threading.Thread(target=run)
    worker.start()
    worker.join()
    raise errors[0]


def by_acquire(scope: Scope, out: Path) -> None:
    scope.acquire(LONG, out)


def from_an_iterator(scope: Scope, out: Path) -> None:
    scope.core.mda.run(iter(scope.engine.bursts(LONG)))


@pytest.mark.parametrize(
    "run", [in_main_thread, in_a_worker, by_acquire, from_an_iterator]
)
def test_however_it_is_run(
    run: Callable[[Scope, Path], None], scope: Scope, tmp_path: Path
) -> None:
    scope.core.simulated_camera.stall_after = 20
    with finishing(scope), pytest.raises(SafetyError, match="stopped after 20"):
        run(scope, tmp_path / "out")
    scope.core.simulated_camera.stall_after = None
    assert_runs(scope)


@pytest.mark.parametrize("run", [in_main_thread, by_acquire])
def test_interrupted_in_its_own_thread(
    run: Callable[[Scope, Path], None], scope: Scope, tmp_path: Path
) -> None:
    """As a second Ctrl-C does; the runner announces no end then."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with at_frame(scope, 20, interrupt), pytest.raises(KeyboardInterrupt):
        run(scope, tmp_path / "out")
    assert_dark(scope)
    assert_runs(scope)


def test_a_second_run_harms_nobody(scope: Scope, tmp_path: Path) -> None:
    """The first keeps its file, and can be cancelled."""
    mda, frames = scope.core.mda, []
    mda.events.frameReady.connect(lambda *frame: frames.append(frame))
    with finishing(scope):
        path = tmp_path / "x.ome.zarr"
        first = threading.Thread(target=mda.run, args=(LONG,), kwargs={"output": path})
        first.start()
        while len(frames) < 20:
            time.sleep(0.005)
        with pytest.raises(RuntimeError, match="in progress"):
            mda.run(SHORT)
        seen = len(frames)
        mda.cancel()
        first.join(10)
        assert not first.is_alive()
    assert len(frames) < seen + 100
    assert read(path)[0].any()
    assert_runs(scope)


@pytest.mark.parametrize("run", ["scan", "snap"])
def test_a_first_edge_that_is_missed_turns_nothing_round(run: str) -> None:
    """Light would come in the readout; the width of the first exposure tells."""
    with opened() as scope:
        seen = []

        def miss_first(level: bool, time_s: float) -> int:
            seen.append(level)
            return int(len(seen) > 1)

        scope.twin.board.edge_filter = miss_first
        sequence = scan(time_plan={"interval": 0, "loops": 10})
        acts = {
            "scan": lambda: scope.core.mda.run(sequence),
            "snap": lambda: scope.snap(["488"]),
        }
        with pytest.raises(FrameAccountError, match=r"exposure 1 of .* lasted"):
            acts[run]()
        scope.twin.board.edge_filter = None
        assert scope.snap(["488"])["488"].mean() > 120
