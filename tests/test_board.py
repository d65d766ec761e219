"""The board model alone: traces, clocked outputs, edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boards import ALWAYS, clocked, detecting, pulses
from opm_engine.simulation.board import Board
from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.products import expand
from opm_engine.simulation.traces import Trace

if TYPE_CHECKING:
    pass


@pytest.fixture
def board() -> Board:
    return Board()


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


def test_channel_lists() -> None:
    assert expand("Dev1/ao0:2, Dev1/ao5") == [
        *(f"Dev1/ao{k}" for k in range(3)),
        "Dev1/ao5",
    ]
    assert expand("a/line1:0") == ["a/line1", "a/line0"]
