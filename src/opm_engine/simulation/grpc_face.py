"""`BoardServer`: NI's gRPC service in front of a `Board`.

Separate because it alone uses NI's messages; with it the real `nidaqmx` library drives
the model unchanged. What has no row in `grpc_calls` answers UNIMPLEMENTED. It knows no
cable and no task logic.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self

import grpc
from nidaqmx._stubs import nidaqmx_pb2 as messages
from nidaqmx._stubs import nidaqmx_pb2_grpc as service

from opm_engine.daemon_pool import DaemonPool
from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.grpc_calls import call_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opm_engine.simulation.board import Board
    from opm_engine.simulation.grpc_calls import Call

_THREADS = 16  # calls may wait for samples


class BoardServer:
    """A board on a socket of this machine.

    Parameters
    ----------
    board : Board
    port : int
        0 takes a free one.
    others : sequence of grpc.GenericRpcHandler
        Further services on the same port.

    Attributes
    ----------
    address : str
        ``"127.0.0.1:port"``, once started.
    """

    def __init__(
        self,
        board: Board,
        port: int = 0,
        others: Sequence[grpc.GenericRpcHandler] = (),
    ) -> None:
        self._board = board
        self._port = port
        self._others = others
        self._threads: DaemonPool | None = None
        self._server: Any = None
        self.address = ""

    def start(self) -> None:
        """Listen.

        Raises
        ------
        RuntimeError
            If the port is taken.
        """
        self._threads = DaemonPool(_THREADS, "board")
        # without so_reuseport a second server on the same port is an error
        self._server = grpc.server(self._threads, options=(("grpc.so_reuseport", 0),))
        service.add_NiDAQmxServicer_to_server(_Face(self._board), self._server)
        self._server.add_generic_rpc_handlers(tuple(self._others))
        bound = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        self.address = f"127.0.0.1:{bound}"
        self._server.start()

    def stop(self) -> None:
        """Close the socket and end all threads. May be called twice."""
        if self._server is None or self._threads is None:
            return
        stopped = self._server.stop(grace=None)
        self._board.thaw()
        stopped.wait()
        self._threads.shutdown()
        self._server = self._threads = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Face(service.NiDAQmxServicer):  # type: ignore[misc]
    """Hands every call that has a row to the board, and its refusals to the client."""

    def __init__(self, board: Board) -> None:
        self._board = board
        for name in vars(service.NiDAQmxServicer):
            if not name.startswith("_"):
                setattr(self, name, partial(self._answer, name, call_named(name)))

    def _answer(self, name: str, call: Call, request: Any, context: Any) -> Any:
        try:
            self._board.called(name)
            fields = call(self._board, request)
        except BoardError as error:
            context.set_trailing_metadata((("ni-error", str(error.code)),))
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
        except NotImplementedError as error:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"not modelled: {error}")
        response = getattr(messages, f"{name}Response")
        if "value_raw" in response.DESCRIPTOR.fields_by_name:
            fields["value_raw"] = fields.pop("value")
        return response(**fields)
