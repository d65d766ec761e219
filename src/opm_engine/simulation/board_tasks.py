"""What a DAQmx task is to the board model: channels, timing, samples, state.

Separate from `board` because a task is plain data that is checked alone; it knows no
other task and moves no pin.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.products import TIMEBASES_HZ
from opm_engine.simulation.watchdog import Watchdog

CHANGE_DETECTION = "changedetectionevent"


class Kind(Enum):
    """What a task's channels are; the values are NI's channel types."""

    AI = 10100
    AO = 10102
    DI = 10151
    DO = 10153
    CI = 10131
    CO = 10132


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
        Lines of a digital channel; else the one analog channel or counter.
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
        Signal whose edges play or take samples; empty for a change detection task
        and for a counter's pulses.
    rising : bool
        Edge of ``source`` that counts.
    samples : int or None
        Finite number of samples or pulses; None goes on until stopped.
    rate_hz : float
    onboard : bool
        Whether the task itself makes the edges of ``source``.
    """

    source: str
    rising: bool
    samples: int | None
    rate_hz: float = 0.0
    onboard: bool = False


@dataclass
class Pulse:
    """Shape of a counter's pulses.

    Attributes
    ----------
    delay_s : float
        From start or trigger to the first pulse.
    low_s, high_s : float
    idles_high : bool
        Whether a pulse is low for ``low_s`` on a line that is else high.
    delay_again : bool or None
        Whether later triggers wait for ``delay_s`` too. None is the driver's default:
        only single pulses do (X Series User Manual, "Retriggerable Pulse or Pulse
        Train Generation"). If not, the model waits for the time between two pulses,
        which the manual does not say.
    """

    delay_s: float
    low_s: float
    high_s: float
    idles_high: bool = False
    delay_again: bool | None = None

    @property
    def period_s(self) -> float:
        """From pulse to pulse."""
        return self.low_s + self.high_s

    @property
    def width_s(self) -> float:
        """Of the active phase."""
        return self.low_s if self.idles_high else self.high_s

    def wait_s(self, retriggered: bool, n_pulses: int | None) -> float:
        """Time from a trigger to the first pulse that answers it."""
        again = n_pulses == 1 if self.delay_again is None else self.delay_again
        if retriggered and not again:
            return self.period_s - self.width_s
        return self.delay_s


@dataclass
class Trigger:
    """Edge that starts a task; without a source software does.

    Attributes
    ----------
    source : str
        Signal.
    rising, retriggerable : bool
    delay_s : float
        From the edge to the first sample of an onboard clock.
    """

    source: str = ""
    rising: bool = True
    retriggerable: bool = False
    delay_s: float = 0.0


@dataclass
class Gate:
    """Level that pauses a task's own pulses or clock; without a source none does."""

    source: str = ""
    when_high: bool = True


@dataclass
class Filter:
    """Debouncing of one of a task's terminals."""

    enabled: bool = False
    width_s: float = 0.0


@dataclass(eq=False)
class Task:
    """One task; the board reads and writes its fields under its own lock."""

    name: str
    kind: Kind | None = None
    channels: list[Channel] = field(default_factory=list)
    ranges_v: list[tuple[float, float]] = field(default_factory=list)
    clock: SampleClock | None = None
    watchdog: Watchdog | None = None
    pulse: Pulse | None = None
    trigger: Trigger = field(default_factory=Trigger)
    gate: Gate = field(default_factory=Gate)
    line_filter: Filter = field(default_factory=Filter)
    trigger_filter: Filter = field(default_factory=Filter)
    gate_filter: Filter = field(default_factory=Filter)
    clock_filter: Filter = field(default_factory=Filter)
    count_filter: Filter = field(default_factory=Filter)
    state: State = State.IDLE
    committed: bool = False
    samples: list[tuple[float, ...]] = field(default_factory=list)
    output_buffer: int | None = None
    written: int = 0
    regenerates: bool = True
    generated: int = 0
    error: int = 0
    rising_lines: frozenset[str] = frozenset()
    falling_lines: frozenset[str] = frozenset()
    input_buffer: int | None = None
    acquired: int = 0
    unread: deque[Any] = field(default_factory=deque)
    counted: int = 0
    initial_count: int = 0
    source: str = ""
    counts_rising: bool = True
    count_bits: int = 32
    started_s: float = 0.0
    allowed: float = math.inf
    triggered: bool = False
    needs_extra_edge: bool = False
    had_extra_edge: bool = False

    @property
    def pins(self) -> tuple[str, ...]:
        """All lines, analog channels or counters, in the order of a sample."""
        return tuple(pin for channel in self.channels for pin in channel.pins)

    @property
    def reads(self) -> bool:
        """Whether its samples go into the computer."""
        return self.kind in (Kind.DI, Kind.CI, Kind.AI)

    @property
    def done(self) -> bool:
        """Whether everything asked of it has happened."""
        if self.state is not State.RUNNING or self.error:
            return True
        if self.clock is None or self.clock.samples is None:
            return False
        if self.trigger.retriggerable and self.trigger.source:
            return False
        if self.needs_extra_edge and not self.had_extra_edge:
            return False
        return (self.acquired if self.reads else self.generated) >= self.clock.samples

    @property
    def waiting(self) -> int:
        """Samples that can be read; raises if the task has failed."""
        if self.error:
            raise BoardError(self.error)
        return len(self.unread)

    def refuse_start(self) -> None:
        """Raise if there is nothing to do, or nothing sensible to play."""
        if not self.channels and self.watchdog is None:
            raise BoardError(-200478)
        if self.kind not in (Kind.DO, Kind.AO) or self.clock is None:
            return
        if len(self.samples) < (self.output_buffer or 1):
            raise BoardError(-200462)
        if len(self.samples) < 2:
            raise BoardError(-200609)

    def put(self, samples: list[tuple[float, ...]]) -> None:
        """Write to the output buffer, each time from where the last write ended.

        Without a size of its own the first write decides how many samples it holds.
        """
        size = self.output_buffer or len(self.samples) or len(samples)
        if len(samples) > size:
            raise BoardError(-200292)
        start = self.written % size
        ahead = samples[: size - start]
        self.samples[start : start + len(ahead)] = ahead
        self.samples[: len(samples) - len(ahead)] = samples[len(ahead) :]
        self.written += len(samples)

    def rewind(self, now_s: float) -> None:
        """Begin from sample 0."""
        self.generated = self.acquired = self.error = 0
        self.counted = self.initial_count
        self.unread.clear()
        self.started_s = now_s
        self.triggered = self.had_extra_edge = False
        self.allowed = 0.0
        if not self.trigger.source:
            self.let_go()

    def let_go(self) -> None:
        """Allow the samples that follow a start or a trigger."""
        samples = self.clock.samples if self.clock is not None else None
        self.allowed += math.inf if samples is None else samples
        self.triggered = True

    def next_sample(self) -> tuple[float, ...] | None:
        """Sample that an edge of the clock plays, if any."""
        if self.error:
            return None
        if self.generated >= self.allowed:
            self.had_extra_edge = True
            return None
        if not self.regenerates and self.generated >= len(self.samples):
            self.error = -200290
            return None
        sample = self.samples[self.generated % len(self.samples)]
        self.generated += 1
        return sample

    def accepts(self) -> bool:
        """Whether an edge of the clock takes a sample; a full buffer fails the task."""
        if self.error or self.acquired >= self.allowed:
            return False
        if len(self.unread) >= (self.input_buffer or 0):
            # nobody reads: rather than lose a sample, the task stops
            self.error = -200222
            return False
        self.acquired += 1
        return True

    def detects(self) -> bool:
        """Whether an edge makes a change detection event; fills the input buffer."""
        if self.error or self.acquired >= self.allowed:
            return False
        if self.input_buffer != 0 and self.acquired >= (self.input_buffer or 1000):
            # nobody reads: the full buffer stops the task, and with it the clock
            self.error = -200222
            return False
        self.acquired += 1
        return True

    def count_at(self, time_s: float) -> int:
        """Edges counted by ``time_s``, those of a timebase included."""
        ticks = 0
        if self.source in TIMEBASES_HZ:
            elapsed_s = time_s - self.started_s
            ticks = math.floor(elapsed_s * TIMEBASES_HZ[self.source])
        return (self.counted + ticks) % (1 << self.count_bits)
