"""`Twin`: a whole simulated microscope, opened and closed as one.

Separate because it is the only thing outside ``simulation`` that anyone constructs.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from opm_engine.simulation.board import Board
from opm_engine.simulation.clock import SimClock
from opm_engine.simulation.core import demo_specimen, simulated_core
from opm_engine.simulation.grpc_face import BoardServer

if TYPE_CHECKING:
    from opm_engine.config import Microscope
    from opm_engine.simulation.specimen import Specimen


class Twin:
    """Board, camera, stages and specimen that a microscope describes.

    Parameters
    ----------
    microscope : Microscope
        With a ``simulation`` table.
    specimen : Specimen, optional
        Instead of the demo's.

    Attributes
    ----------
    board : Board
    core : SimulatedCore
    clock : SimClock
    specimen : Specimen
    address : str
        Of the board's gRPC face, ``"127.0.0.1:port"``.
    """

    def __init__(
        self, microscope: Microscope, specimen: Specimen | None = None
    ) -> None:
        simulation = microscope.simulation
        if simulation is None:
            msg = "simulation: this microscope has no such table"
            raise ValueError(msg)
        self.clock = SimClock(simulation.time_scale)
        self.board = Board(name=microscope.daq.device, clock=self.clock)
        self.specimen = specimen or demo_specimen(microscope)
        with ExitStack() as opening:
            server = opening.enter_context(BoardServer(self.board))
            self.address = server.address
            self.core = simulated_core(
                microscope, self.board, self.clock, self.specimen
            )
            opening.callback(self.core.close)
            self._closing = opening.pop_all()

    def close(self) -> None:
        """End all threads and sockets. May be called twice."""
        self._closing.close()
