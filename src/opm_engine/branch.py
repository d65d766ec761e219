"""One branch of a relay: a bounded queue, a thread, and the handler it feeds.

Separate from `ThreadRelay` so that isolation can be seen in one place: the only line
at which a handler's exception is caught is here. Knows no runner, no engine and no
other branch.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections import deque
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import numpy as np
    import useq

Policy = Literal["lossless", "latest"]

_ARGUMENTS = {"sequenceStarted": 2, "frameReady": 3, "sequenceFinished": 1}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Branch:
    """A handler and what its queue does when it is full.

    Parameters
    ----------
    handler : object
        Has at least one of ``sequenceStarted(sequence, summary)``,
        ``frameReady(image, event, meta)`` and ``sequenceFinished(sequence)``; each may
        take fewer of these arguments. All of its calls come from one thread. If it has
        ``raise_if_failed()``, as a relay has, that is called after each of them.
    policy : {"lossless", "latest"}
        ``lossless``: the acquisition waits for room. ``latest``: the newest frame
        wins, older ones that still wait are dropped whole and counted.
    name : str, optional
        For errors and statistics; by default the handler's class.
    max_bytes : int, optional
        Bytes of frames that may wait; one more frame may be in the handler's hands,
        and a single larger one may wait alone. By default the relay's limit if
        lossless, one frame if latest.

    Raises
    ------
    TypeError
        If `handler` has none of the methods, or one that cannot be called so.
    ValueError
        If `policy` or `max_bytes` makes no sense.
    """

    handler: object
    policy: Policy = "lossless"
    name: str = ""
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            msg = f"policy must be one of {get_args(Policy)}, not {self.policy!r}"
            raise ValueError(msg)
        if self.max_bytes is not None and self.max_bytes < 0:
            msg = f"max_bytes must not be negative, but is {self.max_bytes}"
            raise ValueError(msg)
        self.callbacks()

    def callbacks(self) -> dict[str, Callable[..., object]]:
        """Return the handler's methods by name, each taking the full arguments."""
        handler = None if isinstance(self.handler, type) else self.handler
        found = {
            name: _trimmed(method, count)
            for name, count in _ARGUMENTS.items()
            if callable(method := getattr(handler, name, None))
        }
        if not found:
            msg = f"{self.handler!r} is not a handler: it needs one of " + ", ".join(
                _ARGUMENTS
            )
            raise TypeError(msg)
        return found


def latest(handler: object, name: str = "", max_bytes: int | None = None) -> Branch:
    """Return a branch that drops old frames instead of holding up the acquisition."""
    return Branch(handler, "latest", name, max_bytes)


@dataclass(frozen=True)
class BranchStats:
    """What one branch has done in this run, or did in the last.

    At the end of a run ``received == handled + dropped``; before, the rest waits
    (`backlog_frames`, `backlog_bytes`) or is in the handler's hands. Frames that
    arrived after an error are dropped. `latency_ms` is the time from the last handled
    frame's arrival until its handler returned.
    """

    name: str
    policy: Policy
    received: int
    handled: int
    dropped: int
    backlog_frames: int
    backlog_bytes: int
    latency_ms: float
    error: BaseException | None


class _Frame(NamedTuple):
    image: np.ndarray[Any, Any]
    event: useq.MDAEvent
    meta: Any
    arrived_s: float


class Lane:
    """A branch during one run.

    One thread, started by `start`, calls ``sequenceStarted``, then ``frameReady`` for
    each frame, then after `close` ``sequenceFinished``, exactly once and even after an
    error, so that the handler can close its files. Nothing here raises what a handler
    raised.

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
        self._check = getattr(branch.handler, "raise_if_failed", lambda: None)
        self._changed = threading.Condition()
        self._queue: deque[_Frame] = deque()
        self._queued_bytes = 0
        self._received = self._handled = self._dropped = 0
        self._latency_ms = 0.0
        self._calling = ""
        self._busy_since_s: float | None = None
        self._started = self._closed = self._ended = False
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
                len(self._queue),
                self._queued_bytes,
                self._latency_ms,
                self._error,
            )

    # ---- called by the relay ------------------------------------------------

    def start(self, sequence: useq.MDASequence, summary: Any) -> None:
        """Start the thread; refuse if that of an earlier run still hangs."""
        if self._earlier_thread is not None and self._earlier_thread.is_alive():
            self._started = self._ended = True
            msg = "still hangs in a call of an earlier run"
            self._fail(RuntimeError(f"branch {self.branch.name!r} {msg}"))
            return
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
        frame = _Frame(image, event, copy(meta), time.perf_counter())
        lossless = self.branch.policy == "lossless"
        if lossless:
            self._wait(lambda: self._has_room(image.nbytes), self._hang_s)
        with self._changed:
            self._received += 1
            if self._error is not None or self._closed:
                self._dropped += 1
                return
            while not (lossless or self._has_room(image.nbytes)):
                self._pop()
                self._dropped += 1
            self._queue.append(frame)
            self._queued_bytes += image.nbytes
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
            while (frame := self._next()) is not None:
                self._handle(frame)
            self._call("sequenceFinished", sequence)
        finally:
            with self._changed:
                self._started = self._ended = True
                self._changed.notify_all()

    def _next(self) -> _Frame | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            if not self._queue:
                return None
            frame = self._pop()
            self._changed.notify_all()
            return frame

    def _handle(self, frame: _Frame) -> None:
        done = self._call("frameReady", frame.image, frame.event, frame.meta)
        with self._changed:
            if done:
                self._handled += 1
            else:
                self._dropped += 1
            self._latency_ms = (time.perf_counter() - frame.arrived_s) * 1e3

    def _call(self, name: str, *args: object) -> bool:
        """Call one of the handler's methods; return whether it went well."""
        self._calling, self._busy_since_s = name, time.monotonic()
        try:
            if name in self._callbacks:
                self._callbacks[name](*args)
            self._check()
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything
            self._fail(error)
            return False
        finally:
            self._busy_since_s = None
        return True

    # ---- shared -------------------------------------------------------------

    def _has_room(self, n_bytes: int) -> bool:
        return not self._queue or self._queued_bytes + n_bytes <= self._max_bytes

    def _pop(self) -> _Frame:
        frame = self._queue.popleft()
        self._queued_bytes -= frame.image.nbytes
        return frame

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
                self._dropped += len(self._queue)
                self._queue.clear()
                self._queued_bytes = 0
                self._changed.notify_all()
        if earlier is None:
            self._on_error(self.branch, error)
        elif error is not earlier:
            log_error(self.branch, error, logging.ERROR)


def log_error(branch: Branch, error: BaseException, level: int) -> None:
    """Log a branch's error with its traceback."""
    logger.log(level, "branch %r failed: %s", branch.name, error, exc_info=error)


def _trimmed(method: Callable[..., object], most: int) -> Callable[..., object]:
    """Return `method` as a callable of `most` arguments that drops those it lacks."""
    try:
        signature = inspect.signature(method)
    except ValueError:  # some compiled callables have none
        return method
    for count in range(most, -1, -1):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return lambda *args: method(*args[:count])
    msg = f"{method!r} must take at most {most} positional arguments"
    raise TypeError(msg)
