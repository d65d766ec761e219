"""`Supervisor`: the thread that owns darkness while a run may light.

Separate from the engine because it must not depend on the runner's thread: a handler
that blocks there blocks the engine, but not the light. It asks the board for edges,
the runner for a cancel and the frame loop for signs of life; it knows no plan::

    idle --begin--> resting --light_may_come--> watching --rest--> resting --end--> idle
                                  |  cancel, signal: halt, then the frame loop drains
                                  |  no edges, blocked handler, frozen: halt, trip
                                  v
                               halted (dark, camera stopped) --rest--> resting
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pymmcore_plus.mda import SkipEvent

from opm_engine.blocking import blocking
from opm_engine.daemon_pool import Beside
from opm_engine.daq.protocol import DaqError

if TYPE_CHECKING:
    from collections.abc import Callable

    from opm_engine.daq.protocol import Daq

logger = logging.getLogger(__name__)

TICK_S = 0.01
"""Between two looks."""

BEAT_S = 0.05
"""Between two heartbeats to the guardian."""

STUCK_S = 5.0
"""A look that lasts longer ends the heartbeats: it hangs in a call to the driver."""

PATIENCE_S = 5.0
"""How long a handler may hold the runner's thread while light may be on: longer than
the circular buffer lasts."""

SILENT_PERIODS = 2.0
"""Frame periods without a camera edge after which light goes off unasked."""


class SafetyError(RuntimeError):
    """Light was switched off unasked; the message says why."""


class Guardian(Protocol):
    """A process that makes the board dark when this one cannot."""

    @property
    def is_alive(self) -> bool:
        """Whether somebody would act."""

    def start(self) -> None:
        """Start the process; it stands ready when this returns."""

    def beat(self) -> object:
        """Say that this process lives."""

    def watch(self, watching: bool) -> None:
        """Say whether light may be on."""

    def trouble(self) -> str | None:
        """Why nobody would act, or what was done already, in words."""


@dataclass
class _Watch:
    """A burst that may be lit; ``edges``, ``lit`` and ``since_s`` are its own."""

    period_s: float
    n_frames: int
    thread: int = field(default_factory=threading.get_ident)
    edges: int = 0
    lit: int = 0
    slipped: bool = False
    since_s: float | None = None
    handed_over_s: float | None = None
    halted: bool = False


class Supervisor:
    """Makes dark on cancel, on silence of the camera, and when the runner is blocked.

    Parameters
    ----------
    daq : Daq
    make_dark : callable
        Switches the light off, then calls what it is given, then tidies up.
    stop_camera : callable
    cancelled : callable
        Whether the run was asked to end.
    let_go : callable
        Tells whoever may block the runner's thread, and can be told, to stop it.
    guardian : Guardian, optional
    clock_s : callable
        Seconds in the microscope's time.

    Attributes
    ----------
    attend : callable
        Called at every look, during a run.
    """

    def __init__(
        self,
        daq: Daq,
        *,
        make_dark: Callable[[Callable[[], object] | None], None],
        stop_camera: Callable[[], None],
        cancelled: Callable[[], bool],
        let_go: Callable[[], None] | None = None,
        guardian: Guardian | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._daq = daq
        self._make_dark = make_dark
        self._stop_camera = stop_camera
        self._cancelled = cancelled
        self._let_go = let_go or _nothing
        self._guardian = guardian
        self._clock_s = clock_s
        self.attend: Callable[[], None] = _nothing
        self._lock = threading.RLock()
        self._watch: _Watch | None = None
        self._reason: str | None = None
        self._failure = ""
        self._left_to_guardian = False
        self._ending = threading.Event()
        self._looked_s = 0.0
        self._threads: list[threading.Thread] = []

    # ---------------------------------------------------------------- for the engine

    def begin(self) -> None:
        """Start the thread of a run; that of a run which never ended is taken over.

        Raises
        ------
        DaqError
            If the guardian has ended and does not start again.
        """
        self.end()
        if self._guardian is not None and not self._guardian.is_alive:
            self._guardian.start()
        self._reason, self._failure, self._left_to_guardian = None, "", False
        self._ending, self._looked_s = threading.Event(), time.monotonic()
        self._threads = [
            threading.Thread(target=work, args=(self._ending,), name=name, daemon=True)
            for name, work in (("supervisor", self._supervise), ("pulse", self._pulse))
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """End the threads. May be called twice."""
        threads, self._threads = self._threads, []
        self._ending.set()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    def light_may_come(self, period_ms: float, n_frames: int) -> None:
        """Watch a burst from now on; called before the board is armed."""
        if self._guardian is not None:
            self._guardian.watch(True)
        with self._lock:
            self._reason = None
            self._watch = _Watch(period_ms / 1000, n_frames)

    def rest(self) -> None:
        """The burst is over: look no longer. May be called twice."""
        with self._lock:
            self._watch = None

    def make_dark(self, once_dark: Callable[[], object] | None = None) -> None:
        """Light off; if the board does not obey, it is left to the guardian.

        For ``once_dark`` see `Daq.make_dark`.

        Raises
        ------
        DaqError
            If the board did not obey.
        SafetyError
            If it did not, and light was to go off unasked: says why.
        """
        try:
            self._make_dark(once_dark)
        except DaqError as error:
            # without heartbeats it acts soon, and tries for longer than a run can wait
            self._left_to_guardian = True
            if self._reason is None or threading.current_thread() in self._threads:
                raise
            raise SafetyError(self._reason) from error
        if self._guardian is not None and not self._left_to_guardian:
            self._guardian.watch(False)

    def handed_over(self) -> None:
        """The runner's thread leaves the engine to handle a frame."""
        if (watch := self._watch) is not None:
            watch.handed_over_s = time.monotonic()

    def taken_back(self) -> None:
        """The runner's thread is back."""
        if (watch := self._watch) is not None:
            watch.handed_over_s = None

    def halt(self) -> None:
        """Light off, then stop the camera; once per burst, whoever asks first.

        Beside it the galvos are parked: either may take its time.

        Raises
        ------
        DaqError
            If the board did not obey.
        """
        with self._lock:
            watch = self._watch
            if watch is None or watch.halted:
                return
            watch.halted = True
            camera = Beside(self._stop_camera, "camera")
            with ExitStack() as backwards:
                backwards.callback(camera.finish)
                backwards.callback(self.make_dark, camera.start)

    @property
    def n_lit(self) -> int:
        """Exposures of the burst that were through before it was halted, at least.

        The board plays on, in the dark, until its tasks are gone: it counts more.
        """
        return self._watch.lit if self._watch else 0

    @property
    def reason(self) -> str | None:
        """Why light was switched off unasked, if it was."""
        return self._reason

    def raise_if_tripped(self) -> None:
        """Raise if light was switched off unasked, here or by the guardian.

        Raises
        ------
        SafetyError
            Says why.
        """
        if reason := self._reason or self._trouble():
            raise SafetyError(reason)

    def raise_if_overtaken(self) -> None:
        """Raise if the board was made dark while it was being armed.

        Raises
        ------
        SafetyError
            If unasked; says why.
        SkipEvent
            If the run was cancelled: nothing was acquired, and nothing is wrong.
        """
        self.raise_if_tripped()
        if self._cancelled():
            raise SkipEvent(num_frames=0, reason="cancelled while arming")

    # ---------------------------------------------------------------- the threads

    def _supervise(self, ending: threading.Event) -> None:
        while not ending.wait(TICK_S):
            self._looked_s = time.monotonic()
            try:
                self._work()
            except Exception as error:  # noqa: BLE001 - whatever it is, light goes off
                self._fail(error)

    def _pulse(self, ending: threading.Event) -> None:
        """Beat, in a thread that waits for no board, as long as the other one looks."""
        while self._guardian is not None and not ending.wait(BEAT_S):
            stuck = time.monotonic() - self._looked_s > STUCK_S
            if not stuck and not self._left_to_guardian:
                self._guardian.beat()

    def _work(self) -> None:
        self.attend()
        watch = self._watch
        if watch is None or watch.halted:
            return
        try:
            self._look(watch)
        except DaqError as error:
            reason = self._trouble() or f"the board did not answer: {error}"
            if not self._trip(watch, reason):
                logger.warning("The board did not answer, in the dark: %s", error)

    def _fail(self, error: Exception) -> None:
        """Whoever cannot watch must not let light on: an error here is an alarm."""
        what = f"the supervisor failed: {type(error).__name__}: {error}"
        if what != self._failure:  # at every look, perhaps
            logger.error("%s", what, exc_info=error)
        self._failure, watch = what, self._watch
        if watch is not None and not watch.halted:
            self._trip(watch, what)

    def _look(self, watch: _Watch) -> None:
        if self._cancelled():
            self._let_go()
            self.halt()
        elif reason := self._alarm(watch):
            self._trip(watch, reason)
        elif watch.slipped:
            self.halt()  # the engine's accounts say what it was

    def _alarm(self, watch: _Watch) -> str | None:
        if trouble := self._trouble():
            return trouble
        since_s = watch.handed_over_s
        if since_s is not None and time.monotonic() - since_s > PATIENCE_S:
            return f"{blocking(watch.thread)} has blocked the run for {PATIENCE_S:g} s"
        return self._silence(watch)

    def _trouble(self) -> str | None:
        return self._guardian.trouble() if self._guardian is not None else None

    def _silence(self, watch: _Watch) -> str | None:
        """Look for edges that stopped although more are planned.

        The answer may come late; what is measured is silence all the same: from after
        the answer that brought the latest edge until before the question that brought
        none.
        """
        asked_s = self._clock_s()
        seen = self._daq.count()
        watch.lit, watch.slipped = seen.planned, seen.irregular is not None
        if not seen.total or seen.planned >= watch.n_frames:
            return None
        if watch.since_s is None or seen.total != watch.edges:
            watch.edges, watch.since_s = seen.total, self._clock_s()
        silent_s = asked_s - watch.since_s
        if silent_s <= SILENT_PERIODS * watch.period_s:
            return None
        return (
            f"the camera stopped after {seen.total} of {watch.n_frames} exposures: no "
            f"edge for {silent_s * 1000:.3g} ms"
        )

    def _trip(self, watch: _Watch, reason: str) -> bool:
        """Switch light off and say why; False if that has been done already."""
        with self._lock:
            if watch is not self._watch or watch.halted:
                return False
            # first: whoever counts frames must not take the dark ones for a slip
            self._reason = reason
            try:
                self.halt()
            except Exception as error:  # noqa: BLE001 - it is told, with the reason
                self._reason = reason = f"{reason}; and then: {error}"
        logger.error("Light off: %s", reason)
        self._let_go()
        return True


def _nothing() -> None:
    """Do nothing."""
