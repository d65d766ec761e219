"""What a product refuses of a task, and what its driver assumes.

Separate from `board_tasks` because these are the rules of a product, not the state of
a task. Pure functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.board_tasks import Filter, Kind, Pulse, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opm_engine.simulation.products import Product


def default_buffer(rate_hz: float) -> int:
    """Samples that the driver's input buffer holds if nobody wants more."""
    steps = ((100, 1_000), (10_000, 10_000), (1_000_000, 100_000))
    return next((size for fastest, size in steps if rate_hz <= fastest), 1_000_000)


def fastest_clock_hz(task: Task, product: Product) -> float:
    """Fastest sample clock of these channels; 0 if they cannot be clocked."""
    if task.kind is Kind.AI:
        n_inputs = len(task.pins)
        if n_inputs > 1:
            return product.ai_multiplexed_rate_hz / n_inputs
        return product.ai_max_rate_hz
    if task.kind is Kind.AO:
        return product.ao_max_rate_hz
    return product.timebase_hz / 4 if task.kind is Kind.CI else product.do_max_rate_hz


def refuse_clock(
    task: Task, product: Product, rate_hz: float, samples: int | None, onboard: bool
) -> None:
    """Raise unless the board can clock these channels at this rate."""
    if task.kind is Kind.DO and not all(product.clocked(pin) for pin in task.pins):
        raise BoardError(-200452, "These lines cannot be clocked.")
    fastest_hz = fastest_clock_hz(task, product)
    if not fastest_hz:
        raise BoardError(-200077, "SampTimingType: on demand is all there is.")
    if not 0 < rate_hz <= fastest_hz:
        raise BoardError(-200077, f"SampClk.Rate = {rate_hz}")
    if samples is not None and samples < 1:
        raise BoardError(-200077, f"SampQuant.SampPerChan = {samples}")
    # DAQ-STC boards have a digital sample clock terminal, but no clock behind it
    clockless = task.kind is Kind.DO and not product.retriggers
    if onboard and (clockless or task.kind in (Kind.CI, Kind.CO)):
        raise BoardError(-200303)


def refuse_volts(samples: Sequence[Sequence[float]], product: Product) -> None:
    """Raise if the outputs cannot reach one of the voltages."""
    low_v, high_v = product.ao_range_v
    for sample in samples:
        if not all(low_v <= volts <= high_v for volts in sample):
            raise BoardError(-200561, f"{tuple(sample)}")


def whole_ticks(pulse: Pulse, product: Product) -> Pulse:
    """Round a pulse to the timebase; -200077 if a phase is shorter than two ticks."""
    tick_hz = product.timebase_hz
    for name in ("low_s", "high_s"):
        if round(getattr(pulse, name) * tick_hz) < 2:
            raise BoardError(-200077, f"CO.Pulse {name} = {getattr(pulse, name)}")
    if pulse.delay_s < 0:
        raise BoardError(-200077, f"CO.Pulse delay_s = {pulse.delay_s}")
    times = (pulse.delay_s, pulse.low_s, pulse.high_s)
    delay_s, low_s, high_s = (round(time_s * tick_hz) / tick_hz for time_s in times)
    return Pulse(delay_s, low_s, high_s, pulse.idles_high, pulse.delay_again)


def refuse_triggers(task: Task, product: Product) -> None:
    """Raise if a task wants to be retriggered and the board cannot do that."""
    if not task.trigger.retriggerable or product.retriggers:
        return
    single = task.clock is not None and task.clock.samples == 1
    if task.kind is not Kind.CO:
        raise BoardError(-200452, "Start.Retriggerable")
    if not single:
        raise BoardError(-201439)


def resources(task: Task, product: Product) -> set[str]:
    """What nobody else may hold while the task is committed or runs."""
    held = set(task.pins)
    if task.watchdog is not None:
        held.add("watchdog timer")
    if task.clock is None or task.kind is None:
        return held
    if task.kind is Kind.CO:
        finite = task.clock.samples is not None and task.clock.samples > 1
        if finite and product.paired_counters:
            held |= set(product.counter_channels())
    elif task.kind is not Kind.CI:
        # each counter has a sample clock of its own
        held.add(f"{task.kind.name} timing engine")
    return held


def filtered_pins(task: Task, product: Product) -> Iterator[tuple[str, float]]:
    """Pins that a task wants debounced, and for how many seconds.

    Raises
    ------
    BoardError
        -200772 if the board has no filters, or not there; -200771 without a width.
    """
    clock = task.clock.source if task.clock is not None else ""
    places: list[tuple[Filter, tuple[str, ...]]] = [
        (task.line_filter, task.pins),
        (task.trigger_filter, (task.trigger.source,)),
        (task.gate_filter, (task.gate.source,)),
        (task.clock_filter, (clock,)),
        (task.count_filter, (task.source,)),
    ]
    for filter_, pins in places:
        for pin in pins if filter_.enabled else ():
            if not product.filters or not pin.startswith("port"):
                raise BoardError(-200772, pin)
            if filter_.width_s <= 0:
                raise BoardError(-200771, pin)
            yield pin, filter_.width_s
