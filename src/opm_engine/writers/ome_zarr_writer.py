r"""`OMEZarrWriter`: the handler that saves a run.

Follows runs and events. Separate from ``announced`` (what will come), ``keeper`` (one
store after another) and ``run`` (what belongs), so that it holds nothing but a run's
life::

    idle --sequenceStarted--> open --frameReady...--> open --sequenceFinished--> idle
      \--(no block yet)--> waiting --first frameReady--> open
    any error: raised at once, so that light goes off before the disk is waited for;
    ``error`` keeps it, frames raise it until the next sequenceStarted, and what came is
    flushed by sequenceFinished

Knows no microscope: all it needs is in the summary or in a frame's metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from opm_engine.plan import Flag, Inputs, Stream, block_of, is_loose
from opm_engine.writers.announced import Announced
from opm_engine.writers.keeper import StoreKeeper
from opm_engine.writers.run import Run
from opm_engine.writers.shards.sink import Codec
from opm_engine.writers.shards.sinks import BUDGET_BYTES, Backend
from opm_engine.writers.store import ngff_format
from opm_engine.writers.way import Pyramid, Way

if TYPE_CHECKING:
    import useq


class OMEZarrWriter:
    """Saves raw planes or deskewed volumes as OME-Zarr (NGFF 0.5, zarr v3).

    One image per stage position with axes t, c, z, y, x, sharded; all metadata are
    written before the first frame. One object serves many runs, one after another.
    What was never written reads as 0. Nothing that was written is written over.

    Volumes may come whole or as slabs. What is known of each frame is appended to a
    file per image, ``0/frames.jsonl``, once its pixels are on disk; see
    `opm_engine.writers.reading.read_frames`.

    Where the number of time points is not known (a stream that is ``unbounded``, a run
    made from loose events) the time axis grows as they come: the array's metadata are
    replaced by those of an array with twice as many, which read as 0 until they are
    written, and cut to what came when the run ends.

    Parameters
    ----------
    path : str or Path
        Of the store. Missing parent folders are made. ``{run:03d}`` in it becomes the
        first free number, from 0. The store is there at once, with all its metadata.
    overwrite : bool
        Replace a zarr store that exists; nothing else is ever deleted.
    codec : {"lz4", "zstd", "none"}
    shard_bytes : int, optional
        Largest file, uncompressed; 64 MB for planes and 512 MB for volumes by default.
        A shard never spans volumes.
    pyramid : {"off", "live", "close"}
        Whether smaller levels are built, beside the run with a thread of low priority
        or after it. Either way they are complete some time after the run has ended:
        see `wait_pyramid`, which also says what failed. `build_pyramid` adds them to a
        store at any later time.
    backend : {"auto", "append", "tensorstore"}
        How pixels reach the disk: appended to shards, or shard by shard where a file
        system cannot do that.
    budget_bytes : int
        Memory of all that waits for the disk. One item is taken in any case.

    Attributes
    ----------
    error : Exception or None
        First error of the current run, for relays that only log it.

    Raises
    ------
    ValueError
        If there is no such codec, pyramid or backend, a number of bytes is not
        positive, or the path has other fields than ``{run}``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        codec: Codec = "lz4",
        shard_bytes: int | None = None,
        pyramid: Pyramid = "off",
        backend: Backend = "auto",
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        way = Way(codec, shard_bytes, pyramid, backend, budget_bytes, overwrite)
        self.error: Exception | None = None
        self._keeper = StoreKeeper(path, way)
        self._summary: Mapping[str, Any] = {}
        self._is_loose = False

    @property
    def path(self) -> Path:
        """Store of the current or last run; before the first, the path as given."""
        return self._keeper.path

    @property
    def frames_written(self) -> int:
        """Planes or volumes of the current or last run that are on disk.

        A crash of this process cannot take them any more. Lags behind those that came;
        may be asked from any thread, at any rate.
        """
        return self._keeper.n_written

    def wait_pyramid(self, timeout_s: float | None = None) -> bool:
        """Wait until the last run's levels are built; return whether they are.

        At once and true, if none were asked for. A run that failed gets none.

        Raises
        ------
        OSError, ValueError, RuntimeError, MemoryError
            What kept them from being built, as a disk that is nearly full; the full
            size is not concerned.
        """
        return self._keeper.wait_pyramid(timeout_s)

    def checkSequence(
        self, sequence: useq.MDASequence, summary: Mapping[str, Any]
    ) -> None:
        """Refuse a run that could not be saved; creates nothing.

        Raises
        ------
        FileExistsError
            If the path is taken.
        OSError
            If the store cannot fit on the disk, or somebody writes the one that it
            would replace.
        MemoryError
            If the budget cannot be had.
        ValueError
            If the sequence has a grid.
        """
        self._keeper.free_path(Announced.by_start(sequence, summary))
        ngff_format()

    def sequenceStarted(
        self, sequence: useq.MDASequence, summary: Mapping[str, Any]
    ) -> None:
        """Create the store, if it is known already what will come.

        Raises
        ------
        FileExistsError, OSError, MemoryError, ValueError
            See `checkSequence`; also if the store cannot be created.
        """
        if self.error is not None:
            self._close()
            self.error = None
        with self._noting_errors():
            self._keeper.begin()
            self._summary, self._is_loose = summary, is_loose(sequence)
            announced = Announced.by_start(sequence, summary)
            if announced is not None:  # else the first frame tells more
                self._keeper.open(announced)

    def frameReady(
        self, image: npt.NDArray[Any], event: useq.MDAEvent, meta: Mapping[str, Any]
    ) -> None:
        """Save one plane (rows, columns) or volume (Z, Y, X), which is ours to keep.

        Raises
        ------
        ValueError
            If the item does not fit the stream (shape, dtype, index), came before, or
            belongs to another stream or sequence than the run.
        OSError
            If it, or an earlier one, cannot be written.
        """
        with self._noting_errors():
            self._run_of(event, meta).put(image, event, meta)

    def slabReady(
        self,
        slab: npt.NDArray[Any],
        first_row: int,
        event: useq.MDAEvent,
        meta: Mapping[str, Any],
    ) -> None:
        """Save rows of a volume (Z, rows, X), which are ours to keep.

        The volume is told of with the slab that completes it.

        Parameters
        ----------
        slab : ndarray
        first_row : int
            Along Y, a multiple of the stream's ``slab_rows``.
        event : useq.MDAEvent
            Of the volume.
        meta : Mapping

        Raises
        ------
        ValueError
            If the rows do not fit the stream (shape, dtype, index), came before, or
            belong to another stream or sequence than the run.
        OSError
            If they, or earlier ones, cannot be written.
        """
        with self._noting_errors():
            self._run_of(event, meta).put_slab(slab, first_row, event, meta)

    def noteReady(self, note: object) -> None:
        """Keep a flag or analog inputs, at once; harmless without a run.

        Flags are added to the metadata block of their position's image, under
        ``flags``; inputs become rows of the array ``inputs``. `reading` reads both.

        Raises
        ------
        ValueError
            If the note does not belong to the run.
        OSError
            If it cannot be written.
        """
        saving = self._keeper.saving
        if saving is None or self.error is not None:
            return
        with self._noting_errors():
            if isinstance(note, Flag):
                saving.notebook.add_flag(note)
            elif isinstance(note, Inputs):
                saving.notebook.add_inputs(note)

    def sequenceFinished(self, sequence: useq.MDASequence) -> None:
        """Write what is still held; harmless without a run.

        Raises
        ------
        OSError
            If it cannot be written, and no error came before.
        """
        if self.error is not None:
            self._close()
            return
        with self._noting_errors():
            self._close()

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        if self.error is not None:
            raise self.error
        try:
            yield
        except Exception as error:
            self.error = error
            raise

    def _run_of(self, event: useq.MDAEvent, meta: Mapping[str, Any]) -> Run:
        """Return the open run, or open what the frame announces."""
        saving = self._keeper.saving
        if saving is None:
            announced = Announced.by_frame(
                event, meta, self._summary, is_loose=self._is_loose
            )
            return self._keeper.open(announced).run
        if block := block_of(meta):
            saving.run.refuse_change(Stream.model_validate(block["stream"]))
        return saving.run

    def _close(self) -> None:
        """Flush and let go; after an error that is told, further ones are not."""
        self._summary = {}
        self._keeper.close(is_whole=self.error is None)
