r"""`OMEZarrWriter`: the handler that saves a run.

Follows runs and events. Separate from ``run`` (what belongs), ``store`` (layout on
disk), ``shards`` (pixels), ``paths`` and ``metadata``, so that it holds nothing but a
run's life::

    idle --sequenceStarted--> open --frameReady...--> open --sequenceFinished--> idle
      \--(no block yet)--> waiting --first frameReady--> open
    any error: what came is flushed, ``error`` keeps it, frames raise it until the next
    sequenceStarted

Knows no microscope: all it needs is in the summary or in a frame's metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from opm_engine.plan import Flag, Inputs, Stream, block_of, is_loose
from opm_engine.writers import paths
from opm_engine.writers.metadata import planes_of
from opm_engine.writers.notes import Notebook
from opm_engine.writers.run import Run
from opm_engine.writers.shards import (
    SHARD_BYTES,
    PlaneShards,
    VolumeShards,
    n_bytes,
    planes_per_shard,
)
from opm_engine.writers.store import COMPRESSORS, Codec, create_store

if TYPE_CHECKING:
    import useq


class OMEZarrWriter:
    """Saves raw planes or deskewed volumes as OME-Zarr (NGFF 0.5, zarr v3).

    One image per stage position with axes t, c, z, y, x, sharded; all metadata are
    written before the first frame. One object serves many runs, one after another.
    What was never written reads as 0. Nothing that was written is written over.

    Parameters
    ----------
    path : str or Path
        Of the store. Missing parent folders are made. ``{run:03d}`` in it becomes the
        first free number, from 0.
    overwrite : bool
        Replace a zarr store that exists; nothing else is ever deleted.
    codec : {"lz4", "zstd", "none"}
    shard_bytes : int
        Largest file, uncompressed. A shard never spans volumes.

    Attributes
    ----------
    error : Exception or None
        First error of the current run, for relays that only log it.

    Raises
    ------
    ValueError
        If there is no such codec, ``shard_bytes`` is not positive, or the path has
        other fields than ``{run}``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        codec: Codec = "lz4",
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        if codec not in COMPRESSORS:
            msg = f"codec must be one of {', '.join(COMPRESSORS)}, not {codec!r}"
            raise ValueError(msg)
        if shard_bytes < 1:
            msg = f"shard_bytes must be 1 or more, not {shard_bytes!r}"
            raise ValueError(msg)
        paths.numbered(path, 0)
        self.error: Exception | None = None
        self._template = path
        self._overwrite = overwrite
        self._codec: Codec = codec
        self._shard_bytes = shard_bytes
        self._path = Path(path)
        self._summary: Mapping[str, Any] = {}
        self._run: Run | None = None
        self._notebook: Notebook | None = None
        self._frames_written = 0

    @property
    def path(self) -> Path:
        """Store of the current or last run; before the first, the path as given."""
        return self._path

    @property
    def frames_written(self) -> int:
        """Items of the current or last run that reached the disk.

        Lags behind the frames that came while a shard fills.
        """
        return self._frames_written

    def checkSequence(
        self, sequence: useq.MDASequence, summary: Mapping[str, Any]
    ) -> None:
        """Refuse a run that could not be saved; creates nothing.

        Raises
        ------
        FileExistsError
            If the path is taken.
        OSError
            If the store cannot fit on the disk.
        ValueError
            If the sequence has a grid.
        """
        stream, _ = self._announced(sequence, summary)
        self._free_path(stream)

    def sequenceStarted(
        self, sequence: useq.MDASequence, summary: Mapping[str, Any]
    ) -> None:
        """Create the store, if it is known already what will come.

        Raises
        ------
        FileExistsError
            If the path is taken.
        OSError
            If the store cannot fit on the disk, or not be created.
        ValueError
            If the sequence has a grid.
        """
        self.error = None
        with self._noting_errors():
            self._close()
            self._frames_written = 0
            self._summary = summary
            stream, block = self._announced(sequence, summary)
            if stream is not None:  # else its first frame tells more
                self._open(stream, block, None if is_loose(sequence) else sequence)

    def frameReady(
        self, image: npt.NDArray[Any], event: useq.MDAEvent, meta: Mapping[str, Any]
    ) -> None:
        """Save one plane (rows, columns) or volume (Z, Y, X); the caller keeps it.

        Raises
        ------
        ValueError
            If the item does not fit the stream (shape, dtype, index), came before, or
            belongs to another stream or sequence than the run.
        OSError
            If it cannot be written.
        """
        with self._noting_errors():
            self._frames_written += self._run_of(event, meta).put(image, event)

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
        if self._notebook is None:
            return
        with self._noting_errors():
            if isinstance(note, Flag):
                self._notebook.add_flag(note)
            elif isinstance(note, Inputs):
                self._notebook.add_inputs(note)

    def sequenceFinished(self, sequence: useq.MDASequence) -> None:
        """Write what is still held; harmless without a run.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        if self.error is None:
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
            with suppress(OSError):
                self._close()
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
        if self._run is None:
            if block:
                stream = Stream.model_validate(block["stream"])
                return self._open(stream, block, event.sequence)
            if event.sequence is None:
                msg = "a frame came, but nothing said what frames will come"
                raise ValueError(msg)
            stream = planes_of(event.sequence, self._summary)
            return self._open(stream, {}, event.sequence)
        if block:
            self._run.refuse_change(Stream.model_validate(block["stream"]))
        return self._run

    def _open(
        self,
        stream: Stream,
        block: Mapping[str, Any],
        sequence: useq.MDASequence | None,
    ) -> Run:
        path = self._free_path(stream)
        paths.clear(path)
        self._path = path
        depth = planes_per_shard(stream, self._shard_bytes)
        arrays = create_store(path, stream, block, depth, self._codec)
        shards = PlaneShards if stream.kind == "planes" else VolumeShards
        self._run = Run(stream, shards(arrays, stream, depth), sequence)
        self._notebook = Notebook(path, stream)
        return self._run

    def _free_path(self, stream: Stream | None) -> Path:
        """Return where the store may go; refuse a path that is taken or too small."""
        path = paths.resolve(self._template)
        paths.refuse_existing(path, overwrite=self._overwrite)
        if stream is not None:
            compressed = self._codec != "none"
            paths.refuse_too_small(path, n_bytes(stream), compressed=compressed)
        return path

    def _close(self) -> None:
        run, self._run, self._notebook = self._run, None, None
        self._summary = {}
        if run is not None:
            self._frames_written += run.flush()
