"""`Microscope`: the typed description of one oblique plane microscope.

Separate from everything that acts on it: it names devices, lines, volts and angles,
and refuses what cannot be. Knows no sequence and touches no hardware. Units are in
the names; unknown keys are errors.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from opm_engine.config_errors import ConfigError, FieldError, explain

__all__ = ["ConfigError", "Microscope", "template"]


AO_LIMIT_V = 10.0
"""No board of this kind puts out more than ±10 V."""


def _matching(pattern: str, example: str) -> AfterValidator:
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
_NOT_A_FLAG = BeforeValidator(_refuse_flag)
_NUMBER = r"(0|[1-9]\d*)"
DigitalLine = Annotated[str, _matching(rf"port{_NUMBER}/line{_NUMBER}", "port0/line3")]
BufferedLine = Annotated[str, _matching(r"port0/line([12]?\d|3[01])", "port0/line3")]
AnalogOutput = Annotated[str, _matching(rf"ao{_NUMBER}", "ao0")]
InputTerminal = Annotated[
    str, _matching(rf"PFI{_NUMBER}|port{_NUMBER}/line{_NUMBER}", "PFI0")
]
Counter_ = Annotated[str, _matching(rf"ctr{_NUMBER}", "ctr0")]
Colour = Annotated[str, _matching(r"#[0-9A-Fa-f]{6}", "#00FF00")]
PropertyName = Annotated[
    tuple[Name, Name], Field(description="(device label, property name)")
]
PropertyValue = (
    Annotated[str, Field(strict=True)]
    | Annotated[int, Field(strict=True)]
    | Annotated[float, Field(strict=True, allow_inf_nan=False)]
)


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ExposureOut(_Table):
    """The camera's exposure-out TTL, as it reaches the board.

    Attributes
    ----------
    terminal : str
        Board input it is wired to, like ``"PFI0"``.
    kind : {"all_rows", "first_row", "any_row"}
        When it is active: while every row exposes, while the first does, while any.
    polarity : {"active_high", "active_low"}
        Its level while active.
    """

    terminal: InputTerminal
    kind: Literal["all_rows", "first_row", "any_row"]
    polarity: Literal["active_high", "active_low"]


class Camera(_Table):
    """The camera, which is master of all timing.

    Attributes
    ----------
    label : str
        Device label in the Micro-Manager configuration.
    line_time_us : float
        Time between the starts of neighbouring rows.
    roi : (x, y, width, height)
        Region in camera pixels; the rows of it are the *s* axis.
    properties : dict
        Set before every run and read back: trigger source, output trigger kind, ….
    offset_counts, gain_e_per_count : float
        Recorded with the data; counts stay raw.
    trailing_exposures : int or "until_stopped"
        Exposures after the last asked frame that are usual for this camera.
    """

    label: Name
    line_time_us: Positive
    roi: tuple[Whole, Whole, WholePositive, WholePositive]
    exposure_out: ExposureOut
    properties: dict[str, PropertyValue] = {}
    offset_counts: NotNegative = 0.0
    gain_e_per_count: Positive = 1.0
    trailing_exposures: Whole | Literal["until_stopped"] = 0


class Geometry(_Table):
    """How the oblique planes lie in the sample.

    Attributes
    ----------
    angle_deg : float
        Angle between light sheet and coverslip (Micro-Manager quotes the angle to the
        optical axis: 60 there is 30 here).
    pixel_size_um : float
        Camera pixel in sample space.
    scan_sign : {1, -1}
        1 if a larger scan offset moves the plane along +Y, else -1.
    flip_rows, flip_columns : bool
        Whether camera rows (columns) run against +Z (+X).
    """

    angle_deg: Annotated[float, Field(gt=0, lt=90, strict=True)]
    pixel_size_um: Positive
    scan_sign: Annotated[Literal[1, -1], _NOT_A_FLAG] = 1
    flip_rows: Flag = False
    flip_columns: Flag = False


class Galvo(_Table):
    """The scan galvo: how volts move the light sheet along the coverslip.

    Attributes
    ----------
    channel : str
        Analog output, like ``"ao0"``.
    volts_per_um : float
        May be negative; not 0.
    offset_v : float
        Volts at scan offset 0.
    range_v : (low, high)
        Volts that the driver may ever see, within ±10 V.
    park_v : float
        Where it rests when nothing runs.
    slew_v_per_ms : float
        Fastest ramp.
    settle_ms : float
        Time to settle after a step between planes.
    """

    channel: AnalogOutput
    volts_per_um: Finite
    offset_v: Finite = 0.0
    range_v: tuple[Volts, Volts]
    park_v: Finite = 0.0
    slew_v_per_ms: Positive
    settle_ms: NotNegative

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.range_v
        if not self.volts_per_um:
            raise FieldError("volts_per_um", "must not be 0")
        if not low < high:
            raise FieldError("range_v", f"must be [low, high], not [{low}, {high}]")
        for name in ("park_v", "offset_v"):
            if not low <= (volts := getattr(self, name)) <= high:
                raise FieldError(
                    name, f"{volts:g} V lies outside range_v = [{low:g}, {high:g}]"
                )
        return self

    def volts_at(self, offset_um: float) -> float:
        """Volts that put the light sheet at a scan offset."""
        return self.offset_v + self.volts_per_um * offset_um


class Daq(_Table):
    """The NI board and what is wired to it.

    Attributes
    ----------
    device : str
        Name in NI MAX, like ``"Dev1"``.
    counter : str
        Counter that counts the camera's exposures.
    galvo : Galvo
    laser_enable : str, optional
        Static line on an unbuffered port, ANDed in hardware with every laser; raised
        after arming, dropped before anything else.
    """

    device: Annotated[str, _matching(r"[A-Za-z][\w-]*", "Dev1")]
    counter: Counter_ = "ctr0"
    galvo: Galvo
    laser_enable: DigitalLine | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.laser_enable and self.laser_enable.startswith("port0/"):
            raise FieldError(
                "laser_enable",
                "must be on a port other than port0, whose lines are buffered; "
                f"port1/line0, say, not {self.laser_enable!r}",
            )
        return self


class Laser(_Table):
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
    """

    name: Name
    line: BufferedLine
    colour: Colour = "#FFFFFF"
    power_property: PropertyName | None = None


class Simulation(_Table):
    """Turns the description into a simulated microscope.

    Attributes
    ----------
    seed : int
        Places the specimen's structures and the noise.
    noise : bool
        Shot and read noise.
    time_scale : float
        Simulated seconds per second.
    """

    seed: Whole = 1
    noise: Flag = True
    time_scale: Positive = 1.0


class Microscope(_Table):
    """One oblique plane microscope.

    Attributes
    ----------
    name : str
    mm_config : str, optional
        Micro-Manager configuration file, relative to the TOML. Needed unless
        ``simulation`` is given.
    channel_group : str
        Config group whose presets the channels of a sequence name.
    camera : Camera
    geometry : Geometry
    daq : Daq
    lasers : tuple of Laser
    simulation : Simulation, optional
    """

    name: Name
    mm_config: Name | None = None
    channel_group: Name = "Channel"
    camera: Camera
    geometry: Geometry
    daq: Daq
    lasers: Annotated[tuple[Laser, ...], Field(min_length=1)]
    simulation: Simulation | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mm_config is None and self.simulation is None:
            msg = "is required unless there is a [simulation] table"
            raise FieldError("mm_config", msg)
        _refuse_twice(
            {f"lasers[{i}].name": laser.name for i, laser in enumerate(self.lasers)}
        )
        pins = {f"lasers[{i}].line": laser.line for i, laser in enumerate(self.lasers)}
        pins["camera.exposure_out.terminal"] = self.camera.exposure_out.terminal
        if self.daq.laser_enable:
            pins["daq.laser_enable"] = self.daq.laser_enable
        _refuse_twice(pins, _pin)
        return self

    @classmethod
    def load(cls, path: str | Path) -> Microscope:
        """Read a microscope TOML.

        Raises
        ------
        ConfigError
            If the file is not TOML or a field is missing, unknown or impossible.
        FileNotFoundError
            If there is no such file.
        """
        path = Path(path)
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            msg = f"{path}: not a TOML file: {error}"
            raise ConfigError(msg) from error
        microscope = cls.from_table(table, source=str(path))
        if microscope.mm_config is None:
            return microscope
        absolute = str((path.parent / microscope.mm_config).resolve())
        return microscope.model_copy(update={"mm_config": absolute})

    @classmethod
    def from_table(cls, table: dict[str, Any], source: str = "microscope") -> Self:
        """Validate a parsed TOML; see :meth:`load`."""
        try:
            return cls.model_validate(table)
        except ValidationError as error:
            msg = f"{source}: {explain(error, cls, table)}"
            raise ConfigError(msg) from error

    @classmethod
    def demo(cls) -> Microscope:
        """Return the simulated microscope that ``open_microscope("demo")`` opens."""
        text = template("demo")
        return cls.from_table(tomllib.loads(text), source="demo")

    @property
    def laser_names(self) -> tuple[str, ...]:
        """Names of the lasers, in the order of the description."""
        return tuple(laser.name for laser in self.lasers)


def template(name: Literal["demo", "instrument"]) -> str:
    """Return the commented TOML of the demo or of a real instrument."""
    return (files("opm_engine") / "templates" / f"{name}.toml").read_text("utf-8")


def _pin(terminal: str) -> str:
    """Return the line of an X-series terminal: PFI0-15 are also port1 and port2."""
    if terminal.startswith("PFI") and (number := int(terminal[3:])) < 16:
        return f"port{1 + number // 8}/line{number % 8}"
    return terminal


def _refuse_twice(values: dict[str, str], same_as: Callable[[str], str] = str) -> None:
    """Refuse the second of two fields that mean the same, naming the first."""
    owners: dict[str, str] = {}
    for field, value in values.items():
        other = owners.setdefault(same_as(value), field)
        if other != field:
            msg = f"{value!r} is taken by {other} = {values[other]!r}"
            raise FieldError(field, msg)
