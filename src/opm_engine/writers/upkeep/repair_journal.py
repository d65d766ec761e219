"""The journal of an image, made to tell of the frames that are there and of no others.

Separate from the shards, whose repair comes first: what they hold decides here, and
`journals` says what lines are worth.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from opm_engine.plan import Stream
from opm_engine.writers.journal import COMMON, FRAMES, INDEX, to_line
from opm_engine.writers.metadata import ARRAY
from opm_engine.writers.upkeep.files import set_aside
from opm_engine.writers.upkeep.inventory import ImageInventory
from opm_engine.writers.upkeep.journals import Worth, examine, judged

RECOVERED = "recovered"
"""Of a frame: it is there, and at least a part of what was known of it is lost."""

_DROPPED = Worth.WRONG, Worth.UNREADABLE


def mend_journal(image: ImageInventory, stream: Stream) -> Iterator[str]:
    """Mend the journal of one image; yield what was done, in words."""
    path = image.folder / ARRAY / FRAMES
    name = f"{FRAMES} of position {image.position}"
    found = examine(path, image.present, stream)
    if not found.is_file:
        yield f"renamed {name} to {set_aside(path).name}: it is no file"
    if found.n_torn:
        os.truncate(path, found.end)
        yield f"cut a torn line off {name}"
    if found.has_wrong_lines:
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
    untold = np.argwhere(found.untold)
    if len(untold):
        _add(path, stream, image.position, untold.tolist())
        yield f"added {len(untold)} lines to {name}: what they told is lost"


def _rewrite(path: Path, image: ImageInventory, stream: Stream) -> None:
    """Keep the lines that are right; say before those that lack a common line so."""
    new = path.with_name(f"{path.name}.new")
    told = np.zeros_like(image.present)
    is_marked = False
    with new.open("wb") as kept:
        for line, worth in judged(path, image.present, stream, told):
            if worth is Worth.PARTIAL and not is_marked:
                kept.write(to_line({COMMON: {RECOVERED: True}}))
            is_marked = worth is Worth.PARTIAL or (is_marked and worth in _DROPPED)
            if worth not in _DROPPED:
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
