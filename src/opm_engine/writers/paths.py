"""Where a store may go: numbered runs, what may be replaced, room on the disk.

Separate from writing because all of it is settled before a frame exists. Knows nothing
of the files that make a store.
"""

from __future__ import annotations

import errno
import itertools
import re
import shutil
from collections.abc import Callable, Mapping
from math import radians, tan
from pathlib import Path

from opm_engine.plan import Stream
from opm_engine.writers.layout import n_bytes
from opm_engine.writers.lock import StoreLock

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


def least_bytes(
    stream: Stream, *, compressed: bool, angle_deg: float | None = None
) -> int:
    """Return how much room pixels need; if compressed, what no codec can fall below.

    Parameters
    ----------
    stream : Stream
    compressed : bool
    angle_deg : float, optional
        Between light sheet and coverslip. Voxels of volumes that lie outside the scan
        are 0, and take no room if they are compressed.
    """
    if not compressed:
        return n_bytes(stream)
    lit = 1.0
    if stream.kind == "volumes" and angle_deg is not None:
        (n_z, n_y, _), (z_um, y_um, _) = stream.shape, stream.scale_um
        lit = max(0.0, 1 - n_z * z_um / tan(radians(angle_deg)) / (n_y * y_um))
    return int(n_bytes(stream) * lit) // COMPRESSION


def refuse_too_small(needs: Mapping[Path, int], *, compressed: bool) -> None:
    """Check that the disk may hold stores together; what they replace counts as free.

    Parameters
    ----------
    needs : Mapping
        Path of each store, on one disk: `least_bytes` of its pixels.
    compressed : bool
        Whether that is what is left at best.

    Raises
    ------
    OSError
        ENOSPC, with the numbers.
    """
    n_needed = sum(needs.values())
    there, n_free = _disk(next(iter(needs)))
    if n_needed <= n_free:
        return
    n_free += sum(map(size_of, needs))
    if n_needed > n_free:
        each = " and ".join(f"{path} needs {_amount(n)}" for path, n in needs.items())
        well = ", well compressed" * compressed
        raise OSError(errno.ENOSPC, f"{each}{well}; {there} has {_amount(n_free)}")


def size_of(store: Path) -> int:
    """Bytes of all files of a store; 0 if there is none."""
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())


def room(path: Path) -> int:
    """Return how many bytes the disk of a path has left."""
    return _disk(path)[1]


def clear(path: Path) -> None:
    """Remove what :func:`refuse_existing` let pass."""
    if path.is_symlink():
        path.unlink()  # what it leads to is not ours
    elif path.exists():
        shutil.rmtree(path)


def _amount(size: int) -> str:
    if size < 10e9:
        return f"{size / 1e6:.1f} MB"
    return f"{size / 1e9:.1f} GB"


def _disk(path: Path) -> tuple[Path, int]:
    there = next(folder for folder in path.absolute().parents if folder.exists())
    return there, shutil.disk_usage(there).free
