"""`Deskewer`: one volume, plane by plane."""

from __future__ import annotations

import numpy as np
import pytest

from deskewing import GEOMETRY, noise, whole
from opm_engine.geometry import Geometry
from opm_engine.processing import Deskewer

ORIENTATIONS = [
    pytest.param(direction, rows, columns, id=f"{direction:+}-{rows:d}-{columns:d}")
    for direction in (1, -1)
    for rows in (False, True)
    for columns in (False, True)
]


def oriented(direction: int, rows: bool, columns: bool, **changes) -> Geometry:
    flips = {"scan_direction": direction, "flip_rows": rows, "flip_columns": columns}
    return GEOMETRY.model_copy(update={**flips, **changes})


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize(("direction", "rows", "columns"), ORIENTATIONS)
def test_streaming_equals_whole_stack(direction, rows, columns, project) -> None:
    stack = noise(2)
    row_sign, column_sign = (-1 if flip else 1 for flip in (rows, columns))
    as_taken = stack[::direction, ::row_sign, ::column_sign]
    deskewer = Deskewer(oriented(direction, rows, columns), project=project)
    memory = np.empty(as_taken.shape[1:], np.uint16)
    for n, plane in enumerate(as_taken):
        assert deskewer.n_added == n
        assert not deskewer.is_complete
        memory[:] = plane
        deskewer.add(memory)
        memory[:] = 0  # the caller may reuse it
    assert deskewer.is_complete
    np.testing.assert_array_equal(deskewer.volume, whole(stack))
    if project:
        for axis, projection in enumerate(deskewer.projections):
            np.testing.assert_array_equal(projection, whole(stack).max(axis=axis))
    else:
        assert deskewer.projections is None


@pytest.mark.parametrize("direction", [1, -1])
def test_rows_are_written_as_soon_as_they_can_be(direction: int) -> None:
    stack = noise(3) | 1  # no dark pixel
    final = whole(stack)
    deskewer = Deskewer(oriented(direction, False, False))
    n_before = 0
    for plane in stack[::direction]:
        deskewer.add(plane)
        written = deskewer.volume != 0
        np.testing.assert_array_equal(deskewer.volume[written], final[written])
        n_after = np.count_nonzero(written)
        # The first plane alone completes only what lies exactly on the last in Y.
        assert n_after > n_before or deskewer.n_added == 1
        n_before = n_after


@pytest.mark.parametrize(("direction", "rows", "columns"), ORIENTATIONS)
def test_bead_lands_where_it_is(direction, rows, columns) -> None:
    geometry = oriented(
        direction, rows, columns, n_planes=24, n_rows=40, n_columns=20, step_um=0.3
    )
    bead_um = np.array([1.4, 5.0, 2.6])
    index = np.indices((24, 40, 20)).reshape(3, -1)
    affine = np.array(geometry.affine())
    distance_um = affine[:, :3] @ index + affine[:, 3:] - bead_um[:, None]
    bead = 1000 * np.exp(-((distance_um / 0.5) ** 2).sum(axis=0) / 2)
    deskewer = Deskewer(geometry, voxel_size_um=(0.25, 0.15))
    for plane in bead.reshape(24, 40, 20).round().astype(np.uint16):
        deskewer.add(plane)
    volume = deskewer.volume.astype(float)
    grid = np.indices(volume.shape).reshape(3, -1)
    centroid = (grid * volume.ravel()).sum(axis=1) / volume.sum()
    scale_um, start_um = np.array([0.25, 0.15, 0.2]), np.array([0, -0.6, 0])
    np.testing.assert_allclose(centroid * scale_um + start_um, bead_um, atol=0.02)


def test_deskewer_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^voxel_size_um "):
        Deskewer(GEOMETRY, voxel_size_um=0)
    deskewer = Deskewer(GEOMETRY)
    for plane in (np.zeros((9, 6), np.uint16), np.zeros((9, 5), np.uint8)):
        with pytest.raises(ValueError, match=r"^plane must be \(9, 5\) uint16"):
            deskewer.add(plane)
    for plane in noise(0):
        deskewer.add(plane)
    with pytest.raises(ValueError, match=r"^plane: all 4 planes"):
        deskewer.add(noise(0)[0])
