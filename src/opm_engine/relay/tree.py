"""Relays within relays: what lies below a handler, and what it is called.

Separate from the relay because it is only about names and places. A handler's
``outputs`` lie below it; a relay among them is a fork. Knows no run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opm_engine.relay.branch import SEPARATOR, Branch, free_name

if TYPE_CHECKING:
    from collections.abc import Iterator


class Fork:
    """What has branches."""

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches, with their names."""
        raise NotImplementedError


def stages(fork: Fork) -> dict[str, object]:
    """Return every handler below a fork by its path, like ``"deskew/writer"``.

    A fork among a handler's outputs has no name of its own there: its branches are the
    handler's. Outputs that are no branches go by their class.

    Raises
    ------
    ValueError
        If a handler is in two places: it would be called from two threads.
    """
    found: dict[str, object] = {}
    seen = {id(fork)}
    for path, handler in _below(fork, "", seen):
        found[path] = handler
    return found


def nearest_forks(handler: object) -> list[Fork]:
    """Return the forks at or below a handler that are below no other of them."""
    found: list[Fork] = []
    seen: set[int] = set()
    ahead = [handler]
    while ahead:
        here = ahead.pop(0)
        if id(here) in seen:  # `stages` refuses that
            continue
        seen.add(id(here))
        if isinstance(here, Fork):
            found.append(here)
        else:
            ahead.extend(outputs_of(here))
    return found


def outputs_of(handler: object) -> tuple[object, ...]:
    """Return the handlers that a handler hands something on to."""
    outputs = getattr(handler, "outputs", ())
    return tuple(outputs) if isinstance(outputs, tuple | list) else ()


def pick(stages: dict[str, object], name: str) -> object:
    """Return the stage of a path, or of the only path that ends so.

    Raises
    ------
    KeyError
        If there is none, or more than one; lists the names.
    """
    if name in stages:
        return stages[name]
    ending = [path for path in stages if path.endswith(SEPARATOR + name)]
    if len(ending) == 1:
        return stages[ending[0]]
    problem = "more than one stage is" if ending else "no stage is"
    there = ", ".join(map(repr, ending or stages))
    msg = f"{problem} called {name!r}; there are {there or 'none'}"
    raise KeyError(msg)


def _below(
    handler: object, prefix: str, seen: set[int]
) -> Iterator[tuple[str, object]]:
    for name, below in _named_outputs(handler, seen):
        yield prefix + name, below
        yield from _below(below, prefix + name + SEPARATOR, seen)


def _named_outputs(handler: object, seen: set[int]) -> list[tuple[str, object]]:
    """Return name and handler of each branch or output, with forks opened."""
    if isinstance(handler, Fork):
        given = [(branch.name, branch.handler) for branch in handler.branches]
        _refuse_seen([below for _, below in given], seen)
        return given
    outputs = outputs_of(handler)
    _refuse_seen(outputs, seen)
    named: dict[str, object] = {}
    for output in outputs:
        forked = isinstance(output, Fork)
        inner = (
            _named_outputs(output, seen)
            if forked
            else [(type(output).__name__, output)]
        )
        for name, below in inner:
            named[free_name(name, set(named))] = below
    return list(named.items())


def _refuse_seen(handlers: list[object] | tuple[object, ...], seen: set[int]) -> None:
    for handler in handlers:
        if id(handler) in seen:
            msg = f"{handler!r} is given twice"
            raise ValueError(msg)
        seen.add(id(handler))
