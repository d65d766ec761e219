"""Which camera rows make up each row of a volume, and with which weights.

Separate from the kernels because this is the geometry of the interpolation, worked
out once per scan in float64, while the kernels only follow the table. Knows nothing of
pixel values, scan direction or flips: planes are numbered along +Y, rows along +Z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from opm_engine.geometry import EPSILON, Geometry

Grid = NDArray[np.float64]

N_TABLES = 16
"""Tables that are kept. One takes a hundredth of the memory of its volume, and much
longer to make than a volume takes to deskew."""


@dataclass(frozen=True, eq=False)
class TapTable:
    """The M rows of a volume that lie inside the scan, sorted by plane.

    Attributes
    ----------
    shape : tuple of int
        (Z, Y, X) of the volume.
    first : (N + 1,) int64
        Entries ``first[n]`` to ``first[n + 1]`` lie on plane n or between it and the
        next.
    voxels : (M, 2) uint32
        z and y of the volume's row.
    rows : (M, 4) uint32
        Camera rows: two of plane n, two of plane n + 1. Rows of weight 0 are any.
    weights : (M, 4) float32
        Of these rows.
    """

    shape: tuple[int, int, int]
    first: NDArray[np.int64]
    voxels: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    weights: NDArray[np.float32]

    def valid(self) -> NDArray[np.bool_]:
        """Return where the volume has data: a (Z, Y) mask, the same for every x."""
        mask = np.zeros(self.shape[:2], bool)
        mask[self.voxels[:, 0], self.voxels[:, 1]] = True
        return mask


def make_taps(
    geometry: Geometry,
    voxel_um: tuple[float, float],
    shift_um: float = 0.0,
    n_y: int | None = None,
) -> TapTable:
    """Work out the table of a scan; the last few are kept.

    The direction of the scan does not matter: planes are numbered along +Y.

    In units of the camera pixel, with p = step / pixel: the line along the sheet
    through a voxel (z, y) meets the coverslip at v = y - z / tan(angle) - shift, which
    lies l beyond plane n = floor(v / p). The perpendiculars from the voxel meet planes
    n and n + 1 in rows z / sin + l cos and z / sin - (p - l) cos; the planes are mixed
    (p - l) / p to l / p, and on each plane the two rows nearest, linearly.

    Parameters
    ----------
    geometry : Geometry
    voxel_um : (float, float)
        Voxel (dz, dy) in µm.
    shift_um : float
        By how much all planes lie further along +Y than the geometry says. The
        volume's grid stays where it is; what leaves it is lost.
    n_y : int, optional
        Length of the volume along Y; defaults to that of the geometry.

    Returns
    -------
    TapTable
    """
    n_z, own_n_y, n_x = geometry.volume_shape(voxel_um)
    along_y = geometry.model_copy(update={"scan_direction": 1})
    return _work_out(along_y, voxel_um, shift_um, (n_z, n_y or own_n_y, n_x))


@lru_cache(maxsize=N_TABLES)
def _work_out(
    geometry: Geometry,
    voxel_um: tuple[float, float],
    shift_um: float,
    shape: tuple[int, int, int],
) -> TapTable:
    theta = math.radians(geometry.angle_deg)
    pitch = geometry.step_um / geometry.pixel_size_um
    z, y = (
        np.arange(count) * (size_um / geometry.pixel_size_um)
        for count, size_um in zip(shape[:2], voxel_um, strict=True)
    )
    shift = shift_um / geometry.pixel_size_um
    plane, beyond = _split((y - z[:, None] / math.tan(theta) - shift) / pitch)
    scanned = (plane >= 0) & (plane + (beyond > 0) < geometry.n_planes)
    voxels = np.argwhere(scanned)
    plane, beyond = plane[scanned].astype(np.int64), beyond[scanned]

    foot = z[voxels[:, 0]] / math.sin(theta)
    stride = pitch * math.cos(theta)
    n_rows = geometry.n_rows
    rows_0, weights_0 = _row_pair(foot + beyond * stride, 1 - beyond)
    rows_1, weights_1 = _row_pair(foot - (1 - beyond) * stride, beyond)
    rows = np.concatenate([rows_0, rows_1], axis=1)
    weights = np.concatenate([weights_0, weights_1], axis=1)

    valid = (((rows >= 0) & (rows < n_rows)) | (weights == 0)).all(axis=1)
    kept = np.flatnonzero(valid)
    kept = kept[np.argsort(plane[kept], kind="stable")]
    return TapTable(
        shape=shape,
        first=np.searchsorted(plane[kept], np.arange(geometry.n_planes + 1)),
        voxels=voxels[kept].astype(np.uint32),
        rows=np.clip(rows[kept], 0, n_rows - 1).astype(np.uint32),
        weights=weights[kept].astype(np.float32),
    )


def _split(position: Grid) -> tuple[Grid, Grid]:
    """Return whole part and fraction of grid positions, free of rounding noise."""
    whole = np.floor(position + EPSILON)
    fraction = position - whole
    fraction[fraction <= EPSILON] = 0
    return whole, fraction


def _row_pair(position: Grid, share: Grid) -> tuple[NDArray[np.int64], Grid]:
    """Return the two camera rows around each position and their weights, (M, 2)."""
    whole, fraction = _split(position)
    row = whole.astype(np.int64)
    weights = np.stack([share * (1 - fraction), share * fraction], axis=1)
    return np.stack([row, row + 1], axis=1), weights
