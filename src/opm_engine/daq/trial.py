"""`Trial`: try every step, whatever fails, and raise the first error at the end.

Separate because going dark must not stop half-way. Knows no board.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from opm_engine.daq.protocol import DaqError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Trial:
    """Calls steps one after another and remembers the first `DaqError`."""

    def __init__(self) -> None:
        self._first: DaqError | None = None

    def __call__(self, step: Callable[[], T], times: int = 1) -> T | None:
        """Return what ``step`` returns, None if it failed each of ``times`` times."""
        for _ in range(times):
            try:
                return step()
            except DaqError as error:
                self._first = self._first or error
        return None

    def succeeds(self, step: Callable[[], object], times: int = 1) -> bool:
        """Whether ``step`` did what it should at one of ``times`` times."""

        def done() -> bool:
            step()
            return True

        return bool(self(done, times))

    def finish(self) -> None:
        """Raise the first error, if there was one."""
        if self._first is not None:
            raise self._first
