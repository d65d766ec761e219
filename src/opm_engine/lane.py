"""`Lane`: a branch of a relay during one run: a bounded queue and a thread.

Separate from `ThreadRelay` so that isolation can be seen in one place: the only line
at which a handler's exception is caught is here. Knows no runner, no engine and no
other branch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from copy import copy
from typing import TYPE_CHECKING, NamedTuple

from opm_engine.branch import CHECK, BranchStats, log_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import numpy as np
    import useq

    from opm_engine.branch import Branch

MAX_NOTES = 1000
"""That wait in a branch that does not wait itself; beyond, the oldest goes."""

_FRAME, _NOTE = "frameReady", "noteReady"


class _Item(NamedTuple):
    """A frame or a note on its way to the handler's method of that name."""

    method: str
    args: tuple[Any, ...]
    n_bytes: int
    arrived_s: float


class Lane:
    """A branch during one run.

    `check` comes first and from the caller's thread. Then one thread, started by
    `start`, calls ``sequenceStarted``, then ``frameReady`` and ``noteReady`` for each
    frame and note in the order in which they came, then after `close`
    ``sequenceFinished``, exactly once and even after an error, so that the handler can
    close its files. Nothing here raises what a handler raised. What comes before the
    start is dropped.

    Parameters
    ----------
    branch : Branch
        With its name and limit settled.
    hang_s : float
        A call that lasts longer makes those who wait for this branch give it up.
    on_error : callable
        Called once, with the branch and its first error, from any thread.
    """

    def __init__(
        self,
        branch: Branch,
        hang_s: float,
        on_error: Callable[[Branch, BaseException], None],
    ) -> None:
        self.branch = branch
        self._max_bytes = branch.max_bytes or 0
        self._hang_s = hang_s
        self._on_error = on_error
        self._callbacks = branch.callbacks()
        self._raise_if_failed = getattr(branch.handler, "raise_if_failed", lambda: None)
        self._changed = threading.Condition()
        self._queue: deque[_Item] = deque()
        self._queued_frames = self._queued_bytes = 0
        self._received = self._handled = self._dropped = 0
        self._latency_ms = 0.0
        self._calling = ""
        self._busy_since_s: float | None = None
        self._started = self._closed = self._ended = True
        self._waits = branch.policy == "lossless"
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._earlier_thread: threading.Thread | None = None

    def successor(self) -> Lane:
        """Return a lane for the next run, which remembers a thread that still hangs."""
        lane = Lane(self.branch, self._hang_s, self._on_error)
        lane._earlier_thread = self._thread or self._earlier_thread
        return lane

    @property
    def stats(self) -> BranchStats:
        """What this branch has done; may be read from any thread."""
        with self._changed:
            return BranchStats(
                self.branch.name,
                self.branch.policy,
                self._received,
                self._handled,
                self._dropped,
                self._queued_frames,
                self._queued_bytes,
                self._latency_ms,
                self._error,
            )

    # ---- called by the relay ------------------------------------------------

    def check(self, sequence: useq.MDASequence, summary: Any) -> None:
        """Let the handler refuse the run; refuse if its last call still hangs."""
        if self._earlier_thread is not None and self._earlier_thread.is_alive():
            msg = "still hangs in a call of an earlier run"
            self._fail(RuntimeError(f"branch {self.branch.name!r} {msg}"))
        else:
            self._call(CHECK, sequence, copy(summary))

    def start(self, sequence: useq.MDASequence, summary: Any) -> None:
        """Start the thread, unless the run was refused."""
        if self._error is not None:
            return
        self._started = self._closed = self._ended = False
        self._thread = threading.Thread(
            target=self._run,
            args=(sequence, copy(summary)),
            name=f"relay-{self.branch.name}",
            daemon=True,
        )
        self._thread.start()

    def wait_started(self, hang_s: float) -> None:
        """Return when ``sequenceStarted`` has, or has lasted `hang_s` seconds."""
        self._wait(lambda: self._started, hang_s)

    def put(self, image: np.ndarray[Any, Any], event: useq.MDAEvent, meta: Any) -> None:
        """Queue a frame; if lossless, wait for room while the handler moves on."""
        args = image, event, copy(meta)
        frame = _Item(_FRAME, args, image.nbytes, time.perf_counter())
        if self._waits:
            self._wait(
                lambda: not self._waits or self._has_room(frame.n_bytes), self._hang_s
            )
        with self._changed:
            self._received += 1
            if self._error is not None or self._closed:
                self._dropped += 1
                return
            while self.branch.policy == "latest" and not self._has_room(frame.n_bytes):
                self._drop_oldest(_FRAME)
            self._append(frame)

    def note(self, note: object) -> None:
        """Queue a note if the handler takes notes; never waits."""
        if _NOTE not in self._callbacks:
            return
        with self._changed:
            if self._error is not None or self._closed:
                return
            n_notes = len(self._queue) - self._queued_frames
            if self.branch.policy == "latest" and n_notes >= MAX_NOTES:
                self._drop_oldest(_NOTE)
            self._append(_Item(_NOTE, (note,), 0, time.perf_counter()))

    def stop_waiting(self) -> None:
        """Let go of a `put` that waits for room; from now on none waits."""
        with self._changed:
            self._waits = False
            self._changed.notify_all()

    def close(self) -> None:
        """Say that no frame follows; returns at once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_ended(self) -> None:
        """Return when the thread has ended, or is given up because it hangs."""
        if self._wait(lambda: self._ended, self._hang_s) and self._thread is not None:
            self._thread.join()

    # ---- the thread ---------------------------------------------------------

    def _run(self, sequence: useq.MDASequence, summary: Any) -> None:
        try:
            self._call("sequenceStarted", sequence, summary)
            with self._changed:
                self._started = True
                self._changed.notify_all()
            while (item := self._next()) is not None:
                self._handle(item)
            self._call("sequenceFinished", sequence)
        finally:
            with self._changed:
                self._started = self._ended = True
                self._changed.notify_all()

    def _next(self) -> _Item | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            return self._take(0) if self._queue else None

    def _handle(self, item: _Item) -> None:
        done = self._call(item.method, *item.args)
        if item.method != _FRAME:
            return
        with self._changed:
            if done:
                self._handled += 1
            else:
                self._dropped += 1
            self._latency_ms = (time.perf_counter() - item.arrived_s) * 1e3

    def _call(self, name: str, *args: object) -> bool:
        """Call one of the handler's methods; return whether it went well."""
        self._calling, self._busy_since_s = name, time.monotonic()
        try:
            if name in self._callbacks:
                self._callbacks[name](*args)
            if name != CHECK:  # it may know only of an earlier run
                self._raise_if_failed()
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything
            self._fail(error)
            return False
        finally:
            self._busy_since_s = None
        return True

    # ---- the queue; the caller holds the lock -------------------------------

    def _has_room(self, n_bytes: int) -> bool:
        fits = self._queued_bytes + n_bytes <= self._max_bytes
        return fits or not self._queued_frames

    def _append(self, item: _Item) -> None:
        self._queue.append(item)
        self._queued_frames += item.method == _FRAME
        self._queued_bytes += item.n_bytes
        self._changed.notify_all()

    def _take(self, number: int) -> _Item:
        item = self._queue[number]
        del self._queue[number]
        self._queued_frames -= item.method == _FRAME
        self._queued_bytes -= item.n_bytes
        self._changed.notify_all()
        return item

    def _drop_oldest(self, method: str) -> None:
        number = next(n for n, item in enumerate(self._queue) if item.method == method)
        self._take(number)
        self._dropped += method == _FRAME

    # ---- shared -------------------------------------------------------------

    def _wait(self, done: Callable[[], bool], hang_s: float) -> bool:
        """Wait until `done`, or fail the branch when one call has lasted `hang_s`."""
        with self._changed:
            while not (done() or self._ended):
                left_s = hang_s
                if (since_s := self._busy_since_s) is not None:
                    left_s += since_s - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
            else:
                return True
            msg = f"{self._calling} has not returned for {hang_s:g} s"
        self._fail(TimeoutError(f"branch {self.branch.name!r} hangs: {msg}"))
        return False

    def _fail(self, error: BaseException) -> None:
        """Latch the first error, let go of what waits, and tell the relay."""
        with self._changed:
            earlier = self._error
            if earlier is None:
                self._error = error
                self._dropped += self._queued_frames
                self._queue.clear()
                self._queued_frames = self._queued_bytes = 0
                self._changed.notify_all()
        if earlier is None:
            self._on_error(self.branch, error)
        elif error is not earlier:
            log_error(self.branch, error, logging.ERROR)
