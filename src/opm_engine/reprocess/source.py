"""Which volumes a stored run has, and their planes in order, gaps and all.

Separate from the work, which turns planes into volumes. Knows no files but through
`StoredPlanes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from opm_engine.plan import Place
from opm_engine.processing.volume import mixed

if TYPE_CHECKING:
    from opm_engine.plan import Stream
    from opm_engine.writers.planes import StoredPlanes

Plane = NDArray[np.uint16]


def volumes_of(stored: StoredPlanes) -> Iterator[tuple[Place, tuple[int, ...]]]:
    """Yield the place of each volume that has a plane, and the planes that it lacks."""
    stream = stored.stream
    n_positions, n_channels = len(stream.positions), len(stream.channels)
    numbers = product(range(stream.n_times), range(n_positions), range(n_channels))
    for place in (Place(*where, 0) for where in numbers):
        present = stored.present(place)
        if present.any():
            yield place, tuple(np.flatnonzero(~present).tolist())


def index_of(stream: Stream, place: Place) -> dict[str, int]:
    """Return the index of a volume's events."""
    site = stream.positions[place.position]
    channel, camera = divmod(place.channel, stream.n_cameras)
    index = {"t": place.t, "p": site.p, "c": channel}
    if site.g:
        index["g"] = site.g
    if stream.n_cameras > 1:
        index["cam"] = camera
    return index


def planes_of(
    stored: StoredPlanes,
    place: Place,
    numbers: range,
    *,
    interpolate: bool,
    ahead_bytes: int,
) -> Iterator[Plane | None]:
    """Yield planes of one volume, (rows, columns), as they were taken.

    Parameters
    ----------
    stored : StoredPlanes
    place : Place
        Of the volume.
    numbers : range
        Which ones.
    interpolate : bool
        Put the mean of the planes around it, weighted by distance, for one that is
        missing between two that are not, just as the live deskew does.
    ahead_bytes : int
        Of planes that are read before they are needed.

    Yields
    ------
    ndarray or None
        None for a plane that is missing.
    """
    present = np.flatnonzero(stored.present(place))
    if interpolate:
        present = _with_neighbours(present, numbers)
    else:
        present = present[(present >= numbers.start) & (present < numbers.stop)]
    places = (place._replace(plane=int(n)) for n in present)
    last: Plane | None = None
    before, due = -1, numbers.start
    for after, plane in zip(
        present.tolist(), stored.read(places, ahead_bytes), strict=True
    ):
        assert plane is not None
        for lost in range(due, min(after, numbers.stop)):
            if interpolate and last is not None:
                yield mixed(last, plane, (lost - before) / (after - before))
            else:
                yield None
        if after in numbers:
            yield plane
        last, before, due = plane, after, max(due, after + 1)
    for _ in range(due, numbers.stop):
        yield None


def _with_neighbours(present: NDArray[Any], numbers: range) -> NDArray[Any]:
    """Return those of some numbers, and the nearest beyond either end that is open."""
    first = int(np.searchsorted(present, numbers.start, side="right")) - 1
    last = int(np.searchsorted(present, numbers.stop - 1))
    return present[max(first, 0) : last + 1]
