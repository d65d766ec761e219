"""`Twin`: a whole simulated microscope, opened and closed as one.

Separate because it is the only thing outside ``simulation`` that anyone constructs.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from opm_engine.config import ConfigError
from opm_engine.simulation.board import Board
from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.board_status import board_status, describe_board
from opm_engine.simulation.clock import SimClock
from opm_engine.simulation.core import demo_specimen, simulated_core
from opm_engine.simulation.grpc_face import BoardServer
from opm_engine.simulation.remote_cables import RemoteCables

if TYPE_CHECKING:
    from opm_engine.config import Microscope
    from opm_engine.simulation.cables import Cables
    from opm_engine.simulation.specimen import Specimen


class Twin:
    """Board, camera, stages and specimen that a microscope describes.

    Parameters
    ----------
    microscope : Microscope
        With a ``simulation`` table.
    specimen : Specimen, optional
        Instead of the demo's.
    address : str, optional
        ``"host:port"`` of a simulated board that is a process of its own; camera and
        lasers are plugged in there. Without it the twin makes its own board.

    Attributes
    ----------
    board : Board or None
        None if it is another process's.
    core : SimulatedCore
    clock : SimClock
    seen_until_s : callable
        Simulated time of now; the board has seen all edges of before.
    specimen : Specimen
    address : str
        Of the board's gRPC face, ``"127.0.0.1:port"``.

    Raises
    ------
    ConfigError
        If the simulated board lacks what the description wires.
    ConnectionError, TimeoutError
        If no simulated board answers at ``address``.
    """

    def __init__(
        self,
        microscope: Microscope,
        specimen: Specimen | None = None,
        address: str | None = None,
    ) -> None:
        simulation = microscope.simulation
        if simulation is None:
            msg = "simulation: this microscope has no such table"
            raise ValueError(msg)
        self.clock = SimClock(simulation.time_scale)
        self.seen_until_s = self.clock.now
        self.specimen = specimen or demo_specimen(microscope)
        self.board: Board | None = None
        self._exposure_out = microscope.camera.exposure_out.terminal
        cables: Cables
        with ExitStack() as opening:
            if address is None:
                cables = self.board = Board(
                    microscope.daq.device, product=simulation.board, clock=self.clock
                )
                address = opening.enter_context(BoardServer(self.board)).address
            else:
                cables = remote = RemoteCables(
                    address, self.clock, microscope.daq.deadline_s
                )
                self.seen_until_s = remote.seen_until_s
                opening.callback(remote.close)
            self.address = address
            try:
                self.core = simulated_core(
                    microscope, cables, self.clock, self.specimen
                )
            except BoardError as error:
                msg = f"simulation.board: a {simulation.board} cannot be wired: {error}"
                raise ConfigError(msg) from error
            opening.callback(self.core.close)
            self._closing = opening.pop_all()

    def status(self) -> dict[str, Any]:
        """What the board puts out, wherever it runs: see `describe_board`."""
        if self.board is None:
            return board_status(self.address)
        return describe_board(self.board, {self.board.pin(self._exposure_out)})

    def close(self) -> None:
        """End all threads and sockets. May be called twice."""
        self._closing.close()
