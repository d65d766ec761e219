"""Refusal of what no scan can do, whatever useq allows.

Separate from ``resolve`` because it looks at useq alone. What is merely irregular is
planned in ``irregular``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opm_engine.plan.settings import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import useq

_STOCK = 'metadata={"opm_engine": {"mode": "off"}} uses the stock engine'


def refuse_unplayable(sequence: useq.MDASequence) -> None:
    """Raise ``PlanError`` naming the first field that no scan can play."""
    for field in _fields(sequence):
        msg = f"{field} cannot be played in a hardware-sequenced scan; {_STOCK}"
        raise PlanError(msg)


def _fields(sequence: useq.MDASequence) -> Iterator[str]:
    if sequence.setup is not None and sequence.setup.roi is not None:
        yield "setup.roi (the microscope's camera.roi is used)"
    for number, position in enumerate(sequence.stage_positions):
        own = position.sequence
        if own is not None and (own.time_plan or own.stage_positions):
            yield f"stage_positions[{number}].sequence with times or positions"
    for channel in sequence.channels:
        if not channel.do_stack:
            yield f'channels["{channel.config}"].do_stack = False'
