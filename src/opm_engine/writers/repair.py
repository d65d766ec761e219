"""`repair`: what a writer that was cut off left becomes a store like any other.

Separate from the writer, which is gone when this is needed, and from `inventory`, which
changes nothing. Knows files and journals; not what the pixels show. Needs no room on
the disk but for the lines that are missing.

Each step leaves a store that the next try can go on with, and finds nothing to do the
second time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opm_engine.plan import Stream
from opm_engine.writers import reading, shard_index
from opm_engine.writers.inventory import (
    ImageInventory,
    Inventory,
    Shard,
    described,
    inventory,
    n_times_of,
)
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.metadata import ARRAY
from opm_engine.writers.node import read_node, write_node
from opm_engine.writers.repair_journal import mend_journal

_BLOCK_BYTES = 512
"""Unit of ``st_blocks``."""


@dataclass(frozen=True)
class RepairReport:
    """What a repair did, and what there is now.

    Attributes
    ----------
    frames_present, frames_missing : int
        Of those announced, over all positions: planes of a raw store, whole volumes of
        a deskewed one.
    volumes_incomplete : int
        Volumes of which something is missing; that reads as 0.
    repaired : list of str
        What was done, in words; empty if nothing was to be done.
    """

    frames_present: int
    frames_missing: int
    volumes_incomplete: int
    repaired: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON."""
        return asdict(self)


def repair(store: str | Path) -> RepairReport:
    """Make a store that a crash left readable; all that was acknowledged stays.

    Shards are cut back to their last whole state, space that was asked for in advance
    is given back, files that never came to hold anything are removed. In the end each
    plane or volume that is there has its line in the journal, and no other has.

    Parameters
    ----------
    store : str or Path
        Raw or deskewed.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    NotAStoreError
        If it is no store of ours.
    BlockingIOError
        If it is being written.
    OSError
        If something cannot be mended.
    """
    store = Path(store)
    described(store)  # refuses what is no store before anything is locked or changed
    with StoreLock(store):
        found = inventory(store)
        done = list(_mend_files(found))
        if done:
            found = inventory(store)
        done += _release(found)
        done += _mend_words(found)
    return RepairReport(
        frames_present=found.frames_present,
        frames_missing=found.frames_missing,
        volumes_incomplete=sum(int(x.incomplete.sum()) for x in found.images),
        repaired=done,
    )


def _mend_files(found: Inventory) -> Iterator[str]:
    """Mend all that decides what is there."""
    for path in found.unfinished:
        path.unlink()
        yield f"removed {path.relative_to(found.store)}: it was never finished"
    for image in found.images:
        for shard in image.torn:
            yield _cut(shard, image.layout.n_chunks, found.store)
        yield from _drop_levels(image)


def _mend_words(found: Inventory) -> Iterator[str]:
    """Let metadata and journals tell of what is there."""
    block = reading.read_block(found.store)
    yield from _fit_times(found.images, n_times_of(block, found.images))
    if "stream" in block:
        stream = Stream.model_validate(block["stream"])
        for number, image in enumerate(found.images):
            yield from mend_journal(image, number, stream)


def _cut(shard: Shard, n_chunks: int, store: Path) -> str:
    """Cut a shard back to its last whole state; out of the way if there was none."""
    _, n_valid = shard_index.recover(shard.path, n_chunks)
    name = shard.path.relative_to(store)
    if n_valid:
        os.truncate(shard.path, n_valid)
        return f"cut {shard.n_bytes - n_valid} bytes off {name}"
    if shard.n_bytes:  # no crash of a writer leaves that: somebody may want to look
        shard.path.replace(shard.path.with_name(f"{shard.path.name}.torn"))
        return f"renamed {name} to *.torn: no frame in it is whole"
    shard.path.unlink()
    return f"removed {name}: it was empty"


def _drop_levels(image: ImageInventory) -> Iterator[str]:
    """Remove smaller levels that are not all there; they can be built again."""
    (multiscale,) = read_node(image.folder)["attributes"]["ome"]["multiscales"]
    listed = {dataset["path"] for dataset in multiscale["datasets"]}
    for level in sorted(image.folder.iterdir()):
        is_level = level.name.isdecimal() and read_node(level)["node_type"] == "array"
        if is_level and level.name not in listed:
            shutil.rmtree(level)
            yield f"removed level {level.name}, which was not finished"


def _release(found: Inventory) -> Iterator[str]:
    """Give back disk space behind the ends of shards."""
    n_bytes = sum(_released(x.path) for image in found.images for x in image.shards)
    if n_bytes:
        yield f"gave back {n_bytes} bytes that were asked for in advance"


def _released(path: Path) -> int:
    before = path.stat()
    held = getattr(before, "st_blocks", 0) * _BLOCK_BYTES
    if held <= before.st_size + before.st_blksize:
        return 0
    os.truncate(path, before.st_size)
    return held - path.stat().st_blocks * _BLOCK_BYTES


def _fit_times(images: tuple[ImageInventory, ...], n_times: int) -> Iterator[str]:
    """Cut or lengthen arrays that grew with the run, as its end would have."""
    changed = [image for image in images if image.layout.shape[0] != n_times]
    for image in changed:
        document = read_node(image.folder / ARRAY)
        document["shape"][0] = n_times
        write_node(image.folder / ARRAY, document)
    if changed:
        yield f"set the number of time points to {n_times}"
