"""`build`: a pipeline of handlers from plain data.

Separate from the relay, which knows no stage, and from the session, which knows
devices: here names become handlers. A description is a list of stages, each one a
branch with its own thread and queue::

    [
        ("writer", {"path": "raw.ome.zarr"}),
        ("deskew", {"outputs": [
            ("writer", {"path": "deskewed.ome.zarr"}),
            ("projections", {"policy": "latest", "name": "display"}),
        ]}),
    ]

A stage is a name, or a name and its options. Options are the stage's own arguments;
``outputs``, a list of stages, where the stage has outputs; and the branch's ``policy``,
``name`` and ``max_bytes``. A list in place of options stands for ``{"outputs": list}``.
``fork`` is no stage: its outputs get what it gets. As long as its values are plain, a
description may come from JSON or YAML and go there; see `plain`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from opm_engine.processing import Deskew, Projections
from opm_engine.relay import Branch, ThreadRelay
from opm_engine.relay.branch import free_name
from opm_engine.writers import OMEZarrWriter

Stages = Mapping[str, Callable[..., object]]

STAGES: Stages = MappingProxyType(
    {"writer": OMEZarrWriter, "deskew": Deskew, "projections": Projections}
)
"""What a description may name; pass ``{**STAGES, "mine": Mine}`` for more."""

FORK, OUTPUTS = "fork", "outputs"
BRANCH_OPTIONS = ("policy", "name", "max_bytes")
PLAIN = (str, int, float, bool, type(None))


class _Entry(NamedTuple):
    """One stage of a description, and where that stands."""

    name: str
    options: dict[str, Any]
    where: str


def build(
    description: Sequence[Any], *, stages: Stages = STAGES, **limits: Any
) -> ThreadRelay:
    """Build the handlers that a description names, behind a relay.

    Parameters
    ----------
    description : list of stages
        See this module.
    stages : mapping of str to callable
        What makes a stage's handler from its options; one that has outputs takes a
        list ``outputs``.
    **limits
        ``max_bytes``, ``start_timeout_s``, ``drain_timeout_s`` of the `ThreadRelay`,
        which count for all forks and outputs too.

    Returns
    -------
    ThreadRelay
        Branches are named after their stages, ``"writer 2"`` for a second one.

    Raises
    ------
    ValueError
        If there is no such stage or option: lists those that there are.
    TypeError
        If the description is not made of names, lists and dicts.
    Exception
        What a stage raises about its options, with a note where it stands.
    """
    return ThreadRelay(*_branches(description, "", stages), **limits)


def plain(description: Sequence[Any]) -> list[Any]:
    """Return a description as JSON can hold it: ``[[name, options], ...]``.

    Paths become strings, tuples lists.

    Raises
    ------
    TypeError
        If an option's value is not plain; names it.
    """
    return [_plain_entry(entry) for entry in _entries(description, "")]


def _plain_entry(entry: _Entry) -> list[Any]:
    options = {
        key: plain(value)
        if key == OUTPUTS
        else _plain_value(value, f"{entry.where}, option {key!r}")
        for key, value in entry.options.items()
    }
    return [entry.name, options]


def _plain_value(value: Any, where: str) -> Any:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain_value(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(item, where) for item in value]
    msg = f"{where}: {value!r} is no plain value"
    raise TypeError(msg)


def _entries(description: Any, where: str) -> list[_Entry]:
    """Read a list of stages."""
    if isinstance(description, str) or not isinstance(description, Sequence):
        msg = f"{where or 'a pipeline'} must be a list of stages, not {description!r}"
        raise TypeError(msg)
    return [
        _entry(given, f"{where or 'pipeline'}[{number}]")
        for number, given in enumerate(description)
    ]


def _entry(given: Any, where: str) -> _Entry:
    if isinstance(given, str):
        given = (given,)
    match given:
        case [str(name)]:
            options: dict[str, Any] = {}
        case [str(name), Mapping() as mapping]:
            options = dict(mapping)
        case [str(name), list() | tuple() as outputs]:
            options = {OUTPUTS: outputs}
        case _:
            msg = f"{where} must be a stage like (name, options), not {given!r}"
            raise TypeError(msg)
    return _Entry(name, options, f"{where} {name!r}")


def _branches(description: Any, where: str, stages: Stages) -> list[Branch]:
    branches: list[Branch] = []
    for entry in _entries(description, where):
        own = {key: entry.options.get(key) for key in BRANCH_OPTIONS}
        given = {key: value for key, value in own.items() if value is not None}
        taken = {branch.name for branch in branches}
        given.setdefault("name", free_name(entry.name, taken))
        handler = _handler(entry, stages)
        try:
            branches.append(Branch(handler, **given))
        except (TypeError, ValueError) as error:
            error.add_note(f"(in {entry.where})")
            raise
    return branches


def _handler(entry: _Entry, stages: Stages) -> object:
    options = {k: v for k, v in entry.options.items() if k not in BRANCH_OPTIONS}
    outputs = options.pop(OUTPUTS, ())
    if entry.name == FORK:
        _refuse_unknown(entry, options, [])
        return ThreadRelay(*_branches(outputs, f"{entry.where}.{OUTPUTS}", stages))
    if entry.name not in stages:
        there = ", ".join(sorted({*stages, FORK}))
        msg = f"{entry.where}: there is no such stage; there are {there}"
        raise ValueError(msg)
    factory = stages[entry.name]
    _refuse_unknown(entry, entry.options, _arguments(factory))
    if outputs:
        below = _branches(outputs, f"{entry.where}.{OUTPUTS}", stages)
        options[OUTPUTS] = [ThreadRelay(*below)]
    try:
        return factory(**options)
    except (TypeError, ValueError) as error:
        error.add_note(f"(in {entry.where})")
        raise


def _arguments(factory: Callable[..., object]) -> list[str]:
    """Return the options that a stage takes; an Ellipsis stands for any."""
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return ["..."]
    unnamed = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL
    return [parameter.name for parameter in parameters if parameter.kind not in unnamed]


def _refuse_unknown(
    entry: _Entry, options: Mapping[str, Any], known: list[str]
) -> None:
    allowed = [*known, *BRANCH_OPTIONS]
    unknown = [key for key in options if key not in allowed]
    if unknown and "..." not in known:
        msg = (
            f"{entry.where} has no option {', '.join(map(repr, unknown))}; "
            f"there are {', '.join(allowed)}"
        )
        raise ValueError(msg)
