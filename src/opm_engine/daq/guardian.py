"""`Guardian`: a process that makes the board dark when ours dies or freezes.

Separate from ``nidaq`` because it must not share its fate: this is the parent's half,
which starts the process, beats and listens; `guardian_process` is the other. Knows no
burst: its owner says when light may be on.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

from opm_engine.daq import guardian_process as process
from opm_engine.daq.blackout import Dark
from opm_engine.daq.protocol import DaqError

if TYPE_CHECKING:
    from collections.abc import Callable

    from opm_engine.config import Microscope

START_S = 20.0
"""How long the process may take to import NI's library and find the outputs."""

ANSWER_S = 2.0
"""A guardian that has not answered a heartbeat for so long is none."""

_POLL_S = 0.002


class Guardian:
    """Watches over the outputs of one board. Thread-safe.

    ``start`` once, then ``beat`` every ``heartbeat_s`` from a thread of its own;
    ``watch(True)`` before light can be on and ``watch(False)`` when all is dark;
    ``stop`` once. If this process ends in any other way, or while watched does not
    beat for ``patience_s``, the guardian makes the board dark and ends.

    Parameters
    ----------
    microscope : Microscope
    address : str, optional
        ``"host:port"`` of an NI gRPC device server; the local driver without it.
    heartbeat_s : float
        How often `beat` will be called.
    patience_s : float
        Longest time between heartbeats, while watched.
    """

    def __init__(
        self,
        microscope: Microscope,
        *,
        address: str | None = None,
        heartbeat_s: float = 0.1,
        patience_s: float = 0.4,
    ) -> None:
        if not 0 < 2 * heartbeat_s <= patience_s:
            msg = f"patience_s = {patience_s:g} is less than two heartbeats"
            raise ValueError(msg)
        self.heartbeat_s = heartbeat_s
        self._patience_s = patience_s
        self._microscope = microscope
        self._address = address
        self._lock = threading.RLock()
        self._socket: socket.socket | None = None
        self._forget()

    def _forget(self) -> None:
        self._pid: int | None = None
        self._unread = b""
        self._heard = ""
        self._asked_s: float | None = None
        self._armed = False
        self._ended = False
        self._tripped: str | None = None

    def start(self) -> None:
        """Start the process; it stands ready when this returns.

        Raises
        ------
        DaqError
            If it does not start, or does not find the board or one of its outputs.
        """
        self.stop()
        self._forget()
        end_s = time.monotonic() + START_S
        token = secrets.token_hex(16)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._launch(listener.getsockname()[1], token)
            self._socket = self._accept(listener, token, end_s)
        self._wait(lambda: self._pid is not None, end_s - time.monotonic())
        if self._pid is None:
            trouble = self._tripped or self.trouble() or "it was not ready in time"
            self._hang_up()
            self._forget()
            raise DaqError(f"the guardian process did not start: {trouble}")

    def beat(self) -> None:
        """Tell the guardian that we live. Never blocks, never raises."""
        with self._lock:
            self._send(process.WATCHING if self._armed else process.RESTING)

    def watch(self, armed: bool) -> None:
        """Say whether light may be on: whether a missed heartbeat is a reason to act.

        Returns once the guardian has heard of it, if light may be on.

        Raises
        ------
        DaqError
            If nobody would act. Not raised for False.
        """
        with self._lock:
            self._armed, self._heard = armed, ""
            self.beat()
        if not armed:
            return
        if not self._wait(lambda: self._heard == process.WATCHING.decode(), ANSWER_S):
            self._armed = False
            why = self.trouble() or "the guardian process does not answer"
            raise DaqError(f"{why}: nobody would turn the light off")

    def stop(self) -> None:
        """End the guardian without a touch of the board. May be called twice."""
        self._send(process.STOP)
        self._wait(lambda: False, ANSWER_S)
        self._hang_up()

    @property
    def is_alive(self) -> bool:
        """Whether somebody would act."""
        return self.trouble() is None

    @property
    def pid(self) -> int | None:
        """Process id of the guardian, once started."""
        return self._pid

    def trouble(self) -> str | None:
        """Return why nobody would act, in words; None if somebody would."""
        with self._lock:
            self._listen()
            if self._tripped is not None:
                return self._tripped
            if self._socket is None:
                return "the guardian process was not started"
            if self._ended:
                return "the guardian process has ended"
            if self._asked_s is None or time.monotonic() < self._asked_s + ANSWER_S:
                return None
            return "the guardian process does not answer"

    def tripped(self) -> str | None:
        """Return what the guardian did and why, if it acted and we lived to read it."""
        with self._lock:
            self._listen()
            return self._tripped

    def _launch(self, port: int, token: str) -> None:
        duty = process.Duty(
            port=port,
            token=token,
            parent=os.getpid(),
            patience_s=self._patience_s,
            address=self._address,
            deadline_s=self._microscope.daq.deadline_s,
            dark=Dark.of(self._microscope).to_table(),
        )
        try:
            with process.start("launch", stderr=subprocess.PIPE) as launcher:
                _, errors = _within(START_S, launcher, duty.to_json())
        except OSError as error:
            raise DaqError(f"the guardian process did not start: {error}") from error
        if launcher.returncode:
            lines = errors.strip().splitlines() or [f"status {launcher.returncode}"]
            raise DaqError(f"the guardian process did not start: {lines[-1]}")

    def _accept(
        self, listener: socket.socket, token: str, end_s: float
    ) -> socket.socket:
        """Take the connection of the one who knows the token."""
        while (left_s := end_s - time.monotonic()) > 0:
            listener.settimeout(left_s)
            try:
                line, _ = listener.accept()
                line.settimeout(1.0)
                if line.recv(64) == f"{token}\n".encode():
                    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    line.setblocking(False)
                    return line
            except TimeoutError:
                continue
            line.close()
        msg = f"the guardian process did not start within {START_S:g} s"
        raise DaqError(msg)

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Listen until something is so; False if the guardian ends or time is up."""
        end_s = time.monotonic() + seconds
        while True:
            with self._lock:
                self._listen()
                if condition():
                    return True
                if self._socket is None or self._ended:
                    return False
            if time.monotonic() > end_s:
                return False
            time.sleep(_POLL_S)

    def _send(self, beat: bytes) -> None:
        with self._lock:
            self._listen()
            if self._socket is None or self._ended:
                return
            try:
                self._socket.send(beat)
            except OSError:  # a full buffer as well: nobody has read for hours
                self._ended = True
            if self._asked_s is None:
                self._asked_s = time.monotonic()

    def _listen(self) -> None:
        """Take in what the guardian has said."""
        while self._socket is not None and not self._ended:
            try:
                said = self._socket.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                said = b""
            self._ended = not said
            *lines, self._unread = (self._unread + said).split(b"\n")
            for line in lines:
                self._understand(*line.decode().partition(" ")[::2])

    def _understand(self, word: str, rest: str) -> None:
        if word == process.READY:
            self._pid = int(rest)
        elif word == process.HEARD:
            self._heard, self._asked_s = rest, None
        else:
            self._tripped = rest

    def _hang_up(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def _within(
    seconds: float, program: subprocess.Popen[str], text: str
) -> tuple[str, str]:
    try:
        return program.communicate(text, timeout=seconds)
    except subprocess.TimeoutExpired:
        program.kill()
        return program.communicate()
