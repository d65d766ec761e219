"""`SimulatedCamera`: a free-running rolling-shutter camera, master of all timing.

A sensor thread makes edges and frames at exact simulated times until it is stopped,
whether or not anybody takes the frames: like a real camera it exposes on after the
last asked frame. Separate from `Imaging`, which says what is in a frame. Knows MMCore's
camera interface, but neither board nor specimen.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pymmcore_plus.experimental.unicore import CameraDevice

from opm_engine.simulation.camera_properties import ExposureSettings
from opm_engine.simulation.sensor import SensorRun
from opm_engine.simulation.shutter import RollingShutter
from opm_engine.simulation.trigger import TriggerLine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

    from opm_engine.simulation.cables import Cables
    from opm_engine.simulation.clock import SimClock
    from opm_engine.simulation.imaging import Imaging, Roi
    from opm_engine.simulation.sensor import Frame


class SimulatedCamera(CameraDevice):
    """A rolling-shutter camera with overlapped readout.

    Parameters
    ----------
    imaging : Imaging
        What a frame shows.
    cables : Cables or None
        Where exposure-out goes; None if it is not plugged in.
    clock : SimClock
    terminal : str
        Board input that exposure-out is wired to.
    line_time_us : float
    trigger : TriggerLine
        What is wired to its trigger input.
    sensor_shape : (rows, columns)
    make : str
        Whose property names it has: a key of `PROFILES`.
    sensor : int
        Which image of an exposure is its own.

    Attributes
    ----------
    stall_after : int or None
        Fault for tests: after so many frames neither frames nor edges come.
    """

    def __init__(
        self,
        imaging: Imaging,
        cables: Cables | None,
        clock: SimClock,
        *,
        terminal: str,
        line_time_us: float,
        trigger: TriggerLine,
        sensor_shape: tuple[int, int] = (512, 1024),
        make: str = "demo",
        sensor: int = 0,
    ) -> None:
        super().__init__()
        self._imaging = imaging
        self._cables = cables
        self._clock = clock
        self._terminal = terminal
        self._line_time_s = line_time_us * 1e-6
        self._trigger = trigger
        self._sensor = sensor
        self._sensor_shape = sensor_shape
        self._values: dict[str, str] = {}
        self._exposure_lines = 1
        self._latest_s = 0.0
        self._run: SensorRun | None = None
        self._run_lock = threading.Lock()
        self._snapping = False
        self.stall_after: int | None = None
        self.clear_roi()
        self.set_exposure(10.0)
        self._register_properties(make)

    def _register_properties(self, make: str) -> None:
        self._settings = ExposureSettings(make)
        for name, allowed in self._settings.allowed().items():
            self._values[name] = allowed[0]
            self.register_property(
                name,
                allowed_values=allowed,
                property_type=str,
                getter=partial(SimulatedCamera._get, name=name),
                setter=partial(SimulatedCamera._set, name=name),
            )
        self.register_property(
            "FrameInterval",
            property_type=float,
            getter=SimulatedCamera._get_frame_interval,
        )

    def initialize(self) -> None:
        """Put exposure-out at its idle level."""
        self._drive(False, self._clock.now())

    def shutdown(self) -> None:
        """Stop exposing."""
        self.stop_exposing()

    def timing(self) -> RollingShutter:
        """Row timing of the present settings."""
        return RollingShutter(
            n_rows=self._roi[3],
            line_time_s=self._line_time_s,
            exposure_lines=self._exposure_lines,
        )

    # ------------------------------------------------------------ settings

    def get_exposure(self) -> float:
        """Real exposure in ms: a whole number of line times."""
        return self.timing().exposure_s * 1e3

    def set_exposure(self, exposure: float) -> None:
        """Set the exposure in ms, rounded to line times, one at least."""
        self._end_trailing_exposures()
        self._exposure_lines = max(1, round(exposure * 1e-3 / self._line_time_s))

    def get_readout_time(self) -> float:
        """Time in ms to read all rows of the region."""
        return self.timing().readout_s * 1e3

    def _get_frame_interval(self) -> float:
        return self.timing().period_s * 1e3

    def _get(self, name: str) -> str:
        return self._values[name]

    def _set(self, value: str, name: str) -> None:
        self._end_trailing_exposures()
        self._values[name] = value
        self._drive(False, self._clock.now())

    def shape(self) -> tuple[int, int]:
        """Rows and columns of the region."""
        return self._roi[3], self._roi[2]

    def dtype(self) -> DTypeLike:
        """Pixel type."""
        return np.uint16

    def get_roi(self) -> Roi:
        """Region as (x, y, width, height)."""
        return self._roi

    def set_roi(self, x: int, y: int, width: int, height: int) -> None:
        """Read only a region of the sensor.

        Raises
        ------
        ValueError
            If it does not lie on the sensor.
        RuntimeError
            While frames are being acquired.
        """
        rows, columns = self._sensor_shape
        inside = x >= 0 and y >= 0 and x + width <= columns and y + height <= rows
        if not inside or width < 1 or height < 1:
            msg = f"ROI {(x, y, width, height)} does not lie on {columns} x {rows}"
            raise ValueError(msg)
        self._end_trailing_exposures()
        self._roi: Roi = (x, y, width, height)

    def clear_roi(self) -> None:
        """Read the whole sensor."""
        self._end_trailing_exposures()
        self._roi = (0, 0, self._sensor_shape[1], self._sensor_shape[0])

    # ---------------------------------------------------------- acquisition

    def start_sequence(
        self,
        n: int | None,
        get_buffer: Callable[[Sequence[int], DTypeLike], NDArray[Any]],
    ) -> Iterator[Mapping[str, str]]:
        """Expose from now on; the first ``n`` frames are handed over."""
        return deliver(self.expose(n), n, get_buffer, lambda _: [(self._sensor, {})])

    def expose(self, n: int | None) -> SensorRun:
        """Expose from now on; the run hands over the first ``n`` exposures."""
        self.stop_exposing()
        run = SensorRun(
            self.timing(),
            self._imaging,
            self._clock,
            roi=self._roi,
            drive=self._drive,
            kind=self._settings.kind(self._values),
            wanted=n,
            last=1 if self._snapping else self.stall_after,
            not_before_s=self._latest_s,
            trigger=self._waits_for(),
        )
        with self._run_lock:
            self._run = run
            run.start()
        return run

    def stop_exposing(self) -> None:
        """Stop at once; exposure-out goes idle. May be called twice."""
        with self._run_lock:
            run, self._run = self._run, None
            if run is not None:
                run.stop()

    @contextmanager
    def snapping(self) -> Iterator[None]:
        """Within, a sequence of one frame is one exposure only."""
        self._snapping = True
        try:
            yield
        finally:
            self._snapping = False
            self.stop_exposing()

    def _end_trailing_exposures(self) -> None:
        """Let settings change once nobody waits for frames, not before."""
        run = self._run
        if run is None:
            return
        if run.owes_frames:
            msg = "camera settings cannot change while frames are acquired"
            raise RuntimeError(msg)
        self.stop_exposing()

    def _waits_for(self) -> TriggerLine | None:
        mode = self._settings.mode(self._values)
        if mode == "free":
            return None
        # Nothing is wired to what triggers single frames.
        return self._trigger if mode == "start" else TriggerLine()

    def _drive(self, active: bool, time_s: float) -> None:
        self._latest_s = time_s
        level = active == self._settings.active_high(self._values)
        if self._cables is not None:
            self._cables.drive(self._terminal, level, time_s)


def deliver(
    run: SensorRun,
    n: int | None,
    get_buffer: Callable[[Sequence[int], DTypeLike], NDArray[Any]],
    taken_from: Callable[[Frame], Iterable[tuple[int, Mapping[str, str]]]],
) -> Iterator[Mapping[str, str]]:
    """Copy images into MMCore's buffer until ``n`` are through or the camera stops.

    Parameters
    ----------
    run : SensorRun
    n : int, optional
        Images; None: all.
    get_buffer : callable
        MMCore's.
    taken_from : callable
        Frame → (sensor, tags) of each image that is taken from it.
    """
    taken = 0
    try:
        while (frame := run.frames.take()) is not None:
            for sensor, tags in taken_from(frame):
                image = frame.images[sensor]
                get_buffer(image.shape, image.dtype)[:] = image
                taken += 1
                if taken == n:
                    run.frames.close()  # MMCore drops the generator without a word
                yield {
                    "FrameNumber": str(frame.number),
                    "ExposureStart_ms": f"{frame.start_s * 1e3:.6f}",
                    **tags,
                }
    finally:
        run.frames.close()
