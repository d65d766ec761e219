"""The specimen and its optics: beads where they should be, truth as planes see it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import useq
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from opm_engine import open_microscope
from opm_engine.simulation.specimen import Optics, Specimen
from opm_engine.simulation.structures import ARMS_UM

PX = 0.115


def bead(
    row: float, column: float, offset_um: float, optics: Optics
) -> tuple[float, float, float]:
    """Field coordinates (z, y, x) of a pixel, written out from the definition."""
    theta = math.radians(optics.angle_deg)
    along_um = row * optics.pixel_size_um
    return (
        along_um * math.sin(theta),
        offset_um + along_um * math.cos(theta),
        column * optics.pixel_size_um,
    )


def centroid(image: np.ndarray) -> tuple[float, float]:
    rows, columns = np.indices(image.shape)
    total = image.sum()
    return float((image * rows).sum() / total), float((image * columns).sum() / total)


@settings(deadline=None)  # the first example compiles
@given(
    row=st.floats(12, 50),
    column=st.floats(12, 70),
    offset_um=st.floats(-20, 20),
    stage_um=st.tuples(*[st.floats(-50, 50)] * 3),
    angle_deg=st.floats(15, 75),
)
def test_bead_renders_where_it_lies(
    row: float,
    column: float,
    offset_um: float,
    stage_um: tuple[float, float, float],
    angle_deg: float,
) -> None:
    optics = Optics(angle_deg, PX)
    z_um, y_um, x_um = bead(row, column, offset_um, optics)
    x0, y0, z0 = stage_um
    specimen = Specimen([(z0 + z_um, y0 + y_um, x0 + x_um)], [[100.0]], optics)

    image = specimen.plane(offset_um, 0, stage_um, (64, 80))

    assert image.dtype == np.float32
    assert centroid(image) == pytest.approx((row, column), abs=0.1)


@pytest.mark.parametrize("away_um", [0.0, 0.3, 1.0, -1.0, 1.9])
def test_brightness_falls_with_the_distance_from_the_sheet(away_um: float) -> None:
    optics = Optics(30, PX, sheet_sigma_um=0.5)
    specimen = Specimen([bead(45, 20, 0, optics)], [[100.0]], optics)
    # Moving the sheet by d along the coverslip moves it by d sin(angle) normal to it,
    # and the bead by -d cos(angle) along it.
    offset_um = away_um / math.sin(math.radians(30))
    image = specimen.plane(offset_um, 0, (0, 0, 0), (90, 40))
    dark = specimen.plane(offset_um, 0, (500, 0, 0), (90, 40))

    whole = 100 * 2 * math.pi * (optics.detection_sigma_um / PX) ** 2
    expected = whole * math.exp(-0.5 * (away_um / 0.5) ** 2)
    assert image.sum() == pytest.approx(expected, rel=2e-3)
    assert not dark.any()


@pytest.mark.parametrize(
    ("angle_deg", "stage_um"),
    [
        pytest.param(30, (0, 0, 0), id="30 degrees"),
        pytest.param(45, (3, -2, 0), id="45 degrees, stage moved"),
        pytest.param(55, (0, 1, 2.5), id="55 degrees, focus moved"),
    ],
)
def test_truth_along_the_sheet_is_the_plane(
    angle_deg: float, stage_um: tuple[float, float, float]
) -> None:
    optics = Optics(angle_deg, PX)
    rng = np.random.default_rng(0)
    specimen = Specimen(
        rng.uniform(-2, 9, (4000, 3)), rng.uniform(0, 9, (4000, 2)), optics
    )
    theta = math.radians(angle_deg)
    # On this grid every pixel of every k-th plane is a voxel.
    voxel_um = (PX * math.sin(theta), PX * math.cos(theta), PX)
    n_rows, n_columns = 40, 48
    x_um, y_um, z_um = stage_um
    for laser in (0, 1):
        volume = specimen.truth(
            (n_rows, 90, n_columns), voxel_um, (z_um, y_um, x_um), laser
        )
        for k in (0, 7, 50):
            plane = specimen.plane(
                k * voxel_um[1], laser, stage_um, (n_rows, n_columns)
            )
            rows = np.arange(n_rows)
            assert plane.max() > 1
            # Points at the very reach of the Gaussian may round in or out.
            assert volume[rows, rows + k] == pytest.approx(plane, abs=0.02)


def test_demo_is_reproducible_and_differs_between_lasers_and_places() -> None:
    def planes(seed: int) -> np.ndarray:
        specimen = Specimen.demo(2, seed)
        places = [(0, 0, 0), (60, 40, 0)]
        return np.array(
            [
                [specimen.plane(20, laser, place, (64, 512)) for place in places]
                for laser in (0, 1)
            ]
        )

    first = planes(1)
    assert np.array_equal(first, planes(1))
    assert not np.array_equal(first, planes(2))
    flat = first.reshape(4, -1)
    assert (flat.max(axis=1) > 50).all()
    alike = np.corrcoef(flat)
    assert 0.1 < alike[0, 2] < 0.95, "the lasers share some structures, not all"
    assert abs(alike[0, 1]) < 0.1, "another position shows something else"


@pytest.mark.slow
def test_the_pattern_is_where_it_should_be(tmp_path: Path) -> None:
    """Beads of the lattice, and the arms of one, in the deskewed volume."""
    sequence = useq.MDASequence(
        channels=[{"config": "488", "exposure": 5}],
        z_plan={"range": 24, "step": 0.4},
    )
    with open_microscope("pattern") as scope:
        scope.acquire(sequence, tmp_path)
    image = zarr.open_group(tmp_path / "deskewed.ome.zarr", mode="r")
    volume = np.asarray(image["0"][0, 0])  # type: ignore[index]

    def counts(z_um: float, y_um: float, x_um: float) -> float:
        z, y, x = (round(um / PX) for um in (z_um, y_um + 12, x_um))
        return float(volume[z - 2 : z + 3, y - 2 : y + 3, x - 2 : x + 3].max())

    for z_um, y_um, x_um in itertools.product((5, 10), (10,), (10, 20, 30, 50)):
        between = counts(z_um, y_um, x_um + 5)
        assert counts(z_um, y_um, x_um) > 2 * between > 100, (z_um, y_um, x_um)
    at = np.array([5.0, 0.0, 40.0])
    for axis, length_um in zip(np.eye(3), ARMS_UM, strict=True):
        outside = at + (length_um + 1.5) * axis
        assert counts(*(at + (length_um - 0.7) * axis)) > 1.5 * counts(*outside)
