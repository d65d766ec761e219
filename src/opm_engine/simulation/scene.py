"""`Scene`: what the simulated devices mean for the image.

Between Micro-Manager's devices and the optics: from stage axes to sample coordinates,
from properties to shares of light, from O3 to defocus. Separate so that the optics
know no device and the devices no optics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from opm_engine.config import Microscope
    from opm_engine.simulation.devices import (
        SimulatedFocus,
        SimulatedLasers,
        SimulatedO3,
        SimulatedShutter,
    )
    from opm_engine.simulation.scan_stage import SimulatedXYStage

    Levels = tuple[NDArray[np.float64], NDArray[Any]]


class Scene:
    """The devices of one microscope, as its optics see them.

    Parameters
    ----------
    microscope : Microscope
    stage : SimulatedXYStage
    focus : SimulatedFocus
    lasers : SimulatedLasers
    shutters : mapping
        Label → shutter in a laser's beam.
    o3 : SimulatedO3, optional
    """

    def __init__(
        self,
        microscope: Microscope,
        stage: SimulatedXYStage,
        focus: SimulatedFocus,
        lasers: SimulatedLasers,
        shutters: Mapping[str, SimulatedShutter],
        o3: SimulatedO3 | None = None,
    ) -> None:
        self._stage = stage
        self._focus = focus
        self._lasers = lasers
        self._shutters = [
            shutters[laser.shutter] if laser.shutter else None
            for laser in microscope.lasers
        ]
        self._o3 = o3
        self._sign = microscope.scan_stage.scan_sign if microscope.scan_stage else 1

    def origin_um(self, time_s: float) -> tuple[float, float, float]:
        """Sample coordinates (x, y, z) that a plain move has brought to the field.

        Along the scan, what the stage has moved since counts as scan offset instead;
        see :meth:`scanned_um`.
        """
        stage = self._stage
        x_um, y_um = stage.sent_um
        if stage.scan_axis == "y":
            x_um = stage.track("x").position(time_s)
        else:
            x_um, y_um = stage.track("y").position(time_s), x_um
        return x_um, self._sign * y_um, self._focus.get_position_um()

    def scanned_um(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far the stage has carried the light sheet along +Y; (T,) float64."""
        stage = self._stage
        sent_um = stage.sent_um[0 if stage.scan_axis == "x" else 1]
        positions_um = stage.track(stage.scan_axis).positions(times_s)
        return self._sign * (positions_um - sent_um)

    def brightness(self, laser: int) -> float:
        """Share of full power that a laser's property asks for, 0 to 1."""
        return self._lasers.brightness()[laser]

    def shutters(self, laser: int, start_s: float, end_s: float) -> list[Levels]:
        """When the shutters in a laser's beam are open; none, one or more traces."""
        shutter = self._shutters[laser]
        return [] if shutter is None else [shutter.trace(start_s, end_s)]

    @property
    def defocus_um(self) -> float:
        """How far O3 stands from its focus."""
        return 0.0 if self._o3 is None else self._o3.defocus_um
