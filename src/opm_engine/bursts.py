"""`BurstEvent`: one camera sequence as an event that any runner or queue can carry.

Separate from the engine so that whoever feeds a queue needs no engine to type it.
Carries its plan: a list or an iterator of events tells nothing else about it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Protocol

import useq
from pydantic import Field
from pymmcore_plus.core import SequencedEvent

from opm_engine.plan import (
    Burst,
    BurstEvents,
    PlanError,
    ScanPlan,
    ScanSettings,
    iterate,
    keeps_open,
    plan_regular,
    z_offset_um,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opm_engine.config import Microscope


class BurstEvent(SequencedEvent):
    """Events that are acquired in one camera sequence.

    Attributes
    ----------
    events : sequence of useq.MDAEvent
        Of a regular sequence indexed lazily.
    plan : ScanPlan
        Of the whole sequence.
    burst : Burst
        This part of it.
    """

    events: Any = Field(repr=False)
    plan: ScanPlan = Field(repr=False)
    burst: Burst = Field(repr=False)


def burst_events(
    sequence: useq.MDASequence, plan: ScanPlan, microscope: Microscope
) -> Iterator[useq.MDAEvent]:
    """Yield the bursts of a planned sequence, and what comes between them.

    A regular sequence has nothing but bursts, made lazily. Others are iterated.
    """
    if plan.whole is None:
        yield from _regular_bursts(sequence, plan)
        return
    first_event = 0
    for part in iterate(sequence, microscope, plan_regular):
        if part.plan is None:
            yield from part.events
            continue
        scan = part.plan.model_copy(update={"whole": plan.whole})
        site = {axis: part.events[0].index.get(axis, 0) for axis in ("t", "p", "g")}
        burst = next(scan.bursts()).model_copy(
            update={"index": site, "first_event": first_event}
        )
        first_event += len(part.events)
        stays_open = part.events[-1].keep_shutter_open
        yield _burst_event(part.events, scan, burst, stays_open=stays_open)


def _regular_bursts(
    sequence: useq.MDASequence, plan: ScanPlan
) -> Iterator[useq.MDAEvent]:
    """One burst ahead, to know whether the shutter stays open until it comes."""
    axes = sequence.keep_shutter_open_across
    bursts = ((x, BurstEvents(sequence, plan, x)) for x in plan.bursts())
    here = next(bursts)
    for following in itertools.chain(bursts, (None,)):
        burst, events = here
        stays_open = following is not None and keeps_open(
            axes, events[-1].index, following[1][0].index
        )
        yield _burst_event(events, plan, burst, stays_open=stays_open)
        if following is not None:
            here = following


def _burst_event(
    events: Sequence[useq.MDAEvent],
    plan: ScanPlan,
    burst: Burst,
    *,
    stays_open: bool,
) -> BurstEvent:
    first = events[0]
    fields = {name: getattr(first, name) for name in useq.MDAEvent.model_fields}
    fields["keep_shutter_open"] = stays_open
    # Validation would turn the lazy events into a tuple of all of them.
    return BurstEvent.model_construct(**fields, events=events, plan=plan, burst=burst)


class Start(Protocol):
    """What a run has to know of its beginning.

    Attributes
    ----------
    focus_um : float, optional
        Where the focus stage stood: for positions without z.
    shifts_um : dict
        Number of a position to (x, y, z) by which it has been moved since.
    """

    focus_um: float | None
    shifts_um: dict[int, tuple[float, float, float]]


def placed(event: useq.MDAEvent, start: Start) -> useq.MDAEvent:
    """Let an autofocus begin where the bursts of its position are; pass others."""
    sequence = event.sequence
    if not isinstance(event.action, useq.HardwareAutofocus) or sequence is None:
        return event
    if is_off(sequence):
        return event
    p, positions = event.index.get("p", 0), sequence.stage_positions
    update: dict[str, float] = {}
    if event.z_pos is None and start.focus_um is not None:
        offset_um = z_offset_um(event, positions[p] if positions else None)
        update["z_pos"] = start.focus_um + offset_um
    x_um, y_um, _ = start.shifts_um.get(p, (0.0, 0.0, 0.0))
    if event.x_pos is not None:
        update["x_pos"] = event.x_pos + x_um
    if event.y_pos is not None:
        update["y_pos"] = event.y_pos + y_um
    return event.model_copy(update=update)


def is_off(sequence: useq.MDASequence) -> bool:
    """Whether a sequence is for the stock engine."""
    return ScanSettings.of(sequence).mode == "off"


def refuse_outside_burst(event: useq.MDAEvent, microscope: Microscope) -> None:
    """Refuse an image by a laser outside a burst: it would come out dark.

    Raises
    ------
    PlanError
        Says where bursts come from.
    """
    acquires = isinstance(event.action, useq.AcquireImage)
    if isinstance(event, BurstEvent) or not acquires:
        return
    if event.sequence is None:
        refused = _is_by_laser(event, microscope)
    else:
        refused = not is_off(event.sequence)
    if refused:
        msg = (
            "events of a scan must be run as bursts: run the MDASequence itself, or "
            "the events that engine.bursts(sequence) gives"
        )
        raise PlanError(msg)


def _is_by_laser(event: useq.MDAEvent, microscope: Microscope) -> bool:
    channel, lasers = event.channel, microscope.laser_names
    if channel is None or channel.group != microscope.channel_group:
        return False
    return channel.config in lasers


def refuse_foreign_burst(event: BurstEvent, microscope: Microscope) -> None:
    """Refuse a burst that was planned for another microscope.

    Raises
    ------
    PlanError
        Names what differs.
    """
    geometry, lines = event.plan.geometry, {x.name: x.line for x in microscope.lasers}
    differing = [
        name
        for name, planned, here in (
            (
                "camera.roi",
                (geometry.n_columns, geometry.n_rows),
                microscope.camera.roi[2:],
            ),
            *(
                (f"lasers.{channel.name}", channel.line, lines.get(channel.name))
                for channel in event.plan.channels
            ),
        )
        if planned != here
    ]
    if differing:
        msg = f"this burst was planned for another microscope: {', '.join(differing)}"
        raise PlanError(msg)
