"""`NIDaq`: the board of a real microscope, through NI-DAQmx.

Separate because it is the only home of NI's library. The camera is master: change
detection on its exposure-out line clocks a buffered digital output (lasers) and a
buffered analog output (galvo), and a counter counts its exposures. Knows no sequence:
it plays a `Waveform`, counts and goes dark.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import nidaqmx
import numpy as np
from nidaqmx.constants import AcquisitionType, Edge, RegenerationMode, TaskMode
from nidaqmx.errors import Error as NIError
from nidaqmx.grpc_session_options import GrpcSessionOptions
from nidaqmx.grpc_session_options import SessionInitializationBehavior as Session
from nidaqmx.stream_readers import CounterReader, DigitalSingleChannelReader
from nidaqmx.stream_writers import (
    AnalogMultiChannelWriter,
    AnalogSingleChannelWriter,
    DigitalSingleChannelWriter,
)
from nidaqmx.system.device import Device

from opm_engine.daq.checks import refuse_device, refuse_waveform
from opm_engine.daq.deadline import open_channel
from opm_engine.daq.protocol import DaqError, ExposureCount
from opm_engine.daq.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from opm_engine.config import Microscope
    from opm_engine.daq.protocol import Waveform

_STEP_MS = 1.0
_LASERS, _GALVO, _EXPOSURES, _EDGES = "lasers", "galvo", "exposures", "edges"


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
        self._address = address
        self._deadline_s = deadline_s
        self._lock = threading.RLock()
        self._channel: grpc.Channel | None = None
        self._options: GrpcSessionOptions | None = None
        self._is_open = False
        self._tasks: dict[str, Any] = {}
        self._waveform: Waveform | None = None
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
            self._connect()
            try:
                self._check_device()
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
            if self._tasks:
                self.make_dark()
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
            if self._tasks:
                self._last_count = ExposureCount(
                    planned=min(self._generated(_LASERS), self._generated(_GALVO)) // 2,
                    total=self._counted(),
                )
            return self._last_count

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
            played = trial(lambda: self._generated(_LASERS))
            trial(lambda: self._release(_LASERS))
            if not trial.succeeds(self._blank_lasers):
                # the last resort: a reset takes every task of the device with it
                trial(self._reset)
                trial(self._blank_lasers)
            trial(lambda: self._close_account(played))
            for role in (_GALVO, _EXPOSURES, _EDGES):
                trial(partial(self._release, role))
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

    def _connect(self) -> None:
        if self._address is None:
            return
        try:
            bounded, self._channel = open_channel(self._address, self._deadline_s)
        except TimeoutError as error:
            raise DaqError(f"{self._daq.device}: {error}") from error
        new = Session.INITIALIZE_SERVER_SESSION
        self._options = GrpcSessionOptions(bounded, "", initialization_behavior=new)

    def _disconnect(self) -> None:
        self._is_open = False
        self._options = None
        self._tasks = {}
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _check_device(self) -> None:
        with self._asking("looking for the device"):
            device = Device(self._daq.device, grpc_options=self._options)
            product = device.product_type
            names = [
                *device.ao_physical_chans.channel_names,
                *device.ci_physical_chans.channel_names,
                *device.do_lines.channel_names,
            ]
            ao_ranges_v = device.ao_voltage_rngs
        channels = {name.partition("/")[2] for name in names}
        refuse_device(self._microscope, product, channels, ao_ranges_v)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except NIError as error:
            where = self._address or "the local NI-DAQmx driver"
            text = " ".join(str(error).split())
            code = getattr(error, "error_code", None)
            number = "" if code is None else f" (NI {code})"
            msg = f"{self._daq.device} at {where}: {what} failed{number}: {text}"
            raise DaqError(msg) from error

    def _refuse_busy_line(self) -> None:
        terminal = self._exposure_out.terminal
        with self._asking(f"reading {terminal}"), self._brief_task() as task:
            task.di_channels.add_di_chan(f"{self._daq.device}/{terminal}")
            reader = DigitalSingleChannelReader(task.in_stream)
            level = bool(reader.read_one_sample_one_line())
        active_high = self._exposure_out.polarity == "active_high"
        if level == active_high:
            msg = (
                f"{terminal} is {'high' if level else 'low'}: the camera exposes, or "
                "camera.exposure_out.polarity is wrong"
            )
            raise DaqError(msg)

    def _start_all(self, waveform: Waveform) -> None:
        """Outputs first, change detection last: no edge meets half an arrangement."""
        self._waveform = waveform
        with self._asking("counting exposures"):
            self._count_exposures()
        with self._asking("arming the lasers"):
            task = self._burst_task(_LASERS)
            self._add_lasers(task)
            self._clock(task, waveform)
            writer = DigitalSingleChannelWriter(task.out_stream, auto_start=False)
            writer.write_many_sample_port_uint32(
                np.ascontiguousarray(waveform.digital[: waveform.n_samples], np.uint32)
            )
            task.start()
        with self._asking("arming the galvo"):
            task = self._burst_task(_GALVO)
            self._add_galvo(task)
            self._clock(task, waveform)
            analog = AnalogMultiChannelWriter(task.out_stream, auto_start=False)
            analog.write_many_sample(
                np.ascontiguousarray(waveform.analog[:, : waveform.n_samples])
            )
            task.start()
        with self._asking("arming change detection"):
            self._detect_edges()
        self._write_enable(True)

    def _count_exposures(self) -> None:
        task = self._burst_task(_EXPOSURES)
        active_high = self._exposure_out.polarity == "active_high"
        channel = task.ci_channels.add_ci_count_edges_chan(
            f"{self._daq.device}/{self._daq.counter}",
            edge=Edge.RISING if active_high else Edge.FALLING,
        )
        terminal = self._exposure_out.terminal
        channel.ci_count_edges_term = f"/{self._daq.device}/{terminal}"
        task.start()

    def _detect_edges(self) -> None:
        task = self._burst_task(_EDGES)
        terminal = f"{self._daq.device}/{self._exposure_out.terminal}"
        task.di_channels.add_di_chan(terminal)
        # nobody reads the levels: a buffer would fill up and stop the clock
        task.in_stream.input_buf_size = 0
        task.timing.cfg_change_detection_timing(
            rising_edge_chan=terminal,
            falling_edge_chan=terminal,
            sample_mode=AcquisitionType.CONTINUOUS,
        )
        task.start()

    def _clock(self, task: Any, waveform: Waveform) -> None:
        task.timing.cfg_samp_clk_timing(
            rate=waveform.max_rate_hz,
            source=f"/{self._daq.device}/ChangeDetectionEvent",
            sample_mode=AcquisitionType.FINITE,
            samps_per_chan=waveform.n_samples,
        )
        task.out_stream.regen_mode = RegenerationMode.ALLOW_REGENERATION

    def _generated(self, role: str) -> int:
        if role not in self._tasks:
            return 0
        with self._asking(f"counting samples of the {role}"):
            return int(self._tasks[role].out_stream.total_samp_per_chan_generated)

    def _counted(self) -> int:
        if _EXPOSURES not in self._tasks:
            return 0
        with self._asking("reading the exposure counter"):
            reader = CounterReader(self._tasks[_EXPOSURES].in_stream)
            return int(reader.read_one_sample_uint32())

    def _close_account(self, played: int | None) -> None:
        """Keep the burst's counts and where the galvo stands, before tasks close."""
        if self._waveform is None or _EDGES not in self._tasks:
            return  # nothing can have moved
        waveform, self._galvo_v = self._waveform, None
        steps = self._generated(_GALVO)
        period = waveform.analog[0, : waveform.n_samples]
        last = period[(steps - 1) % period.size]
        self._galvo_v = float(last if steps else waveform.initial_v[0])
        planned = steps if played is None else min(played, steps)
        self._last_count = ExposureCount(planned // 2, self._counted())

    def _write_enable(self, level: bool) -> None:
        line = self._daq.laser_enable
        if line is None:
            return
        what = f"{'raising' if level else 'dropping'} laser_enable"
        with self._asking(what), self._brief_task() as task:
            task.do_channels.add_do_chan(f"{self._daq.device}/{line}")
            writer = DigitalSingleChannelWriter(task.out_stream)
            writer.write_one_sample_one_line(level)

    def _blank_lasers(self) -> None:
        with self._asking("blanking the lasers"), self._brief_task() as task:
            self._add_lasers(task)
            writer = DigitalSingleChannelWriter(task.out_stream)
            writer.write_one_sample_port_uint32(0)

    def _reset(self) -> None:
        # the outputs stand where the product's reset puts them, wherever that is
        self._waveform = self._galvo_v = None
        with self._asking("resetting the device"):
            Device(self._daq.device, grpc_options=self._options).reset_device()

    def _release(self, role: str) -> None:
        task = self._tasks.pop(role, None)
        if task is not None:
            with self._asking(f"closing the {role} task"):
                _free(task)

    def _ramp(self, target_v: float) -> None:
        """Move the galvo on demand, no faster than its slew limit.

        From an unknown voltage (nothing was written yet, or the board could not say
        where the burst stopped) there is no ramp to compute: one step.
        """
        step_v = self._galvo.slew_v_per_ms * _STEP_MS
        start_v = target_v if self._galvo_v is None else self._galvo_v
        n_steps = max(1, int(np.ceil(abs(target_v - start_v) / step_v)))
        path_v = np.linspace(start_v, target_v, n_steps + 1)[1:]
        with self._asking("moving the galvo"), self._brief_task() as task:
            self._add_galvo(task)
            writer = AnalogSingleChannelWriter(task.out_stream)
            for volts in path_v:
                writer.write_one_sample(float(volts))
                self._galvo_v = float(volts)
                time.sleep(_STEP_MS / 1e3)

    @contextmanager
    def _brief_task(self) -> Iterator[Any]:
        task = nidaqmx.Task(grpc_options=self._options)
        try:
            yield task
        finally:
            _free(task)

    def _burst_task(self, role: str) -> Any:
        task = nidaqmx.Task(grpc_options=self._options)
        self._tasks[role] = task
        return task

    def _add_galvo(self, task: Any) -> None:
        low_v, high_v = self._galvo.range_v
        task.ao_channels.add_ao_voltage_chan(
            f"{self._daq.device}/{self._galvo.channel}", min_val=low_v, max_val=high_v
        )

    def _add_lasers(self, task: Any) -> None:
        lines = (laser.line for laser in self._microscope.lasers)
        task.do_channels.add_do_chan(
            ",".join(f"{self._daq.device}/{line}" for line in lines)
        )


def _free(task: Any) -> None:
    """Close a task; each call alone gives its outputs back, so one may fail."""
    try:
        task.control(TaskMode.TASK_ABORT)
    finally:
        task.close()
