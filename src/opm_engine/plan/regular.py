"""Refusal of what no scan can do, whatever useq allows.

Separate from ``resolve`` because it looks at useq alone. What is merely irregular is
planned in ``irregular``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import useq

from opm_engine.plan.settings import BLOCK, PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator

_STOCK = 'metadata={"opm_engine": {"mode": "off"}} uses the stock engine'


def refuse_unplayable(sequence: useq.MDASequence) -> None:
    """Raise ``PlanError`` naming the first field that no scan can play."""
    for field in _fields(sequence):
        msg = f"{field} cannot be played in a hardware-sequenced scan; {_STOCK}"
        raise PlanError(msg)
    for where, part in _parts(sequence):
        grid = part.grid_plan
        if isinstance(grid, useq.RandomPoints) and grid.random_seed is None:
            msg = (
                f"{where}grid_plan: its points would be others each time they are "
                "asked for; give it a random_seed"
            )
            raise PlanError(msg)
        if where and BLOCK in part.metadata:
            msg = (
                f'{where}metadata["{BLOCK}"]: settings are those of the whole '
                "sequence; put them into its metadata"
            )
            raise PlanError(msg)


def _fields(sequence: useq.MDASequence) -> Iterator[str]:
    if sequence.setup is not None and sequence.setup.roi is not None:
        yield "setup.roi (the microscope's camera.roi is used)"
    for where, part in _parts(sequence):
        if where and (part.time_plan or part.stage_positions):
            yield f"{where.rstrip('.')} with times or positions"
        for channel in part.channels:
            if not channel.do_stack:
                yield f'{where}channels["{channel.config}"].do_stack = False'


def _parts(sequence: useq.MDASequence) -> Iterator[tuple[str, useq.MDASequence]]:
    """The sequence and its sub-sequences, and how their fields are called."""
    yield "", sequence
    for number, position in enumerate(sequence.stage_positions):
        if position.sequence is not None:
            yield f"stage_positions[{number}].sequence.", position.sequence
