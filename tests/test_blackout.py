"""What the guardian does at the board: dark, whoever holds the outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from opm_engine.daq import blackout
from opm_engine.daq.blackout import Blackout, Dark
from opm_engine.daq.protocol import DaqError
from opm_engine.simulation.board import Board
from opm_engine.simulation.board_tasks import Kind
from opm_engine.simulation.grpc_face import BoardServer
from victims import ENABLE, LASERS, PARK_V, changed, microscope

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def address(board: Board) -> Iterator[str]:
    with BoardServer(board) as server:
        yield server.address


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blackout, "_PAUSE_S", 0.01)


@pytest.fixture
def dark(address: str) -> Iterator[Blackout]:
    dark = Blackout(Dark.of(microscope()), address, 1.0)
    dark.prepare()
    yield dark
    dark.close()


def light_up(board: Board, *, hold: bool) -> None:
    """Everything on; ``hold`` leaves tasks that hold all but the enable line."""
    for name, lines in {"held": "Dev1/port0/line0:1", "enable": ENABLE}.items():
        board.create_task(name)
        board.add_lines(name, Kind.DO, lines, "", together=True)
        board.write(name, [[True] * (2 if name == "held" else 1)], auto_start=True)
    board.create_task("volts")
    board.add_ao("volts", "Dev1/ao0:1", "", -10, 10)
    board.write("volts", [[5.0, 3.0]], auto_start=True)
    board.clear("enable")
    if not hold:
        board.clear("held")
        board.clear("volts")


def assert_dark(board: Board) -> None:
    assert not any(board.line(line) for line in (*LASERS, ENABLE))
    assert [board.volts("ao0"), board.volts("ao1")] == [PARK_V, 0.0]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("hold", [False, True])
def test_blackout(board: Board, dark: Blackout, hold: bool, known: bool) -> None:
    board.power_up[LASERS[0]] = True
    light_up(board, hold=hold)
    dark.drive(held=known)
    assert_dark(board)
    assert ("ResetDevice" in board.calls) == (hold or known)
    assert not board.reserved()


@pytest.mark.parametrize(
    ("product", "steps"), [("PCIe-6363", 3), ("PCIe-6738", 1)], ids=["X", "AO"]
)
def test_galvos_ramp_from_where_a_reset_puts_them(product: str, steps: int) -> None:
    board = Board(product=product)
    with BoardServer(board) as server:
        description = Dark.of(changed("daq.galvo.park_v", 3.0))
        dark = Blackout(description, server.address, 1.0)
        dark.prepare()
        dark.drive(held=True)
        dark.close()
    assert board.volts("ao0") == 3.0
    # one of them is the power output's
    assert list(board.calls).count("WriteAnalogScalarF64") == steps + 1


CALLS = (
    "CreateTask",
    "CreateDOChan",
    "CreateAOVoltageChan",
    "WriteDigitalScalarU32",
    "WriteAnalogScalarF64",
    "ClearTask",
    "ResetDevice",
)


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_every_call_may_fail(
    board: Board, dark: Blackout, call: str, hold: bool
) -> None:
    for after in (0, 2):
        light_up(board, hold=hold)
        board.fail(call, -50103, after)
        dark.drive(held=hold)
        assert_dark(board)
        board._faults.clear()
        for task in board.open_tasks():
            board.clear(task)


def test_resources_that_stay_reserved_for_a_while(board: Board, dark: Blackout) -> None:
    light_up(board, hold=True)
    for after in range(5):
        board.fail("ResetDevice", -50103, after)
    dark.drive(held=False)
    assert_dark(board)


def test_what_cannot_be_done_is_said(
    board: Board, dark: Blackout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blackout, "RETRY_S", 0.2)
    light_up(board, hold=True)
    for after in range(100):
        board.fail("ResetDevice", -50103, after)
    with pytest.raises(DaqError, match=r"resetting the device failed.*reserved"):
        dark.drive(held=True)
    assert not board.line(ENABLE)
