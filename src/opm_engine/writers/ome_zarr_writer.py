r"""`OMEZarrWriter`: the handler that saves a run.

Follows runs and events. Separate from ``saving`` (a store while it is written), ``run``
(what belongs), ``store`` (layout on disk), ``sinks`` (pixels), ``paths`` and
``metadata``, so that it holds nothing but a run's life::

    idle --sequenceStarted--> open --frameReady...--> open --sequenceFinished--> idle
      \--(no block yet)--> waiting --first frameReady--> open
    any error: raised at once, so that light goes off before the disk is waited for;
    ``error`` keeps it, frames raise it until the next sequenceStarted, and what came is
    flushed by sequenceFinished

Knows no microscope: all it needs is in the summary or in a frame's metadata.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy.typing as npt

from opm_engine.buffers import refuse_beyond_memory
from opm_engine.plan import Flag, Inputs, Stream, block_of, is_loose
from opm_engine.writers import paths
from opm_engine.writers.layout import n_bytes
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.metadata import planes_of
from opm_engine.writers.pyramid_thread import PyramidThread
from opm_engine.writers.run import Run
from opm_engine.writers.saving import Pyramid, Saving, Way
from opm_engine.writers.sink import Codec
from opm_engine.writers.sinks import BUDGET_BYTES, Backend
from opm_engine.writers.store import ngff_format

if TYPE_CHECKING:
    import useq

logger = logging.getLogger(__name__)


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
        _refuse_unknown("codec", codec, get_args(Codec))
        _refuse_unknown("pyramid", pyramid, get_args(Pyramid))
        _refuse_unknown("backend", backend, get_args(Backend))
        for name, value in [("shard", shard_bytes), ("budget", budget_bytes)]:
            if value is not None and value < 1:
                msg = f"{name}_bytes must be 1 or more, not {value!r}"
                raise ValueError(msg)
        paths.numbered(path, 0)
        self.error: Exception | None = None
        self._template = path
        self._way = Way(codec, shard_bytes, pyramid, backend, budget_bytes, overwrite)
        self._path = Path(path)
        self._summary: Mapping[str, Any] = {}
        self._is_loose = False
        self._saving: Saving | None = None
        self._pyramid: PyramidThread | None = None
        self._frames_written = 0

    @property
    def path(self) -> Path:
        """Store of the current or last run; before the first, the path as given."""
        return self._path

    @property
    def frames_written(self) -> int:
        """Planes or volumes of the current or last run that are on disk.

        A crash of this process cannot take them any more. Lags behind those that came;
        may be asked from any thread, at any rate.
        """
        saving = self._saving
        return self._frames_written if saving is None else saving.n_written

    def wait_pyramid(self, timeout_s: float | None = None) -> bool:
        """Wait until the last run's levels are built; return whether they are.

        At once, if none were asked for.

        Raises
        ------
        OSError
            If they could not be built; the full size is not concerned.
        """
        return self._pyramid is None or self._pyramid.wait(timeout_s)

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
        stream, block = self._announced(sequence, summary)
        self._free_path(stream, block)
        ngff_format()

    def sequenceStarted(
        self, sequence: useq.MDASequence, summary: Mapping[str, Any]
    ) -> None:
        """Create the store, if it is known already what will come.

        Raises
        ------
        FileExistsError
            If the path is taken.
        OSError
            If the store cannot fit on the disk, or not be created, or somebody writes
            the one that it would replace.
        MemoryError
            If the budget cannot be had.
        ValueError
            If the sequence has a grid.
        """
        if self.error is not None:
            self._close()
            self.error = None
        with self._noting_errors():
            self._close()
            self._frames_written = 0
            self._summary = summary
            self._is_loose = is_loose(sequence)
            stream, block = self._announced(sequence, summary)
            if stream is not None:  # else its first frame tells more
                self._open(stream, block, None if self._is_loose else sequence)

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
        if self._saving is None or self.error is not None:
            return
        with self._noting_errors():
            if isinstance(note, Flag):
                self._saving.notebook.add_flag(note)
            elif isinstance(note, Inputs):
                self._saving.notebook.add_inputs(note)

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

    def _announced(
        self, sequence: useq.MDASequence, summary: Mapping[str, Any]
    ) -> tuple[Stream | None, Mapping[str, Any]]:
        """Return what a run's start says of its frames, and the block."""
        if block := block_of(summary):
            return Stream.model_validate(block["stream"]), block
        if is_loose(sequence):
            return None, {}
        return planes_of(sequence, summary), {}

    def _run_of(self, event: useq.MDAEvent, meta: Mapping[str, Any]) -> Run:
        """Return the open run, or open what the frame announces."""
        block = block_of(meta)
        if self._saving is None:
            if block:
                stream = Stream.model_validate(block["stream"])
                return self._open(stream, block, event.sequence)
            if event.sequence is None:
                msg = "a frame came, but nothing said what frames will come"
                raise ValueError(msg)
            stream = planes_of(event.sequence, self._summary)
            return self._open(stream, {}, event.sequence)
        if block:
            self._saving.run.refuse_change(Stream.model_validate(block["stream"]))
        return self._saving.run

    def _open(
        self,
        stream: Stream,
        block: Mapping[str, Any],
        sequence: useq.MDASequence | None,
    ) -> Run:
        path = self._free_path(stream, block)
        if self._pyramid is not None and path == self._path:
            self._pyramid.abandon()  # of the store that is replaced
            with suppress(OSError, ValueError):
                self._pyramid.wait()
        self._path = path
        if sequence is not None:
            block = {"sequence": _described(sequence), **block}
        self._saving = Saving(
            path,
            stream,
            block,
            self._way,
            sequence,
            is_open_ended=stream.unbounded or self._is_loose,
        )
        self._pyramid = self._saving.pyramid
        if self._saving.is_open_ended:
            self._log_room(stream)
        return self._saving.run

    def _free_path(self, stream: Stream | None, block: Mapping[str, Any]) -> Path:
        """Return where the store may go; refuse a path that is taken or too small."""
        path = paths.resolve(self._template)
        paths.refuse_existing(path, overwrite=self._way.overwrite)
        is_ours = path == self._path and (self._saving or self._pyramid) is not None
        if path.exists() and not is_ours:
            StoreLock(path).release()  # nobody else is at it
        refuse_beyond_memory(self._way.budget_bytes, f"{path} (budget_bytes)")
        if stream is not None:
            compressed = self._way.codec != "none"
            least = paths.least_bytes(
                stream, compressed=compressed, angle_deg=block.get("angle_deg")
            )
            paths.refuse_too_small({path: least}, compressed=compressed)
        return path

    def _log_room(self, stream: Stream) -> None:
        """Tell how long a run may last whose length is not known."""
        room, per_time = paths.room(self._path), n_bytes(stream) / stream.n_times
        more = ", more if they compress well" if self._way.codec != "none" else ""
        logger.info(
            "%s: how many time points will come is not known; there is room for %d%s",
            self._path,
            room / per_time,
            more,
        )

    def _close(self) -> None:
        """Flush and let go; after an error that is told, further ones are not."""
        saving, self._summary = self._saving, {}
        if saving is not None:
            told = () if self.error is None else (OSError,)
            try:
                with suppress(*told):
                    saving.close(is_whole=self.error is None)
            finally:
                self._frames_written = saving.n_written
                self._pyramid = saving.pyramid
                self._saving = None


def _refuse_unknown(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        msg = f"{name} must be one of {', '.join(known)}, not {value!r}"
        raise ValueError(msg)


def _described(sequence: useq.MDASequence) -> dict[str, Any]:
    """Return a sequence as plain JSON that makes an equal one."""
    text = sequence.model_dump_json(exclude_defaults=True, fallback=str)
    described: dict[str, Any] = json.loads(text)
    return described
