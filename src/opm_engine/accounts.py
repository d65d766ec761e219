"""Frame accounts: asked, popped and seen by the board must be one number.

That number can come out right although light and galvo slipped against the camera: one
that exposes on makes up for an exposure that the board missed. So every planned
exposure must also have come in time. What remains is an exposure missed before the
first one seen: it leaves no gap, and only a comparison that is prompt enough, within
one exposure of a frame's arrival, can find it.

Separate from the engine because it is bookkeeping, and because reports read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from opm_engine.daq.protocol import ExposureCount
    from opm_engine.plan import Burst


class FrameAccountError(RuntimeError):
    """Frames asked, popped and seen by the board differ.

    Attributes
    ----------
    frame : int
        Frame of the burst, counted from 0, at which it was found out.
    """

    def __init__(self, message: str, frame: int) -> None:
        super().__init__(message)
        self.frame = frame


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
    abandoned : int
        Asked frames of a burst that was cut short, by a cancel or an error.
    """

    asked: int = 0
    popped: int = 0
    counted: int = 0
    trailing: int = 0
    abandoned: int = 0

    @property
    def lost(self) -> int:
        """Frames that should have come and did not."""
        return self.asked - self.abandoned - min(self.popped, self.counted)

    def check_progress(self, burst: Burst, popped: int, seen: ExposureCount) -> None:
        """Compare while frames come: an exposure ends before its frame arrives.

        Raises
        ------
        FrameAccountError
            If the board has seen fewer exposures than frames were popped, or one too
            early or too late.
        """
        _refuse_irregular(burst, popped, seen)
        if seen.planned < popped:
            raise FrameAccountError(_message(burst, popped, seen), seen.planned)

    def close_burst(
        self,
        burst: Burst,
        popped: int,
        seen: ExposureCount,
        stopped: ExposureCount,
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
        stopped : ExposureCount
            Of the board once the camera has stopped: every planned exposure is judged.
        usual_trailing : int or "until_stopped"
            How many the camera is known for.

        Raises
        ------
        FrameAccountError
            If they differ, an exposure came too early or too late, or more followed
            than is usual for the camera.
        """
        trailing = stopped.total - burst.n_frames
        self.asked += burst.n_frames
        self.popped += popped
        self.counted += seen.planned
        self.trailing += trailing
        _refuse_irregular(burst, popped, stopped)
        if not burst.n_frames == popped == seen.planned:
            frame = min(popped, seen.planned)
            raise FrameAccountError(_message(burst, popped, seen), frame)
        if trailing < 0:
            msg = f"{_message(burst, popped, seen)}; {-trailing} without a time stamp"
            raise FrameAccountError(msg, stopped.total)
        if usual_trailing != "until_stopped" and trailing > usual_trailing:
            msg = (
                f"{_message(burst, popped, seen)}; {trailing} exposures after the last "
                f"frame (camera.trailing_exposures = {usual_trailing})"
            )
            raise FrameAccountError(msg, burst.n_frames - 1)

    def abandon_burst(self, burst: Burst, popped: int, seen: ExposureCount) -> None:
        """Add the figures of a burst that was cut short."""
        self.asked += burst.n_frames
        self.popped += popped
        self.counted += min(seen.planned, popped)
        self.abandoned += burst.n_frames - popped


def _refuse_irregular(burst: Burst, popped: int, seen: ExposureCount) -> None:
    if seen.irregular is None:
        return
    exposure, interval_ms, planned_ms, is_width = seen.irregular
    came = "lasted" if is_width else "came"
    after = "" if is_width else " after the one before"
    msg = (
        f"{_message(burst, popped, seen)}; exposure {exposure + 1} of {burst.n_frames} "
        f"{came} {interval_ms:.4g} ms{after}, {planned_ms:.4g} ms planned"
    )
    raise FrameAccountError(msg, exposure)


def _message(burst: Burst, popped: int, seen: ExposureCount) -> str:
    where = ", ".join(f"{axis}={n}" for axis, n in burst.index.items()) or "the start"
    return (
        f"burst at {where}: {burst.n_frames} frames asked, {popped} popped, but "
        f"{seen.planned} planned exposures seen by the board"
    )
