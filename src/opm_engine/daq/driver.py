"""`Driver`: NI-DAQmx, as far as a camera-master board needs it.

Separate from ``nidaq`` because it is the only home of NI's library: it makes tasks,
reads and writes them, and turns every error into a `DaqError` that says what failed.
Knows neither the microscope nor what must happen in which order.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import nidaqmx
import numpy as np
from nidaqmx.constants import AcquisitionType, RegenerationMode, TaskMode
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

from opm_engine.daq.deadline import open_channel
from opm_engine.daq.protocol import DaqError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import grpc
    from numpy.typing import NDArray

LASERS, GALVO, STAMPS, EDGES = "lasers", "galvo", "time stamps", "edges"
"""Tasks of a burst; each is there once or not at all."""

TIMEBASE = "100kHzTimebase"
SPARE_STAMPS = 2**20
"""Edges that software may be late by before their time stamps are lost: 4 MB."""

_READ_AT_ONCE = 100_000  # a gRPC message must stay below 4 MB


class Clock(NamedTuple):
    """Edges that play a burst."""

    n_samples: int
    max_rate_hz: float


class Driver:
    """The tasks of one device. Not thread-safe.

    Parameters
    ----------
    device : str
        Name in NI MAX.
    address : str or None
        ``"host:port"`` of an NI gRPC device server; None is the local driver.
    deadline_s : float
        How long that server may take to answer a call.
    """

    def __init__(self, device: str, address: str | None, deadline_s: float) -> None:
        self._device = device
        self._address = address
        self._deadline_s = deadline_s
        self._channel: grpc.Channel | None = None
        self._options: GrpcSessionOptions | None = None
        self._tasks: dict[str, Any] = {}

    # ------------------------------------------------------------------ the device

    def connect(self) -> None:
        """Reach the server, if there is one."""
        if self._address is None:
            return
        try:
            bounded, self._channel = open_channel(self._address, self._deadline_s)
        except TimeoutError as error:
            raise DaqError(f"{self._device}: {error}") from error
        new = Session.INITIALIZE_SERVER_SESSION
        self._options = GrpcSessionOptions(bounded, "", initialization_behavior=new)

    def disconnect(self) -> None:
        """Forget the server and all tasks. May be called twice."""
        self._options = None
        self._tasks = {}
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def describe(self) -> tuple[str, set[str], list[float]]:
        """Return product, channels without the device's name, ranges in volts."""
        with self._asking("looking for the device"):
            device = Device(self._device, grpc_options=self._options)
            product = device.product_type
            names = [
                *device.ao_physical_chans.channel_names,
                *device.ci_physical_chans.channel_names,
                *device.do_lines.channel_names,
            ]
            ao_ranges_v = device.ao_voltage_rngs
        return product, {name.partition("/")[2] for name in names}, ao_ranges_v

    def reset(self) -> None:
        """Abort every task of the device."""
        with self._asking("resetting the device"):
            Device(self._device, grpc_options=self._options).reset_device()

    # ------------------------------------------------------------------- on demand

    def read_line(self, line: str) -> bool:
        """Level of a terminal now."""
        with self._asking(f"reading {line}"), self._brief_task() as task:
            task.di_channels.add_di_chan(f"{self._device}/{line}")
            reader = DigitalSingleChannelReader(task.in_stream)
            return bool(reader.read_one_sample_one_line())

    def write_line(self, line: str, level: bool, what: str) -> None:
        """Set one line; ``what`` says so in errors."""
        with self._asking(what), self._brief_task() as task:
            task.do_channels.add_do_chan(f"{self._device}/{line}")
            writer = DigitalSingleChannelWriter(task.out_stream)
            writer.write_one_sample_one_line(level)

    def lower_lines(self, lines: Iterable[str]) -> None:
        """Set lines of one port to 0."""
        with self._asking("blanking the lasers"), self._brief_task() as task:
            self._add_lines(task, lines)
            writer = DigitalSingleChannelWriter(task.out_stream)
            writer.write_one_sample_port_uint32(0)

    @contextmanager
    def voltage(
        self, channel: str, range_v: tuple[float, float]
    ) -> Iterator[Callable[[float], None]]:
        """Within, a function that puts volts out."""
        with self._asking("moving the galvo"), self._brief_task() as task:
            self._add_voltage(task, channel, range_v)
            yield AnalogSingleChannelWriter(task.out_stream).write_one_sample

    # ------------------------------------------------------------------- one burst

    def stamp_edges(self, counter: str, clock: Clock) -> None:
        """Sample a counter of the timebase at every edge that plays a sample.

        The buffer holds the whole burst and plenty. If it ever filled up, only this
        task would stop, and the next read would say so: rather that than a log with
        a hole in it.
        """
        with self._asking("counting exposures"):
            task = self._burst_task(STAMPS)
            channel = task.ci_channels.add_ci_count_edges_chan(
                f"{self._device}/{counter}"
            )
            channel.ci_count_edges_term = f"/{self._device}/{TIMEBASE}"
            task.timing.cfg_samp_clk_timing(
                rate=clock.max_rate_hz,
                source=self._edge_event,
                sample_mode=AcquisitionType.CONTINUOUS,
                samps_per_chan=clock.n_samples + SPARE_STAMPS,
            )
            task.start()

    def play_lines(
        self, lines: Iterable[str], words: NDArray[np.uint32], clock: Clock
    ) -> None:
        """Put out a port value, (P,), at each edge; repeated from the start."""
        with self._asking("arming the lasers"):
            task = self._burst_task(LASERS)
            self._add_lines(task, lines)
            self._set_clock(task, clock)
            writer = DigitalSingleChannelWriter(task.out_stream, auto_start=False)
            writer.write_many_sample_port_uint32(np.ascontiguousarray(words, np.uint32))
            task.start()

    def play_voltage(
        self,
        channel: str,
        range_v: tuple[float, float],
        volts: NDArray[np.float64],
        clock: Clock,
    ) -> None:
        """Put out a voltage, (1, P), at each edge; repeated from the start."""
        with self._asking("arming the galvo"):
            task = self._burst_task(GALVO)
            self._add_voltage(task, channel, range_v)
            self._set_clock(task, clock)
            writer = AnalogMultiChannelWriter(task.out_stream, auto_start=False)
            writer.write_many_sample(np.ascontiguousarray(volts))
            task.start()

    def detect_edges(self, terminal: str) -> None:
        """Let both edges of a terminal play samples from now on."""
        with self._asking("arming change detection"):
            task = self._burst_task(EDGES)
            name = f"{self._device}/{terminal}"
            task.di_channels.add_di_chan(name)
            # nobody reads the levels: a buffer would fill up and stop the clock
            task.in_stream.input_buf_size = 0
            task.timing.cfg_change_detection_timing(
                rising_edge_chan=name,
                falling_edge_chan=name,
                sample_mode=AcquisitionType.CONTINUOUS,
            )
            task.start()

    def has(self, role: str) -> bool:
        """Whether a burst's task is there."""
        return role in self._tasks

    def generated(self, role: str) -> int:
        """Samples that a task has put out; 0 without the task."""
        if role not in self._tasks:
            return 0
        with self._asking(f"counting samples of the {role}"):
            return int(self._tasks[role].out_stream.total_samp_per_chan_generated)

    def new_stamps(self) -> NDArray[np.uint32]:
        """Time stamps not read before, in ticks; (n,), none without the task."""
        if STAMPS not in self._tasks:
            return np.empty(0, np.uint32)
        with self._asking("reading the exposures' time stamps"):
            stream = self._tasks[STAMPS].in_stream
            stamps = np.empty(stream.avail_samp_per_chan, np.uint32)
            reader = CounterReader(stream)
            for start in range(0, stamps.size, _READ_AT_ONCE):
                part = stamps[start : start + _READ_AT_ONCE]
                reader.read_many_sample_uint32(part, part.size, timeout=0)
        return stamps

    def release(self, role: str) -> None:
        """Close a burst's task, if it is there."""
        task = self._tasks.pop(role, None)
        if task is not None:
            with self._asking(f"closing the {role} task"):
                _free(task)

    # ---------------------------------------------------------------- small things

    @property
    def _edge_event(self) -> str:
        return f"/{self._device}/ChangeDetectionEvent"

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except NIError as error:
            where = self._address or "the local NI-DAQmx driver"
            text = " ".join(str(error).split())
            code = getattr(error, "error_code", None)
            number = "" if code is None else f" (NI {code})"
            msg = f"{self._device} at {where}: {what} failed{number}: {text}"
            raise DaqError(msg) from error

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

    def _add_lines(self, task: Any, lines: Iterable[str]) -> None:
        task.do_channels.add_do_chan(",".join(f"{self._device}/{x}" for x in lines))

    def _add_voltage(
        self, task: Any, channel: str, range_v: tuple[float, float]
    ) -> None:
        low_v, high_v = range_v
        name = f"{self._device}/{channel}"
        task.ao_channels.add_ao_voltage_chan(name, min_val=low_v, max_val=high_v)

    def _set_clock(self, task: Any, clock: Clock) -> None:
        task.timing.cfg_samp_clk_timing(
            rate=clock.max_rate_hz,
            source=self._edge_event,
            sample_mode=AcquisitionType.FINITE,
            samps_per_chan=clock.n_samples,
        )
        task.out_stream.regen_mode = RegenerationMode.ALLOW_REGENERATION


def _free(task: Any) -> None:
    """Close a task; each call alone gives its outputs back, so one may fail."""
    try:
        task.control(TaskMode.TASK_ABORT)
    finally:
        task.close()
