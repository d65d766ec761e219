"""Types of the fields of a microscope description: units, terminals, ranges.

Separate because every table uses them. Knows no table.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

AO_LIMIT_V = 10.0
"""No board of this kind puts out more than ±10 V."""


def matching(pattern: str, example: str) -> AfterValidator:
    """Refuse text that is not of the form of the example."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            msg = f"must be of the form {example!r}, not {value!r}"
            raise ValueError(msg)
        return value

    return AfterValidator(check)


def _refuse_flag(value: Any) -> Any:
    if isinstance(value, bool):
        msg = f"must be a number, not {value}"
        raise ValueError(msg)
    return value


def _reachable(volts: float) -> float:
    if abs(volts) > AO_LIMIT_V:
        msg = f"{volts:g} V is more than a board puts out, ±{AO_LIMIT_V:g} V"
        raise ValueError(msg)
    return volts


# strict: a number in quotes (with a unit, perhaps) or a truth value is no number
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Volts = Annotated[Finite, AfterValidator(_reachable)]
Whole = Annotated[int, Field(ge=0, strict=True)]
WholePositive = Annotated[int, Field(ge=1, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Name = Annotated[str, Field(min_length=1)]
NOT_A_FLAG = BeforeValidator(_refuse_flag)
_NUMBER = r"(0|[1-9]\d*)"
DigitalLine = Annotated[str, matching(rf"port{_NUMBER}/line{_NUMBER}", "port0/line3")]
BufferedLine = Annotated[str, matching(r"port0/line([12]?\d|3[01])", "port0/line3")]
AnalogOutput = Annotated[str, matching(rf"ao{_NUMBER}", "ao0")]
AnalogInput = Annotated[str, matching(rf"ai{_NUMBER}", "ai0")]
InputTerminal = Annotated[
    str, matching(rf"PFI{_NUMBER}|port{_NUMBER}/line{_NUMBER}", "PFI0")
]
Counter_ = Annotated[str, matching(rf"ctr{_NUMBER}", "ctr0")]
Colour = Annotated[str, matching(r"#[0-9A-Fa-f]{6}", "#00FF00")]
PropertyName = Annotated[
    tuple[Name, Name], Field(description="(device label, property name)")
]
PropertyValue = (
    Annotated[str, Field(strict=True)]
    | Annotated[int, Field(strict=True)]
    | Annotated[float, Field(strict=True, allow_inf_nan=False)]
)


class Table(BaseModel):
    """One table of the TOML: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")
