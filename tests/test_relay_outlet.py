"""Reading a stage's output: iterator, callback, latest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import useq

from opm_engine.buffers import BufferPool
from opm_engine.relay import Branch, ThreadRelay
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
    connected_run,
    make_runner,
    relay_threads,
    wait_until,
)

ALL = list(range(N_FRAMES))


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert relay_threads() == []


class Doubling(Stage):
    def frameReady(self, image, event, meta):
        super().frameReady(image * 2, event, meta)


def make_tree(**options) -> ThreadRelay:
    return ThreadRelay(
        Branch(Recorder(), name="raw"), Branch(Doubling(), name="double"), **options
    )


def numbers(items, factor=1):
    found = []
    for image, event, meta in items:
        assert image.min() == image.max() == factor * event.index["t"]
        assert meta["n"] == event.index["t"]
        found.append(meta["n"])
    return found


class Reading(threading.Thread):
    """Reads an outlet in a thread of its own."""

    def __init__(self, outlet, factor=1, **options):
        super().__init__(daemon=True)
        self.outlet, self.factor, self.options = outlet, factor, options
        self.numbers: list[int] | None = None
        self.error: Exception | None = None
        self.start()

    def run(self):
        try:
            items = self.outlet.items(**self.options)
            self.numbers = numbers(items, self.factor)
        except (ValueError, TimeoutError) as error:
            self.error = error

    def ended(self):
        self.join(PATIENCE_S)
        assert not self.is_alive()
        return self


@pytest.mark.parametrize(
    ("stage", "factor", "path"),
    [("", 1, "outlet"), ("camera", 1, "outlet"), ("double", 2, "double/outlet")],
)
def test_any_stage_can_be_iterated_over(stage, factor, path):
    relay = make_tree(max_bytes=3 * FRAME_BYTES)
    outlet = relay.outlet(stage)
    for _ in range(2):
        reading = Reading(outlet, factor, timeout_s=PATIENCE_S)
        connected_run(make_runner(), relay)
        assert reading.ended().numbers == ALL
    assert outlet.n_dropped == 0
    assert path in [stats.name for stats in relay.stats]
    assert relay.waiting_bytes == 0


def test_what_has_room_can_be_read_after_the_run():
    relay = make_tree()
    outlet = relay.outlet("double")
    connected_run(make_runner(), relay)
    assert relay.waiting_bytes == N_FRAMES * FRAME_BYTES
    assert numbers(islice(outlet.items(), 5), 2) == ALL[:5]
    assert numbers(outlet.items(), 2) == ALL[5:]  # left early, followed by another
    with pytest.raises(TimeoutError, match="no run has begun"):
        next(outlet.items(timeout_s=0.01))
    assert relay.waiting_bytes == 0


def test_what_nobody_reads_is_dropped_by_the_next_run_and_counted():
    relay = make_tree()
    outlet = relay.outlet()
    runner = make_runner()
    connected_run(runner, relay)
    assert len(list(islice(outlet.items(), 5))) == 5
    connected_run(runner, relay)
    assert outlet.n_dropped == N_FRAMES - 5
    assert numbers(outlet.items()) == ALL
    assert relay.waiting_bytes == 0


def test_open_iterator_keeps_its_run():
    relay = make_tree()
    outlet, runner = relay.outlet(), make_runner()
    connected_run(runner, relay)
    items = outlet.items()
    first = next(items)
    connected_run(runner, relay)
    assert numbers([first, *items]) == ALL
    assert numbers(outlet.items()) == ALL
    connected_run(runner, relay)
    items = outlet.items()
    next(items)
    connected_run(runner, relay)
    items.close()  # left behind: what it did not read goes
    assert outlet.n_dropped == N_FRAMES - 1
    assert relay.waiting_bytes == N_FRAMES * FRAME_BYTES


def test_unread_iterator_pushes_back():
    relay = make_tree()
    outlet = relay.outlet(max_bytes=2 * FRAME_BYTES)
    engine = NumberedFrames()
    run = threading.Thread(target=connected_run, args=(make_runner(engine), relay))
    run.start()
    wait_until(lambda: relay.stats[-1].received >= 3)
    items = outlet.items(timeout_s=PATIENCE_S)
    assert [item.meta["n"] for item in items] == ALL
    run.join(PATIENCE_S)
    assert relay.stats[-1].handled == N_FRAMES


@pytest.mark.parametrize("stage", ["", "double"])
def test_outlet_that_is_never_read_is_named_and_fails_the_run(stage):
    relay = make_tree(drain_timeout_s=0.2)
    outlet = relay.outlet(stage, max_bytes=FRAME_BYTES)
    with pytest.raises(TimeoutError, match="outlet has not been read for 0") as e:
        connected_run(make_runner(TellingEngine()), relay)
    assert "'outlet'" in e.value.__notes__[0]
    assert relay.stage("raw").calls[-1] == "sequenceFinished"
    outlet.close()
    connected_run(make_runner(TellingEngine()), relay)
    assert list(outlet.items()) == []
    assert outlet.latest() is None or outlet.latest().meta["n"] == N_FRAMES - 1


def test_outlet_below_waits_as_long_as_the_outermost_relay_says():
    stage = Doubling()
    inner = ThreadRelay(Branch(stage, name="double"), drain_timeout_s=PATIENCE_S)
    outlet = inner.outlet("double", max_bytes=1)
    relay = ThreadRelay(Stage([inner]), drain_timeout_s=0.2)
    with pytest.raises(TimeoutError, match=r"outlet has not been read for 0\.2 s"):
        connected_run(make_runner(TellingEngine()), relay)
    outlet.close()


def test_close_lets_go_of_what_waits():
    relay = make_tree()
    outlet = relay.outlet(max_bytes=1)
    run = threading.Thread(target=connected_run, args=(make_runner(), relay))
    run.start()
    wait_until(lambda: relay.stats[-1].received >= 2)
    outlet.close()
    run.join(PATIENCE_S)
    assert not run.is_alive()
    assert relay.stage("raw").numbers[-N_FRAMES:] == ALL


def test_latest_holds_up_nothing():
    relay = make_tree(max_bytes=2 * FRAME_BYTES)
    outlet = relay.outlet("double", policy="latest")
    assert outlet.latest() is None
    connected_run(make_runner(), relay)
    item = outlet.latest()
    assert item is not None
    assert item.meta["n"] == N_FRAMES - 1
    assert item.image.max() == 2 * (N_FRAMES - 1)
    assert numbers(outlet.items(), 2) == [N_FRAMES - 1]
    stats = relay.stats[-1]
    assert stats.dropped + outlet.n_dropped == N_FRAMES - 1


def test_callbacks_get_all_and_nothing_waits():
    relay = make_tree(max_bytes=FRAME_BYTES, drain_timeout_s=PATIENCE_S)
    outlet, seen, threads = relay.outlet("double"), [], set()

    def keep(item):
        seen.append(item)
        threads.add(threading.current_thread())

    outlet.connect(keep)
    connected_run(make_runner(), relay)
    assert numbers(seen, 2) == ALL
    assert len(threads) == 1
    outlet.disconnect(keep)
    outlet.close()
    connected_run(make_runner(), relay)
    assert len(seen) == N_FRAMES


@pytest.mark.parametrize("policy", ["lossless", "latest"])
def test_error_of_a_callback_is_the_branchs(policy, caplog):
    def fail(item):
        raise ValueError("disk on fire")

    relay = make_tree(max_bytes=4 * FRAME_BYTES)
    relay.outlet("double", policy=policy).connect(fail)
    runner = make_runner(TellingEngine())
    if policy == "lossless":
        with pytest.raises(ValueError, match="disk on fire"):
            connected_run(runner, relay)
    else:
        connected_run(runner, relay)
        assert relay.stage("raw").numbers == ALL
        assert "disk on fire" in caplog.text


def test_iterator_raises_the_runs_error_behind_what_came():
    bad = Recorder("frameReady")
    relay = ThreadRelay(bad, Branch(Doubling(), name="double"), max_bytes=8192)
    outlet = relay.outlet("double")
    reading = Reading(outlet, 2, timeout_s=PATIENCE_S)
    with pytest.raises(ValueError, match="disk on fire"):
        connected_run(make_runner(TellingEngine(2000)), relay)
    assert reading.ended().error is bad.error


def test_iterator_raises_why_a_run_was_refused():
    class Refusing(Recorder):
        def checkSequence(self, sequence, summary):
            raise ValueError("one plane is no volume")

    relay = ThreadRelay(Refusing(), Branch(Doubling(), name="double"))
    readings = [Reading(relay.outlet(stage)) for stage in ("", "double")]
    with pytest.raises(ValueError, match="no volume"):
        connected_run(make_runner(TellingEngine()), relay)
    for reading in readings:
        assert "no volume" in str(reading.ended().error)


def test_timeout_while_a_run_is_silent():
    relay = make_tree()
    outlet = relay.outlet("double")
    relay.sequenceStarted(ONE_EVENT, {})
    with pytest.raises(TimeoutError, match="nothing came for"):
        next(outlet.items(timeout_s=0.02))
    relay.sequenceFinished(ONE_EVENT)
    assert list(outlet.items(timeout_s=0.02)) == []


def test_items_are_safe_to_keep_though_memory_goes_round():
    """What the engine frees is reused; what is kept is not."""
    pool = BufferPool()
    relay = make_tree()
    outlet = relay.outlet()
    relay.sequenceStarted(ONE_EVENT, {})
    addresses = set()
    for number in range(200):
        image = pool.take(SHAPE, np.uint16)
        addresses.add(image.ctypes.data)
        image[...] = number
        relay.frameReady(image, useq.MDAEvent(index={"t": number}), {"n": number})
        del image
    relay.sequenceFinished(ONE_EVENT)
    kept = list(outlet.items())
    assert numbers(kept) == list(range(200))
    assert len({item.image.ctypes.data for item in kept}) == 200
    with pytest.raises(ValueError, match="read-only"):
        kept[0].image[...] = 1
    del kept, relay, outlet
    assert pool.take(SHAPE, np.uint16).ctypes.data in addresses


class Projecting(Stage):
    def frameReady(self, image, event, meta):
        for output in self.outputs:
            if "projectionsReady" in output.wants:
                output.projectionsReady((image, image), event, meta)


def test_projections_can_be_read():
    relay = ThreadRelay(Branch(Projecting(), name="deskew"))
    outlet = relay.outlet("deskew", policy="latest", wants="projectionsReady")
    assert outlet.wants == {"projectionsReady"}
    connected_run(make_runner(), relay)
    item = outlet.latest()
    assert item is not None
    assert [array.shape for array in item.image] == [SHAPE, SHAPE]


@pytest.mark.parametrize(
    ("stage", "options", "error", "phrase"),
    [
        ("deskwe", {}, KeyError, "there are 'raw', 'double'"),
        ("raw", {}, TypeError, "hands nothing on"),
        ("double", {"wants": "slabReady"}, ValueError, "wants must be"),
        ("double", {"policy": "some"}, ValueError, "policy must be"),
    ],
)
def test_refuses(stage, options, error, phrase):
    with pytest.raises(error, match=phrase):
        make_tree().outlet(stage, **options)


def test_refuses_during_a_run():
    relay = make_tree()
    relay.sequenceStarted(ONE_EVENT, {})
    for stage in ("", "double"):
        with pytest.raises(RuntimeError, match="a run goes on"):
            relay.outlet(stage)
    relay.sequenceFinished(ONE_EVENT)
