"""Engines and handlers as a user may write them, for tests of the relay."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import numpy as np
import useq
from pymmcore_plus.mda import MDARunner

from opm_engine.relay import ThreadRelay

N_FRAMES = 40
SHAPE = (16, 32)
FRAME_BYTES = 2 * 16 * 32
PATIENCE_S = 20  # of tests, for what must happen; nothing is timed


class NumberedFrames:
    """An engine that yields numbered frames and knows no relay."""

    def __init__(self, n_frames: int = N_FRAMES) -> None:
        self.n_frames = n_frames
        self.n_yielded = 0

    def setup_sequence(self, sequence):
        self.n_yielded = 0
        return {"extra": {"who": "NumberedFrames"}}

    def setup_event(self, event):
        pass

    def event_iterator(self, events):
        return iter(events)

    def teardown_event(self, event):
        pass

    def teardown_sequence(self, sequence):
        pass

    def exec_event(self, event):
        for number in range(self.n_frames):
            image = np.full(SHAPE, number, np.uint16)
            self.n_yielded += 1
            request = yield image, event.replace(index={"t": number}), {"n": number}
            if request == "cancel":
                return


class TellingEngine(NumberedFrames):
    """The same, but told of the relay: raises before it arms and between frames."""

    relay = None
    armed = False

    def attach_relay(self, relay):
        self.relay = relay

    def detach_relay(self, relay):
        assert relay is self.relay
        self.relay = None

    def setup_event(self, event):
        if self.relay is not None:
            self.relay.raise_if_failed()
        self.armed = True

    def exec_event(self, event):
        for payload in super().exec_event(event):
            if self.relay is not None:
                self.relay.raise_if_failed()
            yield payload


class Recorder:
    """A handler that records what it gets, and fails or waits where it is told to."""

    def __init__(self, fail_in="", fail_at=10, error=None, gate=None, gate_in=""):
        self.calls: list[str] = []
        self.numbers: list[int] = []
        self.threads: set[threading.Thread] = set()
        self.fail_in, self.fail_at = fail_in, fail_at
        self.error = error or ValueError("disk on fire")
        self.gate, self.gate_in = gate, gate_in

    def _called(self, name):
        self.threads.add(threading.current_thread())
        self.calls.append(name)
        if self.gate is not None and name == self.gate_in:
            assert self.gate.wait(PATIENCE_S)
        if name == self.fail_in and (
            name != "frameReady" or len(self.numbers) == self.fail_at
        ):
            raise self.error

    def sequenceStarted(self, sequence, summary):
        self.summary = summary
        self._called("sequenceStarted")

    def frameReady(self, image, event, meta):
        assert image.min() == image.max() == event.index["t"] == meta["n"]
        self._called("frameReady")
        self.numbers.append(meta["n"])

    def sequenceFinished(self, sequence):
        self._called("sequenceFinished")


class Writer(Recorder):
    pass


def make_runner(engine=None) -> MDARunner:
    runner = MDARunner()
    runner.set_engine(engine or NumberedFrames())
    return runner


def connected_run(runner: MDARunner, relay: ThreadRelay) -> None:
    with relay.connected(runner):
        runner.run(ONE_EVENT)


ONE_EVENT = useq.MDASequence(time_plan={"interval": 0, "loops": 1})


def relay_threads():
    return [t for t in threading.enumerate() if t.name.startswith("relay-")]


def wait_until(condition):
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


@contextmanager
def opened_late(gate: threading.Event, when: threading.Event):
    """Open `gate` once `when` is set, so that a test cannot hang."""

    def opener():
        when.wait(PATIENCE_S)
        gate.set()

    thread = threading.Thread(target=opener)
    thread.start()
    try:
        yield
    finally:
        when.set()
        thread.join()


class Stage:
    """A handler that hands on what it gets, like a chain of stages."""

    def __init__(self, outputs=()):
        self.outputs = tuple(outputs)

    def add_output(self, output):
        self.outputs = (*self.outputs, output)

    def _all(self, name, *args):
        for output in self.outputs:
            if hasattr(output, name):
                getattr(output, name)(*args)

    def checkSequence(self, sequence, summary):
        self._all("checkSequence", sequence, summary)

    def sequenceStarted(self, sequence, summary):
        self._all("sequenceStarted", sequence, summary)

    def frameReady(self, image, event, meta):
        self._all("frameReady", image, event, meta)

    def noteReady(self, note):
        self._all("noteReady", note)

    def sequenceFinished(self, sequence):
        self._all("sequenceFinished", sequence)
