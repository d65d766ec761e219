"""A sequence cut into scans: useq's own events, grouped, each group planned.

Separate from ``irregular``, which says what the scans make together: this is about
their order. Needed where a sequence is no regular grid. useq's events are iterated,
about 20 µs each (as long again for planning as for playing); of those of a position
with a sub-sequence all are held at once. Pure.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import useq

from opm_engine.plan.field_of_view import with_field_of_view
from opm_engine.plan.parts import AXES
from opm_engine.plan.settings import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opm_engine.config import Microscope
    from opm_engine.plan.model import ScanPlan

    Planner = Callable[[useq.MDASequence, Microscope], ScanPlan]
    Events = tuple[useq.MDAEvent, ...]
    Key = tuple[int | None, tuple[tuple[str, float | None, float], ...]]

DECIMALS = 6
"""To which z offsets are told apart, in µm."""


@dataclass(frozen=True)
class Part:
    """Events of one scan, planned; or one event that acquires nothing, without plan."""

    events: Events
    plan: ScanPlan | None = None


def iterate(
    sequence: useq.MDASequence, microscope: Microscope, plan_regular: Planner
) -> Iterator[Part]:
    """Cut a sequence into scans, in the order in which they are played.

    That is the order of useq's events, except at positions with a sub-sequence: useq
    goes through its tiles, or its channels, at every single plane, which no hardware
    can. Here they are scanned tile by tile, with c and z in the order of the
    sequence's own ``axis_order``.

    Raises
    ------
    PlanError
        If events between two others are no complete scan.
    """
    cutter = _Cutter(sequence, microscope, plan_regular)
    for acquires, group in itertools.groupby(cutter.events(), _acquires):
        if not acquires:
            yield from (Part((event,)) for event in group)
            continue
        for _, events in itertools.groupby(group, site_of):
            for scan in _by_channel(tuple(events)):
                yield Part(scan, cutter.plan(scan))


def site_of(event: useq.MDAEvent) -> tuple[int, int, int]:
    """Return t, p and g of an event of useq's."""
    index = event.index.data  # its wrapper takes ten times as long to look up
    return index.get("t", 0), index.get("p", 0), index.get("g", 0)


def name_of(event: useq.MDAEvent) -> str:
    """Return the name of an event's channel."""
    return event.channel.config if event.channel else ""


def z_offset_um(event: useq.MDAEvent, position: useq.Position | None) -> float:
    """By how much the focus stage lies above an event's position, as useq has it.

    Without a z plan useq leaves the channel's ``z_offset`` out; it counts all the same.
    """
    sequence = event.sequence
    assert sequence is not None
    own = position.sequence if position else None
    z_plan = (own and own.z_plan) or sequence.z_plan
    if "z" in event.index and event.z_pos is not None and z_plan:
        planned_um = list(z_plan)[event.index["z"]]
        base_um = (position and position.z) or 0.0
        return round(event.z_pos - base_um - planned_um, DECIMALS)
    return _channel(event, own).z_offset


def keeps_open(
    axes: Iterable[str], index: Mapping[str, int], following: Mapping[str, int] | None
) -> bool:
    """Whether the shutter stays open between two events, as useq has it."""
    if not axes or following is None:
        return False
    changed = [axis for axis in AXES if index.get(axis, 0) != following.get(axis, 0)]
    return all(axis in axes for axis in changed)


class _Cutter:
    """What is needed of a sequence to cut it; plans scans that are alike only once."""

    def __init__(
        self, sequence: useq.MDASequence, microscope: Microscope, planner: Planner
    ) -> None:
        self._sequence = sequence
        self._microscope = microscope
        self._plan_regular = planner
        self._positions = list(sequence.stage_positions)  # a well plate makes them anew
        self._plans: dict[Key, ScanPlan] = {}

    def events(self) -> Iterator[useq.MDAEvent]:
        """Events in order, with autofocus and shutter as the sequence says."""
        events, axes = self._tile_by_tile(), self._sequence.keep_shutter_open_across
        if any(self._autofocus_plans()):
            events = self._with_autofocus(events)
        if not axes:
            yield from events
            return
        events, following = itertools.tee(events)
        next(following, None)
        for event, after in itertools.zip_longest(events, following):
            if keeps_open(axes, event.index, after.index if after else None):
                yield event.model_copy(update={"keep_shutter_open": True})
            else:
                yield event

    def plan(self, scan: Events) -> ScanPlan:
        """Plan a regular sequence that has these events.

        Raises
        ------
        PlanError
            If there is none.
        """
        position = self._position(scan[0])
        own = position.sequence if position else None
        z_plan = (own and own.z_plan) or self._sequence.z_plan
        n_planes = max(z_plan.num_positions(), 1) if z_plan else 1
        names = list(dict.fromkeys(map(name_of, scan)))
        complete = [(name, z) for z in range(n_planes) for name in names]
        if [(name_of(event), event.index.data.get("z", 0)) for event in scan] != (
            complete
        ):
            raise PlanError(self._incomplete(scan))
        channels = [
            (name_of(event), event.exposure, z_offset_um(event, position))
            for event in scan[: len(names)]
        ]
        key = scan[0].index.get("p", 0) if own else None, tuple(channels)
        if key not in self._plans:
            equivalent = useq.MDASequence(
                channels=[
                    _channel(event, own).replace(
                        exposure=exposure, z_offset=offset_um, acquire_every=1
                    )
                    for event, (_, exposure, offset_um) in zip(
                        scan, channels, strict=False
                    )
                ],
                z_plan=z_plan,
                axis_order="tpgzc",
                metadata=self._sequence.metadata,
            )
            self._plans[key] = self._plan_regular(equivalent, self._microscope)
        return self._plans[key]

    def _position(self, event: useq.MDAEvent) -> useq.Position | None:
        return self._positions[event.index.get("p", 0)] if self._positions else None

    def _incomplete(self, scan: Events) -> str:
        where = f"the events from {_plain(scan[0].index)} to {_plain(scan[-1].index)}"
        cutting = [plan for plan in self._autofocus_plans() if {*"cz"} & {*plan.axes}]
        if cutting:
            field, remedy = "autofocus_plan.axes", 'use axes=("p",) or ("t", "p")'
        else:
            order = "".join(str(axis) for axis in self._sequence.axis_order)
            field, remedy = f'axis_order = "{order}"', 'end it in "zc" or "cz"'
        return f"{field}: {where} are no complete scan; {remedy}"

    def _autofocus_plans(self) -> Iterator[useq.AxesBasedAF]:
        subs = (x.sequence for x in self._positions if x.sequence is not None)
        for sequence in (self._sequence, *subs):
            if sequence.autofocus_plan is not None:
                yield sequence.autofocus_plan

    def _tile_by_tile(self) -> Iterator[useq.MDAEvent]:
        """Events that acquire, those of each sub-sequence sorted."""
        bare = with_field_of_view(_without_autofocus(self._sequence), self._microscope)
        inner = [str(axis) for axis in self._sequence.axis_order if axis in ("c", "z")]

        def order(event: useq.MDAEvent) -> tuple[int, ...]:
            return tuple(event.index.data.get(axis, 0) for axis in ("g", *inner))

        nested = [position.sequence is not None for position in self._positions]
        events = iter(bare)
        if any(nested):
            visits = itertools.groupby(events, key=lambda event: site_of(event)[:2])
            events = itertools.chain.from_iterable(
                sorted(visit, key=order) if nested[p] else visit
                for (_, p), visit in visits
            )
        for event in events:
            # Nobody else has seen this event yet; copying it takes long.
            object.__setattr__(event, "sequence", self._sequence)
            yield event

    def _with_autofocus(
        self, events: Iterator[useq.MDAEvent]
    ) -> Iterator[useq.MDAEvent]:
        """Insert autofocus where the plan of sequence or position wants it.

        It starts from the focus of its channel at the position, never from where the
        scan is; without a z of the position from where the run began, which only the
        engine knows.
        """
        # Each plan remembers the last event that it has seen, also of earlier runs.
        fresh = {id(x): type(x)(**x.model_dump()) for x in self._autofocus_plans()}
        for event in events:
            position = self._position(event)
            own = position.sequence if position else None
            wanted = (own and own.autofocus_plan) or self._sequence.autofocus_plan
            if wanted is not None and fresh[id(wanted)].should_autofocus(event):
                z_um = position.z if position else None
                if z_um is not None:
                    z_um += z_offset_um(event, position)
                yield event.model_copy(
                    update={"action": wanted.as_action(), "z_pos": z_um}
                )
            yield event


def _without_autofocus(sequence: useq.MDASequence) -> useq.MDASequence:
    """Leave out what is put in again later, where it does not cut scans."""
    positions = []
    for position in sequence.stage_positions:
        own = position.sequence
        if own is not None and own.autofocus_plan is not None:
            own = own.replace(autofocus_plan=None)
            position = position.replace(sequence=own if own.used_axes else None)
        positions.append(position)
    changes = {"autofocus_plan": None, "keep_shutter_open_across": ()}
    return sequence.replace(stage_positions=positions, **changes)


def _acquires(event: useq.MDAEvent) -> bool:
    return isinstance(event.action, useq.AcquireImage)


def _by_channel(events: Events) -> list[Events]:
    """Interleaved channels stay together, others come apart."""
    runs = [tuple(run) for _, run in itertools.groupby(events, name_of)]
    interleaved = len(runs) > len(set(map(name_of, events)))
    return [events] if interleaved else runs


def _channel(event: useq.MDAEvent, own: useq.MDASequence | None) -> useq.Channel:
    """The channel of an event, as its position's sub-sequence or the sequence has it.

    Raises
    ------
    PlanError
        If it has none.
    """
    sequence = event.sequence
    channels = own.channels if own else ()
    for channel in (*channels, *(sequence.channels if sequence else ())):
        if channel.config == name_of(event):
            return channel
    msg = 'channels: which laser? Name at least one, like {"config": "488"}'
    raise PlanError(msg)


def _plain(index: Mapping[str, int]) -> dict[str, int]:
    return {str(axis): number for axis, number in index.items()}
