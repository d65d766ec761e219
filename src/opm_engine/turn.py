"""`Turn`: one run at a time.

Separate from the engine because it is about threads alone. pymmcore-plus's runner has
no such guard: a second run would end the first without a word, and even one that the
engine refuses would leave the first without its file and deaf to a cancel.
"""

from __future__ import annotations

import sys
import threading
from functools import wraps
from typing import Any

from pymmcore_plus.mda import MDARunner

_RUN = MDARunner.run.__code__


class Turn:
    """Whose run it is: a thread's, from the start of its run to its announced end.

    Attributes
    ----------
    number : int
        Of the run in progress, or of the last one; counted from 1.
    """

    def __init__(self) -> None:
        self._owner: threading.Thread | None = None
        self.number = 0

    @property
    def running(self) -> int | None:
        """Number of the run in progress; None if there is none. Takes no lock."""
        return self.number if self._owner is not None else None

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread runs."""
        return self._owner is threading.current_thread()

    def refuse_second(self, allowed: int = 0) -> None:
        """Raise if a run is in progress, in another thread or further up in this one.

        Parameters
        ----------
        allowed : int
            Runs in this thread's stack: 1 for the one that asks.

        Raises
        ------
        RuntimeError
            Says what to do.
        """
        inside = runs_in_stack() > allowed
        if self.is_mine and not inside:
            self._owner = None  # interrupted, so its end was never announced
        elif self._owner is not None and self._owner.is_alive():
            msg = "a run is in progress; wait for it, or cancel it"
            raise RuntimeError(msg)

    def take(self, allowed: int = 0) -> None:
        """Start a run in the calling thread; see `refuse_second`."""
        self.refuse_second(allowed)
        self._owner = threading.current_thread()
        self.number += 1

    def release(self) -> None:
        """End the run."""
        self._owner = None

    def guard(self, runner: MDARunner) -> None:
        """Let a runner refuse a second run before that touches the first.

        It also forgets a run that was interrupted, whose end is never announced.
        """
        run = runner.run

        @wraps(run)
        def guarded(*args: Any, **kwargs: Any) -> None:
            self.refuse_second()
            try:
                run(*args, **kwargs)
            finally:
                if self.is_mine:
                    self.release()

        vars(runner)["run"] = guarded


def runs_in_stack() -> int:
    """Count the runs that the calling thread is in the middle of.

    A handler in the runner's thread, or an action, is called from within one.
    """
    n_runs, frame = 0, sys._getframe()
    while frame is not None:
        n_runs += frame.f_code is _RUN
        frame = frame.f_back  # type: ignore[assignment]
    return n_runs
