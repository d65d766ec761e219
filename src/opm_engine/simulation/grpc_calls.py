"""`CALLS`: what each of NI's calls does to a `Board`.

Separate from `grpc_face` because these are rows of a table that only grows; it knows
the fields of the messages, but not how they travel, and imports none of NI's code.
"""

from __future__ import annotations

import re
import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from opm_engine.simulation import board_attributes as attributes
from opm_engine.simulation import grpc_samples as samples
from opm_engine.simulation import watchdog
from opm_engine.simulation.board_attributes import FINITE, HIGH, RISING
from opm_engine.simulation.board_errors import BoardError, error_text
from opm_engine.simulation.board_tasks import Kind, Pulse
from opm_engine.simulation.products import TIMEBASES_HZ

if TYPE_CHECKING:
    from collections.abc import Callable

    from opm_engine.simulation.board import Board

    Call = Callable[[Board, Any], dict[str, Any]]

_NEW, _ATTACH = 1, 2
_ONE_CHANNEL_FOR_ALL_LINES = 1
_START, _STOP, _VERIFY, _COMMIT, _RESERVE, _UNRESERVE, _ABORT = range(7)
_POLL_S = 0.002
_FOR_EVER_S = 60.0


# ---- tasks ---------------------------------------------------------------------


def _create_task(board: Board, request: Any) -> dict[str, Any]:
    behaviour = request.initialization_behavior
    if behaviour == _ATTACH:
        board.task(request.session_name)
    name, created = board.create_task(request.session_name, attach=behaviour != _NEW)
    return {"task": {"name": name}, "new_session_initialized": created}


def _control(board: Board, request: Any) -> dict[str, Any]:
    actions: dict[int, Callable[[str], Any]] = {
        _START: board.start,
        _STOP: board.stop,
        _VERIFY: board.task,
        _RESERVE: board.commit,
        _COMMIT: board.commit,
        _UNRESERVE: board.release,
        _ABORT: board.release,
    }
    actions[request.action_raw](request.task.name)
    return {}


def _wait(board: Board, request: Any) -> dict[str, Any]:
    wait_s = request.time_to_wait if request.time_to_wait >= 0 else _FOR_EVER_S
    deadline = time.monotonic() + wait_s
    while not board.current(request.task.name).done:
        if time.monotonic() >= deadline:
            raise BoardError(-200560)
        time.sleep(_POLL_S)
    if error := board.task(request.task.name).error:
        raise BoardError(error)
    return {}


# ---- channels ------------------------------------------------------------------


def _create_lines(kind: Kind, board: Board, request: Any) -> dict[str, Any]:
    board.add_lines(
        request.task.name,
        kind,
        request.lines,
        request.name_to_assign_to_lines,
        together=request.line_grouping_raw == _ONE_CHANNEL_FOR_ALL_LINES,
    )
    return {}


def _create_analog(board: Board, request: Any, *, reads: bool) -> dict[str, Any]:
    add = board.add_ai if reads else board.add_ao
    add(
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
        rising=request.edge_raw == RISING,
        initial=request.initial_count,
    )
    return {}


def _create_pulses(
    shape: Callable[[Any], tuple[float, float]], board: Board, request: Any
) -> dict[str, Any]:
    low_s, high_s = shape(request)
    delay_s = request.initial_delay
    if hasattr(request, "low_ticks"):
        delay_s /= _ticks_hz(request)
    idles_high = request.idle_state_raw == HIGH
    board.add_pulses(
        request.task.name,
        request.counter,
        request.name_to_assign_to_channel,
        Pulse(delay_s, low_s, high_s, idles_high),
    )
    return {}


def _by_frequency(request: Any) -> tuple[float, float]:
    if request.freq <= 0 or not 0 < request.duty_cycle < 1:
        raise BoardError(-200077, "CO.Pulse.Freq, CO.Pulse.DutyCyc")
    high_s = request.duty_cycle / request.freq
    return 1 / request.freq - high_s, high_s


def _by_ticks(request: Any) -> tuple[float, float]:
    tick_hz = _ticks_hz(request)
    return request.low_ticks / tick_hz, request.high_ticks / tick_hz


def _ticks_hz(request: Any) -> float:
    terminal = request.source_terminal.rpartition("/")[2].lower()
    if terminal not in TIMEBASES_HZ:
        raise NotImplementedError(f"pulses counted from {request.source_terminal}")
    return TIMEBASES_HZ[terminal]


# ---- timing and triggers -------------------------------------------------------


def _samples(request: Any) -> int | None:
    finite = request.sample_mode_raw == FINITE
    return request.samps_per_chan if finite else None


def _sample_clock(board: Board, request: Any) -> dict[str, Any]:
    board.clock_by_edges(
        request.task.name,
        request.source,
        request.rate,
        rising=request.active_edge_raw == RISING,
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


def _implicit_timing(board: Board, request: Any) -> dict[str, Any]:
    board.time_pulses(request.task.name, _samples(request))
    return {}


def _start_trigger(board: Board, request: Any) -> dict[str, Any]:
    rising = request.trigger_edge_raw == RISING
    board.trigger_by(request.task.name, request.trigger_source, rising=rising)
    return {}


def _no_start_trigger(board: Board, request: Any) -> dict[str, Any]:
    board.trigger_by(request.task.name, "", rising=True)
    return {}


def _input_buffer(board: Board, request: Any) -> dict[str, Any]:
    board.idle(request.task.name).input_buffer = request.num_samps_per_chan
    return {}


# ---- properties and the device -------------------------------------------------


def _of_device(board: Board, request: Any) -> dict[str, Any]:
    board.check_device(request.device_name)
    return {"value": attributes.row(attributes.DEVICE, request.attribute_raw)(board)}


def _of_pin(board: Board, request: Any) -> dict[str, Any]:
    look_up = attributes.row(attributes.PIN, request.attribute_raw)
    return {"value": look_up(board, request.physical_channel)}


def _of_system(board: Board, request: Any) -> dict[str, Any]:
    return {"value": attributes.row(attributes.SYSTEM, request.attribute_raw)(board)}


def _of_task(board: Board, request: Any) -> dict[str, Any]:
    task = board.current(request.task.name)
    return {"value": attributes.read_task(board, task, request.attribute_raw)}


def _set_of_task(board: Board, request: Any) -> dict[str, Any]:
    value = request.value_raw if hasattr(request, "value_raw") else request.value
    attributes.change_task(board, request.task.name, request.attribute_raw, value)
    return {}


_SCOPES = "Task|Chan|Read|Write|Buffer|Timing|TimingEx|Trig"
_GETTERS: dict[str, Call] = {
    _SCOPES: _of_task,
    "Device": _of_device,
    "PhysicalChan": _of_pin,
    "SystemInfo": _of_system,
    "Watchdog": watchdog.get,
}


def _reset(board: Board, request: Any) -> dict[str, Any]:
    board.check_device(request.device_name)
    board.reset()
    return {}


def _on_task(act: Callable[[Board, str], Any]) -> Call:
    def call(board: Board, request: Any) -> dict[str, Any]:
        return act(board, request.task.name) or {}

    return call


CALLS: dict[str, Call] = {
    "CreateTask": _create_task,
    "ClearTask": _on_task(lambda board, task: board.clear(task)),
    "StartTask": _on_task(lambda board, task: board.start(task)),
    "StopTask": _on_task(lambda board, task: board.stop(task)),
    "TaskControl": _control,
    "IsTaskDone": _on_task(
        lambda board, task: {"is_task_done": board.current(task).done}
    ),
    "WaitUntilTaskDone": _wait,
    "CreateDOChan": partial(_create_lines, Kind.DO),
    "CreateDIChan": partial(_create_lines, Kind.DI),
    "CreateAOVoltageChan": partial(_create_analog, reads=False),
    "CreateAIVoltageChan": partial(_create_analog, reads=True),
    "CreateCICountEdgesChan": _create_counter,
    "CreateCOPulseChanTime": partial(
        _create_pulses, lambda request: (request.low_time, request.high_time)
    ),
    "CreateCOPulseChanFreq": partial(_create_pulses, _by_frequency),
    "CreateCOPulseChanTicks": partial(_create_pulses, _by_ticks),
    "CfgSampClkTiming": _sample_clock,
    "CfgChangeDetectionTiming": _change_detection,
    "CfgImplicitTiming": _implicit_timing,
    "CfgDigEdgeStartTrig": _start_trigger,
    "DisableStartTrig": _no_start_trigger,
    "CfgInputBuffer": _input_buffer,
    "WriteAnalogF64": samples.write_volts,
    "WriteAnalogScalarF64": samples.write_one_voltage,
    "WriteDigitalU8": samples.write_words,
    "WriteDigitalU16": samples.write_words,
    "WriteDigitalU32": samples.write_words,
    "WriteDigitalScalarU32": samples.write_one_word,
    "WriteDigitalLines": samples.write_lines,
    "ReadAnalogF64": samples.read_volts,
    "ReadAnalogScalarF64": samples.read_one_voltage,
    "ReadDigitalLines": samples.read_lines,
    "ReadDigitalU32": samples.read_words,
    "ReadDigitalScalarU32": samples.read_one_word,
    "ReadCounterScalarU32": samples.read_count,
    "ReadCounterU32": samples.read_counts,
    "ReadCounterU32Ex": samples.read_counts,
    "CreateWatchdogTimerTaskEx": watchdog.create,
    "CfgWatchdogDOExpirStates": watchdog.set_states,
    "ControlWatchdogTask": watchdog.control,
    "ResetDevice": _reset,
    "GetErrorString": lambda board, request: {
        "error_string": error_text(request.error_code)
    },
}


@cache
def call_named(name: str) -> Call:
    """Look a call up; properties are asked and set by many names for one thing."""
    for scopes, get in _GETTERS.items():
        if re.fullmatch(f"Get({scopes})Attribute[A-Z]\\w*", name):
            return get
    if re.fullmatch(f"Set({_SCOPES})Attribute[A-Z]\\w*", name):
        return _set_of_task
    if re.fullmatch("SetWatchdogAttribute[A-Z]\\w*", name):
        return watchdog.put
    return CALLS.get(name, partial(_not_modelled, name))


def _not_modelled(name: str, board: Board, request: Any) -> dict[str, Any]:
    raise NotImplementedError(name)
