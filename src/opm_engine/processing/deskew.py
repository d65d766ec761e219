"""`deskew`: a whole stack at once.

Separate from the streaming deskewer, which does the work, because here the arguments
come from a person: each is judged, and refused by name. Knows no files or events.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from opm_engine.buffers import refuse_beyond_memory
from opm_engine.geometry import Geometry, positive
from opm_engine.processing.correction import Correction
from opm_engine.processing.sampling import Interpolation, VoxelSize, sampling_of
from opm_engine.processing.streaming import Deskewer


def deskew(
    stack: NDArray[np.uint16],
    *,
    angle_deg: float,
    step_um: float,
    pixel_size_um: float,
    voxel_size_um: VoxelSize = None,
    interpolation: Interpolation = "orthogonal",
    z_bin: int = 1,
    correction: Correction | None = None,
    out: NDArray[np.uint16] | None = None,
) -> NDArray[np.uint16]:
    """Deskew an oblique stack.

    Parameters
    ----------
    stack : (N, S, X) uint16 array
        Planes, camera rows, columns; planes along +Y, rows along +Z. Any memory
        layout; planes are read one by one, so an array on disk will do.
    angle_deg : float
        Angle between light sheet and coverslip, between 0 and 90 degrees. Not the
        angle to the optical axis.
    step_um : float
        Distance between neighbouring planes along the coverslip, in µm. Not the
        distance orthogonal to the sheet.
    pixel_size_um : float
        Camera pixel in sample space, in µm.
    voxel_size_um : float or (float, float), optional
        Voxel (dz, dy) in µm; a scalar serves both. Defaults to the pixel size.
    interpolation : {"orthogonal", "shear"}
        ``orthogonal``: between the feet of the perpendiculars on two planes.
        ``shear``: rows are moved along Y alone; they lie pixel * sin(angle) apart
        along Z, and a scalar voxel size is dy.
    z_bin : int
        Rows along Z whose mean becomes one: dz is so many times larger. The first one
        lies (z_bin - 1) / 2 * dz higher.
    correction : Correction, optional
        Of the counts, before they are interpolated; clipped once, after it.
    out : (Z, Y, X) uint16 array, optional
        Where to write: C-contiguous, of the shape that
        :func:`opm_engine.geometry.volume_shape` says.

    Returns
    -------
    (Z, Y, X) uint16 array
        ``out``, or a new array. Counts as the camera gave them if not corrected,
        interpolated and rounded once; 0 where the scan has no data.

    Raises
    ------
    ValueError
        If an argument makes no sense; names it.
    MemoryError
        If memory cannot hold the volume.
    """
    _check(stack, out)
    angle_deg = positive("angle_deg", angle_deg)
    if angle_deg >= 90:
        msg = f"angle_deg must lie between 0 and 90 degrees, not {angle_deg:g}"
        raise ValueError(msg)
    geometry = Geometry(
        angle_deg=angle_deg,
        step_um=positive("step_um", step_um),
        pixel_size_um=positive("pixel_size_um", pixel_size_um),
        n_planes=stack.shape[0],
        n_rows=stack.shape[1],
        n_columns=stack.shape[2],
    )
    sampling = sampling_of(
        geometry,
        voxel_size_um=voxel_size_um,
        interpolation=interpolation,
        z_bin=z_bin,
    )
    if out is None:
        refuse_beyond_memory(math.prod(sampling.shape) * 2, "the volume")
    deskewer = Deskewer(
        geometry,
        voxel_size_um=voxel_size_um,
        interpolation=interpolation,
        z_bin=z_bin,
        correction=correction,
        out=out,
    )
    for n in deskewer.planes:
        deskewer.add(np.asarray(stack[n]), lasting=True)
    assert deskewer.volume is not None
    return deskewer.volume


def _check(stack: NDArray[np.uint16], out: object) -> None:
    """Refuse what is no stack, or lies over its own output."""
    if getattr(stack, "ndim", None) != 3 or 0 in stack.shape:
        shape = getattr(stack, "shape", type(stack).__name__)
        msg = f"stack must be an array (N, S, X) and not empty, not {shape}"
        raise ValueError(msg)
    if stack.dtype != np.uint16:
        msg = f"stack must be uint16, not {stack.dtype}"
        raise ValueError(msg)
    if _overlap(stack, out):
        msg = "out must not share memory with stack"
        raise ValueError(msg)


def _overlap(stack: object, out: object) -> bool:
    in_memory = isinstance(stack, np.ndarray) and isinstance(out, np.ndarray)
    return in_memory and np.may_share_memory(stack, out)
