"""`Board`: a model of an NI board, with cables.

Separate from its gRPC face: it knows tasks, clocks and pins, but neither protocol
buffers nor `nidaqmx`. Tasks are driven by whoever speaks for the driver; cables
(`drive`, the traces) by whoever simulates what is plugged in. It does not know what a
camera or a laser is.

Time is simulated: cables say when they change, software is stamped by the clock, and
pulses that the board itself makes lie in a queue. Whoever comes next with a later time
finds them done, each at its own time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opm_engine.simulation import board_rules as rules
from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.board_tasks import Kind, State, Task
from opm_engine.simulation.clock import SimClock
from opm_engine.simulation.running import Running

if TYPE_CHECKING:
    from collections.abc import Sequence


class Board(Running):
    """One board, its tasks and the levels of its pins. Thread-safe.

    Parameters
    ----------
    name : str
        Name in NI MAX.
    product : str
        Row of `products.PRODUCTS`.
    clock : SimClock, optional
        Stamps what software does.
    history_s : float
        Simulated seconds that the traces remember.

    Attributes
    ----------
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
            self._queue.run(time_s)
            trace = self._lines[line]
            if level == bool(trace.value):
                return
            now_s = self._stamp(time_s)
            trace.set(level, now_s)
            if line in self._widths_s:
                self._debounce(line, level, time_s)
            else:
                self._see(line, level, time_s, now_s)
            self._queue.run(time_s)  # pulses without a delay

    # ------------------------------------------------------------ what software does

    def current(self, name: str) -> Task:
        """Look a task up as it is now."""
        with self._lock:
            self._queue.run(self._clock.now())
            return self.task(name)

    def start(self, name: str) -> None:
        """Start from sample 0; nothing to do if it runs."""
        with self._lock:
            task = self.task(name)
            if task.state is State.RUNNING:
                return
            task.refuse_start()
            self._reserve(task)
            self._begin(task, self._software_s())

    def stop(self, name: str) -> None:
        """Stop; outputs keep their level. A committed task keeps its resources."""
        with self._lock:
            task = self.current(name)
            error, task.error = task.error, 0
            self._halt(task)
            if error:
                raise BoardError(error)

    def release(self, name: str) -> None:
        """Stop and give all resources back; the task can be started again."""
        with self._lock:
            self.current(name)
            super().release(name)

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
                rules.refuse_volts(samples, self.product)
            if task.clock is not None:
                self._fill(task, samples, auto_start)
                return len(samples)
            if self._locked & set(task.pins):
                raise BoardError(-200678)
            if task.state is not State.RUNNING:
                if not auto_start:
                    raise BoardError(-200846)
                self.start(name)
            now_s = self._software_s()
            traces = self._volts if task.kind is Kind.AO else self._lines
            for sample in samples:
                for pin, value in zip(task.pins, sample, strict=True):
                    traces[pin].set(value, now_s)
            return len(samples)

    def read_levels(self, name: str) -> list[bool]:
        """Levels of a digital task's lines now, as an on-demand read sees them."""
        with self._lock:
            task = self.current(name)
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
            return task.count_at(self._software_s())

    def read_counts(self, name: str, wanted: int) -> list[int]:
        """Take the oldest samples out of a clocked counter's buffer; -1 takes all.

        Raises
        ------
        BoardError
            -200452 if the counter has no clock, -200284 if there are fewer samples
            (nothing is waited for), the task's own error if it has failed.
        """
        with self._lock:
            if self.task(name).clock is None:
                raise BoardError(-200452, "A counter without a sample clock.")
            return self._take(name, wanted)

    def read_volts(self, name: str, wanted: int) -> list[tuple[float, ...]]:
        """Take the oldest samples of analog inputs, one per row; -1 takes all.

        Starts the task if it does not run. Without a clock the inputs are sampled
        now.

        Raises
        ------
        BoardError
            -200284 if there are fewer samples (nothing is waited for), the task's own
            error if it has failed.
        """
        with self._lock:
            task = self.task(name)
            if task.clock is not None:
                return self._take(name, wanted)
            if task.state is not State.RUNNING:
                self._reserve(task)
                self._halt(task)
            now_s = self._software_s()
            return [self._volts_in(task, now_s) for _ in range(abs(wanted))]

    def reset_watchdog(self, name: str) -> None:
        """Start a watchdog's time anew; -200644 if it has expired."""
        with self._lock:
            watchdog = self.watchdog(name)
            if watchdog.expired:
                raise BoardError(-200644)
            if watchdog.due_s is not None:
                self._arm(watchdog, self._software_s())

    def clear_expiration(self, name: str) -> None:
        """Unlock the lines of an expired watchdog; they keep their level.

        The timer stands still until the task is stopped and started.
        """
        with self._lock:
            self.watchdog(name).expired = False
            self._locked.clear()
            self._rewire()

    def reset(self) -> None:
        """Abort every task, outputs to what the product does after a reset."""
        with self._lock:
            now_s = self._software_s()
            for task in self._tasks.values():
                task.committed = False
                task.samples, task.written = [], 0
                self._halt(task)
            self._locked = set()
            for line, trace in self._lines.items():
                if line.startswith("port0/") or line in self.power_up:
                    trace.set(self.power_up.get(line, False), now_s)
            if self.product.ao_zero_on_reset:
                for trace in self._volts.values():
                    trace.set(0.0, now_s)

    def _fill(
        self, task: Task, samples: Sequence[Sequence[float]], auto_start: bool
    ) -> None:
        if task.kind not in (Kind.AO, Kind.DO):
            raise BoardError(-200452, "Nothing to write to.")
        if task.state is State.RUNNING:
            raise BoardError(-200479)
        self.commit(task.name)
        task.put([tuple(sample) for sample in samples])
        if auto_start:
            self.start(task.name)

    def _take(self, name: str, wanted: int) -> list[Any]:
        self.start(name)
        task = self.current(name)
        n_samples = task.waiting if wanted < 0 else wanted
        if n_samples > task.waiting:
            raise BoardError(-200284)
        return [task.unread.popleft() for _ in range(n_samples)]
