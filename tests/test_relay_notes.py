"""What a relay passes on beside frames, refusals before a start, waits that end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import useq

from opm_engine.plan import Flag
from opm_engine.relay import ThreadRelay, latest
from opm_engine.relay.waiting import MAX_NOTES
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
    wait_until,
)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert relay_threads() == []


def flag(number: int) -> Flag:
    return Flag({"t": number}, "an edge too many")


class Noting(TellingEngine):
    """Notes each frame after it was handed out, then may raise."""

    error: Exception | None = None

    def exec_event(self, event):
        for payload in super().exec_event(event):
            yield payload
            self.relay.note(flag(payload[2]["n"]))
        if self.error is not None:
            raise self.error


class NoteTaker(Recorder):
    """Records frames and notes in the order in which they came."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen: list[tuple[str, int]] = []

    def frameReady(self, image, event, meta):
        super().frameReady(image, event, meta)
        self.seen.append(("frame", meta["n"]))

    def noteReady(self, note):
        self._called("noteReady")
        self.seen.append(("note", note.index["t"]))


class NotesOnly:
    def __init__(self):
        self.notes = []

    def noteReady(self, note):
        self.notes.append(note)


IN_ORDER = [(what, n) for n in range(N_FRAMES) for what in ("frame", "note")]


# ---- notes --------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("max_bytes", [2**31, 2 * FRAME_BYTES], ids=["ample", "full"])
def test_notes_come_in_order_with_the_frames(nested, max_bytes):
    taker, notes_only, plain = NoteTaker(), NotesOnly(), Recorder()
    relay = ThreadRelay(taker, notes_only, plain, max_bytes=max_bytes)
    connected_run(make_runner(Noting()), ThreadRelay(relay) if nested else relay)
    assert taker.seen == IN_ORDER
    assert [note.index["t"] for note in notes_only.notes] == list(range(N_FRAMES))
    assert plain.numbers == list(range(N_FRAMES))
    assert [stats.handled for stats in relay.stats] == [N_FRAMES] * 3


def test_last_note_arrives_though_the_engine_raises():
    taker, engine = NoteTaker(), Noting()
    engine.error = RuntimeError("one edge too many")
    with pytest.raises(RuntimeError, match="edge too many"):
        connected_run(make_runner(engine), ThreadRelay(taker))
    assert taker.seen == IN_ORDER
    assert taker.calls[-1] == "sequenceFinished"


@contextmanager
def stuck_display():
    """A display in whose hands the first note stays while the block lasts."""
    gate = threading.Event()
    taker = NoteTaker(gate=gate, gate_in="noteReady")
    relay = ThreadRelay(latest(taker))
    relay.sequenceStarted(ONE_EVENT, {})
    relay.note(flag(0))
    wait_until(lambda: "noteReady" in taker.calls)
    yield relay, taker
    gate.set()
    relay.sequenceFinished(ONE_EVENT)


def test_newest_frame_wins_but_no_note_is_dropped():
    with stuck_display() as (relay, taker):
        for n in range(1, 5):
            image = np.full(SHAPE, n, np.uint16)
            relay.frameReady(image, useq.MDAEvent(index={"t": n}), {"n": n})
            relay.note(flag(n))
    notes = [("note", n) for n in range(5)]
    assert taker.seen == [*notes[:-1], ("frame", 4), notes[-1]]
    assert (relay.stats[0].handled, relay.stats[0].dropped) == (1, 3)


def test_notes_of_a_stuck_display_are_bounded():
    with stuck_display() as (relay, taker):
        for n in range(1, MAX_NOTES + 3):
            relay.note(flag(n))
    assert [n for _, n in taker.seen] == [0, *range(3, MAX_NOTES + 3)]


def test_error_in_a_note_is_the_branchs_error():
    taker = NoteTaker(fail_in="noteReady")
    relay = ThreadRelay(taker)
    with pytest.raises(ValueError, match="disk on fire"):
        connected_run(make_runner(Noting(2000)), relay)
    assert taker.calls.count("noteReady") == 1
    assert taker.calls[-1] == "sequenceFinished"


def test_note_without_a_run_is_harmless():
    taker = NotesOnly()
    relay = ThreadRelay(taker)
    relay.note(flag(0))
    connected_run(make_runner(), relay)
    relay.note(flag(1))
    assert taker.notes == []


# ---- refusals before anything begins ------------------------------------------------


class Refusing(Recorder):
    """Refuses runs beforehand while it is told to."""

    refuses = True

    def checkSequence(self, sequence, summary):
        assert summary["extra"] == {"who": "NumberedFrames"}
        self._called("checkSequence")
        if self.refuses:
            raise ValueError("one plane is no volume")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("engine", [TellingEngine, NumberedFrames])
def test_refusal_comes_before_any_branch_begins(engine, nested):
    refusing, good, engine = Refusing(), Writer(), engine()
    runner, relay = make_runner(engine), ThreadRelay(good, refusing)
    outer = ThreadRelay(relay) if nested else relay
    for _ in range(2):
        with pytest.raises(ValueError, match="one plane is no volume"):
            connected_run(runner, outer)
    assert good.calls == []
    assert refusing.calls == ["checkSequence"] * 2
    assert not getattr(engine, "armed", False)
    assert all(stats.handled == 0 for stats in outer.stats)
    assert all(stats.received == stats.dropped for stats in outer.stats)
    refusing.refuses = False
    connected_run(runner, outer)
    assert good.numbers == refusing.numbers == list(range(N_FRAMES))


def test_an_earlier_error_of_a_relay_within_a_relay_refuses_nothing():
    handler = Refusing(fail_in="frameReady")
    handler.refuses = False
    runner, outer = make_runner(TellingEngine()), ThreadRelay(ThreadRelay(handler))
    with pytest.raises(ValueError, match="disk on fire"):
        connected_run(runner, outer)
    handler.fail_in = ""
    handler.numbers.clear()
    connected_run(runner, outer)
    assert handler.numbers == list(range(N_FRAMES))


def test_refusal_of_a_latest_branch_stops_nothing():
    refusing, good = Refusing(), Writer()
    relay = ThreadRelay(latest(refusing), good)
    connected_run(make_runner(TellingEngine()), relay)
    assert good.numbers == list(range(N_FRAMES))
    assert refusing.calls == ["checkSequence"]
    assert relay.stats[0].dropped == N_FRAMES


def test_run_that_goes_on_anyway_is_kept_by_the_others():
    refusing, good = Refusing(), Writer()
    relay = ThreadRelay(refusing, good)
    make_runner(TellingEngine()).run(ONE_EVENT, output=[relay])
    assert good.numbers == list(range(N_FRAMES))
    assert refusing.calls == ["checkSequence"]
    assert str(relay.error) == "one plane is no volume"


# ---- a runner that must not wait ----------------------------------------------------


class Stuck(Recorder):
    """Waits in its first frame until its gate is opened."""

    def __init__(self):
        super().__init__(gate=threading.Event(), gate_in="frameReady")


@pytest.mark.parametrize("recovers", [True, False], ids=["slow", "stuck"])
def test_waiting_runner_is_let_go(recovers):
    stuck, good = Stuck(), Writer()
    relay = ThreadRelay(
        stuck,
        good,
        max_bytes=2 * FRAME_BYTES,
        drain_timeout_s=PATIENCE_S if recovers else 1.5,
    )
    runner, let_go, errors = make_runner(TellingEngine()), threading.Event(), []

    def run():
        try:
            connected_run(runner, relay)
        except TimeoutError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    with opened_late(stuck.gate, let_go):
        thread.start()
        wait_until(lambda: relay.stats[0].backlog_frames == 2)  # full
        assert relay.stats[0].backlog_bytes <= 2 * FRAME_BYTES
        relay.stop_waiting()
        if not recovers:
            thread.join(PATIENCE_S)  # while the handler is stuck
            assert not thread.is_alive()
            assert not runner.is_running()
        else:
            wait_until(lambda: relay.stats[0].received == N_FRAMES)  # it goes on
        let_go.set()
        thread.join(PATIENCE_S)
    for branch in relay_threads():
        branch.join(PATIENCE_S)
    stats = relay.stats[0]
    assert good.numbers == list(range(N_FRAMES))
    if recovers:
        assert stuck.numbers == list(range(N_FRAMES))
        assert (stats.handled, errors) == (N_FRAMES, [])
    else:
        assert [str(error) for error in errors] == [
            "branch 'Stuck' hangs: frameReady has not returned for 1.5 s"
        ]
        assert (stats.received, stats.dropped) == (N_FRAMES, N_FRAMES - stats.handled)


def test_the_next_run_waits_again():
    backlog = []

    class Slow(Recorder):
        def frameReady(self, image, event, meta):
            backlog.append(relay.stats[0].backlog_frames)
            super().frameReady(image, event, meta)

    slow = Slow()
    relay = ThreadRelay(slow, max_bytes=FRAME_BYTES)
    relay.stop_waiting()  # without a run
    connected_run(make_runner(), relay)
    assert max(backlog) <= 1
    assert slow.numbers == list(range(N_FRAMES))
