"""`EventQueue` and `Train`: what happens later, and pulses at even distances.

Separate because this is all the board knows of the future. Knows no task and no pin:
a train tells one listener of its edges.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class EventQueue:
    """What is due when, in simulated seconds; equal times in the order of adding."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._serial = count()

    @property
    def next_s(self) -> float:
        """When the next event is due; infinity without one."""
        return self._heap[0][0] if self._heap else math.inf

    def add(self, due_s: float, act: Callable[[float], None]) -> None:
        """Call ``act(due_s)`` when time gets there."""
        heappush(self._heap, (due_s, next(self._serial), act))

    def run(self, until_s: float) -> None:
        """Do all that is due, what that adds included."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            due_s, _, act = heappop(heap)
            act(due_s)


class Shape(NamedTuple):
    """Of a train: seconds between pulses, seconds active, pulses (None: no end)."""

    period_s: float
    width_s: float
    n_pulses: int | None


class Train:
    """Pulses after each start, which a counter or a sample clock makes.

    Parameters
    ----------
    queue : EventQueue
    shape : Shape
    tell : callable
        ``(active, time_s)``: what to do at an edge.
    ends_matter : callable
        Whether anyone wants to know when a pulse ends; asked at its begin.
    """

    def __init__(
        self,
        queue: EventQueue,
        shape: Shape,
        tell: Callable[[bool, float], None],
        ends_matter: Callable[[], bool],
    ) -> None:
        self.runs = 0
        self._queue = queue
        self._shape = shape
        self._tell = tell
        self._ends_matter = ends_matter
        self._n_pulses = math.inf if shape.n_pulses is None else shape.n_pulses
        self._first_s = 0.0
        self._index = 0
        self._due_s: float | None = None
        self._paused_s: float | None = None
        self._busy_until_s = -math.inf

    def busy(self, time_s: float) -> bool:
        """Whether an earlier start still makes pulses, so that triggers are ignored."""
        return time_s < self._busy_until_s

    def active(self, time_s: float) -> bool:
        """Whether a pulse is on."""
        begun_s = self._first_s + (self._index - 1) * self._shape.period_s
        return self._index > 0 and time_s < begun_s + self._shape.width_s

    def start(self, time_s: float, delay_s: float) -> None:
        """Begin the first pulse ``delay_s`` after ``time_s``."""
        self.runs += 1
        self._index = 0
        self._first_s = time_s + delay_s
        last_s = self._first_s + (self._n_pulses - 1) * self._shape.period_s
        self._busy_until_s = last_s + self._shape.width_s
        self._schedule()

    def stop(self) -> None:
        """Make no more pulses."""
        self._due_s = self._paused_s = None
        self._busy_until_s = -math.inf

    def pause(self, time_s: float) -> None:
        """Stand still from ``time_s`` on."""
        if self._paused_s is None and self._due_s is not None:
            self._paused_s, self._due_s = time_s, None

    def resume(self, time_s: float) -> None:
        """Go on where `pause` found it."""
        if self._paused_s is None:
            return
        lost_s = time_s - self._paused_s
        self._paused_s = None
        self._first_s += lost_s
        self._busy_until_s += lost_s
        self._schedule()

    def _schedule(self) -> None:
        self._due_s = self._first_s + self._index * self._shape.period_s
        self._queue.add(self._due_s, self._pulse)

    def _pulse(self, due_s: float) -> None:
        if due_s != self._due_s:
            return  # stopped, paused or started anew since it was scheduled
        self._index += 1
        if self._index < self._n_pulses:
            self._schedule()
        else:
            self._due_s = None
        if self._ends_matter():
            self._queue.add(due_s + self._shape.width_s, self._end)
        self._tell(True, due_s)

    def _end(self, due_s: float) -> None:
        self._tell(False, due_s)
