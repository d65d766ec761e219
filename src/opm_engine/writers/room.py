"""Room on the disk: what pixels need at least, and what there is.

Separate from the paths, because whoever writes several stores has to ask for all of
them together. Knows nothing of what a store is made of.
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Mapping
from math import radians, tan
from pathlib import Path

from opm_engine.plan import Stream
from opm_engine.writers.shards.layout import n_bytes

COMPRESSION = 4
"""No codec gains more than this on camera counts, whose noise bounds it."""

logger = logging.getLogger(__name__)


def least_bytes(
    stream: Stream, *, compressed: bool, angle_deg: float | None = None
) -> int:
    """Return how much room pixels need; if compressed, what no codec can fall below.

    Parameters
    ----------
    stream : Stream
    compressed : bool
    angle_deg : float, optional
        Between light sheet and coverslip. Voxels of volumes that lie outside the scan
        are 0, and take no room if they are compressed.
    """
    if not compressed:
        return n_bytes(stream)
    lit = 1.0
    if stream.kind == "volumes" and angle_deg is not None:
        (n_z, n_y, _), (z_um, y_um, _) = stream.shape, stream.scale_um
        lit = max(0.0, 1 - n_z * z_um / tan(radians(angle_deg)) / (n_y * y_um))
    return int(n_bytes(stream) * lit) // COMPRESSION


def refuse_too_small(needs: Mapping[Path, int], *, compressed: bool) -> None:
    """Check that the disk may hold stores together; what they replace counts as free.

    Parameters
    ----------
    needs : Mapping
        Path of each store, on one disk: `least_bytes` of its pixels.
    compressed : bool
        Whether that is what is left at best.

    Raises
    ------
    OSError
        ENOSPC, with the numbers.
    """
    n_needed = sum(needs.values())
    there, n_free = _disk(next(iter(needs)))
    if n_needed <= n_free:
        return
    n_free += sum(map(size_of, needs))
    if n_needed > n_free:
        each = " and ".join(f"{path} needs {_amount(n)}" for path, n in needs.items())
        well = ", well compressed" * compressed
        raise OSError(errno.ENOSPC, f"{each}{well}; {there} has {_amount(n_free)}")


def log_times(path: Path, stream: Stream, *, compressed: bool) -> None:
    """Tell how long a run may last whose length is not known."""
    _, n_free = _disk(path)
    per_time = n_bytes(stream) / stream.n_times
    logger.info(
        "%s: how many time points will come is not known; there is room for %d%s",
        path,
        n_free / per_time,
        ", more if they compress well" if compressed else "",
    )


def size_of(store: Path) -> int:
    """Bytes of all files of a store; 0 if there is none."""
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())


def _amount(size: int) -> str:
    if size < 10e9:
        return f"{size / 1e6:.1f} MB"
    return f"{size / 1e9:.1f} GB"


def _disk(path: Path) -> tuple[Path, int]:
    there = next(folder for folder in path.absolute().parents if folder.exists())
    return there, shutil.disk_usage(there).free
