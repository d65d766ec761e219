"""Counters as sample clocks: trains, triggers and gates, in simulated time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nidaqmx.constants import AcquisitionType, Edge, Level, TriggerType
from nidaqmx.errors import DaqError
from nidaqmx.stream_writers import (
    AnalogMultiChannelWriter,
    DigitalSingleChannelWriter,
)

from boards import exposures, lit, new, played_s, pulsing, ramp, served
from opm_engine.simulation.board import Board
from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.board_tasks import Pulse
from opm_engine.simulation.trains import EventQueue


@pytest.fixture
def board() -> Board:
    return Board()


MS = Pulse(0.0, 0.0005, 0.0005, delay_again=True)
"""A pulse each millisecond."""


def close(found: object, expected: object) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


class TestQueue:
    @given(st.lists(st.integers(0, 20)), st.integers(0, 25))
    def test_does_what_is_due_in_order(self, dues: list[int], until: int) -> None:
        queue, done = EventQueue(), []
        for due in dues:
            queue.add(float(due), done.append)
        queue.run(until)
        assert done == sorted(due for due in dues if due <= until)
        assert queue.next_s == min((d for d in dues if d > until), default=float("inf"))

    def test_what_an_event_adds_is_done_too(self) -> None:
        queue, done = EventQueue(), []
        queue.add(1.0, lambda due_s: queue.add(due_s + 0.5, done.append))
        queue.add(1.2, done.append)
        queue.run(1.5)
        assert done == [1.2, 1.5]


class TestTrains:
    @settings(max_examples=40)
    @given(
        delay_us=st.integers(0, 3000),
        low_us=st.integers(1, 500),
        high_us=st.integers(1, 500),
        n=st.integers(1, 30),
        frames=st.integers(1, 5),
    )
    def test_every_pulse_at_its_time(
        self, delay_us: int, low_us: int, high_us: int, n: int, frames: int
    ) -> None:
        board = Board()
        shape = Pulse(delay_us / 1e6, low_us / 1e6, high_us / 1e6, delay_again=True)
        pulsing(board, shape, n)
        ramp(board)
        starts_s = [1 + 0.05 * frame for frame in range(frames)]
        exposures(board, starts_s)
        expected = [
            start_s + (delay_us + i * (low_us + high_us)) / 1e6
            for start_s in starts_s
            for i in range(n)
        ]
        close(played_s(board), expected)

    def test_outputs_wait_for_their_time(self, board: Board) -> None:
        pulsing(board, MS, 3)
        ramp(board)
        board.drive("PFI0", True, 1.0)
        assert board.task("ramp").generated == 1  # a pulse without delay
        board.advance(1.0009)
        assert board.task("ramp").generated == 1
        board.advance(1.0011)
        assert board.task("ramp").generated == 2
        board.drive("PFI0", False, 1.0015)
        assert board.task("ramp").generated == 2
        assert board.analog_trace("ao0", 0.0, 1.9)[0].size == 4
        assert board.task("ramp").generated == 3

    def test_a_trigger_in_a_running_train_is_ignored(self, board: Board) -> None:
        pulsing(board, MS, 10)
        ramp(board)
        exposures(board, [1.0, 1.005, 1.0094, 1.0101], width_s=0.0001)
        close(
            played_s(board), [*np.arange(10) / 1e3 + 1, *np.arange(10) / 1e3 + 1.0101]
        )

    def test_once_without_retrigger(self, board: Board) -> None:
        name = pulsing(board, MS, 4, retriggerable=False)
        ramp(board)
        assert not board.task(name).done
        exposures(board, [1.0, 1.1])
        assert board.task(name).done
        assert played_s(board).size == 4
        board.stop(name)
        board.start(name)
        exposures(board, [1.2])
        assert played_s(board).size == 8

    def test_a_retriggerable_train_is_never_done(self, board: Board) -> None:
        name = pulsing(board, MS, 4)
        exposures(board, [1.0, 1.1])
        board.advance(2.0)
        assert not board.task(name).done
        assert board.task(name).generated == 8

    @pytest.mark.parametrize(
        ("rising", "at_s"), [(True, 1.0), (False, 1.004)], ids=["rising", "falling"]
    )
    def test_either_edge(self, board: Board, rising: bool, at_s: float) -> None:
        pulsing(board, MS, 2, rising=rising)
        ramp(board)
        exposures(board, [1.0])
        close(played_s(board), [at_s, at_s + 0.001])

    @pytest.mark.parametrize(
        ("n", "again", "second_s"),
        [(3, True, 0.002), (3, False, 0.0007), (3, None, 0.0007), (1, None, 0.002)],
        ids=["asked for", "refused", "a train's default", "a single pulse's default"],
    )
    def test_delay_of_later_triggers(
        self, board: Board, n: int, again: bool | None, second_s: float
    ) -> None:
        pulsing(board, Pulse(0.002, 0.0007, 0.0003, delay_again=again), n)
        ramp(board)
        exposures(board, [1.0, 2.0])
        close(played_s(board)[[0, n]], [1.002, 2.0 + second_s])

    def test_falling_edges_come_when_pulses_end(self, board: Board) -> None:
        pulsing(board, Pulse(0.001, 0.0004, 0.0006), 2)
        ramp(board, rising=False)
        exposures(board, [1.0])
        close(played_s(board), [1.0016, 1.0026])

    def test_idling_high_turns_the_pulse_over(self, board: Board) -> None:
        pulsing(board, Pulse(0.001, 0.0004, 0.0006, idles_high=True), 2)
        ramp(board)
        exposures(board, [1.0])
        close(played_s(board), [1.0014, 1.0024])

    def test_pulses_are_whole_ticks(self, board: Board) -> None:
        pulsing(board, Pulse(0.0, 1 / 6000, 1 / 6000, delay_again=True), 1000)
        ramp(board)
        exposures(board, [1.0])
        close(np.diff(played_s(board)), 2 * round(1e8 / 6000) / 1e8)

    def test_software_starts_a_train_without_a_trigger(self, board: Board) -> None:
        ramp(board)
        pulsing(board, Pulse(0.5, 0.0005, 0.0005), 3, trigger="")
        started_s = board._latest_s
        close(played_s(board) - started_s, [0.5, 0.501, 0.502])

    def test_a_stop_ends_an_endless_train(self, board: Board) -> None:
        ramp(board)
        name = pulsing(board, MS, None, trigger="")
        started_s = board._latest_s
        board.advance(started_s + 0.0105)
        board.stop(name)
        board.advance(started_s + 10)
        assert board.task("ramp").generated == 11

    def test_stop_in_a_train_plays_no_more(self, board: Board) -> None:
        name = pulsing(board, MS, 10)
        ramp(board)
        board.drive("PFI0", True, 1.0)
        board.advance(1.0035)
        board.stop(name)
        board.start(name)
        board.advance(2.0)
        assert board.task("ramp").generated == 4

    def test_exactly_the_planned_samples(self, board: Board) -> None:
        """A finite output is dark after its samples, whatever the camera does on."""
        pulsing(board, MS, 5)
        lit(board, "Dev1/port0/line0", [[1], [1], [1], [1], [0]], "Ctr1InternalOutput")
        board.stop("lines")
        board.clock_by_edges(
            "lines", "Ctr1InternalOutput", 1000, rising=True, samples=15
        )
        board.start("lines")
        exposures(board, [1 + 0.01 * k for k in range(6)])
        board.advance(2)
        assert board.task("lines").generated == 15
        assert board.task("lines").done
        assert board.rises("port0/line0") == 3
        assert not board.line("port0/line0")

    def test_a_cable_that_comes_late_shifts_nothing(self, board: Board) -> None:
        """Software that asks meanwhile must not bend the camera's time."""
        pulsing(board, MS, 3)
        ramp(board)
        exposures(board, [1.0])
        board.advance(1.05)
        exposures(board, [1.03])
        close(played_s(board)[3:], [1.03, 1.031, 1.032])

    def test_a_counter_stamps_and_counts_pulses(self, board: Board) -> None:
        pulsing(board, MS, 5)
        for name, counter, source in [("n", "ctr0", "100kHz"), ("all", "ctr2", "")]:
            board.create_task(name)
            board.add_edge_counter(name, counter, "", rising=True, initial=0)
            terminal = f"{source}Timebase" if source else "Ctr1InternalOutput"
            board.count_edges_of(name, terminal)
        board.clock_by_edges(
            "n", "/Dev1/Ctr1InternalOutput", 1000, rising=True, samples=None
        )
        board.start("n")
        board.start("all")
        exposures(board, [1.0])
        assert np.diff(board.read_counts("n", -1)).tolist() == pytest.approx(
            [100] * 4, abs=1
        )
        assert board.read_count("all") == 5

    def test_real_time_passes_by_itself(self, board: Board) -> None:
        ramp(board)
        pulsing(board, MS, 20, trigger="")
        deadline = time.monotonic() + 20
        while board.current("ramp").generated < 20 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert board.current("ramp").generated == 20


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


REFUSED = {
    "a port that cannot trigger": ("PCIe-6363", "/Dev1/port0/line3", 5, -89136),
    "no such terminal": ("PCIe-6363", "/Dev1/PFI99", 5, -200040),
    "no pulses": ("PCIe-6363", "/Dev1/PFI0", 0, -200077),
    "trains that retrigger": ("PCI-6733", "/Dev1/PFI0", 5, -201439),
    "no change detection": ("PCI-6733", "/Dev1/ChangeDetectionEvent", 5, -89136),
    "no pulses at all": ("USB-6008", "/Dev1/PFI0", 5, -200170),
}


@pytest.mark.parametrize(
    ("product", "trigger", "n", "code"), REFUSED.values(), ids=REFUSED
)
def test_refused(product: str, trigger: str, n: int, code: int) -> None:
    board = Board(product=product)
    with pytest.raises(BoardError) as refusal:
        pulsing(board, MS, n, counter="ctr0", trigger=trigger)
    assert refusal.value.code == code
    assert not board.reserved()


def test_a_pulse_needs_two_ticks(board: Board) -> None:
    with pytest.raises(BoardError) as refusal:
        pulsing(board, Pulse(0, 1e-8, 1e-3), 5)
    assert refusal.value.code == -200077


def test_a_finite_train_takes_both_counters_of_a_pair() -> None:
    board = Board(product="PCI-6733")
    pulsing(board, MS, 5, counter="ctr0", retriggerable=False)
    with pytest.raises(BoardError) as refusal:
        pulsing(board, MS, None, counter="ctr1", trigger="")
    assert refusal.value.code == -50103


def test_a_busy_counter(board: Board) -> None:
    pulsing(board, MS, 5)
    board.create_task("count")
    board.add_edge_counter("count", "Dev1/ctr1", "", rising=True, initial=0)
    with pytest.raises(BoardError) as refusal:
        board.start("count")
    assert refusal.value.code == -50103


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
