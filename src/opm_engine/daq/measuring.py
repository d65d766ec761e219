"""`ExposureMeter`: how long the camera's exposure-out is really high and low.

Separate from bursts because nothing is played: every edge is stamped with a count of
the board's fastest timebase. Knows no plan to compare with.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from opm_engine.daq.capabilities import WOULD_DO
from opm_engine.daq.driver_burst import CHANGES, EDGES, STAMPS, BurstTasks, Clock
from opm_engine.daq.protocol import DaqError
from opm_engine.daq.trial import Trial

if TYPE_CHECKING:
    import threading

    from numpy.typing import NDArray

    from opm_engine.config import Microscope
    from opm_engine.daq.capabilities import Capabilities
    from opm_engine.daq.driver import Driver

MAX_EDGE_HZ = 100e3


class ExposureTimes(NamedTuple):
    """What was measured, in ms."""

    high_ms: NDArray[np.float64]
    """Each whole time at the high level; (n,)."""
    low_ms: NDArray[np.float64]
    """Each whole time at the low level; (n,), or one fewer or more."""
    active_ms: NDArray[np.float64]
    """That of the two at which the camera exposes, by its polarity."""
    period_ms: NDArray[np.float64]
    """From the start of one exposure to the next; (n - 1,)."""


class ExposureMeter:
    """Stamps edges from `start` to `stop`. Thread-safe, by the lock it is given.

    Parameters
    ----------
    driver : Driver
    lock : RLock
        Held while the driver is used.
    microscope : Microscope
    device : Capabilities
    """

    def __init__(
        self,
        driver: Driver,
        lock: threading.RLock,
        microscope: Microscope,
        device: Capabilities,
    ) -> None:
        self._driver = driver
        self._lock = lock
        self._microscope = microscope
        self._device = device
        self._tasks = BurstTasks(driver)
        self._parts: list[NDArray[np.uint32]] = []

    def start(self, n_exposures: int) -> None:
        """Stamp both edges of the coming exposures.

        Raises
        ------
        DaqError
            If the board detects no changes, or refuses.
        """
        exposure_out = self._microscope.camera.exposure_out
        daq, terminal = self._microscope.daq, exposure_out.terminal
        if not self._device.detects_changes(terminal):
            msg = f"measuring exposures: {daq.device} ({self._device.product}) detects"
            raise DaqError(f"{msg} no changes of {terminal}; {WOULD_DO}")
        clock = Clock(CHANGES, 2 * n_exposures, MAX_EDGE_HZ)
        try:
            self._tasks.stamp_edges(daq.counter, self._device.timebase, clock)
            self._tasks.detect_edges(terminal, exposure_out.debounce_us)
        except BaseException:
            self.stop()
            raise

    def read(self) -> ExposureTimes:
        """Return all that was measured since the start; at a level that lasts, nothing.

        A level of more than 40 s is told too short: the counter has 32 bits.
        """
        with self._lock:
            self._driver.begin()
            self._parts.append(self._tasks.new_stamps())
        stamps = np.concatenate(self._parts)
        ticks_per_ms = self._device.timebase_hz / 1e3
        # unsigned, so the difference is right across a wrap
        levels_ms = np.diff(stamps).astype(np.float64) / ticks_per_ms
        active_ms, idle_ms = levels_ms[::2], levels_ms[1::2]
        rising = self._microscope.camera.exposure_out.polarity == "active_high"
        high_ms, low_ms = (active_ms, idle_ms) if rising else (idle_ms, active_ms)
        n_periods = len(idle_ms)
        return ExposureTimes(
            high_ms, low_ms, active_ms, active_ms[:n_periods] + idle_ms
        )

    def stop(self) -> None:
        """Let the counter go. May be called twice."""
        trial = Trial()
        with self._lock:
            self._driver.begin()
            for role in (EDGES, STAMPS):
                trial(partial(self._tasks.release, role))
        trial.finish()
