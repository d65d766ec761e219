"""Maximum projections of volumes, and the handler that keeps the latest.

Separate from the deskew because any volume can be projected; the deskew only offers
projections that it made on the way. Does not know how they are drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opm_engine.buffers import BufferPool
from opm_engine.plan import Stream, block_of

if TYPE_CHECKING:
    import useq


class MaxProjections(NamedTuple):
    """Maximum projections of one volume (Z, Y, X), in its dtype.

    Attributes
    ----------
    xy : (Y, X)
        Seen along Z.
    xz : (Z, X)
        Seen along Y.
    yz : (Z, Y)
        Seen along X.
    """

    xy: NDArray[Any]
    xz: NDArray[Any]
    yz: NDArray[Any]

    @classmethod
    def dark(cls, shape: tuple[int, int, int], pool: BufferPool) -> MaxProjections:
        """Return the projections of a dark uint16 volume of a shape (Z, Y, X)."""
        z, y, x = shape
        projections = cls(
            *(pool.take(plane, np.uint16) for plane in ((y, x), (z, x), (z, y)))
        )
        for projection in projections:
            projection.fill(0)
        return projections


def max_projections(volume: NDArray[Any]) -> MaxProjections:
    """Project a volume along each of its axes.

    Parameters
    ----------
    volume : (Z, Y, X) array

    Returns
    -------
    MaxProjections
        xy (Y, X), xz (Z, X), yz (Z, Y).

    Raises
    ------
    ValueError
        If ``volume`` has not three dimensions, or is empty.
    """
    if volume.ndim != 3 or volume.size == 0:
        msg = f"volume must be (Z, Y, X) and not empty, not of shape {volume.shape}"
        raise ValueError(msg)
    return MaxProjections(*(volume.max(axis=axis) for axis in range(3)))


class Projections:
    """Keeps the latest projections of each position and channel.

    A handler of volumes, for the outputs of a :class:`Deskew`, which then projects
    on the way instead of reading each volume again.

    Attributes
    ----------
    latest : dict
        (position, channel) number to :class:`MaxProjections`, of the current or last
        run. Replaced, never changed, so another thread may read it at any time.
    """

    def __init__(self) -> None:
        self.latest: dict[tuple[int, int], MaxProjections] = {}
        self._stream: Stream | None = None

    def sequenceStarted(
        self, sequence: useq.MDASequence, summary: dict[str, Any]
    ) -> None:
        """Forget the run before."""
        block = block_of(summary)
        self._stream = Stream.model_validate(block["stream"]) if block else None
        self.latest = {}

    def frameReady(
        self, volume: NDArray[Any], event: useq.MDAEvent, meta: dict[str, Any]
    ) -> None:
        """Project a volume (Z, Y, X)."""
        self.projectionsReady(max_projections(volume), event, meta)

    def projectionsReady(
        self, projections: MaxProjections, event: useq.MDAEvent, meta: dict[str, Any]
    ) -> None:
        """Keep the projections of a volume; called instead of ``frameReady``."""
        if self._stream is None:
            key = event.index.get("p", 0), event.index.get("c", 0)
        else:
            place = self._stream.place(event.index)
            key = place.position, place.channel
        self.latest = {**self.latest, key: projections}
