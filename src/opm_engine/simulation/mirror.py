"""`Mirror`: where a galvo on one of the board's outputs points, in µm.

Separate because two galvos do the same: one moves the light sheet, the other shifts the
image. Joins volts on a cable, the galvo's mechanics and its scale; knows no optics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opm_engine.simulation.galvo import GalvoResponse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from opm_engine.config import Galvo
    from opm_engine.simulation.cables import Cables
    from opm_engine.simulation.galvo import Trace

MEMORY_S, MEMORY = 20e-3, 4.0
"""How far back a galvo's drive is looked at when the camera starts, at least, and in
times that it takes to settle."""


class Mirror:
    """A galvo, followed in order of time.

    Parameters
    ----------
    galvo : Galvo
    cables : Cables
        Where its volts are read.
    """

    def __init__(self, galvo: Galvo, cables: Cables) -> None:
        self._galvo = galvo
        self._cables = cables
        self._response = GalvoResponse(settle_ms=galvo.settle_ms)
        self._volts = self._drive(0.0, 0.0)

    def begin(self, time_s: float) -> None:
        """Follow what it was told before the camera starts."""
        settle_ms = self._galvo.settle_ms
        since_s = max(0.0, time_s - max(MEMORY_S, MEMORY * settle_ms / 1e3))
        trace = self._drive(since_s, time_s)
        rests_v = float(trace[1][0])
        self._response = GalvoResponse(since_s, rests_v, settle_ms=settle_ms)
        self._response.advance(trace, time_s)

    def look(self, until_s: float) -> None:
        """Read its drive until then."""
        self._volts = self._drive(self._response.time_s, until_s)

    def um(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where it points, at times between ``advance`` and ``look``."""
        positions_v = self._response.positions(self._volts, times_s)
        return (positions_v - self._galvo.offset_v) / self._galvo.volts_per_um

    def advance(self, time_s: float) -> None:
        """Nobody will ask for earlier times."""
        self._response.advance(self._volts, time_s)

    def _drive(self, start_s: float, end_s: float) -> Trace:
        return self._cables.analog_trace(self._galvo.channel, start_s, end_s)
