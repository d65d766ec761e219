"""From a sequence to voxels on disk, on the simulated microscope.

What the specimen sends is decoded from the stored pixels with readers that are not
ours. The same decoding is run with a waveform that is wrong on purpose, and must fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import useq
import yaozarrs

import opm_engine.engine
from oblique import reference
from opm_engine import Deskew, OMEZarrWriter, Scope, ThreadRelay
from opm_engine.daq.protocol import Waveform
from opm_engine.daq.waveforms import burst_waveform
from opm_engine.demo import ncc, valid_voxels
from opm_engine.plan import plan_scan
from sequences import scan
from twins import OFFSET_COUNTS, Ruler, microscope, opened, read

# 400 line times: the camera need not round it.
CHANNELS = [{"config": name, "exposure": 1.9472} for name in ("488", "561")]
LIGHT_MS = 1.9472 - 207 * 4.868e-3 - 0.01
"""From the last row's start to the first row's end, less the laser's rise."""

EXAMPLE = scan(
    channels=CHANNELS,
    z_plan={"range": 8, "step": 0.4},
    time_plan={"interval": 0, "loops": 2},
)


def acquire(scope: Scope, folder: Path, sequence: useq.MDASequence) -> None:
    """The README's example."""
    relay = ThreadRelay(
        OMEZarrWriter(folder / "raw.ome.zarr"),
        Deskew(outputs=[OMEZarrWriter(folder / "deskewed.ome.zarr")]),
    )
    with relay.connected(scope.core.mda):
        scope.core.mda.run(sequence)


def assert_planes_are_where_they_should_be(
    store: Path, sequence: useq.MDASequence, group: str = "0"
) -> None:
    plan = plan_scan(sequence, microscope())
    laser, offset_um = Ruler.read(read(store, group), LIGHT_MS)
    lasers = {"488": 0, "561": 1}
    for c, channel in enumerate(plan.channels):
        assert (laser[:, c] == lasers[channel.name]).all()
    wanted_um = [plan.offset_um(z) for z in range(plan.geometry.n_planes)]
    wanted_um = np.broadcast_to(wanted_um, offset_um.shape)
    np.testing.assert_allclose(offset_um, wanted_um, atol=0.005)


ORDERS = {
    "interleaved": scan(channels=CHANNELS),
    "gapless": EXAMPLE,
    "sequential": EXAMPLE.replace(axis_order="tpcz"),
    "downwards": scan(
        channels=CHANNELS, z_plan={"range": 4, "step": 0.4, "go_up": False}
    ),
    "one-channel": scan(channels=CHANNELS[1:]),
}


@pytest.mark.parametrize("name", ORDERS)
def test_every_raw_plane_is_what_was_lit(name: str, tmp_path: Path) -> None:
    with opened(Ruler()) as scope:
        acquire(scope, tmp_path, ORDERS[name])
        assert not any(scope.twin.board.line(f"port0/line{n}") for n in range(4))
        assert scope.twin.board.volts("ao0") == 0
    assert_planes_are_where_they_should_be(tmp_path / "raw.ome.zarr", ORDERS[name])


def test_positions_are_images_of_their_own(tmp_path: Path) -> None:
    sequence = scan(
        channels=CHANNELS,
        stage_positions=[(0, 0), (60, 40)],
        time_plan={"interval": 0, "loops": 2},
        axis_order="ptzc",
    )
    ruler = Ruler()
    with opened(ruler) as scope:
        acquire(scope, tmp_path, sequence)
        assert scope.core.getXYPosition() == (0, 0), "the stage was not brought back"
    assert ruler.origins_um == {(0, 0, 0), (60, 40, 0)}
    for group in ("0/0", "1/0"):
        assert_planes_are_where_they_should_be(
            tmp_path / "raw.ome.zarr", sequence, group
        )
    assert read(tmp_path / "deskewed.ome.zarr", "1/0").any()


def test_planes_are_the_specimens(tmp_path: Path) -> None:
    """Without noise each pixel is the specimen's, to the last digit."""
    with opened(camera__roi=[0, 0, 96, 208]) as scope:
        acquire(scope, tmp_path, EXAMPLE)
        specimen, plan = scope.twin.specimen, plan_scan(EXAMPLE, scope.microscope)
    raw = read(tmp_path / "raw.ome.zarr").astype(float)
    for c, z in np.ndindex(2, plan.geometry.n_planes):
        plane = specimen.plane(plan.offset_um(z), c, (0, 0, 0), (208, 96))
        wanted = OFFSET_COUNTS + LIGHT_MS * plane
        np.testing.assert_allclose(raw[0, c, z], wanted, rtol=1e-3, atol=1.0)


def test_volumes_match_formula_and_truth(tmp_path: Path) -> None:
    sequence = scan(
        z_plan={"range": 20, "step": 0.4}, time_plan={"interval": 0, "loops": 2}
    )
    with opened(camera__roi=[0, 0, 96, 208], simulation__noise=True) as scope:
        acquire(scope, tmp_path, sequence)
        specimen, plan = scope.twin.specimen, plan_scan(sequence, scope.microscope)
    raw = read(tmp_path / "raw.ome.zarr")
    deskewed = read(tmp_path / "deskewed.ome.zarr")
    geometry = plan.geometry
    px = geometry.pixel_size_um
    where = valid_voxels(geometry)
    for t, c in np.ndindex(2, 2):
        by_formula, _ = reference(raw[t, c], 30, 0.4, px, (px, px))
        assert np.abs(deskewed[t, c] - by_formula).max() <= 0.51
        truth = specimen.truth(
            geometry.volume_shape(), (px,) * 3, (0, geometry.origin_um, 0), c
        )
        assert ncc(deskewed[t, c], truth, where) >= 0.95
    for store in ("raw.ome.zarr", "deskewed.ome.zarr"):
        yaozarrs.validate_zarr_store(str(tmp_path / store))


def one_edge_early(waveform: Waveform) -> Waveform:
    return replace(waveform, analog=np.roll(waveform.analog, -1, axis=1))


def one_edge_late(waveform: Waveform) -> Waveform:
    return replace(waveform, analog=np.roll(waveform.analog, 1, axis=1))


def lasers_swapped(waveform: Waveform) -> Waveform:
    swapped = np.array([0, 2, 1, 3], np.uint32)
    return replace(waveform, digital=swapped[waveform.digital])


def blanking_inverted(waveform: Waveform) -> Waveform:
    return replace(waveform, digital=np.roll(waveform.digital, 1))


def galvo_reversed(waveform: Waveform) -> Waveform:
    return replace(waveform, analog=-waveform.analog, initial_v=-waveform.initial_v)


@pytest.mark.parametrize(
    "fault",
    [one_edge_early, one_edge_late, lasers_swapped, blanking_inverted, galvo_reversed],
)
def test_a_wrong_waveform_is_seen(
    fault: Callable[[Waveform], Waveform],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        opm_engine.engine,
        "burst_waveform",
        lambda *args: fault(burst_waveform(*args)),
    )
    with opened(Ruler()) as scope:
        acquire(scope, tmp_path, EXAMPLE)
    with pytest.raises(AssertionError):
        assert_planes_are_where_they_should_be(tmp_path / "raw.ome.zarr", EXAMPLE)
