"""`Imaging`: what the sensor sees during one frame.

Between cables and pixels: laser lines become pulses of light, galvo volts become sheet
positions, and every row integrates what shines while it exposes. Separate from the
camera, which knows when frames start but not what is in them. Knows no MMCore.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.simulation.galvo import GalvoResponse
from opm_engine.simulation.render import digitise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opm_engine.config import Microscope
    from opm_engine.simulation.cables import Cables
    from opm_engine.simulation.galvo import Trace
    from opm_engine.simulation.shutter import RollingShutter
    from opm_engine.simulation.specimen import Visible

    Light = NDArray[np.float32]

RISE_S = 20e-6
"""A laser's power grows linearly for so long; it falls at once."""

READ_NOISE_E = 1.4
MEMORY_S = 20e-3
"""How far back the galvo's drive is looked at when the camera starts."""

STILL_UM = 0.01
"""A sheet that moves less than this during a pulse stands still."""

FINEST_S = 5e-6
"""Pulses are not split below this."""


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


@dataclass(frozen=True)
class Field:
    """Which part of the sensor is read, and where the stages stand.

    Attributes
    ----------
    roi : (x, y, width, height)
    stage_um : (x, y, z)
    brightness : (n_lasers,) tuple of float
        Share of each laser's full power.
    """

    roi: tuple[int, int, int, int]
    stage_um: tuple[float, float, float]
    brightness: tuple[float, ...]


class Imaging:
    """Light path and sensor of the simulated microscope.

    Parameters
    ----------
    microscope : Microscope
    cables : Cables
        Where laser lines and galvo volts are read.
    specimen : Visible
    """

    def __init__(
        self, microscope: Microscope, cables: Cables, specimen: Visible
    ) -> None:
        self._microscope = microscope
        self._cables = cables
        self._specimen = specimen
        simulation = microscope.simulation
        noisy = simulation is not None and simulation.noise
        self._rng = np.random.default_rng(simulation.seed if simulation else 0)
        # Drawing from a table at random offsets is far cheaper than fresh numbers.
        count = 2**19 + 7 if noisy else 0
        self._noise = self._rng.standard_normal(count, dtype=np.float32)
        self._galvo = GalvoResponse()
        # Compile now: later it would hold the clock back by a second.
        self._digitise(specimen.plane(0.0, 0, (0.0, 0.0, 0.0), (8, 8)))

    def begin(self, time_s: float) -> None:
        """Let the galvo follow what it was told before the camera starts."""
        since_s = max(0.0, time_s - MEMORY_S)
        trace = self._volts(since_s, time_s)
        self._galvo = GalvoResponse(since_s, float(trace[1][0]))
        self._galvo.advance(trace, time_s)

    def frame(
        self, shutter: RollingShutter, start_s: float, field: Field
    ) -> NDArray[np.uint16]:
        """Expose one frame; frames are asked for in order of time.

        Parameters
        ----------
        shutter : RollingShutter
        start_s : float
            When the first row starts to integrate.
        field : Field

        Returns
        -------
        ndarray, (rows, columns) uint16
        """
        end_s = start_s + shutter.integration_s
        volts = self._volts(self._galvo.time_s, end_s)
        starts_s = shutter.row_starts(start_s)
        light = np.zeros((field.roi[3], field.roi[2]), dtype=np.float32)
        for laser, brightness in enumerate(field.brightness):
            for pulse in self._pulses(laser, start_s, end_s):
                span = max(pulse.on_s, start_s), min(pulse.off_s, end_s)
                for begin_s, stop_s, offset_um in self._still(volts, *span):
                    begins = np.maximum(starts_s, begin_s)
                    ends = np.minimum(starts_s + shutter.exposure_s, stop_s)
                    lit_s = pulse.light_s(np.maximum(ends, begins))
                    weight = 1e3 * brightness * (lit_s - pulse.light_s(begins))
                    if weight.any():
                        plane = self._plane(offset_um, laser, field)
                        light += weight.astype(np.float32)[:, np.newaxis] * plane
        self._galvo.advance(volts, start_s + shutter.period_s)
        return self._digitise(light)

    def _pulses(self, laser: int, start_s: float, end_s: float) -> list[Pulse]:
        """Pulses of a laser that shine between two times."""
        since_s = start_s - RISE_S
        lines = [self._microscope.lasers[laser].line]
        if self._microscope.daq.laser_enable is not None:
            lines.append(self._microscope.daq.laser_enable)
        traces = [self._cables.digital_trace(line, since_s, end_s) for line in lines]
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

    def _still(
        self, volts: Trace, begin_s: float, end_s: float
    ) -> list[tuple[float, float, float]]:
        """Split a span into (begin, end, sheet offset), so that it hardly moves."""
        times = np.linspace(begin_s, end_s, 9)
        galvo = self._microscope.daq.galvo
        positions_v = self._galvo.positions(volts, times)
        offsets_um = self._microscope.geometry.scan_sign * (
            (positions_v - galvo.offset_v) / galvo.volts_per_um
        )
        if np.ptp(offsets_um) <= STILL_UM or end_s - begin_s <= FINEST_S:
            return [(begin_s, end_s, float(offsets_um.mean()))]
        middle_s = (begin_s + end_s) / 2
        return [
            *self._still(volts, begin_s, middle_s),
            *self._still(volts, middle_s, end_s),
        ]

    def _plane(self, offset_um: float, laser: int, field: Field) -> Light:
        """One plane as the camera's rows and columns run.

        The field starts at the corner of the configured region, so that another
        region of the sensor shows another part of the sample.
        """
        geometry, home = self._microscope.geometry, self._microscope.camera.roi
        x, y, width, height = field.roi
        column, row = x - home[0], y - home[1]
        if geometry.flip_columns:
            column = home[2] - column - width
        if geometry.flip_rows:
            row = home[3] - row - height
        along_um, theta = row * geometry.pixel_size_um, np.deg2rad(geometry.angle_deg)
        x_um, y_um, z_um = field.stage_um
        origin_um = (
            x_um + column * geometry.pixel_size_um,
            y_um + along_um * float(np.cos(theta)),
            z_um + along_um * float(np.sin(theta)),
        )
        plane = self._specimen.plane(offset_um, laser, origin_um, (height, width))
        rows = -1 if geometry.flip_rows else 1
        columns = -1 if geometry.flip_columns else 1
        return plane[::rows, ::columns]

    def _digitise(self, light: Light) -> NDArray[np.uint16]:
        counts = np.empty(light.shape, dtype=np.uint16)
        camera = self._microscope.camera
        first = int(self._rng.integers(self._noise.size)) if self._noise.size else 0
        digitise(
            light,
            camera.offset_counts,
            camera.gain_e_per_count,
            READ_NOISE_E,
            self._noise,
            first,
            counts,
        )
        return counts

    def _volts(self, start_s: float, end_s: float) -> Trace:
        galvo = self._microscope.daq.galvo
        return self._cables.analog_trace(galvo.channel, start_s, end_s)
