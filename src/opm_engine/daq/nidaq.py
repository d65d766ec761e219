"""`NIDaq`: the board of a real microscope, through NI-DAQmx.

Separate from ``driver``, which talks to NI's library, because this is about what must
happen in which order: the camera is master, its edges play lasers and galvo, each edge
is stamped, and light goes off first. Knows no sequence: it plays a `Waveform`, counts
and goes dark.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.daq.checks import refuse_device, refuse_waveform
from opm_engine.daq.driver import EDGES, GALVO, LASERS, STAMPS, Clock, Driver
from opm_engine.daq.exposures import ExposureLog
from opm_engine.daq.protocol import DaqError, ExposureCount
from opm_engine.daq.trial import Trial

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opm_engine.config import Microscope
    from opm_engine.daq.protocol import Waveform

_STEP_MS = 1.0


class NIDaq:
    """A `Daq` on NI-DAQmx. Thread-safe.

    Parameters
    ----------
    microscope : Microscope
    address : str, optional
        ``"host:port"`` of an NI gRPC device server; the local driver without it.
    deadline_s : float
        How long that server may take to answer a call.
    """

    def __init__(
        self,
        microscope: Microscope,
        *,
        address: str | None = None,
        deadline_s: float = 5.0,
    ) -> None:
        self._microscope = microscope
        self._daq = microscope.daq
        self._galvo = microscope.daq.galvo
        self._exposure_out = microscope.camera.exposure_out
        self._laser_lines = [laser.line for laser in microscope.lasers]
        self._driver = Driver(microscope.daq.device, address, deadline_s)
        self._lock = threading.RLock()
        self._is_open = False
        self._waveform: Waveform | None = None
        self._log = ExposureLog(0, 1.0)
        self._galvo_v: float | None = None
        self._last_count = ExposureCount(0, 0)

    def open(self) -> None:
        """Reach the device, check it against the microscope and make it dark.

        Raises
        ------
        DaqError
            If there is no driver, server or device, or the device lacks something
            that the microscope names.
        """
        with self._lock:
            if self._is_open:
                return
            self._driver.connect()
            try:
                refuse_device(self._microscope, *self._driver.describe())
                self._is_open = True
                self.make_dark()
            except BaseException:
                self._disconnect()
                raise

    def arm(self, waveform: Waveform) -> None:
        """Play ``waveform`` on the coming edges; ready when this returns.

        Raises
        ------
        DaqError
            If the waveform leaves the galvo's range or the microscope's lines, the
            exposure-out line is not idle, or the board refuses. Everything is dark
            and released then.
        """
        with self._lock:
            if not self._is_open:
                raise DaqError(f"{self._daq.device}: not open")
            refuse_waveform(waveform, self._microscope)
            if self._waveform is not None:
                self.make_dark()
            self._log = ExposureLog(waveform.n_samples, waveform.period_ms)
            self._last_count = ExposureCount(0, 0)
            try:
                self._refuse_busy_line()
                self._ramp(float(waveform.initial_v[0]))
                time.sleep(waveform.settle_ms / 1e3)
                self._start_all(waveform)
            except BaseException as error:
                try:
                    self.make_dark()
                except DaqError as second:
                    error.add_note(f"and then: {second}")
                raise

    def count(self) -> ExposureCount:
        """Exposures seen since ``arm``; after ``make_dark`` those of the last burst."""
        with self._lock:
            if self._driver.has(EDGES):
                generated = self._driver.generated
                self._take_stock(min(generated(LASERS), generated(GALVO)))
            return self._last_count

    def inputs(self) -> NDArray[np.float64]:
        """Rows (frames, inputs) in volts that were recorded since the last call."""
        return np.empty((0, len(self._daq.record)))

    def make_dark(self) -> None:
        """Light off, then the galvo ramped to park. May be called at any time, twice.

        Every step is tried, whatever happened to those before.

        Raises
        ------
        DaqError
            The first that went wrong, once all has been tried.
        """
        with self._lock:
            if not self._is_open:
                return
            trial = Trial()
            trial(lambda: self._write_enable(False))
            played = trial(lambda: self._driver.generated(LASERS))
            trial(lambda: self._driver.release(LASERS))
            if not trial.succeeds(self._blank_lasers):
                # the last resort: a reset takes every task of the device with it
                trial(self._reset)
                trial(self._blank_lasers)
            trial(lambda: self._close_account(played))
            for role in (GALVO, STAMPS, EDGES):
                trial(partial(self._driver.release, role))
            self._waveform = None
            trial(lambda: self._ramp(self._galvo.park_v))
            trial.finish()

    def close(self) -> None:
        """Make dark and let the device go. May be called twice."""
        with self._lock:
            try:
                self.make_dark()
            finally:
                self._disconnect()

    def _disconnect(self) -> None:
        self._is_open = False
        self._driver.disconnect()

    def _refuse_busy_line(self) -> None:
        terminal = self._exposure_out.terminal
        level = self._driver.read_line(terminal)
        if level == (self._exposure_out.polarity == "active_high"):
            msg = (
                f"{terminal} is {'high' if level else 'low'}: the camera exposes, or "
                "camera.exposure_out.polarity is wrong"
            )
            raise DaqError(msg)

    def _start_all(self, waveform: Waveform) -> None:
        """Change detection last: no edge meets half an arrangement."""
        self._waveform = waveform
        driver, galvo, n_samples = self._driver, self._galvo, waveform.n_samples
        clock = Clock(n_samples, waveform.max_rate_hz)
        driver.stamp_edges(self._daq.counter, clock)
        driver.play_lines(self._laser_lines, waveform.digital[:n_samples], clock)
        volts = waveform.analog[:, :n_samples]
        driver.play_voltage(galvo.channel, galvo.range_v, volts, clock)
        driver.detect_edges(self._exposure_out.terminal)
        self._write_enable(True)

    def _take_stock(self, n_played: int) -> None:
        self._log.add(self._driver.new_stamps())
        self._last_count = ExposureCount(
            planned=n_played // 2,
            total=self._log.exposures,
            irregular=self._log.irregular,
        )

    def _close_account(self, played: int | None) -> None:
        """Keep the burst's counts and where the galvo stands, before tasks close."""
        if self._waveform is None or not self._driver.has(EDGES):
            return  # nothing can have moved
        waveform, self._galvo_v = self._waveform, None
        steps = self._driver.generated(GALVO)
        period = waveform.analog[0, : waveform.n_samples]
        last = period[(steps - 1) % period.size]
        self._galvo_v = float(last if steps else waveform.initial_v[0])
        self._take_stock(steps if played is None else min(played, steps))

    def _write_enable(self, level: bool) -> None:
        if self._daq.laser_enable is not None:
            what = f"{'raising' if level else 'dropping'} laser_enable"
            self._driver.write_line(self._daq.laser_enable, level, what)

    def _blank_lasers(self) -> None:
        self._driver.lower_lines(self._laser_lines)

    def _reset(self) -> None:
        # the outputs stand where the product's reset puts them, wherever that is
        self._waveform = self._galvo_v = None
        self._driver.reset()

    def _ramp(self, target_v: float) -> None:
        """Move the galvo on demand, no faster than its slew limit.

        From an unknown voltage (nothing was written yet, or the board could not say
        where the burst stopped) there is no ramp to compute: one step.
        """
        step_v = self._galvo.slew_v_per_ms * _STEP_MS
        start_v = target_v if self._galvo_v is None else self._galvo_v
        n_steps = max(1, int(np.ceil(abs(target_v - start_v) / step_v)))
        path_v = np.linspace(start_v, target_v, n_steps + 1)[1:]
        with self._driver.voltage(self._galvo.channel, self._galvo.range_v) as put_out:
            for volts in path_v:
                put_out(float(volts))
                self._galvo_v = float(volts)
                time.sleep(_STEP_MS / 1e3)
