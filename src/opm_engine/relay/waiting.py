"""`Waiting`: what waits for a handler, and what has to go when there is no room.

Separate from the lane, which calls the handler: here are the policies. Knows no thread
and no handler. Its caller holds the budget's lock.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from opm_engine.relay.branch import NOTE

if TYPE_CHECKING:
    from opm_engine.relay.branch import Policy
    from opm_engine.relay.budget import Budget, Memory

MAX_NOTES = 1000
"""That wait in a branch that does not wait itself; beyond, the oldest goes."""

MAX_VOLUMES = 1000
"""About which a branch remembers whether it takes them."""

Volume = tuple[tuple[str, int], ...]
"""Sorted index of the volume that something is part of."""


class Item(NamedTuple):
    """A frame or a note on its way to the handler's method of that name."""

    method: str
    args: tuple[Any, ...]
    memory: Memory
    arrived_s: float
    volume: Volume | None = None


class Waiting:
    """A queue within a budget.

    Parameters
    ----------
    budget : Budget
        Of the whole tree.
    policy : {"lossless", "latest"}
    max_bytes : int, optional
        For this queue alone; by default no limit if lossless, one frame if latest.

    Attributes
    ----------
    n_frames, n_bytes, peak_bytes : int
        What waits, notes aside, and the most that did.
    dropped, volumes_dropped : int
        Frames that had to go, and volumes that were skipped.
    """

    def __init__(self, budget: Budget, policy: Policy, max_bytes: int | None) -> None:
        self._budget = budget
        self._lossless = policy == "lossless"
        self._max_bytes = max_bytes if max_bytes is not None or self._lossless else 0
        self._items: deque[Item] = deque()
        self.n_frames = self.n_bytes = self.peak_bytes = 0
        self.dropped = self.volumes_dropped = 0
        self._volumes: dict[Volume, bool] = {}
        self._point: Volume | None = None
        self._point_fits = False

    def __bool__(self) -> bool:
        return bool(self._items)

    def has_room(self, memory: Memory) -> bool:
        """Whether a frame may wait without another having to go.

        Where none waits, one may, whatever waits elsewhere. Else a tree could stand
        still for ever: planes that wait for a deskew use up the budget, the deskew
        waits for room for its volume.
        """
        if not self.n_frames:
            return True
        total = self.n_bytes + memory.n_bytes
        return (self._max_bytes is None or total <= self._max_bytes) and (
            self._budget.has_room(memory, lossless=self._lossless)
        )

    def offer(self, item: Item) -> None:
        """Queue an item; one that need not be kept may go, or make others go."""
        if item.method == NOTE:
            self._bound_notes()
        elif not (self._lossless or self._is_taken(item)):
            self.dropped += 1
            return
        self._items.append(item)
        if item.method != NOTE:
            self.n_frames += 1
            self.n_bytes += item.memory.n_bytes
            self.peak_bytes = max(self.peak_bytes, self.n_bytes)
            self._budget.add(item.memory, lossless=self._lossless)

    def take(self, number: int = 0) -> Item:
        """Remove and return the oldest item, or one behind it."""
        item = self._items[number]
        del self._items[number]
        if item.method != NOTE:
            self.n_frames -= 1
            self.n_bytes -= item.memory.n_bytes
            self._budget.remove(item.memory, lossless=self._lossless)
        return item

    def clear(self) -> None:
        """Drop all."""
        self.dropped += self.n_frames
        while self._items:
            self.take()

    def _is_taken(self, item: Item) -> bool:
        """Whether a ``latest`` branch takes a frame; makes room for it."""
        if item.volume is not None:
            return self._is_of_taken_volume(item.volume, item.memory)
        while not self.has_room(item.memory):
            whole = (
                number
                for number, other in enumerate(self._items)
                if other.method != NOTE and other.volume is None
            )
            oldest = next(whole, None)
            if oldest is None:  # nothing but parts of volumes that have begun
                return False
            self.take(oldest)
            self.dropped += 1
        return True

    def _is_of_taken_volume(self, volume: Volume, memory: Memory) -> bool:
        """Whether a part of a volume is taken: the volume's first part decides.

        Of several channels the first decides for all: they come interleaved, and if
        each were judged alone, the one that comes first would be the only one shown.
        """
        taken = self._volumes.get(volume)
        if taken is None:
            point = tuple((axis, i) for axis, i in volume if axis not in ("c", "cam"))
            if point != self._point:
                self._point, self._point_fits = point, self.has_room(memory)
            taken = self._volumes[volume] = self._point_fits
            self.volumes_dropped += not taken
            if len(self._volumes) > MAX_VOLUMES:
                del self._volumes[next(iter(self._volumes))]
        return taken

    def _bound_notes(self) -> None:
        if self._lossless or len(self._items) - self.n_frames < MAX_NOTES:
            return
        notes = (n for n, item in enumerate(self._items) if item.method == NOTE)
        self.take(next(notes))
