"""`Cables`: the wires between the simulated camera, galvo and lasers and the board.

Separate so that the optics and the camera do not know how the board is built or
where it runs; they know terminals, levels and times only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Cables(Protocol):
    """What can be plugged into a board, in simulated seconds.

    A trace is (times, values): its first entry holds at ``start_s``, the others are
    every change in (start_s, end_s].
    """

    def drive(self, terminal: str, level: bool, time_s: float) -> None:
        """Set an input terminal, like ``"PFI0"``, from ``time_s`` on."""

    def digital_trace(
        self, line: str, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Levels of an output line, like ``"port0/line0"``."""

    def analog_trace(
        self, channel: str, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Volts of an analog output, like ``"ao0"``."""
