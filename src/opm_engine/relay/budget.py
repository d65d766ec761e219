"""`Budget`: how many bytes may wait in all lanes of a tree together, and its lock.

Separate because lanes of different relays share it. Counts memory, not items: an array
that waits in several lanes is there once. Knows no lane.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np


class Memory(NamedTuple):
    """What data take up: the same key means the same bytes."""

    key: Hashable
    n_bytes: int


NOTHING = Memory(None, 0)


def memory_of(data: Any) -> Memory:
    """Say which memory an array, or a tuple of arrays, lies in."""
    if isinstance(data, np.ndarray):
        address = data.__array_interface__["data"][0]
        return Memory((address, data.nbytes), data.nbytes)
    if isinstance(data, tuple):
        parts = [memory_of(part) for part in data]
        n_bytes = sum(part.n_bytes for part in parts)
        return Memory(tuple(part.key for part in parts), n_bytes)
    return Memory(id(data), getattr(data, "nbytes", 0))


def read_only(data: Any) -> Any:
    """Return an array, or a tuple of arrays, that those who share it cannot spoil."""
    if isinstance(data, np.ndarray):
        if data.flags.writeable:
            data = data.view()
            data.setflags(write=False)
        return data
    if isinstance(data, tuple):
        make = getattr(type(data), "_make", type(data))
        return make(map(read_only, data))
    return data


class _Tally:
    """Bytes of distinct memory."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self._n_holders: dict[Hashable, int] = {}

    def added(self, memory: Memory) -> int:
        """Return what the bytes would be with some memory more."""
        return self.n_bytes + memory.n_bytes * (memory.key not in self._n_holders)

    def add(self, memory: Memory) -> None:
        self.n_bytes = self.added(memory)
        self._n_holders[memory.key] = self._n_holders.get(memory.key, 0) + 1

    def remove(self, memory: Memory) -> None:
        self._n_holders[memory.key] -= 1
        if not self._n_holders[memory.key]:
            del self._n_holders[memory.key]
            self.n_bytes -= memory.n_bytes


class Budget:
    """Bounds what waits in the lanes of a tree.

    What only ``latest`` branches hold takes no room from lossless ones, else a display
    that is stuck could hold up the acquisition; for ``latest`` branches everything
    counts.

    Parameters
    ----------
    max_bytes : int

    Attributes
    ----------
    moved : threading.Condition
        For those who wait for a lane: notified when room was made, or a lane's state
        has changed. Its lock is the whole tree's: held briefly, and for each other
        method here.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.RLock()  # a collection may come while it is held
        self.moved = self.condition()
        self._everything = _Tally()
        self._lossless = _Tally()

    def condition(self) -> threading.Condition:
        """Return a new condition on the tree's lock."""
        return threading.Condition(self._lock)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait in all lanes, each array counted once."""
        with self._lock:
            return self._everything.n_bytes

    def has_room(self, memory: Memory, *, lossless: bool) -> bool:
        """Whether more may wait."""
        tally = self._lossless if lossless else self._everything
        return tally.added(memory) <= self.max_bytes

    def add(self, memory: Memory, *, lossless: bool) -> None:
        """Count what begins to wait."""
        self._everything.add(memory)
        if lossless:
            self._lossless.add(memory)

    def remove(self, memory: Memory, *, lossless: bool) -> None:
        """Count off what waits no more."""
        self._everything.remove(memory)
        if lossless:
            self._lossless.remove(memory)
        self.moved.notify_all()
