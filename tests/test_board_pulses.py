"""Counters as sample clocks: trains, triggers and gates, in simulated time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boards import exposures, lit, played_s, pulsing, ramp
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

    def test_a_trace_of_a_line_reaches_ahead(self, board: Board) -> None:
        pulsing(board, MS, 3)
        lit(board, "Dev1/port0/line0", [[1], [0]], "Ctr1InternalOutput")
        board.drive("PFI0", True, 1.0)
        close(board.digital_trace("port0/line0", 0.5, 1.0015)[0], [0.5, 1.0, 1.001])
        close(board.digital_trace("port0/line0", 1.0015, 9.0)[0], [1.0015, 1.002])

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
