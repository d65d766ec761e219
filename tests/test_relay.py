"""The relay under the real `MDARunner`, driven by small engines as a user may write."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pymmcore
import pytest
import useq
from pymmcore_plus import CMMCorePlus
from pymmcore_plus.mda import MDARunner, mda_listeners_connected

from opm_engine.relay import Branch, ThreadRelay, latest
from relaying import (
    FRAME_BYTES,
    N_FRAMES,
    ONE_EVENT,
    PATIENCE_S,
    SHAPE,
    NumberedFrames,
    Recorder,
    TellingEngine,
    Writer,
    connected_run,
    make_runner,
    opened_late,
    relay_threads,
)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert relay_threads() == []


# ---- delivery -----------------------------------------------------------------------


def test_every_branch_gets_all_in_order_from_its_own_thread():
    handlers = [Recorder(), Recorder(), Writer()]
    runner, relay = make_runner(), ThreadRelay(*handlers)
    with relay.connected(runner) as same:
        assert same is relay
        runner.run(ONE_EVENT)
        for handler in handlers:  # closed when `run` returns
            assert handler.numbers == list(range(N_FRAMES))
            assert handler.calls[0] == "sequenceStarted"
            assert handler.calls[-1] == "sequenceFinished"
            assert len(handler.calls) == N_FRAMES + 2
            assert handler.summary["extra"] == {"who": "NumberedFrames"}
        assert relay_threads() == []
    assert [stats.name for stats in relay.stats] == ["Recorder", "Recorder 2", "Writer"]
    assert len(set.union(*(handler.threads for handler in handlers))) == 3
    assert all(stats.handled == N_FRAMES for stats in relay.stats)


def test_many_runs_in_one_connection():
    handler, engine = Recorder(), TellingEngine()
    runner, relay = make_runner(engine), ThreadRelay(handler)
    with relay.connected(runner):
        for n_frames in (3, 0, 5):
            engine.n_frames = n_frames
            runner.run(ONE_EVENT)
            assert relay.stats[0].received == relay.stats[0].handled == n_frames
    assert handler.numbers == [0, 1, 2, 0, 1, 2, 3, 4]
    assert handler.calls.count("sequenceFinished") == 3
    assert engine.relay is None
    runner.run(ONE_EVENT)  # disconnected
    assert len(handler.numbers) == 8


def test_slow_lossless_branch_pushes_back_and_loses_nothing():
    full = threading.Event()
    backlog: list[tuple[int, int]] = []

    class Slow(Recorder):
        def frameReady(self, image, event, meta):
            if meta["n"] == 0:
                assert full.wait(PATIENCE_S)
            backlog.append(
                (relay.stats[0].backlog_frames, relay.stats[0].backlog_bytes)
            )
            super().frameReady(image, event, meta)

    class Watched(NumberedFrames):
        def exec_event(self, event):
            for payload in super().exec_event(event):
                if self.n_yielded == 1 + 4:  # one in hand, three wait, one more comes
                    full.set()
                yield payload

    handler = Slow()
    relay, engine = ThreadRelay(handler, max_bytes=3 * FRAME_BYTES), Watched()
    connected_run(make_runner(engine), relay)
    assert handler.numbers == list(range(N_FRAMES))
    assert max(backlog) == (3, 3 * FRAME_BYTES)


def test_frame_larger_than_the_limit_is_accepted_alone():
    handler = Recorder()
    relay = ThreadRelay(handler, max_bytes=1)
    connected_run(make_runner(), relay)
    assert handler.numbers == list(range(N_FRAMES))


@pytest.mark.parametrize(
    ("n_waiting", "expected"), [(0, [0, 39]), (3, [0, 37, 38, 39])]
)
def test_latest_drops_old_frames_whole(n_waiting, expected):
    gate, in_hand = threading.Event(), threading.Event()

    class Display(Recorder):
        def frameReady(self, image, event, meta):
            in_hand.set()
            assert gate.wait(PATIENCE_S)
            super().frameReady(image, event, meta)

    class Watched(NumberedFrames):
        def exec_event(self, event):
            for payload in super().exec_event(event):
                if self.n_yielded == 2:  # the first is in the display's hands
                    assert in_hand.wait(PATIENCE_S)
                yield payload
            gate.set()

    display, writer = Display(), Recorder()
    relay = ThreadRelay(writer, latest(display, max_bytes=n_waiting * FRAME_BYTES))
    connected_run(make_runner(Watched()), relay)
    assert display.numbers == expected
    assert writer.numbers == list(range(N_FRAMES))
    stats = relay.stats[1]
    assert (stats.received, stats.handled) == (N_FRAMES, len(expected))
    assert stats.dropped == N_FRAMES - len(expected)
    assert (stats.backlog_frames, stats.backlog_bytes) == (0, 0)
    assert stats.latency_ms > 0


def test_handlers_may_take_fewer_arguments_and_lack_methods():
    seen = []

    class Nothing:
        def frameReady(self):
            seen.append("frame")

    class ImageOnly:
        def frameReady(self, image):
            seen.append(image.shape)

    class TwoAndStart:
        def sequenceStarted(self, sequence):
            seen.append("start")

        def frameReady(self, image, event, more=None):
            seen.append(event.index["t"])

    class OnlyFinish:
        def sequenceFinished(self, *args):
            seen.append(len(args))

    relay = ThreadRelay(Nothing(), ImageOnly(), TwoAndStart(), OnlyFinish())
    connected_run(make_runner(NumberedFrames(1)), relay)
    assert sorted(map(str, seen)) == sorted(["frame", str(SHAPE), "start", "0", "1"])


def test_no_branch_can_spoil_the_data_of_another():
    class Greedy:
        def sequenceStarted(self, sequence, summary):
            summary.clear()

        def frameReady(self, image, event, meta):
            meta.clear()
            with pytest.raises(ValueError, match="read-only"):
                image[...] = 7

    class Keeping(NumberedFrames):
        def exec_event(self, event):
            for payload in super().exec_event(event):
                kept.append(payload[0])
                yield payload

    kept: list[np.ndarray] = []
    handler = Recorder()
    connected_run(make_runner(Keeping()), ThreadRelay(Greedy(), handler))
    assert handler.numbers == list(range(N_FRAMES))
    assert handler.summary == {"extra": {"who": "NumberedFrames"}}
    assert all(image.flags.writeable for image in kept)  # the engine's own stay so


# ---- errors -------------------------------------------------------------------------

ERRORS = ["sequenceStarted", "frameReady", "sequenceFinished"]


@pytest.mark.parametrize("fail_in", ERRORS)
@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
def test_error_of_a_lossless_branch_is_raised(fail_in, told, caplog):
    caplog.set_level(logging.WARNING, "opm_engine")
    bad, good = Recorder(fail_in), Recorder()
    engine = TellingEngine(2000) if told else NumberedFrames(2000)
    if fail_in == "sequenceFinished":
        engine.n_frames = N_FRAMES
    runner, relay = make_runner(engine), ThreadRelay(bad, good, max_bytes=8192)
    raised_by_run = None

    def run():
        nonlocal raised_by_run
        with relay.connected(runner):
            try:
                runner.run(ONE_EVENT)
            except ValueError as error:
                raised_by_run = error
                raise

    with pytest.raises(ValueError, match="disk on fire") as leaving:
        run()
    assert leaving.value is bad.error is relay.error is relay.stats[0].error
    assert "disk on fire" not in caplog.text  # raised: not shown twice
    assert "'Recorder'" in bad.error.__notes__[0]
    assert (raised_by_run is bad.error) == (told and fail_in != "sequenceFinished")
    if fail_in == "sequenceStarted":
        assert engine.n_yielded == 0  # before anything was armed
    if fail_in == "frameReady":
        assert bad.numbers == list(range(10))
        assert engine.n_yielded < 2000
    # the other branch is whole, and both could close
    assert good.numbers == list(range(relay.stats[1].received))
    assert relay.stats[1].received >= len(bad.numbers)
    assert good.calls.count("sequenceFinished") == 1
    assert bad.calls.count("sequenceFinished") == 1
    for stats in relay.stats:
        assert stats.received == stats.handled + stats.dropped
    # and the next run works
    bad.fail_in, engine.n_frames = "", N_FRAMES
    bad.numbers.clear()
    connected_run(runner, relay)
    assert bad.numbers == list(range(N_FRAMES))
    assert relay.error is None


@pytest.mark.parametrize("fail_in", ERRORS)
def test_error_of_a_latest_branch_never_stops_the_run(fail_in, caplog):
    bad, good = Recorder(fail_in, fail_at=0), Recorder()
    runner, relay = make_runner(TellingEngine()), ThreadRelay(latest(bad), good)
    with caplog.at_level(logging.ERROR), relay.connected(runner):
        runner.run(ONE_EVENT)
    assert good.numbers == list(range(N_FRAMES))
    assert relay.error is None
    assert relay.stats[0].error is bad.error
    assert "disk on fire" in caplog.text
    assert bad.calls.count("sequenceFinished") == 1
    if fail_in == "frameReady":
        assert bad.calls.count("frameReady") == 1  # disabled after it
        assert relay.stats[0].dropped == N_FRAMES


def test_error_caught_in_the_block_is_not_raised_again():
    relay = ThreadRelay(Recorder("frameReady"), max_bytes=8192)
    runner = make_runner(TellingEngine(2000))
    with relay.connected(runner), pytest.raises(ValueError, match="disk on fire"):
        runner.run(ONE_EVENT)


def test_error_that_only_another_thread_saw_is_raised_on_leaving():
    relay = ThreadRelay(Recorder("frameReady"), max_bytes=8192)
    runner, seen = make_runner(TellingEngine(2000)), []

    def run_elsewhere():
        try:
            runner.run(ONE_EVENT)
        except ValueError as error:
            seen.append(error)

    def run():
        thread = threading.Thread(target=run_elsewhere)
        with relay.connected(runner):
            thread.start()
            thread.join()

    with pytest.raises(ValueError, match="disk on fire") as leaving:
        run()
    assert seen == [leaving.value]


def test_unraised_error_of_an_earlier_run_is_raised_on_leaving():
    handler = Recorder("sequenceFinished")
    runner, relay = make_runner(TellingEngine()), ThreadRelay(handler)

    def run_twice():
        with relay.connected(runner):
            runner.run(ONE_EVENT)
            handler.fail_in = ""
            runner.run(ONE_EVENT)
            assert relay.error is None

    with pytest.raises(ValueError, match="disk on fire"):
        run_twice()


def test_unraised_error_is_not_forgotten_for_a_raised_one():
    handler = Recorder("sequenceFinished", error=ValueError("first"))
    runner = make_runner(TellingEngine())
    relay = ThreadRelay(handler, max_bytes=8192)

    def run_twice():
        with relay.connected(runner):
            runner.run(ONE_EVENT)
            handler.fail_in, handler.error = "sequenceStarted", ValueError("second")
            with pytest.raises(ValueError, match="second"):
                runner.run(ONE_EVENT)

    with pytest.raises(ValueError, match="first"):
        run_twice()


def test_first_error_counts():
    first_seen = threading.Event()

    class FailsAgain(Recorder):
        def sequenceFinished(self, sequence):
            first_seen.set()
            raise RuntimeError("again")

    class FailsLater(Recorder):
        def sequenceFinished(self, sequence):
            assert first_seen.wait(PATIENCE_S)
            raise RuntimeError("later")

    bad = FailsAgain("frameReady", fail_at=0)
    relay = ThreadRelay(bad, FailsLater())
    with pytest.raises(ValueError, match="disk on fire"):
        connected_run(make_runner(NumberedFrames(1)), relay)
    assert relay.error is relay.stats[0].error is bad.error
    assert str(relay.stats[1].error) == "later"


def test_slow_refusal_is_known_before_anything_is_armed():
    class Refuses:
        def sequenceStarted(self, sequence, summary):
            threading.Event().wait(0.05)
            raise FileExistsError("raw.ome.zarr")

    engine = TellingEngine()
    with pytest.raises(FileExistsError, match="raw"):
        connected_run(make_runner(engine), ThreadRelay(Refuses()))
    assert not engine.armed


def test_cancel_is_asked_for_again_when_the_runner_lost_it():
    class Forgetful(MDARunner):
        n_asked = 0

        def cancel(self):
            self.n_asked += 1
            if self.n_asked > 1:
                super().cancel()

    runner, engine = Forgetful(), NumberedFrames(2000)
    runner.set_engine(engine)
    relay = ThreadRelay(Recorder("frameReady"), max_bytes=8192)
    with pytest.raises(ValueError, match="disk on fire"):
        connected_run(runner, relay)
    assert engine.n_yielded < 2000


def test_the_blocks_own_error_wins(caplog):
    runner, relay = make_runner(), ThreadRelay(Recorder("frameReady"))

    def run():
        with relay.connected(runner):
            runner.run(ONE_EVENT)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run()
    assert isinstance(relay.error, ValueError)
    assert "not raised: ValueError('disk on fire')" in caplog.text


def test_waiting_producer_wakes_when_the_branch_fails():
    gate, full = threading.Event(), threading.Event()

    class FailsWhenFull(Recorder):
        def frameReady(self, image, event, meta):
            assert gate.wait(PATIENCE_S)
            raise self.error

    class Watched(NumberedFrames):
        def exec_event(self, event):
            for payload in super().exec_event(event):
                if self.n_yielded == 3:  # one in hand, one waits, this must block
                    full.set()
                yield payload

    relay = ThreadRelay(FailsWhenFull(), max_bytes=1)
    with opened_late(gate, full), pytest.raises(ValueError, match="disk on fire"):
        connected_run(make_runner(Watched()), relay)
    stats = relay.stats[0]
    assert (stats.handled, stats.dropped) == (0, stats.received)


@pytest.mark.parametrize("error", [StopIteration, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("engine", [TellingEngine, NumberedFrames])
def test_error_that_would_not_pass_through_the_runner_is_a_cause(error, engine):
    bad = Recorder("frameReady", error=error("mine"))
    runner, relay = make_runner(engine(2000)), ThreadRelay(bad, max_bytes=8192)
    with pytest.raises(RuntimeError, match=rf"'Recorder' raised {error.__name__}") as e:
        connected_run(runner, relay)
    assert e.value is relay.error
    assert e.value.__cause__ is bad.error is relay.stats[0].error
    assert bad.calls[-1] == "sequenceFinished"  # its files are closed
    assert not runner.is_running()


@pytest.mark.parametrize("fail_in", ERRORS)
def test_error_within_a_relay_within_a_relay_is_raised(fail_in):
    bad, good = Recorder(fail_in), Writer()
    inner = ThreadRelay(bad, good)
    with pytest.raises(ValueError, match="disk on fire") as leaving:
        connected_run(make_runner(), ThreadRelay(inner))
    assert leaving.value is bad.error
    assert "'ThreadRelay'" in leaving.value.__notes__[1]
    assert good.calls[-1] == bad.calls[-1] == "sequenceFinished"


# ---- hanging handlers ---------------------------------------------------------------


@pytest.mark.parametrize("hang_in", ERRORS)
def test_hanging_handler_is_named_and_given_up(hang_in):
    gate = threading.Event()
    stuck, good = Writer(gate=gate, gate_in=hang_in), Recorder()
    runner = make_runner(TellingEngine())
    relay = ThreadRelay(
        stuck, good, start_timeout_s=0.1, drain_timeout_s=0.1, max_bytes=2 * FRAME_BYTES
    )
    try:
        with pytest.raises(TimeoutError, match=f"'Writer' hangs: {hang_in}"):
            connected_run(runner, relay)
        assert good.numbers == list(range(relay.stats[1].received))
        # while it hangs the next run is refused, before the other branch begins it
        with pytest.raises(RuntimeError, match="'Writer' still hangs"):
            connected_run(runner, relay)
        assert good.calls.count("sequenceStarted") == 1
        with pytest.raises(RuntimeError, match="'Writer' still hangs"):
            connected_run(runner, relay)
    finally:
        gate.set()
        for thread in relay_threads():
            thread.join(PATIENCE_S)
    assert stuck.calls.count("sequenceFinished") == 1  # late, but its files are closed
    stuck.numbers.clear()
    connected_run(runner, relay)
    assert stuck.numbers == list(range(N_FRAMES))


# ---- connections --------------------------------------------------------------------


def stock_relay(runner, relay):
    with mda_listeners_connected(relay, mda_events=runner.events):
        runner.run(ONE_EVENT)


def as_output(runner, relay):
    runner.run(ONE_EVENT, output=[relay])


@pytest.mark.parametrize("run", [stock_relay, as_output])
def test_a_whole_relay_is_an_ordinary_handler(run, caplog):
    handler, bad = Recorder(), Writer("frameReady")
    runner, relay = make_runner(TellingEngine()), ThreadRelay(handler, bad)
    with caplog.at_level(logging.ERROR):
        run(runner, relay)
    assert handler.numbers == list(range(N_FRAMES))
    assert bad.numbers == list(range(10))
    assert relay.error is bad.error  # logged and readable, no way back
    assert "disk on fire" in caplog.text


def test_is_hashable_and_weakly_referenceable():
    relay = ThreadRelay(Recorder())
    assert len({relay}) == 1
    connected_run(make_runner(), relay)
    reference = weakref.ref(relay)
    del relay
    gc.collect()
    assert reference() is None


def test_stray_signals_are_harmless():
    handler = Recorder()
    relay = ThreadRelay(handler)
    image = np.zeros(SHAPE, np.uint16)
    relay.sequenceFinished(ONE_EVENT)
    relay.frameReady(image, useq.MDAEvent(index={"t": 0}), {"n": 0})
    assert handler.calls == []
    assert relay.stats[0].backlog_frames == 0
    relay.sequenceStarted(ONE_EVENT, {})
    relay.sequenceStarted(ONE_EVENT, {})  # the first was interrupted
    relay.sequenceFinished(ONE_EVENT)
    relay.sequenceFinished(ONE_EVENT)
    assert handler.calls == ["sequenceStarted", "sequenceFinished"] * 2


def test_interrupted_run_is_closed_on_leaving():
    handler = Recorder()
    relay = ThreadRelay(handler)
    with pytest.raises(KeyboardInterrupt):
        connected_run(make_runner(Interrupted()), relay)
    assert handler.calls[-1] == "sequenceFinished"
    assert handler.numbers == [0, 1, 2, 3]


def test_leaving_waits_for_a_run_in_another_thread():
    gate, left = threading.Event(), threading.Event()
    handler = Recorder(gate=gate, gate_in="frameReady")
    runner, relay = make_runner(), ThreadRelay(handler, max_bytes=1)
    thread = threading.Thread(target=runner.run, args=(ONE_EVENT,))
    with opened_late(gate, left):
        with relay.connected(runner):
            thread.start()
            while "frameReady" not in handler.calls:
                threading.Event().wait(0.001)
            left.set()
        assert handler.numbers == list(range(N_FRAMES))
    thread.join()


class Gated(NumberedFrames):
    """Waits in one of its methods until its gate is opened."""

    def __init__(self, gate_in):
        super().__init__()
        self.gate_in = gate_in
        self.gate, self.reached = threading.Event(), threading.Event()

    def _wait_in(self, name):
        if name == self.gate_in and not self.reached.is_set():
            self.reached.set()
            assert self.gate.wait(PATIENCE_S)

    def setup_sequence(self, sequence):
        self._wait_in("setup_sequence")
        return super().setup_sequence(sequence)

    def exec_event(self, event):
        for payload in super().exec_event(event):
            if payload[2]["n"] == 5:
                self._wait_in("exec_event")
            yield payload


@contextmanager
def running_elsewhere(runner):
    thread = threading.Thread(target=runner.run, args=(ONE_EVENT,))
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.parametrize("n_before", [0, 1])
def test_leaving_waits_for_a_run_whose_thread_has_only_begun(n_before):
    """As after ``core.run_mda(sequence)`` in the last line of a block."""
    handler, runner = Recorder(), make_runner()
    leaving = threading.Event()

    def run():
        assert leaving.wait(PATIENCE_S)
        threading.Event().wait(0.005)
        runner.run(ONE_EVENT)

    thread = threading.Thread(target=run)
    with ThreadRelay(handler).connected(runner):
        for _ in range(n_before):
            with running_elsewhere(runner):
                pass
        thread.start()
        leaving.set()
    assert handler.numbers == list(range(N_FRAMES)) * (n_before + 1)
    assert handler.calls.count("sequenceFinished") == n_before + 1
    thread.join()


def test_leaving_waits_for_a_run_that_is_being_prepared():
    handler, engine, left = Recorder(), Gated("setup_sequence"), threading.Event()
    runner = make_runner(engine)
    with opened_late(engine.gate, left):
        thread = threading.Thread(target=runner.run, args=(ONE_EVENT,))
        with ThreadRelay(handler).connected(runner):
            thread.start()
            assert engine.reached.wait(PATIENCE_S)
            left.set()
        assert handler.numbers == list(range(N_FRAMES))
        thread.join()


def test_leaving_does_not_wait_for_ever_for_a_run_that_never_starts(caplog):
    engine = Gated("setup_sequence")
    runner, relay = make_runner(engine), ThreadRelay(Recorder(), start_timeout_s=0.05)
    thread = threading.Thread(target=runner.run, args=(ONE_EVENT,))
    with relay.connected(runner):
        thread.start()
        assert engine.reached.wait(PATIENCE_S)
    engine.gate.set()
    thread.join()
    assert "nothing of it is kept" in caplog.text


class Interrupted(NumberedFrames):
    """Is interrupted in its fifth frame, after which the runner seems to run on."""

    def exec_event(self, event):
        for payload in super().exec_event(event):
            if self.n_yielded == 5:
                raise KeyboardInterrupt
            yield payload


def interrupt_here(runner):
    with pytest.raises(KeyboardInterrupt):
        runner.run(ONE_EVENT)


def interrupt_elsewhere(runner):
    thread = threading.Thread(target=interrupt_here, args=(runner,))
    thread.start()
    thread.join()


@pytest.mark.parametrize("interrupt", [interrupt_here, interrupt_elsewhere])
@pytest.mark.parametrize("connected_before", [True, False])
def test_interrupted_runner_holds_up_neither_leaving_nor_the_next_run(
    interrupt, connected_before, caplog
):
    handler, good = Recorder(), NumberedFrames()
    runner, relay = make_runner(Interrupted()), ThreadRelay(handler)
    if connected_before:
        with relay.connected(runner):
            interrupt(runner)
        assert handler.numbers == [0, 1, 2, 3]
        assert handler.calls[-1] == "sequenceFinished"
    else:
        interrupt(runner)
    assert runner.is_running()
    assert "was interrupted" not in caplog.text
    with relay.connected(runner):  # and left without a run
        pass
    assert "was interrupted" in caplog.text
    handler.numbers.clear()
    runner._engine = good  # the runner refuses another while it seems to run
    connected_run(runner, relay)
    assert handler.numbers == list(range(N_FRAMES))


def test_second_run_at_the_same_time_is_ignored(caplog):
    handler, engine = Recorder(), Gated("exec_event")
    runner = make_runner(engine)
    with ThreadRelay(handler).connected(runner), running_elsewhere(runner):
        assert engine.reached.wait(PATIENCE_S)
        runner.run(ONE_EVENT)
        assert "sequenceFinished" not in handler.calls
        engine.gate.set()
    assert handler.numbers == list(range(N_FRAMES))
    assert handler.calls.count("sequenceStarted") == 1
    assert handler.calls.count("sequenceFinished") == 1
    for signal in ("sequenceStarted", "sequenceFinished"):
        assert f"{signal} of a second run is ignored" in caplog.text


def test_frames_of_a_run_that_had_started_are_an_error_on_leaving(caplog):
    handler, engine = Recorder(), Gated("exec_event")
    runner = make_runner(engine)

    def connect_late():
        with running_elsewhere(runner):
            assert engine.reached.wait(PATIENCE_S)
            with ThreadRelay(handler).connected(runner):
                assert "has started are not handed on" in caplog.text
                engine.gate.set()
                while runner.is_running():
                    threading.Event().wait(0.001)

    with pytest.raises(RuntimeError, match="connect before it starts"):
        connect_late()
    assert handler.calls == []


@pytest.mark.parametrize("engine", [NumberedFrames, TellingEngine, Interrupted, None])
@pytest.mark.parametrize("fail_in", ["", "frameReady"])
def test_no_thread_is_left_after_leaving(engine, fail_in):
    before = set(threading.enumerate())
    runner = make_runner(engine and engine())
    relay = ThreadRelay(Recorder(fail_in, fail_at=2), latest(Writer()))
    with suppress(KeyboardInterrupt, ValueError), relay.connected(runner):
        if engine is not None:
            runner.run(ONE_EVENT)
    assert set(threading.enumerate()) <= before


def test_cannot_be_connected_twice():
    relay = ThreadRelay(Recorder())
    with (
        relay.connected(make_runner()),
        pytest.raises(RuntimeError, match="connected already"),
    ):
        connected_run(make_runner(), relay)


def test_stock_engine_and_camera_are_cancelled_by_an_error():
    core = CMMCorePlus()
    core.loadSystemConfiguration()
    core.setExposure(1)
    sequence = useq.MDASequence(time_plan={"interval": 0, "loops": 3000})
    seen: list[int] = []

    class Bad:
        def frameReady(self, image, event, meta):
            seen.append(event.index["t"])
            if len(seen) == 10:
                raise ValueError("disk on fire")

    with (
        pytest.raises(ValueError, match="disk on fire"),
        ThreadRelay(Bad()).connected(core.mda),
    ):
        core.mda.run(sequence)
    assert seen == list(range(10))
    assert core.mda.status.finish_reason == "canceled"
    pymmcore.CMMCore.registerCallback(core, None)  # else the exit may abort
    core.reset()


def test_qt_signals_are_connected_directly():
    qt = pytest.importorskip("qtpy.QtCore", exc_type=ImportError)
    from pymmcore_plus.mda.events._qsignals import QMDASignaler

    application = qt.QCoreApplication.instance() or qt.QCoreApplication([])
    runner, handler = make_runner(), Recorder()
    runner._signals = QMDASignaler()
    relay = ThreadRelay(handler)
    with relay.connected(runner):  # no event loop runs meanwhile
        thread = threading.Thread(target=runner.run, args=(ONE_EVENT,))
        thread.start()
        thread.join()
        assert handler.numbers == list(range(N_FRAMES))
    runner.run(ONE_EVENT)  # disconnected
    assert len(handler.numbers) == N_FRAMES
    del application


# ---- refusals -----------------------------------------------------------------------


class KeywordOnly:
    def frameReady(self, *, image): ...


class TakesFour:
    def frameReady(self, image, event, meta, more): ...


@pytest.mark.parametrize(
    ("arguments", "options", "error", "phrase"),
    [
        pytest.param(["raw.zarr"], {}, TypeError, "not a handler", id="a path"),
        pytest.param([None], {}, TypeError, "not a handler", id="nothing"),
        pytest.param([print], {}, TypeError, "not a handler", id="a function"),
        pytest.param([Recorder], {}, TypeError, "not a handler", id="a class"),
        pytest.param([KeywordOnly()], {}, TypeError, "at most 3", id="keyword only"),
        pytest.param([TakesFour()], {}, TypeError, "at most 3", id="four arguments"),
        pytest.param([Recorder()], {"max_bytes": 0}, ValueError, "max_bytes", id="0 B"),
        pytest.param(
            [Recorder()], {"drain_timeout_s": -1}, ValueError, "drain", id="deadline"
        ),
    ],
)
def test_refuses(arguments, options, error, phrase):
    with pytest.raises(error, match=phrase):
        ThreadRelay(*arguments, **options)


def test_refuses_a_handler_or_a_name_twice():
    handler = Recorder()
    with pytest.raises(ValueError, match="given twice"):
        ThreadRelay(handler, latest(handler))
    with pytest.raises(ValueError, match="called 'raw'"):
        ThreadRelay(Branch(handler, name="raw"), Branch(Recorder(), name="raw"))


def test_refuses_an_unknown_policy_and_a_negative_limit():
    with pytest.raises(ValueError, match="policy"):
        Branch(Recorder(), policy="sometimes")
    with pytest.raises(ValueError, match="max_bytes"):
        latest(Recorder(), max_bytes=-1)
