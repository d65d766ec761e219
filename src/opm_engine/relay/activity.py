"""`Activity`: whether a run goes on, and in whose thread.

Separate because signals of a second run come through the same connection and have to
be told from those of the first. Knows nothing of what a run does.
"""

from __future__ import annotations

import threading


class Activity:
    """Whether a run goes on.

    Attributes
    ----------
    running : bool
    thread : Thread or None
        That started this run, or the last.
    """

    def __init__(self) -> None:
        self.running = False
        self.thread: threading.Thread | None = None

    def begin(self) -> None:
        """Let this thread's run begin."""
        self.thread = threading.current_thread()
        self.running = True

    def end(self) -> None:
        """Let the run end."""
        self.running = False

    def is_elsewhere(self) -> bool:
        """Whether a run goes on in another thread, so that this one's is a second."""
        thread = self.thread
        return (
            self.running
            and thread is not None
            and thread is not threading.current_thread()
            and thread.is_alive()
        )
