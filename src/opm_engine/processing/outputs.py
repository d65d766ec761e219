"""Handlers that volumes go to: what passes for one, and how each is called.

Separate from the deskew handler, which knows what is due but not who wants it in which
form. Knows nothing of scans or planes.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from opm_engine.processing.streaming import Deskewer

if TYPE_CHECKING:
    import useq

METHODS = (
    "sequenceStarted",
    "frameReady",
    "noteReady",
    "sequenceFinished",
    "projectionsReady",
)


def judged(outputs: Iterable[object]) -> tuple[object, ...]:
    """Return the outputs as a tuple.

    Raises
    ------
    TypeError
        If they are not handlers, or not a list of them; says what would work.
    """
    works = 'outputs must be a list of handlers, like [OMEZarrWriter("d.ome.zarr")]'
    if _is_handler(outputs):
        msg = f"{works}, not a handler alone: {outputs!r}"
        raise TypeError(msg)
    if isinstance(outputs, str) or not isinstance(outputs, Iterable):
        msg = f"{works}, not {outputs!r}"
        raise TypeError(msg)
    outputs = tuple(outputs)
    for output in outputs:
        if not _is_handler(output):
            msg = f"{works}; {output!r} is none"
            raise TypeError(msg)
    return outputs


def _is_handler(output: object) -> bool:
    methods = (getattr(output, name, None) for name in METHODS)
    return not isinstance(output, type) and any(map(callable, methods))


def check_all(
    outputs: Iterable[object], sequence: useq.MDASequence, summary: dict[str, Any]
) -> None:
    """Let each refuse a run before any has begun it."""
    for output in outputs:
        if hasattr(output, "checkSequence"):
            output.checkSequence(sequence, summary)


def start_all(
    outputs: Iterable[object], sequence: useq.MDASequence, summary: dict[str, Any]
) -> None:
    """Announce a run."""
    for output in outputs:
        if hasattr(output, "sequenceStarted"):
            output.sequenceStarted(sequence, summary)


def hand_out(
    outputs: Iterable[object],
    deskewer: Deskewer,
    event: useq.MDAEvent,
    meta: dict[str, Any],
) -> None:
    """Give a complete volume to each, or its projections where they are wanted."""
    for output in outputs:
        if hasattr(output, "projectionsReady"):
            output.projectionsReady(deskewer.projections, event, meta)
        elif hasattr(output, "frameReady"):
            output.frameReady(deskewer.volume, event, meta)


def note_all(outputs: Iterable[object], note: object) -> None:
    """Pass a note on to each that takes notes."""
    for output in outputs:
        if hasattr(output, "noteReady"):
            output.noteReady(note)


def finish_all(outputs: Iterable[object], sequence: useq.MDASequence) -> None:
    """Finish every output, even if another fails; then raise the first failure."""
    with ExitStack() as stack:  # last in, first out; the last one to fail is raised
        for output in outputs:
            if hasattr(output, "sequenceFinished"):
                stack.callback(output.sequenceFinished, sequence)
