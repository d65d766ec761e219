"""`ProgressFile`: tells whoever reads a file how far a run has come, from outside it.

Separate because it must go on whatever the run does, in a thread of its own. Knows a
number to ask for, and nothing of what is counted.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

PERIOD_S = 0.025
"""Between two lines; a quarter of what is promised: threads are not always on time."""


class ProgressFile:
    """Appends ``{"acknowledged": N}`` at least every 100 ms, while it is entered.

    The first line comes on entering, the last one on leaving.

    Parameters
    ----------
    path : Path
        Made if missing, its folders too; what is in it stays.
    count : callable
        Returns N; quick, and called from another thread.

    Raises
    ------
    OSError
        On entering, if the file cannot be written. On leaving, if later lines could
        not be written, unless the block itself raised.
    """

    def __init__(self, path: Path, count: Callable[[], int]) -> None:
        self._path = path
        self._count = count
        self._file = -1
        self._error: OSError | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            self._tell(0)
        except OSError:
            os.close(self._file)
            raise
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._ending.set()
        self._thread.join()
        os.close(self._file)
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._ending.wait(PERIOD_S):
                self._tell(self._count())
            self._tell(self._count())
        except OSError as error:  # the run is worth more than word of it
            self._error = error

    def _tell(self, n: int) -> None:
        # One call per line, so that a line is there whole or not at all.
        os.write(self._file, json.dumps({"acknowledged": n}).encode() + b"\n")
