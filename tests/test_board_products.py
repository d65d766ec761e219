"""The boards that labs have: what each can do, says of itself and refuses."""

from __future__ import annotations

import nidaqmx
import numpy as np
import pytest
from nidaqmx.constants import BusType, ProductCategory, TriggerUsage
from nidaqmx.errors import DaqError
from nidaqmx.stream_writers import DigitalSingleChannelWriter
from nidaqmx.system.device import Device

from boards import exposures, lit, new, played_s, ramp, served
from opm_engine.simulation.board import Board
from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.board_tasks import Kind
from opm_engine.simulation.products import PRODUCTS

X, AO, USB = (
    ProductCategory.X_SERIES_DAQ,
    ProductCategory.AO_SERIES,
    ProductCategory.USBDAQ,
)

# analog outputs and inputs, counters for input and output, clocked lines, all lines,
# change detection, series
SAYS = {
    "USB-6341": (2, 16, 4, 4, 8, 24, True, X),
    "PCIe-6343": (4, 32, 4, 4, 32, 48, True, X),
    "PCIe-6363": (4, 32, 4, 4, 32, 48, True, X),
    "PCIe-6738": (32, 0, 4, 4, 2, 10, True, AO),
    "PCI-6733": (8, 0, 2, 2, 8, 8, False, AO),
    "USB-6008": (2, 8, 1, 0, 0, 12, False, USB),
}
AO_RATE_HZ = {
    "USB-6341": 917431,
    "PCIe-6343": 917431,
    "PCIe-6363": 2857142,
    "PCIe-6738": 1e6,
    "PCI-6733": 1e6,
}
FIFOS = {
    "USB-6341": (8191, 2047),
    "PCIe-6343": (8191, 2047),
    "PCIe-6363": (8191, 2047),
    "PCIe-6738": (65535, 2047),
    "PCI-6733": (16384, 2048),
}


def code_of(refusal: pytest.ExceptionInfo[BoardError]) -> int:
    return refusal.value.code


def test_all_are_described() -> None:
    assert set(SAYS) == set(PRODUCTS)


@pytest.mark.parametrize("product", SAYS)
def test_says(product: str) -> None:
    with served(Board(product=product)) as options:
        device = Device("Dev1", grpc_options=options)
        changes = {line.di_change_detect_supported for line in device.di_lines}
        assert device.product_type == product
        assert (
            len(device.ao_physical_chans),
            len(device.ai_physical_chans),
            len(device.ci_physical_chans),
            len(device.co_physical_chans),
            sum(line.do_samp_clk_supported for line in device.do_lines),
            len(device.do_lines),
            changes == {True},
            device.product_category,
        ) == SAYS[product]
        assert device.serial_num
        assert device.bus_type in (BusType.USB, BusType.PCI, BusType.PCIE)
        assert device.ao_voltage_rngs == ([0, 5] if "6008" in product else [-10, 10])
        assert device.ao_samp_clk_supported == (product in AO_RATE_HZ)
        if product in AO_RATE_HZ:
            assert device.ao_max_rate == pytest.approx(AO_RATE_HZ[product], abs=1)
            assert TriggerUsage.START in device.co_trig_usage
        else:
            with pytest.raises(DaqError) as refusal:
                _ = device.ao_max_rate
            assert refusal.value.error_code == -200197
            assert not device.co_trig_usage


@pytest.mark.parametrize("product", SAYS)
def test_terminals_are_those_that_work(product: str) -> None:
    board = Board(product=product)
    with served(board) as options:
        terminals = Device("Dev1", grpc_options=options).terminals
    assert "/Dev1/PFI0" in terminals
    assert ("/Dev1/ChangeDetectionEvent" in terminals) == SAYS[product][6]
    for terminal in terminals:
        assert board._counted(terminal)


@pytest.mark.parametrize("product", FIFOS)
def test_fifos_are_told_by_reserved_tasks(product: str) -> None:
    with (
        served(Board(product=product)) as options,
        new(options) as ao,
        new(options) as do,
    ):
        ao.ao_channels.add_ao_voltage_chan("Dev1/ao0")
        do.do_channels.add_do_chan("Dev1/port0/line0")
        for task in (ao, do):
            task.timing.cfg_samp_clk_timing(1000, "/Dev1/PFI0", samps_per_chan=4)
            with pytest.raises(DaqError) as refusal:
                _ = task.out_stream.output_onbrd_buf_size
            assert refusal.value.error_code == -200983
            task.control(nidaqmx.constants.TaskMode.TASK_RESERVE)
        sizes = [task.out_stream.output_onbrd_buf_size for task in (ao, do)]
        assert tuple(sizes) == FIFOS[product]


@pytest.mark.parametrize(
    ("product", "left_v"), [("PCIe-6363", 0.0), ("PCIe-6738", 3.0), ("PCI-6733", 3.0)]
)
def test_what_a_reset_leaves(product: str, left_v: float) -> None:
    board = Board(product=product)
    board.create_task("ao")
    board.add_ao("ao", "Dev1/ao0", "", -10, 10)
    board.write("ao", [[3.0]], auto_start=True)
    board.reset()
    assert board.volts("ao0") == left_v


class TestUsb6008:
    @pytest.fixture
    def board(self) -> Board:
        return Board(product="USB-6008")

    def test_outputs_are_softwares(self, board: Board) -> None:
        board.create_task("ao")
        board.add_ao("ao", "Dev1/ao0", "", 0, 5)
        board.write("ao", [[2.5]], auto_start=True)
        assert board.volts("ao0") == 2.5
        with pytest.raises(BoardError) as refusal:
            board.write("ao", [[-0.1]], auto_start=True)
        assert code_of(refusal) == -200561
        board.stop("ao")
        with pytest.raises(BoardError, match="on demand") as refusal:
            board.clock_by_edges("ao", "/Dev1/PFI0", 100, rising=True, samples=5)
        assert code_of(refusal) == -200077

    def test_no_line_is_clocked(self, board: Board) -> None:
        with pytest.raises(BoardError) as refusal:
            lit(board, "Dev1/port0/line0", [[1], [0]], "/Dev1/PFI0")
        assert code_of(refusal) == -200452

    def test_its_range_does_not_reach_below_zero(self, board: Board) -> None:
        with served(board) as options, new(options) as task:
            with pytest.raises(DaqError) as refusal:
                task.ao_channels.add_ao_voltage_chan("Dev1/ao0")
            assert refusal.value.error_code == -200077


class TestPci6733:
    @pytest.fixture
    def board(self) -> Board:
        return Board(product="PCI-6733")

    def test_is_done_one_edge_late(self, board: Board) -> None:
        ramp(board, "/Dev1/PFI0", 2)
        exposures(board, [1.0, 1.1])
        assert board.task("ramp").generated == 2
        assert not board.task("ramp").done
        exposures(board, [1.2])
        assert (board.task("ramp").generated, board.task("ramp").done) == (2, True)

    def test_a_clock_of_its_own_needs_no_more(self, board: Board) -> None:
        ramp(board, "", 3)
        board.advance(board._latest_s + 1)
        assert board.task("ramp").done

    def test_lines_have_no_clock_of_their_own(self, board: Board) -> None:
        with pytest.raises(BoardError) as refusal:
            lit(board, "Dev1/port0/line0", [[1], [0]], "")
        assert code_of(refusal) == -200303

    def test_outputs_do_not_retrigger(self, board: Board) -> None:
        ramp(board, "", 3, start=False)
        board.trigger_by("ramp", "/Dev1/PFI0", rising=True)
        board.start("ramp")
        exposures(board, [1.0])
        assert played_s(board).size == 3
        board.stop("ramp")
        board.release("ramp")
        board.task("ramp").trigger.retriggerable = True
        with pytest.raises(BoardError) as refusal:
            board.start("ramp")
        assert code_of(refusal) == -200452

    def test_pfi_pins_are_no_lines(self, board: Board) -> None:
        board.drive("PFI9", True, 1.0)
        assert board.line("PFI9")
        assert not any(board.lines().values())
        assert len(board.lines()) == 8
        board.create_task("di")
        with pytest.raises(BoardError) as refusal:
            board.add_lines("di", Kind.DI, "Dev1/PFI9", "", together=True)
        assert code_of(refusal) == -200170

    def test_counters_have_24_bits(self, board: Board) -> None:
        board.create_task("count")
        board.add_edge_counter("count", "ctr0", "", rising=True, initial=0)
        board.count_edges_of("count", "20MHzTimebase")
        board.clock_by_edges("count", "/Dev1/PFI0", 1000, rising=True, samples=None)
        board.start("count")
        exposures(board, np.arange(1, 40) / 10)
        counts = board.read_counts("count", -1)
        assert max(counts) < 2**24
        assert np.diff(counts) % 2**24 == pytest.approx([2e6] * 38, abs=1)

    def test_no_fast_timebase(self, board: Board) -> None:
        board.create_task("count")
        board.add_edge_counter("count", "ctr0", "", rising=True, initial=0)
        with pytest.raises(BoardError) as refusal:
            board.count_edges_of("count", "100MHzTimebase")
        assert code_of(refusal) == -200040


class TestPcie6738:
    def test_two_lines_are_clocked(self) -> None:
        board = Board(product="PCIe-6738")
        lit(board, "Dev1/port0/line0:1", [[1, 0], [0, 1]], "/Dev1/PFI0")
        exposures(board, [1.0])
        assert board.line("port0/line0")
        board.clear("lines")
        with pytest.raises(BoardError) as refusal:
            lit(board, "Dev1/port1/line0", [[1], [0]], "/Dev1/PFI0")
        assert code_of(refusal) == -200452

    def test_it_has_no_inputs(self) -> None:
        with (
            served(Board(product="PCIe-6738")) as options,
            new(options) as task,
            pytest.raises(DaqError) as refusal,
        ):
            task.ai_channels.add_ai_voltage_chan("Dev1/ai0")
        assert refusal.value.error_code == -200170


def test_the_6343_is_slower_than_the_6363() -> None:
    codes = {}
    for product in ("PCIe-6343", "PCIe-6363"):
        with served(Board(product=product)) as options, new(options) as task:
            task.do_channels.add_do_chan("Dev1/port0/line0")
            try:
                task.timing.cfg_samp_clk_timing(2e6, "/Dev1/PFI0")
                writer = DigitalSingleChannelWriter(task.out_stream)
                writer.write_many_sample_port_uint32(np.zeros(4, np.uint32))
                codes[product] = 0
            except DaqError as error:
                codes[product] = error.error_code
    assert codes == {"PCIe-6343": -200077, "PCIe-6363": 0}
