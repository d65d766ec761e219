"""`TaskSetup`: what is configured before a task runs: channels, clocks, triggers.

Separate from `running` because this half is what a driver refuses; nothing here moves
a pin or takes time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opm_engine.simulation import board_rules as rules
from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.board_tasks import (
    Channel,
    Kind,
    Pulse,
    SampleClock,
    channels_of,
)
from opm_engine.simulation.products import expand
from opm_engine.simulation.task_book import TaskBook
from opm_engine.simulation.watchdog import Watchdog, refuse_timeout

if TYPE_CHECKING:
    from collections.abc import Iterable


class TaskSetup(TaskBook):
    """Tasks and how they are configured. Thread-safe. Parameters: see `TaskBook`."""

    # ------------------------------------------------------------------- channels

    def add_lines(
        self, name: str, kind: Kind, lines: str, alias: str, *, together: bool
    ) -> None:
        """Add digital channels: one for all lines, or one for each."""
        wanted = [line for part in expand(lines) for line in self._port_lines(part)]
        if any(not line.startswith("port") for line in wanted):
            raise BoardError(-200170, lines)
        names = [f"{self.name}/{line}" for line in wanted]
        groups: list[tuple[str, ...]] = [(line,) for line in wanted]
        if together:
            groups = [tuple(wanted)]
            names = [names[0] + ("..." if len(wanted) > 1 else "")]
        self._add(name, kind, channels_of(groups, names, alias))

    def add_ao(
        self, name: str, channels: str, alias: str, low_v: float, high_v: float
    ) -> None:
        """Add analog outputs; -200077 if the range is beyond the board."""
        lowest_v, highest_v = self.product.ao_range_v
        if not lowest_v <= low_v < high_v <= highest_v:
            raise BoardError(-200077, f"AO.Min, AO.Max = {low_v}, {high_v}")
        pins = [self._channel(channel) for channel in expand(channels)]
        self._add_single(name, Kind.AO, pins, alias)

    def add_ai(
        self, name: str, channels: str, alias: str, low_v: float, high_v: float
    ) -> None:
        """Add analog inputs; -200077 if the range is beyond the board."""
        lowest_v, highest_v = self.product.ai_range_v
        if not lowest_v <= low_v < high_v <= highest_v:
            raise BoardError(-200077, f"AI.Min, AI.Max = {low_v}, {high_v}")
        pins = [self._local(channel) for channel in expand(channels)]
        for pin in pins:
            if pin not in self.product.input_channels():
                raise BoardError(-200170, pin)
        self._add_single(name, Kind.AI, pins, alias)
        self.task(name).ranges_v += [(low_v, high_v)] * len(pins)

    def add_edge_counter(
        self, name: str, counter: str, alias: str, *, rising: bool, initial: int
    ) -> None:
        """Make a task count edges; its terminal is set afterwards."""
        pin = self._local(counter)
        counters = self.product.counter_channels()
        if pin not in counters:
            raise BoardError(-200170, counter)
        source = self.product.counter_sources[counters.index(pin)]
        with self._lock:
            self._add_single(name, Kind.CI, [pin], alias)
            task = self.task(name)
            task.counts_rising = rising
            task.initial_count = initial
            task.source = self._line(source)
            task.count_bits = self.product.counter_bits

    def add_pulses(self, name: str, counter: str, alias: str, pulse: Pulse) -> None:
        """Make a counter put out one pulse; `time_pulses` makes it more.

        Raises
        ------
        BoardError
            -200077 for pulses shorter than two ticks.
        """
        pin = self._local(counter)
        if pin not in self.product.pulse_channels():
            raise BoardError(-200170, counter)
        pulse = rules.whole_ticks(pulse, self.product)
        with self._lock:
            self._add_single(name, Kind.CO, [pin], alias)
            task = self.task(name)
            task.pulse = pulse
            task.clock = SampleClock("", True, 1)

    def count_edges_of(self, name: str, terminal: str) -> None:
        """Set the terminal, or the timebase, whose edges a counter counts."""
        with self._lock:
            self.idle(name).source = self._counted(terminal)

    def _add_single(self, name: str, kind: Kind, pins: list[str], alias: str) -> None:
        names = [f"{self.name}/{pin}" for pin in pins]
        self._add(name, kind, channels_of([(pin,) for pin in pins], names, alias))

    def _add(self, name: str, kind: Kind, channels: list[Channel]) -> None:
        with self._lock:
            task = self.idle(name)
            if task.kind not in (None, kind):
                raise BoardError(-200452, "Channels of two kinds in one task.")
            task.kind = kind
            task.channels += channels

    # ------------------------------------------------------------------- watchdog

    def create_watchdog(self, name: str, timeout_s: float) -> str:
        """Create a watchdog task; starting it starts the timer. Returns its name.

        Raises
        ------
        BoardError
            -200662 without such a timer, -200668 for a timeout it cannot have.
        """
        if not self.product.watchdog:
            raise BoardError(-200662)
        refuse_timeout(timeout_s)
        with self._lock:
            name, _ = self.create_task(name)
            self.task(name).watchdog = Watchdog(timeout_s)
            return name

    def watchdog(self, name: str) -> Watchdog:
        """What a watchdog task has been told, and whether it has expired."""
        with self._lock:
            self._queue.run(self._clock.now())
            watchdog = self.task(name).watchdog
            if watchdog is None:
                raise BoardError(-200635)
            return watchdog

    def set_expiration_states(
        self, name: str, states: Iterable[tuple[str, int]]
    ) -> None:
        """Say what lines, or whole ports, shall do when the timer expires."""
        with self._lock:
            self.idle(name)
            watchdog = self.watchdog(name)
            for channel, state in states:
                for line in self._port_lines(channel):
                    watchdog.states[line] = state

    # --------------------------------------------------------------------- clocks

    def clock_by_edges(
        self,
        name: str,
        source: str,
        rate_hz: float,
        *,
        rising: bool,
        samples: int | None,
        buffer: int = 0,
    ) -> None:
        """Clock a buffered task by the edges of a terminal, or of a clock of its own.

        Parameters
        ----------
        source : str
            Terminal; empty or ``"OnboardClock"`` is the task's own clock.
        rate_hz : float
            Of its own clock; of a terminal the highest to expect.
        samples : int or None
            In all; None goes on until stopped.
        buffer : int
            Samples that the input buffer of one that goes on should hold.

        Raises
        ------
        NotImplementedError
            For digital inputs on their own clock.
        """
        with self._lock:
            task = self.idle(name)
            onboard = self._local(source) in ("", "onboardclock")
            if onboard and task.kind is Kind.DI:
                raise NotImplementedError("digital inputs on the onboard clock")
            rules.refuse_clock(task, self.product, rate_hz, samples, onboard)
            kind = task.kind.name.lower() if task.kind else ""
            signal = f"{kind}/sampleclock" if onboard else self._terminal(source)
            if not onboard and signal == f"{kind}/sampleclock":
                raise BoardError(-89136, source)
            task.clock = SampleClock(
                signal, rising or onboard, samples, rate_hz, onboard
            )
            task.needs_extra_edge = self.product.needs_extra_edge and not onboard
            if task.kind in (Kind.CI, Kind.AI):
                task.needs_extra_edge = False
                least = rules.default_buffer(rate_hz) if samples is None else samples
                task.input_buffer = max(buffer, least)

    def clock_by_changes(
        self, name: str, rising: str, falling: str, samples: int | None
    ) -> None:
        """Make a digital input task raise change detection events."""
        up = frozenset(self._line(line) for line in expand(rising))
        down = frozenset(self._line(line) for line in expand(falling))
        with self._lock:
            task = self.idle(name)
            if not self.product.change_detection or task.kind is not Kind.DI:
                raise BoardError(-200452)
            if not (up | down) <= set(task.pins):
                raise BoardError(-200077, "Lines that are not in the task.")
            task.rising_lines, task.falling_lines = up, down
            task.clock = SampleClock("", True, samples)

    def time_pulses(self, name: str, n_pulses: int | None) -> None:
        """Make a counter put out several pulses after each start; None never ends."""
        with self._lock:
            task = self.idle(name)
            if task.kind is not Kind.CO:
                raise BoardError(-200452, "Implicit timing is for counters.")
            if n_pulses is not None and n_pulses < 1:
                raise BoardError(-200077, f"SampQuant.SampPerChan = {n_pulses}")
            task.clock = SampleClock("", True, n_pulses)

    # ------------------------------------------------------------------- triggers

    def trigger_by(self, name: str, source: str, *, rising: bool) -> None:
        """Let a terminal's edge start what a software start arms; "" lets software."""
        with self._lock:
            trigger = self.idle(name).trigger
            trigger.source = self._terminal(source) if source else ""
            trigger.rising = rising

    def pause_by(self, name: str, source: str) -> None:
        """Let a terminal's level pause a task's pulses; "" lets none."""
        with self._lock:
            task = self.idle(name)
            task.gate.source = self._terminal(source) if source else ""
