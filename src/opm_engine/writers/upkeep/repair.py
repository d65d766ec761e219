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
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.metadata import ARRAY, VERSION
from opm_engine.writers.node import write_n_times
from opm_engine.writers.scene import (
    SCENE_VERSION,
    is_half_rewritten,
    is_scene,
    rewrite_as_05,
    rewrite_as_scene,
)
from opm_engine.writers.shards import index
from opm_engine.writers.shards.file import PARTIAL
from opm_engine.writers.upkeep.files import StoredShard, free_name, set_aside
from opm_engine.writers.upkeep.inventory import (
    ImageInventory,
    Inventory,
    inventory,
)
from opm_engine.writers.upkeep.repair_documents import mend_documents
from opm_engine.writers.upkeep.repair_journal import mend_journal


@dataclass(frozen=True)
class RepairReport:
    """What a repair did, and what there is now.

    Attributes
    ----------
    frames_present, frames_missing : int
        Of those announced, over all positions: planes of a raw store, whole volumes of
        a deskewed one.
    volumes_incomplete : int
        Volumes of which there is something, but not all; what was cut off reads as 0.
    repaired : list of str
        What was done, in words; empty if nothing was to be done.
    left : list of str
        What is wrong and was left as it is, in words.
    """

    frames_present: int
    frames_missing: int
    volumes_incomplete: int
    repaired: list[str]
    left: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON."""
        return asdict(self)


def repair(store: str | Path) -> RepairReport:
    """Make a store that a crash left readable; all that was acknowledged stays.

    Metadata that are gone are made again from what the root says. Shards are cut back
    to their last whole state, and what is cut off is kept beside them; files that never
    came to hold anything are removed. In the end each plane or volume that is there has
    its line in the journal, and no other has.

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
    with StoreLock(store):
        documents = list(mend_documents(store))
        done = list(documents)
        found = inventory(store)
        if mended := list(_mend_files(found)):
            done += mended
            found = inventory(store)
        done += _mend_words(found)
    if not found.unreadable and is_half_rewritten(store):
        version = SCENE_VERSION if is_scene(store) else VERSION
        (rewrite_as_scene if is_scene(store) else rewrite_as_05)(store)
        if not documents:  # else it is what was made again just now, and speaks 0.5
            done.append(f"all images speak NGFF {version}, as the root does")
    return RepairReport(
        frames_present=found.frames_present,
        frames_missing=found.frames_missing,
        volumes_incomplete=sum(int(x.incomplete.sum()) for x in found.images),
        repaired=done,
        left=list(_left(found)),
    )


def _mend_files(found: Inventory) -> Iterator[str]:
    """Mend all that decides what is there."""
    for path in found.unfinished:
        path.unlink()
        yield f"removed {path.relative_to(found.store)}: it was never finished"
    for image in found.images:
        for shard in image.torn:
            yield _cut(shard, image.layout.n_chunks, found.store)
        for level in image.unlisted:
            shutil.rmtree(level)
            yield f"removed level {level.name}, which was not finished"


def _mend_words(found: Inventory) -> Iterator[str]:
    """Let metadata and journals tell of what is there."""
    yield from _fit_times(found.images, found.n_times)
    if "stream" in found.block:
        stream = Stream.model_validate(found.block["stream"])
        for image in found.images:
            yield from mend_journal(image, stream)


def _left(found: Inventory) -> Iterator[str]:
    for folder in found.unreadable:
        yield f"{folder.relative_to(found.store)} cannot be read: its metadata are gone"
    for image in found.images:
        for shard in image.strays:
            yield f"{shard.path.relative_to(found.store)} lies outside the image"


def _cut(shard: StoredShard, n_chunks: int, store: Path) -> str:
    """Cut a shard back to its last whole state; what is cut off is kept beside it."""
    name = shard.path.relative_to(store)
    if not shard.path.exists():
        return f"renamed {name} to {set_aside(shard.path).name}: it leads nowhere"
    _, n_valid = index.recover(shard.path, n_chunks)
    if n_valid:
        torn = free_name(shard.path)
        _keep_tail(shard.path, n_valid, torn)
        os.truncate(shard.path, n_valid)
        return (
            f"cut {shard.n_bytes - n_valid} bytes off {name}: they are in {torn.name}"
        )
    if shard.n_bytes:  # no crash of a writer leaves that: somebody may want to look
        torn = set_aside(shard.path)
        return f"renamed {name} to {torn.name}: no frame in it is whole"
    shard.path.unlink()
    return f"removed {name}: it was empty"


def _keep_tail(shard: Path, start: int, kept: Path) -> None:
    """Copy a file from ``start`` on; frames whose index was torn may be in there."""
    new = kept.with_name(f"{kept.name}{PARTIAL}")
    try:
        with shard.open("rb") as source, new.open("wb") as target:
            source.seek(start)
            shutil.copyfileobj(source, target)
    except OSError:
        new.unlink(missing_ok=True)  # it holds nothing that the shard does not
        raise
    new.replace(kept)


def _fit_times(images: tuple[ImageInventory, ...], n_times: int) -> Iterator[str]:
    """Cut or lengthen arrays that grew with the run, as its end would have."""
    changed = [image for image in images if image.layout.shape[0] != n_times]
    for image in changed:
        write_n_times(image.folder / ARRAY, n_times)
    if changed:
        yield f"set the number of time points to {n_times}"
