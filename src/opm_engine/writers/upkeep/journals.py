"""What the journal of an image is worth, line by line, beside what is there.

Separate from its repair, because whoever only takes stock asks the same. Knows the
journal's lines (`reading.read_frames`), not what most of what they tell means. Writes
nothing.
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
import numpy.typing as npt

from opm_engine.plan import Stream
from opm_engine.writers.journal import COMMON, INDEX, TAGS, from_line, to_line

Bools = npt.NDArray[np.bool_]

_COMMON_BEGINS = to_line({COMMON: {}}).removesuffix(b"}}\n")
"""How the line begins that says what those after it have in common."""


@dataclass(frozen=True, eq=False)
class Findings:
    """What a journal holds.

    Attributes
    ----------
    untold : bool array
        Items, as in `ImageInventory.present`, that are there and have no line.
    is_file : bool
        Whether it can be read at all; also if there is none.
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

    untold: Bools
    is_file: bool = True
    n_unreadable: int = 0
    n_wrong: int = 0
    n_partial: int = 0
    end: int = 0
    n_torn: int = 0

    @property
    def has_wrong_lines(self) -> bool:
        """Whether lines must go, or be marked."""
        return bool(self.n_unreadable or self.n_wrong or self.n_partial)

    @property
    def is_right(self) -> bool:
        """Whether it tells of each item that is there, and of nothing else."""
        is_whole = self.is_file and not self.n_torn and not self.has_wrong_lines
        return is_whole and not self.untold.any()


class Worth(Enum):
    """What a whole line is worth."""

    COMMON = auto()
    FRAME = auto()
    PARTIAL = auto()
    WRONG = auto()
    UNREADABLE = auto()


def examine(path: Path, present: Bools, stream: Stream) -> Findings:
    """Compare a journal with the items that are there.

    Parameters
    ----------
    path : Path
        There may be none.
    present : (T, C, Z) or (T, C) bool
        See `ImageInventory.present`.
    stream : Stream

    Raises
    ------
    OSError
        If it cannot be read.
    """
    if not path.is_file():
        return Findings(present, is_file=not os.path.lexists(path))
    told = np.zeros_like(present)
    worths: Counter[Worth] = Counter()
    end = 0
    for line, worth in judged(path, present, stream, told):
        end += len(line)
        worths[worth] += 1
    return Findings(
        untold=present & ~told,
        n_unreadable=worths[Worth.UNREADABLE],
        n_wrong=worths[Worth.WRONG],
        n_partial=worths[Worth.PARTIAL],
        end=end,
        n_torn=path.stat().st_size - end,
    )


def judged(
    path: Path, present: Bools, stream: Stream, told: Bools
) -> Iterator[tuple[bytes, Worth]]:
    """Yield each whole line, and what it is worth; notes in ``told`` what it tells."""
    has_common = False
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            entry = _checked(line)
            if not entry:
                has_common &= not line.startswith(_COMMON_BEGINS)
                yield line, Worth.UNREADABLE
            elif COMMON in entry:
                has_common = True
                yield line, Worth.COMMON
            else:
                at = _place(entry[INDEX], present, stream)
                if at is None or told[at]:
                    yield line, Worth.WRONG
                else:
                    told[at] = True
                    yield line, Worth.FRAME if has_common else Worth.PARTIAL


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
    index: dict[str, int], present: Bools, stream: Stream
) -> tuple[int, ...] | None:
    """Return where in `ImageInventory.present` an item is; None if it is not there."""
    channel = index.get("c", 0) * stream.n_cameras + index.get("cam", 0)
    at = (index.get("t", 0), channel, index.get("z", 0))[: present.ndim]
    inside = all(0 <= i < n for i, n in zip(at, present.shape, strict=True))
    return at if inside and present[at] else None
