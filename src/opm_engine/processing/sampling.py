"""`Sampling`: which grid a stack is deskewed onto, and which planes its rows need.

Separate from the tables of taps, which are worked out from it and can be large, because
memory, order and cutting into parts depend on these few numbers alone. Knows no pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from opm_engine.geometry import EPSILON, Geometry, voxel_size

Interpolation = Literal["orthogonal", "shear"]
VoxelSize = float | tuple[float, float] | None

SLAB_ROWS = 32
"""Rows along Y of the slabs that volumes are handed out in."""


class Lattice(NamedTuple):
    """The numbers of a sampling, lengths in camera pixels, as compiled code takes them.

    Fine rows along Z are numbered through; ``z_bin`` of them make one of the volume.
    """

    pitch: float
    sin: float
    cos: float
    tan: float
    shift: float
    dz: float
    dy: float
    n_planes: int
    n_camera_rows: int
    flip_rows: bool
    shear: bool
    z_bin: int
    n_z: int
    first_row: int
    n_rows: int


@dataclass(frozen=True)
class Sampling:
    """Grid of a volume, or of some of its rows along Y, in a stack's coordinates.

    Planes are numbered along +Y here, whichever way the scan went.

    Attributes
    ----------
    geometry : Geometry
        Its scan direction does not matter.
    fine_um : (float, float)
        (dz, dy) in µm before z-binning.
    interpolation : {"orthogonal", "shear"}
        ``orthogonal``: between the feet of the perpendiculars on two planes.
        ``shear``: along Y only; row z of the volume is then camera row z.
    z_bin : int
        Neighbouring rows along Z whose mean becomes one; what is left over at the end
        is dropped.
    shift_um : float
        By how much all planes lie further along +Y than the geometry says. The grid
        stays where it is; what leaves it is lost.
    first_row, n_rows : int
        Rows along Y of the volume that are wanted.
    """

    geometry: Geometry
    fine_um: tuple[float, float]
    interpolation: Interpolation = "orthogonal"
    z_bin: int = 1
    shift_um: float = 0.0
    first_row: int = 0
    n_rows: int = 0

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of the rows that are wanted."""
        n_fine, _, n_x = self.geometry.volume_shape(self.fine_um)
        return n_fine // self.z_bin, self.n_rows, n_x

    @property
    def voxel_um(self) -> tuple[float, float]:
        """(dz, dy) in µm of the volume."""
        dz_um, dy_um = self.fine_um
        return self.z_bin * dz_um, dy_um

    @property
    def first_z_um(self) -> float:
        """Z of the first voxel's centre: that of the fine rows in it."""
        return (self.z_bin - 1) / 2 * self.fine_um[0]

    @cached_property
    def lattice(self) -> Lattice:
        """The same in numbers."""
        geometry = self.geometry
        theta = math.radians(geometry.angle_deg)
        pixel_um = geometry.pixel_size_um
        dz_um, dy_um = self.fine_um
        return Lattice(
            pitch=geometry.step_um / pixel_um,
            sin=math.sin(theta),
            cos=math.cos(theta),
            tan=math.tan(theta),
            shift=self.shift_um / pixel_um,
            dz=dz_um / pixel_um,
            dy=dy_um / pixel_um,
            n_planes=geometry.n_planes,
            n_camera_rows=geometry.n_rows,
            flip_rows=geometry.flip_rows,
            shear=self.interpolation == "shear",
            z_bin=self.z_bin,
            n_z=self.shape[0],
            first_row=self.first_row,
            n_rows=self.n_rows,
        )

    @cached_property
    def reach(self) -> int:
        """Number of planes after its first that a row may need."""
        spread = self._lean(self.z_bin - 1) / self.lattice.pitch
        return 1 if self.z_bin == 1 else math.floor(spread + EPSILON) + 2

    def planes(self, first: int, stop: int) -> range:
        """Return the planes that some of the wanted rows need, numbered from the first.

        Parameters
        ----------
        first, stop : int
            Along Y, counted from ``first_row``.
        """
        if stop <= first:
            return range(0)
        low, high = self._first_planes(np.array([first]), np.array([stop - 1]))
        start = max(int(low[0]), 0)
        stop = min(int(high[0]) + self.reach + 1, self.geometry.n_planes)
        return range(start, max(start, stop))

    @cached_property
    def first_planes_of_slabs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each slab of the wanted rows, (n,): lowest and highest first plane.

        The first plane of a row is the lowest that it needs.
        """
        first = np.arange(0, self.n_rows, SLAB_ROWS)
        return self._first_planes(first, np.minimum(first + SLAB_ROWS, self.n_rows) - 1)

    @property
    def n_slabs(self) -> int:
        """Number of slabs of the wanted rows."""
        return -(-self.n_rows // SLAB_ROWS)

    @cached_property
    def n_open_slabs(self) -> int:
        """Most slabs that are begun and not yet complete."""
        lattice = self.lattice
        lean = self._lean(self.z_bin * lattice.n_z - 1)
        rows = (lean + (self.reach + 1) * lattice.pitch) / lattice.dy
        return min(self.n_slabs, math.ceil(rows / SLAB_ROWS) + 1)

    @property
    def slab_bytes(self) -> int:
        """Memory of one slab."""
        n_z, n_rows, n_x = self.shape
        return n_z * min(SLAB_ROWS, n_rows) * n_x * 2

    def _first_planes(
        self, first: NDArray[np.int64], last: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the lowest and highest first plane of rows first to last along Y."""
        lattice = self.lattice
        tops = self._lean(self.z_bin * lattice.n_z - 1), self._lean(self.z_bin - 1)
        low, high = (
            ((self.first_row + y) * lattice.dy - lean - lattice.shift) / lattice.pitch
            for y, lean in zip((first, last), tops, strict=True)
        )
        return tuple(np.floor(v + EPSILON).astype(np.int64) for v in (low, high))

    def _lean(self, fine_row: int) -> float:
        """Return how far the sheet has gone along Y at a fine row, in camera pixels."""
        lattice = self.lattice
        if lattice.shear:
            return fine_row * lattice.cos
        return fine_row * lattice.dz / lattice.tan


def sampling_of(
    geometry: Geometry,
    *,
    voxel_size_um: VoxelSize = None,
    interpolation: Interpolation = "orthogonal",
    z_bin: int = 1,
    shift_um: float = 0.0,
    n_y: int | None = None,
    first_row: int = 0,
    n_rows: int | None = None,
) -> Sampling:
    """Settle the grid that a stack is deskewed onto.

    Parameters
    ----------
    geometry : Geometry
    voxel_size_um : float or (float, float), optional
        Voxel (dz, dy) in µm before z-binning; defaults to the pixel size. With
        ``shear`` dz is pixel * sin(angle), and a single number says dy.
    interpolation, z_bin, shift_um
        See :class:`Sampling`.
    n_y : int, optional
        Length of the whole volume along Y; defaults to the geometry's.
    first_row, n_rows : int
        Rows of it that are wanted; by default all from the first on.

    Raises
    ------
    ValueError
        If an argument makes no sense; names it.
    """
    check_options(voxel_size_um, interpolation, z_bin)
    fine_um = _fine_um(geometry, voxel_size_um, interpolation)
    n_fine, own_n_y, _ = geometry.volume_shape(fine_um)
    if z_bin > n_fine:
        msg = f"z_bin must be at most {n_fine}, the rows along Z, not {z_bin}"
        raise ValueError(msg)
    n_y = own_n_y if n_y is None else n_y
    n_rows = n_y - first_row if n_rows is None else n_rows
    if not 0 <= first_row < first_row + n_rows <= n_y:
        msg = (
            f"first_row and n_rows must lie within the {n_y} rows of the volume, "
            f"not {first_row} and {n_rows}"
        )
        raise ValueError(msg)
    return Sampling(
        geometry=geometry.model_copy(update={"scan_direction": 1, "origin_um": 0.0}),
        fine_um=fine_um,
        interpolation=interpolation,
        z_bin=z_bin,
        shift_um=shift_um,
        first_row=first_row,
        n_rows=n_rows,
    )


def check_options(
    voxel_size_um: VoxelSize, interpolation: object, z_bin: object
) -> None:
    """Judge what needs no geometry.

    Raises
    ------
    ValueError
        Naming what makes no sense.
    """
    voxel_size(1.0, voxel_size_um)
    if interpolation not in get_args(Interpolation):
        msg = (
            f"interpolation must be one of {get_args(Interpolation)}, "
            f"not {interpolation!r}"
        )
        raise ValueError(msg)
    if not isinstance(z_bin, int | np.integer) or isinstance(z_bin, bool) or z_bin < 1:
        msg = f"z_bin must be a whole number from 1 on, not {z_bin!r}"
        raise ValueError(msg)


def _fine_um(
    geometry: Geometry, voxel_size_um: VoxelSize, interpolation: Interpolation
) -> tuple[float, float]:
    fine_um = voxel_size(geometry.pixel_size_um, voxel_size_um)
    if interpolation == "orthogonal":
        return fine_um
    dz_um = geometry.pixel_size_um * math.sin(math.radians(geometry.angle_deg))
    is_pair = np.ndim(voxel_size_um) > 0  # type: ignore[arg-type]
    if is_pair and not math.isclose(fine_um[0], dz_um, rel_tol=1e-6):
        msg = (
            f"voxel_size_um: interpolation 'shear' keeps the camera's rows, which lie "
            f"{dz_um:g} µm apart along Z, not {fine_um[0]:g}; give dy alone"
        )
        raise ValueError(msg)
    return dz_um, fine_um[1]
