"""What a store holds, read from the indexes of its shards: pixels stay where they are.

Separate because the command line tells it, and because repair and reprocessing begin
with it. Reads files only; writes none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from opm_engine.plan import Stream
from opm_engine.writers.journal import FRAMES
from opm_engine.writers.metadata import ARRAY
from opm_engine.writers.shards import index
from opm_engine.writers.shards.layout import Layout, ShardKey, items
from opm_engine.writers.upkeep.documents import (
    WRONG,
    NotAStoreError,
    checked_layout,
    described,
)
from opm_engine.writers.upkeep.files import (
    UNFINISHED,
    StoredShard,
    all_files,
    shards_of,
)

Bools = npt.NDArray[np.bool_]
Kind = Literal["planes", "volumes"]


@dataclass(frozen=True, eq=False)
class ImageInventory:
    """What the image of one position holds.

    Attributes
    ----------
    position : int
        Stage position, from 0.
    folder : Path
        Of the group.
    kind : {"planes", "volumes"}
    layout : Layout
        As its metadata say.
    chunks : (T, C, Z, Y) bool
        Which chunks, counted along each axis, can be read. T is what the metadata say
        or what is there, if that is more.
    shards : tuple of StoredShard
    torn : tuple of StoredShard
        Those whose last index is not whole. Nothing in them can be read before repair.
    strays : tuple of StoredShard
        Those that lie outside the image; they count for nothing.
    journal_lines : int
    """

    position: int
    folder: Path
    kind: Kind
    layout: Layout
    chunks: Bools
    shards: tuple[StoredShard, ...]
    torn: tuple[StoredShard, ...]
    strays: tuple[StoredShard, ...]
    journal_lines: int

    @cached_property
    def present(self) -> Bools:
        """Which planes (T, C, Z), or whole volumes (T, C), can be read."""
        axes = 3 if self.kind == "planes" else (2, 3)
        return np.asarray(self.chunks.all(axis=axes))

    @cached_property
    def incomplete(self) -> Bools:
        """Volumes (T, C) of which something, but not all, can be read."""
        some = np.asarray(self.chunks.any(axis=(2, 3)))
        return some & ~np.asarray(self.chunks.all(axis=(2, 3)))

    @property
    def n_bytes(self) -> int:
        """Size of its shards."""
        return sum(shard.n_bytes for shard in self.shards)


@dataclass(frozen=True, eq=False)
class Inventory:
    """What a store holds.

    Attributes
    ----------
    store : Path
    block : dict
        Our metadata block, of the run; empty if there is none.
    images : tuple of ImageInventory
        One per position whose metadata can be read; at least one.
    unreadable : tuple of Path
        Folders of the other positions. Their frames count as missing.
    announced : int
        Planes or volumes that it was made for, over all positions.
    unfinished : tuple of Path
        Files that were still being written.
    n_bytes : int
        Of all files.
    """

    store: Path
    block: dict[str, Any]
    images: tuple[ImageInventory, ...]
    unreadable: tuple[Path, ...]
    announced: int
    unfinished: tuple[Path, ...]
    n_bytes: int

    @property
    def kind(self) -> Kind:
        """What the images are made of."""
        return self.images[0].kind

    @property
    def frames_present(self) -> int:
        """Planes, or whole volumes, that can be read, over all positions."""
        return sum(int(image.present.sum()) for image in self.images)

    @property
    def frames_missing(self) -> int:
        """Planes or volumes that were announced and cannot be read."""
        return max(0, self.announced - self.frames_present)

    @property
    def needs_repair(self) -> bool:
        """Whether a writer was cut off in the middle of a file."""
        if self.unfinished or self.unreadable:
            return True
        return any(image.torn for image in self.images)

    @property
    def is_whole(self) -> bool:
        """Whether all that was announced is there, and nothing is left to repair."""
        return not self.frames_missing and not self.needs_repair


def inventory(store: str | Path) -> Inventory:
    """Take stock of a store, whole or not.

    Parameters
    ----------
    store : str or Path

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    NotAStoreError
        If it is no store of sharded images t, c, z, y, x.
    """
    store = Path(store)
    block, folders = described(store)
    files = list(all_files(store))
    shards = shards_of(store, files)
    images, unreadable = [], []
    for number, folder in enumerate(folders):
        try:
            layout = checked_layout(folder)
        except NotAStoreError:
            if len(folders) == 1:
                raise
            unreadable.append(folder)
        else:
            kind = _kind(block, layout)
            images.append(_image(number, folder, layout, kind, shards[folder / ARRAY]))
    if not images:
        msg = f"{store} has no image whose metadata can be read"
        raise NotAStoreError(msg)
    return Inventory(
        store=store,
        block=block,
        images=tuple(images),
        unreadable=tuple(unreadable),
        announced=_announced(block, tuple(images), len(folders)),
        unfinished=tuple(x.path for x in files if x.path.name.endswith(UNFINISHED)),
        n_bytes=sum(file.n_bytes for file in files),
    )


def n_times_of(block: dict[str, Any], images: tuple[ImageInventory, ...]) -> int:
    """Return how many time points a run had: those announced, and those that came.

    Arrays may have room for more.
    """
    stream = block.get("stream", {})
    announced = stream.get("n_times", max(len(image.chunks) for image in images))
    came = (np.flatnonzero(x.chunks.any(axis=(1, 2, 3))) for x in images)
    last = max(int(times[-1]) + 1 if times.size else 1 for times in came)
    return last if stream.get("unbounded") else max(last, int(announced))


def mark(
    chunks: Bools, layout: Layout, key: ShardKey, table: npt.NDArray[np.uint64]
) -> None:
    """Note in ``chunks`` (T, C, Z, Y) what the index of a shard says."""
    per_z, per_y = layout.chunks_per_shard
    t, c, z, y, _ = key
    part = chunks[t, c, z * per_z : (z + 1) * per_z, y * per_y : (y + 1) * per_y]
    there = (table[:, 0] != index.ABSENT).reshape(per_z, per_y)
    part[:] = there[: part.shape[0], : part.shape[1]]


def _kind(block: dict[str, Any], layout: Layout) -> Kind:
    is_planes = layout.chunk[2:] == (1, *layout.shape[3:])
    kind: Kind = "planes" if is_planes else "volumes"
    return block.get("stream", {}).get("kind", kind)  # type: ignore[no-any-return]


def _image(
    position: int, folder: Path, layout: Layout, kind: Kind, files: list[StoredShard]
) -> ImageInventory:
    shards = [shard for shard in files if _lies_inside(shard.key, layout)]
    n_times = max([layout.shape[0], *(shard.key[0] + 1 for shard in shards)])
    n_z, n_y = (-(-layout.shape[i] // layout.chunk[i]) for i in (2, 3))
    chunks = np.zeros((n_times, layout.shape[1], n_z, n_y), bool)
    torn = []
    for shard in shards:
        try:
            table = index.read(shard.path, layout.n_chunks)
        except ValueError:
            torn.append(shard)
        else:
            mark(chunks, layout, shard.key, table)
    return ImageInventory(
        position=position,
        folder=folder,
        kind=kind,
        layout=layout,
        chunks=chunks,
        shards=tuple(shards),
        torn=tuple(torn),
        strays=tuple(shard for shard in files if shard not in shards),
        journal_lines=_count_lines(folder / ARRAY / FRAMES),
    )


def _lies_inside(key: ShardKey, layout: Layout) -> bool:
    """Whether an image has such a shard; its time axis may have grown."""
    return all(n < size for n, size in zip(key[1:], layout.grid[1:], strict=True))


def _announced(
    block: dict[str, Any], images: tuple[ImageInventory, ...], n_positions: int
) -> int:
    """Return how many planes or volumes a store was made for.

    A sequence that is no regular grid leaves holes in it, and says how many events it
    has.
    """
    grid: int = n_times_of(block, images) * _per_time(block, images, n_positions)
    try:
        whole = (block.get("plan") or {}).get("whole")
        if not whole:
            return grid
        n_frames: int = whole["n_events"] * block["stream"].get("n_cameras", 1)
        if images[0].kind == "planes":
            return n_frames
        deepest: int = whole["geometry"]["n_planes"]
        depths = {site.get("n_planes") or deepest for site in whole["positions"]}
    except WRONG:  # a plan that is not ours
        return grid
    return n_frames // deepest if depths == {deepest} else grid


def _per_time(
    block: dict[str, Any], images: tuple[ImageInventory, ...], n_positions: int
) -> int:
    """Return how many planes or volumes belong to a time point."""
    if len(images) < n_positions and "stream" in block:
        stream = Stream.model_validate(block["stream"])
        return items(stream.model_copy(update={"n_times": 1}))
    return sum(image.present[0].size for image in images)


def _count_lines(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
