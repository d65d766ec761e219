"""A process that acquires on a board of another process, and ends as it is told.

``python patient.py ADDRESS ENDING FOLDER`` opens the demo's microscope there, starts a
run and lets ``ENDING`` happen. Writes JSON lines: ``{"running": …}`` once frames come,
``{"result": …}`` if it lives on; then it proves that the next run works.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import useq
from pymmcore_plus.mda import RunState

from opm_engine import OMEZarrWriter, Scope, ThreadRelay, open_microscope
from opm_engine import instrument as instrument_module
from opm_engine import supervisor as supervisor_module
from sequences import scan
from twins import Broken, microscope

LONG = scan(time_plan={"interval": 0, "loops": 2000})
SHORT = scan()
TIMES = scan(time_plan={"interval": 0.2, "loops": 4})
AT = 30
"""Frame at which things happen."""


def say(**words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


class At:
    """A handler that does something at one frame."""

    def __init__(self, what: Callable[[], None], frame: int = AT) -> None:
        self.what, self.frame, self.seen, self.finished = what, frame, 0, 0

    def frameReady(self, image, event, meta):
        self.seen += 1
        if self.seen == 5:
            say(running=os.getpid())
        if self.seen == self.frame:
            self.what()

    def sequenceFinished(self, sequence):
        self.finished += 1


def nothing() -> None:
    pass


def breaks() -> None:
    raise Broken("the handler broke")


def blocks() -> None:
    while True:
        time.sleep(0.1)


class Patient:
    def __init__(self, scope: Scope, out: Path) -> None:
        self.scope, self.core, self.out = scope, scope.core, out
        self.mda = scope.core.mda
        self.finished = 0
        self.mda.events.sequenceFinished.connect(self._count)

    def _count(self) -> None:
        self.finished += 1

    def run(self, handler: Any, events: Any = LONG, **limits: float) -> None:
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

    # ------------------------------------------------------------- endings

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
        handler = At(lambda: self.mda.set_paused(True), 5)
        threading.Thread(target=self._resume).start()
        self.run(handler, TIMES)
        say(frames=handler.seen)

    def _resume(self) -> None:
        while not self.mda.is_paused():
            time.sleep(0.01)
        lines = self.scope.twin.status()["lines"]
        say(paused=[line for line, level in lines.items() if level])
        self.mda.set_paused(False)

    def error_in_setup(self) -> None:
        say(running=os.getpid())
        size_buffer = instrument_module._size_buffer
        instrument_module._size_buffer = lambda *_: breaks()
        try:
            self.mda.run(LONG)
        finally:
            instrument_module._size_buffer = size_buffer

    def error_in_an_action(self) -> None:
        self.scope.engine.register_action("x", execute=lambda event: breaks())
        action = useq.MDAEvent(action=useq.CustomAction(name="x"))
        say(running=os.getpid())
        self.mda.run([*self.scope.engine.bursts(SHORT), action])

    def error_in_exec(self) -> None:
        start = self.core.startSequenceAcquisition
        self.core.startSequenceAcquisition = lambda *_: breaks()
        say(running=os.getpid())
        try:
            self.mda.run(LONG)
        finally:
            self.core.startSequenceAcquisition = start

    def error_in_a_handler(self) -> None:
        self.run(At(breaks))

    def error_in_the_twin(self) -> None:
        imaging = self.core.simulated_camera._imaging
        frame, seen = imaging.frame, []

        def broken(*args: Any) -> Any:
            seen.append(1)
            if len(seen) == AT:
                sys.exit()  # in the sensor's thread: it ends without a word
            return frame(*args)

        imaging.frame = broken
        try:
            self.run(At(nothing))
        finally:
            imaging.frame = frame

    def stall(self) -> None:
        self.core.simulated_camera.stall_after = AT
        self.run(At(nothing))

    def overflow(self) -> None:
        instrument_module.MAX_BUFFER_BYTES = 2**20
        self.run_bare(lambda: time.sleep(3))

    def disk_full(self) -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        relay = ThreadRelay(OMEZarrWriter(self.out / "x.ome.zarr"), At(nothing))
        with relay.connected(self.mda):
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
            try:
                self.mda.run(LONG)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def block(self) -> None:
        supervisor_module.PATIENCE_S = 0.5
        threading.Thread(target=self._tell_reason, daemon=True).start()
        self.run_bare(blocks)

    def _tell_reason(self) -> None:
        while not (reason := self.scope.engine.supervisor.reason):
            time.sleep(0.01)
        say(result={"error": reason})

    def block_behind_a_relay(self) -> None:
        supervisor_module.PATIENCE_S = 0.5
        self.run(At(blocks), LONG, max_bytes=10**6, drain_timeout_s=1.0)

    def wait(self) -> None:
        """Until somebody else ends it."""
        self.run(At(nothing))

    def leave(self) -> None:
        """End the interpreter in the middle of a run."""
        self.core.run_mda(LONG)
        time.sleep(0.5)
        say(running=os.getpid())
        threading.Timer(1.0, self.mda.cancel).start()
        sys.exit()

    def crash(self) -> None:
        self.run_bare(lambda: ctypes.string_at(0))

    def exit_at_once(self) -> None:
        self.run_bare(lambda: os._exit(3))


def main(address: str, ending: str, out: str) -> None:
    scope = open_microscope(microscope(daq__address=address))
    try:
        patient = Patient(scope, Path(out))
        error = ""
        try:
            getattr(patient, ending)()
        except Exception as problem:  # noqa: BLE001 - it is reported
            error = f"{type(problem).__name__}: {problem}"
        scope.core.simulated_camera.stall_after = None
        idle = scope.core.mda.status.phase is RunState.IDLE
        say(result={"error": error, "idle": idle, "finished": patient.finished})
        again = At(nothing, 0)
        patient.run(again, SHORT)
        say(again=again.seen)
    finally:
        if ending != "leave":
            scope.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
