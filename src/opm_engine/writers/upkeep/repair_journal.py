"""The journal of an image, made to tell of the frames that are there and of no others.

Separate from the shards, whose repair comes first: what they hold decides here. Knows
the journal's lines (`reading.read_frames`), not what most of what they tell means.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

import numpy as np

from opm_engine.plan import Stream
from opm_engine.writers.journal import (
    COMMON,
    FRAMES,
    INDEX,
    TAGS,
    from_line,
    to_line,
)
from opm_engine.writers.metadata import ARRAY
from opm_engine.writers.upkeep.inventory import Bools, ImageInventory

RECOVERED = "recovered"
"""Of a frame: it is there, and at least a part of what was known of it is lost."""

_COMMON_BEGINS = to_line({COMMON: {}}).removesuffix(b"}}\n")
"""How the line begins that says what those after it have in common."""


@dataclass(frozen=True)
class _Findings:
    """What a journal holds.

    Attributes
    ----------
    told : bool array
        Items, as in `ImageInventory.present`, that are there and have a line.
    n_unreadable : int
        Whole lines that tell nothing.
    n_wrong : int
        Those that tell of what is not there, or was told of before.
    n_partial : int
        Those that lack the line which says what they have in common.
    end : int
        Bytes up to the end of the last whole line.
    n_torn : int
        Bytes behind it.
    """

    told: Bools
    n_unreadable: int
    n_wrong: int
    n_partial: int
    end: int
    n_torn: int


class _Kind(Enum):
    """What a whole line is worth."""

    COMMON = auto()
    FRAME = auto()
    PARTIAL = auto()
    WRONG = auto()
    UNREADABLE = auto()


_DROPPED = _Kind.WRONG, _Kind.UNREADABLE


def mend_journal(image: ImageInventory, stream: Stream) -> Iterator[str]:
    """Mend the journal of one image; yield what was done, in words."""
    path = image.folder / ARRAY / FRAMES
    name = f"{FRAMES} of position {image.position}"
    found = _read(path, image, stream)
    if found.n_torn:
        os.truncate(path, found.end)
        yield f"cut a torn line off {name}"
    if found.n_unreadable or found.n_wrong or found.n_partial:
        _rewrite(path, image, stream)
    if found.n_unreadable:
        yield f"dropped {found.n_unreadable} lines of {name}: they cannot be read"
    if found.n_wrong:
        yield f"dropped {found.n_wrong} lines of {name}: their frames are not there"
    if found.n_partial:
        yield (
            f"marked {found.n_partial} lines of {name} as recovered: the line is lost "
            "that said what they have in common"
        )
    untold = np.argwhere(image.present & ~found.told)
    if len(untold):
        _add(path, stream, image.position, untold.tolist())
        yield f"added {len(untold)} lines to {name}: what they told is lost"


def _read(path: Path, image: ImageInventory, stream: Stream) -> _Findings:
    told = np.zeros_like(image.present)
    kinds: Counter[_Kind] = Counter()
    end = n_bytes = 0
    if path.exists():
        n_bytes = path.stat().st_size
        for line, kind in _judged(path, image, stream, told):
            end += len(line)
            kinds[kind] += 1
    return _Findings(
        told=told,
        n_unreadable=kinds[_Kind.UNREADABLE],
        n_wrong=kinds[_Kind.WRONG],
        n_partial=kinds[_Kind.PARTIAL],
        end=end,
        n_torn=n_bytes - end,
    )


def _judged(
    path: Path, image: ImageInventory, stream: Stream, told: Bools
) -> Iterator[tuple[bytes, _Kind]]:
    """Yield each whole line, and what it is worth; notes in ``told`` what it tells."""
    has_common = False
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            entry = _checked(line)
            if not entry:
                has_common &= not line.startswith(_COMMON_BEGINS)
                yield line, _Kind.UNREADABLE
            elif COMMON in entry:
                has_common = True
                yield line, _Kind.COMMON
            else:
                at = _place(entry[INDEX], image, stream)
                if at is None or told[at]:
                    yield line, _Kind.WRONG
                else:
                    told[at] = True
                    yield line, _Kind.FRAME if has_common else _Kind.PARTIAL


def _checked(line: bytes) -> dict[str, Any]:
    """Return what a line tells; nothing, unless it is one that a journal has."""
    entry = from_line(line)
    record = entry.get(COMMON, entry)
    is_told = isinstance(record, dict) and _is_index(entry.get(INDEX, {}))
    if not is_told or not {COMMON, INDEX} & entry.keys():
        return {}
    return entry if isinstance(record.get(TAGS) or {}, dict) else {}


def _is_index(index: object) -> bool:
    if not isinstance(index, dict):
        return False
    return all(type(number) is int for number in index.values())


def _place(
    index: dict[str, int], image: ImageInventory, stream: Stream
) -> tuple[int, ...] | None:
    """Return where in `ImageInventory.present` an item is; None if it is not there."""
    channel = index.get("c", 0) * stream.n_cameras + index.get("cam", 0)
    at = (index.get("t", 0), channel, index.get("z", 0))[: image.present.ndim]
    inside = all(0 <= i < n for i, n in zip(at, image.present.shape, strict=True))
    return at if inside and image.present[at] else None


def _rewrite(path: Path, image: ImageInventory, stream: Stream) -> None:
    """Keep the lines that are right; say before those that lack a common line so."""
    new = path.with_name(f"{path.name}.new")
    told = np.zeros_like(image.present)
    is_marked = False
    with new.open("wb") as kept:
        for line, kind in _judged(path, image, stream, told):
            if kind is _Kind.PARTIAL and not is_marked:
                kept.write(to_line({COMMON: {RECOVERED: True}}))
            is_marked = kind is _Kind.PARTIAL or (is_marked and kind in _DROPPED)
            if kind not in _DROPPED:
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
        journal.writelines(map(to_line, lines))
