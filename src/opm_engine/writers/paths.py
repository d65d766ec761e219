"""Where a store may go: numbered runs, what may be replaced, room on the disk.

Separate from writing because all of it is decided before a frame exists. Knows nothing
of what a store holds.
"""

from __future__ import annotations

import errno
import itertools
import re
import shutil
from pathlib import Path

RUN = re.compile(r"\{run(?::(0[1-9]d))?\}")
"""``{run}``, or ``{run:03d}`` with any one digit for the 3."""

COMPRESSION = 4
"""No codec gains more than this on camera counts, whose noise bounds it."""


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
        msg = (
            f"{path} exists: replace it with overwrite=True, or number the runs with "
            "{run:03d} in the path"
        )
        raise FileExistsError(msg)
    if not any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")):
        msg = f"{path} is not a zarr store: overwrite=True will not delete it"
        raise FileExistsError(msg)


def refuse_too_small(path: Path, n_bytes: int, *, compressed: bool) -> None:
    """Check that the disk may hold a store; what it replaces counts as free.

    Parameters
    ----------
    path : Path
        Of the store.
    n_bytes : int
        Of its pixels.
    compressed : bool
        If so, only what no compression could make fit is refused.

    Raises
    ------
    OSError
        ENOSPC, with the numbers.
    """
    there, n_free = _disk(path)
    n_needed = n_bytes // COMPRESSION if compressed else n_bytes
    if n_needed <= n_free:
        return
    old = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if n_needed > n_free + old:
        msg = (
            f"{path} needs {n_bytes / 1e9:.1f} GB"
            + (f" ({n_needed / 1e9:.1f} GB well compressed)" if compressed else "")
            + f", {there} has {(n_free + old) / 1e9:.1f} GB"
        )
        raise OSError(errno.ENOSPC, msg)


def room(path: Path) -> int:
    """Return how many bytes the disk of a path has left."""
    return _disk(path)[1]


def clear(path: Path) -> None:
    """Remove what :func:`refuse_existing` let pass."""
    if path.exists():
        shutil.rmtree(path)


def _disk(path: Path) -> tuple[Path, int]:
    there = next(folder for folder in path.absolute().parents if folder.exists())
    return there, shutil.disk_usage(there).free
