"""The guardian's own process: darkens the board when its parent ends or freezes.

Separate from ``guardian``, which is the parent's half, because it is a program of its
own: outside the parent's process group, session and descendants, with none of its files
open. It answers each heartbeat, and knows neither sequence nor camera.

``python -m opm_engine.daq.guardian_process launch`` starts it and ends at once, so that
it becomes a child of the system; both read their `Duty` from stdin.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

RESTING, WATCHING, STOP = b"r", b"w", b"q"
"""What the parent may say, a byte at a time: two kinds of heartbeat, and the end."""

READY, HEARD, TRIPPED, FAILED = "ready", "heard", "tripped", "failed"
"""First words of the lines that it answers."""


@dataclass(frozen=True)
class Duty:
    """What a guardian is told at its start.

    Attributes
    ----------
    port : int
        Of this machine, where the parent listens.
    token : str
        First line to say there.
    parent : int
        Process id.
    patience_s : float
        Longest time between heartbeats, while light may be on.
    address, deadline_s
        See `Blackout`.
    dark : dict
        See `Dark.to_table`.
    """

    port: int
    token: str
    parent: int
    patience_s: float
    address: str | None
    deadline_s: float
    dark: dict[str, Any]

    @classmethod
    def read(cls) -> Self:
        """Read it from stdin."""
        return cls(**json.load(sys.stdin))

    def to_json(self) -> str:
        """Return what `read` reads."""
        return json.dumps(asdict(self))


def start(action: Literal["launch", "guard"], **files: Any) -> subprocess.Popen[str]:
    """Start this module as a process that no signal to ours reaches.

    It holds nothing of ours open and keeps no folder busy, but imports what we would.

    Parameters
    ----------
    action : str
    **files
        ``stderr``, if anybody reads it.
    """
    files = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **files}
    popen = partial(
        subprocess.Popen[str],
        [sys.executable, "-P", "-m", "opm_engine.daq.guardian_process", action],
        stdin=subprocess.PIPE,
        text=True,
        cwd=Path(os.sep).resolve(),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(_absolute, sys.path))},
        **files,
    )
    if sys.platform != "win32":
        return popen(start_new_session=True)
    flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
    try:
        return popen(creationflags=flags | subprocess.CREATE_BREAKAWAY_FROM_JOB)
    except PermissionError:  # our job lets nobody go
        return popen(creationflags=flags)


def launch(duty: Duty) -> None:
    """Start the guardian and leave it alone."""
    guardian = start("guard")
    assert guardian.stdin is not None
    with guardian.stdin as stdin:
        stdin.write(duty.to_json())


def guard(duty: Duty) -> None:
    """Answer the parent until it says stop, ends or freezes; then darken and return."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        line = Line(duty)
    except OSError:
        return  # the parent has ended already, and it waited for us to use light
    # NI's library takes half a second to import: first of all be there
    from opm_engine.daq.blackout import Blackout, Dark
    from opm_engine.daq.protocol import DaqError

    dark = Dark.from_table(duty.dark)
    blackout = Blackout(dark, duty.address, duty.deadline_s)
    try:
        blackout.prepare()
    except DaqError as error:
        line.say(FAILED, str(error))
        return
    line.say(READY, str(os.getpid()))
    reason = line.watch(duty.patience_s)
    if reason is None:
        return
    line.say(TRIPPED, f"{reason}: going dark")
    try:
        blackout.drive(held=line.watching)
    except DaqError as error:
        line.say(FAILED, f"{reason}, and the board could not be made dark: {error}")
    else:
        line.say(TRIPPED, f"{reason}: made dark")


class Line:
    """The connection to the parent, seen from the guardian; open until it ends.

    Raises
    ------
    OSError
        If nobody listens.

    Attributes
    ----------
    watching : bool
        Whether light may be on, by the last heartbeat.
    """

    def __init__(self, duty: Duty) -> None:
        self._socket = socket.create_connection(("127.0.0.1", duty.port), timeout=5)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sources: list[Any] = [self._socket, *_handles(duty.parent)]
        self.watching = False
        self.say(duty.token)

    def watch(self, patience_s: float) -> str | None:
        """Wait until there is a reason to act; None if told to stop."""
        heard_s = time.monotonic()
        while True:
            left_s = heard_s + patience_s - time.monotonic()
            wait_s = max(0.0, left_s) if self.watching else None
            ready, _, _ = select.select(self._sources, [], [], wait_s)
            if self._socket in ready:
                beats = self._receive()
                if beats is None:
                    continue
                if not beats:
                    return "the program has ended"
                if STOP in beats:
                    return None
                heard_s = time.monotonic()
                self.watching = beats.endswith(WATCHING)
                self.say(HEARD, beats[-1:].decode())
            elif ready:
                return "the program has ended"
            else:
                return f"no heartbeat for {patience_s:g} s"

    def say(self, *words: str) -> None:
        """Send a line; a parent that is gone or frozen does not matter."""
        with suppress(OSError):
            self._socket.send((" ".join(words) + "\n").encode())

    def _receive(self) -> bytes | None:
        try:
            return self._socket.recv(4096)
        except BlockingIOError:
            return None
        except OSError:  # it ended before it had read everything
            return b""


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _handles(process_id: int) -> list[int]:
    """Return a descriptor, if there is one, that is readable once a process has ended.

    The connection alone may outlive the parent, in the hands of a forked child.
    """
    if hasattr(os, "pidfd_open"):  # Linux, built with headers that know it
        with suppress(OSError):
            return [os.pidfd_open(process_id)]
    return []


def main() -> None:
    """Do what the command line says."""
    duty = Duty.read()
    if sys.argv[1] == "launch":
        launch(duty)
        return
    guard(duty)
    os._exit(0)  # at once: the parent takes the connection's end for ours


if __name__ == "__main__":
    main()
