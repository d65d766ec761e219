"""`Blackout`: drive a board's outputs to rest, whoever holds them.

Separate from ``driver`` and ``nidaq`` because it serves another process: it made none
of the tasks that hold the lines, and knows no burst. It tries on demand, resets the
device if its outputs are held, and goes on for some seconds if nobody answers.
"""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import nidaqmx
from nidaqmx.constants import ProductCategory, TaskMode
from nidaqmx.errors import Error as NIError
from nidaqmx.grpc_session_options import GrpcSessionOptions
from nidaqmx.grpc_session_options import SessionInitializationBehavior as Session
from nidaqmx.stream_writers import AnalogSingleChannelWriter, DigitalSingleChannelWriter
from nidaqmx.system.device import Device

from opm_engine.daq.deadline import open_channel
from opm_engine.daq.motion import ramp_v
from opm_engine.daq.outputs import outputs_of
from opm_engine.daq.protocol import DaqError
from opm_engine.daq.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from opm_engine.config import Microscope
    from opm_engine.daq.outputs import Output

RETRY_S = 5.0
"""How long a board that refuses, or whose server is gone, is tried again."""

FROZEN_S = 60.0
"""How long a server that listens but does not answer is waited for."""

_PAUSE_S = 0.05
_STEP_S = 1e-3


class Rest(NamedTuple):
    """An analog output and its way to rest.

    Attributes
    ----------
    channel : str
    low_v, high_v : float
    path_v : tuple of float
        A millisecond apart, from 0 V; the last is where it rests.
    """

    channel: str
    low_v: float
    high_v: float
    path_v: tuple[float, ...]


@dataclass(frozen=True)
class Dark:
    """What dark is on a microscope's board, as plain data.

    Attributes
    ----------
    device : str
    enable : str or None
        Line ANDed with every laser.
    lasers : tuple of str
        Lines of one port.
    analog : tuple of Rest
        Power outputs before galvos.
    """

    device: str
    enable: str | None
    lasers: tuple[str, ...]
    analog: tuple[Rest, ...]

    @classmethod
    def of(cls, microscope: Microscope) -> Self:
        """Collect it from a microscope's description."""
        lasers = tuple(laser.line for laser in microscope.lasers)
        outputs = outputs_of(microscope).values()
        light_first = sorted(outputs, key=lambda output: output.galvo is not None)
        daq = microscope.daq
        return cls(daq.device, daq.laser_enable, lasers, tuple(map(_rest, light_first)))

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> Self:
        """Undo `to_table`, after a way through JSON."""
        analog = tuple(Rest(*rest) for rest in table["analog"])
        return cls(table["device"], table["enable"], tuple(table["lasers"]), analog)

    def to_table(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


def _rest(output: Output) -> Rest:
    galvo, path_v = output.galvo, [0.0]
    if galvo is not None:
        path_v = ramp_v(0.0, galvo.park_v, galvo).tolist()
    return Rest(output.channel, *output.range_v, tuple(path_v))


class Blackout:
    """Takes light and galvos of one device to rest. Not thread-safe.

    Parameters
    ----------
    dark : Dark
    address : str or None
        ``"host:port"`` of an NI gRPC device server; None is the local driver.
    deadline_s : float
        How long that server may take to answer a call.
    """

    def __init__(self, dark: Dark, address: str | None, deadline_s: float) -> None:
        self._dark = dark
        self._device = dark.device
        self._address = address
        self._deadline_s = deadline_s
        self._channel: grpc.Channel | None = None
        self._options: GrpcSessionOptions | None = None

    def prepare(self) -> None:
        """Reach the device and look at every output once; nothing is put out.

        What is loaded at the first use is loaded now.

        Raises
        ------
        DaqError
            If there is no driver, server, device or output of that name.
        """
        self._connect()
        for lines in self._digital():
            with self._task("looking for", *lines) as task:
                self._add_lines(task, lines)
                task.control(TaskMode.TASK_VERIFY)
        for rest in self._dark.analog:
            with self._task("looking for", rest.channel) as task:
                self._add_voltage(task, rest)
                task.control(TaskMode.TASK_VERIFY)

    def drive(self, *, held: bool) -> None:
        """Light off, power outputs 0 V, galvos to park; again until it is so.

        Parameters
        ----------
        held : bool
            Whether tasks are known to hold the outputs: the device is reset at once.

        Raises
        ------
        DaqError
            What still failed after ``RETRY_S``, of a frozen server ``FROZEN_S``.
        """
        start_s, patience_s = time.monotonic(), RETRY_S
        while True:
            try:
                return self._drive(held)
            except DaqError:
                if time.monotonic() > start_s + patience_s:
                    raise
            time.sleep(_PAUSE_S)
            try:
                self._connect()
            except DaqError:
                patience_s = FROZEN_S if self._somebody_listens() else RETRY_S

    def close(self) -> None:
        """Let the server go. May be called twice."""
        self._options = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _drive(self, held: bool) -> None:
        if not held and Trial().succeeds(partial(self._put_out, None)):
            return
        trial = Trial()
        if self._dark.enable is not None:
            trial(partial(self._lower, (self._dark.enable,)))
        galvos_v = trial(self._reset)
        trial(partial(self._put_out, galvos_v))
        trial.finish()

    def _put_out(self, galvos_v: float | None) -> None:
        """Write to all outputs; every one is tried.

        Parameters
        ----------
        galvos_v : float or None
            Where the galvos stand, if that is known.
        """
        trial = Trial()
        for lines in self._digital():
            trial(partial(self._lower, lines))
        for rest in self._dark.analog:
            trial(partial(self._bring, rest, galvos_v))
        trial.finish()

    def _digital(self) -> list[tuple[str, ...]]:
        enable = self._dark.enable
        return [*([(enable,)] if enable else []), self._dark.lasers]

    def _lower(self, lines: tuple[str, ...]) -> None:
        with self._task("lowering", *lines) as task:
            self._add_lines(task, lines)
            writer = DigitalSingleChannelWriter(task.out_stream)
            writer.write_one_sample_port_uint32(0)

    def _bring(self, rest: Rest, from_v: float | None) -> None:
        """Move one output; from an unknown voltage there is no ramp to play."""
        path_v = rest.path_v if from_v == 0.0 else rest.path_v[-1:]
        with self._task("moving", rest.channel) as task:
            self._add_voltage(task, rest)
            writer = AnalogSingleChannelWriter(task.out_stream)
            for volts in path_v:
                writer.write_one_sample(volts)
                time.sleep(_STEP_S)

    def _reset(self) -> float | None:
        """Abort all tasks of the device; return where that puts galvos, if known."""
        with self._asking("resetting the device"):
            device = Device(self._device, grpc_options=self._options)
            device.reset_device()
        with suppress(DaqError), self._asking("asking for its category"):
            if device.product_category is ProductCategory.X_SERIES_DAQ:
                return 0.0
        return None

    # ---------------------------------------------------------------- small things

    def _connect(self) -> None:
        """Reach the server, if there is one; anew, or a lost one is waited for."""
        self.close()
        if self._address is None:
            return
        try:
            bounded, self._channel = open_channel(self._address, self._deadline_s)
        except TimeoutError as error:
            raise DaqError(f"{self._device}: {error}") from error
        new = Session.INITIALIZE_SERVER_SESSION
        self._options = GrpcSessionOptions(bounded, "", initialization_behavior=new)

    def _somebody_listens(self) -> bool:
        """Whether the server's port is open: a frozen process still has it."""
        host, _, port = (self._address or "").rpartition(":")
        try:
            socket.create_connection((host, int(port)), self._deadline_s).close()
        except OSError:
            return False
        return True

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        where = self._address or "the local NI-DAQmx driver"
        if self._address is not None and self._options is None:
            raise DaqError(f"{self._device}: nobody answers at {where}")
        try:
            yield
        except NIError as error:
            text = " ".join(str(error).split())
            msg = f"{self._device} at {where}: {what} failed: {text}"
            raise DaqError(msg) from error

    @contextmanager
    def _task(self, doing: str, *names: str) -> Iterator[Any]:
        with self._asking(f"{doing} {', '.join(names)}"):
            task = nidaqmx.Task(grpc_options=self._options)
            try:
                yield task
            finally:
                task.close()

    def _add_lines(self, task: Any, lines: tuple[str, ...]) -> None:
        task.do_channels.add_do_chan(",".join(f"{self._device}/{x}" for x in lines))

    def _add_voltage(self, task: Any, rest: Rest) -> None:
        task.ao_channels.add_ao_voltage_chan(
            f"{self._device}/{rest.channel}", min_val=rest.low_v, max_val=rest.high_v
        )
