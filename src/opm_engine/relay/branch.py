"""`Branch`: a handler of a relay, and what its queue does when it is full.

Separate from the lane that feeds it because this is what a user says, judged before
any run. Knows no threads and no frames.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

from opm_engine.relay.fitting import refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Callable

Policy = Literal["lossless", "latest"]

CHECK: Final = "checkSequence"
STARTED: Final = "sequenceStarted"
FRAME: Final = "frameReady"
SLAB: Final = "slabReady"
PROJECTIONS: Final = "projectionsReady"
NOTE: Final = "noteReady"
FINISHED: Final = "sequenceFinished"

_ARGUMENTS = {
    CHECK: 2,
    STARTED: 2,
    FRAME: 3,
    SLAB: 4,
    PROJECTIONS: 3,
    NOTE: 1,
    FINISHED: 1,
}
SEPARATOR = "/"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Branch:
    """A handler and what its queue does when it is full.

    Parameters
    ----------
    handler : object
        Has at least one of ``sequenceStarted(sequence, summary)``,
        ``frameReady(image, event, meta)``,
        ``slabReady(slab, first_row, event, meta)``,
        ``projectionsReady(projections, event, meta)``, ``noteReady(note)``,
        ``sequenceFinished(sequence)`` and ``checkSequence(sequence, summary)``; each
        may take fewer of these arguments. All of its calls come from one thread, but
        for ``checkSequence``: it comes before all others, from the thread that starts
        the run, raises if the handler cannot take the run, changes nothing and returns
        at once. If the handler has ``raise_if_failed()``, as a relay has, that is
        called after each other call.

        Where volumes come, see :func:`opm_engine.plan.wants_of` for the form in which
        it gets them. If it has ``takes``, a dict from fields of a `Stream` to what it
        takes, like ``{"kind": "volumes", "dtype": ("uint8", "uint16")}``, a run that
        announces something else is refused. If it has ``outputs``, relays among them
        belong to this relay's tree; then, unless it says ``whole_volumes = False``, a
        ``latest`` branch
        gives it all planes of a volume or none.
    policy : {"lossless", "latest"}
        ``lossless``: the acquisition waits for room. ``latest``: the newest frame of
        each channel (and camera) wins, older ones of it that still wait are dropped
        whole and counted; channels take turns. Of volumes that come in parts (slabs,
        or planes for such a handler) it gets all or nothing: while parts wait, volumes
        that begin are skipped whole, all channels of a position and time alike; of one
        that it has begun it gets the rest, however much that is.
    name : str, optional
        For errors, statistics and lookup, without "/"; by default the handler's class.
    max_bytes : int, optional
        Bytes of frames that may wait here, beside the whole tree's limit; one more
        frame may be in the handler's hands, and a single larger one may wait alone. If
        latest, all this is for each channel. By default there is no further limit if
        lossless, one frame of each channel if latest.

    Raises
    ------
    TypeError
        If `handler` has none of the methods, or one that cannot be called so.
    ValueError
        If `policy`, `name` or `max_bytes` makes no sense, or the handler's ``takes``.
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
        if SEPARATOR in self.name:
            msg = f"name must not contain {SEPARATOR!r}, but is {self.name!r}"
            raise ValueError(msg)
        self.callbacks()
        refuse_unknown(self.handler)

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
    """Return a branch that drops old frames instead of holding up the acquisition.

    It keeps the newest frame of each channel, or the newest `max_bytes` of each; see
    `Branch`.
    """
    return Branch(handler, "latest", name, max_bytes)


def needs_whole_volumes(handler: object) -> bool:
    """Whether planes are of no use to a handler unless all of a volume come.

    What its attribute ``whole_volumes`` says; else, whether it has outputs.
    """
    return bool(getattr(handler, "whole_volumes", hasattr(handler, "outputs")))


def log_error(branch: Branch, error: BaseException, level: int) -> None:
    """Log a branch's error with its traceback."""
    logger.log(level, "branch %r failed: %s", branch.name, error, exc_info=error)


def settled(branches: tuple[object, ...]) -> list[Branch]:
    """Return handlers and branches as branches with unique names.

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
        name = branch.name or free_name(type(branch.handler).__name__, names)
        known.append(replace(branch, name=name))
    return known


def free_name(base: str, taken: set[str]) -> str:
    """Return a name, with a number behind it if it is taken."""
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
