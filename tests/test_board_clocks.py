"""Sample clocks and triggers of every kind, and counters through the real library."""

from __future__ import annotations

import numpy as np
import pytest
from nidaqmx.constants import AcquisitionType, Edge, Level, TriggerType
from nidaqmx.errors import DaqError
from nidaqmx.stream_writers import (
    AnalogMultiChannelWriter,
    DigitalSingleChannelWriter,
)

from boards import exposures, lit, new, played_s, pulsing, ramp, served
from opm_engine.simulation.board import Board
from opm_engine.simulation.board_tasks import Pulse


@pytest.fixture
def board() -> Board:
    return Board()


MS = Pulse(0.0, 0.0005, 0.0005, delay_again=True)
"""A pulse each millisecond."""


def close(found: object, expected: object) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


class TestOnboardClock:
    @pytest.mark.parametrize("source", ["", "OnboardClock", "/Dev1/onboardclock"])
    def test_begins_at_the_start(self, board: Board, source: str) -> None:
        ramp(board, source, 4)
        close(np.diff(played_s(board)), 0.001)
        assert played_s(board).size == 4
        assert board.task("ramp").done

    def test_a_trigger_starts_each_period(self, board: Board) -> None:
        ramp(board, "", 3, start=False)
        board.trigger_by("ramp", "/Dev1/PFI3", rising=True)
        board.task("ramp").trigger.retriggerable = True
        board.task("ramp").trigger.delay_s = 0.0001
        board.start("ramp")
        exposures(board, [1.0, 1.002, 2.0], width_s=0.001, terminal="PFI3")
        close(played_s(board), [1.0001, 1.0011, 1.0021, 2.0001, 2.0011, 2.0021])
        assert not board.task("ramp").done

    def test_others_can_use_it(self, board: Board) -> None:
        lit(board, "Dev1/port0/line0", [[1], [0]], "/Dev1/ao/SampleClock")
        ramp(board, "", 4)
        board.advance(board._latest_s + 1)
        assert board.task("lines").generated == 4

    def test_it_may_be_external(self, board: Board) -> None:
        lit(board, "Dev1/port0/line0", [[1], [0]], "/Dev1/ao/SampleClock")
        ramp(board, "/Dev1/PFI0", None, rising=False)
        exposures(board, [1.0, 2.0])
        times_s, _ = board.digital_trace("port0/line0", 0, 3)
        close(times_s[1:], [1.004, 2.004])

    def test_an_external_clock_waits_for_the_trigger(self, board: Board) -> None:
        ramp(board, "/Dev1/PFI0", 2, start=False)
        board.trigger_by("ramp", "/Dev1/PFI1", rising=True)
        board.task("ramp").trigger.retriggerable = True
        board.start("ramp")
        exposures(board, [1.0, 1.1])
        assert board.task("ramp").generated == 0
        for begin_s in (2.0, 3.0):
            board.drive("PFI1", True, begin_s)
            board.drive("PFI1", False, begin_s + 0.01)
            exposures(board, begin_s + np.array([0.1, 0.2, 0.3]))
        close(played_s(board), [2.1, 2.2, 3.1, 3.2])


class TestGates:
    def test_a_level_pauses_a_train(self, board: Board) -> None:
        ramp(board)
        name = pulsing(board, MS, None, trigger="", start=False)
        board.pause_by(name, "/Dev1/PFI2")
        board.drive("PFI2", True, 1.0)
        board.start(name)
        board.advance(1.5)
        assert board.task("ramp").generated == 0
        board.drive("PFI2", False, 2.0)
        board.drive("PFI2", True, 2.0025)
        board.drive("PFI2", False, 3.0)
        board.drive("PFI2", True, 3.0006)
        board.advance(4.0)
        played = played_s(board)
        close(np.diff(played[:3]), 0.001)
        assert played.size == 4
        # the time before the pause counts: a period has 1 ms of gate
        close((2.0025 - played[2]) + (played[3] - 3.0), 0.001)

    def test_two_counters_make_a_train_that_retriggers(self) -> None:
        """What a board does whose counters cannot retrigger a train by themselves."""
        board = Board(product="PCI-6733")
        n, period_s = 7, 0.001
        window = Pulse(0.0, 1e-6, n * period_s, delay_again=True)
        gate = pulsing(board, window, 1, counter="ctr1", start=False)
        half = Pulse(period_s / 2, period_s / 2, period_s / 2)
        train = pulsing(board, half, None, counter="ctr0", trigger="", start=False)
        board.pause_by(train, "/Dev1/Ctr1InternalOutput")
        board.task(train).gate.when_high = False
        ramp(board, "/Dev1/Ctr0InternalOutput")
        board.start(train)
        board.start(gate)
        starts_s = [1.0, 1.0301, 1.0707, 1.2]
        exposures(board, starts_s)
        expected = [
            start_s + (i + 0.5) * period_s for start_s in starts_s for i in range(n)
        ]
        np.testing.assert_allclose(played_s(board), expected, rtol=0, atol=1e-6)


class TestThroughNidaqmx:
    @pytest.mark.parametrize("made_by", ["time", "frequency", "ticks"])
    def test_ramped_frames(self, board: Board, made_by: str) -> None:
        """Galvo and lasers on a train that every exposure starts."""
        source = "/Dev1/Ctr1InternalOutput"
        with served(board) as options, new(options) as co, new(options) as ao:
            add = co.co_channels
            if made_by == "time":
                channel = add.add_co_pulse_chan_time(
                    "Dev1/ctr1", initial_delay=1e-4, low_time=5e-4, high_time=5e-4
                )
                assert channel.co_pulse_time_initial_delay == 1e-4
            elif made_by == "frequency":
                channel = add.add_co_pulse_chan_freq(
                    "Dev1/ctr1", initial_delay=1e-4, freq=1000.0, duty_cycle=0.25
                )
                assert channel.co_pulse_freq == pytest.approx(1000)
            else:
                channel = add.add_co_pulse_chan_ticks(
                    "Dev1/ctr1",
                    "/Dev1/20MHzTimebase",
                    initial_delay=2000,
                    low_ticks=10_000,
                    high_ticks=10_000,
                )
            channel.co_enable_initial_delay_on_retrigger = True
            assert channel.co_enable_initial_delay_on_retrigger
            co.timing.cfg_implicit_timing(AcquisitionType.FINITE, 5)
            start = co.triggers.start_trigger
            start.cfg_dig_edge_start_trig("/Dev1/PFI0", Edge.RISING)
            start.retriggerable = True
            assert (start.retriggerable, start.trig_type) == (
                True,
                TriggerType.DIGITAL_EDGE,
            )
            ao.ao_channels.add_ao_voltage_chan("Dev1/ao0:1")
            ao.timing.cfg_samp_clk_timing(1000, source, samps_per_chan=10)
            volts = np.arange(20.0).reshape(2, 10) / 10
            AnalogMultiChannelWriter(ao.out_stream).write_many_sample(volts)
            with new(options) as do:
                do.do_channels.add_do_chan("Dev1/port0/line0:1")
                do.timing.cfg_samp_clk_timing(1000, source, samps_per_chan=10)
                writer = DigitalSingleChannelWriter(do.out_stream)
                writer.write_many_sample_port_uint32(np.array([1, 1, 2, 2, 0], "u4"))
                do.start()
                ao.start()
                co.start()
                exposures(board, [1.0, 1.01, 1.02])
                board.advance(2.0)
                assert do.out_stream.total_samp_per_chan_generated == 10
                assert do.is_task_done()
                assert ao.is_task_done()
                assert not co.is_task_done()
        late_s = 1e-4 + np.arange(5) / 1e3
        times_s, found = board.analog_trace("ao1", 0, 3)
        close(times_s[1:], [*(1.0 + late_s), *(1.01 + late_s)])
        assert found[1:] == pytest.approx(volts[1])
        times_s, _ = board.digital_trace("port0/line0", 0, 3)
        close(times_s[1:], [1.0001, 1.0021, 1.0101, 1.0121])
        assert not board.open_tasks()

    def test_a_gate(self, board: Board) -> None:
        with served(board) as options, new(options) as co:
            co.co_channels.add_co_pulse_chan_freq("Dev1/ctr0", freq=1000)
            co.timing.cfg_implicit_timing(AcquisitionType.CONTINUOUS)
            pause = co.triggers.pause_trigger
            pause.trig_type = TriggerType.DIGITAL_LEVEL
            pause.dig_lvl_src = "/Dev1/Ctr1InternalOutput"
            pause.dig_lvl_when = Level.LOW
            assert pause.trig_type is TriggerType.DIGITAL_LEVEL
            assert pause.dig_lvl_when is Level.LOW
            co.start()
            board.advance(10)
            assert not co.is_task_done()
            assert board.task(co.name).generated == 0

    def test_triggers_can_be_disabled(self, board: Board) -> None:
        with served(board) as options, new(options) as co:
            co.co_channels.add_co_pulse_chan_freq("Dev1/ctr0", freq=1000)
            start = co.triggers.start_trigger
            start.cfg_dig_edge_start_trig("/Dev1/PFI0", Edge.FALLING)
            assert start.dig_edge_edge is Edge.FALLING
            start.disable_start_trig()
            assert start.trig_type is TriggerType.NONE
            co.start()
            co.wait_until_done(20)

    def test_waiting_ends(self, board: Board) -> None:
        with served(board) as options, new(options) as ao:
            ao.ao_channels.add_ao_voltage_chan("Dev1/ao0")
            ao.timing.cfg_samp_clk_timing(1000, "/Dev1/PFI0", samps_per_chan=2)
            ao.write([0.0, 1.0], auto_start=True)
            with pytest.raises(DaqError) as refusal:
                ao.wait_until_done(0.01)
            assert refusal.value.error_code == -200560
