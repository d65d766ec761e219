"""`SimulatedCore`: MMCore with the simulated devices loaded.

Separate from the devices because it works around what `UniMMCore` lacks: a way to
tell the camera to stop, a ring that holds whole frames, a clean end. Knows no engine.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymmcore
from pymmcore_plus.experimental.unicore import UniMMCore
from pymmcore_plus.experimental.unicore.core._sequence_buffer import SequenceBuffer

from opm_engine.simulation.camera import SimulatedCamera
from opm_engine.simulation.devices import (
    SimulatedFocus,
    SimulatedLasers,
    SimulatedShutter,
    SimulatedXYStage,
    ready_property,
)
from opm_engine.simulation.imaging import Field, Imaging
from opm_engine.simulation.specimen import Optics, Specimen

if TYPE_CHECKING:
    from pymmcore_plus.experimental.unicore import CameraDevice

    from opm_engine.config import Microscope
    from opm_engine.simulation.cables import Cables
    from opm_engine.simulation.clock import SimClock
    from opm_engine.simulation.specimen import Visible

DEFAULT_RING_MB = 250
XY_STAGE, FOCUS, SHUTTER, LASERS = "XY", "Z", "Shutter", "Lasers"


class SimulatedCore(UniMMCore):
    """A core whose Python camera can be stopped and whose ring holds whole frames.

    Attributes
    ----------
    simulated_camera : SimulatedCamera
        Set by :func:`simulated_core`.
    """

    simulated_camera: SimulatedCamera | None = None
    _ring_mb = DEFAULT_RING_MB

    def stopSequenceAcquisition(self, cameraLabel: str | None = None) -> None:
        """Stop the camera first, else its generator blocks the core for 2 s."""
        self._stop_camera()
        super().stopSequenceAcquisition(cameraLabel)

    def setCircularBufferMemoryFootprint(self, sizeMB: int) -> None:
        """Set the ring's size in MB, rounded up to whole frames.

        A ring that is not a multiple of the frame overflows where it wraps, however
        empty it is.
        """
        super().setCircularBufferMemoryFootprint(sizeMB)
        self._ring_mb = sizeMB
        self._fit_ring()

    def unloadAllDevices(self) -> None:
        """Stop the camera and let every device go."""
        self._stop_camera()
        super().unloadAllDevices()

    def reset(self) -> None:
        """Stop the camera and forget everything."""
        self._stop_camera()
        super().reset()

    def close(self) -> None:
        """Leave no thread behind. May be called twice."""
        self.unloadAllDevices()
        # MMCore's callback thread must not meet a dying interpreter.
        pymmcore.CMMCore.registerCallback(self, None)

    def _stop_camera(self) -> None:
        if self.simulated_camera is not None:
            self.simulated_camera.stop_exposing()

    def _do_snap_image(self) -> None:
        if self.simulated_camera is None:
            super()._do_snap_image()
            return
        with self.simulated_camera.snapping():
            super()._do_snap_image()

    def _start_sequence(
        self, cam: CameraDevice, n_images: int | None, stop_on_overflow: bool
    ) -> None:
        self._fit_ring()  # the region may have changed
        super()._start_sequence(cam, n_images, stop_on_overflow)

    def _fit_ring(self) -> None:
        camera = self.simulated_camera
        if camera is None:
            return
        frame_bytes = self._predicted_bytes_per_frame(camera)
        frames = max(2, math.ceil(self._ring_mb * 2**20 / frame_bytes))
        if self._seq_buffer.size_bytes != frames * frame_bytes:
            self._seq_buffer = SequenceBuffer(size_mb=frames * frame_bytes / 2**20)


def simulated_core(
    microscope: Microscope,
    cables: Cables,
    clock: SimClock,
    specimen: Visible | None = None,
) -> SimulatedCore:
    """Build the simulated microscope's core, with all devices loaded.

    Parameters
    ----------
    microscope : Microscope
    cables : Cables
        The board that camera, galvo and lasers are wired to.
    clock : SimClock
        The board's clock.
    specimen : Visible, optional
        What lies on the stage; defaults to :func:`demo_specimen`.

    Returns
    -------
    SimulatedCore
        ``close`` it when done.
    """
    # It needs no device adapters; asked for none, pymmcore-plus logs an error.
    core = SimulatedCore(mm_path=str(Path(__file__).parent))
    lasers = SimulatedLasers(microscope.laser_names)
    stage, focus = SimulatedXYStage(), SimulatedFocus()

    def look(roi: tuple[int, int, int, int]) -> Field:
        stage_um = (*stage.get_position_um(), focus.get_position_um())
        return Field(roi, stage_um, lasers.brightness())

    camera = SimulatedCamera(
        Imaging(microscope, cables, specimen or demo_specimen(microscope)),
        cables,
        clock,
        terminal=microscope.camera.exposure_out.terminal,
        line_time_us=microscope.camera.line_time_us,
        look=look,
        sensor_shape=_sensor_shape(microscope),
    )
    devices: dict[str, Any] = {
        microscope.camera.label: camera,
        XY_STAGE: stage,
        FOCUS: focus,
        SHUTTER: SimulatedShutter(),
        LASERS: lasers,
    }
    for label, device in devices.items():
        core.loadPyDevice(label, device)
    core.initializeAllDevices()
    core.setCameraDevice(microscope.camera.label)
    core.setXYStageDevice(XY_STAGE)
    core.setFocusDevice(FOCUS)
    core.setShutterDevice(SHUTTER)
    core.simulated_camera = camera
    _define_configs(core, microscope)
    return core


def demo_specimen(microscope: Microscope) -> Specimen:
    """Return the specimen that lies on a microscope's stage unless another is given."""
    geometry = microscope.geometry
    seed = microscope.simulation.seed if microscope.simulation else 1
    optics = Optics(geometry.angle_deg, geometry.pixel_size_um)
    return Specimen.demo(len(microscope.lasers), seed, optics)


def _define_configs(core: SimulatedCore, microscope: Microscope) -> None:
    group, pixel_config = microscope.channel_group, "simulated"
    for name in microscope.laser_names:
        core.defineConfig(group, name, LASERS, ready_property(name), "On")
    core.setChannelGroup(group)
    core.definePixelSizeConfig(pixel_config)
    core.setPixelSizeUm(pixel_config, microscope.geometry.pixel_size_um)


def _sensor_shape(microscope: Microscope) -> tuple[int, int]:
    """A sensor of 512 x 1024, or larger if the configured region needs it."""
    x, y, width, height = microscope.camera.roi
    return max(512, y + height), max(1024, x + width)
