"""`Imaging`: what the sensor sees during one frame.

Between cables and pixels: laser lines become pulses of light, galvo volts and stage
positions become sheet positions, and every row integrates what shines while it exposes.
Separate from the camera, which knows when frames start but not what is in them. Knows
no MMCore.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from opm_engine.simulation.lights import Lights
from opm_engine.simulation.mirror import Mirror
from opm_engine.simulation.render import blurred, digitise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from opm_engine.config import Microscope
    from opm_engine.simulation.cables import Cables
    from opm_engine.simulation.scene import Scene
    from opm_engine.simulation.shutter import RollingShutter
    from opm_engine.simulation.specimen import Visible

    Light = NDArray[np.float32]
    Roi = tuple[int, int, int, int]

READ_NOISE_E = 1.4
STILL_UM = 0.1
"""An image that moves less than this during a pulse stands still."""

SHEET_STILL_UM = 0.2
"""A light sheet that moves less than this along its normal stands still."""

MOST_PARTS = 2048
"""Into so many parts a pulse is split at most."""

SPLIT = 0.5
"""Share of a sensor's light that the next one gets."""

DEFOCUS_BLUR = 0.4
"""Blur (sigma) per distance of O3 from its focus."""


class View(NamedTuple):
    """What one plane shows, in µm.

    Attributes
    ----------
    offset_um : float
        Where the light sheet is along +Y, galvo and scanning stage together.
    shift_um : float
        By how much the image is shifted towards larger rows.
    origin_um : (x, y, z)
        Sample coordinates of the field.
    defocus_um : float
    """

    offset_um: float
    shift_um: float
    origin_um: tuple[float, float, float]
    defocus_um: float


class Imaging:
    """Light path and sensor of the simulated microscope.

    Shift of the image. The projection galvo shifts the image on the camera along its
    rows by ``shift_um = (volts - offset_v) / volts_per_um`` of sample: light of sample
    row s falls on row ``s + shift_um / pixel``, counted along +Z, before rows are
    flipped. So with ``shift_um = d / cos(angle)`` at scan offset d, what lies in the
    sheet at (Y, Z) always falls on row ``Y / (pixel cos(angle))``: a projection along
    the coverslip's normal. (The out-of-focus rim of a bead still moves while the sheet
    passes through it, by tan(angle) sin(angle) per µm of scan.)

    Parameters
    ----------
    microscope : Microscope
    cables : Cables
        Where laser lines, power outputs and galvo volts are read.
    specimen : Visible
    scene : Scene
        Stages, shutters and O3.

    Several sensors see the same plane behind a beam splitter: each gets `SPLIT` of the
    light of the one before it.
    """

    def __init__(
        self,
        microscope: Microscope,
        cables: Cables,
        specimen: Visible,
        scene: Scene,
    ) -> None:
        self._microscope = microscope
        self._specimen = specimen
        self._scene = scene
        self._lights = Lights(microscope, cables, scene)
        self._galvo = Mirror(microscope.daq.galvo, cables)
        projection = microscope.daq.projection
        self._shifter = Mirror(projection, cables) if projection else None
        self._mirrors = [m for m in (self._galvo, self._shifter) if m is not None]
        theta = math.radians(microscope.geometry.angle_deg)
        self._sin, self._cos = math.sin(theta), math.cos(theta)
        simulation = microscope.simulation
        noisy = simulation is not None and simulation.noise
        self._rng = np.random.default_rng(simulation.seed if simulation else 0)
        # Drawing from a table at random offsets is far cheaper than fresh numbers.
        count = 2**19 + 7 if noisy else 0
        self._noise = self._rng.standard_normal(count, dtype=np.float32)
        # Compile now: later it would hold the clock back by a second.
        self._digitise(specimen.plane(0.0, 0, (0.0, 0.0, 0.0), (8, 8)))
        blurred(np.zeros((8, 8), dtype=np.float32), 1.0)
        for mirror in self._mirrors:
            mirror.um(np.zeros(1))

    def begin(self, time_s: float) -> None:
        """Let the galvos follow what they were told before the camera starts."""
        for mirror in self._mirrors:
            mirror.begin(time_s)

    def frame(
        self, shutter: RollingShutter, start_s: float, roi: Roi
    ) -> tuple[NDArray[np.uint16], ...]:
        """Expose one frame; frames are asked for in order of time.

        Parameters
        ----------
        shutter : RollingShutter
        start_s : float
            When the first row starts to integrate.
        roi : (x, y, width, height)
            Part of the sensor that is read.

        Returns
        -------
        tuple of ndarray, (rows, columns) uint16
            One image per sensor.
        """
        end_s = start_s + shutter.integration_s
        for mirror in self._mirrors:
            mirror.look(end_s)
        light = np.zeros((roi[3], roi[2]), dtype=np.float32)
        for laser in range(len(self._microscope.lasers)):
            self._expose(laser, shutter, start_s, roi, light)
        for mirror in self._mirrors:
            mirror.advance(start_s + shutter.period_s)
        sensors = range(1, len(self._microscope.camera.devices))
        split = (np.float32(SPLIT**k) * light for k in sensors)
        return tuple(self._digitise(seen) for seen in (light, *split))

    def _expose(
        self,
        laser: int,
        shutter: RollingShutter,
        start_s: float,
        roi: Roi,
        light: Light,
    ) -> None:
        """Add what one laser lights; ``light`` is (rows, columns), in counts."""
        end_s = start_s + shutter.integration_s
        starts_s = shutter.row_starts(start_s)
        for pulse in self._lights.pulses(laser, start_s, end_s):
            span = max(pulse.on_s, start_s), min(pulse.off_s, end_s)
            for begin_s, until_s, share in self._lights.levels(laser, *span):
                for part_s, stop_s, view in self._still(begin_s, until_s):
                    begins = np.maximum(starts_s, part_s)
                    ends = np.minimum(starts_s + shutter.exposure_s, stop_s)
                    lit_s = pulse.light_s(np.maximum(ends, begins))
                    weight = 1e3 * share * (lit_s - pulse.light_s(begins))
                    if weight.any():
                        plane = self._plane(view, laser, roi)
                        light += weight.astype(np.float32)[:, np.newaxis] * plane

    def _still(
        self, begin_s: float, end_s: float
    ) -> Iterator[tuple[float, float, View]]:
        """Split a span into (begin, end, view), so that the image hardly moves."""
        times = np.linspace(begin_s, end_s, 9)
        path = self._path(times)  # (2, T): offset, shift
        moved = self._moved(path)
        if moved[-1] <= 1:
            yield begin_s, end_s, self._view(begin_s, *path.mean(axis=1))
            return
        n_fine = min(MOST_PARTS, 8 * math.ceil(moved[-1])) + 1
        times = np.linspace(begin_s, end_s, n_fine)
        path = self._path(times)
        moved = self._moved(path)
        n_parts = math.ceil(moved[-1])
        cuts = np.interp(np.linspace(0, moved[-1], n_parts + 1), moved, times)
        cuts[0], cuts[-1] = begin_s, end_s
        # The mean over each part, from the integral of the path over time.
        areas = (path[:, 1:] + path[:, :-1]) / 2 * np.diff(times)
        sums = np.concatenate([np.zeros((2, 1)), np.cumsum(areas, axis=1)], axis=1)
        offsets, shifts = (np.diff(np.interp(cuts, times, row)) for row in sums)
        for begin, end, offset, shift in zip(
            cuts[:-1], cuts[1:], offsets, shifts, strict=True
        ):
            if end > begin:
                mean = offset / (end - begin), shift / (end - begin)
                yield float(begin), float(end), self._view(begin_s, *mean)

    def _path(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scan offset and shift of the image over time; (2, T) float64 in µm."""
        path = np.zeros((2, len(times_s)))
        path[0] = self._microscope.geometry.scan_sign * self._galvo.um(times_s)
        path[0] += self._scene.scanned_um(times_s)
        if self._shifter is not None:
            path[1] = self._shifter.um(times_s)
        return path

    def _moved(self, path: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far image and sheet have moved, 1 being noticeable; (T,) float64."""
        offset, shift = np.abs(np.diff(path)), np.diff(path[1] - self._cos * path[0])
        steps = np.maximum(
            np.abs(shift) / STILL_UM, offset[0] * self._sin / SHEET_STILL_UM
        )
        return np.concatenate([[0.0], np.cumsum(steps)])

    def _view(self, time_s: float, offset_um: float, shift_um: float) -> View:
        scene = self._scene
        origin_um = scene.origin_um(time_s)
        return View(float(offset_um), float(shift_um), origin_um, scene.defocus_um)

    def _plane(self, view: View, laser: int, roi: Roi) -> Light:
        """One plane as the camera's rows and columns run.

        The field starts at the corner of the configured region, so that another
        region of the sensor shows another part of the sample.
        """
        geometry, home = self._microscope.geometry, self._microscope.camera.roi
        x, y, width, height = roi
        column, row = x - home[0], y - home[1]
        if geometry.flip_columns:
            column = home[2] - column - width
        if geometry.flip_rows:
            row = home[3] - row - height
        along_um = row * geometry.pixel_size_um - view.shift_um
        x_um, y_um, z_um = view.origin_um
        origin_um = (
            x_um + column * geometry.pixel_size_um,
            y_um + along_um * self._cos,
            z_um + along_um * self._sin,
        )
        plane = self._specimen.plane(view.offset_um, laser, origin_um, (height, width))
        if view.defocus_um:
            sigma_um = DEFOCUS_BLUR * abs(view.defocus_um)
            plane = blurred(plane, sigma_um / geometry.pixel_size_um)
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
