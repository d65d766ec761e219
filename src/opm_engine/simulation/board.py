"""`Board`: a model of an NI X-series board, with cables.

Separate from its gRPC face: it knows tasks, clocks and pins, but neither protocol
buffers nor `nidaqmx`. Tasks are driven by whoever speaks for the driver; cables
(`drive`, the traces) by whoever simulates what is plugged in. It does not know what a
camera or a laser is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opm_engine.simulation.board_tasks import (
    CHANGE_DETECTION,
    BoardError,
    Kind,
    State,
    Task,
    refuse_volts,
)
from opm_engine.simulation.clock import SimClock
from opm_engine.simulation.task_book import TaskBook

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Board(TaskBook):
    """One board, its tasks and the levels of its pins. Thread-safe.

    Parameters
    ----------
    name : str
        Name in NI MAX.
    product : str
        Row of `products.PRODUCTS`.
    clock : SimClock, optional
        Stamps what software writes.
    history_s : float
        Simulated seconds that the traces remember.

    Attributes
    ----------
    edge_filter : callable or None
        ``(level, time_s) -> int``: how often the board sees an edge of a cable. 0 is
        a missed edge, 2 a doubled one; None sees each once.
    power_up : dict
        Line → level after a reset; low if absent.
    """

    def __init__(
        self,
        name: str = "Dev1",
        *,
        product: str = "PCIe-6363",
        clock: SimClock | None = None,
        history_s: float = 10.0,
    ) -> None:
        super().__init__(name, product, clock or SimClock(), history_s)
        self.edge_filter: Callable[[bool, float], int] | None = None
        self.power_up: dict[str, bool] = {}

    def drive(self, terminal: str, level: bool, time_s: float) -> None:
        """Put a level on an input pin, as a cable does.

        Parameters
        ----------
        terminal : str
            Like ``"PFI0"`` or ``"port1/line0"``.
        time_s : float
            Simulated time. A cable may be late; outputs then change at the latest
            time of anything on the board, but a timebase has counted until ``time_s``.
        """
        line = self._line(terminal)
        with self._lock:
            now_s = self._stamp(time_s)
            if level == bool(self._lines[line].value):
                return
            self._lines[line].set(level, now_s)
            seen = 1 if self.edge_filter is None else self.edge_filter(level, now_s)
            for _ in range(seen):
                self._signal(line, level, time_s, now_s)

    def start(self, name: str) -> None:
        """Start from sample 0; nothing to do if it runs."""
        with self._lock:
            task = self.task(name)
            if task.state is State.RUNNING:
                return
            task.refuse_start()
            self._reserve(task)
            task.rewind(self._stamp(self._clock.now()))
            task.state = State.RUNNING

    def stop(self, name: str) -> None:
        """Stop; outputs keep their level. A committed task keeps its resources."""
        with self._lock:
            task = self.task(name)
            error, task.error = task.error, 0
            self._halt(task)
            if error:
                raise BoardError(error)

    def write(
        self, name: str, samples: Sequence[Sequence[float]], *, auto_start: bool
    ) -> int:
        """Write samples, one per row, a column for each pin; buffered writes commit.

        Returns
        -------
        int
            Samples taken.
        """
        with self._lock:
            task = self.task(name)
            if any(len(sample) != len(task.pins) for sample in samples):
                raise BoardError(-200524)
            if task.kind is Kind.AO:
                refuse_volts(samples, self.product)
            if task.clock is not None:
                self._fill(task, samples, auto_start)
                return len(samples)
            if task.state is not State.RUNNING:
                if not auto_start:
                    raise BoardError(-200846)
                self.start(name)
            now_s = self._stamp(self._clock.now())
            for sample in samples:
                self._put_out(task, sample, now_s)
            return len(samples)

    def read_levels(self, name: str) -> list[bool]:
        """Levels of a digital task's lines now, as an on-demand read sees them."""
        with self._lock:
            task = self.task(name)
            if task.state is not State.RUNNING:
                self._reserve(task)
                self._halt(task)
            return [bool(self._lines[pin].value) for pin in task.pins]

    def read_count(self, name: str) -> int:
        """What a counter holds now; if it is clocked, its oldest unread sample.

        Starts the counter if it does not run.
        """
        with self._lock:
            task = self.task(name)
            if task.clock is not None:
                return self.read_counts(name, 1)[0]
            self.start(name)
            return task.count_at(self._stamp(self._clock.now()))

    def read_counts(self, name: str, wanted: int) -> list[int]:
        """Take the oldest samples out of a clocked counter's buffer; -1 takes all.

        Raises
        ------
        BoardError
            -200452 if the counter has no clock, -200284 if there are fewer samples
            (nothing is waited for), the task's own error if it has failed.
        """
        with self._lock:
            task = self.task(name)
            if task.clock is None:
                raise BoardError(-200452, "A counter without a sample clock.")
            self.start(name)
            if task.error:
                raise BoardError(task.error)
            n_samples = len(task.unread) if wanted < 0 else wanted
            if n_samples > len(task.unread):
                raise BoardError(-200284)
            return [task.unread.popleft() for _ in range(n_samples)]

    def reset(self) -> None:
        """Abort every task, outputs to what the product does after a reset."""
        with self._lock:
            now_s = self._stamp(self._clock.now())
            for task in self._tasks.values():
                task.committed = False
                task.samples = []
                self._halt(task)
            for line, trace in self._lines.items():
                if line.startswith("port0/") or line in self.power_up:
                    trace.set(self.power_up.get(line, False), now_s)
            if self.product.ao_zero_on_reset:
                for trace in self._volts.values():
                    trace.set(0.0, now_s)

    def _fill(
        self, task: Task, samples: Sequence[Sequence[float]], auto_start: bool
    ) -> None:
        if task.state is State.RUNNING:
            raise BoardError(-200479)
        self.commit(task.name)
        task.samples = [tuple(sample) for sample in samples]
        if auto_start:
            self.start(task.name)

    def _signal(self, source: str, rising: bool, time_s: float, now_s: float) -> None:
        changed = False
        for task in self._tasks.values():
            if task.state is not State.RUNNING:
                continue
            if task.kind is Kind.CI:
                task.see(source, rising, time_s)
            elif task.kind is Kind.DI:
                changed |= not task.done and task.detects(source, rising)
            else:
                sample = task.next_sample(source, rising)
                if sample is not None:
                    self._put_out(task, sample, now_s)
        if changed:
            # the event is a pulse: both of its edges count
            self._signal(CHANGE_DETECTION, True, time_s, now_s)
            self._signal(CHANGE_DETECTION, False, time_s, now_s)

    def _put_out(self, task: Task, sample: Sequence[float], time_s: float) -> None:
        traces = self._volts if task.kind is Kind.AO else self._lines
        for pin, value in zip(task.pins, sample, strict=True):
            traces[pin].set(value, time_s)
