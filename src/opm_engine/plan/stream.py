"""`Stream`: what is handed to ``frameReady``, and how much of it.

Separate from the plan because writers and displays need nothing else, and because
volumes that leave a deskew are described in the same words as planes from a camera.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal, NamedTuple

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
    p, g : int
        Its place in the sequence's stage positions and in their grid.
    n_planes : int, optional
        Planes per volume here, where it differs from the stream's.
    origin_um : float, optional
        Scan offset of the plane lowest in Y, where it differs from the geometry's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    x_um: float | None = None
    y_um: float | None = None
    z_um: float | None = None
    p: Annotated[int, Field(ge=0)] = 0
    g: Annotated[int, Field(ge=0)] = 0
    n_planes: Count | None = None
    origin_um: float | None = None


class Place(NamedTuple):
    """Where one item belongs: numbers of time, position, channel and plane."""

    t: int
    position: int
    channel: int
    plane: int


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
        Position of the first pixel in µm, relative to the stage position; of volumes
        see `translation_of`.
    n_planes : int
        Planes per volume; 1 for volumes.
    n_times : int
    interval_s : float
        Between time points; 0 means as fast as the camera goes.
    channels : tuple of ChannelInfo
        With several cameras, those of the first channel come first: c * n_cameras +
        cam.
    positions : tuple of PositionInfo
    n_cameras : int
    channel_offsets_um : tuple of float
        By how much the planes of each channel lie further along the scan than the
        plane's nominal place; empty for none. Signed like the scan's direction.
    bidirectional : bool
        Whether every second volume (odd t) was scanned backwards.
    slab_rows : int, optional
        Volumes may also come as slabs (Z, slab_rows, X), each once, which begin at
        multiples of ``slab_rows`` along Y; the last may be thinner. None: whole only.
    unbounded : bool
        Whether time points may follow beyond ``n_times``, which is then a first guess.
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
    n_cameras: Count = 1
    channel_offsets_um: tuple[float, ...] = ()
    bidirectional: bool = False
    slab_rows: Count | None = None
    unbounded: bool = False

    def translation_of(self, position: int) -> tuple[float, float, float]:
        """Translation (z, y, x) in µm of the volumes of one position.

        Where positions have scans of their own each begins at its own offset.
        """
        z_um, y_um, x_um = self.translation_um
        own_um = self.positions[position].origin_um
        if self.kind == "volumes" and own_um is not None:
            y_um = own_um
        return z_um, y_um, x_um

    def place(self, index: Mapping[str, int]) -> Place:
        """Return where the item of an event with this index belongs.

        Raises
        ------
        IndexError
            If the stream has no such position.
        """
        p, g = index.get("p", 0), index.get("g", 0)
        if (p, g) not in self._numbers:
            msg = f"no position p={p}, g={g} in this stream"
            raise IndexError(msg)
        channel = index.get("c", 0) * self.n_cameras + index.get("cam", 0)
        number = self._numbers[p, g]
        return Place(index.get("t", 0), number, channel, index.get("z", 0))

    @cached_property
    def _numbers(self) -> dict[tuple[int, int], int]:
        """Number of the position at (p, g)."""
        return {(x.p, x.g): number for number, x in enumerate(self.positions)}
