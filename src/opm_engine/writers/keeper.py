"""`StoreKeeper`: the stores of a writer, one per run, one after another.

Separate from the handler, so that what outlives a run is in one place: the path that
was found for it, how much of it is on disk, and its pyramid, that may still be growing
when the next run begins. Knows neither events nor which errors were told.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from opm_engine.writers import paths
from opm_engine.writers.announced import Announced
from opm_engine.writers.pyramid_thread import PyramidThread
from opm_engine.writers.saving import Saving
from opm_engine.writers.way import Way


class StoreKeeper:
    """Opens and closes stores, one at a time.

    Parameters
    ----------
    template : str or Path
        See `paths.numbered`.
    way : Way

    Attributes
    ----------
    path : Path
        Of the current or last store; before the first, the template.
    saving : Saving or None
        The store that is open.

    Raises
    ------
    ValueError
        If the template has other fields than ``{run}``.
    """

    def __init__(self, template: str | Path, way: Way) -> None:
        paths.numbered(template, 0)
        self.path = Path(template)
        self.saving: Saving | None = None
        self._template = template
        self._way = way
        self._pyramid: PyramidThread | None = None
        self._lacks_pyramid = False
        self._n_written = 0

    @property
    def n_written(self) -> int:
        """Items of the current or last run on disk; from any thread."""
        saving = self.saving
        return self._n_written if saving is None else saving.n_written

    def wait_pyramid(self, timeout_s: float | None = None) -> bool:
        """Wait for the levels of the last store; see `OMEZarrWriter.wait_pyramid`."""
        if self._pyramid is None:
            return not self._lacks_pyramid
        return self._pyramid.wait(timeout_s)

    def free_path(self, announced: Announced | None) -> Path:
        """Return where the next store may go.

        Raises
        ------
        FileExistsError
            If the path is taken.
        OSError
            If the store cannot fit on the disk, or somebody writes the one that it
            would replace.
        MemoryError
            If the budget cannot be had.
        """
        is_ours = (self.saving or self._pyramid) is not None
        path = paths.free(
            self._template,
            overwrite=self._way.overwrite,
            ours=self.path if is_ours else None,
        )
        self._way.refuse_too_large(path, announced)
        return path

    def begin(self) -> None:
        """Close what is open: of the next run nothing is on disk.

        Raises
        ------
        OSError
            If something could not be written.
        """
        self.close(is_whole=True)
        self._n_written = 0

    def open(self, announced: Announced) -> Saving:
        """Make the store of a run; a pyramid that still grows in its place is left.

        Raises
        ------
        FileExistsError, OSError, MemoryError
            See `free_path`; also if the store cannot be made.
        """
        path = self.free_path(announced)
        if self._pyramid is not None and path == self.path:
            self._pyramid.abandon()
            self._pyramid.join()
        self.path = path
        self._pyramid = None
        self._lacks_pyramid = self._way.pyramid != "off"
        self.saving = Saving(path, announced, self._way)
        self._pyramid = self.saving.pyramid
        return self.saving

    def close(self, *, is_whole: bool) -> None:
        """Flush and let go; harmless if nothing is open.

        Parameters
        ----------
        is_whole : bool
            Whether nothing failed; else what fails now is not told.

        Raises
        ------
        OSError
            If something could not be written.
        """
        if (saving := self.saving) is None:
            return
        try:
            with suppress(*(() if is_whole else (OSError,))):
                saving.close(is_whole=is_whole)
        finally:
            self._n_written = saving.n_written
            self._pyramid = saving.pyramid
            self.saving = None
