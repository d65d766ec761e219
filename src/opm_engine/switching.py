"""`quick_switching`: threads take turns more often while a burst plays.

Separate because the interval belongs to the whole process: it is lowered by the first
burst and set back by the last, whichever engine or thread they belong to, in whatever
order they end.
"""

from __future__ import annotations

import math
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SWITCH_S = 5e-4
"""Longest wait for a busy thread's interpreter lock; Python's own is ten times that."""

HALF_US = 5e-7

_lock = threading.Lock()
_found_s: list[float] = []
"""What each burst that plays found; the last to end takes what the first one found."""


@contextmanager
def quick_switching() -> Iterator[None]:
    """Lower ``sys.getswitchinterval()`` to ``SWITCH_S``, if it is longer.

    Afterwards it is what it was, unless somebody else has set it meanwhile.
    """
    with _lock:
        _found_s.append(sys.getswitchinterval())
        if _found_s[-1] > SWITCH_S:
            sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        with _lock:
            before_s = _found_s.pop()
            untouched = math.isclose(sys.getswitchinterval(), SWITCH_S)
            if not _found_s and untouched:
                sys.setswitchinterval(before_s + HALF_US)  # it rounds down
