"""NI's attribute numbers → what the board model answers.

Separate because it is a table that only grows. A property that the model should know
is one more row. It knows neither messages nor the network.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.board_rules import fastest_clock_hz
from opm_engine.simulation.board_tasks import Kind
from opm_engine.simulation.products import TIMEBASES_HZ

if TYPE_CHECKING:
    from collections.abc import Callable

    from opm_engine.simulation.board import Board
    from opm_engine.simulation.board_tasks import Task

RISING, FALLING = 10280, 10171
HIGH, LOW = 10192, 10214
FINITE, CONTINUOUS = 10178, 10123
_ALLOW_REGENERATION, _NO_REGENERATION = 10097, 10158
_DIGITAL_EDGE, _DIGITAL_LEVEL, _NO_TRIGGER = 10150, 10152, 10230
_SECONDS = 10364
_VOLTAGE = 10322
_ON_DEMAND, _SAMPLE_CLOCK, _IMPLICIT, _CHANGES = 10390, 10388, 10451, 12504
_PAUSE, _START, _ARM_START = 2, 8, 32
_BUSES = {"PCI": 12582, "PCIe": 13612, "USB": 12586}
_SERIAL = 0x01D0_6341


def _names(board: Board, names: list[str]) -> str:
    return ", ".join(f"{board.name}/{name}" for name in names)


def _ports(board: Board) -> list[str]:
    return [f"port{index}" for index in range(len(board.product.port_widths))]


def _terminals(board: Board) -> str:
    product = board.product
    names = product.terminals()
    names += [f"Ctr{n}InternalOutput" for n in range(len(product.pulse_channels()))]
    names += ["ao/SampleClock"] if product.ao_max_rate_hz else []
    names += ["ai/SampleClock"] if product.ai_max_rate_hz else []
    names += ["do/SampleClock"] if product.do_max_rate_hz else []
    names += ["ChangeDetectionEvent"] if product.change_detection else []
    spelled = {
        "100khztimebase": "100kHzTimebase",
        "20mhztimebase": "20MHzTimebase",
        "100mhztimebase": "100MHzTimebase",
    }
    names += [
        spelled[name] for name, hz in TIMEBASES_HZ.items() if hz <= product.timebase_hz
    ]
    return ", ".join(f"/{board.name}/{name}" for name in names)


def _port_width(board: Board, pin: str) -> int:
    port = int(board.port_of(pin).removeprefix("port"))
    return board.product.port_widths[port]


def _rate(rate_hz: float) -> float:
    if not rate_hz:
        raise BoardError(-200197)
    return rate_hz


def _usage(*kinds: int) -> Callable[[Board], int]:
    usage = sum(kinds)
    return lambda board: usage if board.product.timebase_hz else 0


def _counters_clocked(board: Board) -> bool:
    return board.product.timebase_hz > 0


SYSTEM: dict[int, Callable[[Board], Any]] = {
    0x1272: lambda board: 24,  # driver version: major, minor, update
    0x1923: lambda board: 8,
    0x2F22: lambda board: 0,
    0x193B: lambda board: board.name,
    0x1265: lambda board: "",  # saved channels, scales, tasks
    0x1266: lambda board: "",
    0x1267: lambda board: "",
}

DEVICE: dict[int, Callable[[Board], Any]] = {
    0x0631: lambda board: board.product.name,
    0x29A9: lambda board: board.product.category,
    0x0632: lambda board: _SERIAL,
    0x2326: lambda board: _BUSES[board.product.name.partition("-")[0]],
    0x22CA: lambda board: True,  # is simulated
    0x231E: lambda board: _names(board, board.product.input_channels()),
    0x231F: lambda board: _names(board, board.product.analog_channels()),
    0x2324: lambda board: _names(board, board.product.counter_channels()),
    0x2325: lambda board: _names(board, board.product.pulse_channels()),
    0x2320: lambda board: _names(board, board.product.lines()),
    0x2322: lambda board: _names(board, board.product.lines()),
    0x2321: lambda board: _names(board, _ports(board)),
    0x2323: lambda board: _names(board, _ports(board)),
    0x2A40: _terminals,
    0x299B: lambda board: list(board.product.ao_range_v),
    0x2990: lambda board: (
        list(board.product.ai_range_v) if board.product.analog_inputs else []
    ),
    0x2997: lambda board: _rate(board.product.ao_max_rate_hz),
    0x2999: lambda board: _rate(board.product.do_max_rate_hz),  # DI
    0x299A: lambda board: _rate(board.product.do_max_rate_hz),
    0x298C: lambda board: _rate(board.product.ai_max_rate_hz),
    0x298D: lambda board: _rate(board.product.ai_multiplexed_rate_hz),
    0x2996: lambda board: board.product.ao_max_rate_hz > 0,  # samp_clk_supported
    0x299E: _counters_clocked,  # ci_samp_clk_supported
    0x2985: lambda board: board.product.timebase_hz > 0,  # dig_trig_supported
    0x2984: lambda board: False,  # anlg_trig_supported
    0x298F: lambda board: False,  # ai_simultaneous_sampling_supported
    0x299F: lambda board: board.product.counter_bits,
    0x29A1: lambda board: board.product.counter_bits,
    0x29A0: lambda board: _rate(board.product.timebase_hz),
    0x29A2: lambda board: _rate(board.product.timebase_hz),
    0x2986: _usage(_START, _PAUSE),
    0x2987: _usage(_START, _PAUSE),
    0x2988: _usage(_START, _PAUSE),
    0x2989: _usage(_START, _PAUSE),
    0x298A: _usage(_PAUSE, _ARM_START),
    0x298B: _usage(_START, _PAUSE, _ARM_START),
}

PIN: dict[int, Callable[[Board, str], Any]] = {
    0x29A6: lambda board, pin: board.product.change_detection,
    0x29A5: lambda board, pin: board.product.clocked(board.pin(pin)),  # DI clock
    0x29A8: lambda board, pin: board.product.clocked(board.pin(pin)),  # DO clock
    0x29A4: _port_width,
    0x29A7: _port_width,
}


# ---- tasks ---------------------------------------------------------------------

_FILTERS = {
    "line_filter": (0x21D6, 0x21D7),
    "trigger_filter": (0x2223, 0x2224),
    "gate_filter": (0x2228, 0x2229),
    "clock_filter": (0x221E, 0x221F),
    "count_filter": (0x21F6, 0x21F7),
}

FIELDS: dict[int, str] = {
    0x186C: "input_buffer",
    0x190F: "trigger.retriggerable",
    0x1856: "trigger.delay_s",
    0x2EC9: "pulse.delay_again",
    0x18BC: "pulse.delay_s",
    0x0299: "pulse.delay_s",
    0x18BB: "pulse.low_s",
    0x18BA: "pulse.high_s",
    **{numbers[0]: f"{name}.enabled" for name, numbers in _FILTERS.items()},
    **{numbers[1]: f"{name}.width_s" for name, numbers in _FILTERS.items()},
}
"""Attributes that are a field of the task, to read and to set."""

CHOICES: dict[int, tuple[str, dict[int, bool]]] = {
    0x1453: ("regenerates", {_ALLOW_REGENERATION: True, _NO_REGENERATION: False}),
    0x0697: ("counts_rising", {RISING: True, FALLING: False}),
    0x1404: ("trigger.rising", {RISING: True, FALLING: False}),
    0x1380: ("gate.when_high", {HIGH: True, LOW: False}),
}
"""Attributes that are a field of the task in NI's numbers."""


def _terminal(board: Board, signal: str) -> str:
    return f"/{board.name}/{signal}" if signal else ""


def _sample_mode(board: Board, task: Task) -> int:
    endless = task.clock is not None and task.clock.samples is None
    return CONTINUOUS if endless else FINITE


def _timing_type(board: Board, task: Task) -> int:
    if task.clock is None:
        return _ON_DEMAND
    if task.kind is Kind.CO:
        return _IMPLICIT
    return _SAMPLE_CLOCK if task.clock.source else _CHANGES


def _rate_of(board: Board, task: Task) -> float:
    if task.clock is None:
        raise BoardError(-200452)
    return task.clock.rate_hz


def _onboard_buffer(board: Board, task: Task) -> int:
    if not board.holds(task):
        raise BoardError(-200983)
    fifos = {Kind.AO: board.product.ao_fifo, Kind.DO: board.product.do_fifo}
    if task.kind not in fifos or task.clock is None:
        raise BoardError(-200452)
    return fifos[task.kind]


def _all_available(board: Board, task: Task) -> int:
    """Samples that "read all available" reads: of a finite task all there will be."""
    if task.clock is None:
        return 1
    return task.waiting if task.clock.samples is None else task.clock.samples


def _frequency(board: Board, task: Task) -> float:
    if task.pulse is None:
        raise BoardError(-200452)
    return 1 / task.pulse.period_s


TASK: dict[int, Callable[[Board, Task], Any]] = {
    0x1276: lambda board, task: task.name,
    0x1273: lambda board, task: ", ".join(channel.name for channel in task.channels),
    0x2181: lambda board, task: len(task.channels),
    0x230E: lambda board, task: board.name,
    0x29BA: lambda board, task: 1,
    0x1274: lambda board, task: task.done,
    0x187F: lambda board, task: task.kind.value if task.kind else 0,
    0x18F5: lambda board, task: _names(board, list(task.pins)),
    0x217B: lambda board, task: len(task.channels),  # to read
    0x217E: lambda board, task: len(task.channels),  # to write
    0x1823: lambda board, task: ", ".join(channel.name for channel in task.channels),
    0x217C: lambda board, task: max(len(channel.pins) for channel in task.channels),
    0x217F: lambda board, task: max(len(channel.pins) for channel in task.channels),
    0x0695: lambda board, task: _VOLTAGE,
    0x1108: lambda board, task: _VOLTAGE,
    0x192B: lambda board, task: task.generated,
    0x186D: lambda board, task: task.output_buffer or len(task.samples),
    0x230B: _onboard_buffer,
    0x1223: lambda board, task: task.waiting,
    0x192A: lambda board, task: task.acquired,
    0x1826: lambda board, task: True,  # reads start tasks
    0x31E8: _all_available,
    0x190E: lambda board, task: task.done,  # co_pulse_done
    0x1178: _frequency,
    0x18E1: lambda board, task: "",  # the model's pulses stay inside
    0x1300: _sample_mode,
    0x1310: lambda board, task: (task.clock and task.clock.samples) or 0,
    0x1344: _rate_of,
    0x22C8: lambda board, task: fastest_clock_hz(task, board.product),
    0x1347: _timing_type,
    0x1852: lambda board, task: _terminal(
        board, task.clock.source if task.clock else ""
    ),
    0x1393: lambda board, task: _DIGITAL_EDGE if task.trigger.source else _NO_TRIGGER,
    0x1366: lambda board, task: _DIGITAL_LEVEL if task.gate.source else _NO_TRIGGER,
    0x1407: lambda board, task: _terminal(board, task.trigger.source),
    0x1379: lambda board, task: _terminal(board, task.gate.source),
    0x18C7: lambda board, task: _terminal(board, task.source),
    0x18C8: lambda board, task: _SECONDS,
}


def _ignore(board: Board, name: str, value: Any) -> None:
    """Take a value without effect in the model."""
    board.idle(name)


def _set_delay_units(board: Board, name: str, value: int) -> None:
    board.idle(name)
    if value != _SECONDS:
        raise BoardError(-200077, "The model delays by seconds only.")


def _set_trigger_type(board: Board, name: str, value: int) -> None:
    if value == _NO_TRIGGER:
        board.trigger_by(name, "", rising=True)


def _set_trigger(board: Board, name: str, value: str) -> None:
    rising = board.task(name).trigger.rising
    board.trigger_by(name, value, rising=rising)


def _set_gate_type(board: Board, name: str, value: int) -> None:
    if value == _NO_TRIGGER:
        board.pause_by(name, "")


def _set_output_buffer(board: Board, name: str, value: int) -> None:
    task = board.idle(name)
    task.output_buffer = value
    task.samples, task.written = [], 0


SETTERS: dict[int, Callable[[Board, str, Any], None]] = {
    0x18C7: lambda board, name, value: board.count_edges_of(name, value),
    0x1393: _set_trigger_type,
    0x1407: _set_trigger,
    0x1366: _set_gate_type,
    0x1379: lambda board, name, value: board.pause_by(name, value),
    0x18C8: _set_delay_units,
    0x186D: _set_output_buffer,
    0x18E1: _ignore,
}


def read_task(board: Board, task: Task, attribute: int) -> Any:
    """Value of a task's attribute; -201086 if the model does not know it."""
    if attribute in FIELDS:
        return _field(task, FIELDS[attribute]) or 0
    if attribute in CHOICES:
        path, choices = CHOICES[attribute]
        value = _field(task, path)
        return next(number for number, means in choices.items() if means == value)
    return row(TASK, attribute)(board, task)


def change_task(board: Board, name: str, attribute: int, value: Any) -> None:
    """Set a task's attribute; -201086 if the model does not know it."""
    if attribute in FIELDS:
        _set_field(board.idle(name), FIELDS[attribute], value)
    elif attribute in CHOICES:
        path, choices = CHOICES[attribute]
        if value not in choices:
            raise BoardError(-200077, f"{value}")
        _set_field(board.idle(name), path, choices[value])
    else:
        row(SETTERS, attribute)(board, name, value)


def _field(task: Task, path: str) -> Any:
    if path.startswith("pulse.") and task.pulse is None:
        raise BoardError(-200452)
    return attrgetter(path)(task)


def _set_field(task: Task, path: str, value: Any) -> None:
    _field(task, path)
    holder, _, name = path.rpartition(".")
    setattr(attrgetter(holder)(task) if holder else task, name, value)


def row(table: dict[int, Callable[..., Any]], attribute: int) -> Callable[..., Any]:
    """Look an attribute up; -201086 if the model does not know it."""
    if attribute not in table:
        raise BoardError(-201086, f"Attribute {attribute:#x}")
    return table[attribute]
