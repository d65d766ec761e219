"""How fast the disk is without anybody's format, and how much room it has.

Separate from what is measured on it. Direct writes where the platform has them, so
that it is the disk's rate and not the page cache's.
"""

from __future__ import annotations

import mmap
import os
import shutil
import time
from pathlib import Path

import psutil

BLOCK_BYTES = 8 * 2**20

PROBE_BYTES = 2 * 10**9


def write_mb_s(folder: Path, content: bytes, n_bytes: int = PROBE_BYTES) -> float:
    """Sequential rate, in large blocks of some content.

    Parameters
    ----------
    folder : Path
    content : bytes
        Repeated to fill a block.
    n_bytes : int
        To write, in whole blocks.
    """
    path = folder / "probe"
    block = mmap.mmap(-1, BLOCK_BYTES)
    block.write((content * (-(-BLOCK_BYTES // len(content))))[:BLOCK_BYTES])
    flags = os.O_WRONLY | os.O_CREAT
    try:
        file = os.open(path, flags | getattr(os, "O_DIRECT", 0))
    except OSError:  # the file system has no direct writes
        file = os.open(path, flags)
    try:
        began_s, written = time.perf_counter(), 0
        while written < n_bytes:
            written += os.write(file, block)
        os.fsync(file)
        return written / (time.perf_counter() - began_s) / 1e6
    finally:
        os.close(file)
        path.unlink()


def write_all() -> None:
    """Have the system write what it holds back, where one can ask for that."""
    if hasattr(os, "sync"):
        os.sync()


def refuse_too_small(folder: Path, n_bytes: int) -> None:
    """Check that there is room.

    Raises
    ------
    SystemExit
        With the numbers.
    """
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        msg = (
            f"{folder} has {free / 1e9:.1f} GB free, {n_bytes / 1e9:.1f} GB are needed:"
            " choose another --dir, fewer --seconds or a lower --max-rate"
        )
        raise SystemExit(msg)


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder lies on."""
    parts = psutil.disk_partitions(all=True)
    mounts = {Path(part.mountpoint): part.fstype for part in parts}
    here = folder.resolve()
    return next((mounts[p] for p in (here, *here.parents) if p in mounts), "unknown")
