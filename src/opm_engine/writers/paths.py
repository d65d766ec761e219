"""Where a store may go: numbered runs, what may be replaced.

Separate from writing because all of it is settled before a frame exists. Knows nothing
of the files that make a store.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from opm_engine.writers.lock import StoreLock

RUN = re.compile(r"\{run(?::(0[1-9]d))?\}")
"""``{run}``, or ``{run:03d}`` with any one digit for the 3."""


def numbered(template: str | Path, run: int) -> Path:
    """Fill in the number of a run: ``{run}`` or, with leading zeros, ``{run:03d}``.

    Raises
    ------
    ValueError
        If the path has other fields, or a stray brace.
    """
    path = RUN.sub(lambda field: format(run, field[1] or ""), str(template))
    if "{" in path or "}" in path:
        msg = (
            f"path {str(template)!r}: {{run}} and {{run:03d}} are all that may stand "
            "in braces"
        )
        raise ValueError(msg)
    return Path(path)


def resolve(template: str | Path) -> Path:
    """Fill in the first number, from 0, for which nothing exists."""
    first = numbered(template, 0)
    if first == numbered(template, 1):
        return first
    candidates = (numbered(template, run) for run in itertools.count())
    return next(path for path in candidates if not path.exists())


def free(template: str | Path, *, overwrite: bool, ours: Path | None = None) -> Path:
    """Return where a store may go, which nobody else writes.

    Parameters
    ----------
    template : str or Path
        See `resolve`.
    overwrite : bool
        See `refuse_existing`.
    ours : Path, optional
        Store that the caller itself is at.

    Raises
    ------
    BlockingIOError
        If somebody else writes what is there.
    FileExistsError
        See `refuse_existing`.
    """
    path = resolve(template)
    refuse_existing(path, overwrite=overwrite)
    if path.exists() and path != ours:
        StoreLock(path).release()
    return path


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Check that ``path`` is free, or a zarr store that may be replaced.

    Raises
    ------
    FileExistsError
        If it exists, unless it is a zarr store and ``overwrite`` is set.
    """
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        msg = f"{path} exists: choose another path, or overwrite it"
        raise FileExistsError(msg)
    if not any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")):
        msg = f"{path} is not a zarr store, which is all that may be overwritten"
        raise FileExistsError(msg)


def make_whole(
    path: Path, make: Callable[[Path], None], *, overwrite: bool
) -> StoreLock:
    """Make a store, which is there all at once or not at all, and lock it.

    It is made in ``.<name>.partial`` beside it, where what it replaces goes too before
    it is removed. Whatever an earlier try left there is removed first.

    Parameters
    ----------
    path : Path
        Of the store.
    make : callable
        Makes it at the path that it is given, where nothing exists.
    overwrite : bool
        See `refuse_existing`.

    Raises
    ------
    FileExistsError
        See `refuse_existing`.
    OSError
        If it cannot be made, or somebody else makes it or writes what it replaces.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    with StoreLock(partial):
        try:
            for name in ("new", "old"):
                clear(partial / name)
            refuse_existing(path, overwrite=overwrite)
            make(partial / "new")
            if path.exists():
                with StoreLock(path):
                    path.rename(partial / "old")
            (partial / "new").rename(path)
            return StoreLock(path)
        finally:  # what cannot be removed now is in the way of nothing
            shutil.rmtree(partial, ignore_errors=True)


def clear(path: Path) -> None:
    """Remove what :func:`refuse_existing` let pass."""
    if path.is_symlink():
        path.unlink()  # what it leads to is not ours
    elif path.exists():
        shutil.rmtree(path)
