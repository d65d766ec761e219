"""Memory that goes round: touching fresh pages costs more than most work on them.

Separate, and at the bottom, because whoever makes pixels and whoever writes them use
the same buffers. Knows nothing of what they hold.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

# Shared memory, which is what mmap takes by itself, costs a quarter more to touch.
_PRIVATE: dict[str, int] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
    if hasattr(mmap, "MAP_PRIVATE")
    else {}
)


class BufferPool:
    """Arrays on page boundaries, whose memory is reused once nobody holds them.

    There is no release to forget: an array, and every view made from it, may be kept
    for as long as anyone likes. When the last of them is gone, and not before, its
    memory serves a later `take`.

    Parameters
    ----------
    max_spare_bytes : int
        Memory that is kept for later; what comes back beyond it is freed.
    """

    def __init__(self, max_spare_bytes: int = 2**30) -> None:
        self._max_spare_bytes = max_spare_bytes
        self._lock = threading.RLock()  # a collection may come while it is held
        self._spare: dict[int, list[mmap.mmap]] = {}
        self._spare_bytes = 0

    @property
    def spare_bytes(self) -> int:
        """Memory that is kept for later."""
        return self._spare_bytes

    def keep(self, max_spare_bytes: int) -> None:
        """Change how much is kept for later; what lies beyond it is freed."""
        with self._lock:
            self._max_spare_bytes = max_spare_bytes
            for size, spares in self._spare.items():
                while spares and self._spare_bytes > max_spare_bytes:
                    spares.pop()
                    self._spare_bytes -= size

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array (C order) that nobody else holds; its content is anything."""
        dtype = np.dtype(dtype)
        n_bytes = max(1, prod(shape) * dtype.itemsize)
        size = -(-n_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        with self._lock:
            spares = self._spare.get(size)
            memory = spares.pop() if spares else None
            if memory is not None:
                self._spare_bytes -= size
        if memory is None:
            memory = mmap.mmap(-1, size, **_PRIVATE)
        # Views of `root` keep it alive, as its own base is no array.
        root = np.frombuffer(memory, np.uint8)
        weakref.finalize(root, self._give_back, memory).atexit = False
        return root[: prod(shape) * dtype.itemsize].view(dtype).reshape(shape)

    def _give_back(self, memory: mmap.mmap) -> None:
        size = len(memory)
        with self._lock:
            if self._spare_bytes + size <= self._max_spare_bytes:
                self._spare.setdefault(size, []).append(memory)
                self._spare_bytes += size


def refuse_beyond_memory(n_bytes: int, what: str) -> None:
    """Check that memory can hold what is about to be asked of it.

    Parameters
    ----------
    n_bytes : int
    what : str
        What needs it, for the message.

    Raises
    ------
    MemoryError
        With the numbers.
    """
    available = psutil.virtual_memory().available
    if n_bytes > available:
        msg = (
            f"{what} needs {n_bytes / 1e9:.1f} GB of memory, "
            f"{available / 1e9:.1f} GB are available"
        )
        raise MemoryError(msg)
