"""`Stream`: what is handed to ``frameReady``, and how much of it.

Separate from the plan because writers and displays need nothing else, and because
volumes that leave a deskew are described in the same words as planes from a camera.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]


class ChannelInfo(BaseModel):
    """A channel as it is stored and shown.

    Attributes
    ----------
    name : str
    colour : str
        ``"#RRGGBB"``.
    exposure_ms : float, optional
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    colour: str = "#FFFFFF"
    exposure_ms: float | None = None


class PositionInfo(BaseModel):
    """A stage position; None where the sequence leaves the stage alone.

    Attributes
    ----------
    name : str
    x_um, y_um, z_um : float, optional
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    x_um: float | None = None
    y_um: float | None = None
    z_um: float | None = None


class Stream(BaseModel):
    """Description of the items that one handler receives in a run.

    Attributes
    ----------
    kind : {"planes", "volumes"}
        Camera frames (rows, columns) indexed t, p, c, z, or volumes (Z, Y, X) indexed
        t, p, c.
    shape : tuple of int
        (rows, columns) or (Z, Y, X).
    dtype : str
        Of the items.
    scale_um : (z, y, x)
        Pixel spacing in µm; of planes (step along the coverslip, pixel, pixel).
    translation_um : (z, y, x)
        Position of the first pixel in µm, relative to the stage position.
    n_planes : int
        Planes per volume; 1 for volumes.
    n_times : int
    interval_s : float
        Between time points; 0 means as fast as the camera goes.
    channels : tuple of ChannelInfo
    positions : tuple of PositionInfo
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["planes", "volumes"]
    shape: tuple[int, ...]
    dtype: str = "uint16"
    scale_um: tuple[float, float, float]
    translation_um: tuple[float, float, float] = (0.0, 0.0, 0.0)
    n_planes: Count = 1
    n_times: Count = 1
    interval_s: float = 0.0
    channels: Annotated[tuple[ChannelInfo, ...], Field(min_length=1)]
    positions: Annotated[tuple[PositionInfo, ...], Field(min_length=1)]
