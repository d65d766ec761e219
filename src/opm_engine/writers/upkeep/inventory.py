"""What a store holds, read from the indexes of its shards: pixels stay where they are.

Separate because the command line tells it, and because repair and reprocessing begin
with it. Reads files only; writes none.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from opm_engine.plan import Stream
from opm_engine.writers.journal import FRAMES
from opm_engine.writers.metadata import ARRAY
from opm_engine.writers.scene import is_half_rewritten
from opm_engine.writers.shards import index
from opm_engine.writers.shards.layout import Layout, ShardKey, items
from opm_engine.writers.upkeep.documents import (
    WRONG,
    NotAStoreError,
    checked_layout,
    described,
    unlisted_levels,
)
from opm_engine.writers.upkeep.files import (
    UNFINISHED,
    StoredShard,
    all_files,
    shards_of,
)
from opm_engine.writers.upkeep.journals import Bools, Findings, examine
from opm_engine.writers.upkeep.lost_planes import Counts, count_lost_planes

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
        Which chunks, counted along each axis, can be read. T is that of the run, or up
        to the last shard of any position, if that is more.
    shards : tuple of StoredShard
    torn : tuple of StoredShard
        Those whose last index is not whole. Nothing in them can be read before repair.
    strays : tuple of StoredShard
        Those that lie outside the image; they count for nothing.
    lost_planes : (T, C) int
        Of each volume, as far as the journal tells: it was made without so many.
    unlisted : tuple of Path
        Smaller levels that were not finished; they can be built again.
    """

    position: int
    folder: Path
    kind: Kind
    layout: Layout
    chunks: Bools
    shards: tuple[StoredShard, ...]
    torn: tuple[StoredShard, ...]
    strays: tuple[StoredShard, ...]
    lost_planes: Counts
    unlisted: tuple[Path, ...]

    @cached_property
    def present(self) -> Bools:
        """Which planes (T, C, Z), or volumes (T, C), can be read to their ends."""
        axes = 3 if self.kind == "planes" else (2, 3)
        return np.asarray(self.chunks.all(axis=axes))

    @cached_property
    def whole(self) -> Bools:
        """Which of those that are present were made of all their planes."""
        if self.kind == "planes":
            return self.present
        return np.asarray(self.present & (self.lost_planes == 0))

    @cached_property
    def incomplete(self) -> Bools:
        """Volumes (T, C) of which there is something, but not all."""
        some = np.asarray(self.chunks.any(axis=(2, 3)))
        all_of_it = self.whole.all(axis=2) if self.kind == "planes" else self.whole
        return np.asarray(some & ~all_of_it)

    @property
    def n_bytes(self) -> int:
        """Size of its shards."""
        return sum(shard.n_bytes for shard in self.shards)

    def journal(self, stream: Stream) -> Findings:
        """Compare its journal, all of which is read, with what is there."""
        return examine(self.folder / ARRAY / FRAMES, self.present, stream)


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
        return sum(int(image.whole.sum()) for image in self.images)

    @property
    def frames_missing(self) -> int:
        """Planes or volumes that were announced and are not there, or not whole."""
        return max(0, self.announced - self.frames_present)

    @property
    def n_times(self) -> int:
        """Time points of the run: those announced, and those that came."""
        return _n_times_of(self.block, self.images)

    @cached_property
    def needs_repair(self) -> bool:
        """Whether there is something that `repair` changes, or would if it could.

        Reads all journals, unless pixels or metadata tell it before.
        """
        if self.unfinished or self.unreadable:
            return True
        if any(image.torn or image.unlisted for image in self.images):
            return True
        with suppress(*WRONG):  # what is torn there makes no image unreadable
            if is_half_rewritten(self.store):
                return True
        if any(image.layout.shape[0] != self.n_times for image in self.images):
            return True
        if "stream" not in self.block:
            return False
        stream = Stream.model_validate(self.block["stream"])
        return not all(image.journal(stream).is_right for image in self.images)

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
    layouts = _layouts_of(folders)
    if not layouts:
        msg = f"{store} has no image whose metadata can be read"
        raise NotAStoreError(msg)
    placed = {
        number: _placed(shards[folders[number] / ARRAY], layout, block)
        for number, layout in layouts.items()
    }
    n_times = max(
        _n_announced(block, list(layouts.values())),
        *(shard.key[0] + 1 for inside, _ in placed.values() for shard in inside),
        1,
    )
    images = [
        _image(number, folders[number], layout, block, n_times, *placed[number])
        for number, layout in layouts.items()
    ]
    return Inventory(
        store=store,
        block=block,
        images=tuple(images),
        unreadable=tuple(x for n, x in enumerate(folders) if n not in layouts),
        announced=_announced(block, tuple(images), len(folders)),
        unfinished=tuple(x.path for x in files if x.path.name.endswith(UNFINISHED)),
        n_bytes=sum(file.n_bytes for file in files),
    )


def _layouts_of(folders: list[Path]) -> dict[int, Layout]:
    """Return how images are cut, by position; without those that cannot be read."""
    layouts = {}
    for number, folder in enumerate(folders):
        try:
            layouts[number] = checked_layout(folder)
        except NotAStoreError:
            if len(folders) == 1:
                raise
    return layouts


def _n_times_of(block: dict[str, Any], images: tuple[ImageInventory, ...]) -> int:
    """Return how many time points a run had; arrays may have room for more."""
    announced = _n_announced(block, [image.layout for image in images])
    came = (np.flatnonzero(x.chunks.any(axis=(1, 2, 3))) for x in images)
    last = max(int(times[-1]) + 1 if times.size else 1 for times in came)
    is_unbounded = block.get("stream", {}).get("unbounded")
    return last if is_unbounded else max(last, announced)


def _n_announced(block: dict[str, Any], layouts: list[Layout]) -> int:
    """Return how many time points were announced; a first guess if unbounded."""
    most = max(layout.shape[0] for layout in layouts)
    return int(block.get("stream", {}).get("n_times", most))


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
    position: int,
    folder: Path,
    layout: Layout,
    block: dict[str, Any],
    n_times: int,
    shards: list[StoredShard],
    strays: list[StoredShard],
) -> ImageInventory:
    kind = _kind(block, layout)
    n_cameras = block.get("stream", {}).get("n_cameras", 1)
    n_z, n_y = (-(-layout.shape[i] // layout.chunk[i]) for i in (2, 3))
    chunks = np.zeros((n_times, layout.shape[1], n_z, n_y), bool)
    torn = []
    for shard in shards:
        try:
            table = index.read(shard.path, layout.n_chunks)
        except (ValueError, FileNotFoundError):  # or a link that leads nowhere
            torn.append(shard)
        else:
            mark(chunks, layout, shard.key, table)
    lost_planes = np.zeros(chunks.shape[:2], np.int64)
    if kind == "volumes":
        count_lost_planes(folder / ARRAY / FRAMES, n_cameras, lost_planes)
    return ImageInventory(
        position=position,
        folder=folder,
        kind=kind,
        layout=layout,
        chunks=chunks,
        shards=tuple(shards),
        torn=tuple(torn),
        strays=tuple(strays),
        lost_planes=lost_planes,
        unlisted=tuple(unlisted_levels(folder)),
    )


def _placed(
    files: list[StoredShard], layout: Layout, block: dict[str, Any]
) -> tuple[list[StoredShard], list[StoredShard]]:
    """Return the shards of an image, and those that lie outside it.

    The time axis of a run of unknown length may have grown. Others end where they were
    announced to, or where the metadata of the array say, which grow before its shards.
    """
    first, *sizes = layout.grid
    stream = block.get("stream", {"unbounded": True})
    if stream.get("unbounded"):
        first = sys.maxsize
    grid = max(first, stream.get("n_times", 1)), *sizes
    inside: list[StoredShard] = []
    outside: list[StoredShard] = []
    for shard in files:
        fits = all(n < size for n, size in zip(shard.key, grid, strict=True))
        (inside if fits else outside).append(shard)
    return inside, outside


def _announced(
    block: dict[str, Any], images: tuple[ImageInventory, ...], n_positions: int
) -> int:
    """Return how many planes or volumes a store was made for.

    A sequence that is no regular grid leaves holes in it, and says how many events it
    has.
    """
    grid: int = _n_times_of(block, images) * _per_time(block, images, n_positions)
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
