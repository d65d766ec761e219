"""`Saving`: a store while it is written: its files, threads and lock.

Separate from the handler, so that all that has to be closed is closed in one place,
whatever failed. Knows nothing of how runs begin and end.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from opm_engine.writers import room
from opm_engine.writers.journal import FrameJournal
from opm_engine.writers.notes import Notebook
from opm_engine.writers.paths import make_whole
from opm_engine.writers.pyramid_thread import PyramidThread
from opm_engine.writers.run import Run
from opm_engine.writers.shards.layout import (
    SHARD_BYTES,
    VOLUME_SHARD_BYTES,
    Layout,
    array_shapes,
    layouts,
)
from opm_engine.writers.shards.sinks import open_sink
from opm_engine.writers.store import MAX_TIMES, Times, array_paths, create_store

if TYPE_CHECKING:
    from opm_engine.writers.announced import Announced
    from opm_engine.writers.way import Way


class Saving:
    """A store from its creation to its end.

    Parameters
    ----------
    path : Path
        Where nothing exists, or what the way says may be replaced.
    announced : Announced
        What will come.
    way : Way

    Attributes
    ----------
    run : Run
        Takes the items.
    notebook : Notebook
        Takes the notes.
    pyramid : PyramidThread or None
        If levels are built.

    Raises
    ------
    OSError
        If the store cannot be created, or somebody else has it.
    """

    def __init__(self, path: Path, announced: Announced, way: Way) -> None:
        stream = announced.stream
        planned = layouts(
            stream,
            way.shard_bytes or SHARD_BYTES,
            way.shard_bytes or VOLUME_SHARD_BYTES,
        )
        create = partial(
            create_store,
            stream=stream,
            block=announced.whole_block(),
            layouts=planned,
            codec=way.codec,
        )
        self._path = path
        self._way = way
        self._n_items = [
            shape[2] if stream.kind == "planes" else 1 for shape in array_shapes(stream)
        ]
        self.pyramid: PyramidThread | None = None
        self._closing = ExitStack()  # the last that is pushed goes first
        self._closing.callback(
            make_whole(path, create, overwrite=way.overwrite).release
        )
        with ExitStack() as failed:
            failed.callback(self._closing.close)
            failed.callback(self._abandon_pyramid)
            self._open(announced, planned)
            if announced.is_open_ended:
                room.log_times(path, stream, compressed=way.is_compressed)
            failed.pop_all()

    def _open(self, announced: Announced, planned: Sequence[Layout]) -> None:
        way, stream = self._way, announced.stream
        arrays = array_paths(self._path, stream)
        times = None
        if announced.is_open_ended:
            times = Times(arrays, stream.n_times)
            planned = [
                replace(layout, shape=(MAX_TIMES, *layout.shape[1:]))
                for layout in planned
            ]
        if way.pyramid == "live":
            self.pyramid = PyramidThread(self._path, self._n_items)
        journal = FrameJournal(
            arrays, self.pyramid.item if self.pyramid else lambda place: None
        )
        self._closing.callback(journal.close)
        self._sink = open_sink(
            arrays,
            planned,
            way.codec,
            journal,
            budget_bytes=way.budget_bytes,
            backend=way.backend,
        )
        self._closing.callback(self._sink.close)
        self.run = Run(stream, self._sink, journal, announced.sequence, times)
        if times is not None:
            least = 1 if stream.unbounded else stream.n_times
            self._closing.callback(lambda: times.cut(max(least, self.run.n_times)))
        self.notebook = Notebook(self._path, stream)

    @property
    def n_written(self) -> int:
        """Items on disk; from any thread."""
        return self._sink.acknowledged

    def close(self, *, is_whole: bool) -> None:
        """Write what can be written, and let go of everything.

        Parameters
        ----------
        is_whole : bool
            Whether nothing failed, so that it is worth a pyramid.

        Raises
        ------
        OSError
            If something could not be written.
        """
        with ExitStack() as failed:
            failed.callback(self._abandon_pyramid)
            self._closing.close()
            if is_whole:
                failed.pop_all()
        if is_whole and self._way.pyramid != "off":
            self.pyramid = self.pyramid or PyramidThread(self._path, self._n_items)
            self.pyramid.finish()

    def _abandon_pyramid(self) -> None:
        if self.pyramid is not None:
            self.pyramid.abandon()
