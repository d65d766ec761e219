"""Relays within relays: delivery, errors, deadlines, one budget, names."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import useq

from opm_engine.relay import Branch, ThreadRelay, latest
from relaying import (
    FRAME_BYTES,
    N_FRAMES,
    ONE_EVENT,
    PATIENCE_S,
    SHAPE,
    NumberedFrames,
    Recorder,
    Stage,
    TellingEngine,
    Writer,
    connected_run,
    make_runner,
    relay_threads,
    wait_until,
)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert relay_threads() == []


class Display(Recorder):
    pass


def all_threads_ended():
    """Wait for threads that were given up and may go on now."""
    for thread in relay_threads():
        thread.join(PATIENCE_S)


def tree_of(*branches, stage_type=Stage, max_bytes=2**30, **limits):
    """Return raw -> (writer, stage -> branches), and the raw writer."""
    raw = Writer()
    stage = stage_type([ThreadRelay(*branches, **limits)])
    relay = ThreadRelay(
        Branch(raw, name="raw"),
        Branch(stage, name="stage"),
        max_bytes=max_bytes,
        **limits,
    )
    return relay, raw


# ---- delivery -----------------------------------------------------------------------


def test_every_stage_gets_all_and_one_end_in_every_run():
    handlers = [Writer(), Display(), Writer(), Recorder()]
    deepest = Stage([ThreadRelay(handlers[0]), handlers[1]])
    relay, raw = tree_of(deepest, handlers[2], ThreadRelay(handlers[3]))
    handlers.append(raw)
    engine = TellingEngine()
    runner = make_runner(engine)
    with relay.connected(runner):
        for n_frames in (N_FRAMES, 3):
            engine.n_frames = n_frames
            runner.run(ONE_EVENT)
            for handler in handlers:
                assert handler.numbers == list(range(n_frames))
                assert handler.calls.count("sequenceStarted") == 1
                assert handler.calls.count("sequenceFinished") == 1
                assert handler.calls[-1] == "sequenceFinished"
                handler.numbers.clear()
                handler.calls.clear()
            assert {stats.handled for stats in relay.stats} == {n_frames}


def test_many_small_runs_of_a_tree_lose_nothing():
    writer, display = Writer(), Display()
    relay, raw = tree_of(writer, latest(display), max_bytes=2 * FRAME_BYTES)
    runner = make_runner(TellingEngine())
    with relay.connected(runner):
        for number in range(1, 21):
            runner.run(ONE_EVENT)
            assert len(raw.numbers) == len(writer.numbers) == number * N_FRAMES
    assert display.calls.count("sequenceFinished") == 20


# ---- errors -------------------------------------------------------------------------


@pytest.mark.parametrize("fail_in", ["sequenceStarted", "frameReady", "checkSequence"])
@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
def test_error_below_is_raised_and_all_are_closed(fail_in, told, caplog):
    class Refusing(Recorder):
        def checkSequence(self, sequence, summary):
            self._called("checkSequence")

    bad, good = Refusing(fail_in), Writer()
    relay, raw = tree_of(Branch(bad, name="bad"), good, max_bytes=8 * FRAME_BYTES)
    engine = (TellingEngine if told else NumberedFrames)(2000)
    with (
        caplog.at_level(logging.WARNING, "opm_engine"),
        pytest.raises(ValueError, match="disk on fire") as leaving,
    ):
        connected_run(make_runner(engine), relay)
    assert leaving.value is bad.error is relay.error
    assert [note.split()[2] for note in bad.error.__notes__] == ["'bad'", "'stage'"]
    assert "disk on fire" not in caplog.text  # raised: not shown as well
    assert engine.n_yielded < 2000
    if fail_in != "frameReady":
        assert engine.n_yielded == 0
    for handler in (bad, good, raw):
        began = handler.calls.count("sequenceStarted")
        assert began == (0 if fail_in == "checkSequence" else 1)
        assert handler.calls.count("sequenceFinished") == began
    bad.fail_in = ""
    bad.numbers.clear()
    engine.n_frames = N_FRAMES
    connected_run(make_runner(engine), relay)
    assert bad.numbers == list(range(N_FRAMES))


def test_error_below_is_known_though_its_stage_is_not_called_again():
    class Late(Recorder):
        def frameReady(self, image, event, meta):
            assert gate.wait(PATIENCE_S)
            raise self.error

    gate, bad = threading.Event(), Late()
    relay, _ = tree_of(bad)
    image, event = np.zeros(SHAPE, np.uint16), useq.MDAEvent(index={"t": 0})
    relay.sequenceStarted(ONE_EVENT, {})
    relay.frameReady(image, event, {"n": 0})
    wait_until(lambda: relay.stats[1].handled == 1)  # the stage has handed it on
    gate.set()
    wait_until(lambda: relay.error is bad.error)
    with pytest.raises(ValueError, match="disk on fire"):
        relay.raise_if_failed()
    relay.sequenceFinished(ONE_EVENT)


@pytest.mark.parametrize(
    "dress", [lambda bad: latest(bad), lambda bad: latest(ThreadRelay(bad))]
)
def test_error_below_a_latest_branch_stops_nothing(dress, caplog):
    bad = Display("frameReady", fail_at=0)
    relay, raw = tree_of(dress(bad))
    connected_run(make_runner(TellingEngine()), relay)
    assert raw.numbers == list(range(N_FRAMES))
    assert relay.error is None
    assert "disk on fire" in caplog.text
    assert bad.calls[-1] == "sequenceFinished"


@pytest.mark.parametrize("fail_in", ["sequenceStarted", "frameReady"])
def test_stage_that_does_not_end_its_outputs_has_them_ended(fail_in):
    class Careless(Stage):
        def frameReady(self, image, event, meta):
            super().frameReady(image, event, meta)
            if fail_in == "frameReady":
                raise ValueError("disk on fire")

        def sequenceStarted(self, sequence, summary):
            super().sequenceStarted(sequence, summary)
            if fail_in == "sequenceStarted":
                raise ValueError("disk on fire")

        def sequenceFinished(self, sequence):
            raise RuntimeError("and the ladder is gone")

    writer = Writer()
    relay, _ = tree_of(writer, stage_type=Careless)
    with pytest.raises(ValueError, match="disk on fire"):
        connected_run(make_runner(), relay)
    assert writer.calls[0] == "sequenceStarted"
    assert writer.calls.count("sequenceFinished") == 1


# ---- deadlines ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "hang_in", ["sequenceStarted", "frameReady", "sequenceFinished"]
)
def test_who_hangs_below_is_named_and_nobody_else(hang_in, caplog):
    gate = threading.Event()
    stuck, good = Writer(gate=gate, gate_in=hang_in), Recorder()
    relay, raw = tree_of(
        Branch(stuck, name="stuck"),
        good,
        start_timeout_s=0.2,
        drain_timeout_s=0.2,
        max_bytes=2 * FRAME_BYTES,
    )
    runner = make_runner(TellingEngine())
    try:
        with pytest.raises(TimeoutError, match=f"'stuck' hangs: {hang_in}"):
            connected_run(runner, relay)
        assert "'stage' hangs" not in caplog.text
        assert good.calls[-1] == raw.calls[-1] == "sequenceFinished"
        with pytest.raises(RuntimeError, match="'stuck' still hangs"):
            connected_run(runner, relay)
    finally:
        gate.set()
        all_threads_ended()
    assert stuck.calls.count("sequenceFinished") == 1
    stuck.numbers.clear()
    connected_run(runner, relay)
    assert stuck.numbers == list(range(N_FRAMES))


@pytest.mark.parametrize("hang_in", ["sequenceStarted", "frameReady"])
@pytest.mark.parametrize("adopted", ["at once", "later"])
def test_deadlines_of_the_outermost_relay_count_two_levels_down(hang_in, adopted):
    gate = threading.Event()
    stuck = Writer(gate=gate, gate_in=hang_in)
    inner = Stage([ThreadRelay(Branch(stuck, name="stuck"))])  # 60 s of its own
    outer = Stage([ThreadRelay(inner, drain_timeout_s=PATIENCE_S)])
    top = Stage([outer] if adopted == "at once" else [])
    relay = ThreadRelay(top, start_timeout_s=0.2, drain_timeout_s=0.2)
    top.outputs = (outer,)
    began_s = time.monotonic()
    try:
        with pytest.raises(TimeoutError, match=f"'stuck' hangs: {hang_in}.* 0.2 s"):
            connected_run(make_runner(TellingEngine()), relay)
        assert time.monotonic() - began_s < PATIENCE_S / 2
    finally:
        gate.set()
        all_threads_ended()


def test_stage_that_hangs_itself_is_named_and_its_outputs_are_closed():
    class Stuck(Stage):
        def frameReady(self, image, event, meta):
            assert gate.wait(PATIENCE_S)

    gate, writer = threading.Event(), Writer()
    relay, raw = tree_of(writer, stage_type=Stuck, drain_timeout_s=0.2)
    with pytest.raises(TimeoutError, match="'stage' hangs: frameReady"):
        connected_run(make_runner(TellingEngine()), relay)
    assert writer.calls == ["sequenceStarted", "sequenceFinished"]
    assert raw.numbers == list(range(N_FRAMES))
    gate.set()
    all_threads_ended()
    assert writer.calls == ["sequenceStarted", "sequenceFinished"]


def test_slow_handler_below_is_waited_for_beyond_the_deadline():
    class Slow(Recorder):
        def frameReady(self, image, event, meta):
            super().frameReady(image, event, meta)
            threading.Event().wait(0.02)  # 0.8 s in all, each well within 0.3 s

    slow = Slow()
    relay, _ = tree_of(slow, drain_timeout_s=0.3)
    connected_run(make_runner(TellingEngine()), relay)
    assert slow.numbers == list(range(N_FRAMES))


# ---- one budget ---------------------------------------------------------------------


def one_frame(number):
    image = np.full(SHAPE, number, np.uint16)
    return image, useq.MDAEvent(index={"t": number}), {"n": number}


@pytest.fixture
def stuck_tree():
    """A tree whose three writers are stuck in their first frame."""
    gate = threading.Event()
    stuck = [Writer(gate=gate, gate_in="frameReady") for _ in range(3)]
    relay = ThreadRelay(
        Branch(stuck[0], name="raw"),
        Stage([ThreadRelay(Branch(stuck[1], name="below"))]),
        ThreadRelay(Branch(stuck[2], name="beside")),
        max_bytes=4 * FRAME_BYTES,
        drain_timeout_s=0.3,
    )
    relay.sequenceStarted(ONE_EVENT, {})
    relay.frameReady(*one_frame(0))
    wait_until(lambda: all("frameReady" in writer.calls for writer in stuck))
    yield relay
    gate.set()
    relay.sequenceFinished(ONE_EVENT)
    all_threads_ended()
    assert relay.waiting_bytes == 0


def test_array_that_waits_in_several_lanes_counts_once(stuck_tree):
    relay = stuck_tree
    for number in range(1, 5):  # as many as there is room for: none of these waits
        relay.frameReady(*one_frame(number))
    paths = "raw", "Stage/below", "ThreadRelay/beside"

    def waiting():
        stats = {stats.name: stats for stats in relay.stats}
        return [stats[path].backlog_frames for path in paths]

    wait_until(lambda: waiting() == [4, 4, 4])
    assert relay.waiting_bytes == 4 * FRAME_BYTES
    assert relay.error is None
    relay.frameReady(*one_frame(5))  # waits, and for too long
    assert isinstance(relay.error, TimeoutError)


class Copies(Stage):
    """Hands on new arrays, as a deskew does."""

    def frameReady(self, image, event, meta):
        super().frameReady(image.copy(), event, meta)


def test_tree_with_no_room_for_two_frames_still_moves_on():
    """Frames that wait above may use up the budget that those below need."""
    writers = [Writer(), Writer()]
    deeper = Copies([ThreadRelay(writers[1])])
    relay, raw = tree_of(writers[0], deeper, stage_type=Copies, max_bytes=1)
    connected_run(make_runner(TellingEngine()), relay)
    for writer in (raw, *writers):
        assert writer.numbers == list(range(N_FRAMES))


def test_budget_is_kept_by_the_tree_together():
    seen = []

    class Slow(Recorder):
        def frameReady(self, image, event, meta):
            threading.Event().wait(0.002)
            seen.append(relay.waiting_bytes)
            super().frameReady(image, event, meta)

    n_branches = 3
    relay, _ = tree_of(Slow(), Copies([ThreadRelay(Slow())]), max_bytes=6 * FRAME_BYTES)
    connected_run(make_runner(TellingEngine()), relay)
    assert max(seen) > FRAME_BYTES
    # where nothing waits one frame may, whatever waits elsewhere
    assert max(seen) <= (6 + n_branches) * FRAME_BYTES


def test_branch_may_have_a_limit_of_its_own():
    gate = threading.Event()
    stuck = Writer(gate=gate, gate_in="frameReady")
    relay = ThreadRelay(Branch(stuck, max_bytes=2 * FRAME_BYTES), drain_timeout_s=0.2)
    relay.sequenceStarted(ONE_EVENT, {})
    relay.frameReady(*one_frame(0))
    wait_until(lambda: "frameReady" in stuck.calls)
    for number in (1, 2):
        relay.frameReady(*one_frame(number))
    assert relay.error is None
    relay.frameReady(*one_frame(3))  # waits, and for too long
    assert isinstance(relay.error, TimeoutError)
    gate.set()
    relay.sequenceFinished(ONE_EVENT)
    all_threads_ended()


def test_stuck_display_takes_no_room_from_those_that_must_not_lose():
    gates = [threading.Event(), threading.Event()]
    display = Display(gate=gates[0], gate_in="frameReady")
    writer = Writer()
    relay = ThreadRelay(
        writer,
        Copies([ThreadRelay(latest(display, max_bytes=3 * FRAME_BYTES))]),
        max_bytes=5 * FRAME_BYTES,
        drain_timeout_s=0.3,
    )

    def n_waiting():
        return relay.stats[2].backlog_frames

    relay.sequenceStarted(ONE_EVENT, {})
    relay.frameReady(*one_frame(0))
    wait_until(lambda: "frameReady" in display.calls)
    for number in (1, 2, 3):  # most of the room, in the display's queue
        relay.frameReady(*one_frame(number))
        wait_until(lambda n=number: (len(writer.numbers), n_waiting()) == (n + 1, n))
    assert relay.waiting_bytes == 3 * FRAME_BYTES
    writer.gate, writer.gate_in = gates[1], "frameReady"
    relay.frameReady(*one_frame(4))
    wait_until(lambda: len(writer.calls) == 1 + 5)
    for number in range(5, 10):  # the writer still has it all: none of these waits
        relay.frameReady(*one_frame(number))
    assert relay.error is None
    for gate in gates:
        gate.set()
    relay.sequenceFinished(ONE_EVENT)
    assert writer.numbers == list(range(10))
    assert display.numbers[-1] == 9
    assert relay.stats[2].received == relay.stats[2].handled + relay.stats[2].dropped


# ---- names and places ---------------------------------------------------------------


def test_stages_are_found_by_name():
    writer, display, plain = Writer(), Display(), Recorder()
    stage = Stage([ThreadRelay(writer, latest(display, "view")), plain])
    raw = Writer()
    relay = ThreadRelay(Branch(raw, name="raw"), Branch(stage, name="deskew"))
    assert [stats.name for stats in relay.stats] == [
        "raw",
        "deskew",
        "deskew/Writer",
        "deskew/view",
    ]
    assert [stats.depth for stats in relay.stats] == [0, 0, 1, 1]
    for name, handler in {
        "raw": raw,
        "deskew": stage,
        "deskew/Writer": writer,
        "Writer": writer,
        "view": display,
        "Recorder": plain,
    }.items():
        assert relay.stage(name) is handler
    with pytest.raises(KeyError, match=r"'nothing'; there are 'raw', 'deskew', 'desk"):
        relay.stage("nothing")


def test_name_that_two_stages_have_is_refused():
    relay = ThreadRelay(
        Branch(Stage([ThreadRelay(Writer())]), name="a"),
        Branch(Stage([ThreadRelay(Writer()), ThreadRelay(Writer())]), name="b"),
    )
    assert relay.stats[-1].name == "b/Writer 2"
    names = "'a/Writer', 'b/Writer'"
    with pytest.raises(KeyError, match=f"more than one.*{names}"):
        relay.stage("Writer")


def test_relay_is_in_one_place_only():
    fork, handler = ThreadRelay(Writer()), Writer()
    first = ThreadRelay(Stage([fork]))
    with pytest.raises(ValueError, match="part of another"):
        ThreadRelay(Stage([fork]))
    with pytest.raises(ValueError, match="given twice"):
        ThreadRelay(handler, Stage([ThreadRelay(handler)]))
    with (
        pytest.raises(RuntimeError, match="connect that one"),
        fork.connected(make_runner()),
    ):
        pass
    own = ThreadRelay(Recorder())
    with (
        own.connected(make_runner()),
        pytest.raises(ValueError, match="connected to a runner"),
    ):
        ThreadRelay(Stage([own]))
    connected_run(make_runner(), first)


def test_relay_added_to_a_stage_later_belongs_to_the_tree():
    stage = Stage()
    relay = ThreadRelay(stage, max_bytes=4 * FRAME_BYTES)
    bad = Recorder("frameReady")
    stage.add_output(ThreadRelay(bad))
    with pytest.raises(ValueError, match="disk on fire"):
        connected_run(make_runner(TellingEngine(2000)), relay)
    assert relay.error is bad.error
    stage.add_output(stage)  # itself
    with pytest.raises(ValueError, match="given twice"):
        connected_run(make_runner(TellingEngine()), relay)


def test_branches_are_added_between_runs_only():
    writer, added = Writer(), Writer()
    relay = ThreadRelay(writer)
    relay.sequenceStarted(ONE_EVENT, {})
    with pytest.raises(RuntimeError, match="a run goes on"):
        relay.add_output(added)
    relay.sequenceFinished(ONE_EVENT)
    relay.add_output(added)
    with pytest.raises(ValueError, match="given twice"):
        relay.add_output(Stage([added]))
    connected_run(make_runner(), relay)
    assert added.numbers == writer.numbers == list(range(N_FRAMES))
    assert [branch.name for branch in relay.branches] == ["Writer", "Writer 2"]


def test_name_without_a_slash():
    with pytest.raises(ValueError, match="must not contain '/'"):
        Branch(Writer(), name="a/b")
