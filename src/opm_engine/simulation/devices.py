"""Stages, shutter and laser unit of the simulated microscope.

Separate from camera and core because they are only remembered numbers: they move at
once and never fail. They know neither board nor specimen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymmcore_plus import FocusDirection
from pymmcore_plus.experimental.unicore import (
    GenericDevice,
    ShutterDevice,
    StageDevice,
    XYStageDevice,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


class SimulatedXYStage(XYStageDevice):
    """Moves the sample in x and y."""

    def __init__(self) -> None:
        super().__init__()
        self._position_um = (0.0, 0.0)

    def get_position_um(self) -> tuple[float, float]:
        """Position (x, y)."""
        return self._position_um

    def set_position_um(self, x: float, y: float) -> None:
        """Move there at once."""
        self._position_um = float(x), float(y)

    def set_origin_x(self) -> None:
        """Call the present position x = 0."""
        self._position_um = 0.0, self._position_um[1]

    def set_origin_y(self) -> None:
        """Call the present position y = 0."""
        self._position_um = self._position_um[0], 0.0

    def home(self) -> None:
        """Move to (0, 0)."""
        self._position_um = 0.0, 0.0

    def stop(self) -> None:
        """Nothing moves for long."""


class SimulatedFocus(StageDevice):
    """Moves the sample in z."""

    def __init__(self) -> None:
        super().__init__()
        self._position_um = 0.0

    def get_position_um(self) -> float:
        """Position z."""
        return self._position_um

    def set_position_um(self, val: float) -> None:
        """Move there at once."""
        self._position_um = float(val)

    def get_focus_direction(self) -> FocusDirection:
        """A larger z lies nearer to the sample."""
        return FocusDirection.TowardSample

    def set_origin(self) -> None:
        """Call the present position z = 0."""
        self._position_um = 0.0

    def home(self) -> None:
        """Move to 0."""
        self._position_um = 0.0

    def stop(self) -> None:
        """Nothing moves for long."""


class SimulatedShutter(ShutterDevice):
    """The lamp's shutter; lasers do not pass it."""

    def __init__(self) -> None:
        super().__init__()
        self._open = False

    def get_open(self) -> bool:
        """Whether it is open."""
        return self._open

    def set_open(self, open: bool) -> None:  # noqa: A002 - MMCore's name
        """Open or close it."""
        self._open = bool(open)


class SimulatedLasers(GenericDevice):
    """The laser unit: which laser a preset names, and the power of each.

    Properties ``Ready-<name>`` ("On" or "Off", what presets set; it switches nothing,
    the board does) and ``Power-<name>`` in percent.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = tuple(names)
        for name in names:
            self.register_property(
                ready_property(name), default_value="Off", allowed_values=("On", "Off")
            )
            self.register_property(
                power_property(name), default_value=100.0, limits=(0.0, 100.0)
            )

    def brightness(self) -> tuple[float, ...]:
        """Share of full power of each laser, 0 to 1."""
        return tuple(
            float(self.get_property_value(power_property(name))) / 100
            for name in self._names
        )


def ready_property(name: str) -> str:
    """Name of the property that a laser's preset sets."""
    return f"Ready-{name}"


def power_property(name: str) -> str:
    """Name of a laser's power property."""
    return f"Power-{name}"
