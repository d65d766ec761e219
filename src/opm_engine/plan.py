"""Contract stub; see below."""
from __future__ import annotations
from typing import Annotated, Any, Literal
from pydantic import BaseModel, ConfigDict, Field
from opm_engine.geometry import Geometry

BLOCK = "opm_engine"
"""Key of our metadata: in a sequence's metadata, in ``summary["extra"]``, in the
``extra`` of frame metadata and in the attributes of every image group."""


class ChannelInfo(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    colour: str = "#FFFFFF"
    exposure_ms: float | None = None


class PositionInfo(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    x_um: float | None = None
    y_um: float | None = None
    z_um: float | None = None


class Stream(BaseModel):
    """What is handed to ``frameReady``, and how many of it.

    ``kind="planes"``: items are camera frames (rows, columns), indexed t, p, c, z.
    ``kind="volumes"``: items are volumes (Z, Y, X), indexed t, p, c.
    """
    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["planes", "volumes"]
    shape: tuple[int, ...]            # (rows, columns) or (Z, Y, X)
    dtype: str = "uint16"
    scale_um: tuple[float, float, float]        # z, y, x: planes -> (step, px, px)
    translation_um: tuple[float, float, float] = (0.0, 0.0, 0.0)
    n_planes: int = 1                 # planes per volume (1 for volumes)
    n_times: int = 1
    interval_s: float = 0.0
    channels: tuple[ChannelInfo, ...]
    positions: tuple[PositionInfo, ...]
