"""Refusal of sequences whose events do not form one regular grid.

Separate from ``resolve`` because it looks at useq alone: the list shrinks as more of
useq is played.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import useq

from opm_engine.plan.settings import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator

_STOCK = 'metadata={"opm_engine": {"mode": "off"}} uses the stock engine'


def refuse_irregular(sequence: useq.MDASequence) -> None:
    """Raise ``PlanError`` naming the first field that makes a sequence irregular."""
    fields = [
        *_whole_sequence(sequence),
        *_stage_positions(sequence),
        *_channels(sequence),
    ]
    if fields:
        msg = f"{fields[0]} cannot be played in a hardware-sequenced scan; {_STOCK}"
        raise PlanError(msg)


def _whole_sequence(sequence: useq.MDASequence) -> Iterator[str]:
    for field in ("grid_plan", "autofocus_plan", "keep_shutter_open_across"):
        if getattr(sequence, field):
            yield field
    if isinstance(sequence.time_plan, useq.MultiPhaseTimePlan):
        yield "time_plan with several phases"
    if sequence.setup is not None and sequence.setup.roi is not None:
        yield "setup.roi (the microscope's camera.roi is used)"


def _stage_positions(sequence: useq.MDASequence) -> Iterator[str]:
    for number, position in enumerate(sequence.stage_positions):
        for field in ("sequence", "properties"):
            if getattr(position, field):
                yield f"stage_positions[{number}].{field}"


def _channels(sequence: useq.MDASequence) -> Iterator[str]:
    for channel in sequence.channels:
        if not channel.do_stack:
            yield f'channels["{channel.config}"].do_stack = False'
        if channel.acquire_every != 1:
            yield f'channels["{channel.config}"].acquire_every'
