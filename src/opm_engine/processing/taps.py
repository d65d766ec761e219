"""Which camera rows make up each row of a volume, and with which weights.

Separate from the kernels because this is the geometry of the interpolation, worked out
in float64, while the kernels only follow the table. Knows nothing of pixel values or
scan direction: planes are numbered along +Y.

In units of the camera pixel, with p = step / pixel: the line along the sheet through a
voxel (z, y) meets the coverslip at v = y - z / tan(angle) - shift, which lies l beyond
plane n = floor(v / p). The perpendiculars from the voxel meet planes n and n + 1 in
rows z / sin + l cos and z / sin - (p - l) cos; the planes are mixed (p - l) / p to
l / p, and on each plane the two rows nearest, linearly. Shear only: row z / sin on both
planes.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from opm_engine.geometry import EPSILON
from opm_engine.processing.sampling import Sampling

N_TABLES = 16
"""Tables that are kept. One takes a hundredth of the memory of its volume, and about
as long to make as a volume takes to deskew."""

KEPT_BYTES = 2**25
"""A table that is larger, and larger than the slabs that are open at a time, is made
block by block while the scan goes on."""

BLOCK_ROWS = 2**13
"""About as many rows are in such a block."""

_compiled = njit(nogil=True, cache=True)


class Taps(NamedTuple):
    """M rows of a volume, and what they are made of.

    Attributes
    ----------
    voxels : (M, 2) uint32
        z and y of the volume's row.
    offsets : (M, z_bin) uint32
        Of each fine row: how far its lower plane lies beyond the row's first plane.
    rows : (M, 4) or (M, z_bin, 4) uint32
        Camera rows: two of the lower plane, two of the next. Rows of weight 0 are any.
    weights : (M, 4) or (M, z_bin, 4) float32
        Of these rows.
    """

    voxels: NDArray[np.uint32]
    offsets: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    weights: NDArray[np.float32]

    def pick(self, which: slice | NDArray[np.bool_]) -> Taps:
        """Return some of the rows."""
        return Taps(
            self.voxels[which],
            self.offsets[which],
            self.rows[which],
            self.weights[which],
        )


@dataclass(frozen=True, eq=False)
class TapTable:
    """The rows of a volume that lie inside the scan, sorted by their first plane.

    Attributes
    ----------
    planes : range
        First planes of the rows in here.
    first : (len(planes) + 1,) int64
        Where the rows of each plane begin.
    taps : Taps
    """

    planes: range
    first: NDArray[np.int64]
    taps: Taps

    def at(self, plane: int) -> Taps:
        """Return the rows whose first plane is this one."""
        if plane not in self.planes:
            return self.taps.pick(slice(0))
        number = plane - self.planes.start
        return self.taps.pick(slice(self.first[number], self.first[number + 1]))


def is_kept(sampling: Sampling) -> bool:
    """Whether the whole table is made at once and kept for the next volume."""
    open_bytes = sampling.n_open_slabs * sampling.slab_bytes
    return _whole_bytes(sampling) <= max(KEPT_BYTES, open_bytes)


def table_bytes(sampling: Sampling) -> int:
    """Memory that the table takes at most."""
    if is_kept(sampling):
        return _whole_bytes(sampling)
    return BLOCK_ROWS * _row_bytes(sampling)


def _whole_bytes(sampling: Sampling) -> int:
    n_z, n_y, _ = sampling.shape
    return n_z * n_y * _row_bytes(sampling)


def _row_bytes(sampling: Sampling) -> int:
    return 8 + 36 * sampling.z_bin


@lru_cache(maxsize=N_TABLES)
def make_taps(sampling: Sampling) -> TapTable:
    """Work out the whole table; the last few are kept."""
    return work_out(sampling, sampling.planes(0, sampling.n_rows))


def block_around(sampling: Sampling, plane: int) -> TapTable:
    """Work out the part of the table that the rows of a plane are in."""
    lattice = sampling.lattice
    per_plane = lattice.n_z * lattice.pitch / lattice.dy
    n_planes = max(1, int(BLOCK_ROWS / per_plane))
    start = plane // n_planes * n_planes
    return work_out(
        sampling, range(start, min(start + n_planes, sampling.geometry.n_planes))
    )


def work_out(sampling: Sampling, planes: range) -> TapTable:
    """Work out the rows of some first planes."""
    lattice, z_bin = sampling.lattice, sampling.z_bin
    n_z, n_y, _ = sampling.shape
    per_plane = n_z * (math.ceil(lattice.pitch / lattice.dy) + 1)
    most = min(n_z * n_y, len(planes) * per_plane)
    first = np.empty(len(planes) + 1, np.int64)
    # One more: the place where a row is tried.
    voxels = np.empty((most + 1, 2), np.uint32)
    offsets = np.empty((most + 1, z_bin), np.uint32)
    rows = np.empty((most + 1, z_bin, 4), np.uint32)
    weights = np.empty((most + 1, z_bin, 4), np.float32)
    _fill(planes.start, planes.stop, lattice, first, voxels, offsets, rows, weights)
    found = slice(first[-1])
    if z_bin == 1:
        rows, weights = rows[:, 0], weights[:, 0]
    taps = Taps(
        voxels[found].copy(),
        offsets[found].copy(),
        rows[found].copy(),
        weights[found].copy(),
    )
    return TapTable(planes, first, taps)


@lru_cache(maxsize=N_TABLES)
def _all_lit(sampling: Sampling) -> NDArray[np.bool_]:
    return _work_out_lit(sampling, 0, sampling.n_rows)


def lit(sampling: Sampling, first: int, stop: int) -> NDArray[np.bool_]:
    """Return where rows first to stop along Y have data: (Z, rows), of every x."""
    if is_kept(sampling):
        return _all_lit(sampling)[:, first:stop]
    return _work_out_lit(sampling, first, stop)


def _work_out_lit(sampling: Sampling, first: int, stop: int) -> NDArray[np.bool_]:
    mask = np.zeros((sampling.shape[0], stop - first), bool)
    _mark(sampling.lattice, sampling.first_row + first, mask)
    return mask


@_compiled
def _meet(fine_row, y, lattice):
    """Return where the sheet through a voxel meets the coverslip: plane, beyond."""
    if lattice.shear:
        lean = fine_row * lattice.cos
    else:
        lean = fine_row * lattice.dz / lattice.tan
    return _split((y * lattice.dy - lean - lattice.shift) / lattice.pitch)


@_compiled
def _split(position):
    """Return whole part and fraction of a grid position, free of rounding noise."""
    whole = math.floor(position + EPSILON)
    fraction = position - whole
    return whole, 0.0 if fraction <= EPSILON else fraction


@_compiled
def _tap_fine_row(fine_row, beyond, lattice, rows, weights):
    """Work out rows (4,) and weights (4,); return whether all lie inside the stack."""
    if lattice.shear:
        foot, stride = float(fine_row), 0.0
    else:
        foot = fine_row * lattice.dz / lattice.sin
        stride = lattice.pitch * lattice.cos
    last = lattice.n_camera_rows - 1
    inside = True
    for which in range(2):
        if which == 0:
            share, position = 1 - beyond, foot + beyond * stride
        else:
            share, position = beyond, foot - (1 - beyond) * stride
        row, fraction = _split(position)
        for tap in range(2):
            weight = share * (fraction if tap else 1 - fraction)
            inside &= weight == 0 or 0 <= row + tap <= last
            kept = min(max(row + tap, 0), last)
            rows[2 * which + tap] = last - kept if lattice.flip_rows else kept
            weights[2 * which + tap] = weight / lattice.z_bin
    return inside


@_compiled
def _tap_row(z, y, first_plane, lattice, offsets, rows, weights):
    """Work out a row of the volume; return whether all of it lies inside the stack."""
    for part in range(lattice.z_bin):
        fine_row = z * lattice.z_bin + part
        plane, beyond = _meet(fine_row, y, lattice)
        if plane < 0 or plane + (beyond > 0) >= lattice.n_planes:
            return False
        offsets[part] = max(plane - first_plane, 0)
        if not _tap_fine_row(fine_row, beyond, lattice, rows[part], weights[part]):
            return False
    return True


@_compiled
def _fill(start, stop, lattice, first, voxels, offsets, rows, weights):
    """Write the rows of each first plane from start to stop, and where they begin."""
    m = 0
    width = math.ceil(lattice.pitch / lattice.dy) + 3
    for plane in range(start, stop):
        first[plane - start] = m
        for z in range(lattice.n_z):
            top = (z + 1) * lattice.z_bin - 1
            lean = top * (lattice.cos if lattice.shear else lattice.dz / lattice.tan)
            begin = (plane * lattice.pitch + lean + lattice.shift) / lattice.dy
            low = math.floor(begin) - 1
            high = min(low + width + 1, lattice.first_row + lattice.n_rows)
            for y in range(max(low, lattice.first_row), high):
                if _meet(top, y, lattice)[0] != plane:
                    continue
                if _tap_row(z, y, plane, lattice, offsets[m], rows[m], weights[m]):
                    voxels[m, 0] = z
                    voxels[m, 1] = y - lattice.first_row
                    m += 1
    first[stop - start] = m


@_compiled
def _mark(lattice, first_y, mask):
    """Mark the rows (Z, Y) that lie inside the stack."""
    offsets = np.empty(lattice.z_bin, np.uint32)
    rows = np.empty((lattice.z_bin, 4), np.uint32)
    weights = np.empty((lattice.z_bin, 4), np.float32)
    for z in range(mask.shape[0]):
        for j in range(mask.shape[1]):
            mask[z, j] = _tap_row(z, first_y + j, 0, lattice, offsets, rows, weights)
