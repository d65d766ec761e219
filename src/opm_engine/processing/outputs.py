"""Handlers that volumes go to: what passes for one, and how each is called.

Separate from the deskew handler, which knows what is due but not who wants it in which
form. Knows nothing of scans or planes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from opm_engine.plan import BLOCK, wants_of
from opm_engine.processing.projections import MaxProjections
from opm_engine.processing.window import Slab

if TYPE_CHECKING:
    import useq
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

METHODS = (
    "sequenceStarted",
    "frameReady",
    "slabReady",
    "noteReady",
    "sequenceFinished",
    "projectionsReady",
)


@dataclass(frozen=True)
class Parcel:
    """What is due after a plane.

    Attributes
    ----------
    event, meta
        Of the plane, as those of its volume.
    slabs : sequence of Slab
    last_meta : dict, optional
        Of the volume, if it is complete now.
    volume, projections : optional
        Of a complete volume, if somebody wants them.
    """

    event: useq.MDAEvent
    meta: dict[str, Any]
    slabs: Sequence[Slab]
    last_meta: dict[str, Any] | None = None
    volume: NDArray[Any] | None = None
    projections: MaxProjections | None = None


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


def wanted(outputs: Iterable[object]) -> frozenset[str]:
    """Return what any of the handlers wants."""
    return frozenset[str]().union(*map(wants_of, outputs))


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


def as_volume(
    event: useq.MDAEvent, meta: dict[str, Any]
) -> tuple[useq.MDAEvent, dict[str, Any]]:
    """Return a plane's event and metadata, saying volume where they said plane."""
    index = {axis: i for axis, i in event.index.items() if axis != "z"}
    event = event.model_copy(update={"index": type(event.index)(index)})
    extra = {k: v for k, v in (meta.get("extra") or {}).items() if k != BLOCK}
    changed = {"mda_event": event} if "mda_event" in meta else {}
    return event, {**meta, **changed, "extra": extra}


def hand_out(outputs: Iterable[object], parcel: Parcel) -> None:
    """Give each what it wants of what is due."""
    last = len(parcel.slabs) - 1
    for output in outputs:
        target: Any = output
        wants, event = wants_of(output), parcel.event
        if "slabReady" in wants:
            for number, slab in enumerate(parcel.slabs):
                is_last = number == last and parcel.last_meta is not None
                meta = parcel.last_meta if is_last else parcel.meta
                target.slabReady(slab.pixels, slab.first_row, event, meta)
        if parcel.projections is not None and "projectionsReady" in wants:
            target.projectionsReady(parcel.projections, event, parcel.last_meta)
        if parcel.volume is not None and "frameReady" in wants:
            target.frameReady(parcel.volume, event, parcel.last_meta)


def note_all(outputs: Iterable[object], note: object) -> None:
    """Pass a note on to each that takes notes."""
    for output in outputs:
        if hasattr(output, "noteReady"):
            output.noteReady(note)


def finish_all(outputs: Iterable[object], sequence: useq.MDASequence) -> None:
    """Finish every output, even if another fails; then raise the first failure."""
    call_all(
        partial(output.sequenceFinished, sequence)
        for output in outputs
        if hasattr(output, "sequenceFinished")
    )


def call_all(calls: Iterable[Callable[[], None]]) -> None:
    """Make every call, even if another fails; log later failures, raise the first."""
    first: BaseException | None = None
    for call in calls:
        try:
            call()
        except BaseException as error:
            if first is None:
                first = error
            else:
                logger.exception("failed at the end of a run, after another failure")
    if first is not None:
        raise first
