"""`Lights`: when each laser shines and how strongly.

Between the board's lines and the optics: a laser shines while its line, the common
enable line and its shutter all let it, as strongly as its power output or property
says. Separate from `Imaging`, which only sums up light. Knows no specimen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opm_engine.config import Microscope
    from opm_engine.simulation.cables import Cables
    from opm_engine.simulation.scene import Scene

    Levels = tuple[NDArray[np.float64], NDArray[Any]]

RISE_S = 20e-6
"""A laser's power grows linearly for so long; it falls at once."""


@dataclass(frozen=True)
class Pulse:
    """One laser's light, from when it was switched on until it was switched off."""

    on_s: float
    off_s: float

    def light_s(self, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Light given until ``time_s``, in seconds of full power."""
        shone = np.clip(time_s, self.on_s, self.off_s) - self.on_s
        rising = np.minimum(shone, RISE_S)
        return shone - rising + rising**2 / (2 * RISE_S)


class Lights:
    """The lasers of a microscope.

    Parameters
    ----------
    microscope : Microscope
    cables : Cables
        Where laser lines and power outputs are read.
    scene : Scene
        Where power properties and shutters are read.
    """

    def __init__(self, microscope: Microscope, cables: Cables, scene: Scene) -> None:
        self._microscope = microscope
        self._cables = cables
        self._scene = scene

    def pulses(self, laser: int, start_s: float, end_s: float) -> list[Pulse]:
        """Pulses of a laser that shine between two times."""
        since_s = start_s - RISE_S
        lines = [self._microscope.lasers[laser].line]
        if self._microscope.daq.laser_enable is not None:
            lines.append(self._microscope.daq.laser_enable)
        traces: list[Levels] = [
            self._cables.digital_trace(line, since_s, end_s) for line in lines
        ]
        traces += self._scene.shutters(laser, since_s, end_s)
        times = np.unique(np.concatenate([[since_s], *(trace[0] for trace in traces)]))
        high = np.ones(len(times), dtype=bool)
        for changes, levels in traces:
            at = np.searchsorted(changes, times, side="right") - 1
            high &= np.asarray(levels, dtype=bool)[np.maximum(at, 0)]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], high, [False]])))
        bounds = np.append(times, end_s)
        # On since before the trace began: the rise is long over.
        bounds[0] -= RISE_S if high[0] else 0.0
        pulses = [
            Pulse(float(bounds[on]), float(bounds[off]))
            for on, off in edges.reshape(-1, 2)
        ]
        return [pulse for pulse in pulses if pulse.off_s > start_s]

    def levels(
        self, laser: int, begin_s: float, end_s: float
    ) -> list[tuple[float, float, float]]:
        """Stretches (begin, end, share of full power) of a laser that is on."""
        share = self._scene.brightness(laser)
        output = self._microscope.lasers[laser].power_output
        if output is None:
            return [(begin_s, end_s, share)]
        times, volts = self._cables.analog_trace(output.channel, begin_s, end_s)
        shares = share * np.clip(volts / output.full_v, 0.0, 1.0)
        changed = np.append(True, np.diff(shares) != 0)
        times, shares = times[changed], shares[changed]
        ends = np.append(times[1:], end_s)
        return [
            (float(begin), float(end), float(level))
            for begin, end, level in zip(times, ends, shares, strict=True)
            if end > begin
        ]
