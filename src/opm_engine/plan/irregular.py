"""Sequences that are no regular grid: tiles, sub-sequences, autofocus, uneven times.

Separate from ``resolve``, which plans one regular scan, and from ``cutting``, which
makes such scans of useq's events: here they are counted and must fit into one dataset.
Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import useq

from opm_engine.plan.axes import plan_interval_s, plan_sizes
from opm_engine.plan.cutting import iterate, name_of, site_of
from opm_engine.plan.parts import Whole
from opm_engine.plan.settings import PlanError, ScanSettings
from opm_engine.plan.stage import refuse_travel
from opm_engine.plan.stream import ChannelInfo, PositionInfo

if TYPE_CHECKING:
    from opm_engine.config import Microscope
    from opm_engine.plan.cutting import Part, Planner
    from opm_engine.plan.model import ScanPlan

MAX_ITERATED = 10**7
"""Events of an irregular sequence: planning as many takes minutes."""


def is_irregular(sequence: useq.MDASequence) -> bool:
    """Whether a sequence must be iterated.

    A shutter that stays open does not make it so.
    """
    return bool(
        sequence.grid_plan
        or sequence.autofocus_plan
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
    """Plan all scans; the longest one's plan, which knows the whole.

    Raises
    ------
    PlanError
        If a scan cannot be played, or the scans do not fit into one dataset.
    """
    _refuse_bidirectional(sequence)
    _refuse_many(sequence)
    survey = _Survey(sequence, microscope)
    for part in iterate(sequence, microscope, plan_regular):
        if part.plan is not None:
            survey.add(part, part.plan)
    return survey.plan()


class _Survey:
    """What scans make together, added up one by one: there may be many."""

    def __init__(self, sequence: useq.MDASequence, microscope: Microscope) -> None:
        self._sequence = sequence
        self._stage = microscope.scan_stage
        self._positions = list(sequence.stage_positions)
        self._n_events = 0
        self._n_times = 1
        self._plans: dict[int, ScanPlan] = {}
        self._offsets_um: dict[int, float] = {}
        self._channels: dict[int, ChannelInfo] = {}
        self._sites: dict[tuple[int, int], PositionInfo] = {}

    def add(self, part: Part, plan: ScanPlan) -> None:
        """Take another scan in."""
        t, p, g = site_of(part.events[0])
        self._n_events += len(part.events)
        self._n_times = max(self._n_times, t + 1)
        self._plans.setdefault(id(plan), plan)
        self._add_channels(part, plan)
        if (p, g) not in self._sites:
            self._sites[p, g] = self._site(part.events[0], plan)

    def plan(self) -> ScanPlan:
        """Return the plan of the longest scan, and in it the whole."""
        if not self._plans:
            msg = "the sequence acquires nothing"
            raise PlanError(msg)
        plans = list(self._plans.values())
        longest = max(plans, key=lambda plan: plan.geometry.n_planes)
        _refuse_different(longest, plans)
        if sorted(self._channels) != list(range(len(self._channels))):
            msg = "channels: one of them is never acquired; leave it out"
            raise PlanError(msg)
        numbers = range(len(self._channels))
        offsets_um = tuple(self._offsets_um[number] for number in numbers)
        interval_s = 0.0
        if not isinstance(self._sequence.time_plan, useq.MultiPhaseTimePlan):
            interval_s = plan_interval_s(self._sequence)
        whole = Whole(
            n_events=self._n_events,
            n_times=self._n_times,
            geometry=longest.geometry,
            channels=tuple(self._channels[number] for number in numbers),
            channel_offsets_um=offsets_um if any(offsets_um) else (),
            positions=self._infos(longest),
        )
        warnings = tuple(dict.fromkeys(w for plan in plans for w in plan.warnings))
        return longest.model_copy(
            update={"whole": whole, "interval_s": interval_s, "warnings": warnings}
        )

    def _add_channels(self, part: Part, plan: ScanPlan) -> None:
        """Channels of the dataset have the numbers that they have in the events."""
        infos = iter(plan.stream().channels)
        offsets_um = plan.channel_offsets_um or (0.0,) * len(plan.channels)
        for event, offset_um in zip(part.events, offsets_um, strict=False):
            for camera in range(plan.n_cameras):
                number = event.index.get("c", 0) * plan.n_cameras + camera
                info = next(infos)
                if self._channels.setdefault(number, info).name != info.name:
                    msg = (
                        f"stage_positions[{event.index.get('p', 0)}].sequence.channels:"
                        f' its channel {number} is "{info.name}", but '
                        f'"{self._channels[number].name}" elsewhere; begin all with '
                        "the same channels"
                    )
                    raise PlanError(msg)
                if self._offsets_um.setdefault(number, offset_um) != offset_um:
                    msg = (
                        f'channels["{name_of(event)}"]: while the scan moves, '
                        "interleaved channels lie apart by a share of the step, and "
                        "here other channels share it elsewhere; leave acquire_every "
                        'out, or acquire them one after the other: axis_order="tpcz"'
                    )
                    raise PlanError(msg)

    def _site(self, event: useq.MDAEvent, plan: ScanPlan) -> PositionInfo:
        """Where one scan is; the stage's way there is checked."""
        _, p, g = site_of(event)
        if plan.stage is not None and self._stage is not None:
            axis = self._stage.axis
            place_um = event.x_pos if axis == "x" else event.y_pos
            tile = f", tile {g}" if "g" in event.index else ""
            if place_um is not None:
                where = f"stage_positions[{p}]{tile}: {axis}"
                refuse_travel(plan.stage, self._stage, place_um, where)
        return PositionInfo(
            name=event.pos_name or str(p),
            x_um=event.x_pos,
            y_um=event.y_pos,
            z_um=self._positions[p].z if self._positions else None,
            p=p,
            g=g,
            n_planes=plan.geometry.n_planes,
            origin_um=plan.geometry.origin_um,
        )

    def _infos(self, longest: ScanPlan) -> tuple[PositionInfo, ...]:
        """Sites in the order of p and g; they say what they have of their own."""
        tiled = {p for p, g in self._sites if g}
        usual = longest.geometry
        infos = []
        for (p, g), site in sorted(self._sites.items()):
            as_usual = {
                name: None
                for name in ("n_planes", "origin_um")
                if getattr(site, name) == getattr(usual, name)
            }
            name = f"{site.name} {g}" if p in tiled else site.name
            infos.append(site.model_copy(update={"name": name, **as_usual}))
        return tuple(infos)


def _refuse_bidirectional(sequence: useq.MDASequence) -> None:
    if ScanSettings.of(sequence).bidirectional:
        msg = (
            "bidirectional: saves the way back between gapless volumes, but with "
            "grid_plan, autofocus_plan, sub-sequences, properties, acquire_every or "
            "several time phases each volume is a camera sequence of its own; "
            "leave it out"
        )
        raise PlanError(msg)


def _refuse_many(sequence: useq.MDASequence) -> None:
    """Refuse slips of the hand before anything is listed."""
    sizes = plan_sizes(sequence)
    n_events = 0
    for position in sequence.stage_positions or (useq.Position(),):
        own = position.sequence
        here = plan_sizes(own) if own is not None else {}
        grid = (own and own.grid_plan) or sequence.grid_plan
        n_tiles = grid.num_positions() if grid else 1
        n_channels = here.get("c") or sizes["c"] or 1
        n_planes = here.get("z") or sizes["z"] or 1
        n_events += (sizes["t"] or 1) * n_tiles * n_channels * n_planes
    if n_events > MAX_ITERATED:
        msg = (
            f"grid_plan, stage_positions and time_plan make up to {n_events} frames; "
            f"irregular sequences have {MAX_ITERATED} at most"
        )
        raise PlanError(msg)


def _refuse_different(longest: ScanPlan, plans: list[ScanPlan]) -> None:
    """All images of a dataset share step and direction."""
    scans = [plan for plan in plans if plan.geometry.n_planes > 1]
    steps_um = sorted({plan.geometry.step_um for plan in scans})
    if len(steps_um) > 1:
        listed = ", ".join(f"{step:g}" for step in steps_um)
        msg = (
            f"stage_positions: their z plans have steps of {listed} µm; one dataset "
            "has one step, so give them the same, or run them one after the other"
        )
        raise PlanError(msg)
    if len({plan.geometry.scan_direction for plan in scans}) > 1:
        msg = (
            "stage_positions: some z plans go up, others down; give them the same go_up"
        )
        raise PlanError(msg)
    if len({plan.stage and plan.stage.speed_um_per_s for plan in scans}) > 1:
        msg = (
            'channels: in mode "stage" all scans have one speed, so as many channels '
            "of the same exposure; leave acquire_every out, or interleave them"
        )
        raise PlanError(msg)
