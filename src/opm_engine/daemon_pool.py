"""`DaemonPool` and `Beside`: threads that serve until the interpreter is really gone.

Separate because `concurrent.futures` ends its threads before ``atexit`` functions run,
and those must still reach a board that lives in this process to switch light off; and
because it waits for them at the exit, for ever if a driver hangs.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class DaemonPool(Executor):
    """An executor of daemon threads.

    Parameters
    ----------
    n_threads : int
    name : str
        Of the threads.
    """

    def __init__(self, n_threads: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}_{number}", daemon=True)
            for number in range(n_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Let a thread call ``fn``."""
        future: Future[Any] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - the future's to raise
                future.set_exception(error)
            else:
                future.set_result(result)

        self._jobs.put(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads, after what waits in the queue."""
        for _ in self._threads:
            self._jobs.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class Beside:
    """Something that is done in a thread of its own, or in none if there can be none.

    Parameters
    ----------
    what : callable
    name : str
        Of the thread.
    """

    def __init__(self, what: Callable[[], None], name: str) -> None:
        self._what = what
        self._name = name
        self._done: Future[None] | None = None

    def start(self) -> None:
        """Begin; only now is a thread asked for, which may take its time to come."""
        with suppress(RuntimeError):  # no more threads: `finish` does it
            pool = DaemonPool(1, self._name)
            self._done = pool.submit(self._what)
            pool.shutdown(wait=False)

    def finish(self) -> None:
        """Return when it is done, or do it; raises what it raises."""
        if self._done is None:
            self._what()
        else:
            self._done.result()
