"""NI's attribute numbers → what the board model answers.

Separate because it is a table that only grows. A property that the model should know
is one more row. It knows neither messages nor the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opm_engine.simulation.board_tasks import BoardError

if TYPE_CHECKING:
    from collections.abc import Callable

    from opm_engine.simulation.board import Board
    from opm_engine.simulation.board_tasks import Task

_ALLOW_REGENERATION = 10097
_RISING, _FALLING = 10280, 10171


def _names(board: Board, names: list[str]) -> str:
    return ", ".join(f"{board.name}/{name}" for name in names)


def _ports(board: Board) -> list[str]:
    return [f"port{index}" for index in range(len(board.product.port_widths))]


SYSTEM: dict[int, Callable[[Board], Any]] = {
    0x1272: lambda board: 24,  # driver version: major, minor, update
    0x1923: lambda board: 8,
    0x2F22: lambda board: 0,
    0x193B: lambda board: board.name,
}

DEVICE: dict[int, Callable[[Board], Any]] = {
    0x0631: lambda board: board.product.name,
    0x22CA: lambda board: True,  # is simulated
    0x231F: lambda board: _names(board, board.product.analog_channels()),
    0x2324: lambda board: _names(board, board.product.counter_channels()),
    0x2320: lambda board: _names(board, board.product.lines()),
    0x2322: lambda board: _names(board, board.product.lines()),
    0x2321: lambda board: _names(board, _ports(board)),
    0x2323: lambda board: _names(board, _ports(board)),
    0x299B: lambda board: list(board.product.ao_range_v),
    0x2997: lambda board: board.product.ao_max_rate_hz,
    0x2999: lambda board: board.product.max_rate_hz,
    0x299A: lambda board: board.product.max_rate_hz,
    0x2996: lambda board: True,  # ao_samp_clk_supported
    0x299E: lambda board: True,  # ci_samp_clk_supported
}

PIN: dict[int, Callable[[Board, str], Any]] = {
    0x29A6: lambda board, pin: board.product.change_detection,
    0x29A5: lambda board, pin: "port0" in pin,  # di_samp_clk_supported
    0x29A8: lambda board, pin: "port0" in pin,  # do_samp_clk_supported
}

TASK: dict[int, Callable[[Task], Any]] = {
    0x1276: lambda task: task.name,
    0x1273: lambda task: ", ".join(channel.name for channel in task.channels),
    0x2181: lambda task: len(task.channels),
    0x187F: lambda task: task.kind.value if task.kind else 0,
    0x217B: lambda task: len(task.channels),  # to read
    0x217E: lambda task: len(task.channels),  # to write
    0x217C: lambda task: max(len(channel.pins) for channel in task.channels),
    0x217F: lambda task: max(len(channel.pins) for channel in task.channels),
    0x192B: lambda task: task.generated,
    0x186D: lambda task: len(task.samples),
    0x186C: lambda task: task.input_buffer or 0,
    0x1223: lambda task: task.waiting,
    0x192A: lambda task: task.acquired,
    0x31E8: lambda task: task.waiting,  # what a read of all available reads
    0x0697: lambda task: _RISING if task.counts_rising else _FALLING,
}


def _set_regeneration(board: Board, name: str, value: int) -> None:
    board.idle(name).regenerates = value == _ALLOW_REGENERATION


def _set_input_buffer(board: Board, name: str, value: int) -> None:
    board.idle(name).input_buffer = value


def _set_counted_edge(board: Board, name: str, value: int) -> None:
    board.idle(name).counts_rising = value == _RISING


def _set_counted_terminal(board: Board, name: str, value: str) -> None:
    board.count_edges_of(name, value)


SETTERS: dict[int, Callable[[Board, str, Any], None]] = {
    0x1453: _set_regeneration,
    0x186C: _set_input_buffer,
    0x0697: _set_counted_edge,
    0x18C7: _set_counted_terminal,
}


def row(table: dict[int, Callable[..., Any]], attribute: int) -> Callable[..., Any]:
    """Look an attribute up; -201086 if the model does not know it."""
    if attribute not in table:
        raise BoardError(-201086, f"Attribute {attribute:#x}")
    return table[attribute]
