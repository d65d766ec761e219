"""`blocking`: names the handler that a thread is in the middle of.

Separate because it is about Python's stacks alone.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def blocking(thread: int) -> str:
    """Name what a thread is in the middle of: the handler that a runner has called.

    Parameters
    ----------
    thread : int
        Identifier of the thread.

    Returns
    -------
    str
        Qualified name, file and line of the outermost function that belongs neither
        to the runner nor to the libraries that carry its signals.
    """
    found: FrameType | None = None
    frame = sys._current_frames().get(thread)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module == "pymmcore_plus.mda._runner":
            break
        if module.partition(".")[0] not in ("pymmcore_plus", "psygnal", "threading"):
            found = frame
        frame = frame.f_back
    if found is None:
        return "a handler"
    code = found.f_code
    module = found.f_globals.get("__name__", "?")
    return f"{module}.{code.co_qualname} ({code.co_filename}:{found.f_lineno})"
