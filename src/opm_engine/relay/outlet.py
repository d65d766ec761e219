"""`Outlet`: reads what a stage hands on, from outside the pipeline.

Separate from the branches' handlers because it does nothing with what it gets: it keeps
it for an iterator, a callback or whoever asks for the latest. Knows no relay beyond the
budget that all that waits counts against.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from opm_engine.relay.branch import FRAME, PROJECTIONS
from opm_engine.relay.budget import Budget, memory_of
from opm_engine.relay.waiting import Queued, Waiting, channel_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import useq

    from opm_engine.relay.branch import Policy

Form = Literal["frameReady", "projectionsReady"]


class Item(NamedTuple):
    """What a stage handed on.

    Attributes
    ----------
    image : ndarray
        Plane (rows, columns) or volume (Z, Y, X), or the volume's projections if the
        outlet wants these. Read-only, and safe to keep.
    event : useq.MDAEvent
    meta : dict
    """

    image: Any
    event: useq.MDAEvent
    meta: Any


class Tie(NamedTuple):
    """What an outlet has from its relay."""

    budget: Budget
    error: Callable[[], Exception | None]
    resting: Callable[[], AbstractContextManager[None]]
    patience_s: float


class _Run:
    """What is there to read of one run."""

    def __init__(self, waiting: Waiting) -> None:
        self.waiting = waiting
        self.is_over = False
        self.error: Exception | None = None
        self.n_readers = 0
        self.is_read = False


class Outlet:
    """What a stage hands on, to be read; made by ``ThreadRelay.outlet``.

    For each run, `items` iterates over what comes; `connect` has it called back;
    `latest` is the newest, also after the run. One policy serves them all:

    - ``lossless``: what nobody has read yet waits, within the relay's budget and
      `max_bytes`. **An iterator that is not read then holds up the acquisition**, and
      after the relay's ``drain_timeout_s`` fails the run. With callbacks connected,
      nothing waits for iterators that do not exist.
    - ``latest``: only the newest of each channel waits (or the newest `max_bytes` of
      each); older ones are dropped whole and counted.

    Items are the same arrays as the other branches', read-only; nobody writes into
    them afterwards, so they may be kept.

    Attributes
    ----------
    wants : frozenset of str
        The form in which volumes come.
    """

    def __init__(
        self,
        policy: Policy = "lossless",
        max_bytes: int | None = None,
        wants: Form = FRAME,
    ) -> None:
        if wants not in (FRAME, PROJECTIONS):
            msg = f"wants must be {FRAME!r} or {PROJECTIONS!r}, not {wants!r}"
            raise ValueError(msg)
        self.wants = frozenset({wants})
        self._policy = policy
        self._max_bytes = max_bytes
        self._callbacks: tuple[Callable[[Item], object], ...] = ()
        self._latest: Item | None = None
        self._is_closed = False
        self._n_dropped = 0
        self.tie(Tie(Budget(1), lambda: None, nullcontext, 1.0))

    def tie(self, tie: Tie) -> None:
        """Belong to a relay; before any run, and before anybody reads."""
        self._tie = tie
        self._came = tie.budget.condition()
        self._run = self._new_run()
        self._run.is_over = self._run.is_read = True  # the first is still to come

    # ---- for whoever reads ---------------------------------------------------

    def items(self, timeout_s: float | None = None) -> Iterator[Item]:
        """Iterate over a run: this one, or the last if it was not read to its end.

        Else it waits for the next. Two iterators at a time share the items. An iterator
        that is left early may be followed by another; what nobody has read when the
        next run starts is dropped, unless an iterator is still open.

        Parameters
        ----------
        timeout_s : float, optional
            Longest wait for the next item; by default there is no limit.

        Raises
        ------
        TimeoutError
            If nothing came for that long.
        Exception
            At the end, the relay's error if the run has failed.
        """
        with self._reading(timeout_s) as run:
            while (item := self._next(run, timeout_s)) is not None:
                yield item
        run.is_read = True
        if run.error is not None:
            raise run.error

    def connect(self, callback: Callable[[Item], object]) -> None:
        """Have each `Item` handed to a callback, in the outlet's own thread.

        What it raises is the branch's error: it stops the run if the outlet is
        lossless, and is logged if not.
        """
        self._callbacks = (*self._callbacks, callback)

    def disconnect(self, callback: Callable[[Item], object]) -> None:
        """Call it no more."""
        self._callbacks = tuple(c for c in self._callbacks if c != callback)

    def latest(self) -> Item | None:
        """Return the newest item of this run, or of the last; None before the first."""
        return self._latest

    @property
    def n_dropped(self) -> int:
        """Items that came and were never read: older ones, or left over."""
        with self._came:
            return self._n_dropped + self._run.waiting.dropped

    def close(self) -> None:
        """Keep nothing any more, and hold nobody up; iterators end."""
        with self._came:
            self._is_closed = True
            self._run.is_over = True
            self._run.waiting.clear()
            self._came.notify_all()
            self._tie.budget.moved.notify_all()

    # ---- a handler -----------------------------------------------------------

    def sequenceStarted(self, sequence: useq.MDASequence, summary: Any) -> None:
        """Begin a run."""
        self._begin()

    def frameReady(self, image: Any, event: useq.MDAEvent, meta: Any) -> None:
        """Keep an item for those who read; wait for room if lossless.

        Raises
        ------
        TimeoutError
            If nobody has read for the relay's ``drain_timeout_s``.
        """
        item = Item(image, event, meta)
        self._latest = item
        callbacks = self._callbacks
        for callback in callbacks:
            callback(item)
        memory = memory_of(image)
        with self._came:
            run = self._run
            if self._is_closed or (callbacks and not run.n_readers):
                return
            if self._policy == "lossless":
                self._wait_for_room(lambda: run.waiting.has_room(memory))
            if not self._is_closed:
                run.waiting.offer(
                    Queued(
                        FRAME,
                        item,
                        memory,
                        perf_counter(),
                        channel=channel_of(event.index),
                    )
                )
                self._came.notify_all()

    projectionsReady = frameReady

    def sequenceFinished(self, sequence: useq.MDASequence) -> None:
        """End the run; what was not read yet may still be."""
        self._end(self._tie.error())

    def refused(self) -> None:
        """Tell who reads that a run was refused before it began."""
        self._begin()
        self._end(self._tie.error())

    # ---- shared --------------------------------------------------------------

    def _new_run(self) -> _Run:
        return _Run(Waiting(self._tie.budget, self._policy, self._max_bytes))

    def _begin(self) -> None:
        with self._came:
            earlier, self._run = self._run, self._new_run()
            self._run.is_over = self._is_closed
            self._latest = None
            if not earlier.n_readers:
                earlier.waiting.clear()
                self._n_dropped += earlier.waiting.dropped
            self._came.notify_all()

    def _end(self, error: Exception | None) -> None:
        with self._came:
            self._run.error = error
            self._run.is_over = True
            self._came.notify_all()

    def _wait_for_room(self, has_room: Callable[[], bool]) -> None:
        patience_s = self._tie.patience_s
        with self._tie.resting():
            done = self._tie.budget.moved.wait_for(
                lambda: self._is_closed or has_room(), patience_s
            )
        if not done:
            msg = (
                f"an outlet has not been read for {patience_s:g} s and has no room: "
                'read it, close() it, or make it policy="latest"'
            )
            raise TimeoutError(msg)

    @contextmanager
    def _reading(self, timeout_s: float | None) -> Iterator[_Run]:
        """Bind a reader to a run, once there is one that was not read to its end."""
        with self._came:
            found = self._came.wait_for(
                lambda: self._is_closed or not self._run.is_read, timeout_s
            )
            if not found:
                raise TimeoutError(f"no run has begun for {timeout_s:g} s")
            run = self._run
            run.n_readers += 1
        try:
            yield run
        finally:
            with self._came:
                run.n_readers -= 1
                if run is not self._run and not run.n_readers:
                    run.waiting.clear()
                    self._n_dropped += run.waiting.dropped

    def _next(self, run: _Run, timeout_s: float | None) -> Item | None:
        """Return the next item, or None at the end."""
        began_s = monotonic()
        with self._came:
            if not self._came.wait_for(lambda: run.waiting or run.is_over, timeout_s):
                waited_s = monotonic() - began_s
                raise TimeoutError(f"nothing came for {waited_s:.3g} s")
            return Item(*run.waiting.take().args) if run.waiting else None
