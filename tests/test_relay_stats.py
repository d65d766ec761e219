"""Statistics of a relay: rates, and how they are published."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import useq

from opm_engine.relay import Branch, ThreadRelay
from opm_engine.relay.stats import Meter
from relaying import (
    FRAME_BYTES,
    N_FRAMES,
    ONE_EVENT,
    PATIENCE_S,
    SHAPE,
    Recorder,
    Stage,
    connected_run,
    make_runner,
    relay_threads,
)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert relay_threads() == []


@pytest.mark.parametrize("rate", [2, 100])
@pytest.mark.parametrize("lasting_s", [1, 10])
def test_meter_tells_the_rate_from_the_start(rate, lasting_s):
    meter = Meter(0)
    for number in range(rate * lasting_s):
        meter.add(50, (number + 0.5) / rate)
    frames_per_s, bytes_per_s = meter.rates(lasting_s)
    assert frames_per_s == pytest.approx(rate, rel=0.05)
    assert bytes_per_s == pytest.approx(50 * frames_per_s)


def test_meter_forgets_within_seconds():
    meter = Meter(0)
    assert meter.rates(0) == (0, 0)
    for number in range(1000):
        meter.add(1, number / 100)
    assert 30 < meter.rates(11)[0] < 45  # a second of silence
    assert meter.rates(20)[0] < 0.01


def test_rates_are_read_during_a_run():
    relay = ThreadRelay(Recorder())
    relay.sequenceStarted(ONE_EVENT, {})
    for number in range(30):
        image = np.full(SHAPE, number, np.uint16)
        relay.frameReady(image, useq.MDAEvent(index={"t": number}), {"n": number})
    relay.sequenceFinished(ONE_EVENT)
    stats = relay.stats[0]
    assert stats.frames_per_s > 0
    assert stats.bytes_per_s == pytest.approx(stats.frames_per_s * FRAME_BYTES)
    assert FRAME_BYTES <= stats.peak_bytes <= 30 * FRAME_BYTES


def test_statistics_are_published_during_a_run_and_at_its_end():
    relay = ThreadRelay(
        Recorder(), Branch(Stage([ThreadRelay(Recorder())]), name="stage")
    )
    seen, threads, twice = [], set(), threading.Event()

    @relay.stats_changed.connect
    def keep(stats):
        threads.add(threading.current_thread())
        seen.append(stats)
        if len(seen) == 2:
            twice.set()

    relay.sequenceStarted(ONE_EVENT, {})
    relay.frameReady(
        np.zeros(SHAPE, np.uint16), useq.MDAEvent(index={"t": 0}), {"n": 0}
    )
    assert twice.wait(PATIENCE_S)
    relay.sequenceFinished(ONE_EVENT)
    names = ["Recorder", "stage", "stage/Recorder"]
    assert [[s.name for s in stats] for stats in seen] == [names] * len(seen)
    assert {s.handled for s in seen[-1]} == {1}
    assert threading.current_thread() not in threads
    assert len(threads) == 1


def test_listener_that_raises_hurts_nothing(caplog):
    relay, handler = ThreadRelay(recorder := Recorder()), []

    @relay.stats_changed.connect
    def fail(stats):
        handler.append(stats)
        raise RuntimeError("the label is gone")

    runner = make_runner()
    for _ in range(2):
        connected_run(runner, relay)
    assert len(recorder.numbers) == 2 * N_FRAMES
    assert len(handler) == 2
    assert "a listener of stats_changed failed" in caplog.text
    assert "the label is gone" in caplog.text


def test_listener_that_blocks_holds_up_no_run(caplog):
    relay, gate = ThreadRelay(recorder := Recorder()), threading.Event()
    relay.stats_changed.connect(lambda stats: gate.wait(PATIENCE_S))
    runner = make_runner()
    for _ in range(2):
        connected_run(runner, relay)
    assert len(recorder.numbers) == 2 * N_FRAMES
    assert [thread.name for thread in relay_threads()] == ["relay-stats"]
    assert "statistics of this run are not emitted" in caplog.text
    gate.set()
    for thread in relay_threads():
        thread.join(PATIENCE_S)
