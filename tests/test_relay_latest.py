"""Several channels behind a slow ``latest`` branch or outlet: all of them are shown."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
import useq
from hypothesis import given
from hypothesis import strategies as st

from opm_engine.plan import Flag
from opm_engine.relay import ThreadRelay, latest
from opm_engine.relay.budget import NOTHING, Budget, memory_of
from opm_engine.relay.waiting import Queued, Waiting, channel_of
from relaying import ONE_EVENT, PATIENCE_S, Stage, wait_until

N_TIMES = 12
DATA = {
    "frameReady": np.zeros((4, 4), np.uint16),
    "volume": np.zeros((3, 4, 4), np.uint16),
    "projectionsReady": tuple(np.zeros((4, 4), np.uint16) for _ in range(3)),
}
N_BYTES = 32


class Slow:
    """Handles one item for each permit."""

    def __init__(self, form):
        self.wants = frozenset({form})
        self.permits = threading.Semaphore(0)
        self.seen = []
        self.notes = []

    def frameReady(self, data, event, meta):
        assert self.permits.acquire(timeout=PATIENCE_S)
        self.seen.append(dict(event.index))

    projectionsReady = frameReady

    def noteReady(self, note):
        self.notes.append((note.index["t"], len(self.seen)))

    def handle_one(self):
        n_before = len(self.seen)
        self.permits.release()
        wait_until(lambda: len(self.seen) > n_before)


def show(form, indices_of, *, within=None, max_bytes=None):
    """Let a slow display handle one item for each time point; return what it saw."""
    display = Slow("frameReady" if form == "volume" else form)
    branch = latest(display, max_bytes=max_bytes)
    relay = ThreadRelay(within(branch) if within else branch)
    hand_out = getattr(relay, "frameReady" if form == "volume" else form)
    relay.sequenceStarted(ONE_EVENT, {})
    n_came = 0
    for t in range(N_TIMES):
        for index in indices_of(t):
            hand_out(DATA[form], useq.MDAEvent(index=index), {})
            n_came += 1
        wait_until(lambda n=n_came: relay.stats[-1].received == n)
        display.handle_one()
    for _ in range(100):
        display.permits.release()
    relay.sequenceFinished(ONE_EVENT)
    stats = relay.stats[-1]
    assert stats.received == stats.handled + stats.dropped
    return display.seen, stats


def interleaved(t):
    return [{"t": t, "c": c} for c in (0, 1)]


def one_after_the_other(t):
    return [{"t": t, "c": c, "z": z} for c in (0, 1) for z in range(5)]


def channel_last(t):
    return [{"t": t, "z": z, "c": c} for z in range(5) for c in (0, 1)]


def two_cameras(t):
    return [{"t": t, "c": 0, "cam": cam} for cam in (0, 1)]


def below_a_stage(branch):
    return Stage([ThreadRelay(branch)])


@pytest.mark.parametrize("max_bytes", [None, 3 * N_BYTES], ids=["one", "some"])
@pytest.mark.parametrize(
    ("form", "indices_of", "within"),
    [
        ("frameReady", channel_last, below_a_stage),
        ("frameReady", channel_last, None),
        ("frameReady", one_after_the_other, None),
        ("frameReady", two_cameras, None),
        ("volume", interleaved, None),
        ("volume", interleaved, below_a_stage),
        ("projectionsReady", interleaved, None),
        ("projectionsReady", interleaved, ThreadRelay),
    ],
)
def test_each_channel_is_shown_equally_often(form, indices_of, within, max_bytes):
    seen, _ = show(form, indices_of, within=within, max_bytes=max_bytes)
    axis = "cam" if indices_of is two_cameras else "c"
    shown = Counter(index[axis] for index in seen[:N_TIMES])
    assert min(shown[0], shown[1]) >= N_TIMES // 3
    for channel in (0, 1):
        times = [(i["t"], i.get("z", 0)) for i in seen if i[axis] == channel]
        assert times == sorted(times)
        assert times[-1][0] == N_TIMES - 1  # the newest of each is shown at last


def test_one_of_each_channel_waits():
    seen, stats = show("frameReady", interleaved)
    assert stats.peak_bytes == 2 * N_BYTES
    assert all(index["t"] >= n for n, index in enumerate(seen[1:N_TIMES]))


def test_channel_that_comes_rarely_is_shown_every_time():
    rare = [0, 4, 8]

    def indices_of(t):
        often = [{"t": t, "c": 0, "z": z} for z in range(3)]
        return [*often, {"t": t, "c": 1}] if t in rare else often

    seen, _ = show("frameReady", indices_of)
    assert [index["t"] for index in seen if index["c"] == 1] == rare


def test_positions_are_no_channels():
    def indices_of(t):
        return [{"t": t, "p": p} for p in (0, 1)]

    _, stats = show("frameReady", indices_of)
    assert stats.peak_bytes == N_BYTES


def test_slow_reader_of_an_outlet_gets_each_channel():
    relay = ThreadRelay(Stage())
    outlet = relay.outlet("Stage", policy="latest")
    items, read = outlet.items(timeout_s=PATIENCE_S), []
    relay.sequenceStarted(ONE_EVENT, {})
    for t in range(N_TIMES):
        for index in interleaved(t):
            relay.frameReady(DATA["volume"], useq.MDAEvent(index=index), {})
        wait_until(lambda t=t: newest(outlet) == {"t": t, "c": 1})
        read.append(next(items).event.index["c"])
    relay.sequenceFinished(ONE_EVENT)
    assert Counter(read) == {0: N_TIMES // 2, 1: N_TIMES // 2}
    assert newest(outlet) == {"t": N_TIMES - 1, "c": 1}


def newest(outlet):
    item = outlet.latest()
    return None if item is None else dict(item.event.index)


def test_frame_does_not_overtake_a_note_though_it_has_an_earlier_turn():
    display = Slow("frameReady")
    relay = ThreadRelay(latest(display))
    relay.sequenceStarted(ONE_EVENT, {})
    for t in range(3):
        image, event = DATA["frameReady"], useq.MDAEvent(index={"t": t})
        relay.frameReady(image, event, {})
        if t == 0:  # in the display's hands before the next comes
            wait_until(lambda: relay.stats[0].backlog_frames == 0)
        if t == 1:
            relay.noteReady(Flag({"t": t}, "an edge too many"))
    for _ in range(2):
        display.permits.release()
    relay.sequenceFinished(ONE_EVENT)
    assert [index["t"] for index in display.seen] == [0, 2]
    assert display.notes == [(1, 1)]


STEPS = st.lists(st.sampled_from(["take", "note", 0, 1, 2]))


@given(steps=STEPS, max_bytes=st.integers(0, 200), budget=st.integers(1, 200))
def test_what_is_taken_is_in_order_and_in_turn(steps, max_bytes, budget):
    """Within a channel and behind notes; a channel that waits is taken soon."""
    shared = Budget(budget)
    waiting = Waiting(shared, "latest", max_bytes)
    taken, n_waits = [], Counter()
    n_ahead = 2 * max(1, max_bytes // N_BYTES)  # of the two other channels
    with shared.moved:
        for number, step in enumerate([*steps, *["take"] * len(steps)]):
            if step == "take":
                if waiting:
                    item = waiting.take()
                    taken.append((item.method, item.channel, *item.args))
                    if item.method == "frameReady":
                        n_waits = Counter({c: n + 1 for c, n in n_waits.items()})
                        n_waits.pop(item.channel, None)
                        assert max(n_waits.values(), default=0) <= n_ahead
            elif step == "note":
                waiting.offer(Queued("noteReady", (number,), NOTHING, 0.0))
            else:
                memory = memory_of(np.zeros((4, 4), np.uint16))
                channel = channel_of({"c": step, "t": number})
                n_waits.setdefault(channel, 0)
                waiting.offer(
                    Queued("frameReady", (number,), memory, 0.0, channel=channel)
                )
    frames = [entry for entry in taken if entry[0] == "frameReady"]
    for channel in {entry[1] for entry in frames}:
        came = [number for _, of, number in frames if of == channel]
        assert came == sorted(came)
    notes = [number for method, _, number in taken if method == "noteReady"]
    assert notes == [n for n, step in enumerate(steps) if step == "note"]
    for place, (method, _, number) in enumerate(taken):
        if method == "frameReady":
            behind = [n for kind, _, n in taken[place:] if kind == "noteReady"]
            assert all(number < n for n in behind)
    n_frames = sum(step not in ("take", "note") for step in steps)
    assert n_frames == len(frames) + waiting.dropped
    assert shared.waiting_bytes == 0
