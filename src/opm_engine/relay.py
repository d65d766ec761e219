"""`ThreadRelay`: hands each frame of a run to several handlers, each in its own thread.

Separate from the engine, which must never wait for a viewer, and from the handlers,
which need not know of one another. Each branch is isolated (`lane.py`); here is what
they share: the handler's face towards the runner, and the way back of an error. Knows
nothing of plans, devices or files.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.branch import CHECK, Branch, BranchStats, latest, log_error, settled
from opm_engine.lane import Lane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    import useq
    from pymmcore_plus.mda import MDARunner

logger = logging.getLogger(__name__)

POLL_S = 0.02

__all__ = ["Branch", "BranchStats", "ThreadRelay", "latest"]


class ThreadRelay:
    """Hands frames to branches, each with its own thread, bounded queue and fate.

    Itself an ordinary pymmcore-plus handler. Connected by `connected`, the first error
    of a lossless branch stops the run; under the stock relay there is no way back:
    errors are logged and stay readable in `error` and `stats`.

    The branches share each image, which they cannot write into. Each has a metadata
    dict of its own, but not of what is in it: read that, do not change it.

    Before any branch begins, each handler that has ``checkSequence`` may refuse the
    run; then none begins it, so that nothing has to be undone.

    A handler that never returns is given up after its deadline and named in the error;
    the runner goes on. While it still hangs, later runs with this relay are refused;
    once it returns, they work. Frames that it never took count as dropped.

    Parameters
    ----------
    *branches : handler or Branch
        A bare handler becomes a lossless branch; `latest` makes the other kind.
    max_bytes : int
        Bytes of frames that may wait in each lossless branch. When it is full the
        acquisition waits, which pushes back into the camera's circular buffer; see
        `stop_waiting`.
    start_timeout_s : float
        How long a handler's ``sequenceStarted`` may take.
    drain_timeout_s : float
        How long any other single call of a handler may take before a full queue or
        the end of the run no longer wait for it. A slow handler that moves on is
        waited for.

    Raises
    ------
    TypeError
        If an argument is not a handler.
    ValueError
        If a handler or a branch's name is given twice, or a limit is not positive.
    """

    def __init__(
        self,
        *branches: object,
        max_bytes: int = 2 * 1024**3,
        start_timeout_s: float = 60.0,
        drain_timeout_s: float = 60.0,
    ) -> None:
        limits = {
            "max_bytes": max_bytes,
            "start_timeout_s": start_timeout_s,
            "drain_timeout_s": drain_timeout_s,
        }
        for name, value in limits.items():
            if not value > 0:
                msg = f"{name} must be positive, but is {value!r}"
                raise ValueError(msg)
        self._start_timeout_s = start_timeout_s
        self._lanes = tuple(
            Lane(branch, drain_timeout_s, self._branch_failed)
            for branch in settled(branches, max_bytes)
        )
        self._run_lock = threading.Lock()
        self._running = False
        self._run_thread: threading.Thread | None = None
        self._error_lock = threading.Lock()
        self._error: Exception | None = None
        self._owed: Exception | None = None
        self._runner: MDARunner | None = None
        self._told_engine: object = None
        self._home_thread = 0

    @property
    def stats(self) -> tuple[BranchStats, ...]:
        """What each branch has done in this run, or did in the last."""
        return tuple(lane.stats for lane in self._lanes)

    @property
    def error(self) -> Exception | None:
        """What `raise_if_failed` raises, in this run, or did in the last."""
        return self._error

    def raise_if_failed(self) -> None:
        """Raise the first error of a lossless branch in this run: the handler's own.

        A RuntimeError stands for one that would not reach the caller of ``run`` as what
        it is (StopIteration, KeyboardInterrupt, SystemExit), which is its cause.

        Cheap: an engine calls it before it arms and for every frame.
        """
        if self._error is None:
            return
        if self._owed is self._error and threading.get_ident() == self._home_thread:
            self._owed = None
        raise self._error

    # ---- a handler, towards the runner: nothing here raises ------------------

    def sequenceStarted(self, sequence: useq.MDASequence, summary: Any) -> None:
        """Start every branch and wait until its handler has accepted the run.

        If one refuses it beforehand, none is started, unless the run goes on anyway.
        """
        with self._run_lock:
            if self._is_foreign("sequenceStarted"):
                return
            self._end_run()  # one that was interrupted and never finished
            self._error = None
            self._lanes = tuple(lane.successor() for lane in self._lanes)
            self._run_thread = threading.current_thread()
            self._running = True
            for lane in self._lanes:
                lane.check(sequence, summary)
            if self._error is not None and self._runner is not None:
                return  # the engine raises it before it arms
            for lane in self._lanes:
                lane.start(sequence, summary)
            for lane in self._lanes:
                lane.wait_started(self._start_timeout_s)

    def frameReady(
        self, image: np.ndarray[Any, Any], event: useq.MDAEvent, meta: Any
    ) -> None:
        """Queue a frame in every branch; wait only while a lossless one is full."""
        if not self._running:
            self._missed()
            return
        if self._runs_elsewhere():
            return  # of the run whose start was ignored
        if isinstance(image, np.ndarray):
            image = image.view()
            image.setflags(write=False)  # no branch can spoil it for another
        for policy in ("latest", "lossless"):  # those that never wait come first
            for lane in self._lanes:
                if lane.branch.policy == policy:
                    lane.put(image, event, meta)
        if self._error is not None:
            self._cancel_untold()  # again: the runner can lose a request

    def note(self, note: object) -> None:
        """Queue a note, in order with the frames, where the handler takes notes.

        Never waits. A lossless branch drops none; a ``latest`` one keeps the newest
        thousand. Without a run nothing happens.
        """
        if self._running:
            for lane in self._lanes:
                lane.note(note)

    noteReady = note  # as a branch of another relay

    def sequenceFinished(self, sequence: useq.MDASequence) -> None:
        """End every branch and wait until all it was given is handled."""
        with self._run_lock:
            if not self._is_foreign("sequenceFinished"):
                self._end_run()

    # ---- for whoever watches over the runner ---------------------------------

    def stop_waiting(self) -> None:
        """Let go of a `frameReady` that waits for room, until the end of the run.

        For a run that is about to end; from any thread, returns at once. Frames that
        still come are queued beyond ``max_bytes``, so that a slow handler loses none;
        those that a stuck one has not taken by its deadline count as dropped.
        """
        for lane in self._lanes:
            lane.stop_waiting()

    def checkSequence(self, sequence: useq.MDASequence, summary: Any) -> None:
        """Raise if a handler of a lossless branch refuses a run; changes nothing."""
        for lane in self._lanes:
            check = lane.branch.callbacks().get(CHECK)
            if check is not None and lane.branch.policy == "lossless":
                check(sequence, summary)

    # ---- connection ----------------------------------------------------------

    @contextmanager
    def connected(self, runner: MDARunner) -> Iterator[ThreadRelay]:
        """Connect to a runner, for as many runs as are started in the block.

        An engine that has ``attach_relay`` and ``detach_relay`` is told, and raises
        the error out of ``run``; under another the run is cancelled. A run that goes
        on in another thread, or is about to start there, is waited for on leaving.

        Raises
        ------
        RuntimeError
            If the relay is connected already. On leaving, if frames came of a run that
            had started before.
        Exception
            On leaving, the first error of a lossless branch that `raise_if_failed` has
            not yet raised in this thread, unless the block itself raised.
        """
        if self._runner is not None:
            msg = "this relay is connected already"
            raise RuntimeError(msg)
        self._owed, self._home_thread = None, threading.get_ident()
        self._run_thread = None
        was_running = runner.is_running()  # for ever, if a run was interrupted
        if was_running:
            logger.warning(
                "a run goes on or was interrupted: "
                "frames of one that has started are not handed on"
            )
        with ExitStack() as leaving:
            leaving.callback(self._disconnected)
            self._tell(runner, leaving)
            for name in ("sequenceStarted", "frameReady", "sequenceFinished"):
                signal = getattr(runner.events, name)
                leaving.callback(_connect(signal, getattr(self, name)))
            yield from self._block()
            self._wait_for_run(runner, was_running=was_running)
        if self._owed is not None:
            raise self._owed

    def _block(self) -> Iterator[ThreadRelay]:
        try:
            yield self
        except BaseException as error:
            if self._owed is not None and self._owed is not error:
                logger.error("not raised: %r", self._owed)  # the block's own error wins
            raise

    def _tell(self, runner: MDARunner, leaving: ExitStack) -> None:
        engine: Any = runner.engine
        self._runner = runner
        if callable(getattr(engine, "attach_relay", None)):
            engine.attach_relay(self)
            self._told_engine = engine
            leaving.callback(engine.detach_relay, self)

    def _wait_for_run(self, runner: MDARunner, *, was_running: bool) -> None:
        """Wait for a run in another thread, even one that is only about to start."""
        knows_nothing = was_running and self._run_thread is None
        # A thread that was started just now may not have entered `run`.
        here = threading.current_thread()
        grace_s = {None: 0.5, here: 0.0}.get(self._run_thread, 0.1)
        if not _wait_until(
            lambda: self._running or (runner.is_running() and not knows_nothing),
            grace_s,
        ):
            return
        if not _wait_until(
            lambda: self._running or not runner.is_running(), self._start_timeout_s
        ):
            logger.error("gave up a run that has not started: nothing of it is kept")
        _wait_until(lambda: not (self._runs_elsewhere() and runner.is_running()))

    def _disconnected(self) -> None:
        """Close what an interrupted run left open, and forget the runner."""
        with self._run_lock:
            self._end_run()
        self._runner = self._told_engine = None

    # ---- shared --------------------------------------------------------------

    def _runs_elsewhere(self) -> bool:
        thread = self._run_thread
        return (
            self._running
            and thread is not None
            and thread is not threading.current_thread()
            and thread.is_alive()
        )

    def _is_foreign(self, signal: str) -> bool:
        """Whether a signal comes from a second run at the same time; the first counts.

        The runner does not prevent one.
        """
        if not self._runs_elsewhere():
            return False
        logger.error("%s of a second run is ignored: the first still goes on", signal)
        return True

    def _missed(self) -> None:
        """Owe an error for a frame of a run whose start was not seen."""
        with self._error_lock:
            if self._runner is not None and self._owed is None:
                msg = "frames came of a run that had started: connect before it starts"
                self._owed = RuntimeError(msg)

    def _end_run(self) -> None:
        if not self._running:
            return
        self._running = False
        for lane in self._lanes:
            lane.close()
        for lane in self._lanes:
            lane.wait_ended()

    def _branch_failed(self, branch: Branch, error: BaseException) -> None:
        """Latch a branch's first error; called from any thread."""
        returns = branch.policy == "lossless" and self._runner is not None
        log_error(branch, error, logging.INFO if returns else logging.ERROR)
        if branch.policy == "latest":
            return
        raised = _raisable(branch, error)
        raised.add_note(f"(in branch {branch.name!r} of the relay)")
        with self._error_lock:
            if self._error is None:
                self._error = raised
            if self._owed is None:
                self._owed = raised
        self._cancel_untold()

    def _cancel_untold(self) -> None:
        """Cancel the run unless its engine raises the error itself."""
        runner = self._runner
        if runner is not None and runner.engine is not self._told_engine:
            runner.cancel()


def _raisable(branch: Branch, error: BaseException) -> Exception:
    """Return an error that passes through an engine's generator and the runner."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    raised = RuntimeError(f"branch {branch.name!r} raised {error!r}")
    raised.__cause__ = error
    return raised


def _wait_until(done: Callable[[], bool], timeout_s: float = math.inf) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(POLL_S)
    return True


def _connect(signal: Any, slot: Callable[..., None]) -> Callable[[], None]:
    """Connect to a psygnal or a Qt signal; return what disconnects."""
    module = type(signal).__module__
    if "Qt" in module or "Shiboken" in module:
        connection = import_module("qtpy.QtCore").Qt.ConnectionType
        # anything else queues every frame in the main thread
        signal.connect(slot, connection.DirectConnection)
    else:
        signal.connect(slot)
    return lambda: signal.disconnect(slot)
