"""`TaskBook`: the tasks of a board before they run: channels, timing, who holds what.

Separate from `board`, where tasks run, because this half is what a driver refuses. It
moves no pin.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from opm_engine.simulation.board_tasks import (
    BoardError,
    Channel,
    Kind,
    SampleClock,
    State,
    Task,
    channels_of,
    default_buffer,
    refuse_clock,
)
from opm_engine.simulation.pins import Pins
from opm_engine.simulation.products import expand

if TYPE_CHECKING:
    from opm_engine.simulation.clock import SimClock


class TaskBook(Pins):
    """Pins and the tasks that want them. Thread-safe.

    Parameters
    ----------
    name : str
        Name in NI MAX.
    product : str
        Row of `products.PRODUCTS`.
    clock : SimClock
        Stamps what software writes.
    history_s : float
        Simulated seconds that the traces remember.

    Attributes
    ----------
    calls : deque of str
        The driver's latest calls, oldest first.
    """

    def __init__(
        self, name: str, product: str, clock: SimClock, history_s: float
    ) -> None:
        super().__init__(name, product, history_s)
        self.calls: deque[str] = deque(maxlen=10_000)
        self._clock = clock
        self._tasks: dict[str, Task] = {}
        self._holders: dict[str, Task] = {}
        self._faults: dict[str, list[int]] = {}
        self._unnamed = Counter[str]()

    def open_tasks(self) -> list[str]:
        """Names of the tasks that were created and not cleared."""
        with self._lock:
            return list(self._tasks)

    def reserved(self) -> set[str]:
        """Pins, counters and timing engines that some task holds."""
        with self._lock:
            return set(self._holders)

    def fail(self, rpc: str, code: int, after: int = 0) -> None:
        """Make the (after + 1)-th next call of ``rpc`` fail once with ``code``."""
        with self._lock:
            plan = self._faults.setdefault(rpc, [])
            plan += [0] * (after + 1 - len(plan))
            plan[after] = code

    def called(self, rpc: str) -> None:
        """Record a call of the driver; raise the fault that was planned for it."""
        with self._lock:
            self.calls.append(rpc)
            plan = self._faults.get(rpc)
            code = plan.pop(0) if plan else 0
        if code:
            raise BoardError(code)

    def task(self, name: str) -> Task:
        """Look a task up; -200088 if there is none."""
        with self._lock:
            if name not in self._tasks:
                raise BoardError(-200088, name)
            return self._tasks[name]

    def idle(self, name: str) -> Task:
        """Look a task up for a change of settings; -200479 if it runs."""
        task = self.task(name)
        if task.state is State.RUNNING:
            raise BoardError(-200479)
        return task

    def create_task(self, name: str, *, attach: bool = False) -> tuple[str, bool]:
        """Create an empty task, or attach to the one of that name.

        Returns
        -------
        name : str
        created : bool
        """
        with self._lock:
            if name in self._tasks:
                if not attach:
                    raise BoardError(-200089, name)
                return name, False
            if not name:
                name = f"_unnamedTask<{self._unnamed['tasks']}>"
                self._unnamed["tasks"] += 1
            self._tasks[name] = Task(name)
            return name, True

    def add_lines(
        self, name: str, kind: Kind, lines: str, alias: str, *, together: bool
    ) -> None:
        """Add digital channels: one for all lines, or one for each."""
        wanted = [line for part in expand(lines) for line in self._port_lines(part)]
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
        names = [f"{self.name}/{pin}" for pin in pins]
        self._add(name, Kind.AO, channels_of([(pin,) for pin in pins], names, alias))

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
            channels = channels_of([(pin,)], [f"{self.name}/{pin}"], alias)
            self._add(name, Kind.CI, channels)
            task = self.task(name)
            task.counts_rising = rising
            task.initial_count = initial
            task.source = self._line(source)

    def count_edges_of(self, name: str, terminal: str) -> None:
        """Set the terminal, or the timebase, whose edges a counter counts."""
        with self._lock:
            self.idle(name).source = self._counted(terminal)

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
        """Clock a buffered output or counter by the edges of a terminal.

        Parameters
        ----------
        samples : int or None
            In all; None goes on until stopped.
        buffer : int
            Samples that the input buffer of one that goes on should hold.

        Raises
        ------
        NotImplementedError
            For the onboard clock.
        """
        if source.lower() in ("", "onboardclock"):
            raise NotImplementedError("the onboard sample clock")
        with self._lock:
            task = self.idle(name)
            refuse_clock(task, self.product, rate_hz, samples)
            task.clock = SampleClock(self._terminal(source), rising, samples)
            if task.kind is Kind.CI:
                least = default_buffer(rate_hz) if samples is None else samples
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

    def commit(self, name: str) -> None:
        """Hold the task's resources until it is cleared or unreserved."""
        with self._lock:
            task = self.task(name)
            self._reserve(task)
            task.committed = True
            if task.state is State.IDLE:
                task.state = State.COMMITTED

    def release(self, name: str) -> None:
        """Stop and give all resources back; the task can be started again."""
        with self._lock:
            task = self.task(name)
            task.committed = False
            self._halt(task)

    def clear(self, name: str) -> None:
        """Stop, release and forget."""
        with self._lock:
            self.release(name)
            del self._tasks[name]

    def _add(self, name: str, kind: Kind, channels: list[Channel]) -> None:
        with self._lock:
            task = self.idle(name)
            if task.kind not in (None, kind):
                raise BoardError(-200452, "Channels of two kinds in one task.")
            task.kind = kind
            task.channels += channels

    def _reserve(self, task: Task) -> None:
        for resource in task.resources():
            holder = self._holders.get(resource, task)
            if holder is not task:
                digital = resource.startswith("port")
                raise BoardError(
                    -200587 if digital else -50103, f"{resource}: {holder.name}"
                )
        self._holders.update(dict.fromkeys(task.resources(), task))

    def _halt(self, task: Task) -> None:
        task.state = State.COMMITTED if task.committed else State.IDLE
        if not task.committed:
            self._holders = {
                resource: holder
                for resource, holder in self._holders.items()
                if holder is not task
            }
