"""`Running`: tasks that run: who hears which edge, and what an edge does.

Separate from `board` because this is the hardware's half: signals, triggers, sample
clocks, debouncing. It knows nothing of what software asks, nor of messages.

A signal is a pin or something internal (``ctr0internaloutput``, a sample clock, the
change detection event). Starting and stopping a task lays the wires anew, so that an
edge finds its listeners in one look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from opm_engine.simulation import board_rules as rules
from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.board_tasks import CHANGE_DETECTION, Kind, State, Task
from opm_engine.simulation.task_setup import TaskSetup
from opm_engine.simulation.trains import Shape, Train

if TYPE_CHECKING:
    from opm_engine.simulation.clock import SimClock
    from opm_engine.simulation.watchdog import Watchdog

Edge = tuple[str, bool]
Hear = Callable[[float, float], None]
"""``(time_s, now_s)``: when the edge was, and when outputs can change at last."""

_CONVERT, _COUNT, _STAMP, _PLAY, _GATE, _TRIGGER, _DETECT = range(7)
"""In which order one edge is heard: inputs see what is there before outputs change."""


class Running(TaskSetup):
    """Tasks and what makes them go. Thread-safe. Parameters: see `TaskBook`.

    Attributes
    ----------
    inputs : dict
        Analog input, like ``"ai0"`` → function of simulated seconds, in volts. An
        input that is not in it sees the output of the same number, else 0 V.
    edge_filter : callable or None
        ``(level, time_s) -> int``: how often the board sees an edge of a cable. 0 is
        a missed edge, 2 a doubled one; None sees each once.
    """

    def __init__(
        self, name: str, product: str, clock: SimClock, history_s: float
    ) -> None:
        super().__init__(name, product, clock, history_s)
        self.inputs: dict[str, Callable[[float], float]] = {}
        self.edge_filter: Callable[[bool, float], int] | None = None
        self._listeners: dict[Edge, list[Hear]] = {}
        self._trains: dict[Task, Train] = {}
        self._widths_s: dict[str, float] = {}
        self._settled: dict[str, bool] = {}
        self._awaited: dict[str, tuple[bool, float]] = {}
        self._locked: set[str] = set()

    # ---------------------------------------------------------------------- edges

    def _signal(self, source: str, rising: bool, time_s: float, now_s: float) -> None:
        for hear in self._listeners.get((source, rising), ()):
            hear(time_s, now_s)

    def _see(self, line: str, level: bool, time_s: float, now_s: float) -> None:
        seen = 1 if self.edge_filter is None else self.edge_filter(level, now_s)
        for _ in range(seen):
            self._signal(line, level, time_s, now_s)

    def _debounce(self, line: str, level: bool, time_s: float) -> None:
        if level == self._settled[line]:
            self._awaited.pop(line, None)
            return
        due_s = time_s + self._widths_s[line]
        self._awaited[line] = (level, due_s)
        self._queue.add(due_s, partial(self._settle, line, level))

    def _settle(self, line: str, level: bool, due_s: float) -> None:
        if self._awaited.get(line) != (level, due_s):
            return  # the line has changed since
        del self._awaited[line]
        self._settled[line] = level
        self._see(line, level, due_s, self._stamp(due_s))

    # ------------------------------------------------------------------ start, stop

    def _begin(self, task: Task, now_s: float) -> None:
        self._refuse_filters(task)
        task.rewind(now_s)
        task.state = State.RUNNING
        if task.watchdog is not None:
            self._arm(task.watchdog, now_s)
        train = self._new_train(task)
        if train is not None:
            self._trains[task] = train
        self._rewire()
        if task.triggered and train is not None:
            self._start_train(task, train, now_s)
            self._queue.run(now_s)

    def _halt(self, task: Task) -> None:
        ran = task.state is State.RUNNING
        super()._halt(task)
        if task.watchdog is not None:
            task.watchdog.due_s = None
        train = self._trains.pop(task, None)
        if train is not None:
            train.stop()
        if ran:
            self._rewire()

    def _running(self) -> list[Task]:
        return [task for task in self._tasks.values() if task.state is State.RUNNING]

    def _refuse_filters(self, task: Task) -> None:
        for pin, width_s in rules.filtered_pins(task, self.product):
            if self._widths_s.get(pin, width_s) != width_s:
                raise BoardError(-200806, pin)

    # -------------------------------------------------------------------- watchdog

    def _arm(self, watchdog: Watchdog, now_s: float) -> None:
        watchdog.due_s = None
        if watchdog.timeout_s >= 0:
            watchdog.due_s = now_s + watchdog.timeout_s
            self._queue.add(watchdog.due_s, partial(self._expire, watchdog))

    def _expire(self, watchdog: Watchdog, due_s: float) -> None:
        if due_s != watchdog.due_s:
            return  # stopped or reset since
        watchdog.due_s, watchdog.expired = None, True
        safe = watchdog.safe_levels()
        for line, level in safe.items():
            self._lines[line].set(level, self._stamp(due_s))
        self._locked |= set(safe)
        self._rewire()

    # ---------------------------------------------------------------------- wiring

    def _rewire(self) -> None:
        running = self._running()
        self._widths_s = {
            pin: width_s
            for task in running
            for pin, width_s in rules.filtered_pins(task, self.product)
        }
        self._settled = {
            pin: self._settled.get(pin, bool(self._lines[pin].value))
            for pin in self._widths_s
        }
        self._awaited = {
            pin: change
            for pin, change in self._awaited.items()
            if pin in self._widths_s
        }
        ears = sorted(
            (ear for task in running for ear in self._ears(task)),
            key=lambda ear: ear[0],
        )
        stand_ins = dict(_shared_clocks(running))
        self._listeners = {}
        for _, edge, hear in ears:
            edge = stand_ins.get(edge[0], edge)
            self._listeners.setdefault(edge, []).append(hear)

    def _ears(self, task: Task) -> Iterator[tuple[int, Edge, Hear]]:
        """Edges that a task hears: (order, edge, what to do)."""
        clock = task.clock
        if clock is not None and clock.source:
            edge = (clock.source, clock.rising)
            if task.kind in (Kind.AO, Kind.DO):
                yield _PLAY, edge, self._player(task)
            elif task.kind is Kind.AI:
                yield _CONVERT, edge, self._converter(task)
            elif task.kind is Kind.CI:
                yield _STAMP, edge, partial(_stamp_count, task)
        if task.kind is Kind.CI:
            yield _COUNT, (task.source, task.counts_rising), partial(_count, task)
        for line in task.rising_lines:
            yield _DETECT, (line, True), partial(self._detect, task)
        for line in task.falling_lines:
            yield _DETECT, (line, False), partial(self._detect, task)
        if task.trigger.source:
            edge = (task.trigger.source, task.trigger.rising)
            yield _TRIGGER, edge, partial(self._trigger, task)
        if task.gate.source and task in self._trains:
            train, when = self._trains[task], task.gate.when_high
            yield _GATE, (task.gate.source, when), lambda at_s, _: train.pause(at_s)
            yield (
                _GATE,
                (task.gate.source, not when),
                lambda at_s, _: train.resume(at_s),
            )

    def _player(self, task: Task) -> Hear:
        traces = self._volts if task.kind is Kind.AO else self._lines
        # a pin that the watchdog holds ignores its sample
        outputs = [
            (index, traces[pin])
            for index, pin in enumerate(task.pins)
            if pin not in self._locked
        ]

        def play(_: float, now_s: float) -> None:
            sample = task.next_sample()
            if sample is not None:
                for index, trace in outputs:
                    trace.set(sample[index], now_s)

        return play

    def _converter(self, task: Task) -> Hear:
        def convert(time_s: float, _: float) -> None:
            if task.accepts():
                task.unread.append(self._volts_in(task, time_s))

        return convert

    def _volts_in(self, task: Task, time_s: float) -> tuple[float, ...]:
        """What the inputs of a task see, as far as their ranges go."""
        volts = []
        for pin, (low_v, high_v) in zip(task.pins, task.ranges_v, strict=True):
            plugged = self.inputs.get(pin)
            loop = self._volts.get(f"ao{pin[2:]}")
            seen_v = loop.value if loop is not None else 0.0
            if plugged is not None:
                seen_v = float(plugged(time_s))
            volts.append(min(max(seen_v, low_v), high_v))
        return tuple(volts)

    def _detect(self, task: Task, time_s: float, now_s: float) -> None:
        if task.detects():
            # the event is a pulse: both of its edges count
            self._signal(CHANGE_DETECTION, True, time_s, now_s)
            self._signal(CHANGE_DETECTION, False, time_s, now_s)

    # ------------------------------------------------------------ trains, triggers

    def _new_train(self, task: Task) -> Train | None:
        clock, pulse = task.clock, task.pulse
        if clock is None:
            return None
        if pulse is not None:
            signal, idle = f"{task.pins[0]}internaloutput", pulse.idles_high
            shape = Shape(pulse.period_s, pulse.width_s, clock.samples)
        elif clock.onboard:
            signal, idle = clock.source, False
            shape = Shape(1 / clock.rate_hz, 0.5 / clock.rate_hz, clock.samples)
        else:
            return None

        def tell(active: bool, due_s: float) -> None:
            if active and pulse is not None:
                task.generated += 1
            self._signal(signal, active != idle, due_s, self._stamp(due_s))

        return Train(
            self._queue, shape, tell, lambda: (signal, idle) in self._listeners
        )

    def _start_train(self, task: Task, train: Train, time_s: float) -> None:
        delay_s = task.trigger.delay_s
        if task.pulse is not None and task.clock is not None:
            delay_s = task.pulse.wait_s(train.runs > 0, task.clock.samples)
        train.start(time_s, delay_s)
        gate = task.gate
        if gate.source and self._level(gate.source, time_s) == gate.when_high:
            train.pause(time_s)

    def _trigger(self, task: Task, time_s: float, _: float) -> None:
        train = self._trains.get(task)
        if task.triggered:
            taken = task.acquired if task.reads else task.generated
            busy = train.busy(time_s) if train is not None else taken < task.allowed
            if busy or not task.trigger.retriggerable:
                return
        task.let_go()
        if train is not None:
            self._start_train(task, train, time_s)

    def _level(self, source: str, time_s: float) -> bool:
        if source in self._lines:
            return self._settled.get(source, bool(self._lines[source].value))
        for task, train in self._trains.items():
            if task.pulse is not None and source.startswith(task.pins[0]):
                return train.active(time_s) != task.pulse.idles_high
        return False


def _count(task: Task, _time_s: float, _now_s: float) -> None:
    task.counted += 1


def _stamp_count(task: Task, time_s: float, _: float) -> None:
    if task.accepts():
        task.unread.append(task.count_at(time_s))


def _shared_clocks(running: list[Task]) -> Iterator[tuple[str, Edge]]:
    """Sample clocks that are an external signal, and the edge that they are."""
    for task in running:
        if task.kind is not None and task.clock is not None and task.clock.source:
            name = f"{task.kind.name.lower()}/sampleclock"
            if not task.clock.onboard:
                yield name, (task.clock.source, task.clock.rising)
