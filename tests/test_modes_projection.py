"""Projection: one frame shows the scan range, as seen along the coverslip's normal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

import opm_engine.engine
from opm_engine import Deskew, OMEZarrWriter, Scope, ThreadRelay
from opm_engine.daq.waveforms import burst_waveform
from opm_engine.plan import BLOCK
from opm_engine.simulation.specimen import Optics, Specimen
from scales import FAST
from sequences import scan, settings
from twins import OFFSET_COUNTS, Collect, opened, read

PX, COS = 0.115, np.cos(np.pi / 6)
COLUMNS, ROWS = 96, 208
SECOND_GALVO = {
    "channel": "ao1",
    "volts_per_um": -0.04,
    "offset_v": 0.3,
    "range_v": [-5, 5],
    "slew_v_per_ms": 10.0,
    "settle_ms": 0.2,
    "shear_ratio": float(1 / COS),
}
BEADS_UM = np.array([[3.0, 12.0, 3.0], [5.0, 15.5, 6.0], [1.0, 7.0, 8.5]])
"""(z, y, x); scan offsets Y - Z / tan(angle) from 5 to 7 µm."""

RANGE_UM, CENTRE_UM = 14.0, 6.0
"""3 sigma of the sheet beyond each bead."""

PROJECTION = scan(
    z_plan=None,
    metadata=settings(mode="projection", range_um=RANGE_UM, offset_um=CENTRE_UM),
)
WITHIN_PX = 0.2
"""Of 250 samples each moves the image by 14 * 1.15 / 250 = 0.065 µm, 0.56 pixels."""


@pytest.fixture(scope="module")
def scope() -> Iterator[Scope]:
    beads = Specimen(BEADS_UM, np.tile([6000.0, 12000.0], (3, 1)), Optics())
    changes = {"daq__projection": SECOND_GALVO, "camera__roi": [0, 0, COLUMNS, ROWS]}
    with opened(beads, **FAST, **changes) as scope:
        yield scope


def project(scope: Scope) -> tuple[Collect, list[np.ndarray]]:
    """Run it; also the images as counts of light, (rows, columns) float64."""
    collect = Collect()
    relay = ThreadRelay(collect)
    with relay.connected(scope.core.mda):
        scope.core.mda.run(PROJECTION)
    return collect, [image.astype(float) - OFFSET_COUNTS for image in collect.images]


def assert_projected(image: np.ndarray) -> None:
    """Each bead is a spot at row Y / (px cos), column X / px, wherever it is in Z."""
    rows, columns = np.indices(image.shape)
    for _, y_um, x_um in BEADS_UM:
        row, column = y_um / (PX * COS), x_um / PX
        near = np.hypot(rows - row, columns - column) < 11
        light = image[near].sum()
        assert light > 0.2 * image.sum()
        for axis, wanted in ((rows, row), (columns, column)):
            assert (image * axis)[near].sum() / light == pytest.approx(
                wanted, abs=WITHIN_PX
            )


def test_the_image_is_the_projected_specimen(scope: Scope) -> None:
    collect, images = project(scope)
    assert [dict(event.index) for event in collect.events] == [{"c": 0}, {"c": 1}]
    block = collect.summary["extra"][BLOCK]
    y_um, x_um = block["projected_pixel_um"]
    assert (y_um, x_um) == (pytest.approx(PX * COS), PX)
    assert block["stream"]["scale_um"] == [1.0, y_um, x_um]
    specimen = scope.twin.specimen
    for c, image in enumerate(images):
        assert_projected(image)
        truth = specimen.truth((60, ROWS, COLUMNS), (0.15, y_um, x_um), (0, 0, 0), c)
        assert np.corrcoef(image.ravel(), truth.sum(axis=0).ravel())[0, 1] > 0.98
    assert images[1].sum() == pytest.approx(2 * images[0].sum(), rel=0.01)


def late(waveform):
    """The second galvo two samples behind the first: 1 pixel."""
    analog = np.stack([waveform.analog[0], np.roll(waveform.analog[1], 2)])
    return replace(waveform, analog=analog)


def early(waveform):
    analog = np.stack([waveform.analog[0], np.roll(waveform.analog[1], -2)])
    return replace(waveform, analog=analog)


def sign(waveform):
    """The second galvo the wrong way."""
    return replace(
        waveform, analog=np.stack([waveform.analog[0], 0.6 - waveform.analog[1]])
    )


@pytest.mark.parametrize("fault", [late, early, sign])
def test_a_fault_is_seen(fault, scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        opm_engine.engine, "burst_waveform", lambda *args: fault(burst_waveform(*args))
    )
    _, (image, _) = project(scope)
    with pytest.raises(AssertionError):
        assert_projected(image)


def test_both_galvos_are_parked_afterwards(scope: Scope) -> None:
    project(scope)
    board = scope.twin.board
    assert (board.volts("ao0"), board.volts("ao1")) == (0.0, 0.0)


def test_deskew_refuses_before_there_is_a_store(scope: Scope, tmp_path: Path) -> None:
    relay = ThreadRelay(
        OMEZarrWriter(tmp_path / "raw.ome.zarr"),
        Deskew(outputs=[OMEZarrWriter(tmp_path / "deskewed.ome.zarr")]),
    )
    rises = scope.twin.board.rises("PFI0")
    with (
        pytest.raises(ValueError, match='Deskew cannot take mode "projection"'),
        relay.connected(scope.core.mda),
    ):
        scope.core.mda.run(PROJECTION)
    assert list(tmp_path.iterdir()) == []
    assert scope.twin.board.rises("PFI0") == rises


def test_an_acquisition_leaves_the_deskew_out(scope: Scope, tmp_path: Path) -> None:
    scope.acquire(PROJECTION, tmp_path)
    assert not (tmp_path / "deskewed.ome.zarr").exists()
    raw = tmp_path / "raw.ome.zarr"
    planes = read(raw)
    assert planes.shape == (1, 2, 1, ROWS, COLUMNS)
    for image in planes[0, :, 0]:
        assert_projected(image.astype(float) - OFFSET_COUNTS)
    multiscale = zarr.open_group(raw, mode="r").attrs["ome"]["multiscales"][0]
    scale = multiscale["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert scale[-2:] == [pytest.approx(PX * COS), PX]
