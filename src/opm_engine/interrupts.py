"""`Interrupts`: Ctrl-C and SIGTERM become a cancel while a run is in progress.

Separate because signal handlers are the process's, not the engine's. A handler must
not cancel itself: the runner's lock is not reentrant, and the handler may have
interrupted whoever holds it. It only leaves word; a thread cancels.
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
    is_running : callable
        Whether a run is in progress.
    cancel : callable
        Cancels it; called from a thread of its own.

    Attributes
    ----------
    latest : signal number or None
        What has cancelled the run, until the next one begins.
    """

    def __init__(
        self, is_running: Callable[[], bool], cancel: Callable[[], None]
    ) -> None:
        self._is_running = is_running
        self._cancel = cancel
        self._before: dict[int, Any] = {}
        self.latest: int | None = None

    def install(self) -> None:
        """Take the signals over; only the main thread can, others do nothing."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Give the signals back. May be called twice."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                if signal.getsignal(number) == self._handle:
                    signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, frame: Any) -> None:
        if self.latest is None and self._is_running():
            self.latest = number
            threading.Thread(
                target=self._end_run, args=(number,), name="interrupt", daemon=True
            ).start()
            return
        before = self._before.get(number, signal.SIG_DFL)
        if callable(before):
            before(number, frame)
        elif number == signal.SIGTERM and before is not signal.SIG_IGN:
            raise SystemExit(128 + number)

    def _end_run(self, number: int) -> None:
        self._cancel()
        if number != signal.SIGTERM:
            return
        latest_s = time.monotonic() + GRACE_S
        while self._is_running() and time.monotonic() < latest_s:
            time.sleep(POLL_S)
        if self._is_running():
            os._exit(128 + number)
        # not raised here: only the main thread can end the process in good order
        os.kill(os.getpid(), number)
