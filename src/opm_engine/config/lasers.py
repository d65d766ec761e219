"""`Laser`: one laser line: what blanks it, what sets its power."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from opm_engine.config.errors import FieldError
from opm_engine.config.fields import (
    AnalogOutput,
    BufferedLine,
    Colour,
    Name,
    PropertyName,
    Table,
    Volts,
)


class PowerOutput(Table):
    """An analog output that sets a laser's power.

    Attributes
    ----------
    channel : str
        Like ``"ao2"``.
    full_v : float
        Volts at 100 %; 0 V is no light.
    """

    channel: AnalogOutput
    full_v: Annotated[Volts, Field(gt=0)]


class Laser(Table):
    """One laser line.

    Attributes
    ----------
    name : str
        What a channel's ``config`` calls it.
    line : str
        Digital line that blanks it, like ``"port0/line0"``.
    colour : str
        ``"#RRGGBB"``, for display.
    power_property : (device, property), optional
        Micro-Manager property that takes ``ScanSettings.laser_power``.
    power_output : PowerOutput, optional
        Analog output that does so instead; played with the frames.
    shutter : str, optional
        Label of a Micro-Manager shutter in its beam; opened for a burst, closed when
        dark. Needed for a laser that its line cannot blank fast.
    """

    name: Name
    line: BufferedLine
    colour: Colour = "#FFFFFF"
    power_property: PropertyName | None = None
    power_output: PowerOutput | None = None
    shutter: Name | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.power_property and self.power_output:
            raise FieldError("power_output", "give this or power_property, not both")
        return self
