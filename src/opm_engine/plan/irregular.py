"""Sequences that are no regular grid: tiles, sub-sequences, autofocus, uneven times.

Separate from ``resolve``, which plans one regular scan. Here useq's own events are
iterated, about 20 µs each, and cut into scans; each is planned as a regular sequence
of its own, once for all that are alike. Pure.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import useq

from opm_engine.plan.field_of_view import with_field_of_view
from opm_engine.plan.parts import Whole
from opm_engine.plan.settings import PlanError
from opm_engine.plan.stream import ChannelInfo, PositionInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opm_engine.config import Microscope
    from opm_engine.plan.model import ScanPlan

    Planner = Callable[[useq.MDASequence, Microscope], ScanPlan]
    Events = tuple[useq.MDAEvent, ...]

DECIMALS = 6


@dataclass(frozen=True)
class Part:
    """Events of one scan, planned; or one event that acquires nothing, without plan."""

    events: Events
    plan: ScanPlan | None = None


def is_irregular(sequence: useq.MDASequence) -> bool:
    """Whether a sequence must be iterated."""
    return bool(
        sequence.grid_plan
        or sequence.autofocus_plan
        or sequence.keep_shutter_open_across
        or isinstance(sequence.time_plan, useq.MultiPhaseTimePlan)
        or any(channel.acquire_every != 1 for channel in sequence.channels)
        or any(
            position.sequence or position.properties
            for position in sequence.stage_positions
        )
    )


def plan_irregular(
    sequence: useq.MDASequence, microscope: Microscope, plan_regular: Planner
) -> ScanPlan:
    """Plan all scans; the first one's plan, which knows the whole.

    Raises
    ------
    PlanError
        If a scan cannot be played, or the scans do not fit into one dataset.
    """
    parts = list(iterate(sequence, microscope, plan_regular))
    scans = [(part, part.plan) for part in parts if part.plan is not None]
    if not scans:
        msg = "the sequence acquires nothing"
        raise PlanError(msg)
    plans = [plan for _, plan in scans]
    _refuse_other_steps(plans)
    whole = Whole(
        n_events=sum(len(part.events) for part, _ in scans),
        n_times=1 + max(part.events[0].index.get("t", 0) for part, _ in scans),
        n_planes=max(plan.geometry.n_planes for plan in plans),
        channels=_channels(scans),
        positions=_positions(sequence, scans),
    )
    return plans[0].model_copy(update={"whole": whole, "interval_s": 0.0})


def iterate(
    sequence: useq.MDASequence, microscope: Microscope, plan_regular: Planner
) -> Iterator[Part]:
    """Cut a sequence into scans.

    A position's sub-sequence is played scan by scan, tile by tile, and what it leaves
    open is the sequence's: useq would go through its tiles at every single plane.

    Raises
    ------
    PlanError
        If events between two others are no complete scan.
    """
    original = {"sequence": sequence}
    sequence = with_field_of_view(_with_whole_scans(sequence), microscope)
    plans: dict[object, ScanPlan] = {}
    all_events = (event.model_copy(update=original) for event in sequence)
    for acquires, group in itertools.groupby(all_events, _acquires):
        if not acquires:
            for event in group:
                yield Part((_without_scan(event, sequence),))
            continue
        for _, events in itertools.groupby(group, _site):
            for scan in _by_channel(tuple(events)):
                equivalent = _equivalent(scan, sequence)
                key = equivalent.model_dump_json()
                if key not in plans:
                    plans[key] = plan_regular(equivalent, microscope)
                yield Part(scan, plans[key])


def _with_whole_scans(sequence: useq.MDASequence) -> useq.MDASequence:
    """Return the sequence with sub-sequences that say everything of their scans."""
    inner = "".join(str(axis) for axis in sequence.axis_order if axis in ("c", "z"))
    positions = [
        position.replace(
            sequence=own.replace(
                channels=own.channels or sequence.channels,
                z_plan=own.z_plan or sequence.z_plan,
                axis_order=f"tpg{inner}",
            )
        )
        if (own := position.sequence) is not None
        else position
        for position in sequence.stage_positions
    ]
    return sequence.replace(stage_positions=positions)


def _acquires(event: useq.MDAEvent) -> bool:
    return isinstance(event.action, useq.AcquireImage)


def _site(event: useq.MDAEvent) -> tuple[int, int, int]:
    index = event.index
    return index.get("t", 0), index.get("p", 0), index.get("g", 0)


def _by_channel(events: Events) -> list[Events]:
    """Interleaved channels stay together, others come apart."""
    names = [_name(event) for event in events]
    runs = [len(list(run)) for _, run in itertools.groupby(names)]
    interleaved = len(runs) > 1 and max(runs) == 1
    if interleaved:
        return [events]
    ends = list(itertools.accumulate(runs))
    return [events[end - n : end] for n, end in zip(runs, ends, strict=True)]


def _name(event: useq.MDAEvent) -> str:
    return event.channel.config if event.channel else ""


def _base_um(event: useq.MDAEvent, sequence: useq.MDASequence) -> float | None:
    """Focus of an event's stage position, if it names one."""
    if not sequence.stage_positions:
        return None
    return sequence.stage_positions[event.index.get("p", 0)].z


def _without_scan(event: useq.MDAEvent, sequence: useq.MDASequence) -> useq.MDAEvent:
    """The event with the focus stage where the position says, not where z scans."""
    return event.model_copy(update={"z_pos": _base_um(event, sequence)})


def _equivalent(events: Events, sequence: useq.MDASequence) -> useq.MDASequence:
    """Return a regular sequence of one scan that has these events.

    Raises
    ------
    PlanError
        If there is none.
    """
    channels = {_name(event): event for event in events}
    known = {x.config: x for x in _all_channels(sequence)}
    offsets_um = [
        round(
            (event.z_pos or 0.0)
            - (_base_um(event, sequence) or 0.0)
            - known[_name(event)].z_offset,
            DECIMALS,
        )
        for event in events
    ]
    planes_um = offsets_um[:: len(channels)]
    complete = [(name, um) for um in planes_um for name in channels]
    if complete != list(zip(map(_name, events), offsets_um, strict=True)):
        msg = (
            f"the events from {dict(events[0].index)} on, up to the next autofocus or "
            "position, are no complete scan; let autofocus_plan.axes, acquire_every "
            "and do_stack leave c and z together"
        )
        raise PlanError(msg)
    return useq.MDASequence(
        channels=[
            known[name].replace(exposure=event.exposure, acquire_every=1)
            for name, event in channels.items()
        ],
        z_plan={"relative": planes_um} if len(planes_um) > 1 else None,
        axis_order="tpgzc",
        metadata=sequence.metadata,
    )


def _all_channels(sequence: useq.MDASequence) -> Iterator[useq.Channel]:
    """Channels of sub-sequences, then the sequence's own, which win."""
    for position in sequence.stage_positions:
        if position.sequence is not None:
            yield from position.sequence.channels
    yield from sequence.channels


def _refuse_other_steps(plans: list[ScanPlan]) -> None:
    steps_um = sorted({plan.geometry.step_um for plan in plans})
    if len(steps_um) > 1:
        listed = ", ".join(f"{step:g}" for step in steps_um)
        msg = (
            f"stage_positions: their z plans have steps of {listed} µm; one dataset "
            "has one step, so give them the same, or run them one after the other"
        )
        raise PlanError(msg)


def _channels(scans: list[tuple[Part, ScanPlan]]) -> tuple[ChannelInfo, ...]:
    """Channels of the dataset, by their number in the events."""
    found: dict[int, ChannelInfo] = {}
    for part, plan in scans:
        infos = {x.name: x for x in plan.stream().channels}
        cameras = plan.cameras or ("",)
        for event in part.events[: len(plan.channels)]:
            for cam, camera in enumerate(cameras):
                number = event.index.get("c", 0) * len(cameras) + cam
                info = infos[f"{_name(event)} {camera}".rstrip()]
                if found.setdefault(number, info).name != info.name:
                    msg = (
                        f'stage_positions: channel {number} is "{found[number].name}" '
                        f'at one position and "{info.name}" at another; let all '
                        "sub-sequences begin with the same channels"
                    )
                    raise PlanError(msg)
    if sorted(found) != list(range(len(found))):
        msg = "channels: one of them is never acquired; leave it out"
        raise PlanError(msg)
    return tuple(found[number] for number in sorted(found))


def _positions(
    sequence: useq.MDASequence, scans: list[tuple[Part, ScanPlan]]
) -> tuple[PositionInfo, ...]:
    """Sites of the dataset, in the order of p and g."""
    found: dict[tuple[int, int], PositionInfo] = {}
    longest = max(plan.geometry.n_planes for _, plan in scans)
    tiled = {p for _, p, g in (_site(part.events[0]) for part, _ in scans) if g}
    for part, plan in scans:
        event, n_planes = part.events[0], plan.geometry.n_planes
        _, p, g = _site(event)
        name = event.pos_name or str(p)
        info = PositionInfo(
            name=f"{name} {g}" if p in tiled else name,
            x_um=event.x_pos,
            y_um=event.y_pos,
            z_um=_base_um(event, sequence),
            p=p,
            g=g,
            n_planes=n_planes if n_planes < longest else None,
            origin_um=plan.geometry.origin_um,
        )
        found.setdefault((p, g), info)
    return tuple(found[site] for site in sorted(found))
