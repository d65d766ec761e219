"""`RemoteCables`: the cables of a board that is a process of its own.

Separate so that camera and optics do not notice where the board runs. Keeps a copy of
the outputs that somebody looks at; every answer of the board brings what has changed
since, and edges want no answer while the camera runs, so that a frame costs one
question. Knows what `CableService` says, and no board.
"""

from __future__ import annotations

import math
import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc

from opm_engine.simulation.board_status import (
    CHANNEL_OPTIONS,
    PLUG,
    SERVICE,
    lost,
    pack,
    silent,
    unpack,
)
from opm_engine.simulation.clock import Pace, SimClock
from opm_engine.simulation.traces import Trace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HISTORY_S = 10.0
"""Simulated seconds that the copy remembers."""

INSTANT_S = 1e-9
"""Times closer than this are one."""


class RemoteCables:
    """`Cables` of the simulated board at ``"host:port"``. Thread-safe.

    A board that is gone sees no edges, so that a camera can always be stopped; whoever
    looks at an output of it is told.

    Parameters
    ----------
    address : str
    clock : SimClock
        Of the camera. It is set to the board's time; from then on the board follows.
    deadline_s : float
        How long the board may take to answer.

    Raises
    ------
    ConnectionError
        If there is no simulated board, or its process has ended since.
    TimeoutError
        If it does not answer. It is given up then.
    """

    def __init__(self, address: str, clock: SimClock, deadline_s: float = 2.0) -> None:
        self._address = address
        self._clock = clock
        self._deadline_s = deadline_s
        self._lock = threading.RLock()
        self._copies: dict[tuple[str, str], Trace] = {}
        self._since_s: dict[tuple[str, str], float] = {}
        self._known_s = 0.0
        self._lost: OSError | None = None
        self._questions: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._channel = grpc.insecure_channel(address, CHANNEL_OPTIONS)
        plug = self._channel.stream_stream(f"/{SERVICE}/{PLUG}")
        self._stream = plug(iter(self._questions.get, None))
        self._listener = threading.Thread(
            target=self._listen, name="cables", daemon=True
        )
        self._listener.start()
        try:
            self._synchronise()
        except BaseException:
            self.close()
            raise
        clock.announce = self._announce

    def drive(self, terminal: str, level: bool, time_s: float) -> None:
        """Set an input terminal, like ``"PFI0"``, from ``time_s`` on.

        Unless the camera has announced what comes next, somebody may look at once:
        then this returns when the board has seen it.

        Raises
        ------
        ValueError
            If the board has no such terminal.
        """
        self._tell({"drive": (terminal, bool(level), float(time_s))})

    def digital_trace(
        self, line: str, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Levels of an output line, like ``"port0/line0"``."""
        times_s, levels = self._trace("digital", line, start_s, end_s)
        return times_s, levels.astype(bool)

    def analog_trace(
        self, channel: str, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Volts of an analog output, like ``"ao0"``."""
        return self._trace("analog", channel, start_s, end_s)

    def seen_until_s(self) -> float:
        """Simulated time of now; the board has seen all edges of before."""
        now_s = self._clock.now()
        with suppress(OSError):  # remembered, and told to whoever looks at an output
            self._ask({})
        return now_s

    def close(self) -> None:
        """Unplug. May be called twice."""
        self._clock.announce = lambda: None
        self._give_up(
            ConnectionError(f"unplugged from the simulated board at {self._address}")
        )
        self._questions.put(None)
        self._stream.cancel()
        self._listener.join()
        self._channel.close()

    def _synchronise(self) -> None:
        now_s, time_scale, ceiling_s = self._clock.pace()
        board_s = self._ask({})["now_s"]
        self._clock.follow(Pace(max(now_s, board_s), time_scale, ceiling_s))

    def _announce(self) -> None:
        """Keep the board's clock in step; at the end of a run, let it catch up."""
        self._tell({})

    def _trace(
        self, kind: str, pin: str, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        with self._lock:
            since_s = self._since_s.get((kind, pin))
            if since_s is None or start_s < since_s:
                self._update(max(end_s, self._known_s), {"watch": (kind, pin, start_s)})
                self._since_s[kind, pin] = start_s
            elif end_s > self._known_s + INSTANT_S:  # up to there it cannot change
                self._update(end_s, {})
            return self._copies[kind, pin].between(start_s, end_s)

    def _tell(self, message: dict[str, Any]) -> None:
        """Send a message; wait for its effect unless the camera runs."""
        pace = self._clock.pace()
        if math.isfinite(pace.ceiling_s):
            self._questions.put(pack({"pace": pace, **message}))
            return
        with self._lock, suppress(OSError):  # told to whoever looks at an output
            self._update(self._known_s, message)

    def _update(self, until_s: float, message: dict[str, Any]) -> None:
        """Send a message, and bring the copies up to ``until_s``."""
        pace = self._clock.pace()
        answer = self._ask({"pace": pace, "until_s": until_s, **message})
        if "refused" in answer:
            msg = f"the simulated board at {self._address}: {answer['refused']}"
            raise ValueError(msg)
        for kind, pin, times_s, values in answer["changes"]:
            for time_s, value in zip(times_s, values, strict=True):
                if math.isinf(time_s):  # held since for ever: a copy begins
                    self._copies[kind, pin] = Trace(value, HISTORY_S)
                else:
                    self._copies[kind, pin].set(value, time_s)
        self._known_s = max(self._known_s, until_s)

    def _ask(self, question: dict[str, Any]) -> Any:
        with self._lock:
            if self._lost is None:
                self._questions.put(pack(question))
                try:
                    answer = self._answers.get(timeout=self._deadline_s)
                except queue.Empty:
                    answer = None
                if answer is not None:
                    return unpack(answer)
            reason = self._give_up(silent(self._address, self._deadline_s))
            raise type(reason)(str(reason))

    def _give_up(self, reason: OSError) -> OSError:
        """Ask nothing any more; the first reason is kept and returned."""
        if self._lost is None:
            self._lost = reason
        return self._lost

    def _listen(self) -> None:
        """Take what the board says until the stream ends."""
        try:
            for answer in self._stream:
                self._answers.put(answer)
            self._give_up(
                ConnectionError(f"the simulated board at {self._address} hung up")
            )
        except grpc.RpcError as error:
            self._give_up(lost(self._address, error, self._deadline_s))
        self._answers.put(None)
