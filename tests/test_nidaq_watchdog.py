"""`NIDaq` with the board's own watchdog: dark although no software says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nidaqs import (
    ENABLE,
    FULL_WAVEFORM,
    LASERS,
    WAVEFORM,
    assert_dark,
    changed,
    expose,
    full_microscope,
    opened,
)
from opm_engine.config import ConfigError, Microscope
from opm_engine.daq.blackout import Blackout, Dark
from opm_engine.daq.nidaq import NIDaq
from opm_engine.daq.protocol import DaqError
from opm_engine.simulation.board import Board
from opm_engine.simulation.grpc_face import BoardServer

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 30.0
EXPIRED = r"Dev1: the board's watchdog has expired: for daq.watchdog_s = 30 s nobody"
WATCHED = changed(full_microscope(), "daq.watchdog_s", TIMEOUT_S)


class LateBoard(Board):
    """Lets time pass at the ``turn``-th call of ``rpc``."""

    def __init__(self) -> None:
        super().__init__()
        self.late_at = ("", 0)

    def called(self, rpc: str) -> None:
        name, left = self.late_at
        if rpc == name:
            self.late_at = (name, left - 1)
            if not left:
                pass_time(self, TIMEOUT_S + 1)
        super().called(rpc)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[NIDaq, LateBoard]]:
    """One board for all: each expiry must leave it fit for the next."""
    board = LateBoard()
    with opened(WATCHED, board) as (daq, _):
        assert not board.open_tasks()
        yield daq, board


@pytest.fixture
def bench(shared: tuple[NIDaq, LateBoard]) -> Iterator[tuple[NIDaq, LateBoard]]:
    daq, board = shared
    board.drive("PFI0", False, board._latest_s)
    yield shared
    daq.make_dark()
    assert not board.open_tasks()


def pass_time(board: Board, seconds: float) -> None:
    """For the board and for software, by a cable that nobody listens to."""
    board.drive("PFI5", not board.line("PFI5"), board._latest_s + seconds)


def light(board: Board) -> None:
    board.drive("PFI0", True, board._latest_s + 1e-3)
    assert levels(board) == [True, False, True]


def levels(board: Board) -> list[bool]:
    """Both lasers, enable."""
    now = board.lines()
    return [now[line] for line in (*LASERS, ENABLE)]


def assert_next_run_works(daq: NIDaq, board: Board) -> None:
    board.drive("PFI0", False, board._latest_s)
    daq.arm(FULL_WAVEFORM)
    expose(board, 12, first_s=board._latest_s + 0.01)
    assert daq.count() == (12, 12, None)
    daq.make_dark()
    assert_dark(board)
    assert not board.open_tasks()


def test_lines_go_low_by_themselves_and_stay(bench: tuple[NIDaq, LateBoard]) -> None:
    daq, board = bench
    daq.arm(FULL_WAVEFORM)
    light(board)
    rises = board.rises(LASERS[0])
    pass_time(board, TIMEOUT_S - 0.1)
    assert levels(board) == [True, False, True]
    pass_time(board, 0.2)
    assert levels(board) == [False, False, False]
    expose(board, 6, first_s=board._latest_s + 0.01)
    assert board.rises(LASERS[0]) == rises
    for _ in range(2):
        with pytest.raises(DaqError, match=EXPIRED):
            daq.count()
    daq.make_dark()
    assert_dark(board)
    assert not daq.light_possible
    assert daq.count().planned == 6
    assert_next_run_works(daq, board)


def test_counting_in_time_holds_it_off(bench: tuple[NIDaq, LateBoard]) -> None:
    daq, board = bench
    daq.arm(FULL_WAVEFORM)
    light(board)
    for _ in range(3):
        pass_time(board, 0.7 * TIMEOUT_S)
        assert daq.count().total == 1
    assert levels(board) == [True, False, True]
    daq.make_dark()
    assert_dark(board)


def test_going_dark_ends_it(bench: tuple[NIDaq, LateBoard]) -> None:
    daq, board = bench
    daq.arm(FULL_WAVEFORM)
    daq.make_dark()
    assert not board.open_tasks()
    pass_time(board, TIMEOUT_S + 1)
    assert daq.count() == (0, 0, None)


def test_what_going_dark_finds_is_told_once(bench: tuple[NIDaq, LateBoard]) -> None:
    daq, board = bench
    daq.arm(FULL_WAVEFORM)
    light(board)
    pass_time(board, TIMEOUT_S + 1)
    board.calls.clear()
    daq.make_dark()
    assert "ResetDevice" not in board.calls
    assert_dark(board)
    with pytest.raises(DaqError, match=EXPIRED):
        daq.count()
    assert daq.count() == (0, 1, None)
    assert_next_run_works(daq, board)


@pytest.mark.parametrize(
    "late_at",
    [("StartTask", 1), ("CfgSampClkTiming", 1), ("StartTask", 4)],
    ids=["first", "middle", "last"],
)
def test_expires_while_arming(
    bench: tuple[NIDaq, LateBoard], late_at: tuple[str, int]
) -> None:
    daq, board = bench
    board.late_at = late_at
    with pytest.raises(DaqError, match=EXPIRED):
        daq.arm(FULL_WAVEFORM)
    assert_dark(board)
    assert_next_run_works(daq, board)


def test_runs_before_any_edge_can_play(bench: tuple[NIDaq, LateBoard]) -> None:
    daq, board = bench
    board.calls.clear()
    daq.arm(FULL_WAVEFORM)
    calls = list(board.calls)
    started = calls.index("StartTask", calls.index("CreateWatchdogTimerTaskEx"))
    assert started == calls.index("StartTask")
    assert started < calls.index("CfgChangeDetectionTiming")


def test_what_cannot_be_lowered_is_left_to_it(bench: tuple[NIDaq, LateBoard]) -> None:
    daq, board = bench
    daq.arm(FULL_WAVEFORM)
    light(board)
    for turn in range(3):
        board.fail("WriteDigitalScalarU32", -50405, after=turn)
    board.fail("ResetDevice", -50405)
    with pytest.raises(DaqError, match="NI -50405"):
        daq.make_dark()
    assert levels(board) == [True, False, False]
    assert daq.light_possible
    pass_time(board, TIMEOUT_S + 1)
    assert levels(board) == [False, False, False]
    assert_next_run_works(daq, board)


@pytest.mark.parametrize(
    ("rpc", "turn"),
    [
        ("GetWatchdogAttributeBool", 0),
        ("ControlWatchdogTask", 0),
        ("WriteDigitalLines", 0),
        ("WriteDigitalScalarU32", 0),
        ("TaskControl", 0),
        ("ClearTask", 0),
        ("ClearTask", 3),
    ],
    ids=str,
)
def test_a_call_that_fails_after_it_has_expired(
    bench: tuple[NIDaq, LateBoard], rpc: str, turn: int
) -> None:
    daq, board = bench
    daq.arm(FULL_WAVEFORM)
    light(board)
    pass_time(board, TIMEOUT_S + 1)
    board.fail(rpc, -50405, after=turn)
    with pytest.raises(DaqError, match="NI -"):
        daq.make_dark()
    assert_dark(board)
    assert_next_run_works(daq, board)


@pytest.mark.parametrize("enable", [ENABLE, None])
def test_a_program_that_has_ended_leaves_lines_that_can_be_had(
    enable: str | None,
) -> None:
    board = Board()
    microscope = changed(WATCHED, "daq.laser_enable", enable)
    with BoardServer(board) as server:
        first = NIDaq(microscope, address=server.address)
        first.open()
        first.arm(WAVEFORM)
        first._disconnect()  # as if it were killed
        pass_time(board, TIMEOUT_S + 1)
        second = NIDaq(microscope, address=server.address)
        second.open()
        assert_dark(board)
        second.arm(WAVEFORM)
        expose(board, 2, first_s=board._latest_s + 0.01)
        assert second.count() == (2, 2, None)
        second.close()


def test_the_guardian_unlocks_what_it_must_lower() -> None:
    board = Board()
    with BoardServer(board) as server:
        daq = NIDaq(WATCHED, address=server.address)
        daq.open()
        daq.arm(FULL_WAVEFORM)
        light(board)
        pass_time(board, TIMEOUT_S + 1)
        dark = Blackout(Dark.of(WATCHED), server.address, 1.0)
        dark.prepare()
        dark.drive(held=False)
        dark.close()
        assert_dark(board)
        with pytest.raises(DaqError):
            daq.close()


def test_refused_where_there_is_none(demo: Microscope) -> None:
    board = Board(product="PCI-6733")
    microscope = changed(demo, "daq.laser_enable", None)
    with opened(microscope, board):
        pass
    board.calls.clear()
    with (
        pytest.raises(DaqError, match=r"daq.watchdog_s: Dev1 has no watchdog; leave"),
        opened(changed(microscope, "daq.watchdog_s", 1), board),
    ):
        pass
    assert "WriteDigitalScalarU32" not in board.calls
    assert not board.open_tasks()


@pytest.mark.parametrize("value", [0, -1, 34.5, "1", True])
def test_values_that_are_none(value: object) -> None:
    with pytest.raises(ConfigError, match=r"daq.watchdog_s"):
        changed(WATCHED, "daq.watchdog_s", value)
