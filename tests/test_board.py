"""The board model alone, and through the real `nidaqmx`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import nidaqmx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nidaqmx.constants import AcquisitionType, Edge, RegenerationMode, TaskMode
from nidaqmx.errors import DaqError, RpcError
from nidaqmx.grpc_session_options import GrpcSessionOptions
from nidaqmx.stream_readers import CounterReader, DigitalSingleChannelReader
from nidaqmx.stream_writers import (
    AnalogMultiChannelWriter,
    DigitalSingleChannelWriter,
)
from nidaqmx.system.device import Device

from opm_engine.simulation.board import Board
from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.board_tasks import Kind
from opm_engine.simulation.grpc_face import BoardServer
from opm_engine.simulation.products import expand
from opm_engine.simulation.traces import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENT = "/Dev1/ChangeDetectionEvent"
ALWAYS = (0.0, 1e9)


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def options(board: Board) -> Iterator[GrpcSessionOptions]:
    with BoardServer(board) as server, grpc.insecure_channel(server.address) as channel:
        yield GrpcSessionOptions(channel, "")


def clocked(board: Board, name: str, samples: list[list[float]], n: int | None) -> None:
    """A running buffered output: one column is port0/line0, two are ao0 and ao1."""
    board.create_task(name)
    if len(samples[0]) == 1:
        board.add_lines(name, Kind.DO, "Dev1/port0/line0", "", together=True)
    else:
        board.add_ao(name, "Dev1/ao0:1", "", -10, 10)
    board.clock_by_edges(name, EVENT, 1000, rising=True, samples=n)
    board.write(name, samples, auto_start=True)


def detecting(board: Board, terminal: str = "PFI0", buffer: int = 0) -> None:
    board.create_task("edges")
    board.add_lines("edges", Kind.DI, f"Dev1/{terminal}", "", together=True)
    board.idle("edges").input_buffer = buffer
    board.clock_by_changes("edges", f"Dev1/{terminal}", f"Dev1/{terminal}", None)
    board.start("edges")


def pulses(
    board: Board, n: int, *, first_s: float = 1.0, terminal: str = "PFI0"
) -> None:
    """Exposures of 4 ms every 10 ms."""
    for k in range(n):
        board.drive(terminal, True, first_s + k * 0.010)
        board.drive(terminal, False, first_s + k * 0.010 + 0.004)


class TestTraces:
    def test_held_value_then_changes(self) -> None:
        trace = Trace(0.0, history_s=10)
        for time_s, value in [(1.0, 5.0), (2.0, 6.0), (3.0, 6.0), (4.0, 7.0)]:
            trace.set(value, time_s)
        times_s, values = trace.between(1.5, 4.0)
        assert times_s.tolist() == [1.5, 2.0, 4.0]
        assert values.tolist() == [5.0, 6.0, 7.0]
        # the start belongs to the held value, the end to the changes
        assert trace.between(2.0, 3.9)[1].tolist() == [6.0]

    def test_forgets_but_keeps_the_latest(self) -> None:
        trace = Trace(0.0, history_s=1)
        for k in range(5000):
            trace.set(float(k % 2), k * 0.01)
        assert len(trace._times_s) < 2200
        assert trace.between(49.0, 49.99)[0].size == 100
        assert trace.between(1e6, 2e6)[1].tolist() == [1.0]

    @given(
        steps=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 3)), max_size=20),
        window=st.tuples(st.floats(0, 40), st.floats(0, 40)),
    )
    def test_agrees_with_a_walk_over_all_changes(
        self, steps: list[tuple[float, int]], window: tuple[float, float]
    ) -> None:
        start_s, end_s = sorted(window)
        trace, now_s, held, changes = Trace(0, history_s=1e9), 0.0, 0, {}
        for gap_s, value in steps:
            now_s += gap_s
            trace.set(value, now_s)
            if now_s <= start_s:
                held = value
            elif now_s <= end_s:
                changes[now_s] = value
        times_s, values = trace.between(start_s, end_s)
        for probe_s in [start_s, *changes, end_s]:
            expected = [held, *(v for t, v in changes.items() if t <= probe_s)][-1]
            found = values[np.searchsorted(times_s, probe_s, side="right") - 1]
            assert found == expected


class TestClockedOutputs:
    def test_sample_0_appears_at_the_first_edge_and_exactly_then(
        self, board: Board
    ) -> None:
        clocked(board, "lasers", [[1], [0]], None)
        clocked(board, "galvo", [[1.0, -1.0], [2.0, -2.0]], None)
        assert (board.line("port0/line0"), board.volts("ao0")) == (False, 0.0)
        detecting(board)
        pulses(board, 2)
        times_s, levels = board.digital_trace("port0/line0", *ALWAYS)
        np.testing.assert_allclose(times_s[1:], [1.0, 1.004, 1.01, 1.014], rtol=1e-12)
        assert levels.tolist() == [False, True, False, True, False]
        times_s, volts = board.analog_trace("ao1", *ALWAYS)
        np.testing.assert_allclose(times_s[1:], [1.0, 1.004, 1.01, 1.014], rtol=1e-12)
        assert volts.tolist() == [0, -1, -2, -1, -2]
        cable = board.digital_trace("PFI0", *ALWAYS)
        assert cable[0][1:].tolist() == times_s[1:].tolist()

    @settings(max_examples=30)
    @given(period=st.integers(2, 7), n=st.integers(2, 30), exposures=st.integers(0, 20))
    def test_regenerates_to_the_last_sample_and_holds_it(
        self, period: int, n: int, exposures: int
    ) -> None:
        board = Board()
        clocked(board, "galvo", [[0.1 * (k + 1), 0] for k in range(period)], n)
        detecting(board)
        pulses(board, exposures)
        played = min(2 * exposures, n)
        assert board.task("galvo").generated == played
        assert board.task("galvo").done == (played == n)
        expected = 0.1 * ((played - 1) % period + 1) if played else 0.0
        assert board.volts("ao0") == pytest.approx(expected)

    def test_stops_where_old_samples_must_not_come_again(self, board: Board) -> None:
        clocked(board, "lasers", [[1], [0]], None)
        board.stop("lasers")
        board.idle("lasers").regenerates = False
        board.start("lasers")
        detecting(board)
        pulses(board, 3)
        assert board.rises("port0/line0") == 1
        with pytest.raises(BoardError) as refusal:
            board.stop("lasers")
        assert refusal.value.code == -200290

    def test_latches_after_stop_and_clear(self, board: Board) -> None:
        clocked(board, "lasers", [[1], [1]], None)
        clocked(board, "galvo", [[3.0, 0], [3.0, 0]], None)
        detecting(board)
        pulses(board, 1)
        for name in ("lasers", "galvo", "edges"):
            board.stop(name)
            board.clear(name)
        assert (board.line("port0/line0"), board.volts("ao0")) == (True, 3.0)
        assert not board.open_tasks()
        assert not board.reserved()

    def test_reset_frees_everything_and_zeroes_the_outputs(self, board: Board) -> None:
        board.power_up["port0/line5"] = True
        clocked(board, "lasers", [[1], [1]], None)
        clocked(board, "galvo", [[3.0, 0], [3.0, 0]], None)
        detecting(board)
        pulses(board, 1)
        board.reset()
        assert not board.reserved()
        assert (board.line("port0/line0"), board.volts("ao0")) == (False, 0.0)
        assert board.line("port0/line5")
        pulses(board, 1, first_s=2.0)
        assert not board.line("port0/line0")


class TestEdges:
    @pytest.mark.parametrize(
        ("seen", "played"), [(0, 5), (1, 6), (2, 7)], ids=["missed", "seen", "doubled"]
    )
    def test_a_missed_edge_shifts_the_phase(
        self, board: Board, seen: int, played: int
    ) -> None:
        clocked(board, "lasers", [[1], [0]], None)
        detecting(board)
        third = iter([1, 1, seen, 1, 1, 1])
        board.edge_filter = lambda level, time_s: next(third)
        pulses(board, 3)
        assert board.task("lasers").generated == played
        # after an odd number of edges light is on while the camera is idle
        assert board.line("port0/line0") == bool(played % 2)

    @pytest.mark.parametrize("idle", [False, True], ids=["active_high", "active_low"])
    def test_the_first_active_edge_clocks_sample_0(
        self, board: Board, idle: bool
    ) -> None:
        board.drive("PFI0", idle, 0.5)
        clocked(board, "lasers", [[1], [0]], None)
        board.create_task("count")
        board.add_edge_counter("count", "Dev1/ctr0", "", rising=not idle, initial=0)
        board.count_edges_of("count", "/Dev1/PFI0")
        board.start("count")
        detecting(board)
        for k in range(4):
            board.drive("PFI0", not idle, 1 + k)
            assert board.line("port0/line0")
            assert board.read_count("count") == k + 1
            board.drive("PFI0", idle, 1.5 + k)
            assert not board.line("port0/line0")
        assert board.read_count("count") == 4

    def test_a_level_that_stays_is_no_edge(self, board: Board) -> None:
        detecting(board)
        board.drive("PFI0", True, 1.0)
        board.drive("PFI0", True, 2.0)
        assert board.task("edges").acquired == 1

    def test_a_full_input_buffer_stops_the_clock(self, board: Board) -> None:
        clocked(board, "lasers", [[1], [0]], None)
        detecting(board, buffer=10)
        pulses(board, 20)
        assert board.task("lasers").generated == 10
        with pytest.raises(BoardError) as refusal:
            board.stop("edges")
        assert refusal.value.code == -200222

    def test_time_never_runs_backwards(self, board: Board) -> None:
        board.drive("PFI0", True, 5.0)
        board.drive("PFI0", False, 4.0)
        assert board.digital_trace("PFI0", 0, 9)[0].tolist() == [0.0, 5.0]
        assert board.rises("PFI0") == 1

    @pytest.mark.parametrize(
        ("terminal", "line"),
        [
            ("PFI0", "port1/line0"),
            ("/Dev1/PFI7", "port1/line7"),
            ("Dev1/pfi8", "port2/line0"),
            ("PFI15", "Dev1/port2/line7"),
        ],
    )
    def test_pfi_terminals_are_the_pins_of_port_1_and_2(
        self, board: Board, terminal: str, line: str
    ) -> None:
        board.drive(terminal, True, 1.0)
        assert board.line(line)
        assert sum(board.lines().values()) == 1

    def test_a_pfi_terminal_clocks_too(self, board: Board) -> None:
        board.create_task("galvo")
        board.add_ao("galvo", "Dev1/ao0", "", -10, 10)
        board.clock_by_edges("galvo", "/Dev1/PFI3", 1000, rising=False, samples=2)
        board.write("galvo", [[1.0], [2.0]], auto_start=True)
        board.drive("PFI3", True, 1.0)
        assert board.volts("ao0") == 0.0
        board.drive("PFI3", False, 2.0)
        assert board.volts("ao0") == 1.0


def stamping(
    board: Board, source: str = "/Dev1/PFI0", *, rising: bool = True, n: int | None
) -> None:
    """A running counter of the 100 kHz timebase, sampled by a terminal's edges."""
    board.create_task("stamps")
    board.add_edge_counter("stamps", "Dev1/ctr0", "", rising=True, initial=7)
    board.count_edges_of("stamps", "/Dev1/100kHzTimebase")
    board.clock_by_edges("stamps", source, 1000, rising=rising, samples=n)
    board.start("stamps")


class TestStamps:
    @pytest.mark.parametrize("rising", [True, False], ids=["rising", "falling"])
    def test_ticks_since_the_start(self, board: Board, rising: bool) -> None:
        stamping(board, rising=rising, n=None)
        start_s = board._latest_s
        pulses(board, 3)
        first = 7 + (1.0 + (0 if rising else 0.004) - start_s) * 1e5
        ticks = board.read_counts("stamps", -1)
        assert ticks[0] == pytest.approx(first, abs=1)
        assert np.diff(ticks) == pytest.approx(1000, abs=1)

    def test_every_change_of_a_line(self, board: Board) -> None:
        detecting(board)
        stamping(board, EVENT, n=None)
        pulses(board, 2)
        ticks = board.read_counts("stamps", -1)
        assert np.diff(ticks) == pytest.approx([400, 600, 400], abs=1)

    def test_samples_are_read_once_and_oldest_first(self, board: Board) -> None:
        stamping(board, n=None)
        pulses(board, 3)
        task = board.task("stamps")
        assert (task.waiting, task.acquired) == (3, 3)
        (first,) = board.read_counts("stamps", 1)
        second = board.read_count("stamps")
        assert second - first == pytest.approx(1000, abs=1)
        assert (task.waiting, task.acquired) == (1, 3)
        with pytest.raises(BoardError) as refusal:
            board.read_counts("stamps", 2)
        assert refusal.value.code == -200284
        board.stop("stamps")
        board.start("stamps")
        assert (task.waiting, task.acquired) == (0, 0)

    def test_a_late_cable_is_stamped_with_its_own_time(self, board: Board) -> None:
        """Software that writes meanwhile must not bend the camera's time."""
        stamping(board, n=None)
        pulses(board, 1)
        board._stamp(1.013)
        pulses(board, 1, first_s=1.01)
        assert board.digital_trace("PFI0", *ALWAYS)[0][-1] == 1.014
        assert np.diff(board.read_counts("stamps", -1)) == pytest.approx(1000, abs=1)

    def test_the_count_has_32_bits(self, board: Board) -> None:
        stamping(board, n=None)
        before_s = board._latest_s + 2**32 / 1e5 - 1
        for k in range(2):
            board.drive("PFI0", True, before_s + 2 * k)
            board.drive("PFI0", False, before_s + 2 * k + 1)
        high, low = board.read_counts("stamps", -1)
        assert low < 2e5 < high < 2**32
        assert (low - high) % 2**32 == pytest.approx(2e5, abs=1)

    def test_a_full_buffer_stops_this_task_alone(self, board: Board) -> None:
        detecting(board)
        clocked(board, "lasers", [[1], [0]], None)
        stamping(board, EVENT, n=None)
        board.task("stamps").input_buffer = 10
        pulses(board, 5)
        assert board.task("stamps").waiting == 10
        pulses(board, 1, first_s=2.0)
        for act in (
            lambda: board.task("stamps").waiting,
            lambda: board.read_counts("stamps", -1),
            lambda: board.stop("stamps"),
        ):
            with pytest.raises(BoardError) as refusal:
                act()
            assert refusal.value.code == -200222
        assert board.task("lasers").generated == 12

    def test_a_finite_number(self, board: Board) -> None:
        stamping(board, n=2)
        pulses(board, 1)
        assert not board.task("stamps").done
        pulses(board, 3, first_s=2.0)
        assert board.task("stamps").done
        assert len(board.read_counts("stamps", -1)) == 2

    def test_a_timebase_without_a_clock_counts_software_time(
        self, board: Board
    ) -> None:
        board.create_task("count")
        board.add_edge_counter("count", "Dev1/ctr0", "", rising=True, initial=0)
        board.count_edges_of("count", "20MHzTimebase")
        board.start("count")
        first = board.read_count("count")
        board.drive("PFI0", True, board._latest_s + 10)
        assert board.read_count("count") - first >= 200e6
        with pytest.raises(BoardError) as refusal:
            board.read_counts("count", -1)
        assert refusal.value.code == -200452

    def test_two_counters_have_two_clocks(self, board: Board) -> None:
        stamping(board, n=None)
        board.create_task("other")
        board.add_edge_counter("other", "Dev1/ctr1", "", rising=True, initial=0)
        board.clock_by_edges("other", EVENT, 1000, rising=True, samples=None)
        board.start("other")
        assert {"ctr0", "ctr1"} <= board.reserved()


def test_channel_lists() -> None:
    assert expand("Dev1/ao0:2, Dev1/ao5") == [
        *(f"Dev1/ao{k}" for k in range(3)),
        "Dev1/ao5",
    ]
    assert expand("a/line1:0") == ["a/line1", "a/line0"]


def new(options: GrpcSessionOptions) -> nidaqmx.Task:
    return nidaqmx.Task(grpc_options=options)


REFUSED = {
    "no such device": ("ao", "Dev9/ao0", -200220),
    "no such channel": ("ao", "Dev1/ao4", -200170),
    "no such line": ("do", "Dev1/port1/line8", -200170),
    "no such counter": ("ci", "Dev1/ctr4", -200170),
}

COUNTED = {
    "no terminal": ("/Dev1/Nothing", -200040),
    "no timebase": ("/Dev1/10kHzTimebase", -200040),
    "other device": ("/Dev2/100kHzTimebase", -200220),
}

CLOCKS = {
    "slow port": ("port1/line0", 1e3, EVENT, -200452),
    "too fast": ("port0/line0", 1e8, EVENT, -200077),
    "no rate": ("port0/line0", 0.0, EVENT, -200077),
    "no terminal": ("port0/line0", 1e3, "/Dev1/Nothing", -200040),
    "other device": ("port0/line0", 1e3, "/Dev2/PFI0", -200220),
    "a timebase": ("port0/line0", 1e3, "/Dev1/100kHzTimebase", -89136),
}


class TestThroughNidaqmx:
    """The model behind the library that a real board would stand behind."""

    def test_the_whole_camera_master_pattern(
        self, board: Board, options: GrpcSessionOptions
    ) -> None:
        with (
            new(options) as do,
            new(options) as ao,
            new(options) as ci,
            new(options) as di,
        ):
            do.do_channels.add_do_chan("Dev1/port0/line1,Dev1/port0/line3")
            ao.ao_channels.add_ao_voltage_chan("Dev1/ao0:1")
            for task in (do, ao):
                task.timing.cfg_samp_clk_timing(1000, EVENT, samps_per_chan=6)
                task.out_stream.regen_mode = RegenerationMode.ALLOW_REGENERATION
            words = np.array([2, 0, 8, 0], np.uint32)
            DigitalSingleChannelWriter(do.out_stream).write_many_sample_port_uint32(
                words
            )
            volts = np.array([[0.0, 1, 2, 3], [0, -1, -2, -3]])
            AnalogMultiChannelWriter(ao.out_stream).write_many_sample(volts)
            do.start()
            ao.start()
            counting = ci.ci_channels.add_ci_count_edges_chan("Dev1/ctr1")
            counting.ci_count_edges_term = "/Dev1/PFI0"
            counting.ci_count_edges_active_edge = Edge.FALLING
            ci.start()
            di.di_channels.add_di_chan("Dev1/PFI0")
            di.in_stream.input_buf_size = 0
            di.timing.cfg_change_detection_timing(
                "Dev1/PFI0", "Dev1/PFI0", AcquisitionType.CONTINUOUS
            )
            di.start()
            assert not do.is_task_done()
            pulses(board, 4)
            assert do.is_task_done()
            assert do.out_stream.total_samp_per_chan_generated == 6
            assert CounterReader(ci.in_stream).read_one_sample_uint32() == 4
        for line, expected in [(1, [1.0, 1.004, 1.02, 1.024]), (3, [1.01, 1.014])]:
            times_s, _ = board.digital_trace(f"port0/line{line}", *ALWAYS)
            np.testing.assert_allclose(times_s[1:], expected)
        assert board.analog_trace("ao1", *ALWAYS)[1].tolist() == [0, -1, -2, -3, 0, -1]
        assert not board.open_tasks()

    def test_stamps(self, board: Board, options: GrpcSessionOptions) -> None:
        with new(options) as task:
            channel = task.ci_channels.add_ci_count_edges_chan("Dev1/ctr0")
            channel.ci_count_edges_term = "/Dev1/100kHzTimebase"
            task.timing.cfg_samp_clk_timing(
                1000,
                "/Dev1/PFI0",
                active_edge=Edge.FALLING,
                sample_mode=AcquisitionType.CONTINUOUS,
                samps_per_chan=12_345,
            )
            assert task.in_stream.input_buf_size == 12_345
            task.start()
            stream, reader = task.in_stream, CounterReader(task.in_stream)
            assert stream.avail_samp_per_chan == 0
            pulses(board, 5)
            assert stream.avail_samp_per_chan == 5
            ticks = np.zeros(5, np.uint32)
            assert reader.read_many_sample_uint32(ticks[:2], 2, timeout=0) == 2
            assert stream.avail_samp_per_chan == 3
            assert reader.read_many_sample_uint32(ticks[2:]) == 3  # all available
            assert np.diff(ticks) == pytest.approx(1000, abs=1)
            assert stream.total_samp_per_chan_acquired == 5
            with pytest.raises(DaqError) as refusal:
                reader.read_many_sample_uint32(ticks, 5, timeout=0)
            assert refusal.value.error_code == -200284
            pulses(board, 5, first_s=2.0)
            reader.verify_array_shape = False
            with pytest.raises(DaqError) as refusal:
                reader.read_many_sample_uint32(ticks[:4], 5)
            assert refusal.value.error_code == -200229
            assert stream.avail_samp_per_chan == 5

    def test_the_input_buffer_is_no_smaller_than_the_driver_makes_it(
        self, options: GrpcSessionOptions
    ) -> None:
        with new(options) as task:
            task.ci_channels.add_ci_count_edges_chan("Dev1/ctr0")
            for rate_hz, least in [(100, 1_000), (1e4, 10_000), (1e5, 100_000)]:
                task.timing.cfg_samp_clk_timing(
                    rate_hz, EVENT, sample_mode=AcquisitionType.CONTINUOUS
                )
                assert task.in_stream.input_buf_size == least
            task.in_stream.input_buf_size = 20
            assert task.in_stream.input_buf_size == 20

    @pytest.mark.parametrize(("terminal", "code"), COUNTED.values(), ids=COUNTED)
    def test_what_cannot_be_counted(
        self, options: GrpcSessionOptions, terminal: str, code: int
    ) -> None:
        with new(options) as task:
            channel = task.ci_channels.add_ci_count_edges_chan("Dev1/ctr0")
            with pytest.raises(DaqError) as refusal:
                channel.ci_count_edges_term = terminal
        assert refusal.value.error_code == code

    def test_on_demand(self, board: Board, options: GrpcSessionOptions) -> None:
        with new(options) as task:
            task.do_channels.add_do_chan("Dev1/port1/line0:2")
            task.write(5)
            reader = DigitalSingleChannelReader(task.in_stream)
            assert reader.read_one_sample_port_uint32() == 5
        with new(options) as task:
            task.ao_channels.add_ao_voltage_chan("Dev1/ao2")
            task.write(1.25)
        levels = board.lines()
        assert [levels[f"port1/line{k}"] for k in range(3)] == [True, False, True]
        assert board.volts("ao2") == 1.25

    def test_the_device_describes_itself(self, options: GrpcSessionOptions) -> None:
        device = Device("Dev1", grpc_options=options)
        assert device.product_type == "PCIe-6363"
        assert device.ao_physical_chans.channel_names == [
            f"Dev1/ao{k}" for k in range(4)
        ]
        assert len(device.do_lines.channel_names) == 48
        assert device.ci_physical_chans.channel_names[-1] == "Dev1/ctr3"
        assert device.ao_voltage_rngs == [-10, 10]
        assert device.do_lines["port0/line0"].do_samp_clk_supported
        assert not device.do_lines["port1/line0"].do_samp_clk_supported
        assert device.di_lines["port1/line0"].di_change_detect_supported
        device.reset_device()

    @staticmethod
    def _buffered(options: GrpcSessionOptions, n: int = 2) -> nidaqmx.Task:
        task = new(options)
        task.do_channels.add_do_chan("Dev1/port0/line0:3")
        task.timing.cfg_samp_clk_timing(1000, EVENT)
        DigitalSingleChannelWriter(task.out_stream).write_many_sample_port_uint32(
            np.zeros(n, np.uint32)
        )
        return task

    def test_a_buffered_write_holds_the_lines_until_closed(
        self, board: Board, options: GrpcSessionOptions
    ) -> None:
        buffered = self._buffered(options)
        with new(options) as dark:
            dark.do_channels.add_do_chan("Dev1/port0/line0:3")
            with pytest.raises(DaqError) as refusal:
                dark.write(0)
            assert refusal.value.error_code == -200587
            buffered.start()
            buffered.stop()
            with pytest.raises(DaqError):
                dark.write(0)
            buffered.control(TaskMode.TASK_ABORT)
            dark.write(0)
        buffered.close()
        assert not board.reserved()

    def test_one_hardware_timed_ao_task(self, options: GrpcSessionOptions) -> None:
        with new(options) as first, new(options) as second:
            for task, channel in ((first, "ao0"), (second, "ao1")):
                task.ao_channels.add_ao_voltage_chan(f"Dev1/{channel}")
                task.timing.cfg_samp_clk_timing(1000, EVENT)
            first.write([0.0, 1.0])
            with pytest.raises(DaqError) as refusal:
                second.write([0.0, 1.0])
            assert refusal.value.error_code == -50103

    def test_a_buffer_of_one_sample(self, options: GrpcSessionOptions) -> None:
        with self._buffered(options, n=1) as task, pytest.raises(DaqError) as refusal:
            task.start()
        assert refusal.value.error_code == -200609

    @pytest.mark.parametrize(("kind", "name", "code"), REFUSED.values(), ids=REFUSED)
    def test_refused_channels(
        self, options: GrpcSessionOptions, kind: str, name: str, code: int
    ) -> None:
        with new(options) as task:
            add = {
                "ao": task.ao_channels.add_ao_voltage_chan,
                "do": task.do_channels.add_do_chan,
                "ci": task.ci_channels.add_ci_count_edges_chan,
            }[kind]
            with pytest.raises(DaqError) as refusal:
                add(name)
        assert refusal.value.error_code == code

    @pytest.mark.parametrize(
        ("line", "rate", "source", "code"), CLOCKS.values(), ids=CLOCKS
    )
    def test_refused_clocks(
        self,
        options: GrpcSessionOptions,
        line: str,
        rate: float,
        source: str,
        code: int,
    ) -> None:
        with new(options) as task:
            task.do_channels.add_do_chan(f"Dev1/{line}")
            with pytest.raises(DaqError) as refusal:
                task.timing.cfg_samp_clk_timing(rate, source)
        assert refusal.value.error_code == code

    def test_volts_beyond_the_board(self, options: GrpcSessionOptions) -> None:
        with new(options) as task:
            with pytest.raises(DaqError) as refusal:
                task.ao_channels.add_ao_voltage_chan("Dev1/ao0", max_val=12)
            assert refusal.value.error_code == -200077
            task.ao_channels.add_ao_voltage_chan("Dev1/ao0")
            with pytest.raises(DaqError) as refusal:
                task.write(10.5)
            assert refusal.value.error_code == -200561

    def test_start_without_samples(self, options: GrpcSessionOptions) -> None:
        with new(options) as task:
            with pytest.raises(DaqError) as refusal:
                task.start()
            assert refusal.value.error_code == -200478
            task.ao_channels.add_ao_voltage_chan("Dev1/ao0")
            task.timing.cfg_samp_clk_timing(1000, EVENT)
            with pytest.raises(DaqError) as refusal:
                task.start()
            assert refusal.value.error_code == -200462

    def test_injected_errors_come_once_and_in_turn(
        self, board: Board, options: GrpcSessionOptions
    ) -> None:
        board.fail("StartTask", -200016, after=1)
        with self._buffered(options) as task:
            task.start()
            task.stop()
            with pytest.raises(DaqError) as refusal:
                task.start()
            assert refusal.value.error_code == -200016
            task.start()

    def test_what_is_not_modelled_says_so(self, options: GrpcSessionOptions) -> None:
        with new(options) as task:
            with pytest.raises(RpcError, match="not supported"):
                task.ai_channels.add_ai_current_chan("Dev1/ai0")
            task.ao_channels.add_ao_voltage_chan("Dev1/ao0")
            with pytest.raises(DaqError, match="201086"):
                _ = task.out_stream.space_avail


def test_a_taken_port_is_an_error(board: Board) -> None:
    with BoardServer(board) as server:
        port = int(server.address.rpartition(":")[2])
        other = BoardServer(board, port)
        with pytest.raises(RuntimeError):
            other.start()
        other.stop()
