"""The folder of an acquisition: what it is called, what may go there, what stays.

Separate from the acquisition, which runs: all of this is decided before, or mended
after. Knows file names, not what is in the datasets.
"""

from __future__ import annotations

import errno
import logging
import shutil
from contextlib import ExitStack, contextmanager
from math import prod, radians, sin
from typing import TYPE_CHECKING

import tomli_w

from opm_engine.writers.layout import n_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import useq

    from opm_engine.config import Microscope
    from opm_engine.plan import ScanPlan
    from opm_engine.writers.sink import Codec

RAW, DESKEWED = "raw.ome.zarr", "deskewed.ome.zarr"
MICROSCOPE, SEQUENCE = "microscope.toml", "sequence.yaml"
LOG, PICTURE = "acquisition.log", "projections.png"
NAMES = (RAW, DESKEWED, MICROSCOPE, SEQUENCE, LOG, PICTURE)

COMPRESSION = 4
"""No codec gains more than this on camera counts, whose noise bounds it."""


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

    Each writer looks for itself alone. With a codec only what no compression could
    make fit is refused.

    Raises
    ------
    OSError
        ENOSPC, with the numbers.
    """
    there = next(f for f in (out, *out.absolute().parents) if f.exists())
    stream, geometry = plan.stream(), plan.geometry
    raw = n_bytes(stream)
    deskewed = 0
    if plan.makes_volumes:
        n_volumes = raw / (prod(stream.shape) * geometry.n_planes)
        deskewed = int(n_volumes * prod(geometry.volume_shape()))
    if codec != "none":
        # What lies outside the scan is 0 in the volumes, and takes no room.
        sine = sin(radians(geometry.angle_deg))
        share = abs(geometry.step_um) * sine / geometry.pixel_size_um
        deskewed = min(deskewed, int(raw * share)) // COMPRESSION
        raw //= COMPRESSION
    n_free = shutil.disk_usage(there).free
    n_old = sum(map(size_of, (out / RAW, out / DESKEWED)))
    if raw + deskewed > n_free + n_old:
        well = "" if codec == "none" else ", well compressed"
        msg = (
            f"{out} needs {raw / 1e9:.1f} GB for raw and {deskewed / 1e9:.1f} GB for "
            f"deskewed data{well}; {there} has {(n_free + n_old) / 1e9:.1f} GB"
        )
        raise OSError(errno.ENOSPC, msg)


def size_of(store: Path) -> int:
    """Bytes of all files of a store; 0 if there is none."""
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())


@contextmanager
def nothing_left(out: Path, has_begun: Callable[[], bool]) -> Iterator[None]:
    """Remove what a run made that was refused before its first frame.

    Else a mended second try would find its files in the way.
    """
    before = {name for name in NAMES if (out / name).exists()}
    made_folder = not out.exists()
    try:
        yield
    except BaseException:
        if not has_begun():
            for path in (out / name for name in NAMES if name not in before):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            if made_folder and out.exists() and not any(out.iterdir()):
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
