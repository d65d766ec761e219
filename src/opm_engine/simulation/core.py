"""`SimulatedCore`: MMCore with the simulated devices loaded.

Separate from the devices because it works around what `UniMMCore` lacks: a way to
tell the camera to stop, from any thread; a ring that holds whole frames; a clean end.
Knows no engine.
"""

from __future__ import annotations

import math
import threading
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymmcore
from pymmcore_plus.experimental.unicore.core._sequence_buffer import SequenceBuffer

from opm_engine.simulation.autofocus import (
    AUTOFOCUS,
    AutofocusCore,
    SimulatedAutofocus,
)
from opm_engine.simulation.camera import SimulatedCamera
from opm_engine.simulation.devices import (
    SimulatedFocus,
    SimulatedLasers,
    SimulatedO3,
    SimulatedShutter,
    ready_property,
)
from opm_engine.simulation.imaging import Imaging
from opm_engine.simulation.multi_camera import SimulatedMultiCamera
from opm_engine.simulation.scan_stage import SimulatedXYStage
from opm_engine.simulation.scene import Scene
from opm_engine.simulation.specimen import Optics, Specimen
from opm_engine.simulation.trigger import TriggerLine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from pymmcore_plus.experimental.unicore import CameraDevice

    from opm_engine.config import Microscope
    from opm_engine.simulation.cables import Cables
    from opm_engine.simulation.clock import SimClock
    from opm_engine.simulation.specimen import Visible

DEFAULT_RING_MB = 250
XY_STAGE, FOCUS, SHUTTER, LASERS = "XY", "Z", "Shutter", "Lasers"


class SimulatedCore(AutofocusCore):
    """A core whose Python camera can be stopped and whose ring holds whole frames.

    Attributes
    ----------
    simulated_cameras : tuple of SimulatedCamera
    simulated_stage : SimulatedXYStage
    simulated_o3 : SimulatedO3 or None
        Set by :func:`simulated_core`.
    """

    simulated_cameras: tuple[SimulatedCamera, ...] = ()
    simulated_stage: SimulatedXYStage | None = None
    simulated_o3: SimulatedO3 | None = None
    _ring_mb = DEFAULT_RING_MB
    _snapped: Sequence[NDArray[Any]] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._stopping = threading.Lock()
        super().__init__(*args, **kwargs)

    def isSequenceRunning(self, cameraLabel: str | None = None) -> bool:
        """Whether it runs or is being started; from any thread.

        `UniMMCore` forgets a sequence if another thread asks while it is started.
        """
        if self._py_camera(cameraLabel) is None:
            label = () if cameraLabel is None else (cameraLabel,)
            return super().isSequenceRunning(*label)
        thread = self._acquisition_thread
        return thread is not None and (thread.ident is None or thread.is_alive())

    def _stop_acquisition_thread(self, timeout: float | None = 2) -> None:
        with self._stopping:  # or one of two threads finds nothing to wait for
            super()._stop_acquisition_thread(timeout)

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

    @property
    def simulated_camera(self) -> SimulatedCamera | None:
        """The camera that is wired to the board; None before there is one."""
        return self.simulated_cameras[0] if self.simulated_cameras else None

    def _stop_camera(self) -> None:
        for camera in self.simulated_cameras:
            camera.stop_exposing()

    # -------------------------------------------------- several cameras as one

    def _multi_camera(self) -> SimulatedMultiCamera | None:
        camera = self._py_camera()
        return camera if isinstance(camera, SimulatedMultiCamera) else None

    def getNumberOfCameraChannels(self) -> int:
        """How many images each exposure gives."""
        multi = self._multi_camera()
        return len(multi.labels) if multi else super().getNumberOfCameraChannels()

    def getCameraChannelName(self, channelNr: int) -> str:
        """Label of one of several cameras, or of the camera."""
        multi = self._multi_camera()
        return multi.labels[channelNr] if multi else self.getCameraDevice()

    def getImage(self, *args: Any, **kwargs: Any) -> Any:
        """The image that was snapped; of the first camera, or that of a number."""
        if self._multi_camera() and args and self._snapped:
            return self._snapped[args[0]]
        return super().getImage(*args, **kwargs)

    def _do_snap_image(self) -> None:
        with ExitStack() as snapping:
            for camera in self.simulated_cameras:
                snapping.enter_context(camera.snapping())
            if multi := self._multi_camera():
                self._snapped = multi.snap()
                self._current_image_buffer = self._snapped[0]
            else:
                super()._do_snap_image()

    # ------------------------------------------------------------------- ring

    def _start_sequence(
        self, cam: CameraDevice, n_images: int | None, stop_on_overflow: bool
    ) -> None:
        self._fit_ring()  # the region may have changed
        if n_images is not None:
            n_images *= self.getNumberOfCameraChannels()
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
    trigger = TriggerLine()
    stage = SimulatedXYStage(clock, trigger, microscope.scan_stage)
    focus, lasers = SimulatedFocus(), SimulatedLasers(microscope.laser_names)
    in_beams = [laser.shutter for laser in microscope.lasers if laser.shutter]
    shutters = {label: SimulatedShutter(clock) for label in (SHUTTER, *in_beams)}
    o3 = SimulatedO3() if microscope.remote_focus else None
    scene = Scene(microscope, stage, focus, lasers, shutters, o3)
    specimen = specimen or demo_specimen(microscope)
    imaging = Imaging(microscope, cables, specimen, scene)
    cameras = _cameras(microscope, imaging, cables, clock, trigger)
    xy_stage = microscope.scan_stage.label if microscope.scan_stage else XY_STAGE
    devices: dict[str, Any] = {**cameras, xy_stage: stage, FOCUS: focus, **shutters}
    devices[LASERS] = lasers
    devices[AUTOFOCUS] = autofocus = SimulatedAutofocus(focus)
    if microscope.camera.sensors:
        devices[microscope.camera.label] = SimulatedMultiCamera(cameras)
    if microscope.remote_focus:
        devices[microscope.remote_focus.stage] = o3
    for label, device in devices.items():
        core.loadPyDevice(label, device)
    core.initializeAllDevices()
    core.setCameraDevice(microscope.camera.label)
    core.setXYStageDevice(xy_stage)
    core.setFocusDevice(FOCUS)
    core.setShutterDevice(SHUTTER)
    core.simulated_autofocus = autofocus
    core.setAutoFocusDevice(AUTOFOCUS)
    core.simulated_cameras = tuple(cameras.values())
    core.simulated_stage, core.simulated_o3 = stage, o3
    _define_configs(core, microscope)
    return core


def _cameras(
    microscope: Microscope,
    imaging: Imaging,
    cables: Cables,
    clock: SimClock,
    trigger: TriggerLine,
) -> dict[str, SimulatedCamera]:
    """The physical cameras by label; only the first is wired to the board."""
    camera = microscope.camera
    return {
        label: SimulatedCamera(
            imaging,
            None if sensor else cables,
            clock,
            terminal=camera.exposure_out.terminal,
            line_time_us=camera.line_time_us,
            trigger=trigger,
            sensor_shape=_sensor_shape(microscope),
            make=camera.profile or "demo",
            sensor=sensor,
        )
        for sensor, label in enumerate(camera.devices)
    }


def demo_specimen(microscope: Microscope) -> Specimen:
    """Return the specimen that lies on a microscope's stage unless another is given."""
    seed = microscope.simulation.seed if microscope.simulation else 1
    return _demo_specimen(len(microscope.lasers), seed, _optics(microscope))


@lru_cache(maxsize=4)  # two thirds of the time that opening a microscope takes
def _demo_specimen(n_lasers: int, seed: int, optics: Optics) -> Specimen:
    return Specimen.demo(n_lasers, seed, optics)


def pattern_specimen(microscope: Microscope) -> Specimen:
    """Return a test pattern."""
    return Specimen.pattern(len(microscope.lasers), _optics(microscope))


def _optics(microscope: Microscope) -> Optics:
    geometry = microscope.geometry
    return Optics(geometry.angle_deg, geometry.pixel_size_um)


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
