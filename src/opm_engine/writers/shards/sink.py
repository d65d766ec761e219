"""`Sink`: where pixels go, and what is known of them once they are there.

Separate so that the handler, which knows runs and events, is the same whichever way
pixels take to the disk. Knows nothing of events and metadata.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy.typing as npt

from opm_engine.plan import Place

Codec = Literal["lz4", "zstd", "none"]


class Journal(Protocol):
    """Keeps one line per item; called by the sink, from one thread at a time."""

    def add(self, place: Place, line: bytes) -> None:
        """Append the line (it ends in a newline) of an item that is on disk.

        Raises
        ------
        OSError
            If it cannot be written.
        """


class Sink(Protocol):
    """Writes items of a stream, each once.

    Arrays that are given may be kept by the sink until they are written, so whoever
    gives one never changes it afterwards. ``put`` and ``put_slab`` return at once while
    there is room in the budget, else they wait for the disk. An item is acknowledged
    when its pixels are on disk, in a file that a reader can open, and then its line in
    the journal. All but ``acknowledged`` is called from one thread.
    """

    @property
    def acknowledged(self) -> int:
        """Items that a crash of this process cannot take any more; from any thread."""

    def put(self, place: Place, item: npt.NDArray[Any], line: bytes) -> None:
        """Write a plane (rows, columns) or a whole volume (Z, Y, X).

        Raises
        ------
        OSError
            If this item or an earlier one could not be written.
        """

    def put_slab(
        self,
        place: Place,
        first_row: int,
        slab: npt.NDArray[Any],
        line: bytes | None = None,
    ) -> None:
        """Write rows of a volume (Z, rows, X); with the last slab comes its line.

        Raises
        ------
        OSError
            If this or an earlier slab could not be written.
        """

    def flush(self) -> None:
        """Return when all that was put is on disk.

        Raises
        ------
        OSError
            If some could not be written.
        """

    def close(self) -> None:
        """Write what can be written, and let every file and thread go.

        May be called twice, and after an error.

        Raises
        ------
        OSError
            If some could not be written.
        """
