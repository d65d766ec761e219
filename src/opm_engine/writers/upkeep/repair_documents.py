"""Documents (`zarr.json`) that are gone or torn, made again from what the root says.

Separate from the repair of pixels and journals, which needs them first. How an array is
cut into shards is taken from the images beside it, or tried on its own shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from opm_engine.plan import BLOCK, Stream
from opm_engine.writers import metadata
from opm_engine.writers.metadata import ARRAY
from opm_engine.writers.node import read_attributes, write_node
from opm_engine.writers.reading import codec_of
from opm_engine.writers.shards import index
from opm_engine.writers.shards.layout import Layout, array_shapes, layouts
from opm_engine.writers.shards.sink import Codec
from opm_engine.writers.store import array_document, image_path
from opm_engine.writers.upkeep.documents import (
    WRONG,
    NotAStoreError,
    checked_group,
    checked_layout,
)
from opm_engine.writers.upkeep.files import StoredShard, all_files, shards_of

N_TRIED = 3
"""Shards of an array that are looked at to find out how it is cut."""

_BLOSC: dict[int, Codec] = {1: "lz4", 4: "zstd"}
"""Compressors as the header of a chunk numbers them."""


def mend_documents(store: Path) -> Iterator[str]:
    """Make again what is gone, where that can be known; yield what was done, in words.

    Raises
    ------
    OSError
        If a document cannot be written.
    """
    try:
        block = read_attributes(store)[BLOCK]
        stream = Stream.model_validate(block["stream"])
    except WRONG:
        return  # nothing is known
    folders = [image_path(store, stream, p) for p in range(len(stream.positions))]
    if len(folders) > 1 and not _has_series(store):
        _, series = metadata.collection(len(folders))
        _write_group(store / "OME", {"ome": series})
        yield "made the metadata of OME again"
    for position, folder in enumerate(folders):
        if not folder.is_dir() or _is_right(folder):
            continue
        name = f"position {position}"
        if not _has_group(folder):
            attributes = metadata.image_attributes(block, stream, position)
            _write_group(folder, attributes)
            yield f"made the metadata of {name} again: its flags, if any, are lost"
        if not _is_right(folder) and (document := _found(store, stream, position)):
            write_node(folder / ARRAY, array_document(*document))
            yield f"made the metadata of the array of {name} again"


def _has_series(store: Path) -> bool:
    try:
        return bool(read_attributes(store / "OME")["ome"]["series"])
    except WRONG:
        return False


def _has_group(folder: Path) -> bool:
    try:
        checked_group(folder)
    except NotAStoreError:
        return False
    return True


def _is_right(folder: Path) -> bool:
    try:
        checked_layout(folder)
    except NotAStoreError:
        return False
    return True


def _write_group(folder: Path, attributes: dict[str, object]) -> None:
    folder.mkdir(exist_ok=True)
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    write_node(folder, group)


def _found(store: Path, stream: Stream, position: int) -> tuple[Layout, Codec] | None:
    """Return how an array is cut and compressed, or None if nothing tells."""
    array = image_path(store, stream, position) / ARRAY
    if not array.is_dir():
        return None
    shards = list(islice(shards_of(store, all_files(array))[array], N_TRIED))
    beside = _beside(store, stream)
    for layout in _ways_to_cut(stream, position, beside):
        if not shards and beside:
            return layout, codec_of(beside[0] / ARRAY)
        for shard in shards:
            if codec := _codec_if_cut_so(shard, layout):
                return layout, codec
    return None


def _beside(store: Path, stream: Stream) -> list[Path]:
    folders = (image_path(store, stream, p) for p in range(len(stream.positions)))
    return [folder for folder in folders if _is_right(folder)]


def _ways_to_cut(stream: Stream, position: int, beside: list[Path]) -> Iterator[Layout]:
    """Yield the ways in which an array may be cut, the likeliest first."""
    usual = layouts(stream)[position]
    depth = max((checked_layout(folder).shard[2] for folder in beside), default=0)
    if stream.kind == "volumes":
        if beside:
            yield checked_layout(beside[0])
        yield usual
        return
    most = max(shape[2] for shape in array_shapes(stream))
    parts = sorted({-(-most // n_shards) for n_shards in range(1, most + 1)})
    for n_planes in (depth or usual.shard[2], *parts):
        t, c, _, y, x = usual.shard
        yield replace(usual, shard=(t, c, min(n_planes, usual.shape[2]), y, x))


def _codec_if_cut_so(shard: StoredShard, layout: Layout) -> Codec | None:
    """Return how the chunks of a shard are compressed; None if it is cut otherwise."""
    table, _ = index.recover(shard.path, layout.n_chunks)
    there = table[table[:, 0] != index.ABSENT]
    if not len(there):
        return None
    offset, n_bytes = there[0].tolist()
    if n_bytes == layout.chunk_bytes:
        return "none"
    with shard.path.open("rb") as file:
        file.seek(offset)
        flags = file.read(3)[2]
    return _BLOSC.get(flags >> 5)
