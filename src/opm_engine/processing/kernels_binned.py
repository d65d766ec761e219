"""The compiled loops beside the plain deskew: z-binned rows.

Separate from ``kernels``, where every cycle counts: these serve an option. Sequential
and without the GIL like those. Know nothing of angles, events or handlers.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import numpy as np
from numba import int32, njit, uint64

from opm_engine.processing.kernels import _row_at

_compiled = njit(nogil=True, cache=True, fastmath={"contract"})
_MIDDLE = np.float32(32768)
_TOP = np.float32(65535)


@_compiled
def _add_row(row_a, row_b, row_c, row_d, weights, total):
    """Add the weighted sum of four camera rows (X,), less the middle of the range."""
    a, b, c, d = weights[0], weights[1], weights[2], weights[3]
    for x in range(uint64(total.size)):
        mixed = a * (np.float32(row_a[x]) - _MIDDLE)
        mixed += b * (np.float32(row_b[x]) - _MIDDLE)
        other = c * (np.float32(row_c[x]) - _MIDDLE)
        other += d * (np.float32(row_d[x]) - _MIDDLE)
        total[x] += mixed + other


@_compiled
def _round_row(total, out):
    """Round a row (X,) once, and clip it."""
    for x in range(uint64(out.size)):
        value = np.rint(total[x] + _MIDDLE)
        out[x] = np.uint16(int32(min(max(value, np.float32(0)), _TOP)))


@_compiled
def bin_rows(
    ring, plane, voxels, offsets, rows, weights, slabs, pitch, slab_rows, total
):
    """Write rows that are the mean of fine rows, which lie between different planes.

    ``ring`` (R, S, X) holds plane n at n % R; ``plane`` is the first plane of all rows;
    ``total`` (X,) float32 is scratch. The others are as in ``kernels``, but for
    ``offsets`` (M, z_bin), ``rows`` and ``weights`` (M, z_bin, 4).
    """
    n_ring = ring.shape[0]
    for i in range(voxels.shape[0]):
        total[:] = 0
        for part in range(offsets.shape[1]):
            number = plane + offsets[i, part]
            lower, upper = ring[number % n_ring], ring[(number + 1) % n_ring]
            a, b, c, d = rows[i, part]
            _add_row(lower[a], lower[b], upper[c], upper[d], weights[i, part], total)
        z, y = voxels[i]
        _round_row(total, _row_at(z, y, slabs, pitch, slab_rows, ring.shape[2]))


@_compiled
def project_rows(voxels, slabs, pitch, slab_rows, xy, xz, yz):
    """Raise the maximum projections to rows that have been written."""
    for i in range(voxels.shape[0]):
        z, y = voxels[i]
        row = _row_at(z, y, slabs, pitch, slab_rows, xy.shape[1])
        highest = np.uint16(0)
        for x in range(uint64(row.size)):
            xy[y, x] = max(xy[y, x], row[x])
            xz[z, x] = max(xz[z, x], row[x])
            highest = max(highest, row[x])
        yz[z, y] = highest
