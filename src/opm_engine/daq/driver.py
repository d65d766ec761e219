"""`Driver`: one device through NI-DAQmx: what it is, and its pins on demand.

Separate from ``nidaq`` because here is NI's library: it asks the device, makes tasks,
and turns every error into a `DaqError` that says what failed. ``driver_burst`` has the
tasks of a burst. Knows neither the microscope nor what must happen in which order.
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import nidaqmx
import numpy as np
from nidaqmx.constants import TaskMode
from nidaqmx.errors import Error as NIError
from nidaqmx.grpc_session_options import GrpcSessionOptions
from nidaqmx.grpc_session_options import SessionInitializationBehavior as Session
from nidaqmx.stream_readers import DigitalSingleChannelReader
from nidaqmx.stream_writers import AnalogMultiChannelWriter, DigitalSingleChannelWriter
from nidaqmx.system.device import Device

from opm_engine.daq.capabilities import Capabilities
from opm_engine.daq.deadline import BoundedChannel, open_channel
from opm_engine.daq.protocol import DaqError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import grpc
    from numpy.typing import ArrayLike

    from opm_engine.daq.outputs import Output

_NO_SUCH_TASK = -200088
_NO_SUCH_PROPERTY = (-200197, -200452)
"""Of this device, of this task."""


class Driver:
    """One device. Not thread-safe.

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
        self.device = device
        self._address = address
        self._deadline_s = deadline_s
        self._channel: grpc.Channel | None = None
        self._bounded: BoundedChannel | None = None
        self._lost: set[str] = set()
        self._names = (f"opm-engine {uuid.uuid4().hex[:8]}-{n}" for n in count())

    # ------------------------------------------------------------------ the device

    def connect(self) -> None:
        """Reach the server, if there is one."""
        if self._address is None:
            return
        try:
            opened = open_channel(self._address, self._deadline_s)
        except TimeoutError as error:
            raise DaqError(f"{self.device}: {error}") from error
        self._bounded, self._channel = opened

    def disconnect(self) -> None:
        """Forget the server. May be called twice."""
        self._bounded = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def begin(self) -> None:
        """Begin a series of calls; see `Patience`."""
        if self._bounded is not None:
            self._bounded.patience.renew()

    def capabilities(self) -> Capabilities:
        """Ask the device what it can do."""
        with self.asking("looking for the device"):
            device = Device(self.device, grpc_options=self._options())
            lines = _names(device.do_lines)
            ports = sorted({line.partition("/")[0] for line in lines})
            first = {port: f"{port}/line0" for port in ports}
            clocked = {
                p for p in ports if device.do_lines[first[p]].do_samp_clk_supported
            }
            return Capabilities(
                product=device.product_type,
                analog_outputs=_names(device.ao_physical_chans),
                ao_ranges_v=_pairs(device.ao_voltage_rngs),
                ao_max_rate_hz=_asked(lambda: device.ao_max_rate),
                lines=frozenset(lines),
                buffered_lines=frozenset(
                    line for line in lines if line.partition("/")[0] in clocked
                ),
                do_max_rate_hz=_asked(lambda: device.do_max_rate),
                change_ports=frozenset(
                    port
                    for port in ports
                    if device.di_lines[first[port]].di_change_detect_supported
                ),
                counters=_names(device.ci_physical_chans),
                counter_bits=device.ci_max_size,
                timebase_hz=_asked(lambda: device.ci_max_timebase),
                analog_inputs=_names(device.ai_physical_chans),
                ai_ranges_v=_pairs(device.ai_voltage_rngs),
                ai_max_rate_hz=_asked(lambda: device.ai_max_multi_chan_rate),
            )

    def reset(self) -> None:
        """Abort every task of the device."""
        with self.asking("resetting the device"):
            Device(self.device, grpc_options=self._options()).reset_device()

    # ------------------------------------------------------------------- on demand

    def read_line(self, line: str) -> bool:
        """Level of a terminal now."""
        with self._brief_task(f"reading {line}") as task:
            task.di_channels.add_di_chan(f"{self.device}/{line}")
            reader = DigitalSingleChannelReader(task.in_stream)
            return bool(reader.read_one_sample_one_line())

    def write_line(self, line: str, level: bool, what: str) -> None:
        """Set one line; ``what`` says so in errors."""
        with self._brief_task(what) as task:
            task.do_channels.add_do_chan(f"{self.device}/{line}")
            writer = DigitalSingleChannelWriter(task.out_stream)
            writer.write_one_sample_one_line(level)

    def lower_lines(self, lines: Iterable[str]) -> None:
        """Set lines of one port to 0."""
        with self._brief_task("blanking the lasers") as task:
            self.add_lines(task, lines)
            writer = DigitalSingleChannelWriter(task.out_stream)
            writer.write_one_sample_port_uint32(0)

    @contextmanager
    def voltages(
        self, outputs: Sequence[Output], what: str
    ) -> Iterator[Callable[[ArrayLike], None]]:
        """Within, a function that puts volts out, (len(outputs),); ``what`` is why."""
        with self._brief_task(what) as task:
            self.add_voltages(task, outputs)
            writer = AnalogMultiChannelWriter(task.out_stream)
            yield lambda volts: writer.write_one_sample(np.array(volts, np.float64))

    # ----------------------------------------------------------------------- tasks

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Turn errors of NI's library within into one that says what failed."""
        try:
            yield
        except NIError as error:
            where = self._address or "the local NI-DAQmx driver"
            text = " ".join(str(error).split())
            code = getattr(error, "error_code", None)
            number = "" if code is None else f" (NI {code})"
            msg = f"{self.device} at {where}: {what} failed{number}: {text}"
            raise DaqError(msg) from error

    def new_task(self, make: Callable[..., Any] = nidaqmx.Task) -> tuple[str, Any]:
        """Return a task and its name, to be given to `free`."""
        name = next(self._names)
        try:
            return name, make(name, grpc_options=self._options())
        except NIError:
            self._clear(name)
            raise

    def free(self, name: str, task: Any) -> None:
        """Close a task; each call alone gives its outputs back, so one may fail.

        What cannot be reached is closed by `free_lost`, later.
        """
        try:
            task.control(TaskMode.TASK_ABORT)
        finally:
            try:
                task.close()
            except NIError:
                self._clear(name)
                raise

    def add_lines(self, task: Any, lines: Iterable[str]) -> None:
        """Add lines of one port as one channel."""
        task.do_channels.add_do_chan(",".join(f"{self.device}/{x}" for x in lines))

    def add_voltages(self, task: Any, outputs: Iterable[Output]) -> None:
        """Add analog outputs, each with its range."""
        for output in outputs:
            low_v, high_v = output.range_v
            name = f"{self.device}/{output.channel}"
            task.ao_channels.add_ao_voltage_chan(name, min_val=low_v, max_val=high_v)

    @contextmanager
    def _brief_task(self, what: str) -> Iterator[Any]:
        with self.asking(what):
            name, task = self.new_task()
            try:
                yield task
            finally:
                self.free(name, task)

    def free_lost(self) -> None:
        """Close what could not be closed while the server did not answer."""
        for name in sorted(self._lost):
            self._clear(name)

    def _clear(self, name: str) -> None:
        """Clear a task that the library has lost: its constructor or `close` failed."""
        options = self._options(name, Session.ATTACH_TO_SERVER_SESSION)
        if options is None:
            return  # the local driver knows tasks by handle alone
        self._lost.add(name)
        try:
            nidaqmx.Task(name, grpc_options=options).close()
        except NIError as error:
            if getattr(error, "error_code", None) != _NO_SUCH_TASK:
                return
        self._lost.discard(name)

    def _options(
        self, name: str = "", behaviour: Session = Session.INITIALIZE_SERVER_SESSION
    ) -> GrpcSessionOptions | None:
        if self._address is None:
            return None
        if self._bounded is None:
            msg = f"{self.device}: not connected to {self._address}"
            raise DaqError(msg)
        return GrpcSessionOptions(
            self._bounded, name, initialization_behavior=behaviour
        )


def _names(channels: Any) -> tuple[str, ...]:
    """Names of physical channels without the device's."""
    return tuple(name.partition("/")[2] for name in channels.channel_names)


def _asked(number: Callable[[], float]) -> float:
    """Ask for a number that not every device has; 0 without it."""
    try:
        return number()
    except NIError as error:
        if getattr(error, "error_code", None) in _NO_SUCH_PROPERTY:
            return 0.0
        raise


def _pairs(values: ArrayLike) -> tuple[tuple[float, float], ...]:
    return tuple((float(a), float(b)) for a, b in np.reshape(values, (-1, 2)))
