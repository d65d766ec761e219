"""Slabs, rows and long scans: the same voxels, whichever way they are had."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deskewing import Dirty, noise
from opm_engine.geometry import Geometry
from opm_engine.processing import Correction, Deskewer, taps


@st.composite
def scans(draw):
    """A geometry, and how to deskew it."""
    pixel_um = draw(st.sampled_from([0.1, 1.0]) | st.floats(0.05, 2))
    size = st.sampled_from([0.5, 1, 2]) | st.floats(0.3, 3)
    geometry = Geometry(
        angle_deg=draw(st.sampled_from([30, 45, 60]) | st.floats(15, 60)),
        step_um=pixel_um * draw(st.sampled_from([0.5, 1, 2, 9]) | st.floats(0.2, 20)),
        pixel_size_um=pixel_um,
        n_planes=draw(st.integers(1, 9)),
        n_rows=draw(st.integers(1, 20)),
        n_columns=draw(st.integers(1, 18)),
        scan_direction=draw(st.sampled_from([1, -1])),
        flip_rows=draw(st.booleans()),
        flip_columns=draw(st.booleans()),
    )
    dz, dy = draw(size), draw(size)
    shear = draw(st.booleans())
    n_fine = geometry.n_rows
    if not shear:
        n_fine = geometry.volume_shape((dz * pixel_um, dy * pixel_um))[0]
    how = {
        "voxel_size_um": dy * pixel_um if shear else (dz * pixel_um, dy * pixel_um),
        "interpolation": "shear" if shear else "orthogonal",
        "z_bin": draw(st.integers(1, min(5, n_fine))),
        "shift_um": geometry.step_um * draw(st.sampled_from([0, 1]) | st.floats(-2, 2)),
        "correction": draw(st.sampled_from([None, Correction(100.5, 1.25)])),
    }
    return geometry, how


def run(deskewer: Deskewer, stack: np.ndarray, *, lasting: bool = True) -> list:
    slabs = []
    for number in deskewer.planes:
        slabs += deskewer.add(stack[number], lasting=lasting)
    return slabs


@settings(max_examples=150, deadline=None)
@given(scan=scans(), data=st.data())
def test_slabs_and_rows_are_those_of_the_whole_volume(scan, data) -> None:
    geometry, how = scan
    stack, pool = noise(1, geometry), Dirty()
    alone = Deskewer(geometry, **how)
    run(alone, stack, lasting=False)
    volume = alone.volume
    # The other way round it is the same volume.
    turned = geometry.model_copy(update={"scan_direction": -geometry.scan_direction})
    back = Deskewer(turned, **how, pool=pool)
    run(back, stack[::-1])
    np.testing.assert_array_equal(back.volume, volume)

    whole = data.draw(st.booleans(), "whole")
    deskewer = Deskewer(geometry, **how, whole=whole, project=True, pool=pool)
    slabs = run(deskewer, stack, lasting=data.draw(st.booleans(), "lasting"))
    n_y = volume.shape[1]
    firsts = list(range(0, n_y, 32))[:: geometry.scan_direction]
    assert [slab.first_row for slab in slabs] == firsts
    for pixels, first in slabs:
        np.testing.assert_array_equal(pixels, volume[:, first : first + 32])
    for axis, projection in enumerate(deskewer.projections):
        np.testing.assert_array_equal(projection, volume.max(axis=axis))

    first_row = data.draw(st.integers(0, n_y - 1), "first_row")
    n_rows = data.draw(st.integers(1, n_y - first_row), "n_rows")
    rows = {"first_row": first_row, "n_rows": n_rows}
    part = Deskewer(geometry, **how, **rows, pool=pool)
    slabs = run(part, stack)
    rows_of_it = volume[:, first_row : first_row + n_rows]
    np.testing.assert_array_equal(part.volume, rows_of_it)
    if len(part.planes):
        assert sum(slab.pixels.shape[1] for slab in slabs) == n_rows
        assert min(slab.first_row for slab in slabs) == first_row


NARROW = Geometry(
    angle_deg=35,
    step_um=0.5,
    pixel_size_um=0.2,
    n_planes=90,
    n_rows=24,
    n_columns=3,
)


@settings(max_examples=30, deadline=None)
@given(scan=scans())
@example(scan=(NARROW, {}))
@example(scan=(NARROW.model_copy(update={"scan_direction": -1}), {"z_bin": 3}))
def test_taps_block_by_block_are_the_same(scan) -> None:
    """A long scan's table is never there as a whole."""
    geometry, how = scan
    expected = Deskewer(geometry, **how)
    run(expected, noise(2, geometry))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(taps, "KEPT_BYTES", 0)
        patch.setattr(taps, "BLOCK_ROWS", 50)
        patch.setattr("opm_engine.processing.sampling.Sampling.slab_bytes", 0)
        patch.setattr(taps, "make_taps", None)
        deskewer = Deskewer(geometry, **how, pool=Dirty(), whole=False)
        assert not taps.is_kept(deskewer.sampling)
        for pixels, first in run(deskewer, noise(2, geometry)):
            rows = expected.volume[:, first : first + 32]
            np.testing.assert_array_equal(pixels, rows)


def test_long_scans_do_not_keep_their_table() -> None:
    sampling = Deskewer(NARROW).sampling
    assert taps.is_kept(sampling)
    long = NARROW.model_copy(update={"n_planes": 100_000})
    sampling = Deskewer(long, whole=False).sampling
    assert not taps.is_kept(sampling)
    assert taps.table_bytes(sampling) < 1e6


@pytest.mark.parametrize("direction", [1, -1])
def test_a_slab_comes_with_the_plane_that_completes_it(direction: int) -> None:
    geometry = NARROW.model_copy(update={"scan_direction": direction})
    n_y = geometry.volume_shape()[1]
    deskewer = Deskewer(geometry, whole=False)
    came = {}
    for number, plane in enumerate(noise(3, geometry)):
        for pixels, first in deskewer.add(plane):
            came[first, first + pixels.shape[1]] = number
    # The sheet leans over so far along Y from the lowest to the highest row.
    lean_um = (geometry.volume_shape()[0] - 1) * 0.2 / math.tan(math.radians(35))
    for (first, stop), number in came.items():
        last = math.floor((stop - 1) * 0.2 / 0.5) + 1
        if direction < 0:
            last = 89 - math.floor((first * 0.2 - lean_um) / 0.5)
        assert number == min(last, 89)
    assert len(came) == math.ceil(n_y / 32) > 4


def test_memory_is_a_window_and_what_was_given_away_stays() -> None:
    geometry = NARROW.model_copy(update={"n_planes": 1500, "n_columns": 40})
    stack = noise(4, geometry)
    pool = Dirty()
    deskewer = Deskewer(geometry, whole=False, pool=pool)
    n_bytes = 0
    for plane in stack:
        for slab in deskewer.add(plane, lasting=True):
            n_bytes += slab.pixels.nbytes
        slab = None
    sampling = deskewer.sampling
    assert n_bytes == math.prod(sampling.shape) * 2
    assert pool.out_bytes == 0
    window_bytes = sampling.n_open_slabs * sampling.slab_bytes
    assert pool.most_bytes <= window_bytes < n_bytes / 20
    # A second volume from the same memory leaves the slabs of the first alone.
    kept, seen = [], []
    for _ in range(2):
        deskewer = Deskewer(geometry, whole=False, pool=pool)
        for plane in stack[: len(stack) // 2]:
            for slab in deskewer.add(plane, lasting=True):
                if len(kept) < 30:
                    kept.append(slab)
                    seen.append(slab.pixels.copy())
    for slab, before in zip(kept, seen, strict=True):
        np.testing.assert_array_equal(slab.pixels, before)
        with pytest.raises(ValueError, match="read-only"):
            slab.pixels[:] = 0


def test_planes_that_last_are_not_copied() -> None:
    deskewer = Deskewer(NARROW)
    plane = noise(5, NARROW)[0]
    plane.flags.writeable = False
    deskewer.add(plane, lasting=True)
    assert np.shares_memory(deskewer._ring.get(0), plane)
    flipped = NARROW.model_copy(update={"flip_columns": True})
    deskewer = Deskewer(flipped)
    deskewer.add(plane, lasting=True)
    assert not np.shares_memory(deskewer._ring.get(0), plane)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"first_row": -1}, "first_row and n_rows"),
        ({"first_row": 10_000}, "first_row and n_rows"),
        ({"n_rows": 0}, "first_row and n_rows"),
        ({"first_row": 5, "n_rows": 10_000}, "first_row and n_rows"),
    ],
    ids=str,
)
def test_rows_outside_the_volume_are_refused(rows, message) -> None:
    with pytest.raises(ValueError, match=message):
        Deskewer(NARROW, **rows)


def test_a_part_needs_few_planes() -> None:
    part = Deskewer(NARROW, first_row=100, n_rows=20)
    assert 10 < len(part.planes) < 30
    back = Deskewer(
        NARROW.model_copy(update={"scan_direction": -1}), first_row=100, n_rows=20
    )
    assert back.planes == range(90 - part.planes.stop, 90 - part.planes.start)
