"""`Run`: which items belong to an open run, and which do not.

Separate from the handler, which opens and closes runs, and from the sink, which takes
whatever place it is given. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from opm_engine.plan import Place, Stream
from opm_engine.writers.journal import FrameJournal
from opm_engine.writers.shards.layout import array_shapes
from opm_engine.writers.shards.sink import Sink
from opm_engine.writers.store import MAX_TIMES, Times

if TYPE_CHECKING:
    import useq

Index = dict[str, int]
Pixels = npt.NDArray[Any]


class Run:
    """Passes on what belongs to a run, each item once, and refuses the rest.

    Parameters
    ----------
    stream : Stream
        What will come.
    sink : Sink
        Where its pixels go.
    journal : FrameJournal
        Where it is told of each item.
    sequence : useq.MDASequence, optional
        Whose stream it is; None if that is not known.
    times : Times, optional
        Grows with the time points that come; None if all are planned.
    """

    def __init__(
        self,
        stream: Stream,
        sink: Sink,
        journal: FrameJournal,
        sequence: useq.MDASequence | None,
        times: Times | None = None,
    ) -> None:
        self._stream = stream
        self._sink = sink
        self._journal = journal
        self._sequence = sequence
        self._times = times
        self._has_planes = stream.kind == "planes"  # a volume's z says nothing
        self._dtype = np.dtype(stream.dtype)
        self._n_z = [shape[2] for shape in array_shapes(stream)]
        n_planes = max(self._n_z) if self._has_planes else 1
        n_channels = len(stream.channels)
        shape = stream.n_times, len(stream.positions), n_channels, n_planes
        self._came = np.zeros(shape, bool)
        self._sizes = {
            "t": stream.n_times if times is None else MAX_TIMES,
            "c": n_channels // stream.n_cameras,
            "cam": stream.n_cameras,
        }
        self._rows: dict[Place, npt.NDArray[np.bool_]] = {}
        self._n_times = 0

    @property
    def n_times(self) -> int:
        """Time points up to the last of which something came."""
        return self._n_times

    def put(self, image: Pixels, event: useq.MDAEvent, meta: Mapping[str, Any]) -> None:
        """Write a plane or volume.

        Raises
        ------
        ValueError
            If it is not the run's, does not fit, or came before.
        OSError
            If it, or an earlier one, cannot be written.
        """
        self._refuse_misfit(image, self._stream.shape)
        place, index = self._take(event)
        if place in self._rows:
            raise self._twice(index)
        self._came[place] = True
        line = self._journal.line(place.position, index, event, meta)
        self._sink.put(place, image, line)

    def put_slab(
        self,
        slab: Pixels,
        first_row: int,
        event: useq.MDAEvent,
        meta: Mapping[str, Any],
    ) -> None:
        """Write rows of a volume, from ``first_row`` on.

        Raises
        ------
        ValueError
            If they are not the run's, do not fit, or came before.
        OSError
            If they, or earlier ones, cannot be written.
        """
        if self._has_planes:
            msg = "slabs came, but the run announced planes: it has no volumes"
            raise ValueError(msg)
        n_z, n_y, n_x = self._stream.shape
        n_rows = slab.shape[1]
        self._refuse_misfit(slab, (n_z, n_rows, n_x))
        here, rows = slice(first_row, first_row + n_rows), f"rows {first_row} to "
        rows += f"{first_row + n_rows - 1}"
        if not 0 <= first_row < first_row + n_rows <= n_y:
            msg = f"{rows} lie outside the {n_y} of a volume"
            raise ValueError(msg)
        place, index = self._take(event)
        came = self._rows.setdefault(place, np.zeros(n_y, bool))
        if came[here].any():
            raise self._twice(index, f" {rows}")
        came[here] = True
        line = None
        if came.all():
            del self._rows[place]
            self._came[place] = True
            line = self._journal.line(place.position, index, event, meta)
        self._sink.put_slab(place, first_row, slab, line)

    def refuse_change(self, stream: Stream) -> None:
        """Check that a later burst announces what the run was opened with.

        Raises
        ------
        ValueError
            Names what changed.
        """
        changed = [
            name
            for name in Stream.model_fields
            if getattr(self._stream, name) != getattr(stream, name)
        ]
        if changed:
            msg = (
                f"the frames changed within the run ({', '.join(changed)}); save them "
                "in a run of their own"
            )
            raise ValueError(msg)

    def _take(self, event: useq.MDAEvent) -> tuple[Place, Index]:
        """Return where an event's item belongs, which has room and did not come yet."""
        self._refuse_stranger(event)
        index = dict(event.index)
        place = self._place_of(index)
        if place.t >= len(self._came):
            self._grow(place.t)
        if self._times is not None:
            self._times.reach(place.position, place.t)
        if self._came[place]:
            raise self._twice(index)
        self._n_times = max(self._n_times, place.t + 1)
        return place, index

    def _grow(self, t: int) -> None:
        more = np.zeros((max(len(self._came), t + 1), *self._came.shape[1:]), bool)
        self._came = np.concatenate((self._came, more))

    def _refuse_misfit(self, image: Pixels, shape: tuple[int, ...]) -> None:
        if image.shape != shape or image.dtype != self._dtype:
            msg = (
                f"expected {self._stream.dtype} {shape}, "
                f"got {image.dtype} {tuple(image.shape)}"
            )
            raise ValueError(msg)

    def _refuse_stranger(self, event: useq.MDAEvent) -> None:
        """Refuse an item of another sequence, or of none: its place is not planned."""
        if event.sequence is None:
            strange = not event.index and self._came.size > 1
        else:
            if self._sequence is None:
                self._sequence = event.sequence
            # Most are the same object, which spares comparing.
            owner = self._sequence
            strange = event.sequence is not owner and event.sequence != owner
        if strange:
            msg = (
                f"a frame with index {dict(event.index)} is not of the run's sequence; "
                "save it in a run of its own"
            )
            raise ValueError(msg)

    def _place_of(self, index: Index) -> Place:
        """Return where an event's item belongs; an axis that it lacks is 0."""
        try:
            place = self._stream.place(index)
        except IndexError as error:
            raise ValueError(str(error)) from error
        if self._has_planes:
            self._refuse_outside("z", place.plane, self._n_z[place.position])
        else:
            place = place._replace(plane=0)
        for axis, size in self._sizes.items():
            self._refuse_outside(axis, index.get(axis, 0), size)
        return place

    def _refuse_outside(self, axis: str, number: int, size: int) -> None:
        if not 0 <= number < size:
            msg = f"{axis} = {number} lies outside the {size} planned"
            raise ValueError(msg)

    def _twice(self, index: Index, what: str = "") -> ValueError:
        axes = {**dict.fromkeys("ptcz", 0), **index}
        if not self._has_planes:
            del axes["z"]
        kind = self._stream.kind.removesuffix("s")
        where = ", ".join(f"{axis}={i}" for axis, i in axes.items())
        return ValueError(
            f"{kind} {where}{what} came twice; save it in a run of its own"
        )
