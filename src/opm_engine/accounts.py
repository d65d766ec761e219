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

    def check_progress(self, burst: Burst, popped: int, seen: ExposureCount) -> None:
        """Compare while frames come: an exposure ends before its frame arrives.

        Raises
        ------
        FrameAccountError
            If the board has seen fewer exposures than frames were popped.
        """
        if seen.planned < popped:
            raise FrameAccountError(_message(burst, popped, seen))

    def close_burst(
        self,
        burst: Burst,
        popped: int,
        seen: ExposureCount,
        trailing: int,
        usual_trailing: int | Literal["until_stopped"],
    ) -> None:
        """Add one burst's figures.

        Parameters
        ----------
        burst : Burst
        popped : int
            Frames off the buffer.
        seen : ExposureCount
            Of the board when the last frame was popped: a camera that exposes on
            makes up for missed exposures soon after.
        trailing : int
            Exposures after the last asked one, once the camera has stopped.
        usual_trailing : int or "until_stopped"
            How many the camera is known for.

        Raises
        ------
        FrameAccountError
            If they differ, or more exposures followed than is usual for the camera.
        """
        self.asked += burst.n_frames
        self.popped += popped
        self.counted += seen.planned
        self.trailing += trailing
        if not burst.n_frames == popped == seen.planned:
            raise FrameAccountError(_message(burst, popped, seen))
        if usual_trailing != "until_stopped" and trailing > usual_trailing:
            msg = (
                f"{_message(burst, popped, seen)}; {trailing} exposures after the last "
                f"frame (camera.trailing_exposures = {usual_trailing})"
            )
            raise FrameAccountError(msg)


def _message(burst: Burst, popped: int, seen: ExposureCount) -> str:
    where = ", ".join(f"{axis}={n}" for axis, n in burst.index.items()) or "the start"
    return (
        f"burst at {where}: {burst.n_frames} frames asked, {popped} popped, but "
        f"{seen.planned} planned exposures seen by the board"
    )
