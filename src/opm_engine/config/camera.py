"""`Camera`: the master of all timing, and its exposure-out line."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from opm_engine.config.fields import (
    InputTerminal,
    Name,
    NotNegative,
    Positive,
    PropertyValue,
    Table,
    Whole,
    WholePositive,
)


class ExposureOut(Table):
    """The camera's exposure-out TTL, as it reaches the board.

    Attributes
    ----------
    terminal : str
        Board input it is wired to, like ``"PFI0"``.
    kind : {"all_rows", "first_row", "any_row"}
        When it is active: while every row exposes, while the first does, while any.
    polarity : {"active_high", "active_low"}
        Its level while active.
    debounce_us : float
        Shorter pulses are ignored by the board's digital filter; 0 is no filter. Keep
        it under half the shortest phase.
    """

    terminal: InputTerminal
    kind: Literal["all_rows", "first_row", "any_row"]
    polarity: Literal["active_high", "active_low"]
    debounce_us: NotNegative = 0.0


class Camera(Table):
    """The camera, which is master of all timing.

    Attributes
    ----------
    label : str
        Device label in the Micro-Manager configuration.
    profile : str, optional
        Make of camera, whose property names are known (`profiles`); trigger source and
        exposure-out are then set by it, and ``properties`` adds to it or overrides.
    sensors : tuple of str
        Labels of the physical cameras, in channel order, if ``label`` is a Multi
        Camera device; empty for one camera. The first is wired to the board.
    line_time_us : float
        Time between the starts of neighbouring rows.
    roi : (x, y, width, height)
        Region in camera pixels; the rows of it are the *s* axis.
    properties : dict
        Set before every run and read back: trigger source, output trigger kind, ….
    start_trigger : dict
        Set on top in ``stage`` mode, in which the camera waits for the stage's start
        pulse and then runs free; the profile knows it for its make.
    offset_counts, gain_e_per_count : float
        Recorded with the data; counts stay raw.
    trailing_exposures : int or "until_stopped"
        Exposures after the last asked frame that are usual for this camera.
    """

    label: Name
    line_time_us: Positive
    roi: tuple[Whole, Whole, WholePositive, WholePositive]
    exposure_out: ExposureOut
    profile: Literal["hamamatsu", "pvcam", "pco", "andor", "tucam", "demo"] | None = (
        None
    )
    sensors: tuple[Name, ...] = ()
    properties: dict[str, PropertyValue] = Field(default_factory=dict)
    start_trigger: dict[str, PropertyValue] = Field(default_factory=dict)
    offset_counts: NotNegative = 0.0
    gain_e_per_count: Positive = 1.0
    trailing_exposures: Whole | Literal["until_stopped"] = 0

    @property
    def devices(self) -> tuple[str, ...]:
        """Labels of the physical cameras."""
        return self.sensors or (self.label,)
