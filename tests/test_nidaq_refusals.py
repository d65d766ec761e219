"""What `NIDaq` refuses, and of which board: before the board is asked for anything."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nidaqs import (
    FULL_WAVEFORM,
    LASERS,
    WAVEFORM,
    changed,
    full_microscope,
    opened,
)
from opm_engine.config import Microscope
from opm_engine.daq.capabilities import Capabilities, family_of, refuse_device
from opm_engine.daq.clocking import Clocking, clocking_of, streams_over_usb
from opm_engine.daq.motion import ramp_v
from opm_engine.daq.nidaq import NIDaq
from opm_engine.daq.protocol import DaqError, Waveform
from opm_engine.daq.recording import Recorder, frame_weights
from opm_engine.simulation.board import Board

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO = Microscope.demo()
PCIE_6363 = Capabilities(
    product="PCIe-6363",
    analog_outputs=("ao0", "ao1", "ao2", "ao3"),
    ao_ranges_v=((-10, 10), (-5, 5)),
    ao_max_rate_hz=2.86e6,
    lines=frozenset(f"port{p}/line{k}" for p in range(3) for k in range(8)),
    buffered_lines=frozenset(f"port0/line{k}" for k in range(8)),
    do_max_rate_hz=10e6,
    change_ports=frozenset({"port0", "port1", "port2"}),
    counters=("ctr0", "ctr1", "ctr2", "ctr3"),
    counter_bits=32,
    timebase_hz=100e6,
    analog_inputs=("ai0", "ai1"),
    ai_ranges_v=((-10, 10),),
    ai_max_rate_hz=1e6,
)
OLD = replace(PCIE_6363, product="PCIe-6739", change_ports=frozenset())


@pytest.fixture(scope="module")
def bench() -> Iterator[tuple[NIDaq, Board]]:
    with opened() as bench:
        yield bench


def waveform(**fields: Any) -> Waveform:
    return replace(WAVEFORM, **fields)


REFUSED = {
    "volts beyond the range": (
        waveform(analog=np.full((1, 8), 5.5)),
        r"5.5 V on ao0 is outside daq.galvo.range_v = \[-5, 5\]",
    ),
    "first volts beyond": (waveform(initial_v=np.array([-6.0])), "-6 V on ao0"),
    "volts that are no number": (waveform(analog=np.full((1, 8), np.nan)), "nan V"),
    "another channel": (waveform(channels=("ao1",)), "the galvo is on ao0"),
    "no laser's line": (waveform(lines=("port0/line7",)), "port0/line7 is no laser"),
    "a bit too many": (waveform(lines=LASERS[:1]), "raises bits 0x2"),
    "odd": (waveform(n_samples=7), "n_samples = 7 is not two for each exposure"),
    "not whole frames": (
        waveform(samples_per_frame=4, n_samples=22),
        "n_samples = 22 is not 4 for each exposure",
    ),
    "a period of broken frames": (waveform(samples_per_frame=3), "digital 8 samples"),
    "one sample per frame": (waveform(samples_per_frame=1), "samples_per_frame = 1"),
    "no rate": (waveform(max_rate_hz=np.inf), "max_rate_hz = inf"),
    "a channel twice": (
        waveform(
            channels=("ao0", "ao0"),
            analog=np.zeros((2, 8)),
            initial_v=np.zeros(2),
        ),
        "names one twice",
    ),
    "nobody's channel": (
        waveform(
            channels=("ao0", "ao3"),
            analog=np.zeros((2, 8)),
            initial_v=np.zeros(2),
        ),
        "ao3 is no galvo's channel and no power output's",
    ),
    "trains that outlast the frame": (
        waveform(samples_per_frame=4, sample_ms=2.5),
        "4 samples of 2.5 ms outlast a frame of 10 ms",
    ),
    "more samples than the timebase can make": (
        waveform(samples_per_frame=4, sample_ms=1e-5),
        "samples/s on 1 analog outputs: Dev1 .PCIe-6363. does at most",
    ),
    "edges too fast": (waveform(max_rate_hz=5e6), "5e.06 samples/s on 1 analog out"),
    "nothing": (waveform(n_samples=0), "n_samples = 0"),
    "no period": (waveform(period_ms=0.0), "period_ms = 0.0"),
    "unequal lengths": (
        waveform(digital=np.zeros(4, np.uint32)),
        r"analog is \(1, 8\)",
    ),
    "no first volts": (waveform(initial_v=np.array([])), "initial_v"),
}


@pytest.mark.parametrize(("wrong", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_the_board_is_asked(
    bench: tuple[NIDaq, Board], wrong: Waveform, message: str
) -> None:
    daq, board = bench
    board.calls.clear()
    for ask in (daq.refuse, daq.arm):
        with pytest.raises(DaqError, match=message):
            ask(wrong)
    assert not board.calls


WRONG_MICROSCOPES = {
    "device": ("daq.device", "Dev7", r"Dev7 at 127.*NI -200220"),
    "counter": ("daq.counter", "ctr9", "daq.counter: Dev1 .* has no ctr9"),
    "channel": ("daq.galvo.channel", "ao6", "daq.galvo.channel: .* no ao6"),
    "enable": ("daq.laser_enable", "port3/line0", "daq.laser_enable: .* port3/line0"),
    "terminal": (
        "camera.exposure_out.terminal",
        "port3/line0",
        "camera.exposure_out.terminal: .* no port3/line0",
    ),
}


@pytest.mark.parametrize(
    ("field", "value", "message"), WRONG_MICROSCOPES.values(), ids=WRONG_MICROSCOPES
)
def test_a_microscope_that_does_not_fit_the_device(
    demo: Microscope, field: str, value: Any, message: str
) -> None:
    board = Board()
    with (
        pytest.raises(DaqError, match=message),
        opened(changed(demo, field, value), board),
    ):
        pass
    assert not board.open_tasks()
    assert "CreateTask" not in board.calls


def test_a_range_beyond_the_device(demo: Microscope) -> None:
    refuse_device(demo, replace(PCIE_6363, ao_ranges_v=((0, 10), (-5, 5))))
    with pytest.raises(
        DaqError, match=r"range_v: Dev1 \(PCI.*\) cannot put out -5..5 V"
    ):
        refuse_device(demo, replace(PCIE_6363, ao_ranges_v=((0, 10), (-4.9, 5))))


FULL_REFUSED = {
    "projection": (
        1,
        2.1,
        r"2.1 V on ao1 is outside daq.projection.range_v = \[-2, 2\]",
    ),
    "power": (2, 5.1, r"ao2 is outside lasers.488.power_output.full_v = \[0, 5\]"),
    "negative power": (2, -0.1, r"-0.1 V on ao2 is outside"),
}


@pytest.mark.parametrize(
    ("row", "volts", "message"), FULL_REFUSED.values(), ids=FULL_REFUSED
)
def test_each_channel_has_its_own_clamp(row: int, volts: float, message: str) -> None:
    analog, initial_v = FULL_WAVEFORM.analog.copy(), FULL_WAVEFORM.initial_v.copy()
    analog[row, 3] = volts
    initial_v[row] = volts
    daq = NIDaq(full_microscope())
    for wrong in ({"analog": analog}, {"initial_v": initial_v}):
        with pytest.raises(DaqError, match=message):
            daq.refuse(replace(FULL_WAVEFORM, **wrong))


WRONG_BOARDS = {
    "USB-6008": (
        {},
        r"daq.device: Dev1 \(USB-6008\) has no buffered lines.*such as USB-6341",
    ),
    "PCI-6733": (
        {},
        r"daq.laser_enable: Dev1 \(PCI-6733\) has no port1/line1",
    ),
    "PCIe-6738": (
        {"lasers.1.line": "port0/line2"},
        r"lasers.561: Dev1 \(PCIe-6738\) has no port0/line2",
    ),
    "USB-6341": (
        {
            "daq.projection": {
                **full_microscope().daq.projection.model_dump(),
                "channel": "ao2",
            }
        },
        r"daq.projection.channel: Dev1 \(USB-6341\) has no ao2",
    ),
}


@pytest.mark.parametrize(
    ("product", "fields", "message"),
    [(product, *case) for product, case in WRONG_BOARDS.items()],
    ids=WRONG_BOARDS,
)
def test_a_board_that_cannot_do_the_job(
    demo: Microscope, product: str, fields: dict[str, Any], message: str
) -> None:
    board = Board(product=product)
    for path, value in fields.items():
        demo = changed(demo, path, value)
    with pytest.raises(DaqError, match=message), opened(demo, board):
        pass
    assert "CreateTask" not in board.calls


BOARDS = {
    # product: (clock, buffered lines, counters, analog outputs, analog inputs)
    "USB-6341": (True, 8, 4, 2, 16),
    "PCIe-6343": (True, 32, 4, 4, 32),
    "PCIe-6363": (True, 32, 4, 4, 32),
    "PCIe-6738": (True, 2, 4, 32, 0),
    "PCI-6733": (False, 8, 2, 8, 0),
}


@pytest.mark.parametrize("product", BOARDS)
def test_boards_that_can(demo: Microscope, product: str) -> None:
    by_edges, *numbers = BOARDS[product]
    if product == "PCI-6733":
        demo = changed(demo, "daq.laser_enable", None)
    with opened(demo, Board(product=product)) as (daq, board):
        device = daq.capabilities
        assert device.product == product
        assert [
            len(device.buffered_lines),
            len(device.counters),
            len(device.analog_outputs),
            len(device.analog_inputs),
        ] == numbers
        assert clocking_of(WAVEFORM, demo, device).by_edges is by_edges
        for waveform in (
            replace(WAVEFORM, sample_ms=4.0),
            replace(WAVEFORM, samples_per_frame=4, sample_ms=1.0),
        ):
            daq.refuse(waveform)
            daq.arm(waveform)
            daq.make_dark()
        assert not board.open_tasks()


def test_fields_of_a_device_that_does_not_fit(demo: Microscope) -> None:
    refuse_device(demo, PCIE_6363)
    static = replace(PCIE_6363, buffered_lines=frozenset({"port0/line0"}))
    with pytest.raises(DaqError, match=r"lasers.561.line: .*clock port0/line1; it can"):
        refuse_device(demo, static)
    unknown = replace(PCIE_6363, product="B-1", change_ports=frozenset())
    with pytest.raises(DaqError, match=r"exposure_out.terminal: .* no changes of PFI0"):
        refuse_device(demo, unknown)
    debounced = changed(demo, "camera.exposure_out.debounce_us", 5)
    with pytest.raises(DaqError, match=r"debounce_us: .* no digital filters; use 0"):
        refuse_device(debounced, replace(PCIE_6363, product="PCI-6733"))
    with pytest.raises(DaqError, match="cannot clock its analog outputs"):
        refuse_device(demo, replace(PCIE_6363, ao_max_rate_hz=0))
    with pytest.raises(DaqError, match=r"daq.pulse_counter: .* has no ctr1"):
        refuse_device(demo, replace(OLD, counters=("ctr0", "ctr2")))


def test_what_an_old_board_cannot_play(demo: Microscope) -> None:
    assert not clocking_of(WAVEFORM, demo, OLD).by_edges
    with pytest.raises(DaqError, match=r"0.02 ms between two .* windows of 9.98 ms"):
        clocking_of(replace(WAVEFORM, sample_ms=9.98), demo, OLD)
    on_a_line = changed(demo, "camera.exposure_out.terminal", "port0/line9")
    ramp = replace(WAVEFORM, samples_per_frame=4, sample_ms=1)
    with pytest.raises(
        DaqError, match="port0/line9 cannot trigger; a PFI terminal can"
    ):
        clocking_of(ramp, on_a_line, PCIE_6363)
    with pytest.raises(DaqError, match="cannot start a pulse train at each exposure"):
        clocking_of(ramp, demo, replace(PCIE_6363, product="unheard of"))


@given(window_ms=st.floats(0.05, 9.8), period_ms=st.just(10.0))
def test_two_samples_fit_a_train(window_ms: float, period_ms: float) -> None:
    waveform = replace(WAVEFORM, sample_ms=window_ms, period_ms=period_ms)
    clocking = clocking_of(waveform, DEMO, OLD)
    n = clocking.per_frame
    assert (n - 1) * clocking.sample_ms == pytest.approx(window_ms, abs=1e-3)
    assert n * clocking.sample_ms < period_ms
    played = clocking.expand(waveform.digital).reshape(-1, n)
    assert np.array_equal(
        played[:, :-1], np.repeat(waveform.digital[::2, None], n - 1, 1)
    )
    assert np.array_equal(played[:, -1], waveform.digital[1::2])


def test_a_fifo_matters_on_usb_alone() -> None:
    long = replace(
        WAVEFORM,
        samples_per_frame=100,
        digital=np.zeros(10_000, np.uint32),
        period_ms=0.5,
    )
    clocking = Clocking(by_edges=False, per_frame=100, sample_ms=0.004)
    usb = replace(PCIE_6363, product="USB-6341")
    fifo = family_of(usb.product).ao_fifo
    assert "8191" in str(streams_over_usb(long, clocking, usb, fifo))
    assert streams_over_usb(long, clocking, usb, 10_000) is None
    assert streams_over_usb(long, clocking, PCIE_6363, fifo) is None
    slow = replace(long, period_ms=5.0)
    assert streams_over_usb(slow, clocking, usb, fifo) is None


@given(
    start_v=st.floats(-5, 5),
    target_v=st.floats(-5, 5),
    slew=st.floats(0.01, 50),
    acceleration=st.none() | st.floats(0.01, 100),
)
def test_ramps_keep_within_their_limits(
    start_v: float, target_v: float, slew: float, acceleration: float | None
) -> None:
    galvo = DEMO.daq.galvo.model_copy(
        update={"slew_v_per_ms": slew, "acceleration_v_per_ms2": acceleration}
    )
    path_v = ramp_v(start_v, target_v, galvo)
    assert path_v[-1] == target_v
    steps_v = np.diff(path_v, prepend=start_v)
    assert np.abs(steps_v).max() <= slew * (1 + 1e-9) + 1e-9
    if acceleration is not None:
        speeds = np.concatenate([[0], steps_v, [0]])
        assert np.abs(np.diff(speeds)).max() <= acceleration * (1 + 1e-9) + 1e-9
    shortest_ms = galvo.move_ms(target_v - start_v)
    assert path_v.size <= shortest_ms + 1
    low_v, high_v = sorted((start_v, target_v))
    assert low_v - 1e-9 <= path_v.min() <= path_v.max() <= high_v + 1e-9


def test_from_an_unknown_voltage_there_is_no_ramp() -> None:
    assert ramp_v(None, 3.0, DEMO.daq.galvo).tolist() == [3.0]


WEIGHTS = {
    "lit all the time": ([1, 1, 1, 1], [0, 1 / 3, 1 / 3, 1 / 3]),
    "one pulse": ([0, 1, 0, 0], [0, 0, 1, 0]),
    "two of four": ([1, 1, 0, 0], [0, 1, 0, 0]),
    "dark": ([0, 0, 0, 0], [0.25] * 4),
    "lit at the end": ([0, 0, 0, 1], [0.25] * 4),
}


@pytest.mark.parametrize(("lit", "weights"), WEIGHTS.values(), ids=WEIGHTS)
def test_which_samples_make_a_row(lit: list[int], weights: list[float]) -> None:
    waveform = replace(WAVEFORM, digital=np.array(lit, np.uint32), samples_per_frame=4)
    clocking = Clocking(by_edges=False, per_frame=4, sample_ms=1)
    assert frame_weights(waveform, clocking).tolist() == [pytest.approx(weights)]


@given(cuts=st.lists(st.integers(0, 30), max_size=6))
def test_rows_do_not_depend_on_how_samples_come(cuts: list[int]) -> None:
    weights = np.array([[0, 1, 0], [0.5, 0, 0.5]])
    samples = np.arange(60.0).reshape(30, 2)
    recorder = Recorder(weights, n_frames=8, n_inputs=2)
    rows = [recorder.add(part) for part in np.split(samples, sorted(cuts))]
    first = np.array([[6 * k + 2, 6 * k + 3] for k in range(8)], float)
    assert np.concatenate(rows).tolist() == first.tolist()
