"""`Run`: which items belong to an open run, and which do not.

Separate from the handler, which opens and closes runs, and from the shards, which take
whatever index they are given. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from opm_engine.plan import Place, Stream
from opm_engine.writers.shards import PlaneShards, VolumeShards, array_shapes

if TYPE_CHECKING:
    import useq


class Run:
    """Passes on what belongs to a run, each item once, and refuses the rest.

    Parameters
    ----------
    stream : Stream
        What will come.
    shards : PlaneShards or VolumeShards
        Where it goes.
    sequence : useq.MDASequence, optional
        Whose stream it is; None if that is not known.
    """

    def __init__(
        self,
        stream: Stream,
        shards: PlaneShards | VolumeShards,
        sequence: useq.MDASequence | None,
    ) -> None:
        self._stream = stream
        self._shards = shards
        self._sequence = sequence
        self._has_planes = stream.kind == "planes"  # a volume's z says nothing
        self._n_z = [shape[2] for shape in array_shapes(stream)]
        n_planes = max(self._n_z) if self._has_planes else 1
        n_channels = len(stream.channels)
        shape = stream.n_times, len(stream.positions), n_channels, n_planes
        self._came = np.zeros(shape, bool)

    def put(self, image: npt.NDArray[Any], event: useq.MDAEvent) -> int:
        """Write a plane or volume; return how many items reached the disk.

        Raises
        ------
        ValueError
            If it is not the run's, does not fit, or came before.
        OSError
            If it cannot be written.
        """
        self._refuse_misfit(image)
        self._refuse_stranger(event)
        place = self._place_of(event.index)
        if self._came[place]:
            what = self._stream.kind.removesuffix("s")
            where = self._named(event.index)
            msg = f"{what} {where} came twice; save it in a run of its own"
            raise ValueError(msg)
        self._came[place] = True
        return self._shards.put(place, image)

    def flush(self) -> int:
        """Write what is held back; return how many items reached the disk."""
        return self._shards.flush()

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

    def _refuse_misfit(self, image: npt.NDArray[Any]) -> None:
        stream = self._stream
        if image.shape != stream.shape or image.dtype != np.dtype(stream.dtype):
            msg = (
                f"expected {stream.dtype} {stream.shape}, "
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

    def _place_of(self, index: Mapping[str, int]) -> Place:
        """Return where an event's item belongs; an axis that it lacks is 0."""
        try:
            place = self._stream.place(index)
        except IndexError as error:
            raise ValueError(str(error)) from error
        stream = self._stream
        sizes = {
            "t": stream.n_times,
            "c": len(stream.channels) // stream.n_cameras,
            "cam": stream.n_cameras,
        }
        if self._has_planes:
            sizes["z"] = self._n_z[place.position]
        else:
            place = place._replace(plane=0)
        for axis, size in sizes.items():
            if not 0 <= index.get(axis, 0) < size:
                msg = f"{axis} = {index[axis]} lies outside the {size} planned"
                raise ValueError(msg)
        return place

    def _named(self, index: Mapping[str, int]) -> str:
        axes = {**dict.fromkeys("ptcz", 0), **index}
        if not self._has_planes:
            del axes["z"]
        return ", ".join(f"{axis}={i}" for axis, i in axes.items())
