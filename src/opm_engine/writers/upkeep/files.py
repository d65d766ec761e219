"""The files of a store, and which of them are shards, by their names alone.

Separate from the inventory, which opens them, because lost metadata are made again from
shards that no metadata tell of.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

from opm_engine.writers.shards.layout import ShardKey

UNFINISHED = (".new", ".partial", ".__lock")
"""Endings of files that have another name once they are complete."""

TORN = ".torn"
"""Behind the name of a file: what was cut off it, or all of it."""


class File(NamedTuple):
    """A file somewhere in a store."""

    path: Path
    n_bytes: int


class StoredShard(NamedTuple):
    """A file of chunks: its place in the grid, where it lies, and its size."""

    key: ShardKey
    path: Path
    n_bytes: int


def all_files(folder: Path) -> Iterator[File]:
    """Find every file below a folder; links that lead nowhere have 0 bytes."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from all_files(Path(entry.path))
                continue
            try:
                n_bytes = entry.stat().st_size
            except FileNotFoundError:
                if not entry.is_symlink():
                    continue  # it got its other name this moment
                n_bytes = 0
            yield File(Path(entry.path), n_bytes)


def shards_of(store: Path, files: Iterable[File]) -> dict[Path, list[StoredShard]]:
    """Sort those files that are shards by the folder of their array."""
    found = defaultdict(list)
    for path, n_bytes in files:
        parts = path.relative_to(store).parts
        if parts[-6:-5] == ("c",) and all(part.isdecimal() for part in parts[-5:]):
            t, c, z, y, x = map(int, parts[-5:])
            array = store.joinpath(*parts[:-6])
            found[array].append(StoredShard((t, c, z, y, x), path, n_bytes))
    return found


def free_name(path: Path) -> Path:
    """Return the name for what is kept of a file; nothing has it yet."""
    names = (f"{path.name}{TORN}{number or ''}" for number in count())
    paths = (path.with_name(name) for name in names)
    return next(path for path in paths if not os.path.lexists(path))


def set_aside(path: Path) -> Path:
    """Rename what cannot be read, and return its new name.

    Raises
    ------
    OSError
        If it cannot be renamed.
    """
    return path.replace(free_name(path))
