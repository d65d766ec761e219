"""`Output`: each analog output of a microscope, and what it may ever put out.

Separate because several checks and the way to dark all go through the same list. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from opm_engine.config import Microscope
    from opm_engine.config.board import Galvo


class Output(NamedTuple):
    """An analog output.

    Attributes
    ----------
    table : str
        Of the description, like ``"daq.galvo"``.
    channel : str
    range_v : (low, high)
    limit : str
        Field that says so.
    galvo : Galvo or None
        What it moves; None for a laser's power, which rests at 0 V.
    """

    table: str
    channel: str
    range_v: tuple[float, float]
    limit: str
    galvo: Galvo | None = None


def outputs_of(microscope: Microscope) -> dict[str, Output]:
    """Return the analog outputs by channel: galvo, projection galvo, powers."""
    galvos = {
        "daq.galvo": microscope.daq.galvo,
        "daq.projection": microscope.daq.projection,
    }
    outputs = [
        Output(table, galvo.channel, galvo.range_v, f"{table}.range_v", galvo)
        for table, galvo in galvos.items()
        if galvo is not None
    ]
    for laser in microscope.lasers:
        power = laser.power_output
        if power is not None:
            table = f"lasers.{laser.name}.power_output"
            limit, range_v = f"{table}.full_v", (0.0, power.full_v)
            outputs.append(Output(table, power.channel, range_v, limit))
    return {output.channel: output for output in outputs}
