"""`PyramidThread`: smaller levels behind the back of whoever writes or wrote a store.

Separate from the levels, which know no threads. Knows nothing of pixels.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from opm_engine.plan import Place
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.pyramid import ImagePyramid
from opm_engine.writers.reading import image_folders

NICENESS = 10
"""By how much frames go before pyramids, where the system lets threads differ."""

logger = logging.getLogger(__name__)


class PyramidThread:
    """Builds the pyramids of a store that is being written, or was just closed.

    Takes volumes as they are completed, at low priority where the system knows such
    threads; may lag behind, and drops nothing. Once it is told to `finish` the
    interpreter waits for it before it exits.

    Parameters
    ----------
    store : Path
    n_items : list of int
        Items that make up a volume, of each position.
    """

    def __init__(self, store: Path, n_items: list[int]) -> None:
        self._store = store
        self._folders = image_folders(store)
        self._n_items = n_items
        self._images: dict[int, ImagePyramid] = {}
        self._came: Counter[Place] = Counter()
        self._volumes: queue.SimpleQueue[Place | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._is_abandoned = False
        self._live = self._start(self._follow, daemon=True)
        self._last = self._live

    def item(self, place: Place) -> None:
        """Hear that an item is on disk; from one thread."""
        volume = place._replace(plane=0)
        self._came[volume] += 1
        if self._came[volume] == self._n_items[place.position]:
            del self._came[volume]
            self._volumes.put(volume)

    def finish(self) -> None:
        """Hear that the store is closed; return at once. What is missing is built."""
        self._volumes.put(None)
        self._last = self._start(self._complete, daemon=False)

    def abandon(self) -> None:
        """Stop after the volume at hand: the store keeps its full size alone."""
        self._is_abandoned = True
        self._volumes.put(None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the pyramid is built or abandoned; return whether that is so.

        Raises
        ------
        OSError, ValueError
            What kept it from being built.
        """
        self._last.join(timeout_s)
        if self._error is not None:
            raise self._error
        return not self._last.is_alive()

    def _start(self, work: Callable[[], None], *, daemon: bool) -> threading.Thread:
        thread = threading.Thread(
            target=self._guarded, args=(work,), name="pyramid", daemon=daemon
        )
        thread.start()
        return thread

    def _guarded(self, work: Callable[[], None]) -> None:
        if sys.platform == "linux":
            # Of this thread alone, and of tensorstore's threads that it starts.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            work()
        except (OSError, ValueError) as error:
            self._error = error
            logger.error("%s gets no pyramid: %s", self._store, error)

    def _follow(self) -> None:
        while (volume := self._volumes.get()) is not None and not self._is_abandoned:
            self._image(volume.position).add(volume.t, volume.channel)

    def _complete(self) -> None:
        self._live.join()
        if self._error is None:
            with StoreLock(self._store):
                for position in range(len(self._folders)):
                    self._image(position).complete(lambda: self._is_abandoned)
                    del self._images[position]

    def _image(self, position: int) -> ImagePyramid:
        if position not in self._images:
            self._images[position] = ImagePyramid(self._folders[position])
            self._images[position].begin()
        return self._images[position]
