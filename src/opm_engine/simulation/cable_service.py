"""`CableService`: a board's cables and its status, for other processes.

NI's calls cannot carry a camera's TTL, so this second gRPC service sits on the same
port. Separate from NI's face, whose threads it does not share: a frozen face freezes
neither. One stream per camera carries its edges in and the changes of the outputs that
it looks at out; when the stream ends, however that camera's process ended, simulated
time runs freely again. Knows no task, no camera and no laser.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.board_status import (
    PLUG,
    SERVICE,
    STATUS,
    describe_board,
    pack,
    unpack,
)
from opm_engine.simulation.clock import Pace, SimClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opm_engine.simulation.board import Board

MAX_CAMERAS = 8
"""Streams at once; each takes a thread for its life."""


class CableService:
    """The second service on a simulated board's port.

    Parameters
    ----------
    board : Board
    clock : SimClock
        The board's; it follows the camera that is plugged in.

    Attributes
    ----------
    handler : grpc.GenericRpcHandler
        For the server.
    """

    def __init__(self, board: Board, clock: SimClock) -> None:
        self._board = board
        self._clock = clock
        self._driven: set[str] = set()
        self._streams = ThreadPoolExecutor(MAX_CAMERAS, thread_name_prefix="cables")
        self._answers = ThreadPoolExecutor(2, thread_name_prefix="status")
        plug = _Behaviour(self._plug, self._streams)
        status = _Behaviour(self._status, self._answers)
        self.handler = grpc.method_handlers_generic_handler(
            SERVICE,
            {
                PLUG: grpc.stream_stream_rpc_method_handler(plug),
                STATUS: grpc.unary_unary_rpc_method_handler(status),
            },
        )

    def close(self) -> None:
        """End its threads; the server must have stopped."""
        self._streams.shutdown()
        self._answers.shutdown()

    def _status(self, request: bytes, context: Any) -> bytes:
        return pack(describe_board(self._board, self._driven))

    def _plug(self, questions: Iterator[bytes], context: Any) -> Iterator[bytes]:
        plug = _Plug(self._board, self._clock, self._driven)
        try:
            for question in questions:
                answer = plug.answer(unpack(question))
                if answer is not None:
                    yield pack(answer)
        except grpc.RpcError:
            pass  # the camera's process ended without a word
        finally:
            self._clock.release()


class _Plug:
    """The board's end of one camera's cables.

    Parameters
    ----------
    board : Board
    clock : SimClock
    driven : set of str
        The lines that cables drive, of all cameras.
    """

    def __init__(self, board: Board, clock: SimClock, driven: set[str]) -> None:
        self._board = board
        self._clock = clock
        self._driven = driven
        self._traces = {"digital": board.digital_trace, "analog": board.analog_trace}
        self._sent_s: dict[tuple[str, str], float] = {}

    def answer(self, question: dict[str, Any]) -> dict[str, Any] | None:
        """Do what a message says; None if it wants no answer."""
        if "pace" not in question:
            return {"now_s": self._clock.now()}
        self._clock.follow(Pace(*question["pace"]))
        try:
            if "drive" in question:
                self._drive(*question["drive"])
            if "until_s" not in question:
                return None
            changes = self._changes(question["until_s"], question.get("watch"))
        except BoardError as error:
            return {"refused": str(error)}
        return {"changes": changes}

    def _drive(self, terminal: str, level: bool, time_s: float) -> None:
        self._board.drive(terminal, level, time_s)
        self._driven.add(self._board.pin(terminal))

    def _changes(
        self, until_s: float, watch: tuple[str, str, float] | None
    ) -> list[tuple[str, str, list[float], list[float]]]:
        """Return (kind, pin, times, values) of what has changed since the last answer.

        The latest change sent is sent again: another one at the same time replaces it.
        """
        changes = []
        if watch is not None:
            kind, pin, since_s = watch
            times_s, values = self._traces[kind](pin, since_s, since_s)
            self._sent_s[kind, pin] = since_s
            changes.append((kind, pin, [-math.inf], values.tolist()))
        for (kind, pin), sent_s in self._sent_s.items():
            before_s = math.nextafter(sent_s, -math.inf)
            times_s, values = self._traces[kind](pin, before_s, until_s)
            if len(times_s) > 1:
                self._sent_s[kind, pin] = float(times_s[-1])
                changes.append((kind, pin, times_s[1:].tolist(), values[1:].tolist()))
        return changes


class _Behaviour:
    """A call that gRPC makes in threads of its own pool."""

    def __init__(
        self, call: Callable[[Any, Any], Any], threads: ThreadPoolExecutor
    ) -> None:
        self._call = call
        self.experimental_thread_pool = threads

    def __call__(self, request: Any, context: Any) -> Any:
        return self._call(request, context)
