"""`StoreLock`: one writer per store, and nobody mends what is being written.

Separate because whoever writes a store, whoever repairs it and whoever replays it must
agree on it. Knows nothing of what a store holds.

The lock is the operating system's own, so it ends with the process that holds it,
however that ends, and there is never a stale one. (A child that was forked meanwhile
holds it too, until it ends or starts another program.)
"""

from __future__ import annotations

import errno
import os
import sys
from hashlib import sha1
from pathlib import Path
from typing import Self

if sys.platform == "win32":
    import msvcrt
    import tempfile
else:
    import fcntl

_CANNOT = {errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.EBADF, errno.ENOSYS}
"""What file systems without locks answer."""


class StoreLock:
    """The right to change a store, from now until `release`; a context manager too.

    On a file system without locks it is granted to anyone.

    Parameters
    ----------
    store : Path
        A folder that exists.
    shared : bool
        The right to find it unchanged instead, which many may have at a time. Windows
        has no such locks: there, only who writes it already is refused.

    Raises
    ------
    BlockingIOError
        If somebody else, in this process or another, is writing it, or reads it for a
        replay.
    """

    def __init__(self, store: Path, *, shared: bool = False) -> None:
        self._file = _open(store)
        try:
            _lock(self._file, shared=shared)
        except OSError as error:
            if error.errno in _CANNOT:
                return
            self.release()
            if error.errno not in {errno.EAGAIN, errno.EACCES, errno.EDEADLK}:
                raise
            msg = f"{store} is being written" + " or replayed" * (not shared)
            msg += ": end that run first"
            raise BlockingIOError(errno.EAGAIN, msg) from error

    def release(self) -> None:
        """Let others have it; may be called twice."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


if sys.platform == "win32":

    def _open(store: Path) -> int:
        # Folders cannot be locked there, and zarr warns of foreign files in a store.
        name = sha1(os.fsencode(store.resolve()), usedforsecurity=False).hexdigest()
        lock = Path(tempfile.gettempdir()) / f"opm-engine-{name}.lock"
        return os.open(lock, os.O_RDWR | os.O_CREAT)

    def _lock(file: int, *, shared: bool) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        if shared:
            msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:

    def _open(store: Path) -> int:
        return os.open(store, os.O_RDONLY)

    def _lock(file: int, *, shared: bool) -> None:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
