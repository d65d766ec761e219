"""`TaskBook`: the tasks of a board, who holds what, and the faults of its driver.

Separate from `task_setup` and `running` because it knows neither channels nor time: it
creates, commits, releases and forgets.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import TYPE_CHECKING

from opm_engine.simulation import board_rules as rules
from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.board_tasks import State, Task
from opm_engine.simulation.pins import Pins

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
        Stamps what software does.
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
        super().__init__(name, product, clock, history_s)
        self.calls: deque[str] = deque(maxlen=10_000)
        self._tasks: dict[str, Task] = {}
        self._holders: dict[str, Task] = {}
        self._faults: dict[str, list[int]] = {}
        self._unnamed = Counter[str]()
        self._thawed = threading.Event()
        self._thawed.set()
        self._frozen_s: float | None = None

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

    def freeze(self, seconds: float | None = None) -> None:
        """Let every call of the driver block, as a frozen server does.

        Outputs go on playing: hardware does not freeze with the computer.

        Parameters
        ----------
        seconds : float, optional
            How long each call blocks at most; without it until `thaw`.
        """
        self._frozen_s = seconds
        self._thawed.clear()

    def thaw(self) -> None:
        """Let calls through again; those that are blocked are done now."""
        self._thawed.set()

    def called(self, rpc: str) -> None:
        """Record a call of the driver; raise the fault that was planned for it."""
        self._thawed.wait(self._frozen_s)
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

    def holds(self, task: Task) -> bool:
        """Whether the task has reserved what it needs."""
        with self._lock:
            return task in self._holders.values()

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

    def _reserve(self, task: Task) -> None:
        rules.refuse_triggers(task, self.product)
        wanted = rules.resources(task, self.product)
        for resource in wanted:
            holder = self._holders.get(resource, task)
            if holder is not task:
                digital = resource.startswith("port")
                raise BoardError(
                    -200587 if digital else -50103, f"{resource}: {holder.name}"
                )
        self._holders.update(dict.fromkeys(wanted, task))

    def _halt(self, task: Task) -> None:
        task.state = State.COMMITTED if task.committed else State.IDLE
        if not task.committed:
            self._holders = {
                resource: holder
                for resource, holder in self._holders.items()
                if holder is not task
            }
