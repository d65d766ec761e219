"""`Branch`: a handler of a relay, and what its queue does when it is full.

Separate from the lane that feeds it because this is what a user says, judged before
any run. Knows no threads and no frames.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

Policy = Literal["lossless", "latest"]

CHECK = "checkSequence"
"""The method with which a handler refuses a run before any handler has begun it."""

_ARGUMENTS = {
    CHECK: 2,
    "sequenceStarted": 2,
    "frameReady": 3,
    "noteReady": 1,
    "sequenceFinished": 1,
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Branch:
    """A handler and what its queue does when it is full.

    Parameters
    ----------
    handler : object
        Has at least one of ``sequenceStarted(sequence, summary)``,
        ``frameReady(image, event, meta)``, ``noteReady(note)``,
        ``sequenceFinished(sequence)`` and ``checkSequence(sequence, summary)``; each
        may take fewer of these arguments. All of its calls come from one thread, but
        for ``checkSequence``: it comes before all others, from the runner's thread,
        raises if the handler cannot take the run, changes nothing and returns at once.
        If the handler has ``raise_if_failed()``, as a relay has, that is called after
        each other call.
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


def log_error(branch: Branch, error: BaseException, level: int) -> None:
    """Log a branch's error with its traceback."""
    logger.log(level, "branch %r failed: %s", branch.name, error, exc_info=error)


def settled(branches: tuple[object, ...], max_bytes: int) -> list[Branch]:
    """Return handlers and branches as branches with unique names and a limit each.

    Raises
    ------
    TypeError
        If one is not a handler.
    ValueError
        If a handler or a name is given twice.
    """
    known: list[Branch] = []
    for given in branches:
        branch = given if isinstance(given, Branch) else Branch(given)
        if any(branch.handler is other.handler for other in known):
            msg = f"{branch.handler!r} is given twice"
            raise ValueError(msg)
        names = {other.name for other in known}
        if branch.name in names:
            msg = f"two branches are called {branch.name!r}"
            raise ValueError(msg)
        limit = branch.max_bytes
        if limit is None:
            limit = max_bytes if branch.policy == "lossless" else 0
        name = branch.name or _free_name(type(branch.handler).__name__, names)
        known.append(replace(branch, name=name, max_bytes=limit))
    return known


def _free_name(base: str, taken: set[str]) -> str:
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base} {number}"
    return name


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
