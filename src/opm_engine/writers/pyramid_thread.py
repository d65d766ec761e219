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
from contextlib import suppress
from pathlib import Path

from opm_engine.plan import Place
from opm_engine.writers import room
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.pyramid import ImagePyramid
from opm_engine.writers.reading import image_folders

NICENESS = 10
"""By how much frames go before pyramids, where the system lets threads differ."""

logger = logging.getLogger(__name__)


class _AbandonedError(Exception):
    """Nobody wants the levels any more."""


class PyramidThread:
    """Builds the pyramids of a store that is being written, or was just closed.

    Takes volumes as they are completed, at low priority where the system knows such
    threads; may lag behind, and drops nothing. Gives up when the disk is nearly
    full, and gives back what room it took. Once it is told to `finish` or to `abandon`
    the interpreter waits for it before it exits.

    Parameters
    ----------
    store : Path
    n_items : list of int
        Items that make up a volume, of each position.
    """

    def __init__(self, store: Path, n_items: list[int]) -> None:
        self._store = store
        self._n_items = n_items
        self._images: dict[int, ImagePyramid] = {}
        self._came: Counter[Place] = Counter()
        self._volumes: queue.SimpleQueue[Place | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._is_abandoned = False
        self._is_built = False
        self._has_ended = threading.Event()
        self._is_finishing = False
        self._live = self._start(lambda: self._guarded(self._follow), daemon=True)

    def item(self, place: Place) -> None:
        """Hear that an item is on disk; from one thread."""
        volume = place._replace(plane=0)
        self._came[volume] += 1
        if self._came[volume] == self._n_items[place.position]:
            del self._came[volume]
            self._volumes.put(volume)

    def finish(self) -> None:
        """Hear that the store is closed; return at once. What is missing is built."""
        if not self._is_finishing:
            self._is_finishing = True
            self._volumes.put(None)
            self._start(self._end, daemon=False)

    def abandon(self) -> None:
        """Stop after the batch at hand; images without all levels lose those begun."""
        self._is_abandoned = True
        self.finish()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until nothing is built any more, for whatever reason."""
        self._has_ended.wait(timeout_s)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the pyramid is built or abandoned; return whether it is built.

        Raises
        ------
        OSError, ValueError, RuntimeError, MemoryError
            What kept it from being built.
        """
        self.join(timeout_s)
        if self._error is not None:
            raise self._error
        return self._is_built

    def _start(self, work: Callable[[], None], *, daemon: bool) -> threading.Thread:
        thread = threading.Thread(target=work, name="pyramid", daemon=daemon)
        thread.start()
        return thread

    def _end(self) -> None:
        try:
            self._guarded(self._complete)
        finally:
            self._has_ended.set()

    def _guarded(self, work: Callable[[], None]) -> None:
        if sys.platform == "linux":
            # Of this thread alone, and of tensorstore's threads that it starts.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            with suppress(_AbandonedError):
                work()
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            self._fail(error)
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        logger.error("%s gets no pyramid: %r", self._store, error)
        if self._error is None:
            self._error = error

    def _follow(self) -> None:
        try:
            while (volume := self._volumes.get()) is not None:
                self._image(volume.position).add(volume.t, volume.channel)
        except OSError:
            self._clear()  # at once: frames may need the room
            raise

    def _complete(self) -> None:
        if self._is_abandoned:
            self._live.join()
            if not self._images:
                return
        with StoreLock(self._store):
            self._live.join()
            try:
                if self._error is None:
                    self._build()
            finally:
                self._clear()

    def _build(self) -> None:
        for position in range(len(self._n_items)):
            self._image(position).complete()
            del self._images[position]
        self._is_built = True

    def _clear(self) -> None:
        """Leave nothing of levels that nobody lists."""
        while self._images:
            _, image = self._images.popitem()
            image.remove()

    def _check(self) -> None:
        if self._is_abandoned:
            raise _AbandonedError
        largest = max((x.shard_bytes for x in self._images.values()), default=0)
        room.refuse_nearly_full(self._store, largest)

    def _image(self, position: int) -> ImagePyramid:
        self._check()
        if position not in self._images:
            folder = image_folders(self._store)[position]
            self._images[position] = ImagePyramid(folder, self._check)
            self._images[position].begin()
        return self._images[position]
