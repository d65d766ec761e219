"""An instrument for measuring speed: DemoCamera, and a board that always agrees.

Separate from what is measured with it. MMCore's own C++ buffer is what frames come
from; a camera written in Python could not fill it fast enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import pymmcore
import useq
from mm_test_adapters import device_adapter_path
from pymmcore_plus import CMMCorePlus

from opm_engine.config import Microscope
from opm_engine.daq.protocol import DaqError, ExposureCount, Waveform


class AgreeingDaq:
    """A board that has seen every exposure that the camera was asked for.

    The frame loop is measured, not a board: DemoCamera has no exposure-out that one
    could listen to.
    """

    def __init__(self) -> None:
        self._n_frames = 0

    def open(self) -> None:
        """Nothing to open."""

    def refuse(self, waveform: Waveform) -> None:
        """Nothing is refused."""

    def measure_exposures(self, n_exposures: int) -> Any:
        """There is nothing to measure."""
        msg = "DemoCamera has no exposure-out"
        raise DaqError(msg)

    def arm(self, waveform: Waveform) -> None:
        """Remember how many frames are planned."""
        self._n_frames = waveform.n_frames

    def count(self) -> ExposureCount:
        """All that were planned."""
        return ExposureCount(self._n_frames, self._n_frames)

    def inputs(self) -> np.ndarray:
        """No analog inputs."""
        return np.empty((0, 0))

    def make_dark(self, once_dark: Callable[[], object] | None = None) -> None:
        """Nothing is lit."""
        if once_dark is not None:
            once_dark()

    def close(self) -> None:
        """Nothing to close."""


class Core(CMMCorePlus):
    """A core with DemoCamera, whose circular buffer can be kept at one size."""

    is_fixed = False

    def setCircularBufferMemoryFootprint(self, sizeMB: int) -> None:
        """Set the size, unless it is to stay."""
        if not self.is_fixed:
            super().setCircularBufferMemoryFootprint(sizeMB)


AnyCore = TypeVar("AnyCore", bound=Core)


@contextmanager
def demo_core(
    size: tuple[int, int], n_frames: int, kind: type[AnyCore] = Core
) -> Iterator[AnyCore]:
    """A core whose buffer holds ``n_frames`` frames of (columns, rows)."""
    core = kind()
    try:
        core.setDeviceAdapterSearchPaths([device_adapter_path()])
        core.loadDevice("Camera", "DemoCamera", "DCam")
        core.initializeAllDevices()
        core.setCameraDevice("Camera")
        for name, value in {
            "OnCameraCCDXSize": size[0],
            "OnCameraCCDYSize": size[1],
            "PixelType": "16bit",
            "FastImage": 1,
        }.items():
            core.setProperty("Camera", name, value)
        core.setROI(0, 0, *size)
        core.defineConfig("Channel", "488", "Camera", "Gain", "0")
        frame_mb = 2 * size[0] * size[1] / 2**20
        core.setCircularBufferMemoryFootprint(max(1, int(n_frames * frame_mb)))
        yield core
    finally:
        core.unloadAllDevices()
        # MMCore's callback thread must not meet a dying interpreter.
        pymmcore.CMMCore.registerCallback(core, None)


def microscope(size: tuple[int, int]) -> Microscope:
    """The demo's microscope, with DemoCamera at full region and a quick galvo."""
    table = Microscope.demo().model_dump(mode="json", exclude_none=True)
    table["camera"] |= {
        "label": "Camera",
        "profile": None,
        "roi": [0, 0, *size],
        "line_time_us": 0.1,
        "properties": {},
        "trailing_exposures": 0,
    }
    table["scan_stage"] = table["remote_focus"] = None  # which the core lacks
    table["daq"]["galvo"] |= {"slew_v_per_ms": 1e6, "settle_ms": 0}
    return Microscope.from_table(table)


def time_lapse(n_frames: int, exposure_ms: float) -> useq.MDASequence:
    """A sequence that both engines play as one camera sequence."""
    return useq.MDASequence(
        channels=[{"config": "488", "exposure": exposure_ms}],
        time_plan={"interval": 0, "loops": n_frames},
    )
