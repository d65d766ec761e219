"""The journal of an image, made to tell of the frames that are there and of no others.

Separate from the shards, whose repair comes first: what they hold decides here. Knows
the journal's lines (`reading.read_frames`), not what most of what they tell means.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opm_engine.plan import Stream
from opm_engine.writers.inventory import Bools, ImageInventory
from opm_engine.writers.journal import COMMON, FRAMES, INDEX
from opm_engine.writers.metadata import ARRAY

RECOVERED = "recovered"
"""In a line that a repair made: the frame is there, what was known of it is lost."""


@dataclass(frozen=True)
class _Findings:
    """What a journal holds.

    Attributes
    ----------
    told : bool array
        Items, as in `ImageInventory.present`, that are there and have a line.
    n_wrong : int
        Whole lines that cannot be read, or tell of what is not there.
    end : int
        Bytes up to the end of the last whole line.
    n_torn : int
        Bytes behind it.
    """

    told: Bools
    n_wrong: int
    end: int
    n_torn: int


def mend_journal(image: ImageInventory, position: int, stream: Stream) -> Iterator[str]:
    """Mend the journal of one image; yield what was done, in words."""
    path = image.folder / ARRAY / FRAMES
    name = f"{FRAMES} of position {position}"
    found = _read(path, image, stream)
    if found.n_torn:
        os.truncate(path, found.end)
        yield f"cut a torn line off {name}"
    if found.n_wrong:
        _drop_wrong(path, image, stream)
        yield f"dropped {found.n_wrong} lines of {name}: their frames are not there"
    untold = np.argwhere(image.present & ~found.told)
    if len(untold):
        _add(path, stream, position, untold.tolist())
        yield f"added {len(untold)} lines to {name}: what they told is lost"


def _read(path: Path, image: ImageInventory, stream: Stream) -> _Findings:
    told = np.zeros_like(image.present)
    if not path.exists():
        return _Findings(told, 0, 0, 0)
    n_wrong = end = 0
    for line, is_right in _judged(path, image, stream, told):
        end += len(line)
        n_wrong += not is_right
    return _Findings(told, n_wrong, end, path.stat().st_size - end)


def _judged(
    path: Path, image: ImageInventory, stream: Stream, told: Bools
) -> Iterator[tuple[bytes, bool]]:
    """Yield each whole line, and whether it belongs; notes in ``told`` what it tells.

    What lines have in common stands in one of its own, which goes before them.
    """
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            entry = _parsed(line)
            if COMMON in entry:
                yield line, True
                continue
            at = _place(entry.get(INDEX), image, stream)
            yield line, at is not None and not told[at]
            if at is not None:
                told[at] = True


def _parsed(line: bytes) -> dict[str, Any]:
    """Return what a line tells; nothing, if it was never written whole."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _place(
    index: dict[str, int] | None, image: ImageInventory, stream: Stream
) -> tuple[int, ...] | None:
    """Return where in `ImageInventory.present` an item is; None if it is not there."""
    if index is None:
        return None
    channel = index.get("c", 0) * stream.n_cameras + index.get("cam", 0)
    at = (index.get("t", 0), channel, index.get("z", 0))[: image.present.ndim]
    inside = all(0 <= i < n for i, n in zip(at, image.present.shape, strict=True))
    return at if inside and image.present[at] else None


def _drop_wrong(path: Path, image: ImageInventory, stream: Stream) -> None:
    new = path.with_name(f"{path.name}.new")
    told = np.zeros_like(image.present)
    with new.open("wb") as kept:
        for line, is_right in _judged(path, image, stream, told):
            if is_right:
                kept.write(line)
    new.replace(path)


def _add(path: Path, stream: Stream, position: int, items: list[list[int]]) -> None:
    site = stream.positions[position]
    lines: list[dict[str, Any]] = [{COMMON: {}}]  # of these nothing is known
    for t, channel, *plane in items:
        c, camera = divmod(channel, stream.n_cameras)
        index = {"t": t, "p": site.p, "g": site.g, "c": c}
        if stream.n_cameras > 1:
            index["cam"] = camera
        if plane:
            index["z"] = plane[0]
        lines.append({INDEX: index, RECOVERED: True})
    with path.open("ab") as journal:
        journal.writelines(json.dumps(line).encode() + b"\n" for line in lines)
