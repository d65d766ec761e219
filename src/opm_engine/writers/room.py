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

RESERVE_SHARE, RESERVE_BYTES = 0.02, 10**10
"""Of a disk, the smaller of both is left to frames by what can wait."""

RESERVE_SHARDS = 4
"""So many are left in any case: frames may be that far ahead of who looks."""

logger = logging.getLogger(__name__)


def least_bytes(
    stream: Stream,
    *,
    compressed: bool,
    angle_deg: float | None = None,
    levels: float = 0.0,
) -> int:
    """Return how much room pixels need; if compressed, what no codec can fall below.

    Parameters
    ----------
    stream : Stream
    compressed : bool
    angle_deg : float, optional
        Between light sheet and coverslip. Voxels of volumes that lie outside the scan
        are 0, and take no room if they are compressed.
    levels : float
        Bytes of smaller levels for each of full size.
    """
    full = n_bytes(stream)
    if not compressed:
        return full + int(full * levels)
    lit = 1.0
    if stream.kind == "volumes" and angle_deg is not None:
        (n_z, n_y, _), (z_um, y_um, _) = stream.shape, stream.scale_um
        lit = max(0.0, 1 - n_z * z_um / tan(radians(angle_deg)) / (n_y * y_um))
    # Every mean over 2 by 2 counts has a bit of noise less: of the 4 per pixel that
    # are left at best 3, 2, …, which is more than half of what levels were without.
    return int(full * (1 + levels / 2) * lit) // COMPRESSION


def refuse_too_small(
    needs: Mapping[Path, int], *, compressed: bool, levels: bool = False
) -> None:
    """Check that the disk may hold stores together; what they replace counts as free.

    Parameters
    ----------
    needs : Mapping
        Path of each store, on one disk: `least_bytes` of its pixels.
    compressed : bool
        Whether that is what is left at best.
    levels : bool
        Whether smaller levels are part of it.

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
        well = ", smaller levels included" * levels
        well += ", well compressed" * compressed
        raise OSError(errno.ENOSPC, f"{each}{well}; {there} has {_amount(n_free)}")


def refuse_nearly_full(store: Path, shard_bytes: int) -> None:
    """Check that what can wait takes no room that frames may need.

    Parameters
    ----------
    store : Path
    shard_bytes : int
        Largest file of frames.

    Raises
    ------
    OSError
        ENOSPC, with the numbers; also if there is no such store.
    """
    disk = shutil.disk_usage(store)
    share = min(RESERVE_SHARE * disk.total, RESERVE_BYTES)
    if disk.free < max(share, RESERVE_SHARDS * shard_bytes):
        msg = f"its disk is nearly full: {_amount(disk.free)} are left for frames"
        raise OSError(errno.ENOSPC, f"{store}: {msg}")


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
