"""A gRPC channel whose every call has a deadline.

Separate because gRPC's own default is to wait for ever, and a frozen server would take
the light switch with it. Knows no service.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable

_PROBE_S = 0.1
_INSTANT_S = 0.001
_CONSTANT = "/GetSystemInfoAttributeUInt32"
"""nidaqmx asks for the driver's version three times before it makes a task."""

_KNOCK = "/opm_engine.Door/Knock"
"""Whoever answers that there is no such method is there. (`channel_ready_future` would
ask nothing, but a channel that was subscribed to takes 0.2 s to close.)"""


class Patience:
    """How long a call may take.

    The full deadline, as long as the server answers. Once it has been silent for that
    long, the calls that follow share ``after_silence_s``, each a tenth of a second at
    most: enough to notice that it is back, and so few that a series of them does not
    add up. What is used up then fails at once. The next answer restores the deadline.

    Parameters
    ----------
    deadline_s : float
    after_silence_s : float
        For all calls after a silence together, until `renew`.
    """

    def __init__(self, deadline_s: float, after_silence_s: float = 0.3) -> None:
        self._deadline_s = deadline_s
        self._after_silence_s = after_silence_s
        self._left_s = after_silence_s
        self.silent = False

    def renew(self) -> None:
        """Begin another series of calls."""
        self._left_s = self._after_silence_s

    def next_s(self) -> float:
        """What the next call may take."""
        if not self.silent:
            return self._deadline_s
        return max(_INSTANT_S, min(_PROBE_S, self._left_s))

    def took(self, seconds: float, *, answered: bool) -> None:
        """Take note of a call."""
        if self.silent and not answered:
            self._left_s -= seconds
        self.silent = not answered


class _BoundedCall:
    """One method of a service, as stubs call it."""

    def __init__(self, call: Any, patience: Patience, *, constant: bool) -> None:
        self._call = call
        self._patience = patience
        self._answers: dict[bytes, Any] | None = {} if constant else None

    def __call__(self, request: Any, metadata: Any = None) -> Any:
        if self._answers is None:
            return self._bounded(request, metadata)
        key = request.SerializeToString()
        if key not in self._answers:
            self._answers[key] = self._bounded(request, metadata)
        return self._answers[key]

    def _bounded(self, request: Any, metadata: Any) -> Any:
        started_s = time.monotonic()
        timeout_s = self._patience.next_s()
        answered = True
        try:
            return self._call(request, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            answered = error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
            raise
        finally:
            self._patience.took(time.monotonic() - started_s, answered=answered)


class BoundedChannel(grpc.Channel):  # type: ignore[misc]
    """A channel with a deadline on every call that has one answer.

    Made once per method: stubs that are made again and again, one for each task, find
    theirs here. Closes nothing; its maker closes the channel beneath.

    Parameters
    ----------
    channel : grpc.Channel
    patience : Patience
    """

    def __init__(self, channel: grpc.Channel, patience: Patience) -> None:
        self.patience = patience
        self._channel = channel
        self._calls: dict[str, _BoundedCall] = {}

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> _BoundedCall:
        """Called by stubs for each of their methods."""
        if method not in self._calls:
            call = self._channel.unary_unary(method, *args, **kwargs)
            constant = method.endswith(_CONSTANT)
            self._calls[method] = _BoundedCall(call, self.patience, constant=constant)
        return self._calls[method]

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Streams last as long as they last."""
        return self._channel.unary_stream(*args, **kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Streams last as long as they last."""
        return self._channel.stream_unary(*args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Streams last as long as they last."""
        return self._channel.stream_stream(*args, **kwargs)

    def subscribe(
        self, callback: Callable[..., None], try_to_connect: bool = False
    ) -> None:
        """Tell ``callback`` of the connection's state."""
        self._channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[..., None]) -> None:
        """Tell it no more."""
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        """Nothing: see the class."""

    def __enter__(self) -> BoundedChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_channel(
    address: str, deadline_s: float
) -> tuple[BoundedChannel, grpc.Channel]:
    """Open a channel to ``"host:port"`` with a deadline on every call.

    Returns
    -------
    bounded : BoundedChannel
        To be used.
    channel : grpc.Channel
        To be closed.

    Raises
    ------
    TimeoutError
        If nobody answers there within ``deadline_s``.
    """
    channel = grpc.insecure_channel(address)
    try:
        channel.unary_unary(_KNOCK)(b"", timeout=deadline_s, wait_for_ready=True)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            channel.close()
            msg = f"nobody answers at {address} (waited {deadline_s:g} s)"
            raise TimeoutError(msg) from None
    return BoundedChannel(channel, Patience(deadline_s)), channel
