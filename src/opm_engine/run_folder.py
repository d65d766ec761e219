"""The folder of an acquisition: what it is called, what may go there, what stays.

Separate from the acquisition, which runs: all of this is decided before, or mended
after. Knows file names, not what is in the datasets.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import tomli_w

from opm_engine.writers import room
from opm_engine.writers.lock import StoreLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import useq

    from opm_engine.config import Microscope
    from opm_engine.plan import ScanPlan
    from opm_engine.writers.shards.sink import Codec

RAW, DESKEWED = "raw.ome.zarr", "deskewed.ome.zarr"
MICROSCOPE, SEQUENCE = "microscope.toml", "sequence.yaml"
LOG, PICTURE = "acquisition.log", "projections.png"
NAMES = (RAW, DESKEWED, MICROSCOPE, SEQUENCE, LOG, PICTURE)


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Check that nothing would be overwritten that may not be.

    Raises
    ------
    NotADirectoryError
        If it is a file.
    FileExistsError
        If it holds one of our files, unless ``overwrite`` is set.
    """
    if out.exists() and not out.is_dir():
        msg = f"{out} is a file; choose a folder"
        raise NotADirectoryError(msg)
    existing = [name for name in NAMES if (out / name).exists()]
    if existing and not overwrite:
        msg = f"{out} already holds {', '.join(existing)}; choose another folder"
        raise FileExistsError(msg)


def refuse_too_small(out: Path, plan: ScanPlan, codec: Codec) -> None:
    """Check that raw and deskewed data together may fit; what they replace is free.

    Each writer looks for itself alone.

    Raises
    ------
    OSError
        ENOSPC, with the numbers.
    """
    stream, geometry = plan.stream(), plan.geometry
    streams = {out / RAW: stream}
    if plan.makes_volumes:
        lengths = {p.n_planes or geometry.n_planes for p in stream.positions}
        longest = geometry.model_copy(update={"n_planes": max(lengths)})
        streams[out / DESKEWED] = stream.model_copy(
            update={
                "kind": "volumes",
                "shape": longest.volume_shape(),
                "scale_um": (geometry.pixel_size_um,) * 3,
            }
        )
    compressed, angle_deg = codec != "none", geometry.angle_deg
    needs = {
        path: room.least_bytes(stream, compressed=compressed, angle_deg=angle_deg)
        for path, stream in streams.items()
    }
    room.refuse_too_small(needs, compressed=compressed)


@contextmanager
def claimed(
    out: Path, has_begun: Callable[[], bool], *, overwrite: bool
) -> Iterator[None]:
    """Have the folder to oneself, and leave nothing of a run that never began.

    What a run made that was refused before its first frame is removed, or a mended
    second try would find its files in the way.

    Raises
    ------
    BlockingIOError
        If somebody else, in this process or another, acquires into it.
    OSError
        If it cannot be made; see also `refuse_existing`.
    """
    refuse_existing(out, overwrite=overwrite)
    made_folder = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    with StoreLock(out):
        refuse_existing(out, overwrite=overwrite)  # it was not ours before
        before = {name for name in NAMES if (out / name).exists()}
        try:
            yield
        except BaseException:
            if not has_begun():
                for path in (out / name for name in NAMES if name not in before):
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink(missing_ok=True)
                if made_folder and not any(out.iterdir()):
                    out.rmdir()
            raise


def describe(out: Path, microscope: Microscope, sequence: useq.MDASequence) -> None:
    """Put microscope and sequence beside the data."""
    table = microscope.model_dump(mode="json", exclude_none=True)
    (out / MICROSCOPE).write_text(tomli_w.dumps(table), encoding="utf-8")
    text = sequence.yaml(exclude_defaults=True) or ""
    (out / SEQUENCE).write_text(text, encoding="utf-8")


@contextmanager
def logged(out: Path) -> Iterator[None]:
    """Write what this package and pymmcore-plus log to a file."""
    handler = logging.FileHandler(out / LOG, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours, theirs = logging.getLogger("opm_engine"), logging.getLogger("pymmcore-plus")
    level = ours.level
    ours.setLevel(logging.INFO)
    with ExitStack() as leaving:
        leaving.callback(handler.close)
        leaving.callback(ours.setLevel, level)
        for source in (ours, theirs):
            source.addHandler(handler)
            leaving.callback(source.removeHandler, handler)
        yield
