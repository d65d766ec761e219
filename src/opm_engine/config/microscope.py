"""`Microscope`: all tables of a description, loaded and checked against each other."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from opm_engine.config.board import Daq
from opm_engine.config.camera import Camera
from opm_engine.config.errors import ConfigError, FieldError, explain
from opm_engine.config.fields import Name, Table
from opm_engine.config.geometry import Geometry
from opm_engine.config.lasers import Laser
from opm_engine.config.simulation import Simulation
from opm_engine.config.stages import RemoteFocus, ScanStage


class Microscope(Table):
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
    scan_stage : ScanStage, optional
        Needed for ``stage`` mode.
    remote_focus : RemoteFocus, optional
        Needed for the ``o3_autofocus`` action.
    simulation : Simulation, optional
    """

    name: Name
    mm_config: Name | None = None
    channel_group: Name = "Channel"
    camera: Camera
    geometry: Geometry
    daq: Daq
    lasers: Annotated[tuple[Laser, ...], Field(min_length=1)]
    scan_stage: ScanStage | None = None
    remote_focus: RemoteFocus | None = None
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
        pins["daq.galvo.channel"] = self.daq.galvo.channel
        if self.daq.projection:
            pins["daq.projection.channel"] = self.daq.projection.channel
        for i, laser in enumerate(self.lasers):
            if laser.power_output:
                pins[f"lasers[{i}].power_output.channel"] = laser.power_output.channel
        _refuse_twice(pins, _pin)
        focus = self.remote_focus
        if focus is not None and focus.laser not in self.laser_names:
            msg = f"no such laser; there are {', '.join(self.laser_names)}"
            raise FieldError("remote_focus.laser", msg)
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

    def on_board(self, address: str) -> Microscope:
        """Return the same microscope on a board at another ``"host:port"``."""
        table = self.model_dump(mode="json", exclude_none=True)
        table["daq"]["address"] = address
        return self.from_table(table, source=self.name)

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
