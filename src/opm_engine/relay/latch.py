"""`Latch`: the first error of a run, and the one that its caller has not seen yet.

Separate because two questions are easily mixed: did this run fail, and does somebody
still have to be told. Knows no branches.
"""

from __future__ import annotations

import threading


class Latch:
    """Keeps the first error of a run.

    Attributes
    ----------
    error : Exception or None
        First of this run, or of the last.
    owed : Exception or None
        First since `watch` that has not been raised in the thread that called it. For
        example: a run in another thread fails and its engine raises `error` there;
        whoever connected the relay has not seen that, so that leaving the connection
        still raises it.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.owed: Exception | None = None
        self._lock = threading.Lock()
        self._watching_thread = 0

    def watch(self) -> None:
        """Owe errors to this thread from now on."""
        self.owed, self._watching_thread = None, threading.get_ident()

    def release(self) -> None:
        """Begin a run without an error; what is owed stays so."""
        self.error = None

    def set(self, error: Exception) -> None:
        """Keep an error, unless there is one."""
        with self._lock:
            self.error = self.error or error
            self.owed = self.owed or error

    def owe(self, error: Exception) -> None:
        """Owe an error that is not the run's."""
        with self._lock:
            self.owed = self.owed or error

    def raise_if_set(self) -> None:
        """Raise the run's error."""
        if self.error is None:
            return
        if self.owed is self.error and threading.get_ident() == self._watching_thread:
            self.owed = None
        raise self.error


def raisable(error: BaseException, branch: str) -> Exception:
    """Return an error that passes through an engine's generator and the runner."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    raised = RuntimeError(f"branch {branch!r} raised {error!r}")
    raised.__cause__ = error
    return raised
