"""The board model behind the real `nidaqmx`: what labs did first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nidaqmx
import numpy as np
import pytest
from nidaqmx.constants import AcquisitionType, Edge, RegenerationMode, TaskMode
from nidaqmx.errors import DaqError, RpcError
from nidaqmx.grpc_session_options import GrpcSessionOptions
from nidaqmx.stream_readers import CounterReader, DigitalSingleChannelReader
from nidaqmx.stream_writers import (
    AnalogMultiChannelWriter,
    DigitalSingleChannelWriter,
)
from nidaqmx.system.device import Device

from boards import ALWAYS, EVENT, new, pulses, served
from opm_engine.simulation.board import Board
from opm_engine.simulation.grpc_face import BoardServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def options(board: Board) -> Iterator[GrpcSessionOptions]:
    with served(board) as options:
        yield options


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

    def test_an_output_buffer_is_filled_in_parts(
        self, board: Board, options: GrpcSessionOptions
    ) -> None:
        with new(options) as task:
            task.ao_channels.add_ao_voltage_chan("Dev1/ao0")
            task.timing.cfg_samp_clk_timing(1000, "/Dev1/PFI0", samps_per_chan=8)
            task.out_stream.output_buf_size = 4
            assert task.out_stream.output_buf_size == 4
            task.write([1.0, 2.0, 3.0], auto_start=False)
            refused = [task.start, lambda: task.write([0.0] * 5, auto_start=False)]
            for code, act in zip((-200462, -200292), refused, strict=True):
                with pytest.raises(DaqError) as refusal:
                    act()
                assert refusal.value.error_code == code
            # where the last write ended, and round again
            task.write([4.0, 5.0], auto_start=False)
            task.start()
            pulses(board, 6)
            played = board.analog_trace("ao0", *ALWAYS)[1].tolist()
        assert played == [0, 5, 2, 3, 4, 5, 2]

    def test_messages_are_no_longer_than_grpc_lets_them(
        self, options: GrpcSessionOptions
    ) -> None:
        with new(options) as task:
            task.ao_channels.add_ao_voltage_chan("Dev1/ao0")
            task.timing.cfg_samp_clk_timing(1000, "/Dev1/PFI0", samps_per_chan=8)
            writer = AnalogMultiChannelWriter(task.out_stream, auto_start=False)
            with pytest.raises(RpcError, match="larger than max"):
                writer.write_many_sample(np.zeros((1, 2**22 // 8)))

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
