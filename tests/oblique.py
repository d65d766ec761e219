"""The deskew formula, written out plainly in float64, for tests to compare with."""

from __future__ import annotations

import math

import numpy as np

TOLERANCE = 1e-9


def _two_taps(position: float) -> list[tuple[int, float]]:
    """(index, weight) around a position; what has no weight is left out."""
    whole = math.floor(position + TOLERANCE)
    part = position - whole
    if part <= TOLERANCE:
        return [(whole, 1.0)]
    return [(whole, 1 - part), (whole + 1, part)]


def _taps(y, z, theta, p):
    """All (plane, row, weight) of a voxel; y, z and p in camera pixels."""
    v = y - z / math.tan(theta)
    taps = []
    for n, plane_weight in _two_taps(v / p):
        distance = v - n * p  # l on plane n, -(p - l) on plane n + 1
        row = z / math.sin(theta) + distance * math.cos(theta)
        taps += [(n, s, plane_weight * weight) for s, weight in _two_taps(row)]
    return taps


def _shear_taps(y, fine_row, theta, p):
    """All (plane, row, weight) of a voxel on a camera row; y and p in pixels."""
    v = y - fine_row * math.cos(theta)
    return [(n, fine_row, weight) for n, weight in _two_taps(v / p)]


def sheared(stack, angle_deg, step_um, pixel_um, dy, shift_um=0.0, ny=None):
    """Float64 volume (S, Y, X) and its valid mask, interpolated along Y alone."""
    n_planes, n_rows, n_columns = stack.shape
    theta = math.radians(angle_deg)
    length = (n_planes - 1) * step_um + (n_rows - 1) * pixel_um * math.cos(theta)
    ny = ny or math.floor(length / dy + TOLERANCE) + 1
    volume = np.zeros((n_rows, ny, n_columns))
    valid = np.zeros((n_rows, ny), bool)
    for s, j in np.ndindex(n_rows, ny):
        y = (j * dy - shift_um) / pixel_um
        taps = _shear_taps(y, s, theta, step_um / pixel_um)
        if all(0 <= n < n_planes for n, _, _ in taps):
            volume[s, j] = sum(weight * stack[n, row] for n, row, weight in taps)
            valid[s, j] = True
    return volume, valid


def binned(volume, valid, z_bin):
    """Mean of z_bin rows each; valid where all of them are. The rest is dropped."""
    n_z = len(volume) // z_bin
    parts = volume[: n_z * z_bin].reshape(n_z, z_bin, *volume.shape[1:])
    whole = valid[: n_z * z_bin].reshape(n_z, z_bin, -1).all(axis=1)
    return parts.mean(axis=1) * whole[..., None], whole


def reference(stack, angle_deg, step_um, pixel_um, voxel_um, shift_um=0.0, ny=None):
    """Float64 volume and its valid mask, voxel row by voxel row.

    All planes lie further along +Y by ``shift_um``; the grid does not move.
    """
    n_planes, n_rows, n_columns = stack.shape
    theta = math.radians(angle_deg)
    dz, dy = voxel_um
    height = (n_rows - 1) * pixel_um * math.sin(theta)
    length = (n_planes - 1) * step_um + (n_rows - 1) * pixel_um * math.cos(theta)
    nz = math.floor(height / dz + TOLERANCE) + 1
    ny = ny or math.floor(length / dy + TOLERANCE) + 1
    volume = np.zeros((nz, ny, n_columns))
    valid = np.zeros((nz, ny), bool)
    for k, j in np.ndindex(nz, ny):
        y, z = (j * dy - shift_um) / pixel_um, k * dz / pixel_um
        taps = _taps(y, z, theta, step_um / pixel_um)
        if all(0 <= n < n_planes and 0 <= s < n_rows for n, s, _ in taps):
            volume[k, j] = sum(weight * stack[n, s] for n, s, weight in taps)
            valid[k, j] = True
    return volume, valid
