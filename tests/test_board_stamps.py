"""Counters that stamp edges with a timebase."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from boards import ALWAYS, EVENT, clocked, detecting, pulses
from opm_engine.simulation.board import Board
from opm_engine.simulation.board_errors import BoardError

if TYPE_CHECKING:
    pass


@pytest.fixture
def board() -> Board:
    return Board()


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
