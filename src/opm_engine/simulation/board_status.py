"""What a running simulated board puts out, asked from outside.

Separate because it is asked in a hurry, by processes that live for one question: it
imports nothing but the transport. `describe_board` is the answering half,
`board_status` the asking one. Knows neither tasks nor cables.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Collection

    from opm_engine.simulation.board import Board

SERVICE = "opm_engine.SimulatedBoard"
"""The gRPC service beside NI's: `PLUG` carries the cables, `STATUS` tells all."""

PLUG, STATUS = "Plug", "Status"
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
"""A connection of its own, and none through a proxy."""


def pack(message: Any) -> bytes:
    """Write a message for the wire; floats survive exactly."""
    return json.dumps(message, separators=(",", ":")).encode()


def unpack(message: bytes) -> Any:
    """Read a message from the wire."""
    return json.loads(message)


def describe_board(board: Board, inputs: Collection[str] = ()) -> dict[str, Any]:
    """Level and rises of every digital line, volts of every analog output.

    Parameters
    ----------
    board : Board
    inputs : collection of str
        Lines that something outside drives; they are left out.

    Returns
    -------
    dict
        ``{"lines": {"port0/line0": 0, …}, "rises": {"port0/line0": 12, …}, "ao":
        {"ao0": 0.0, …}}``; rises since the board was made.
    """
    levels = {
        line: int(level)
        for line, level in board.lines().items()
        if line.startswith("port") and line not in inputs
    }
    return {
        "lines": levels,
        "rises": {line: board.rises(line) for line in levels},
        "ao": {
            channel: board.volts(channel) for channel in board.product.analog_channels()
        },
    }


def board_status(address: str, deadline_s: float = 1.0) -> dict[str, Any]:
    """Ask the simulated board at ``"host:port"`` what it puts out.

    Returns
    -------
    dict
        As `describe_board`; a line that a camera was plugged into is left out.

    Raises
    ------
    ConnectionError
        If nobody is there, or something else than a simulated board.
    TimeoutError
        If it does not answer within ``deadline_s``.
    """
    with grpc.insecure_channel(address, CHANNEL_OPTIONS) as channel:
        ask = channel.unary_unary(f"/{SERVICE}/{STATUS}")
        try:
            answer: dict[str, Any] = unpack(ask(b"", timeout=deadline_s))
        except grpc.RpcError as error:
            raise lost(address, error, deadline_s) from None
    return answer


def lost(address: str, error: grpc.RpcError, deadline_s: float) -> OSError:
    """Say in words why the simulated board did not answer."""
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return silent(address, deadline_s)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ConnectionError(f"what answers at {address} is not a simulated board")
    if code is grpc.StatusCode.UNAVAILABLE:
        return ConnectionError(
            f"there is no simulated board at {address}, or its process has ended"
        )
    return ConnectionError(
        f"the simulated board at {address} failed: {error.details()}"
    )


def silent(address: str, deadline_s: float) -> TimeoutError:
    """Say in words that it did not answer in time."""
    return TimeoutError(
        f"the simulated board at {address} is there, but did not answer within "
        f"{deadline_s:g} s"
    )
