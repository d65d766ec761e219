"""Makes of camera, two of them behind one device, and inputs recorded beside frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from opm_engine import Deskew, OMEZarrWriter, Scope, ThreadRelay
from opm_engine.config import ConfigError
from opm_engine.config.profiles import PROFILES
from opm_engine.demo import ncc, valid_voxels
from opm_engine.plan import plan_scan
from opm_engine.properties import InstrumentError
from opm_engine.writers.reading import read_inputs
from scales import (
    FAST,
    RISE_MS,
    STAGE,
    Scale,
    assert_dark_between,
    assert_lit_alone,
    scaled,
    show,
    window_ms,
)
from sequences import scan, settings
from test_engine import assert_dark
from twins import OFFSET_COUNTS, Collect, microscope, opened, read

LIGHT_MS = window_ms(5.0) - RISE_MS

# ------------------------------------------------------------------------ makes

STARTABLE = [make for make, profile in PROFILES.items() if profile.start]


def made_by(make: str, **changes: object) -> dict[str, object]:
    return {"camera__profile": make, "camera__properties": {}, **changes}


@pytest.mark.parametrize("make", PROFILES)
def test_every_make_scans(make: str) -> None:
    with scaled(**made_by(make)) as scope:
        shown = show(scope, scan(time_plan={"interval": 0, "loops": 2}))
        assert_lit_alone(shown, LIGHT_MS)
        assert_dark_between(shown, 1)
        wanted_um = 0.5 * shown.index["z"] - 1
        np.testing.assert_allclose(shown.y_um, wanted_um, atol=0.005)


@pytest.mark.parametrize("make", STARTABLE)
def test_the_stage_starts_it(make: str) -> None:
    with scaled(**made_by(make, scan_stage=STAGE)) as scope:
        shown = show(scope, scan(metadata=settings(mode="stage")))
        assert_lit_alone(shown, LIGHT_MS)
        wanted_um = 0.5 * (shown.index["z"] + shown.index["c"] / 2) - 1
        np.testing.assert_allclose(shown.y_um, wanted_um, atol=0.005)
        # and runs free again
        assert_lit_alone(show(scope, scan()), LIGHT_MS)


@pytest.mark.parametrize("make", sorted(set(PROFILES) - set(STARTABLE)))
def test_a_make_that_no_pulse_starts(make: str) -> None:
    collect = Collect()
    with scaled(**made_by(make, scan_stage=STAGE)) as scope:
        relay = ThreadRelay(collect)
        with (
            pytest.raises(
                ConfigError, match=rf"camera\.start_trigger: profile '{make}'"
            ),
            relay.connected(scope.core.mda),
        ):
            scope.core.mda.run(scan(metadata=settings(mode="stage")))
        assert scope.core.getXYPosition() == (0, 0)
        assert not scope.twin.board.rises("PFI0")
    assert not collect.started


LACKING = {
    "profile": (
        {"camera__profile": "pvcam"},
        scan(),
        r'camera\.profile = "pvcam": "TriggerMode": Camera has no such property; it',
    ),
    "properties": (
        {"camera__properties": {"TriggerSource": "Internal", "Gamma": 2}},
        scan(),
        r'camera\.properties\["Gamma"\]: Camera has no such property; it has',
    ),
    "start trigger": (
        {"scan_stage": STAGE, "camera__start_trigger": {"Begin": "Pulse"}},
        scan(metadata=settings(mode="stage")),
        r'camera\.start_trigger\["Begin"\]: Camera has no such property; it has',
    ),
}


@pytest.mark.parametrize("name", LACKING)
def test_a_property_that_the_loaded_camera_lacks(name: str) -> None:
    """It is refused before anything is set, moved or announced."""
    changes, sequence, says = LACKING[name]
    collect = Collect()
    with scaled(camera__profile="demo", scan_stage=STAGE) as scope:
        scope.engine.microscope = microscope(
            **{"camera__profile": "demo", "scan_stage": STAGE, **changes}
        )
        scope.core.setProperty("Camera", "TriggerSource", "External")
        rises = scope.twin.board.rises("PFI0")
        relay = ThreadRelay(collect)
        with (
            pytest.raises(InstrumentError, match=says),
            relay.connected(scope.core.mda),
        ):
            scope.core.mda.run(sequence.replace(stage_positions=[(5, 5)]))
        if name != "start trigger":
            assert scope.core.getProperty("Camera", "TriggerSource") == "External"
        assert scope.core.getXYPosition() == (0, 0)
        assert scope.twin.board.rises("PFI0") == rises
    assert not collect.started


# ------------------------------------------------------------------ two cameras

TWO = {
    "camera__label": "Multi",
    "camera__sensors": ["CamA", "CamB"],
    "camera__profile": "demo",
}


def assert_both_cameras(images: np.ndarray) -> None:
    """(..., channel * 2 + camera, Z, S, X): the second one gets half of the light."""
    light_ms, y_um = Scale.read(images)
    lasers = np.eye(2)[[0, 0, 1, 1]] * np.array([[1], [0.5], [1], [0.5]])
    wanted_ms = np.broadcast_to(lasers[:, np.newaxis] * LIGHT_MS, light_ms.shape)
    np.testing.assert_allclose(light_ms, wanted_ms, atol=2e-3)
    wanted_um = np.broadcast_to(0.5 * np.arange(5) - 1, y_um.shape)
    np.testing.assert_allclose(y_um, wanted_um, atol=0.005)


@pytest.mark.parametrize("order", ["tpzc", "tpcz"], ids=["interleaved", "sequential"])
def test_both_cameras_are_on_disk(order: str, tmp_path: Path) -> None:
    sequence = scan(time_plan={"interval": 0, "loops": 2}, axis_order=order)
    with scaled(**TWO) as scope:
        shown = show(scope, sequence, tmp_path / "raw.ome.zarr")
        accounts = scope.engine.accounts
        assert accounts.asked == accounts.popped == accounts.counted
        assert_dark(scope)
    cameras = [event.index["cam"] for event in shown.collect.events]
    assert cameras == [0, 1] * 20
    names = [channel["name"] for channel in shown.block["stream"]["channels"]]
    assert names == ["488 CamA", "488 CamB", "561 CamA", "561 CamB"]
    stored = read(tmp_path / "raw.ome.zarr")
    assert stored.shape == (2, 4, 5, 208, 32)
    assert_both_cameras(stored)
    with pytest.raises(AssertionError):
        assert_both_cameras(stored[:, [1, 0, 3, 2]])


def test_both_cameras_are_deskewed(tmp_path: Path) -> None:
    sequence = scan(z_plan={"range": 12, "step": 0.4})
    relay = ThreadRelay(Deskew(outputs=[OMEZarrWriter(tmp_path / "d.ome.zarr")]))
    with opened(camera__roi=[0, 0, 64, 208], **TWO) as scope:
        with relay.connected(scope.core.mda):
            scope.core.mda.run(sequence)
        geometry = plan_scan(sequence, scope.microscope).geometry
        px, where = geometry.pixel_size_um, valid_voxels(geometry)
        origin_um = (0, geometry.origin_um, 0)
        specimen = scope.twin.specimen
    volumes = read(tmp_path / "d.ome.zarr")[0]
    assert len(volumes) == 4
    for c in range(2):
        truth = specimen.truth(geometry.volume_shape(), (px,) * 3, origin_um, c)
        for volume in volumes[2 * c : 2 * c + 2]:
            assert ncc(volume, truth, where) >= 0.95


def test_a_snap_of_two_cameras() -> None:
    with scaled(**TWO) as scope:
        images = scope.snap(["561"], exposure_ms=5.0, offset_um=1.0)["561"]
    assert images.shape == (2, 208, 32)
    light_ms, y_um = Scale.read(images)
    np.testing.assert_allclose(light_ms[:, 1], [LIGHT_MS, LIGHT_MS / 2], atol=2e-3)
    np.testing.assert_allclose(y_um, 1.0, atol=0.002)


def test_the_buffer_holds_the_frames_of_both() -> None:
    sequence = scan(time_plan={"interval": 0, "loops": 100})
    capacity = []
    with scaled(**TWO) as scope:
        core = scope.core
        core.setCircularBufferMemoryFootprint(1)

        def look(image, event, meta):
            capacity.append(core.getBufferTotalCapacity())
            core.mda.cancel()

        core.mda.events.frameReady.connect(look)
        core.mda.run(sequence)
    assert capacity[0] >= 2 * 3000 / 5


# ----------------------------------------------------------------------- inputs

RECORD = [
    {"name": "galvo", "channel": "ai0"},
    {"name": "clock", "channel": "ai5"},
]


@pytest.fixture(scope="module")
def recording() -> Iterator[Scope]:
    """ai0 sees ao0; ai5 the board's time, a volt for ten seconds."""
    with scaled(daq__record=RECORD, **FAST) as scope:
        scope.twin.board.inputs["ai5"] = lambda time_s: time_s / 10 % 10
        yield scope


@pytest.mark.parametrize("wishes", [{}, {"motion": "ramp"}], ids=["K=2", "K>2"])
@pytest.mark.parametrize("order", ["tpzc", "tpcz"], ids=["interleaved", "sequential"])
def test_a_row_of_inputs_for_each_frame(
    wishes, order: str, recording: Scope, tmp_path: Path
) -> None:
    sequence = scan(
        time_plan={"interval": 0, "loops": 3},
        axis_order=order,
        metadata=settings(**wishes),
    )
    began_s = recording.twin.clock.now()
    shown = show(recording, sequence, tmp_path / "raw.ome.zarr")
    inputs = read_inputs(tmp_path / "raw.ome.zarr")
    assert inputs.names == ("galvo", "clock")
    assert inputs.volts.shape == (30, 2)
    # the galvo stood where the pixels of the same frame say, within half a stair
    galvo_um = inputs.volts[:, 0] / recording.microscope.daq.galvo.volts_per_um
    np.testing.assert_allclose(galvo_um, shown.y_um, atol=0.02)
    # and the row was taken in the very exposure that made the frame
    now_s = recording.twin.clock.now()
    changes_s, levels = recording.twin.board.digital_trace("PFI0", began_s, now_s)
    rises_s, falls_s = changes_s[1:][levels[1:]], changes_s[1:][~levels[1:]]
    lit = np.flatnonzero([(image != OFFSET_COUNTS).any() for image in shown.every])
    taken_s = inputs.volts[:, 1] * 10
    assert (rises_s[lit] % 100 < taken_s).all()
    assert (taken_s < falls_s[lit] % 100 + 1e-6).all()


def test_a_cancelled_run_keeps_the_inputs_of_its_frames(
    recording: Scope, tmp_path: Path
) -> None:
    core = recording.core
    collect = Collect()
    relay = ThreadRelay(collect, OMEZarrWriter(tmp_path / "raw.ome.zarr"))

    def cancel(image, event, meta):
        if len(collect.images) > 40:
            core.mda.cancel()

    core.mda.events.frameReady.connect(cancel)
    try:
        with relay.connected(core.mda):
            core.mda.run(scan(time_plan={"interval": 0, "loops": 100}))
    finally:
        core.mda.events.frameReady.disconnect(cancel)
    volts = read_inputs(tmp_path / "raw.ome.zarr").volts[:, 0]
    n_known = np.isfinite(volts).sum()
    assert n_known >= len(collect.images) > 40
    assert np.isnan(volts[n_known:]).all()
    _, y_um = Scale.read(np.stack(collect.images))
    # the last ones may have been exposed while light was being switched off
    lit = np.isfinite(y_um)
    assert lit[:40].all()
    np.testing.assert_allclose(volts[: len(y_um)][lit] / 0.05, y_um[lit], atol=0.005)
