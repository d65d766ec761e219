"""What is known of each frame, in one file per image: a line per frame, appended.

Separate from the pixels, because lines are made by the thread that knows the frame and
written by the one that has its pixels on disk. Knows nothing of pixels.

The file holds JSON Lines. The first says ``{"common": {…}}``: all that is known of the
image's first frame but its index. Each further line is an index and what differs from
the first; null stands for what is not known of this frame. A crash can tear but the
last line. `opm_engine.writers.reading.read_frames` puts both together again.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opm_engine.plan import BLOCK, Place

if TYPE_CHECKING:
    import useq

FRAMES = "frames.jsonl"
"""Name of the file, in the folder of the array."""

COMMON = "common"
INDEX = "index"
TAGS = "camera_metadata"

MAX_OPEN = 64
"""Files that are open at a time; a run may have thousands of positions."""

MS_DECIMALS, UM_DECIMALS = 3, 4

Record = dict[str, Any]


class FrameJournal:
    """Keeps the lines of all positions of a run.

    `line` and `add` may be called from different threads, each from one at a time.

    Parameters
    ----------
    folders : sequence of Path
        Array of each position.
    on_item : callable, optional
        Called with the place of each item that is on disk, after its line; must be
        quick.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        on_item: Callable[[Place], None] = lambda place: None,
    ) -> None:
        self._folders = folders
        self._on_item = on_item
        self._common: dict[int, Record] = {}
        self._files: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def line(
        self,
        position: int,
        index: Mapping[str, int],
        event: useq.MDAEvent,
        meta: Mapping[str, Any],
    ) -> bytes:
        """Put what is known of a frame into a line; the first begins the file.

        Parameters
        ----------
        position : int
        index : mapping
            Of the event.
        event : useq.MDAEvent
            Where the frame was planned.
        meta : mapping
            As pymmcore-plus hands it on; what it lacks is left out.

        Raises
        ------
        OSError
            If the file cannot be begun.
        """
        record = record_of(event, meta)
        common = self._common.get(position)
        if common is None:
            common = self._common[position] = record
            self._append(position, to_line({COMMON: record}))
        return to_line({INDEX: dict(index), **_difference(common, record)})

    def add(self, place: Place, line: bytes) -> None:
        """Append the line of an item that is on disk.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        self._append(place.position, line)
        self._on_item(place)

    def close(self) -> None:
        """Close all files; may be called twice."""
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])

    def _append(self, position: int, line: bytes) -> None:
        with self._lock:
            file = self._file(position)
            n_written = os.write(file, line)
        if n_written < len(line):
            # The disk is full; to go on would make one line of two.
            msg = f"{self._folders[position] / FRAMES}: no room for a line"
            raise OSError(msg)

    def _file(self, position: int) -> int:
        file = self._files.pop(position, None)
        if file is None:
            if len(self._files) >= MAX_OPEN:
                os.close(self._files.popitem(last=False)[1])
            path = self._folders[position] / FRAMES
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            file = os.open(path, flags, 0o666)
        self._files[position] = file  # the last used is the last to be closed
        return file


def record_of(event: useq.MDAEvent, meta: Mapping[str, Any]) -> Record:
    """Return what is known of a frame but its index, ready for JSON.

    ``x_um``, ``y_um`` and ``z_um`` are where it was planned or, where the plan leaves
    the stage alone, where the stage was.
    """
    record: Record = {}
    for name in ("runner_time_ms", "exposure_ms"):
        if (value := meta.get(name)) is not None:
            record[name] = round(value, MS_DECIMALS)
    stage = meta.get("position") or {}
    for axis in "xyz":
        value_um = getattr(event, f"{axis}_pos", None)
        if value_um is None:
            value_um = stage.get(axis)
        if value_um is not None:
            record[f"{axis}_um"] = round(value_um, UM_DECIMALS)
    if tags := meta.get(TAGS):
        record[TAGS] = tags
    extra = {n: v for n, v in (meta.get("extra") or {}).items() if n != BLOCK}
    if extra:
        record["extra"] = json.loads(_encode(extra))  # to compare it as it is told
    return record


def frames_of(path: Path) -> Iterator[Record]:
    """Yield ``index`` and what is known of each frame; passes over a torn line.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    common: Record = {}
    with path.open("rb") as lines:
        for line in lines:
            entry = from_line(line)
            if COMMON in entry:
                common = entry[COMMON]
            elif INDEX in entry:
                yield _merged(common, entry)


def to_line(entry: Record) -> bytes:
    """Return a line of the file."""
    return _encode(entry).encode() + b"\n"


def from_line(line: bytes) -> Record:
    """Return what a line says; nothing, if it is torn."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _difference(common: Record, record: Record) -> Record:
    different = {
        name: value
        for name, value in record.items()
        if name == TAGS or common.get(name) != value
    }
    if not common.keys() <= record.keys():
        different |= dict.fromkeys(common.keys() - record.keys())
    if (tags := record.get(TAGS)) and (first := common.get(TAGS)):
        changed = {n: v for n, v in tags.items() if first.get(n) != v}
        if not first.keys() <= tags.keys():
            changed |= dict.fromkeys(first.keys() - tags.keys())
        different[TAGS] = changed
        if not changed:
            del different[TAGS]
    return different


def _merged(common: Record, entry: Record) -> Record:
    whole = {**common, **entry}
    if tags := entry.get(TAGS):
        whole[TAGS] = _known({**common.get(TAGS, {}), **tags})
    return _known(whole)


def _known(record: Record) -> Record:
    return {name: value for name, value in record.items() if value is not None}


def _plain(value: Any) -> Any:
    """Return what JSON has no word for, such as numpy's numbers, in its words."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


_encode = json.JSONEncoder(separators=(",", ":"), default=_plain).encode
