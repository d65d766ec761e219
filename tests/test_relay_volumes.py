"""Volumes in a relay: who gets them in which form, and which are skipped whole."""

from __future__ import annotations

import threading
from collections import Counter
from itertools import product
from typing import ClassVar

import numpy as np
import pytest
import useq
from hypothesis import given
from hypothesis import strategies as st

from opm_engine.plan import ChannelInfo, PositionInfo, Stream, wants_of
from opm_engine.relay import ThreadRelay, latest
from opm_engine.relay.budget import Budget, memory_of
from opm_engine.relay.waiting import Queued, Waiting
from relaying import ONE_EVENT, PATIENCE_S, Recorder, Stage, wait_until

SLAB_ROWS, SHAPE = 4, (3, 10, 2)


def stream(kind="volumes", slab_rows=SLAB_ROWS, **changes) -> Stream:
    return Stream(
        kind=kind,
        shape=changes.pop("shape", SHAPE if kind == "volumes" else (10, 2)),
        scale_um=(1, 1, 1),
        channels=(ChannelInfo(name="488"), ChannelInfo(name="561")),
        positions=(PositionInfo(name="0"),),
        slab_rows=slab_rows if kind == "volumes" else None,
        **changes,
    )


def summary_of(described: Stream) -> dict:
    return {"extra": {"opm_engine": {"stream": described.model_dump(mode="json")}}}


class Taker:
    """Notes what it gets; its kinds have only some of the methods."""

    def __init__(self, gate=None):
        self.seen = []
        self.arrays = []
        self.gate = gate
        self.in_hand = threading.Event()

    def take(self, form, data, event):
        index = event.index
        self.in_hand.set()
        if self.gate is not None:
            assert self.gate.wait(PATIENCE_S)
        self.seen.append((form, *(index.get(axis, 0) for axis in "tc")))
        self.arrays.append(data)


class Frames(Taker):
    def frameReady(self, image, event, meta):
        self.take("frame", image, event)


class Slabs(Frames):
    def slabReady(self, slab, first_row, event, meta):
        assert first_row % SLAB_ROWS == 0
        self.take(first_row, slab, event)


class Projections(Slabs):
    def projectionsReady(self, projections, event, meta):
        self.take("projections", projections, event)


class Pair(tuple):
    """Stands for projections: a tuple of arrays."""


def hand_out(relay, t, c=0):
    """Hand out one volume in all forms, as a deskew does."""
    event = useq.MDAEvent(index={"t": t, "c": c})
    volume = np.zeros(SHAPE, np.uint16)
    for first in range(0, SHAPE[1], SLAB_ROWS):
        relay.slabReady(volume[:, first : first + SLAB_ROWS], first, event, {})
    relay.projectionsReady(Pair((volume[0], volume[1])), event, {})
    relay.frameReady(volume, event, {})


FORMS = {
    Frames: [("frame", 0, 0)],
    Slabs: [(0, 0, 0), (4, 0, 0), (8, 0, 0)],
    Projections: [("projections", 0, 0)],
}


# ---- forms --------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
def test_each_gets_the_form_it_wants(nested):
    takers = [kind() for kind in FORMS]
    relay = fork = ThreadRelay(*takers)
    if nested:
        relay = ThreadRelay(fork)
    assert relay.wants == {"frameReady", "slabReady", "projectionsReady"}
    relay.sequenceStarted(ONE_EVENT, summary_of(stream()))
    hand_out(relay, t=0)
    relay.sequenceFinished(ONE_EVENT)
    assert [taker.seen for taker in takers] == list(FORMS.values())
    assert relay.error is None
    for taker in takers:
        for array in taker.arrays:
            parts = array if isinstance(array, tuple) else (array,)
            assert not any(part.flags.writeable for part in parts)
    assert isinstance(takers[2].arrays[0], Pair)


@pytest.mark.parametrize("described", [stream("planes"), stream(slab_rows=None), None])
def test_where_only_frames_come_all_get_frames(described):
    takers = [kind() for kind in FORMS]
    relay = ThreadRelay(*takers)
    relay.sequenceStarted(ONE_EVENT, summary_of(described) if described else {})
    shape = described.shape if described else (5, 5)
    event = useq.MDAEvent(index={"t": 0})
    relay.frameReady(np.zeros(shape, np.uint16), event, {})
    relay.sequenceFinished(ONE_EVENT)
    assert [taker.seen for taker in takers] == [[("frame", 0, 0)]] * 3


@pytest.mark.parametrize(
    ("handlers", "wants"),
    [
        ([Recorder()], {"frameReady"}),
        ([Slabs()], {"slabReady"}),
        ([Slabs(), Projections()], {"slabReady", "projectionsReady"}),
        ([], set()),
    ],
    ids=["frames", "slabs", "slabs and projections", "none"],
)
def test_relay_wants_what_its_branches_want(handlers, wants):
    assert wants_of(ThreadRelay(ThreadRelay(*handlers))) == wants


# ---- never torn ---------------------------------------------------------------------


def hand_out_together(relay, t, n_channels):
    """Hand out the slabs of a time point, channels interleaved."""
    for first, c in product(range(0, SHAPE[1], SLAB_ROWS), range(n_channels)):
        slab = np.zeros((SHAPE[0], min(SLAB_ROWS, SHAPE[1] - first), SHAPE[2]), "u2")
        relay.slabReady(slab, first, useq.MDAEvent(index={"t": t, "c": c}), {})


@pytest.mark.parametrize("n_channels", [1, 2])
def test_slow_display_gets_whole_volumes_only(n_channels):
    gate = threading.Event()
    display, writer = Slabs(gate), Slabs()
    relay = ThreadRelay(writer, latest(display))
    relay.sequenceStarted(ONE_EVENT, summary_of(stream()))
    hand_out_together(relay, 0, n_channels)
    assert display.in_hand.wait(PATIENCE_S)
    for t in (1, 2):
        hand_out_together(relay, t, n_channels)
    gate.set()
    wait_until(lambda: len(display.seen) == 3 * n_channels)
    hand_out_together(relay, 3, n_channels)
    relay.sequenceFinished(ONE_EVENT)
    slabs = Counter((t, c) for _, t, c in display.seen)
    assert slabs == {(t, c): 3 for t in (0, 3) for c in range(n_channels)}
    stats = relay.stats[1]
    assert stats.volumes_dropped == 2 * n_channels
    assert stats.dropped == 3 * stats.volumes_dropped
    assert stats.received == stats.handled + stats.dropped
    assert len(writer.seen) == 3 * n_channels * 4


def test_fork_on_a_latest_branch_gets_whole_volumes_only():
    display = Slabs()
    relay = ThreadRelay(latest(ThreadRelay(display)))
    relay.sequenceStarted(ONE_EVENT, summary_of(stream()))
    for t in range(50):
        hand_out_together(relay, t, 2)
    relay.sequenceFinished(ONE_EVENT)
    assert set(Counter((t, c) for _, t, c in display.seen).values()) == {3}
    n_shown = len(display.seen) // 3
    assert relay.stats[0].volumes_dropped == 100 - n_shown


class Deskewing(Stage):
    """Makes volumes of planes: of no use unless all planes come."""

    def __init__(self, gate):
        super().__init__()
        self.gate, self.planes = gate, []

    def frameReady(self, image, event, meta):
        assert self.gate.wait(PATIENCE_S)
        self.planes.append((event.index["t"], event.index["z"]))


@pytest.mark.parametrize("within", [lambda x: x, ThreadRelay], ids=["plain", "fork"])
def test_slow_stage_gets_all_planes_of_a_volume_or_none(within):
    gate = threading.Event()
    stage = Deskewing(gate)
    relay = ThreadRelay(latest(within(stage)), max_bytes=1)
    relay.sequenceStarted(ONE_EVENT, {})
    for t, z in product(range(5), range(6)):
        index = {"t": t, "c": 0, "z": z}
        relay.frameReady(np.zeros((4, 4), "u2"), useq.MDAEvent(index=index), {})
        if (t, z) == (3, 5):
            gate.set()
            wait_until(lambda: len(stage.planes) >= 6)
            wait_until(lambda: relay.stats[0].backlog_frames == 0)
    relay.sequenceFinished(ONE_EVENT)
    per_volume = Counter(t for t, _ in stage.planes)
    assert set(per_volume.values()) == {6}
    assert {0, 4} <= set(per_volume)
    assert relay.stats[0].volumes_dropped == 5 - len(per_volume)
    assert stage.planes == sorted(stage.planes)


STEPS = st.lists(st.sampled_from(["volume", "channels", "frame", "take", "note"]))


@given(steps=STEPS, max_bytes=st.integers(0, 200))
def test_no_volume_is_ever_torn(steps, max_bytes):
    """Whatever comes and goes in whatever order."""
    budget = Budget(150)
    with budget.moved:
        whole_or_not(Waiting(budget, "latest", max_bytes), steps)


def whole_or_not(waiting, steps):
    came: Counter = Counter()
    got: Counter = Counter()
    n_came = n_got = 0
    for t, step in enumerate(steps):
        if step == "take":
            for _ in range(min(2, bool(waiting) + waiting.n_frames)):
                if waiting:
                    item = waiting.take()
                    got[item.volume] += item.volume is not None
                    n_got += item.method != "noteReady"
            continue
        if step == "note":
            waiting.offer(Queued("noteReady", (), memory_of(None), 0.0))
            continue
        volumes = [(("c", c), ("t", t)) for c in range(1 + (step == "channels"))]
        for volume in volumes * 3:
            parts = {"frame": (None, "frameReady")}
            of, method = parts.get(step, (volume, "slabReady"))
            data = np.zeros(20, np.uint8)
            came[of] += of is not None
            n_came += 1
            waiting.offer(Queued(method, (data,), memory_of(data), 0.0, of))
    while waiting:
        item = waiting.take()
        got[item.volume] += item.volume is not None
        n_got += item.method != "noteReady"
    assert {got[volume] for volume in came if volume} <= {0, 3}
    skipped = [volume for volume in came if volume and not got[volume]]
    assert waiting.volumes_dropped == len(skipped)
    assert n_came == n_got + waiting.dropped
    assert waiting.n_bytes == waiting.n_frames == 0


# ---- what was announced -------------------------------------------------------------

WRONG = [
    ("frameReady", np.zeros((3, 10, 3), "u2"), (), "uint16 (3, 10, 3) came"),
    ("frameReady", np.zeros(SHAPE, "u1"), (), "but uint8 (3, 10, 2) came"),
    ("slabReady", np.zeros((3, 4, 2), "u2"), (2,), "not at a multiple of 4"),
    ("slabReady", np.zeros((3, 4, 2), "u2"), (8,), "uint16 (3, 2, 2) was announced"),
]


@pytest.mark.parametrize(
    ("method", "data", "between", "phrase"), WRONG, ids=[x[-1] for x in WRONG]
)
def test_what_is_not_as_announced_is_the_branchs_error(method, data, between, phrase):
    taker, other = (Frames(), Slabs())[:: 1 if method == "frameReady" else -1]
    relay = ThreadRelay(taker, other)
    relay.sequenceStarted(ONE_EVENT, summary_of(stream()))
    hand_out(relay, t=0)
    event = useq.MDAEvent(index={"t": 1})
    getattr(relay, method)(data, *between, event, {})
    relay.sequenceFinished(ONE_EVENT)
    name = type(taker).__name__
    assert phrase in str(relay.error)
    assert f"branch {name!r}" in str(relay.error)
    assert relay.stats[1].error is None
    assert relay.stats[0].received == relay.stats[0].handled + relay.stats[0].dropped


def test_frames_that_announce_themselves_are_compared_too():
    """As those of loose events, of which the run's start says nothing."""
    taker = Frames()
    relay = ThreadRelay(taker)
    relay.sequenceStarted(ONE_EVENT, {})
    event = useq.MDAEvent(index={"t": 0})
    announcing = summary_of(stream("planes"))
    relay.frameReady(np.zeros((10, 2), "u2"), event, announcing)
    relay.frameReady(np.zeros((10, 2), "u2"), event, {})
    assert relay.error is None
    relay.frameReady(np.zeros((10, 3), "u2"), event, {})
    relay.sequenceFinished(ONE_EVENT)
    assert "uint16 (10, 2) was announced" in str(relay.error)


class Volumes(Frames):
    takes: ClassVar = {"kind": "volumes", "dtype": ("uint8", "uint16")}


@pytest.mark.parametrize(
    ("described", "phrase"),
    [
        (stream("planes"), "Volumes takes a stream whose kind is volumes, but planes"),
        (stream(dtype="float32"), "dtype is uint8 or uint16, but float32"),
        (stream(dtype="counts"), "no dtype 'counts'"),
        (stream(shape=(3, 4)), "cannot have the shape"),
        (stream(shape=(3, 0, 4)), "cannot have the shape"),
        (stream().model_copy(update={"scale_um": (1, 0, 1)}), "scale_um"),
        (stream().model_copy(update={"scale_um": (1, 1, float("nan"))}), "scale_um"),
    ],
    ids=["kind", "dtype", "no dtype", "rank", "empty", "scale", "no scale"],
)
@pytest.mark.parametrize("nested", [False, True])
def test_what_is_announced_is_judged_before_any_branch_begins(
    described, phrase, nested
):
    good, picky = Recorder(), Volumes()
    relay = ThreadRelay(Stage([ThreadRelay(picky)]) if nested else picky, good)
    summary = summary_of(described)
    with pytest.raises(ValueError, match=phrase):
        relay.checkSequence(ONE_EVENT, summary)
    relay.sequenceStarted(ONE_EVENT, summary)
    relay.sequenceFinished(ONE_EVENT)
    assert phrase.split(",")[-1].strip() in str(relay.error)
    assert "sequenceStarted" not in getattr(picky, "calls", [])
    relay.sequenceStarted(ONE_EVENT, summary_of(stream()))
    assert relay.error is None
    relay.sequenceFinished(ONE_EVENT)


def test_takes_must_speak_of_streams():
    class Odd(Frames):
        takes: ClassVar = {"colour": "blue"}

    with pytest.raises(ValueError, match="fields of a stream, not colour"):
        ThreadRelay(Odd())
