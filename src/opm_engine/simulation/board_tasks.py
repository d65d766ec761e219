"""What a DAQmx task is to the board model: channels, timing, samples, state.

Separate from `board` because a task is plain data that is checked alone; it knows no
other task and moves no pin. `BoardError` carries NI's own codes.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.simulation.products import TIMEBASES_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from opm_engine.simulation.products import Product

CHANGE_DETECTION = "changedetectionevent"

ERRORS = {
    -50103: "The specified resource is reserved.",
    -89136: "Specified route cannot be satisfied: the hardware does not support it.",
    -200040: "Source terminal to be routed could not be found on the device.",
    -200077: "Requested value is not a supported value for this property.",
    -200088: "Task specified is invalid or does not exist.",
    -200089: "Task name is already in use.",
    -200170: "Physical channel specified does not exist on this device.",
    -200220: "Device identifier is invalid.",
    -200222: "Acquisition has been stopped to prevent an input buffer overwrite.",
    -200229: "Buffer is too small to fit the read data.",
    -200284: "Some or all of the samples requested have not yet been acquired.",
    -200290: "Generation has been stopped to prevent regeneration of old samples.",
    -200452: "Specified property is not applicable to the task.",
    -200462: "Generation cannot be started: nothing was written to the buffer.",
    -200478: "Specified operation cannot be performed on a task without channels.",
    -200479: "Specified operation cannot be performed while the task is running.",
    -200524: "Write cannot be performed: the number of channels does not match.",
    -200560: "Wait until done did not indicate that the task was done in time.",
    -200561: "Attempted writing analog data that is too large or too small.",
    -200587: "Digital lines are reserved or unavailable.",
    -200609: "Generation cannot be started: the output buffer size is too small.",
    -200846: "Write cannot be performed: the task is not running, auto start is off.",
    -201086: "Attribute is not modelled by this board.",
}


class BoardError(Exception):
    """What the driver answers when it refuses.

    Attributes
    ----------
    code : int
        NI's status code.
    """

    def __init__(self, code: int, detail: str = "") -> None:
        self.code = code
        super().__init__(" ".join(filter(None, (error_text(code), detail))))


def error_text(code: int) -> str:
    """Return the driver's sentence for a status code."""
    return ERRORS.get(code, f"The driver reported status {code}.")


class Kind(Enum):
    """What a task's channels are; the values are NI's channel types."""

    DI = 10151
    DO = 10153
    AO = 10102
    CI = 10131


class State(Enum):
    """Where a task stands in NI's state model."""

    IDLE = "idle"
    COMMITTED = "committed"
    RUNNING = "running"


@dataclass(frozen=True)
class Channel:
    """One virtual channel.

    Attributes
    ----------
    name : str
    pins : tuple of str
        Lines of a digital channel; else the one analog output or counter.
    """

    name: str
    pins: tuple[str, ...]


def channels_of(
    groups: list[tuple[str, ...]], names: list[str], alias: str
) -> list[Channel]:
    """Name channels as NI does: the alias, numbered if there are several."""
    if alias:
        many = len(groups) > 1
        names = [f"{alias}{i}" if many else alias for i in range(len(groups))]
    return [Channel(name, pins) for name, pins in zip(names, groups, strict=True)]


@dataclass(frozen=True)
class SampleClock:
    """What advances a buffered task.

    Attributes
    ----------
    source : str
        Port line or ``CHANGE_DETECTION``; empty for a change detection task.
    rising : bool
        Edge of ``source`` that counts.
    samples : int or None
        Finite number of samples; None goes on until stopped.
    """

    source: str
    rising: bool
    samples: int | None


@dataclass(eq=False)
class Task:
    """One task; the board reads and writes its fields under its own lock."""

    name: str
    kind: Kind | None = None
    channels: list[Channel] = field(default_factory=list)
    clock: SampleClock | None = None
    state: State = State.IDLE
    committed: bool = False
    samples: list[tuple[float, ...]] = field(default_factory=list)
    regenerates: bool = True
    generated: int = 0
    error: int = 0
    rising_lines: frozenset[str] = frozenset()
    falling_lines: frozenset[str] = frozenset()
    input_buffer: int | None = None
    acquired: int = 0
    unread: deque[int] = field(default_factory=deque)
    counted: int = 0
    initial_count: int = 0
    source: str = ""
    counts_rising: bool = True
    started_s: float = 0.0

    @property
    def pins(self) -> tuple[str, ...]:
        """All lines, outputs or counters, in the order of a sample."""
        return tuple(pin for channel in self.channels for pin in channel.pins)

    @property
    def done(self) -> bool:
        """Whether everything asked of it has happened."""
        if self.state is not State.RUNNING or self.error:
            return True
        if self.clock is None or self.clock.samples is None:
            return False
        reads = self.kind in (Kind.DI, Kind.CI)
        return (self.acquired if reads else self.generated) >= self.clock.samples

    def resources(self) -> set[str]:
        """What nobody else may hold while this task is committed or runs."""
        held = set(self.pins)
        # each counter has a sample clock of its own
        if self.clock is not None and self.kind not in (None, Kind.CI):
            held.add(f"{self.kind.name} timing engine")
        return held

    @property
    def waiting(self) -> int:
        """Samples that can be read; raises if the task has failed."""
        if self.error:
            raise BoardError(self.error)
        return len(self.unread)

    def refuse_start(self) -> None:
        """Raise if a buffered generation has nothing sensible to play."""
        if not self.channels:
            raise BoardError(-200478)
        if self.kind not in (Kind.DO, Kind.AO) or self.clock is None:
            return
        if not self.samples:
            raise BoardError(-200462)
        if len(self.samples) < 2:
            raise BoardError(-200609)

    def rewind(self, now_s: float) -> None:
        """Begin from sample 0."""
        self.generated = self.acquired = self.error = 0
        self.counted = self.initial_count
        self.unread.clear()
        self.started_s = now_s

    def _is_clocked_by(self, source: str, rising: bool) -> bool:
        if self.clock is None or self.done:
            return False
        return (self.clock.source, self.clock.rising) == (source, rising)

    def next_sample(self, source: str, rising: bool) -> tuple[float, ...] | None:
        """Sample that an edge puts out; None if the outputs stay as they are."""
        if not self._is_clocked_by(source, rising):
            return None
        if not self.regenerates and self.generated >= len(self.samples):
            self.error = -200290
            return None
        sample = self.samples[self.generated % len(self.samples)]
        self.generated += 1
        return sample

    def see(self, source: str, rising: bool, time_s: float) -> None:
        """Count an edge, or sample the count at it, whatever it is to this counter."""
        if (self.source, self.counts_rising) == (source, rising):
            self.counted += 1
        if not self._is_clocked_by(source, rising):
            return
        if len(self.unread) >= (self.input_buffer or 0):
            # nobody reads: rather than lose a sample, the task stops
            self.error = -200222
            return
        self.acquired += 1
        self.unread.append(self.count_at(time_s))

    def count_at(self, time_s: float) -> int:
        """Edges counted by ``time_s``, those of a timebase included; 32 bits."""
        ticks = 0
        if self.source in TIMEBASES_HZ:
            elapsed_s = time_s - self.started_s
            ticks = math.floor(elapsed_s * TIMEBASES_HZ[self.source])
        return (self.counted + ticks) % 2**32

    def detects(self, line: str, rising: bool) -> bool:
        """Whether an edge makes a change detection event; fills the input buffer."""
        if line not in (self.rising_lines if rising else self.falling_lines):
            return False
        if self.input_buffer != 0 and self.acquired >= (self.input_buffer or 1000):
            # nobody reads: the full buffer stops the task, and with it the clock
            self.error = -200222
            return False
        self.acquired += 1
        return True


def lines_of_words(
    words: NDArray[np.uint32], lines: tuple[str, ...]
) -> list[list[bool]]:
    """Unpack port values: bit *i* is line *i* of the port.

    Parameters
    ----------
    words : ndarray, (P,) uint32
    lines : tuple of str
        Lines of one channel.

    Returns
    -------
    list of list of bool
        (P, len(lines)).
    """
    bits = np.array([int(line.rpartition("line")[2]) for line in lines], np.uint32)
    levels = (words[:, None] >> bits) & 1
    return levels.astype(bool).tolist()  # type: ignore[no-any-return]


def default_buffer(rate_hz: float) -> int:
    """Samples that the driver's input buffer holds if nobody wants more."""
    steps = ((100, 1_000), (10_000, 10_000), (1_000_000, 100_000))
    return next((size for fastest, size in steps if rate_hz <= fastest), 1_000_000)


def refuse_clock(
    task: Task, product: Product, rate_hz: float, samples: int | None
) -> None:
    """Raise unless the board can clock these channels at this rate."""
    fastest_hz = product.max_rate_hz
    if task.kind is Kind.AO:
        fastest_hz = product.ao_max_rate_hz
    if not 0 < rate_hz <= fastest_hz:
        raise BoardError(-200077, f"SampClk.Rate = {rate_hz}")
    if samples is not None and samples < 1:
        raise BoardError(-200077, f"SampQuant.SampPerChan = {samples}")
    if task.kind is Kind.DO and any("port0/" not in pin for pin in task.pins):
        raise BoardError(-200452, "Only port0 can be clocked.")


def refuse_volts(samples: Sequence[Sequence[float]], product: Product) -> None:
    """Raise if the outputs cannot reach one of the voltages."""
    low_v, high_v = product.ao_range_v
    for sample in samples:
        if not all(low_v <= volts <= high_v for volts in sample):
            raise BoardError(-200561, f"{tuple(sample)}")
