"""Focus stages, shutters and laser unit of the simulated microscope.

Separate from camera, scanning stage and core because they are only remembered numbers:
they move at once and never fail. They know neither board nor specimen.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pymmcore_plus import FocusDirection
from pymmcore_plus.experimental.unicore import (
    GenericDevice,
    ShutterDevice,
    StageDevice,
)

from opm_engine.simulation.traces import Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from opm_engine.simulation.clock import SimClock

HISTORY_S = 10.0


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


class SimulatedO3(SimulatedFocus):
    """Moves the tertiary objective along its axis.

    Attributes
    ----------
    focus_um : float
        Where the image is sharp; tests displace it.
    reached_um : (low, high)
        How far it has been sent either way.
    """

    def __init__(self, focus_um: float = 0.0) -> None:
        super().__init__()
        self.focus_um = focus_um
        self.reached_um = (0.0, 0.0)

    @property
    def defocus_um(self) -> float:
        """Distance from the focus."""
        return self.get_position_um() - self.focus_um

    def set_position_um(self, val: float) -> None:
        """Move there at once."""
        super().set_position_um(val)
        low, high = self.reached_um
        self.reached_um = min(low, float(val)), max(high, float(val))


class SimulatedShutter(ShutterDevice):
    """A shutter that remembers when it was open.

    Parameters
    ----------
    clock : SimClock
    """

    def __init__(self, clock: SimClock) -> None:
        super().__init__()
        self._clock = clock
        self._tracing = threading.Lock()
        self._open = Trace(0.0, HISTORY_S)

    def get_open(self) -> bool:
        """Whether it is open."""
        return bool(self._open.value)

    def set_open(self, open: bool) -> None:  # noqa: A002 - MMCore's name
        """Open or close it."""
        with self._tracing:
            self._open.set(float(open), self._clock.now())

    def trace(
        self, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """When it was open (1) and when not (0), like a trace of a cable."""
        with self._tracing:
            return self._open.between(start_s, end_s)


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
