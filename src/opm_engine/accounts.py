"""Frame accounts: asked, popped and seen by the board must be one number.

Separate from the engine because it is bookkeeping, and because reports read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from opm_engine.daq.protocol import ExposureCount
    from opm_engine.plan import Burst


class FrameAccountError(RuntimeError):
    """Frames asked, popped and seen by the board differ."""


@dataclass
class Accounts:
    """Frames of a run, dark flyback frames included.

    Attributes
    ----------
    asked : int
        Of the camera.
    popped : int
        Off the circular buffer.
    counted : int
        Planned exposures that the board saw.
    trailing : int
        Exposures after the last asked frame of a burst.
    """

    asked: int = 0
    popped: int = 0
    counted: int = 0
    trailing: int = 0

    def close_burst(
        self,
        burst: Burst,
        popped: int,
        seen: ExposureCount,
        usual_trailing: int | Literal["until_stopped"],
    ) -> None:
        """Add one burst's figures.

        Raises
        ------
        FrameAccountError
            If they differ, or more exposures followed than is usual for the camera.
        """
        asked, trailing = burst.n_frames, seen.total - seen.planned
        self.asked += asked
        self.popped += popped
        self.counted += seen.planned
        self.trailing += trailing
        too_many = usual_trailing != "until_stopped" and trailing > usual_trailing
        if asked == popped == seen.planned and not too_many:
            return
        where = ", ".join(f"{axis}={n}" for axis, n in burst.index.items()) or "the run"
        msg = (
            f"burst at {where}: {asked} frames asked, {popped} popped, {seen.planned} "
            f"planned exposures seen by the board and {trailing} after them "
            f"(camera.trailing_exposures = {usual_trailing})"
        )
        raise FrameAccountError(msg)
