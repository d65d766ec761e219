"""The files of a store, and which of them are shards, by their names alone.

Separate from the inventory, which opens them, because lost metadata are made again from
shards that no metadata tell of.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from opm_engine.writers.shards.layout import ShardKey

UNFINISHED = (".new", ".partial", ".__lock")
"""Endings of files that have another name once they are complete."""


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
    """Find every file below a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from all_files(Path(entry.path))
            else:
                yield File(Path(entry.path), entry.stat().st_size)


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
