"""A simulated microscope on a bench: core and board model without an engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from opm_engine.config import Microscope
from opm_engine.config.profiles import camera_properties
from opm_engine.simulation.board import Board
from opm_engine.simulation.board_tasks import Kind
from opm_engine.simulation.camera import SimulatedCamera
from opm_engine.simulation.clock import SimClock
from opm_engine.simulation.core import simulated_core
from opm_engine.simulation.lights import RISE_S
from opm_engine.simulation.specimen import Visible

ROWS, COLUMNS, LINE_S = 256, 16, 4.868e-6
OFFSET = 100
EXPOSURE_S = round(5e-3 / LINE_S) * LINE_S
WINDOW_MS = 1e3 * (EXPOSURE_S - (ROWS - 1) * LINE_S)
RISE_MS = 1e3 * RISE_S / 2
"""Light lost while a laser rises."""


class Ruler:
    """Brightness in counts per ms: 1000 and 3000 for the lasers, plus 100 per µm."""

    def plane(
        self,
        offset_um: float,
        laser_index: int,
        origin_um: tuple[float, float, float],
        shape: tuple[int, int],
    ) -> np.ndarray:
        counts = 1000 + 2000 * laser_index + 100 * offset_um
        return np.full(shape, counts, dtype=np.float32)


class Bench:
    """A simulated microscope whose board plays samples on the camera's edges."""

    def __init__(self, microscope: Microscope, specimen: Visible) -> None:
        self.clock = SimClock()
        self.board = Board("Dev1", clock=self.clock)
        self.core = simulated_core(microscope, self.board, self.clock, specimen)
        self.trigger(microscope, by_stage=False)
        self.core.setROI(*microscope.camera.roi)
        self.core.setExposure(5)

    def trigger(self, microscope: Microscope, *, by_stage: bool) -> None:
        """Set the camera's properties: free running, or started by the stage."""
        camera = microscope.camera
        properties = camera_properties(camera, start_triggered=by_stage)
        for device in camera.devices:
            for name, value in properties.items():
                self.core.setProperty(device, name, value)

    @property
    def camera(self) -> SimulatedCamera:
        assert self.core.simulated_camera is not None
        return self.core.simulated_camera

    def write(self, channel: str, volts: float) -> None:
        self.board.create_task("volts")
        self.board.add_ao("volts", f"Dev1/{channel}", "", -10, 10)
        self.board.write("volts", [(volts,)], auto_start=True)
        self.board.clear("volts")

    def play(
        self,
        lasers: list[tuple[bool, bool]],
        volts: list[float] | None = None,
        *,
        enable: bool = True,
    ) -> None:
        """Repeat samples, one for each edge of exposure-out."""
        board, edges = self.board, "/Dev1/ChangeDetectionEvent"
        volts = volts or [0.0, 0.0]
        self.write("ao0", volts[-1])
        board.create_task("enable")
        board.add_lines("enable", Kind.DO, "Dev1/port1/line1", "", together=True)
        board.write("enable", [(enable,)], auto_start=True)
        board.create_task("lasers")
        board.add_lines("lasers", Kind.DO, "Dev1/port0/line0:1", "", together=True)
        board.create_task("galvo")
        board.add_ao("galvo", "Dev1/ao0", "", -10, 10)
        for name, samples in (("lasers", lasers), ("galvo", [(v,) for v in volts])):
            board.clock_by_edges(name, edges, 1e4, rising=True, samples=None)
            board.write(name, samples, auto_start=False)
            board.start(name)
        board.create_task("edges")
        board.add_lines("edges", Kind.DI, "Dev1/PFI0", "", together=True)
        board.clock_by_changes("edges", "Dev1/PFI0", "Dev1/PFI0", None)
        board.start("edges")

    def acquire(self, n: int) -> np.ndarray:
        """Take n frames and stop; (n, rows, columns)."""
        self.core.startSequenceAcquisition(n, 0, True)
        frames = self.pop(n)
        self.core.stopSequenceAcquisition()
        return frames

    def pop(self, n: int) -> np.ndarray:
        frames: list[np.ndarray] = []
        wait_for(lambda: self._pop_into(frames) or len(frames) >= n)
        return np.array(frames)

    def _pop_into(self, frames: list[np.ndarray]) -> None:
        while self.core.getRemainingImageCount():
            frames.append(self.core.popNextImage())


def wait_for(done: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Poll until done; the limit only ends a test that has failed."""
    end_s = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end_s, "nothing happened"
        time.sleep(1e-3)


def sensor_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "simulated sensor"]


def described(demo: Microscope, **changes: dict[str, object]) -> Microscope:
    """Return a small, noiseless microscope, some tables changed."""
    table = demo.model_dump()
    table["camera"]["roi"] = (0, 0, COLUMNS, ROWS)
    table["simulation"]["noise"] = False
    for name, values in changes.items():
        table[name] = (table[name] or {}) | values
    return Microscope.from_table(table)


@contextmanager
def on_bench(microscope: Microscope, specimen: Visible) -> Iterator[Bench]:
    """A bench that leaves no thread behind."""
    bench = Bench(microscope, specimen)
    try:
        yield bench
    finally:
        bench.core.close()
    assert not sensor_threads()


BOTH_OFF, FIRST, SECOND = (False, False), (True, False), (False, True)
