"""`Interrupts`: Ctrl-C and SIGTERM become a cancel while a run is in progress.

Separate because signal handlers are the process's, not the engine's. A handler must
neither cancel nor wake anybody: the locks of the runner and of threading are not
reentrant, and it may have interrupted whoever holds one. It leaves word; the
supervisor's thread comes by every few milliseconds and attends to it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_S = 20.0
"""How long a cancelled run may take to close its files before SIGTERM ends the process
anyway; light has long been off."""

POLL_S = 0.02


class Interrupts:
    """Signal handlers from ``install`` to ``restore``.

    The first signal in a run cancels it; a second one does what it does otherwise.
    After a run that SIGTERM has cancelled the process exits with status 143.

    Parameters
    ----------
    run : callable
        Number of the run in progress, or None; must take no lock.
    cancel : callable
        Cancels it.
    is_idle : callable
        Whether the run and its handlers are through.
    """

    def __init__(
        self,
        run: Callable[[], int | None],
        cancel: Callable[[], None],
        is_idle: Callable[[], bool],
    ) -> None:
        self._run = run
        self._cancel = cancel
        self._is_idle = is_idle
        self._before: dict[int, Any] = {}
        self._word: tuple[int, int] | None = None
        self._attended: tuple[int, int] | None = None

    def install(self) -> None:
        """Take the signals over; only the main thread can, others do nothing.

        May be called twice.
        """
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != self._handle:
                    self._before[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Give the signals back. May be called twice."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                if signal.getsignal(number) == self._handle:
                    signal.signal(number, handler)
        self._before.clear()

    def what_ended(self, run: int) -> int | None:
        """Return the signal that has cancelled a run, if one has."""
        return self._word[1] if self._word and self._word[0] == run else None

    def attend(self) -> None:
        """Cancel the run if there is word to do so. Called from the supervisor.

        Again and again until it ends: the runner loses what comes just before an event.
        """
        word = self._word
        if word is None or word[0] != self._run():
            return
        self._cancel()
        if word[1] == signal.SIGTERM and word != self._attended:
            self._attended = word
            threading.Thread(target=self._leave, name="leave", daemon=True).start()

    def _handle(self, number: int, frame: Any) -> None:
        run = self._run()
        if run is not None and (self._word is None or self._word[0] != run):
            self._word = run, number
            return
        before = self._before.get(number, signal.SIG_DFL)
        if callable(before):
            before(number, frame)
        elif number == signal.SIGTERM and before is not signal.SIG_IGN:
            raise SystemExit(128 + number)

    def _leave(self) -> None:
        latest_s = time.monotonic() + GRACE_S
        while not self._is_idle() and time.monotonic() < latest_s:
            time.sleep(POLL_S)
        if not self._is_idle():
            os._exit(128 + signal.SIGTERM)
        # not raised here: only the main thread can end the process in good order
        os.kill(os.getpid(), signal.SIGTERM)
