"""The store that is filled: as the live writer makes it, and gone on with later.

Separate from the run because it decides what may be gone on with: only what was begun
with the same planes and the same options. A note in the folder of the first array,
where no reader looks, says what that was, and whether the store is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import useq

from opm_engine.plan import BLOCK, Place
from opm_engine.recording import SEQUENCE
from opm_engine.reprocess.source import index_of
from opm_engine.writers import OMEZarrWriter, paths
from opm_engine.writers.journal import FRAMES, FrameJournal
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.reading import array_folders, read_frames
from opm_engine.writers.shelf import Shelf
from opm_engine.writers.store import Times

if TYPE_CHECKING:
    from opm_engine.processing.scan import Scan
    from opm_engine.recording import Recording
    from opm_engine.writers.shards.sink import Codec

NOTE = "reprocess.json"
"""Name of the note."""

_COMPLETE = "complete"
"""Key in the note: whether nothing is left to do."""

_HEAD_BYTES = 2**16
"""Of the file that tells of frames: enough to tell two runs apart."""

Gaps = Mapping[Place, tuple[int, ...]]
"""Of each volume that is made, the planes that it lacks."""


def open_target(
    out: Path,
    recording: Recording,
    scan: Scan,
    gaps: Gaps,
    *,
    codec: Codec,
    shard_bytes: int | None,
    overwrite: bool,
    judge: Callable[[Shelf], object],
) -> bool:
    """Make the store to fill, or find it begun with the same planes and options.

    Parameters
    ----------
    out : Path
    recording : Recording
    scan : Scan
    gaps : mapping
    codec : {"lz4", "zstd", "none"}
    shard_bytes : int, optional
        Largest file, uncompressed.
    overwrite : bool
        Begin anew, whatever zarr store is there, unless it is to be gone on with.
    judge : callable
        Called with how a new store would be written, while there is none and what it
        replaces is still there; what it raises is passed on.

    Returns
    -------
    bool
        Whether it was completed before.

    Raises
    ------
    BlockingIOError
        If somebody is writing what is there.
    FileExistsError
        If something else is there.
    OSError
        If it cannot be made, or not fit on the disk.
    ValueError
        If it was begun with other planes or options; names them.
    """
    asked: dict[str, Any] = {
        "planes": _fingerprint(recording, gaps),
        "geometry": scan.geometry.model_dump(mode="json"),
        **scan.volume_block(None)["deskew"],
        "codec": codec,
        "shard_bytes": shard_bytes,
    }
    asked = json.loads(json.dumps(asked))
    begun = _begun(out)
    if begun is not None:
        is_complete = bool(begun.pop(_COMPLETE, False))
        if not overwrite:
            _refuse_other(out, begun, asked)
            return is_complete
        if begun == asked and not is_complete:
            return False
    paths.refuse_existing(out, overwrite=overwrite)
    new = _new(out)
    writer = OMEZarrWriter(new, codec=codec, shard_bytes=shard_bytes)
    paths.clear(new)
    new.mkdir(parents=True)
    try:
        judge(Shelf.planned(new, scan.volumes(), codec, shard_bytes))
    finally:
        new.rmdir()
    _clear(out)
    _create(writer, recording, scan)
    _write_note(array_folders(new)[0], {**asked, _COMPLETE: False})
    new.rename(out.resolve())
    return False


def finish(out: Path, recording: Recording, scan: Scan, gaps: Gaps) -> None:
    """Tell of every volume what a live writer would have told, and end the store.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    folders = array_folders(out)
    note = json.loads((folders[0] / NOTE).read_text("utf-8"))
    _write_note(folders[0], {**note, _COMPLETE: False})
    for folder in folders:
        (folder / FRAMES).unlink(missing_ok=True)
    journal = FrameJournal(folders)
    try:
        for position in range(len(scan.planes.positions)):
            for place, told in _last_planes(recording, position, gaps):
                index, event, meta = _volume(recording, place, told, gaps[place])
                journal.add(place, journal.line(position, index, event, meta))
    finally:
        journal.close()
    _write_note(folders[0], {**note, _COMPLETE: True})


def _fingerprint(recording: Recording, gaps: Gaps) -> str:
    """Return what tells these planes from others."""
    digest = hashlib.sha256(json.dumps(recording.block, sort_keys=True).encode())
    digest.update(repr(sorted(gaps.items())).encode())
    told = array_folders(recording.store)[0] / FRAMES
    if told.exists():
        with told.open("rb") as file:
            digest.update(file.read(_HEAD_BYTES))
    return digest.hexdigest()


def _begun(out: Path) -> dict[str, Any] | None:
    """Return the note of a store; None if there is none, or it was not begun here."""
    try:
        note = array_folders(out)[0] / NOTE
        begun: dict[str, Any] = json.loads(note.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, LookupError, ValueError):
        return None
    return begun


def _write_note(array: Path, note: dict[str, Any]) -> None:
    new = array / f".{NOTE}.new"
    new.write_text(json.dumps(note), encoding="utf-8")
    new.replace(array / NOTE)


def _refuse_other(out: Path, begun: dict[str, Any], asked: dict[str, Any]) -> None:
    names = [x for x in {**begun, **asked} if begun.get(x) != asked.get(x)]
    if names:
        listed = "; ".join(f"{x} = {begun.get(x)}, now {asked.get(x)}" for x in names)
        msg = (
            f"{out} was begun with {listed}: go on with the same, choose another path, "
            "or overwrite it"
        )
        raise ValueError(msg)


def _new(out: Path) -> Path:
    """Return where a new store is made."""
    out = out.resolve()
    return out.with_name(f"{out.name}.new")


def _clear(out: Path) -> None:
    """Remove what is replaced.

    It goes first where the new store is made: whenever that is broken off, the next try
    finds either all of it or nothing under its name. It goes before the new one is
    made, so that its room counts.
    """
    out, new = out.resolve(), _new(out)
    if out.is_dir():
        StoreLock(out).release()  # refuses while somebody writes it
        out.rename(new)
        paths.clear(new)


def _create(writer: OMEZarrWriter, recording: Recording, scan: Scan) -> None:
    """Have the live writer make the store of a run in which nothing came."""
    told = SEQUENCE in recording.block
    sequence = recording.sequence if told else useq.MDASequence()
    block = scan.volume_block(recording.block)
    writer.sequenceStarted(sequence, {"extra": {BLOCK: block}})
    for flag in recording.flags:
        writer.noteReady(flag)
    writer.sequenceFinished(sequence)
    arrays = array_folders(writer.path)
    Times(arrays, 0).cut(recording.stream.n_times)


def _last_planes(
    recording: Recording, position: int, gaps: Gaps
) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield what was told of the last plane of each volume, in their order."""
    stream = recording.stream
    latest: dict[Place, tuple[int, dict[str, Any]]] = {}
    for told in read_frames(recording.store, position):
        place = stream.place(told["index"])
        volume = place._replace(plane=0)
        if volume in gaps and place.plane >= latest.get(volume, (0,))[0]:
            latest.pop(volume, None)  # so that the order is that of last planes
            latest[volume] = place.plane, told
    untold = (place for place in gaps if place.position == position)
    for place, (_, told) in latest.items():
        yield place, told
    for place in untold:
        if place not in latest:
            yield place, {}


def _volume(
    recording: Recording, place: Place, told: dict[str, Any], lost: Iterable[int]
) -> tuple[dict[str, int], useq.MDAEvent, dict[str, Any]]:
    """Return index, event and metadata that the live deskew hands on."""
    stream = recording.stream
    index = told.get("index") or index_of(stream, place)
    index = {axis: number for axis, number in index.items() if axis != "z"}
    deskew: dict[str, Any] = {}
    flags = [
        f.message for f in recording.flags if stream.place(f.index)[:2] == place[:2]
    ]
    if flags:
        deskew["flags"] = flags
    if lost:
        deskew["missing_planes"] = list(lost)
    extra = {**told.get("extra", {}), **({"deskew": deskew} if deskew else {})}
    known = ("runner_time_ms", "exposure_ms", "camera_metadata")
    meta = {name: told[name] for name in known if name in told}
    meta["position"] = {axis: told.get(f"{axis}_um") for axis in "xyz"}
    meta["extra"] = extra
    return index, useq.MDAEvent(index=index), meta
