r"""Angles, shear and shapes of an oblique stack.

Pure arithmetic, separate from the kernels that use it so that planner, deskew,
writers and simulated microscope cannot disagree about where a pixel lies. Knows
nothing of sequences, devices or files.

Coordinates. *n* counts planes along the scan, *s* camera rows, *x* camera columns;
``step_um`` lies between planes along the coverslip, ``pixel_size_um`` is the camera
pixel in sample space and ``angle_deg`` the angle between light sheet and coverslip::

    Z = s * pixel * sin(angle)
    Y = n * step + s * pixel * cos(angle)
    X = x * pixel
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

EPSILON = 1e-9
"""Tolerance of every floor and comparison on pixel grids: without it rounding noise
decides whether whole edges exist (at 30 degrees every second row count comes out one
row short)."""

MAX_VOXELS = 2**40
"""No volume has more: 2 TB. Beyond it some length is not in µm."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Geometry(BaseModel):
    """Where the pixels of one oblique stack lie in the sample.

    Attributes
    ----------
    angle_deg : float
        Angle between light sheet and coverslip, in degrees, 0 < angle < 90.
    step_um : float
        Distance between neighbouring planes along the coverslip, in µm, positive.
    pixel_size_um : float
        Camera pixel in sample space, in µm.
    n_planes, n_rows, n_columns : int
        Shape (N, S, X) of the stack.
    scan_direction : {1, -1}
        1 if the plane with the higher index lies further along +Y, else -1.
    flip_rows, flip_columns : bool
        Whether camera rows (columns) run against +Z (+X).
    origin_um : float
        Scan offset of the plane lowest in Y, in µm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    angle_deg: Annotated[float, Field(gt=0, lt=90)]
    step_um: Positive
    pixel_size_um: Positive
    n_planes: Annotated[int, Field(ge=1)]
    n_rows: Annotated[int, Field(ge=1)]
    n_columns: Annotated[int, Field(ge=1)]
    scan_direction: Literal[1, -1] = 1
    flip_rows: bool = False
    flip_columns: bool = False
    origin_um: float = 0.0

    def volume_shape(
        self, voxel_size_um: float | tuple[float, float] | None = None
    ) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of the deskewed volume; see :func:`volume_shape`."""
        return volume_shape(
            (self.n_planes, self.n_rows, self.n_columns),
            angle_deg=self.angle_deg,
            step_um=self.step_um,
            pixel_size_um=self.pixel_size_um,
            voxel_size_um=voxel_size_um,
        )

    def affine(self) -> list[list[float]]:
        """Return the 3x4 affine from (n, s, x) indices to (Z, Y, X) in µm.

        Rows are Z, Y, X; the last column is the translation.
        """
        theta = math.radians(self.angle_deg)
        px, step, n_last = self.pixel_size_um, self.step_um, self.n_planes - 1
        row_sign = -1 if self.flip_rows else 1
        col_sign = -1 if self.flip_columns else 1
        row_start = px * (self.n_rows - 1) if self.flip_rows else 0.0
        col_start = px * (self.n_columns - 1) if self.flip_columns else 0.0
        scan_start = step * n_last if self.scan_direction < 0 else 0.0
        sin, cos = math.sin(theta), math.cos(theta)
        y_start = self.origin_um + scan_start + row_start * cos
        return [
            [0.0, row_sign * px * sin, 0.0, row_start * sin],
            [self.scan_direction * step, row_sign * px * cos, 0.0, y_start],
            [0.0, 0.0, col_sign * px, col_start],
        ]


def voxel_size(
    pixel_size_um: float, voxel_size_um: float | tuple[float, float] | None
) -> tuple[float, float]:
    """Return (dz, dy) in µm: a scalar serves both, None means the pixel size.

    Raises
    ------
    ValueError
        If ``voxel_size_um`` is not one or two positive, finite numbers.
    """
    if voxel_size_um is None:
        return pixel_size_um, pixel_size_um
    is_list = isinstance(voxel_size_um, tuple | list) or np.ndim(voxel_size_um) > 0
    pair: Any = voxel_size_um if is_list else (voxel_size_um,) * 2
    if len(pair) != 2:
        msg = f"voxel_size_um must be a number or a pair (dz, dy), not {voxel_size_um}"
        raise ValueError(msg)
    dz, dy = (positive("voxel_size_um", size) for size in pair)
    return dz, dy


def positive(name: str, value: Any) -> float:
    """Return a number as float, numpy's too.

    Raises
    ------
    ValueError
        If it is not a positive, finite number; names it.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        msg = f"{name} must be a positive, finite number, not {value!r}"
        raise ValueError(msg)
    return float(value)


def volume_shape(
    stack_shape: tuple[int, int, int],
    *,
    angle_deg: float,
    step_um: float,
    pixel_size_um: float,
    voxel_size_um: float | tuple[float, float] | None = None,
) -> tuple[int, int, int]:
    """Shape (Z, Y, X) of the volume that a stack (N, S, X) deskews to.

    Parameters
    ----------
    stack_shape : tuple of int
        (planes, rows, columns).
    angle_deg, step_um, pixel_size_um
        See :class:`Geometry`.
    voxel_size_um : float or (float, float), optional
        Voxel (dz, dy) in µm; defaults to the pixel size.

    Returns
    -------
    tuple of int
        (nz, ny, nx).

    Raises
    ------
    ValueError
        If no volume can be so large.
    """
    n_planes, n_rows, n_columns = stack_shape
    dz, dy = voxel_size(pixel_size_um, voxel_size_um)
    theta = math.radians(angle_deg)
    height_um = (n_rows - 1) * pixel_size_um * math.sin(theta)
    length_um = (n_planes - 1) * step_um + (n_rows - 1) * pixel_size_um * math.cos(
        theta
    )
    last_z, last_y = height_um / dz + EPSILON, length_um / dy + EPSILON
    if (last_z + 1) * (last_y + 1) * n_columns > MAX_VOXELS:
        msg = (
            f"step_um = {step_um:g}, pixel_size_um = {pixel_size_um:g} and "
            f"voxel_size_um = ({dz:g}, {dy:g}) make a volume of "
            f"({last_z + 1:.5g}, {last_y + 1:.5g}, {n_columns}) voxels; are all in µm?"
        )
        raise ValueError(msg)
    return math.floor(last_z) + 1, math.floor(last_y) + 1, n_columns
