"""`BoardServer`: NI's gRPC service in front of a `Board`.

Separate because it alone knows NI's messages; with it the real `nidaqmx` library
drives the model unchanged. Each call is a row of ``CALLS``; what has no row answers
UNIMPLEMENTED. It knows no cable and no task logic.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import grpc
from nidaqmx._stubs import nidaqmx_pb2 as messages
from nidaqmx._stubs import nidaqmx_pb2_grpc as service
from nidaqmx.constants import (
    AcquisitionType,
    Edge,
    LineGrouping,
    TaskMode,
)
from session_pb2 import Session

from opm_engine.simulation import board_attributes as attributes
from opm_engine.simulation import grpc_samples as samples
from opm_engine.simulation.board_tasks import BoardError, Kind, error_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from opm_engine.simulation.board import Board

    Call = Callable[[Board, Any], dict[str, Any]]

_ATTACH = 2


class BoardServer:
    """A board on a socket of this machine.

    Parameters
    ----------
    board : Board
    port : int
        0 takes a free one.

    Attributes
    ----------
    address : str
        ``"127.0.0.1:port"``, once started.
    """

    def __init__(self, board: Board, port: int = 0) -> None:
        self._board = board
        self._port = port
        self._threads: ThreadPoolExecutor | None = None
        self._server: Any = None
        self.address = ""

    def start(self) -> None:
        """Listen.

        Raises
        ------
        RuntimeError
            If the port is taken.
        """
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="board")
        # without so_reuseport a second server on the same port is an error
        self._server = grpc.server(self._threads, options=(("grpc.so_reuseport", 0),))
        service.add_NiDAQmxServicer_to_server(_Face(self._board), self._server)
        bound = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        self.address = f"127.0.0.1:{bound}"
        self._server.start()

    def stop(self) -> None:
        """Close the socket and end all threads. May be called twice."""
        if self._server is None or self._threads is None:
            return
        self._server.stop(grace=None).wait()
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
                call = CALLS.get(name, partial(_not_modelled, name))
                setattr(self, name, partial(self._answer, name, call))

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


def _not_modelled(name: str, board: Board, request: Any) -> dict[str, Any]:
    raise NotImplementedError(name)


# ---- tasks ---------------------------------------------------------------------


def _create_task(board: Board, request: Any) -> dict[str, Any]:
    attach = request.initialization_behavior
    if attach == _ATTACH:
        board.task(request.session_name)
    name, created = board.create_task(request.session_name, attach=attach != 1)
    return {"task": Session(name=name), "new_session_initialized": created}


def _control(board: Board, request: Any) -> dict[str, Any]:
    action = TaskMode(request.action_raw)
    actions = {
        TaskMode.TASK_START: board.start,
        TaskMode.TASK_STOP: board.stop,
        TaskMode.TASK_VERIFY: board.task,
        TaskMode.TASK_RESERVE: board.commit,
        TaskMode.TASK_COMMIT: board.commit,
        TaskMode.TASK_UNRESERVE: board.release,
        TaskMode.TASK_ABORT: board.release,
    }
    actions[action](request.task.name)
    return {}


def _create_lines(kind: Kind, board: Board, request: Any) -> dict[str, Any]:
    board.add_lines(
        request.task.name,
        kind,
        request.lines,
        request.name_to_assign_to_lines,
        together=request.line_grouping_raw == LineGrouping.CHAN_FOR_ALL_LINES.value,
    )
    return {}


def _create_ao(board: Board, request: Any) -> dict[str, Any]:
    board.add_ao(
        request.task.name,
        request.physical_channel,
        request.name_to_assign_to_channel,
        request.min_val,
        request.max_val,
    )
    return {}


def _create_counter(board: Board, request: Any) -> dict[str, Any]:
    board.add_edge_counter(
        request.task.name,
        request.counter,
        request.name_to_assign_to_channel,
        rising=request.edge_raw == Edge.RISING.value,
        initial=request.initial_count,
    )
    return {}


def _samples(request: Any) -> int | None:
    finite = request.sample_mode_raw == AcquisitionType.FINITE.value
    return request.samps_per_chan if finite else None


def _sample_clock(board: Board, request: Any) -> dict[str, Any]:
    board.clock_by_edges(
        request.task.name,
        request.source,
        request.rate,
        rising=request.active_edge_raw == Edge.RISING.value,
        samples=_samples(request),
        buffer=request.samps_per_chan,
    )
    return {}


def _change_detection(board: Board, request: Any) -> dict[str, Any]:
    board.clock_by_changes(
        request.task.name,
        request.rising_edge_chan,
        request.falling_edge_chan,
        _samples(request),
    )
    return {}


# ---- properties and the device -------------------------------------------------


def _of_device(board: Board, request: Any) -> dict[str, Any]:
    board.check_device(request.device_name)
    return {"value": attributes.row(attributes.DEVICE, request.attribute_raw)(board)}


def _of_pin(board: Board, request: Any) -> dict[str, Any]:
    look_up = attributes.row(attributes.PIN, request.attribute_raw)
    board.line(request.physical_channel)
    return {"value": look_up(board, request.physical_channel)}


def _of_system(board: Board, request: Any) -> dict[str, Any]:
    return {"value": attributes.row(attributes.SYSTEM, request.attribute_raw)(board)}


def _of_task(board: Board, request: Any) -> dict[str, Any]:
    look_up = attributes.row(attributes.TASK, request.attribute_raw)
    return {"value": look_up(board.task(request.task.name))}


def _set_of_task(board: Board, request: Any) -> dict[str, Any]:
    value = request.value_raw if hasattr(request, "value_raw") else request.value
    change = attributes.row(attributes.SETTERS, request.attribute_raw)
    change(board, request.task.name, value)
    return {}


def _reset(board: Board, request: Any) -> dict[str, Any]:
    board.check_device(request.device_name)
    board.reset()
    return {}


def _wait(board: Board, request: Any) -> dict[str, Any]:
    if not board.task(request.task.name).done:
        raise BoardError(-200560)
    return {}


def _on_task(act: Callable[[Board, str], Any]) -> Call:
    def call(board: Board, request: Any) -> dict[str, Any]:
        return act(board, request.task.name) or {}

    return call


def _properties() -> dict[str, Call]:
    scopes: dict[str, Call] = dict.fromkeys(
        ("Task", "Chan", "Read", "Write", "Buffer"), _of_task
    )
    scopes |= {"Device": _of_device, "PhysicalChan": _of_pin, "SystemInfo": _of_system}
    calls = {f"Get{scope}Attribute": call for scope, call in scopes.items()}
    calls |= {f"Set{scope}Attribute": _set_of_task for scope in scopes}
    types = ("Bool", "Double", "DoubleArray", "Int32", "String", "UInt32", "UInt64")
    return {
        f"{prefix}{type_}": call
        for prefix, call in calls.items()
        for type_ in types
        if hasattr(messages, f"{prefix}{type_}Request")
    }


CALLS: dict[str, Call] = {
    **_properties(),
    "CreateTask": _create_task,
    "ClearTask": _on_task(lambda board, task: board.clear(task)),
    "StartTask": _on_task(lambda board, task: board.start(task)),
    "StopTask": _on_task(lambda board, task: board.stop(task)),
    "TaskControl": _control,
    "IsTaskDone": _on_task(lambda board, task: {"is_task_done": board.task(task).done}),
    "WaitUntilTaskDone": _wait,
    "CreateDOChan": partial(_create_lines, Kind.DO),
    "CreateDIChan": partial(_create_lines, Kind.DI),
    "CreateAOVoltageChan": _create_ao,
    "CreateCICountEdgesChan": _create_counter,
    "CfgSampClkTiming": _sample_clock,
    "CfgChangeDetectionTiming": _change_detection,
    "WriteAnalogF64": samples.write_volts,
    "WriteAnalogScalarF64": samples.write_one_voltage,
    "WriteDigitalU8": samples.write_words,
    "WriteDigitalU16": samples.write_words,
    "WriteDigitalU32": samples.write_words,
    "WriteDigitalScalarU32": samples.write_one_word,
    "WriteDigitalLines": samples.write_lines,
    "ReadDigitalLines": samples.read_lines,
    "ReadDigitalU32": samples.read_words,
    "ReadDigitalScalarU32": samples.read_one_word,
    "ReadCounterScalarU32": samples.read_count,
    "ReadCounterU32": samples.read_counts,
    "ReadCounterU32Ex": samples.read_counts,
    "ResetDevice": _reset,
    "GetErrorString": lambda board, request: {
        "error_string": error_text(request.error_code)
    },
}
