"""Stages that scan or focus: `ScanStage` moves the sample, `RemoteFocus` O3."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from opm_engine.config.errors import FieldError
from opm_engine.config.fields import (
    NOT_A_FLAG,
    Finite,
    Name,
    NotNegative,
    Positive,
    Table,
)

Limits = tuple[Finite, Finite]


class ScanProperties(Table):
    """Property names of the stage's controller; ``{axis}`` is X or Y.

    The defaults are those of an ASI Tiger controller with the SCAN module.
    """

    speed_mm_s: Name = "MotorSpeed{axis}-S(mm/s)"
    start_mm: Name = "ScanFastAxisStartPosition(mm)"
    stop_mm: Name = "ScanFastAxisStopPosition(mm)"
    settling_ms: Name = "ScanSettlingTime(ms)"
    state: Name = "ScanState"
    running: Name = "Running"
    idle: Name = "Idle"
    lower_limit_mm: Name = "LowerLim{axis}(mm)"
    upper_limit_mm: Name = "UpperLim{axis}(mm)"


class ScanStage(Table):
    """The stage that moves the sample in ``stage`` mode.

    Attributes
    ----------
    label : str
        XY stage device in the Micro-Manager configuration. Its start pulse is wired to
        the camera's trigger input.
    axis : {"x", "y"}
        Axis of the stage that runs along the scan.
    scan_sign : {1, -1}
        1 if moving the stage to larger values moves the light sheet along +Y of the
        sample, else -1.
    range_um : (low, high)
        Where the stage may go; beyond it plans are refused.
    max_speed_um_per_s : float
    ramp_ms : float
        Time to reach constant speed; the planes of it are dark and not saved.
    margin_um : float
        Distance of the controller's own end limits from both ends of a scan.
    properties : ScanProperties
    """

    label: Name
    axis: Literal["x", "y"] = "y"
    scan_sign: Annotated[Literal[1, -1], NOT_A_FLAG] = 1
    range_um: Limits
    max_speed_um_per_s: Positive
    ramp_ms: NotNegative = 0.0
    margin_um: NotNegative = 50.0
    properties: ScanProperties = ScanProperties()

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse_empty("range_um", self.range_um)
        return self


class RemoteFocus(Table):
    """The stage of the tertiary objective, O3, and how its focus is found.

    Attributes
    ----------
    stage : str
        Label of the focus stage that moves O3.
    limits_um : (low, high)
        It is never sent beyond: O2 is near.
    laser : str
        Alignment source: name of the laser that lights while searching.
    power_percent : float, optional
        Of that laser meanwhile; as it stands without it.
    exposure_ms : float
        Of the images of a search.
    depth_of_field_um : float
        Step of the fine search; the focus is found within it.
    search_um : float
        How far from the start is searched, on both sides.
    """

    stage: Name
    limits_um: Limits
    laser: Name
    power_percent: Annotated[Positive, Field(le=100)] | None = None
    exposure_ms: Positive = 10.0
    depth_of_field_um: Positive = 1.0
    search_um: Positive = 10.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse_empty("limits_um", self.limits_um)
        return self


def refuse_empty(field: str, limits: Limits) -> None:
    """Refuse limits that leave no room."""
    low, high = limits
    if not low < high:
        raise FieldError(field, f"must be [low, high], not [{low}, {high}]")
