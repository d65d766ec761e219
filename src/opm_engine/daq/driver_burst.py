"""`BurstTasks`: the NI-DAQmx tasks that play, stamp and record a burst.

Separate from ``driver``, which knows the device, because these live from arming to
darkness. Knows neither the microscope nor in which order they must start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from nidaqmx.constants import (
    AcquisitionType,
    Edge,
    Level,
    RegenerationMode,
    TriggerType,
)
from nidaqmx.stream_readers import AnalogMultiChannelReader, CounterReader
from nidaqmx.stream_writers import AnalogMultiChannelWriter, DigitalSingleChannelWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from opm_engine.config.board import Recorded
    from opm_engine.daq.driver import Driver
    from opm_engine.daq.outputs import Output

T = TypeVar("T", bound=np.generic)

LASERS, VOLTS, STAMPS = "lasers", "analog outputs", "time stamps"
EDGES, PULSES, GATES, INPUTS = "edges", "pulses", "gates", "analog inputs"
"""Tasks of a burst; each is there once or not at all."""

SPARE_STAMPS = 2**20
"""Edges that software may be late by before their time stamps are lost: 4 MB."""

SPARE_INPUTS = 2**18
"""Samples of each input that software may be late by before they are lost."""

CHANGES = "ChangeDetectionEvent"

_SHORT_S = 1e-6

_AT_ONCE = 100_000
"""Values to read or write in one call: a gRPC message must stay below 4 MB."""


class Clock(NamedTuple):
    """Edges that play or take samples."""

    source: str
    """Terminal of the device."""
    n_samples: int
    max_rate_hz: float
    rising: bool = True


class BurstTasks:
    """The tasks of one burst. Not thread-safe.

    Parameters
    ----------
    driver : Driver
        Of a connected device.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._tasks: dict[str, tuple[str, Any]] = {}

    # ----------------------------------------------------------------- what starts

    def stamp_edges(
        self, counter: str, timebase: str, clock: Clock, debounce_us: float = 0.0
    ) -> None:
        """Sample a counter of the timebase at every edge of ``clock``.

        The buffer holds the whole burst and plenty. If it ever filled up, only this
        task would stop, and the next read would say so: rather that than a log with
        a hole in it.
        """
        with self._driver.asking("counting exposures"):
            task = self._new(STAMPS)
            name = f"{self._driver.device}/{counter}"
            channel = task.ci_channels.add_ci_count_edges_chan(name)
            channel.ci_count_edges_term = self._terminal(timebase)
            self._take_samples(task, clock, clock.n_samples + SPARE_STAMPS)
            if debounce_us:
                task.timing.samp_clk_dig_fltr_min_pulse_width = debounce_us / 1e6
                task.timing.samp_clk_dig_fltr_enable = True
            task.start()

    def record(self, inputs: Iterable[Recorded], clock: Clock) -> None:
        """Sample analog inputs at every edge of ``clock``."""
        with self._driver.asking("arming the analog inputs"):
            task = self._new(INPUTS)
            for one in inputs:
                name, (low_v, high_v) = (
                    f"{self._driver.device}/{one.channel}",
                    one.range_v,
                )
                task.ai_channels.add_ai_voltage_chan(
                    name, min_val=low_v, max_val=high_v
                )
            self._take_samples(task, clock, SPARE_INPUTS)
            task.start()

    def play_lines(
        self, lines: Iterable[str], words: NDArray[np.uint32], clock: Clock
    ) -> None:
        """Put out a port value, (P,), at each edge; repeated from the start."""
        with self._driver.asking("arming the lasers"):
            task = self._new(LASERS)
            self._driver.add_lines(task, lines)
            self._put_samples(task, clock, words.size)
            writer = DigitalSingleChannelWriter(task.out_stream, auto_start=False)
            for part in _parts(words, np.uint32):
                writer.write_many_sample_port_uint32(part)
            task.start()

    def play_voltages(
        self, outputs: Sequence[Output], volts: NDArray[np.float64], clock: Clock
    ) -> None:
        """Put out voltages, (outputs, P), at each edge; repeated from the start."""
        with self._driver.asking("arming the analog outputs"):
            task = self._new(VOLTS)
            self._driver.add_voltages(task, outputs)
            self._put_samples(task, clock, volts.shape[1])
            writer = AnalogMultiChannelWriter(task.out_stream, auto_start=False)
            for part in _parts(volts, np.float64):
                writer.write_many_sample(part)
            task.start()

    def detect_edges(self, terminal: str, debounce_us: float = 0.0) -> None:
        """Let both edges of a terminal make change detection events from now on."""
        with self._driver.asking("arming change detection"):
            task = self._new(EDGES)
            name = f"{self._driver.device}/{terminal}"
            channel = task.di_channels.add_di_chan(name)
            if debounce_us:
                channel.di_dig_fltr_min_pulse_width = debounce_us / 1e6
                channel.di_dig_fltr_enable = True
            # nobody reads the levels: a buffer would fill up and stop the clock
            task.in_stream.input_buf_size = 0
            task.timing.cfg_change_detection_timing(
                rising_edge_chan=name,
                falling_edge_chan=name,
                sample_mode=AcquisitionType.CONTINUOUS,
            )
            task.start()

    def make_trains(
        self,
        counter: str,
        trigger: Clock,
        n_pulses: int,
        period_ms: float,
        debounce_us: float = 0.0,
    ) -> None:
        """Let every edge of ``trigger`` start a train of pulses from now on.

        The first comes at once, at every trigger, not after a low time.
        """
        with self._driver.asking("arming the pulses"):
            task = self._new(PULSES)
            channel = self._add_pulses(task, counter, period_ms)
            channel.co_enable_initial_delay_on_retrigger = True
            task.timing.cfg_implicit_timing(AcquisitionType.FINITE, n_pulses)
            self._retrigger(task, trigger, debounce_us)
            task.start()

    def make_gated_pulses(
        self, counter: str, gate: str, period_ms: float, delay_ms: float
    ) -> None:
        """Make pulses from now on, but only while the terminal ``gate`` is high.

        A pause stops the counter where it is: if gates are a whole number of periods
        wide, the first pulse always comes ``delay_ms`` after the gate has opened.
        """
        with self._driver.asking("arming the pulses"):
            task = self._new(PULSES)
            self._add_pulses(task, counter, period_ms, delay_ms)
            task.timing.cfg_implicit_timing(AcquisitionType.CONTINUOUS)
            pause = task.triggers.pause_trigger
            pause.trig_type = TriggerType.DIGITAL_LEVEL
            pause.dig_lvl_src = self._terminal(gate)
            pause.dig_lvl_when = Level.LOW
            task.start()

    def make_gates(self, counter: str, trigger: Clock, width_ms: float) -> None:
        """Let every edge of ``trigger`` make one pulse of that width from now on."""
        with self._driver.asking("arming the gate"):
            task = self._new(GATES)
            name = f"{self._driver.device}/{counter}"
            task.co_channels.add_co_pulse_chan_time(
                name, low_time=_SHORT_S, high_time=width_ms / 1e3
            )
            task.timing.cfg_implicit_timing(AcquisitionType.FINITE, 1)
            self._retrigger(task, trigger)
            task.start()

    # -------------------------------------------------------------- what they know

    @property
    def roles(self) -> list[str]:
        """Tasks that are there."""
        return list(self._tasks)

    def has(self, role: str) -> bool:
        """Whether a task is there."""
        return role in self._tasks

    def generated(self, role: str) -> int:
        """Samples that a task has put out; 0 without the task."""
        if role not in self._tasks:
            return 0
        with self._driver.asking(f"counting samples of the {role}"):
            return int(self._tasks[role][1].out_stream.total_samp_per_chan_generated)

    def output_fifo(self) -> int:
        """Samples that the device holds for the analog outputs, as it was reserved."""
        with self._driver.asking("asking for the size of the FIFO"):
            return int(self._tasks[VOLTS][1].out_stream.output_onbrd_buf_size)

    def new_stamps(self) -> NDArray[np.uint32]:
        """Time stamps not read before, in ticks; (n,), none without the task."""
        if STAMPS not in self._tasks:
            return np.empty(0, np.uint32)
        with self._driver.asking("reading the exposures' time stamps"):
            stream = self._tasks[STAMPS][1].in_stream
            stamps = np.empty(stream.avail_samp_per_chan, np.uint32)
            reader = CounterReader(stream)
            for start in range(0, stamps.size, _AT_ONCE):
                part = stamps[start : start + _AT_ONCE]
                reader.read_many_sample_uint32(part, part.size, timeout=0)
        return stamps

    def new_inputs(self, n_inputs: int) -> NDArray[np.float64]:
        """Volts not read before, (n, n_inputs); an error if some were lost."""
        what = "reading the analog inputs (read too rarely, some are lost)"
        with self._driver.asking(what):
            stream = self._tasks[INPUTS][1].in_stream
            reader = AnalogMultiChannelReader(stream)
            waiting = stream.avail_samp_per_chan
            parts = [np.empty((n_inputs, 0))]
            at_once = _AT_ONCE // n_inputs
            for start in range(0, waiting, at_once):
                part = np.empty((n_inputs, min(at_once, waiting - start)))
                reader.read_many_sample(part, part.shape[1], timeout=0)
                parts.append(part)
        return np.concatenate(parts, axis=1).T

    def release(self, role: str) -> None:
        """Close a task, if it is there."""
        named = self._tasks.pop(role, None)
        if named is not None:
            with self._driver.asking(f"closing the {role} task"):
                self._driver.free(*named)

    def forget(self) -> None:
        """Drop all tasks without a word to the device."""
        self._tasks.clear()

    # ---------------------------------------------------------------- small things

    def _new(self, role: str) -> Any:
        self._tasks[role] = self._driver.new_task()
        return self._tasks[role][1]

    def _add_pulses(
        self, task: Any, counter: str, period_ms: float, delay_ms: float = 0.0
    ) -> Any:
        half_s = period_ms / 2e3
        return task.co_channels.add_co_pulse_chan_time(
            f"{self._driver.device}/{counter}",
            initial_delay=delay_ms / 1e3,
            low_time=half_s,
            high_time=half_s,
        )

    def _retrigger(self, task: Any, trigger: Clock, debounce_us: float = 0.0) -> None:
        start = task.triggers.start_trigger
        terminal = self._terminal(trigger.source)
        start.cfg_dig_edge_start_trig(terminal, _edge(trigger.rising))
        start.retriggerable = True
        if debounce_us:
            start.dig_edge_dig_fltr_min_pulse_width = debounce_us / 1e6
            start.dig_edge_dig_fltr_enable = True

    def _terminal(self, name: str) -> str:
        return f"/{self._driver.device}/{name}"

    def _take_samples(self, task: Any, clock: Clock, buffer: int) -> None:
        task.timing.cfg_samp_clk_timing(
            rate=clock.max_rate_hz,
            source=self._terminal(clock.source),
            active_edge=_edge(clock.rising),
            sample_mode=AcquisitionType.CONTINUOUS,
            samps_per_chan=buffer,
        )

    def _put_samples(self, task: Any, clock: Clock, period: int) -> None:
        task.timing.cfg_samp_clk_timing(
            rate=clock.max_rate_hz,
            source=self._terminal(clock.source),
            active_edge=_edge(clock.rising),
            sample_mode=AcquisitionType.FINITE,
            samps_per_chan=clock.n_samples,
        )
        task.out_stream.regen_mode = RegenerationMode.ALLOW_REGENERATION
        # or the first of several writes would decide; each begins where the last ended
        task.out_stream.output_buf_size = period


def _parts(samples: NDArray[Any], dtype: type[T]) -> Iterator[NDArray[T]]:
    """Samples, (..., P), in parts that a message can hold."""
    at_once = _AT_ONCE // (samples.size // samples.shape[-1])
    for start in range(0, samples.shape[-1], at_once):
        yield np.ascontiguousarray(samples[..., start : start + at_once], dtype)


def _edge(rising: bool) -> Edge:
    return Edge.RISING if rising else Edge.FALLING


def internal_output(counter: str) -> str:
    """Terminal of a counter's output inside the board, ``"Ctr1InternalOutput"``."""
    return f"{counter.capitalize()}InternalOutput"
