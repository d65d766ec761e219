"""The compiled loops: arrays in, arrays out.

Separate because this is the only code that numba compiles. Sequential kernels that
release the GIL, so any number of threads may run them at once; parallel ones abort the
process when two threads start them. Know nothing of angles, events or handlers.

Arguments of both kernels, M being the rows to write: ``lower`` and ``upper`` (S, X)
uint16, the two planes that the rows lie between; ``voxels`` (M, 2), ``rows`` (M, 4) and
``weights`` (M, 4) of a :class:`~opm_engine.processing.taps.TapTable`; ``volume``
(Z, Y, X) uint16, written. All contiguous and writeable, which gives each kernel one
signature to compile.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import numpy as np
from numba import int32, njit, uint64

# "contract" allows fused multiply-add: faster, and rounded less often.
_compiled = njit(nogil=True, cache=True, fastmath={"contract"})
_MIDDLE = np.float32(32768)


@_compiled
def _mix_row(row_a, row_b, row_c, row_d, weights, out):
    """Write the weighted sum of four camera rows (X,), rounded to nearest."""
    a, b, c, d = weights[0], weights[1], weights[2], weights[3]
    # Counts are taken from the middle of their range, which keeps float32 within 0.006
    # of the exact sum. An unsigned index cannot be negative: needed to vectorise.
    for x in range(uint64(out.size)):
        total = a * (np.float32(row_a[x]) - _MIDDLE)
        total += b * (np.float32(row_b[x]) - _MIDDLE)
        other = c * (np.float32(row_c[x]) - _MIDDLE)
        other += d * (np.float32(row_d[x]) - _MIDDLE)
        out[x] = np.uint16(int32(np.rint(total + other) + _MIDDLE))


@_compiled
def _project_row(row, xy_row, xz_row):
    """Raise two projections (X,) to a row of the volume; return the row's maximum."""
    highest = np.uint16(0)
    for x in range(uint64(row.size)):
        value = row[x]
        xy_row[x] = max(xy_row[x], value)
        xz_row[x] = max(xz_row[x], value)
        highest = max(highest, value)
    return highest


@_compiled
def mix_planes(lower, upper, voxels, rows, weights, volume):
    """Write the rows of a volume that lie between two planes."""
    for i in range(voxels.shape[0]):
        a, b, c, d = rows[i]
        out = volume[voxels[i, 0], voxels[i, 1]]
        _mix_row(lower[a], lower[b], upper[c], upper[d], weights[i], out)


@_compiled
def mix_and_project(lower, upper, voxels, rows, weights, volume, xy, xz, yz):
    """Write the rows between two planes, and raise the maximum projections to them.

    ``xy`` (Y, X), ``xz`` (Z, X) and ``yz`` (Z, Y), uint16, are updated in place.
    """
    for i in range(voxels.shape[0]):
        a, b, c, d = rows[i]
        z, y = voxels[i]
        out = volume[z, y]
        _mix_row(lower[a], lower[b], upper[c], upper[d], weights[i], out)
        yz[z, y] = _project_row(out, xy[y], xz[z])
