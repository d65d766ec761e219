"""`NIDaq` on a board model: a waveform to play, a camera's cable, what dark means."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from opm_engine.config import Microscope
from opm_engine.daq.nidaq import NIDaq
from opm_engine.daq.protocol import Waveform
from opm_engine.simulation.board import Board
from opm_engine.simulation.grpc_face import BoardServer

if TYPE_CHECKING:
    from collections.abc import Iterator

LASERS = ("port0/line0", "port0/line1")
ENABLE = "port1/line1"
WAVEFORM = Waveform(
    digital=np.array([1, 0, 2, 0, 1, 0, 0, 0], np.uint32),
    lines=LASERS,
    analog=np.array([[0.5, 0.5, 0.5, 0.75, 0.75, 0.25, 0.25, 0.5]]),
    channels=("ao0",),
    initial_v=np.array([0.5]),
    settle_ms=0.5,
    period_ms=10.0,
    n_samples=24,
    max_rate_hz=1000.0,
    sample_ms=6.0,
)
PROJECTION = {
    "channel": "ao1",
    "volts_per_um": 0.02,
    "range_v": [-2, 2],
    "park_v": -1,
    "slew_v_per_ms": 0.5,
    "settle_ms": 0.5,
    "shear_ratio": 1.1547,
}
FULL_WAVEFORM = Waveform(
    digital=WAVEFORM.digital,
    lines=LASERS,
    analog=np.concatenate(
        [
            WAVEFORM.analog,
            [[0, 1, 1, 2, 2, -2, -2, 0]],
            [[4.5, 4.5, 1, 1, 4.5, 4.5, 0, 0]],
        ]
    ),
    channels=("ao0", "ao1", "ao2"),
    initial_v=np.array([0.5, 0.0, 4.5]),
    settle_ms=0.5,
    period_ms=10.0,
    n_samples=24,
    max_rate_hz=1000.0,
    sample_ms=6.0,
)


def changed(microscope: Microscope, path: str, value: Any) -> Microscope:
    """The microscope with one field, like ``"daq.galvo.range_v"``, set."""
    table = microscope.model_dump()
    *tables, field = path.split(".")
    inner = table
    for name in tables:
        inner = inner[int(name) if name.isdigit() else name]
    inner[field] = value
    return Microscope.from_table(table)


def full_microscope() -> Microscope:
    """The demo with a projection galvo on ao1 and a laser's power on ao2."""
    microscope = changed(Microscope.demo(), "daq.projection", PROJECTION)
    power = {"channel": "ao2", "full_v": 5}
    return changed(microscope, "lasers.0.power_output", power)


@contextmanager
def opened(
    microscope: Microscope | None = None, board: Board | None = None, **kwargs: Any
) -> Iterator[tuple[NIDaq, Board]]:
    """An open board behind NI's library; made dark and closed at the end."""
    board = board or Board()
    with BoardServer(board) as server:
        microscope = microscope or Microscope.demo()
        daq = NIDaq(microscope, address=server.address, **kwargs)
        daq.open()
        try:
            yield daq, board
        finally:
            daq.close()


def expose(
    board: Board,
    n: int,
    *,
    first_s: float = 1e3,
    idle: bool = False,
    terminal: str = "PFI0",
) -> None:
    """Exposures of 4 ms every 10 ms."""
    for k in range(n):
        board.drive(terminal, not idle, first_s + 0.01 * k)
        board.drive(terminal, idle, first_s + 0.01 * k + 0.004)


def assert_dark(board: Board, park_v: float = 0.0) -> None:
    """Lasers and enable low, powers 0 V, galvo parked, nothing held."""
    levels = board.lines()
    assert [line for line in (*LASERS, ENABLE) if levels[line]] == []
    assert board.volts("ao0") == park_v
    assert board.volts("ao2") == 0
    assert not board.reserved()
