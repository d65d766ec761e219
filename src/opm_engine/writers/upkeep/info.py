"""`describe_store`: what a store holds, in one plain dict for people and programs.

Separate from `inventory`, which counts; here is also told what was scanned and how it
is stored. Reads files only.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from opm_engine.writers import reading
from opm_engine.writers.metadata import ARRAY
from opm_engine.writers.node import read_attributes
from opm_engine.writers.upkeep.documents import WRONG
from opm_engine.writers.upkeep.files import StoredShard
from opm_engine.writers.upkeep.inventory import Inventory, inventory
from opm_engine.writers.upkeep.journals import Bools

N_NAMED = 20
"""Missing frames that are named; the others are only counted."""

N_LOOKED_AT = 2**16
"""Frames among which missing ones are looked for at a time."""

SCAN = ("angle_deg", "step_um", "pixel_size_um", "scan_direction", "bidirectional")


def describe_store(store: str | Path) -> dict[str, Any]:
    """Tell what a store holds and whether it is whole.

    Parameters
    ----------
    store : str or Path

    Returns
    -------
    dict
        Plain JSON. ``frames_*`` count planes of a raw store and whole volumes of a
        deskewed one, over all positions; ``missing`` names the first of those that are
        not there, or not whole: a volume that was made without some of its planes is
        named with how many it lacks. ``volumes_incomplete`` counts volumes of which
        there is something, ``strays`` are the first files of pixels outside the images.
        ``compression`` is pixels to bytes of shards.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    NotAStoreError
        If it is no store of ours.
    """
    found = inventory(store)
    return {
        "store": str(store),
        **_what(found),
        **_how_scanned(found.block),
        "frames_announced": found.announced,
        "frames_present": found.frames_present,
        "frames_missing": found.frames_missing,
        "volumes_incomplete": sum(int(x.incomplete.sum()) for x in found.images),
        "missing": list(islice(_missing(found), N_NAMED)),
        "strays": [
            str(shard.path.relative_to(found.store))
            for shard in islice(_strays(found), N_NAMED)
        ],
        "flags": _flags(found),
        "is_whole": found.is_whole,
        "needs_repair": found.needs_repair,
        "levels": _n_levels(found.images[0].folder),
        "n_bytes": found.n_bytes,
        "compression": _compression(found),
    }


def _what(found: Inventory) -> dict[str, Any]:
    first = found.images[0]
    groups = [read_attributes(image.folder)["ome"] for image in found.images]
    sizes = np.max([image.layout.shape for image in found.images], axis=0)
    return {
        "kind": found.kind,
        "positions": [group["multiscales"][0].get("name", "") for group in groups],
        "channels": [x["label"] for x in groups[0]["omero"]["channels"]],
        "shape": dict(zip("tczyx", sizes.tolist(), strict=True)),
        "dtype": first.layout.dtype,
        "codec": reading.codec_of(first.folder / ARRAY),
    }


def _how_scanned(block: dict[str, Any]) -> dict[str, Any]:
    scan = {name: block[name] for name in SCAN if name in block}
    settings = block.get("settings")
    if isinstance(settings, dict) and "mode" in settings:
        scan["mode"] = settings["mode"]
    if "deskew" in block:
        scan["deskew"] = block["deskew"]
    stream = block.get("stream", {})
    return {
        "scale_um": dict(zip("zyx", stream.get("scale_um", ()), strict=False)),
        "interval_s": stream.get("interval_s"),
        "scan": scan,
    }


def _missing(found: Inventory) -> Iterator[str]:
    """Name what is not there, position by position."""
    if not found.frames_missing:
        return
    yield from (f"all of {x.relative_to(found.store)}" for x in found.unreadable)
    for image in found.images:
        for t, c, *z in _holes(image.whole):
            name = f"t={t}, p={image.position}, c={c}"
            if z:
                yield f"{name}, z={z[0]}"
            elif image.present[t, c]:
                yield f"{name}: {image.lost_planes[t, c]} of its planes"
            else:
                yield name


def _holes(whole: Bools) -> Iterator[list[int]]:
    """Find what is False, a part at a time: a long run has millions of frames."""
    flat = whole.reshape(-1)
    for start in range(0, flat.size, N_LOOKED_AT):
        holes = start + np.flatnonzero(~flat[start : start + N_LOOKED_AT])
        yield from (
            [int(i) for i in np.unravel_index(hole, whole.shape)] for hole in holes
        )


def _strays(found: Inventory) -> Iterator[StoredShard]:
    return (shard for image in found.images for shard in image.strays)


def _flags(found: Inventory) -> list[dict[str, Any]]:
    flags: list[dict[str, Any]] = []
    for image in found.images:
        try:
            told = reading.read_flags(found.store, image.position)
        except WRONG:
            message = f"the flags of {image.folder.name} cannot be read"
            flags.append({"p": image.position, "message": message})
        else:
            flags += [{**flag.index, "message": flag.message} for flag in told]
    return flags


def _n_levels(image: Path) -> int:
    ome = read_attributes(image)["ome"]
    return len(ome["multiscales"][0]["datasets"])


def _compression(found: Inventory) -> float | None:
    """Return bytes of all chunks over bytes of the shards; None without any."""
    n_pixels = sum(int(x.chunks.sum()) * x.layout.chunk_bytes for x in found.images)
    n_bytes = sum(image.n_bytes for image in found.images)
    return round(n_pixels / n_bytes, 2) if n_bytes else None
