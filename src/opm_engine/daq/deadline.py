"""A gRPC channel whose every call has a deadline.

Separate because gRPC's own default is to wait for ever, and a frozen server would take
the light switch with it. Knows no service.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc


@dataclass(frozen=True)
class _Details(grpc.ClientCallDetails):  # type: ignore[misc]
    """The fields that gRPC reads of a call."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class Deadline(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Gives up on calls that take too long.

    Parameters
    ----------
    seconds : float
        For a call, as long as the server has answered the one before.
    after_silence_s : float
        For the next calls of a server that did not answer, so that several of them in
        a row do not add up.
    """

    def __init__(self, seconds: float, after_silence_s: float = 0.1) -> None:
        self._seconds = seconds
        self._after_silence_s = after_silence_s
        self._silent = False

    def intercept_unary_unary(
        self, continuation: Any, details: Any, request: Any
    ) -> Any:
        """Called by gRPC for every call."""
        bounded = _Details(
            details.method,
            self._after_silence_s if self._silent else self._seconds,
            details.metadata,
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
        call = continuation(bounded, request)
        self._silent = call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        return call


def open_channel(address: str, seconds: float) -> tuple[grpc.Channel, grpc.Channel]:
    """Open a channel to ``"host:port"`` with a deadline on every call.

    Returns
    -------
    bounded : grpc.Channel
        To be used.
    channel : grpc.Channel
        To be closed.

    Raises
    ------
    TimeoutError
        If nobody answers there within ``seconds``.
    """
    channel = grpc.insecure_channel(address)
    ready = grpc.channel_ready_future(channel)
    try:
        ready.result(timeout=seconds)
    except grpc.FutureTimeoutError:
        ready.cancel()
        channel.close()
        msg = f"nobody answers at {address} (waited {seconds:g} s)"
        raise TimeoutError(msg) from None
    return grpc.intercept_channel(channel, Deadline(seconds)), channel
