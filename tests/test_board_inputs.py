"""Analog inputs and debounced terminals: what the board sees of the world."""

from __future__ import annotations

import numpy as np
import pytest
from nidaqmx.constants import AcquisitionType
from nidaqmx.errors import DaqError
from nidaqmx.stream_readers import AnalogMultiChannelReader

from boards import exposures, lit, new, played_s, pulsing, ramp, served
from opm_engine.simulation.board import Board
from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.board_tasks import Kind, Pulse

EVENT = "/Dev1/ChangeDetectionEvent"
TRAIN = "/Dev1/Ctr1InternalOutput"
MS = Pulse(0.0, 0.0005, 0.0005, delay_again=True)


@pytest.fixture
def board() -> Board:
    return Board()


def recording(
    board: Board,
    source: str,
    n: int | None = None,
    *,
    channels: str = "Dev1/ai0:1",
    range_v: tuple[float, float] = (-10.0, 10.0),
) -> str:
    board.create_task("in")
    board.add_ai("in", channels, "", *range_v)
    board.clock_by_edges("in", source, 1000, rising=True, samples=n)
    board.start("in")
    return "in"


def detecting(board: Board, width_s: float = 0.0) -> None:
    board.create_task("edges")
    board.add_lines("edges", Kind.DI, "Dev1/PFI0", "", together=True)
    task = board.idle("edges")
    task.input_buffer = 0
    task.line_filter.enabled, task.line_filter.width_s = width_s > 0, width_s
    board.clock_by_changes("edges", "Dev1/PFI0", "Dev1/PFI0", None)
    board.start("edges")


class TestAnalogInputs:
    def test_convert_before_outputs_change(self, board: Board) -> None:
        pulsing(board, MS, 4)
        ramp(board)
        recording(board, TRAIN)
        exposures(board, [1.0, 2.0])
        board.advance(3.0)
        rows = np.array(board.read_volts("in", -1))
        # ai0 is wired to ao0, and sees what was there before the edge
        assert rows[:, 0] == pytest.approx(np.arange(8) * 1e-3)
        assert not rows[:, 1].any()
        assert board.read_volts("in", -1) == []

    def test_both_edges_of_an_exposure(self, board: Board) -> None:
        recording(board, EVENT)
        detecting(board)
        board.inputs["ai1"] = lambda time_s: time_s
        exposures(board, [1.0, 1.01])
        rows = np.array(board.read_volts("in", 4))
        assert rows[:, 1] == pytest.approx([1.0, 1.004, 1.01, 1.014])

    def test_saturate_at_their_range(self, board: Board) -> None:
        board.inputs |= {"ai0": lambda time_s: 7.0, "ai1": lambda time_s: -7.0}
        recording(board, EVENT, range_v=(-1.0, 5.0))
        detecting(board)
        exposures(board, [1.0])
        assert board.read_volts("in", 1) == [(5.0, -1.0)]

    def test_finite_tasks_take_no_more(self, board: Board) -> None:
        name = recording(board, EVENT, 3)
        detecting(board)
        exposures(board, [1.0])
        assert not board.task(name).done
        exposures(board, [2.0, 3.0])
        assert board.task(name).done
        assert len(board.read_volts(name, -1)) == 3

    def test_a_full_buffer_fails(self, board: Board) -> None:
        name = recording(board, EVENT)
        board.task(name).input_buffer = 3
        detecting(board)
        exposures(board, [1.0, 2.0])
        for act in (lambda: board.read_volts(name, -1), lambda: board.stop(name)):
            with pytest.raises(BoardError) as refusal:
                act()
            assert refusal.value.code == -200222

    def test_onboard_clock(self, board: Board) -> None:
        board.inputs["ai0"] = lambda time_s: time_s % 1
        recording(board, "", 5, channels="Dev1/ai0")
        board.advance(board._latest_s + 1)
        volts = np.array(board.read_volts("in", -1))[:, 0]
        np.testing.assert_allclose(np.diff(volts) % 1, 1e-3, atol=1e-9)

    @pytest.mark.parametrize(
        ("channel", "range_v", "code"),
        [("ai32", (-10, 10), -200170), ("ai0", (-20, 20), -200077)],
        ids=["no such input", "beyond the board"],
    )
    def test_refused(
        self, board: Board, channel: str, range_v: tuple[float, float], code: int
    ) -> None:
        with pytest.raises(BoardError) as refusal:
            recording(board, EVENT, channels=channel, range_v=range_v)
        assert refusal.value.code == code

    @pytest.mark.parametrize(
        ("n_inputs", "fastest_hz"), [(1, 2e6), (2, 500e3), (4, 250e3)]
    )
    def test_inputs_share_one_converter(
        self, board: Board, n_inputs: int, fastest_hz: float
    ) -> None:
        with served(board) as options, new(options) as task:
            task.ai_channels.add_ai_voltage_chan(f"Dev1/ai0:{n_inputs - 1}")
            task.timing.cfg_samp_clk_timing(fastest_hz, EVENT)
            assert task.timing.samp_clk_max_rate == fastest_hz
            with pytest.raises(DaqError) as refusal:
                task.timing.cfg_samp_clk_timing(fastest_hz * 1.01, EVENT)
            assert refusal.value.error_code == -200077

    def test_nothing_can_be_written(self, board: Board) -> None:
        recording(board, EVENT)
        with pytest.raises(BoardError) as refusal:
            board.write("in", [[0.0, 0.0]], auto_start=False)
        assert refusal.value.code == -200452


class TestThroughNidaqmx:
    def test_one_row_per_frame(self, board: Board) -> None:
        board.inputs |= {"ai2": lambda time_s: 2 * time_s, "ai3": lambda time_s: -1.0}
        with served(board) as options, new(options) as task:
            task.ai_channels.add_ai_voltage_chan("Dev1/ai2:3", max_val=5, min_val=-5)
            task.timing.cfg_samp_clk_timing(
                1000,
                EVENT,
                sample_mode=AcquisitionType.CONTINUOUS,
                samps_per_chan=20_000,
            )
            assert task.in_stream.input_buf_size == 20_000
            task.start()
            detecting(board)
            exposures(board, [1.0, 1.5])
            assert task.in_stream.avail_samp_per_chan == 4
            reader = AnalogMultiChannelReader(task.in_stream)
            volts = np.zeros((2, 3))
            assert reader.read_many_sample(volts, 3, timeout=0) == 3
            assert volts[0] == pytest.approx([2.0, 2.008, 3.0])
            assert volts[1] == pytest.approx([-1.0] * 3)
            assert task.in_stream.total_samp_per_chan_acquired == 4
            with pytest.raises(DaqError) as refusal:
                reader.read_many_sample(volts, 3, timeout=0)
            assert refusal.value.error_code == -200284
            assert task.in_stream.avail_samp_per_chan == 1

    def test_on_demand(self, board: Board) -> None:
        board.inputs["ai0"] = lambda time_s: 1.5
        with served(board) as options:
            with new(options) as task:
                task.ai_channels.add_ai_voltage_chan("Dev1/ai0")
                assert task.read() == 1.5
                assert task.read(3) == [1.5] * 3
            with new(options) as task:
                task.ai_channels.add_ai_voltage_chan("Dev1/ai0:1")
                assert task.read() == [1.5, 0.0]

    def test_a_read_waits_for_its_samples(self, board: Board) -> None:
        with served(board) as options, new(options) as task:
            task.ai_channels.add_ai_voltage_chan("Dev1/ai0:1")
            task.timing.cfg_samp_clk_timing(1000, samps_per_chan=30)
            assert np.shape(task.read(-1, timeout=20)) == (2, 30)
            task.wait_until_done(20)
            assert task.timing.samp_clk_rate == 1000
            assert task.timing.samp_quant_samp_mode is AcquisitionType.FINITE

    def test_a_filter_of_a_line_and_of_a_trigger(self, board: Board) -> None:
        with served(board) as options, new(options) as di, new(options) as co:
            channel = di.di_channels.add_di_chan("Dev1/PFI0")
            channel.di_dig_fltr_enable = True
            channel.di_dig_fltr_min_pulse_width = 1e-5
            assert channel.di_dig_fltr_enable
            assert channel.di_dig_fltr_min_pulse_width == 1e-5
            di.in_stream.input_buf_size = 0
            di.timing.cfg_change_detection_timing(
                "Dev1/PFI0", "Dev1/PFI0", AcquisitionType.CONTINUOUS
            )
            co.co_channels.add_co_pulse_chan_freq("Dev1/ctr1", freq=1000)
            start = co.triggers.start_trigger
            start.cfg_dig_edge_start_trig("/Dev1/PFI0")
            start.dig_edge_dig_fltr_enable = True
            start.dig_edge_dig_fltr_min_pulse_width = 2e-5
            di.start()
            with pytest.raises(DaqError) as refusal:
                co.start()
            assert refusal.value.error_code == -200806
            start.dig_edge_dig_fltr_min_pulse_width = 1e-5
            co.start()
            exposures(board, [1.0], width_s=5e-6)
            assert board.task(di.name).acquired == 0
            assert not co.is_task_done()
            exposures(board, [1.1])
            board.advance(2)
            assert board.task(di.name).acquired == 2
            assert co.is_task_done()


class TestFilters:
    def test_delays_by_its_width_and_drops_what_is_shorter(self, board: Board) -> None:
        detecting(board, 1e-4)
        ramp(board, EVENT)
        exposures(board, [1.0, 3.0], width_s=0.9e-4)
        exposures(board, [4.0])
        # a break in a long pulse is bridged
        for time_s, level in [(5.0, 1), (5.002, 0), (5.00205, 1), (5.004, 0)]:
            board.drive("PFI0", bool(level), time_s)
        expected = [4.0001, 4.0041, 5.0001, 5.0041]
        np.testing.assert_allclose(played_s(board), expected, rtol=0, atol=1e-9)
        assert board.rises("PFI0") == 5

    def test_without_one_everything_is_seen(self, board: Board) -> None:
        detecting(board)
        exposures(board, [1.0, 3.0], width_s=1e-7)
        assert board.task("edges").acquired == 4

    def test_starts_with_the_level_that_is_there(self, board: Board) -> None:
        board.drive("PFI0", True, 1.0)
        detecting(board, 1e-4)
        board.advance(2.0)
        assert board.task("edges").acquired == 0
        board.drive("PFI0", False, 3.0)
        board.advance(4.0)
        assert board.task("edges").acquired == 1

    def test_opposite_edges_at_one_instant(self, board: Board) -> None:
        detecting(board, 1e-4)
        board.drive("PFI0", True, 1.0)
        board.clear("edges")
        detecting(board, 1e-4)
        board.drive("PFI0", False, 1.0)
        board.advance(2.0)
        # the new task has begun at the high level and sees one falling edge
        assert board.task("edges").acquired == 1
        exposures(board, [3.0])
        board.advance(4.0)
        assert board.task("edges").acquired == 3

    def test_ends_with_its_task(self, board: Board) -> None:
        detecting(board, 1e-4)
        pulsing(board, MS, 2)
        ramp(board)
        exposures(board, [1.0], width_s=1e-5)
        assert board.task("ramp").generated == 0
        board.drive("PFI0", True, 2.0)
        board.clear("edges")
        board.advance(3.0)
        assert board.task("ramp").generated == 0
        board.drive("PFI0", False, 4.0)
        exposures(board, [5.0], width_s=1e-5)
        board.advance(6.0)
        assert board.task("ramp").generated == 2

    @pytest.mark.parametrize(
        ("product", "width_s", "code"),
        [("PCIe-6363", 0.0, -200771), ("PCI-6733", 1e-5, -200772)],
        ids=["no width", "no filters"],
    )
    def test_refused(self, product: str, width_s: float, code: int) -> None:
        board = Board(product=product)
        name = pulsing(board, MS, 1, start=False)
        filter_ = board.task(name).trigger_filter
        filter_.enabled, filter_.width_s = True, width_s
        with pytest.raises(BoardError) as refusal:
            board.start(name)
        assert refusal.value.code == code
        board.clear(name)
        assert not board.reserved()

    def test_lasers_need_both_edges(self, board: Board) -> None:
        """The phase stays right where an unfiltered glitch would invert it."""
        detecting(board, 1e-4)
        lit(board, "Dev1/port0/line0", [[1], [0]], EVENT)
        exposures(board, [1.0])
        board.drive("PFI0", True, 1.5)
        board.drive("PFI0", False, 1.50005)
        exposures(board, [2.0])
        board.advance(3.0)
        assert not board.line("port0/line0")
        assert board.rises("port0/line0") == 2
