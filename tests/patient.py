"""A process that acquires on a board of another process, and ends as it is told.

``python patient.py ADDRESS FOLDER`` opens the demo's microscope there. Each line of
stdin names an ending: it starts a run and lets that happen. Writes JSON lines:
``{"running": …}`` once frames come, ``{"result": …}`` if it lives on, and
``{"again": …}`` after the next run.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import useq
from pymmcore_plus.mda import RunState

from opm_engine import DaqError, OMEZarrWriter, Scope, ThreadRelay, open_microscope
from opm_engine import instrument as instrument_module
from opm_engine import supervisor as supervisor_module
from sequences import scan
from twins import Broken, microscope

LONG = scan(time_plan={"interval": 0, "loops": 2000})
SHORT = scan()
TIMES = scan(time_plan={"interval": 0.2, "loops": 4})
AT = 30
"""Frame at which things happen."""
RUNNING_AT = 5
PARK_V = 0.25
DEADLINE_S = 1.0


def say(**words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[Any]:
    """Within, an attribute is another; yields what it was."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield before
    finally:
        setattr(owner, name, before)


class At:
    """A handler that does something at one frame."""

    def __init__(self, what: Callable[[], None], frame: int = AT) -> None:
        self.what, self.frame, self.seen = what, frame, 0

    def frameReady(self, image, event, meta):
        self.seen += 1
        if self.seen == RUNNING_AT:
            say(running=os.getpid())
        if self.seen == self.frame:
            self.what()


class BrokenWriter(OMEZarrWriter):
    def frameReady(self, image, event, meta):
        super().frameReady(image, event, meta)
        if dict(event.index) == {"t": 2, "z": 1, "c": 0}:
            breaks()


def nothing() -> None:
    pass


def breaks() -> None:
    raise Broken("the handler broke")


class Patient:
    def __init__(self, address: str, out: Path) -> None:
        self.address, self.out = address, out
        self.unblocked = threading.Event()
        self.open()

    def open(self) -> None:
        self.scope: Scope = open_microscope(
            microscope(
                daq__address=self.address,
                daq__deadline_s=DEADLINE_S,
                daq__galvo__park_v=PARK_V,
            )
        )
        self.core, self.mda = self.scope.core, self.scope.core.mda
        self.finished = 0
        self.mda.events.sequenceFinished.connect(self._count)

    def _count(self) -> None:
        self.finished += 1

    def run(self, handler: Any, events: Any = LONG, **limits: float) -> None:
        """With handlers behind a relay."""
        relay = ThreadRelay(handler, **limits)
        with relay.connected(self.mda):
            self.mda.run(events)

    def run_bare(self, what: Callable[[], None], events: Any = LONG) -> None:
        """With a handler in the runner's own thread."""
        handler = At(what)
        self.mda.events.frameReady.connect(handler.frameReady)
        try:
            self.mda.run(events)
        finally:
            self.mda.events.frameReady.disconnect(handler.frameReady)

    def result(self, ending: str) -> None:
        """Let an ending happen, tell how it went, and that the next run works."""
        self.finished, error = 0, ""
        try:
            getattr(self, ending)()
        except (Exception, KeyboardInterrupt) as problem:  # noqa: BLE001 - it is told
            error = f"{type(problem).__name__}: {problem}"
        self.core.simulated_camera.stall_after = None
        idle = self.mda.status.phase is RunState.IDLE
        say(result={"error": error, "idle": idle, "finished": self.finished})

    def reopen(self) -> None:
        """The twin's cables are lost with a board that was silent."""
        with suppress(DaqError):
            self.scope.close()
        self.open()
        say(ready=os.getpid())

    def again(self) -> None:
        handler = At(nothing, 0)
        self.run(handler, SHORT)
        say(again=handler.seen)

    # ------------------------------------------------------- endings it lives through

    def end(self) -> None:
        self.run(At(nothing), scan(time_plan={"interval": 0, "loops": 3}))

    def cancel(self) -> None:
        self.run_bare(self.mda.cancel)

    def cancel_without_an_edge(self) -> None:
        self.core.simulated_camera.stall_after = 0
        say(running=os.getpid())
        threading.Timer(0.3, self.mda.cancel).start()
        self.mda.run(LONG)

    def pause(self) -> None:
        handler = At(lambda: self.mda.set_paused(True), RUNNING_AT)
        resumer = threading.Thread(target=self._resume)
        resumer.start()
        self.run(handler, TIMES)
        resumer.join()
        assert handler.seen == 40

    def _resume(self) -> None:
        while not self.mda.is_paused():
            time.sleep(0.01)
        say(paused=True)
        self.unblocked.wait()
        self.mda.set_paused(False)

    def error_in_setup(self) -> None:
        say(running=os.getpid())
        with replaced(instrument_module, "_size_buffer", lambda *_: breaks()):
            self.mda.run(LONG)

    def error_in_an_action(self) -> None:
        self.scope.engine.register_action("x", execute=lambda event: breaks())
        action = useq.MDAEvent(action=useq.CustomAction(name="x"))
        say(running=os.getpid())
        self.mda.run([*self.scope.engine.bursts(SHORT), action])

    def error_in_exec(self) -> None:
        say(running=os.getpid())
        with replaced(self.core, "startSequenceAcquisition", lambda *_: breaks()):
            self.mda.run(LONG)

    def error_while_popping(self) -> None:
        handler = At(
            lambda: setattr(self.core, "getRemainingImageCount", lambda: breaks())
        )
        try:
            self.run(handler)
        finally:
            del self.core.getRemainingImageCount

    def error_in_a_handler(self) -> None:
        self.run(At(breaks))

    def error_in_a_handler_of_the_runner(self) -> None:
        """It is logged, and the run goes on."""
        self.run_bare(breaks, scan(time_plan={"interval": 0, "loops": 4}))

    def error_at_the_start(self) -> None:
        say(running=os.getpid())
        self.mda.events.sequenceStarted.connect(breaks)
        try:
            self.mda.run(LONG)
        finally:
            self.mda.events.sequenceStarted.disconnect(breaks)

    def error_in_the_writer(self) -> None:
        relay = ThreadRelay(BrokenWriter(self.out / "broken.ome.zarr"), At(nothing))
        with relay.connected(self.mda):
            self.mda.run(LONG)

    def error_in_the_twin(self) -> None:
        imaging, seen = self.core.simulated_camera._imaging, []

        def broken(*args: Any) -> Any:
            seen.append(1)
            if len(seen) == AT:
                sys.exit()  # in the sensor's thread: it ends without a word
            return frame(*args)

        with replaced(imaging, "frame", broken) as frame:
            self.run(At(nothing))

    def stall(self) -> None:
        self.core.simulated_camera.stall_after = AT
        self.run(At(nothing))

    def overflow(self) -> None:
        self.core.setCircularBufferMemoryFootprint(1)
        with replaced(instrument_module, "MAX_BUFFER_BYTES", 2**20):
            self.run_bare(lambda: time.sleep(3))

    def disk_full(self) -> None:
        import resource

        file_size = resource.RLIMIT_FSIZE
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        before = resource.getrlimit(file_size)
        fills = At(lambda: resource.setrlimit(file_size, (1000, before[1])))
        relay = ThreadRelay(OMEZarrWriter(self.out / "full.ome.zarr"), fills)
        try:
            with relay.connected(self.mda):
                self.mda.run(LONG)
        finally:
            resource.setrlimit(file_size, before)

    def block(self) -> None:
        """For ever, but for the test that lets go of it in the end."""
        threading.Thread(target=self._tell_reason, daemon=True).start()
        with replaced(supervisor_module, "PATIENCE_S", 0.5):
            self.run_bare(self.blocks)

    def _tell_reason(self) -> None:
        while not (reason := self.scope.engine.supervisor.reason):
            time.sleep(0.01)
        say(reason=reason)

    def blocks(self) -> None:
        while not self.unblocked.is_set():
            time.sleep(0.02)

    def block_behind_a_relay(self) -> None:
        with replaced(supervisor_module, "PATIENCE_S", 0.5):
            self.run(At(self.blocks), LONG, max_bytes=10**6, drain_timeout_s=3.0)

    def hog(self) -> None:
        """Nothing happens, but another thread takes all it can get."""
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                sum(range(1000))

        threading.Thread(target=work).start()
        try:
            self.run(At(nothing), scan(time_plan={"interval": 0, "loops": 10}))
        finally:
            over.set()

    def wait(self) -> None:
        """Until somebody else ends it."""
        self.run(At(nothing))

    # ------------------------------------------------------- endings it dies of

    def leave(self) -> None:
        """End the interpreter in the middle of a run."""
        threading.Thread(target=self.wait, daemon=True).start()
        while self.scope.engine.accounts is None or not self.core.isSequenceRunning():
            time.sleep(0.01)
        time.sleep(0.5)
        sys.exit()

    def crash(self) -> None:
        self.run_bare(lambda: ctypes.string_at(0))

    def exit_at_once(self) -> None:
        self.run_bare(lambda: os._exit(3))


def main(address: str, out: str) -> None:
    logging.getLogger("pymmcore-plus").setLevel(logging.CRITICAL)
    patient = Patient(address, Path(out))
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "unblock":
                patient.unblocked.set()
            else:
                orders.put(line.strip())

    threading.Thread(target=listen, daemon=True).start()
    say(ready=os.getpid())
    while (order := orders.get()) != "close":
        if order in ("again", "reopen"):
            getattr(patient, order)()
        else:
            patient.unblocked.clear()
            patient.result(order)
    patient.scope.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
