"""`Connection`: a relay's tie to a runner, for as many runs as one block starts.

Separate from the relay, which is a handler like any other: here is what an ordinary
handler has not, the way back of an error. Knows no branches.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from opm_engine.relay.branch import FINISHED, FRAME, STARTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pymmcore_plus.mda import MDARunner

    from opm_engine.relay.activity import Activity
    from opm_engine.relay.latch import Latch

POLL_S = 0.02
"""Between looks at a runner that has no event for what is waited for, on leaving."""

logger = logging.getLogger(__name__)


class Connection:
    """A tie to a runner, or none.

    Parameters
    ----------
    activity : Activity
        Of the relay.
    latch : Latch
        Of the relay.
    """

    def __init__(self, activity: Activity, latch: Latch) -> None:
        self._activity = activity
        self._latch = latch
        self._runner: MDARunner | None = None
        self._told_engine: object = None

    @property
    def is_open(self) -> bool:
        """Whether there is a runner."""
        return self._runner is not None

    def cancel_untold(self) -> None:
        """Cancel the run unless its engine raises the error itself."""
        runner = self._runner
        if runner is not None and runner.engine is not self._told_engine:
            runner.cancel()

    @contextmanager
    def opened(
        self, runner: MDARunner, relay: Any, close: Callable[[], None], start_s: float
    ) -> Iterator[None]:
        """Connect a relay; see ``ThreadRelay.connected``.

        Parameters
        ----------
        runner : MDARunner
        relay : ThreadRelay
            Its three methods are connected, and the engine is told about it.
        close : callable
            Closes what an interrupted run left open.
        start_s : float
            How long a run may be about to start.
        """
        if self.is_open:
            msg = "this relay is connected already"
            raise RuntimeError(msg)
        self._latch.watch()
        self._activity.thread = None
        was_running = runner.is_running()  # for ever, if a run was interrupted
        if was_running:
            logger.warning(
                "a run goes on or was interrupted: "
                "frames of one that has started are not handed on"
            )
        with ExitStack() as leaving:
            leaving.callback(self._disconnected, close)
            self._tell(runner, relay, leaving)
            for name in (STARTED, FRAME, FINISHED):
                signal = getattr(runner.events, name)
                leaving.callback(_connect(signal, getattr(relay, name)))
            yield from self._block()
            self._wait_for_run(runner, start_s, was_running=was_running)
        if self._latch.owed is not None:
            raise self._latch.owed

    def _block(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            owed = self._latch.owed
            if owed is not None and owed is not error:
                logger.error("not raised: %r", owed)  # the block's own error wins
            raise

    def _tell(self, runner: MDARunner, relay: object, leaving: ExitStack) -> None:
        engine: Any = runner.engine
        self._runner = runner
        if callable(getattr(engine, "attach_relay", None)):
            engine.attach_relay(relay)
            self._told_engine = engine
            leaving.callback(engine.detach_relay, relay)

    def _wait_for_run(
        self, runner: MDARunner, start_s: float, *, was_running: bool
    ) -> None:
        """Wait for a run in another thread, even one that is only about to start."""
        activity = self._activity
        knows_nothing = was_running and activity.thread is None
        # A thread that was started just now may not have entered `run`.
        here = threading.current_thread()
        grace_s = {None: 0.5, here: 0.0}.get(activity.thread, 0.1)
        if not _wait_until(
            lambda: activity.running or (runner.is_running() and not knows_nothing),
            grace_s,
        ):
            return
        if not _wait_until(
            lambda: activity.running or not runner.is_running(), start_s
        ):
            logger.error("gave up a run that has not started: nothing of it is kept")
        _wait_until(lambda: not (activity.is_elsewhere() and runner.is_running()))

    def _disconnected(self, close: Callable[[], None]) -> None:
        close()
        self._runner = self._told_engine = None


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
