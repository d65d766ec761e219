"""`Waiting`: what waits for a handler, and what has to go when there is no room.

Separate from the lane, which calls the handler: here are the policies. Knows no thread
and no handler. Its caller holds the budget's lock.
"""

from __future__ import annotations

from collections import defaultdict, deque
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from opm_engine.relay.branch import NOTE

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from opm_engine.relay.branch import Policy
    from opm_engine.relay.budget import Budget, Memory

MAX_NOTES = 1000
"""That wait in a branch that does not wait itself; beyond, the oldest goes."""

MAX_VOLUMES = 1000
"""About which a branch remembers whether it takes them."""

CHANNEL_AXES = ("c", "cam")

PARTS = "parts"
"""The line of all parts of volumes; whole frames wait in one for each channel."""

Volume = tuple[tuple[str, int], ...]
"""Sorted index of the volume that something is part of."""

Channel = tuple[int, ...]
"""Index along each of the channel axes."""


def channel_of(index: Mapping[str, int]) -> Channel:
    """Return the channel of a frame with this index."""
    return tuple(index.get(axis, 0) for axis in CHANNEL_AXES)


class Queued(NamedTuple):
    """A frame or a note on its way to the handler's method of that name."""

    method: str
    args: tuple[Any, ...]
    memory: Memory
    arrived_s: float
    volume: Volume | None = None
    channel: Channel = ()


class _Line:
    """What waits in order, and its turns among other lines.

    Numbers count all that came. An item that goes without its turn leaves it to those
    behind it.
    """

    def __init__(self) -> None:
        self.items: deque[tuple[int, Queued]] = deque()
        self.n_bytes = 0
        self._turns: deque[int] = deque()

    @property
    def turn(self) -> int:
        """When the oldest item's turn is."""
        return self._turns[0]

    @property
    def arrival(self) -> int:
        """When the oldest item came."""
        return self.items[0][0]

    def append(self, number: int, item: Queued) -> None:
        self.items.append((number, item))
        self.n_bytes += item.memory.n_bytes
        self._turns.append(number)
        while len(self._turns) > len(self.items):
            self._turns.pop()

    def remove(self, *, in_turn: bool) -> Queued:
        """Remove and return the oldest item."""
        if in_turn:
            self._turns.popleft()
        _, item = self.items.popleft()
        self.n_bytes -= item.memory.n_bytes
        return item


class Waiting:
    """A queue within a budget.

    Items are taken in the order in which they came. In a ``latest`` queue a whole frame
    that has to go leaves its turn to the next of its channel: else, of channels that
    come together, only the first would ever be taken. No frame is taken before a note
    that came before it.

    Parameters
    ----------
    budget : Budget
        Of the whole tree.
    policy : {"lossless", "latest"}
    max_bytes : int, optional
        For this queue alone, and if latest for each channel; by default no limit if
        lossless, one frame of each channel if latest.

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
        self._numbers = count()
        self._lines: defaultdict[Hashable, _Line] = defaultdict(_Line)
        self.n_frames = self.n_bytes = self.peak_bytes = 0
        self.dropped = self.volumes_dropped = 0
        self._volumes: dict[Volume, bool] = {}
        self._point: Volume | None = None
        self._point_fits = False

    def __bool__(self) -> bool:
        return any(line.items for line in self._lines.values())

    def has_room(self, memory: Memory) -> bool:
        """Whether a frame may wait without another having to go.

        Where none waits, one may, whatever waits elsewhere. Else a tree could stand
        still for ever: planes that wait for a deskew use up the budget, the deskew
        waits for room for its volume.
        """
        return not self.n_frames or self._fits(self.n_bytes, memory)

    def offer(self, item: Queued) -> None:
        """Queue an item; one that need not be kept may go, or make others go."""
        line = self._line_of(item)
        if not (self._lossless or self._is_taken(item, line)):
            self.dropped += 1
            return
        line.append(next(self._numbers), item)
        if item.method != NOTE:
            self.n_frames += 1
            self.n_bytes += item.memory.n_bytes
            self.peak_bytes = max(self.peak_bytes, self.n_bytes)
            self._budget.add(item.memory, lossless=self._lossless)

    def take(self) -> Queued:
        """Remove and return the item whose turn it is."""
        lines = [line for line in self._lines.values() if line.items]
        line = min(lines, key=lambda line: line.turn)
        notes = self._lines[NOTE]
        if notes.items and notes.arrival < line.arrival:
            line = notes
        return self._removed(line, in_turn=True)

    def clear(self) -> None:
        """Drop all."""
        self.dropped += self.n_frames
        while self:
            self.take()

    def _line_of(self, item: Queued) -> _Line:
        if self._lossless:
            return self._lines[()]
        if item.method == NOTE:
            return self._lines[NOTE]
        return self._lines[item.channel if item.volume is None else PARTS]

    def _removed(self, line: _Line, *, in_turn: bool) -> Queued:
        item = line.remove(in_turn=in_turn)
        if item.method != NOTE:
            self.n_frames -= 1
            self.n_bytes -= item.memory.n_bytes
            self._budget.remove(item.memory, lossless=self._lossless)
        return item

    def _fits(self, n_bytes: int, memory: Memory) -> bool:
        """Whether there is room beside so many bytes that wait here already."""
        total = n_bytes + memory.n_bytes
        return (self._max_bytes is None or total <= self._max_bytes) and (
            self._budget.has_room(memory, lossless=self._lossless)
        )

    def _is_taken(self, item: Queued, line: _Line) -> bool:
        """Whether a ``latest`` branch takes an item; makes room for it."""
        if item.volume is not None:
            return self._is_of_taken_volume(item.volume, item.memory)
        if item.method == NOTE:
            if len(line.items) == MAX_NOTES:
                self._removed(line, in_turn=True)
            return True
        while line.items and not self._fits(line.n_bytes, item.memory):
            self._removed(line, in_turn=False)
            self.dropped += 1
        return True

    def _is_of_taken_volume(self, volume: Volume, memory: Memory) -> bool:
        """Whether a part of a volume is taken: the volume's first part decides.

        Of several channels the first decides for all: they come interleaved, and if
        each were judged alone, the one that comes first would be the only one shown.
        """
        taken = self._volumes.get(volume)
        if taken is None:
            point = tuple((axis, i) for axis, i in volume if axis not in CHANNEL_AXES)
            if point != self._point:
                self._point, self._point_fits = point, self.has_room(memory)
            taken = self._volumes[volume] = self._point_fits
            self.volumes_dropped += not taken
            if len(self._volumes) > MAX_VOLUMES:
                del self._volumes[next(iter(self._volumes))]
        return taken
