"""`ThreadRelay`: hands each frame of a run to several handlers, each in its own thread.

Separate from the engine, which must never wait for a viewer, and from the handlers,
which need not know of one another. Each branch is isolated (`branch.py`); here is what
they share: the handler's face towards the runner, and the way back of an error. Knows
nothing of plans, devices or files.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from opm_engine.branch import Branch, BranchStats, Lane, latest, log_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    import numpy as np
    import useq
    from pymmcore_plus.mda import MDARunner

logger = logging.getLogger(__name__)

__all__ = ["Branch", "BranchStats", "ThreadRelay", "latest"]


class ThreadRelay:
    """Hands frames to branches, each with its own thread, bounded queue and fate.

    Itself an ordinary pymmcore-plus handler. Connected by `connected`, the first error
    of a lossless branch stops the run; under the stock relay there is no way back:
    errors are logged and stay readable in `error` and `stats`.

    The branches share each image and its metadata: read them, do not write into them.

    Parameters
    ----------
    *branches : handler or Branch
        A bare handler becomes a lossless branch; `latest` makes the other kind.
    max_bytes : int
        Bytes of frames that may wait in each lossless branch. When it is full the
        acquisition waits, which pushes back into the camera's circular buffer.
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
        drain_timeout_s: float = 300.0,
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
            for branch in _settled(branches, max_bytes)
        )
        self._run_lock = threading.Lock()
        self._running = False
        self._run_thread = threading.current_thread()
        self._error_lock = threading.Lock()
        self._error: BaseException | None = None
        self._owed: BaseException | None = None
        self._runner: MDARunner | None = None
        self._told_engine: object = None
        self._home_thread = 0

    @property
    def stats(self) -> tuple[BranchStats, ...]:
        """What each branch has done in this run, or did in the last."""
        return tuple(lane.stats for lane in self._lanes)

    @property
    def error(self) -> BaseException | None:
        """The first error of a lossless branch in this run, or in the last."""
        return self._error

    def raise_if_failed(self) -> None:
        """Raise the first error of a lossless branch in this run: the handler's own.

        Cheap: an engine calls it before it arms and for every frame.
        """
        if self._error is None:
            return
        if self._owed is self._error and threading.get_ident() == self._home_thread:
            self._owed = None
        raise self._error

    # ---- a handler, towards the runner: nothing here raises ------------------

    def sequenceStarted(self, sequence: useq.MDASequence, summary: Any) -> None:
        """Start every branch and wait until its handler has accepted the run."""
        with self._run_lock:
            self._end_run()  # one that was interrupted and never finished
            self._error = None
            self._lanes = tuple(lane.successor() for lane in self._lanes)
            self._run_thread = threading.current_thread()
            self._running = True
            for lane in self._lanes:
                lane.start(sequence, summary)
            for lane in self._lanes:
                lane.wait_started(self._start_timeout_s)

    def frameReady(
        self, image: np.ndarray[Any, Any], event: useq.MDAEvent, meta: Any
    ) -> None:
        """Queue a frame in every branch; wait only while a lossless one is full."""
        if not self._running:
            return
        for policy in ("latest", "lossless"):  # those that never wait come first
            for lane in self._lanes:
                if lane.branch.policy == policy:
                    lane.put(image, event, meta)
        if self._error is not None:
            self._cancel_untold()  # again: the runner can lose a request

    def sequenceFinished(self, sequence: useq.MDASequence) -> None:
        """End every branch and wait until all it was given is handled."""
        with self._run_lock:
            self._end_run()

    # ---- connection ----------------------------------------------------------

    @contextmanager
    def connected(self, runner: MDARunner) -> Iterator[ThreadRelay]:
        """Connect to a runner, for as many runs as are started in the block.

        An engine that has ``attach_relay`` and ``detach_relay`` is told, and raises
        the error out of ``run``; under another the run is cancelled. A run that still
        goes on in another thread is waited for on leaving.

        Raises
        ------
        RuntimeError
            If the relay is connected already.
        BaseException
            On leaving, the first error of a lossless branch that `raise_if_failed` has
            not yet raised in this thread, unless the block itself raised.
        """
        if self._runner is not None:
            msg = "this relay is connected already"
            raise RuntimeError(msg)
        self._owed, self._home_thread = None, threading.get_ident()
        with ExitStack() as leaving:
            leaving.callback(self._disconnected)
            self._tell(runner, leaving)
            for name in ("sequenceStarted", "frameReady", "sequenceFinished"):
                signal = getattr(runner.events, name)
                leaving.callback(_connect(signal, getattr(self, name)))
            yield from self._block()
            while self._runs_elsewhere() and runner.is_running():
                time.sleep(0.05)
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
            and thread is not threading.current_thread()
            and thread.is_alive()
        )

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
        error.add_note(f"(in branch {branch.name!r} of the relay)")
        with self._error_lock:
            if self._error is None:
                self._error = error
            if self._owed is None:
                self._owed = error
        self._cancel_untold()

    def _cancel_untold(self) -> None:
        """Cancel the run unless its engine raises the error itself."""
        runner = self._runner
        if runner is not None and runner.engine is not self._told_engine:
            runner.cancel()


def _settled(branches: tuple[object, ...], max_bytes: int) -> list[Branch]:
    """Return the branches with unique names and a limit each."""
    settled: list[Branch] = []
    for given in branches:
        branch = given if isinstance(given, Branch) else Branch(given)
        if any(branch.handler is other.handler for other in settled):
            msg = f"{branch.handler!r} is given twice"
            raise ValueError(msg)
        names = {other.name for other in settled}
        if branch.name in names:
            msg = f"two branches are called {branch.name!r}"
            raise ValueError(msg)
        limit = branch.max_bytes
        if limit is None:
            limit = max_bytes if branch.policy == "lossless" else 0
        name = branch.name or _free_name(type(branch.handler).__name__, names)
        settled.append(replace(branch, name=name, max_bytes=limit))
    return settled


def _free_name(base: str, taken: set[str]) -> str:
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base} {number}"
    return name


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
