"""`Publisher`: emits a relay's statistics a few times a second while a run goes on.

Separate, and in a thread of its own, so that whoever listens can neither hold up the
run nor spoil it. Knows nothing of what it emits.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from psygnal import EmitLoopError

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD_S = 0.25
PATIENCE_S = 0.25
"""How long the end of a run waits for the last emission."""

logger = logging.getLogger(__name__)


class Publisher:
    """Calls a function about four times a second, and once at the end.

    Parameters
    ----------
    emit : callable
        Errors of its listeners (`EmitLoopError`) are logged.
    """

    def __init__(self, emit: Callable[[], None]) -> None:
        self._emit = emit
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()

    def start(self) -> None:
        """Begin, unless a listener still holds up an earlier run's last emission."""
        if self._thread is not None and self._thread.is_alive():
            logger.warning("a listener blocks: statistics of this run are not emitted")
            return
        self._ending = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._ending,), name="relay-stats", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Emit once more and end; a listener that blocks is left behind."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(PATIENCE_S)

    def _run(self, ending: threading.Event) -> None:
        while not ending.wait(PERIOD_S):
            self._emit_safely()
        self._emit_safely()

    def _emit_safely(self) -> None:
        try:
            self._emit()
        except EmitLoopError as error:
            logger.error("a listener of stats_changed failed", exc_info=error)
