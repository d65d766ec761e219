"""`Lane`: a branch of a relay during one run: a bounded queue and a thread.

Separate from `ThreadRelay` so that isolation can be seen in one place: the only line
at which a handler's exception is caught is here. Knows no runner, no engine and no
other branch.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

from opm_engine.plan import wants_of
from opm_engine.relay.branch import (
    CHECK,
    FINISHED,
    FRAME,
    NOTE,
    SLAB,
    STARTED,
    log_error,
    needs_whole_volumes,
)
from opm_engine.relay.budget import NOTHING, Memory
from opm_engine.relay.fitting import announced, is_offered_in_parts, refuse_untaken
from opm_engine.relay.stats import BranchStats, Meter
from opm_engine.relay.waiting import Queued, Waiting, channel_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import useq

    from opm_engine.plan import Stream
    from opm_engine.relay.branch import Branch
    from opm_engine.relay.budget import Budget
    from opm_engine.relay.waiting import Volume


class Arrival(NamedTuple):
    """What one call brings to all lanes: ``method(data, *between, event, meta)``."""

    method: str
    data: Any
    between: tuple[int, ...]
    event: useq.MDAEvent
    meta: Any
    memory: Memory
    misfit: str


class Lane:
    """A branch during one run.

    `check` comes first and from the caller's thread. Then one thread, started by
    `start`, calls ``sequenceStarted``, then the handler's method for each frame and
    note in the order in which they came, then after `close` ``sequenceFinished``,
    exactly once and even after an error, so that the handler can close its files.
    Nothing here raises what a handler raised. What comes before the start is dropped.

    Parameters
    ----------
    branch : Branch
        With its name settled.
    budget : Budget
        Of the whole tree.
    hang_s : float
        A call that lasts longer makes those who wait for this branch give it up.
    on_error : callable
        Called once, with the branch and its first error, from any thread.
    resting : callable
        Returns a context for waits, in which whoever calls this lane is not judged:
        this lane's own deadline counts instead.
    """

    def __init__(
        self,
        branch: Branch,
        budget: Budget,
        hang_s: float,
        on_error: Callable[[Branch, BaseException], None],
        resting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.branch = branch
        self._budget = budget
        self._hang_s = hang_s
        self._on_error = on_error
        self._resting = resting
        self._callbacks = branch.callbacks()
        self._raise_if_failed = getattr(branch.handler, "raise_if_failed", lambda: None)
        self._wants = wants_of(branch.handler)
        self._gets_all_frames = True
        self._takes_whole = needs_whole_volumes(branch.handler)
        self._arrived = budget.condition()
        self._waiting = Waiting(budget, branch.policy, branch.max_bytes)
        self._received = self._handled = self._dropped = 0
        self._latency_ms = 0.0
        self._meter = Meter()
        self._calling = ""
        self._busy_since_s: float | None = None
        self._started = self._closed = self._ended = True
        self._waits = branch.policy == "lossless"
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._earlier_thread: threading.Thread | None = None

    def successor(
        self, budget: Budget | None = None, hang_s: float | None = None
    ) -> Lane:
        """Return a lane for the next run, which remembers a thread that still hangs."""
        budget, hang_s = budget or self._budget, hang_s or self._hang_s
        lane = Lane(self.branch, budget, hang_s, self._on_error, self._resting)
        lane._earlier_thread = self._thread or self._earlier_thread
        return lane

    @property
    def stats(self) -> BranchStats:
        """What this branch has done; may be read from any thread."""
        waiting = self._waiting
        with self._budget.moved:
            frames_per_s, bytes_per_s = self._meter.rates()
            return BranchStats(
                name=self.branch.name,
                policy=self.branch.policy,
                received=self._received,
                handled=self._handled,
                dropped=self._dropped + waiting.dropped,
                backlog_frames=waiting.n_frames,
                backlog_bytes=waiting.n_bytes,
                latency_ms=self._latency_ms,
                error=self._error,
                peak_bytes=waiting.peak_bytes,
                volumes_dropped=waiting.volumes_dropped,
                frames_per_s=frames_per_s,
                bytes_per_s=bytes_per_s,
            )

    # ---- called by the relay ------------------------------------------------

    def check(self, sequence: useq.MDASequence, summary: Any) -> None:
        """Let the handler refuse the run; refuse if its last call still hangs."""
        if self._earlier_thread is not None and self._earlier_thread.is_alive():
            msg = "still hangs in a call of an earlier run"
            self.fail(RuntimeError(f"branch {self.branch.name!r} {msg}"))
            return
        try:
            stream = announced(summary)
        except ValueError as error:
            self.fail(error)
            return
        self.expect(stream)
        self._gets_all_frames = FRAME in self._wants or not is_offered_in_parts(stream)
        self._call(CHECK, sequence, copy(summary))

    def expect(self, stream: Stream | None) -> None:
        """Fail unless the handler takes what is announced."""
        if stream is None:
            return
        try:
            refuse_untaken(self.branch.handler, stream)
        except ValueError as error:
            self.fail(error)

    def start(self, sequence: useq.MDASequence, summary: Any) -> None:
        """Start the thread, unless the run was refused."""
        if self._error is not None:
            return
        self._started = self._closed = self._ended = False
        self._meter = Meter()
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

    def put(self, arrival: Arrival) -> None:
        """Queue what the handler wants; if lossless, wait for room while it moves on.

        A handler that wants slabs or projections gets frames too, unless the source
        serves volumes in all these forms.
        """
        arrived_s = time.perf_counter()
        method, memory = arrival.method, arrival.memory
        wanted = method in self._wants or (method == FRAME and self._gets_all_frames)
        if not wanted:
            return
        if arrival.misfit:
            self.fail(ValueError(f"branch {self.branch.name!r}: {arrival.misfit}"))
        args = arrival.data, *arrival.between, arrival.event, copy(arrival.meta)
        volume, channel = self._volume_of(arrival), channel_of(arrival.event.index)
        item = Queued(method, args, memory, arrived_s, volume, channel)

        def has_room() -> bool:
            return not self._waits or self._waiting.has_room(memory)

        with self._budget.moved:
            if has_room():
                self._accept(item)
                return
        self._wait(has_room, self._hang_s)
        with self._budget.moved:
            self._accept(item)

    def note(self, note: object) -> None:
        """Queue a note if the handler takes notes; never waits."""
        if NOTE not in self._callbacks:
            return
        with self._budget.moved:
            if self._error is not None or self._closed:
                return
            self._waiting.offer(Queued(NOTE, (note,), NOTHING, time.perf_counter()))
            self._arrived.notify()

    def stop_waiting(self) -> None:
        """Let go of a `put` that waits for room; from now on none waits."""
        with self._budget.moved:
            self._waits = False
            self._budget.moved.notify_all()

    def close(self) -> None:
        """Say that no frame follows; returns at once."""
        with self._budget.moved:
            self._closed = True
            self._arrived.notify()

    def wait_ended(self) -> None:
        """Return when the thread has ended, or is given up because it hangs."""
        if self._wait(lambda: self._ended, self._hang_s) and self._thread is not None:
            self._thread.join()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Do not count time against the handler's call: it waits for others.

        For relays among its outputs, which have deadlines of their own and name who
        hangs. Does nothing in another thread than the one that calls the handler.
        """
        if threading.current_thread() is not self._thread:
            yield
            return
        self._busy_since_s = None
        try:
            yield
        finally:
            self._busy_since_s = time.monotonic()

    def fail(self, error: BaseException) -> None:
        """Latch the first error, let go of what waits, and tell the relay."""
        with self._budget.moved:
            earlier = self._error
            if earlier is None:
                self._error = error
                self._waiting.clear()
                self._budget.moved.notify_all()
        if earlier is None:
            self._on_error(self.branch, error)
        elif error is not earlier:
            log_error(self.branch, error, logging.ERROR)

    # ---- the thread ---------------------------------------------------------

    def _run(self, sequence: useq.MDASequence, summary: Any) -> None:
        try:
            self._call(STARTED, sequence, summary)
            with self._budget.moved:
                self._started = True
                self._budget.moved.notify_all()
            while (item := self._next()) is not None:
                self._handle(item)
            self._call(FINISHED, sequence)
        finally:
            with self._budget.moved:
                self._started = self._ended = True
                self._budget.moved.notify_all()

    def _next(self) -> Queued | None:
        with self._arrived:
            self._arrived.wait_for(lambda: self._waiting or self._closed)
            return self._waiting.take() if self._waiting else None

    def _handle(self, item: Queued) -> None:
        done = self._call(item.method, *item.args)
        if item.method == NOTE:
            return
        with self._budget.moved:
            if done:
                self._handled += 1
                self._meter.add(item.memory.n_bytes)
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
            self.fail(error)
            return False
        finally:
            self._busy_since_s = None
        return True

    # ---- shared -------------------------------------------------------------

    def _accept(self, item: Queued) -> None:
        """Count what has come and queue it; the caller holds the lock."""
        self._received += 1
        if self._error is not None or self._closed:
            self._dropped += 1
            return
        self._waiting.offer(item)
        self._arrived.notify()

    def _volume_of(self, arrival: Arrival) -> Volume | None:
        """Return which volume a part belongs to, where that decides its fate."""
        in_parts = arrival.method == SLAB or (
            arrival.method == FRAME and self._takes_whole
        )
        if self.branch.policy == "lossless" or not in_parts:
            return None
        index = arrival.event.index
        return tuple(sorted((axis, i) for axis, i in index.items() if axis != "z"))

    def _wait(self, done: Callable[[], bool], hang_s: float) -> bool:
        """Wait until `done`, or fail the branch when one call has lasted `hang_s`."""
        moved = self._budget.moved
        with moved:
            if done() or self._ended:
                return True
        with self._resting(), moved:
            while not (done() or self._ended):
                left_s = hang_s
                if (since_s := self._busy_since_s) is not None:
                    left_s += since_s - time.monotonic()
                if left_s <= 0:
                    break
                moved.wait(left_s)
            else:
                return True
            msg = f"{self._calling} has not returned for {hang_s:g} s"
        self.fail(TimeoutError(f"branch {self.branch.name!r} hangs: {msg}"))
        return False
