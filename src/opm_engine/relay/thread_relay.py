"""`ThreadRelay`: hands each frame of a run to several handlers, each in its own thread.

Separate from the engine, which must never wait for a viewer, and from the handlers,
which need not know of one another. Each branch is isolated (`lane`), relays within
relays are found in `node`; here is what branches share in a run: the handler's face
towards the source, and the way back of an error. Knows nothing of plans, devices or
files.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from psygnal import Signal

from opm_engine.relay.activity import Activity
from opm_engine.relay.branch import CHECK, FRAME, PROJECTIONS, SLAB, Branch, log_error
from opm_engine.relay.budget import Budget, memory_of, read_only
from opm_engine.relay.connection import Connection
from opm_engine.relay.fitting import announced, misfit, refuse_untaken
from opm_engine.relay.lane import Arrival
from opm_engine.relay.latch import Latch, raisable
from opm_engine.relay.node import Limits, Node
from opm_engine.relay.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Iterator

    import useq
    from pymmcore_plus.mda import MDARunner

    from opm_engine.plan import Stream
    from opm_engine.relay.node import Seat

logger = logging.getLogger(__name__)


class ThreadRelay(Node):
    """Hands frames to branches, each with its own thread, bounded queue and fate.

    Itself an ordinary pymmcore-plus handler. Connected by `connected`, the first error
    of a lossless branch stops the run; under the stock relay there is no way back:
    errors are logged and stay readable in `error` and `stats`.

    The branches share each image, which they cannot write into and may keep: nobody
    writes into it afterwards. Each has a metadata dict of its own, but not of what is
    in it: read that, do not change it.

    Before any branch begins, each handler that has ``checkSequence`` may refuse the
    run; then none begins it, so that nothing has to be undone. Where the run announces
    a `Stream`, its shape, dtype and units are judged then, and compared with what each
    handler ``takes``. Every frame and slab is compared with what was announced; a
    misfit is the error of each branch that should have had it.

    A handler that never returns is given up after its deadline and named in the error;
    the runner goes on. While it still hangs, later runs with this relay are refused;
    once it returns, they work. Frames that it never took count as dropped.

    **Trees.** A handler with ``outputs`` makes a chain; a relay among them is a fork:
    ``ThreadRelay(writer, Deskew(outputs=[ThreadRelay(writer, latest(viewer))]))``. It
    takes volumes in all forms (see `wants`) and passes to each branch the form that it
    wants. The outermost relay finds those below it: its `max_bytes` and deadlines count
    for all of them, whatever they were given themselves, and an error of a lossless
    branch goes up to it at once. No handler may be in two places.

    Parameters
    ----------
    *branches : handler or Branch
        A bare handler becomes a lossless branch; `latest` makes the other kind.
    max_bytes : int
        Bytes of frames that may wait in all branches of the tree together, an array
        that waits in several counted once; each may hold one item in any case, and
        ``latest`` branches hold no more than one of each channel beyond it (or one time
        point, of volumes in parts). When it is full the acquisition waits, which pushes
        back into the camera's circular buffer; see `stop_waiting`.
    start_timeout_s : float
        How long a handler's ``sequenceStarted`` may take.
    drain_timeout_s : float
        How long any other single call of a handler may take before a full queue or
        the end of the run no longer wait for it. A slow handler that moves on is
        waited for.

    Attributes
    ----------
    stats_changed : psygnal.Signal
        Emits `stats` about four times a second during a run, and at its end, from a
        thread of its own: a listener that raises is logged, one that blocks misses
        the rest of the run.

    Raises
    ------
    TypeError
        If an argument is not a handler.
    ValueError
        If a handler or a branch's name is given twice, a relay is within another
        already, or a limit is not positive.
    """

    stats_changed: ClassVar[Signal] = Signal(tuple)

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
        self._run_lock = threading.Lock()
        self._activity, self._latch = Activity(), Latch()
        self._connection = Connection(self._activity, self._latch)
        self._publisher = Publisher(self._publish)
        self._stream: Stream | None = None
        shared = Limits(Budget(max_bytes), start_timeout_s, drain_timeout_s)
        super().__init__(branches, shared)

    @property
    def error(self) -> Exception | None:
        """What `raise_if_failed` raises, in this run, or did in the last."""
        return self._latch.error

    def raise_if_failed(self) -> None:
        """Raise the first error of a lossless branch in this run: the handler's own.

        A RuntimeError stands for one that would not reach the caller of ``run`` as what
        it is (StopIteration, KeyboardInterrupt, SystemExit), which is its cause.

        Cheap: an engine calls it before it arms and for every frame.
        """
        self._latch.raise_if_set()

    # ---- a handler, towards the source: nothing here raises ------------------

    def sequenceStarted(self, sequence: useq.MDASequence, summary: Any) -> None:
        """Start every branch and wait until its handler has accepted the run.

        If one refuses it beforehand, none is started, unless the run goes on anyway.
        """
        with self._run_lock:
            if self._is_foreign("sequenceStarted"):
                return
            self._end_run()  # one that was interrupted and never finished
            self._latch.release()
            self._lanes = tuple(lane.successor() for lane in self._lanes)
            self._activity.begin()
            self._prepare(summary)
            for lane in self._lanes:
                lane.check(sequence, summary)
            if self.error is not None and self._has_way_back:
                self._tell_readers()
                return  # the engine raises it before it arms
            if self._seat is None:
                self._publisher.start()
            for lane in self._lanes:
                lane.start(sequence, summary)
            for lane in self._lanes:
                lane.wait_started(self._limits.start_timeout_s)

    def frameReady(self, image: Any, event: useq.MDAEvent, meta: Any) -> None:
        """Queue a frame in every branch; wait only while a lossless one is full."""
        self._hand_on(FRAME, image, (), event, meta)

    def slabReady(
        self, slab: Any, first_row: int, event: useq.MDAEvent, meta: Any
    ) -> None:
        """Queue a slab (Z, h, X) of a volume in every branch that wants slabs."""
        self._hand_on(SLAB, slab, (first_row,), event, meta)

    def projectionsReady(
        self, projections: Any, event: useq.MDAEvent, meta: Any
    ) -> None:
        """Queue a volume's projections in every branch that wants them."""
        self._hand_on(PROJECTIONS, projections, (), event, meta)

    def noteReady(self, note: object) -> None:
        """Queue a note, in order with the frames, where the handler takes notes.

        Never waits. A lossless branch drops none; a ``latest`` one keeps the newest
        thousand. Without a run nothing happens.
        """
        if self._activity.running:
            for lane in self._lanes:
                lane.note(note)

    note = noteReady  # as an engine calls it

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
        stream = announced(summary)
        for branch in self.branches:
            if branch.policy == "latest":
                continue
            try:
                if stream is not None:
                    refuse_untaken(branch.handler, stream)
                check = branch.callbacks().get(CHECK)
                if check is not None:
                    check(sequence, summary)
            except Exception as error:
                error.add_note(_note(branch))
                raise

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
            If the relay is connected already, or is part of another. On leaving, if
            frames came of a run that had started before.
        Exception
            On leaving, the first error of a lossless branch that `raise_if_failed` has
            not yet raised in this thread, unless the block itself raised.
        """
        if self._above() is not None:
            msg = "this relay is part of another: connect that one"
            raise RuntimeError(msg)
        start_s = self._limits.start_timeout_s
        with self._connection.opened(runner, self, self._close, start_s):
            yield self

    def _close(self) -> None:
        """Close what an interrupted run left open."""
        with self._run_lock:
            self._end_run()

    # ---- shared --------------------------------------------------------------

    def _hand_on(
        self,
        method: str,
        data: Any,
        between: tuple[int, ...],
        event: useq.MDAEvent,
        meta: Any,
    ) -> None:
        if not self._activity.running:
            self._missed()
            return
        if self._activity.is_elsewhere():
            return  # of the run whose start was ignored
        wrong = self._misfit(method, data, between, meta)
        data = read_only(data)  # no branch can spoil it for another
        memory = memory_of(data)
        arrival = Arrival(method, data, between, event, meta, memory, wrong)
        for policy in ("latest", "lossless"):  # those that never wait come first
            for lane in self._lanes:
                if lane.branch.policy == policy:
                    lane.put(arrival)
        if self.error is not None:
            self._connection.cancel_untold()  # again: the runner can lose a request

    def _misfit(
        self, method: str, data: Any, between: tuple[int, ...], meta: Any
    ) -> str:
        """Return in what data are not as announced; they may announce it themselves."""
        try:
            stream = announced(meta)
        except ValueError as error:
            return str(error)
        if stream is not None and stream != self._stream:
            self._stream = stream
            for lane in self._lanes:
                lane.expect(stream)
        if method == PROJECTIONS:
            return ""
        return misfit(self._stream, data, *between)

    def _prepare(self, summary: Any) -> None:
        """Look again at what lies below and at what is announced."""
        try:
            self._adopt()
            self._stream = None
            self._stream = announced(summary)
        except ValueError as error:
            self._latch.set(error)

    def _end_run(self) -> None:
        if not self._activity.running:
            return
        self._activity.end()
        for lane in self._lanes:
            lane.close()
        for lane in self._lanes:
            lane.wait_ended()
        for relay in self._below():
            if isinstance(relay, ThreadRelay):
                relay._end_abandoned()
        self._publisher.stop()

    def _end_abandoned(self) -> None:
        """End what a handler has begun and, because it failed or hangs, not ended."""
        if self._run_lock.acquire(blocking=False):  # else it is just being ended
            try:
                self._end_run()
            finally:
                self._run_lock.release()

    def _is_foreign(self, signal: str) -> bool:
        """Whether a signal comes from a second run at the same time; the first counts.

        The runner does not prevent one.
        """
        if not self._activity.is_elsewhere():
            return False
        logger.error("%s of a second run is ignored: the first still goes on", signal)
        return True

    def _missed(self) -> None:
        """Owe an error for a frame of a run whose start was not seen."""
        if self._connection.is_open:
            msg = "frames came of a run that had started: connect before it starts"
            self._latch.owe(RuntimeError(msg))

    @property
    def _has_way_back(self) -> bool:
        return self._connection.is_open or self._above() is not None

    def _branch_failed(self, branch: Branch, error: BaseException) -> None:
        """Latch a branch's first error and send it up; called from any thread."""
        lossless = branch.policy == "lossless"
        returns = lossless and self._has_way_back
        log_error(branch, error, logging.INFO if returns else logging.ERROR)
        if not lossless:
            return
        raised = raisable(error, branch.name)
        raised.add_note(_note(branch))
        self._latch.set(raised)
        above = self._seat and self._seat.lane()
        if above is not None:
            above.fail(raised)
        self._connection.cancel_untold()

    def _publish(self) -> None:
        if len(self.stats_changed):
            self.stats_changed.emit(self.stats)

    def _refuse_running(self) -> None:
        if self._activity.running:
            msg = "a run goes on: add branches and outlets before or after it"
            raise RuntimeError(msg)

    def _join(self, seat: Seat, limits: Limits) -> None:
        if self._connection.is_open:
            msg = "a relay below a handler is connected to a runner itself"
            raise ValueError(msg)
        super()._join(seat, limits)

    def _fork(self, branch: Branch) -> Node:
        return ThreadRelay(branch)


def _note(branch: Branch) -> str:
    return f"(in branch {branch.name!r} of the relay)"
