"""Stage scans: where planes lie, what the controller was told, how they end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import useq

from opm_engine import Deskew, OMEZarrWriter, PlanError, Scope, ThreadRelay
from opm_engine.demo import ncc, valid_voxels
from opm_engine.geometry import Geometry
from opm_engine.plan import BLOCK
from opm_engine.properties import InstrumentError
from opm_engine.simulation.specimen import Optics, Specimen
from scales import (
    LINE_MS,
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
from twins import Collect, opened, read

EXPOSURE_MS = 5.0
PERIOD_MS = round(EXPOSURE_MS / LINE_MS) * LINE_MS
STEP_UM, N_PLANES, N_LEAD = 0.5, 9, 4
"""20 ms to gain speed are four frames."""

HOME_UM = (3.0, 2.0)
WITHIN_UM = 0.002
"""Half a line time at 50 µm/s is 0.0001 µm, rounding of counts 0.0005 µm; the planned
step, other than the actual one, would miss the last plane by 0.0005 µm more each."""

SPEED, LOWER, UPPER, STATE = (
    ("XY", name)
    for name in (
        "MotorSpeedY-S(mm/s)",
        "LowerLimY(mm)",
        "UpperLimY(mm)",
        "ScanState",
    )
)


def stage_microscope(**changes: Any) -> dict[str, Any]:
    return {"camera__profile": "demo", "scan_stage": {**STAGE, **changes}}


def stage_scan(**changes: Any) -> useq.MDASequence:
    fields = {
        "z_plan": {"range": STEP_UM * (N_PLANES - 1), "step": STEP_UM},
        "metadata": settings(mode="stage"),
        **changes,
    }
    return scan(**fields)


def numbers(scope: Scope, *where: tuple[str, str]) -> list[float]:
    return [float(scope.core.getProperty(*one)) for one in where]


@pytest.fixture(scope="module")
def scope() -> Iterator[Scope]:
    with scaled(**stage_microscope(margin_um=2.0)) as scope:
        scope.core.setXYPosition(*HOME_UM)
        scope.core.waitForSystem()
        yield scope


@pytest.fixture
def core(scope: Scope) -> Iterator[Any]:
    """After whatever happened the stage is where it was, with its own limits."""
    yield scope.core
    assert scope.core.getXYPosition() == pytest.approx(HOME_UM, abs=1e-3)
    assert numbers(scope, SPEED, LOWER, UPPER) == [5.0, -50.0, 50.0]
    assert scope.core.getProperty(*STATE) == "Idle"
    assert_dark(scope)


@pytest.mark.parametrize("scan_sign", [1, -1], ids="sign{}".format)
@pytest.mark.parametrize("go_up", [True, False], ids=["up", "down"])
def test_planes_lie_where_the_metadata_say(go_up: bool, scan_sign: int) -> None:
    z_plan = {"range": STEP_UM * (N_PLANES - 1), "step": STEP_UM, "go_up": go_up}
    with scaled(**stage_microscope(scan_sign=scan_sign)) as scope:
        scope.core.setXYPosition(*HOME_UM)
        scope.core.waitForSystem()
        shown = show(scope, stage_scan(z_plan=z_plan))
        assert scope.core.getXYPosition() == pytest.approx(HOME_UM, abs=1e-3)
    assert_lit_alone(shown, window_ms(EXPOSURE_MS) - RISE_MS)
    assert_dark_between(shown, N_LEAD)
    c, z = shown.index["c"], shown.index["z"]
    step_um = shown.block["step_um"]
    assert 0 < abs(step_um / STEP_UM - 1) < 1e-3  # what it is, not what was asked
    way = 1 if go_up else -1
    along_um = -way * STEP_UM * (N_PLANES - 1) / 2 + way * step_um * (z + c / 2)
    wanted_um = scan_sign * (HOME_UM[1] + along_um)
    np.testing.assert_allclose(shown.y_um, wanted_um, atol=WITHIN_UM)
    assert shown.block["stream"]["channel_offsets_um"] == [
        0,
        pytest.approx(step_um / 2),
    ]
    assert shown.block["scan_direction"] == way * scan_sign


def test_the_step_follows_from_the_speed_that_was_taken(scope: Scope, core) -> None:
    shown = show(scope, stage_scan())
    speed = shown.block["plan"]["stage"]["speed_um_per_s"]
    assert speed == 50.0  # of 50.0056 µm/s; it rounds to 0.1
    step_um = speed / 1000 * 2 * PERIOD_MS
    assert shown.block["step_um"] == pytest.approx(step_um, rel=1e-6)


def test_a_speed_that_is_not_nearly_taken(scope: Scope, core) -> None:
    slow = {"range": 0.01, "step": 0.0016}  # 0.16 µm/s, of which it makes 0.2
    with pytest.raises(PlanError, match=r"scan_stage: asked for 0\.16 µm/s"):
        core.mda.run(stage_scan(z_plan=slow))


def test_limits_stand_before_it_moves(scope: Scope, core) -> None:
    seen = []
    set_property = core.setProperty

    def look(device, name, value):
        if (device, name, value) == (*STATE, "Running"):
            seen.append(numbers(scope, LOWER, UPPER, SPEED))
        set_property(device, name, value)

    core.setProperty = look
    try:
        shown = show(scope, stage_scan())
    finally:
        del core.setProperty
    path = shown.block["plan"]["stage"]
    wanted_mm = [HOME_UM[1] + path["start_um"] - 2, HOME_UM[1] + path["stop_um"] + 2]
    wanted_mm = np.array([*wanted_mm, path["speed_um_per_s"]]) / 1e3
    assert seen == [pytest.approx(wanted_mm)]


def test_a_stage_that_runs_away_stops_at_its_limits(scope: Scope, core) -> None:
    stage, last = core.simulated_stage, []

    def wait_at_the_end(image, event, meta):
        if event.index["z"] == N_PLANES - 1 and event.index["c"] == 1:
            latest_s = time.monotonic() + 10
            while stage.busy() and time.monotonic() < latest_s:
                time.sleep(0.005)
            last.append(core.getYPosition())

    core.mda.events.frameReady.connect(wait_at_the_end)
    stage.runaway = True
    try:
        core.mda.run(stage_scan())
    finally:
        stage.runaway = False
        core.mda.events.frameReady.disconnect(wait_at_the_end)
    # 2 µm beyond the planned stop, which is a frame and the ramp after the last plane
    assert last == [pytest.approx(HOME_UM[1] + 3.15 + 2.0, abs=0.01)]


LONG = {"range": 100.0, "step": STEP_UM}


class Stop(Exception):
    pass


class Ends:
    """Ends a run at its fifth frame."""

    def __init__(self, end) -> None:
        self.left, self.end = 5, end

    def frameReady(self, image, event, meta):
        self.left -= 1
        if self.left == 0:
            self.end()


@pytest.mark.parametrize("how", ["cancel", "error"])
def test_it_is_halted(how: str, scope: Scope, core) -> None:
    """Two seconds of scan, ended after five frames: the stage does not go on."""
    stage = core.simulated_stage
    while_moving: list[str] = []

    def watched(name):
        method = getattr(stage, name)

        def call(*args, **kwargs):
            if stage.busy():
                while_moving.append(name)
            return method(*args, **kwargs)

        return call

    def fail():
        raise Stop

    relay = ThreadRelay(Ends(core.mda.cancel if how == "cancel" else fail))
    failing = pytest.raises(Stop) if how == "error" else nullcontext()
    names = "stop", "set_position_um"
    vars(stage).update({name: watched(name) for name in names})
    try:
        with failing, relay.connected(core.mda):
            core.mda.run(stage_scan(z_plan=LONG))
    finally:
        for name in names:
            delattr(stage, name)
    assert while_moving == ["stop"]  # and was at rest when it was sent home
    assert len(show(scope, stage_scan()).collect.images) == 2 * N_PLANES


def test_a_start_pulse_that_never_comes(scope: Scope, core) -> None:
    core.setProperty("XY", "ScanSettlingTime(ms)", 60_000)
    rises = [scope.twin.board.rises(f"port0/line{n}") for n in (0, 1)]
    try:
        thread = core.run_mda(stage_scan())
        latest_s = time.monotonic() + 20
        while core.getProperty(*STATE) != "Running" and time.monotonic() < latest_s:
            time.sleep(0.01)
        core.mda.cancel()
        thread.join(10)
        assert not thread.is_alive()
        assert rises == [scope.twin.board.rises(f"port0/line{n}") for n in (0, 1)]
    finally:
        core.setProperty("XY", "ScanSettlingTime(ms)", 0)
    assert len(show(scope, stage_scan()).collect.images) == 2 * N_PLANES


def test_a_controller_that_does_not_obey(scope: Scope, core) -> None:
    stage = core.simulated_stage
    set_limit = stage._set_limit
    stage._set_limit = lambda axis, side, value: None
    try:
        with pytest.raises(InstrumentError, match=r"LowerLimY\(mm\) = .*took -50000"):
            core.mda.run(stage_scan())
    finally:
        stage._set_limit = set_limit


def test_a_scan_that_would_leave_the_range(scope: Scope, core) -> None:
    core.setXYPosition(0, 999)
    core.waitForSystem()
    with pytest.raises(PlanError, match=r"y = 999 µm: .*outside scan_stage\.range_um"):
        core.mda.run(stage_scan())
    assert core.getYPosition() == pytest.approx(999)
    core.setXYPosition(*HOME_UM)
    core.waitForSystem()


def test_positions_and_times(scope: Scope, core, tmp_path: Path) -> None:
    places = [(0, -4), (5, 3)]
    sequence = stage_scan(stage_positions=places, time_plan={"interval": 0, "loops": 2})
    shown = show(scope, sequence, tmp_path / "raw.ome.zarr")
    assert_dark_between(shown, 4 * N_LEAD)
    step_um = shown.block["step_um"]
    planes_um = -STEP_UM * (N_PLANES - 1) / 2 + step_um * np.arange(N_PLANES)
    wanted_um = planes_um + step_um * np.array([[0], [0.5]])
    for p, (_, y_um) in enumerate(places):
        light_ms, found_um = Scale.read(read(tmp_path / "raw.ome.zarr", f"{p}/0"))
        assert light_ms.shape == (2, 2, N_PLANES, 2)
        np.testing.assert_allclose(found_um, [wanted_um + y_um] * 2, atol=WITHIN_UM)


def test_each_exposure_is_measured_with_the_camera_running_free(
    scope: Scope, core
) -> None:
    """Bursts in a list are measured one by one; after the first the camera waits."""
    collect = Collect()
    sequences = [
        stage_scan(channels=[{"config": "488", "exposure": exposure_ms}])
        for exposure_ms in (5.0, 6.0)
    ]
    core.mda.run(
        [burst for sequence in sequences for burst in scope.engine.bursts(sequence)],
        output=[collect],
    )
    light_ms, _ = Scale.read(np.stack(collect.images))
    for exposure_ms, dose_ms in zip((5, 6), np.split(light_ms[:, 0], 2), strict=True):
        wanted_ms = window_ms(exposure_ms) - RISE_MS
        np.testing.assert_allclose(dose_ms, wanted_ms, atol=2e-3)


BEADS_UM = np.array([[3.0, 14.0, 3.0], [5.0, 17.0, 6.0], [4.0, 20.0, 8.5]])
"""(z, y, x) of beads that both lasers light."""


@pytest.mark.parametrize(
    "go_up",
    [
        pytest.param(True, id="up", marks=pytest.mark.slow),
        pytest.param(False, id="down"),
    ],
)
def test_channels_lie_on_each_other_after_the_deskew(go_up: bool, tmp_path) -> None:
    """Both against the specimen's truth, and against each other."""
    specimen = Specimen(BEADS_UM, np.full((3, 2), 3000.0), Optics())
    sequence = scan(
        z_plan={"range": 20, "step": 0.4, "go_up": go_up},
        metadata=settings(mode="stage"),
    )
    collect = Collect()
    relay = ThreadRelay(
        collect, Deskew(outputs=[OMEZarrWriter(tmp_path / "deskewed.ome.zarr")])
    )
    changes = {"camera__roi": [0, 0, 96, 208], **stage_microscope()}
    with opened(specimen, **changes) as scope, relay.connected(scope.core.mda):
        scope.core.mda.run(sequence)
    geometry = Geometry(**collect.summary["extra"][BLOCK]["geometry"])
    px = geometry.pixel_size_um
    shape, where = geometry.volume_shape(), valid_voxels(geometry)
    origin_um = (0, geometry.origin_um, 0)
    volumes = read(tmp_path / "deskewed.ome.zarr")[0]
    seen = where & (volumes[0] > 0) & (volumes[1] > 0)
    for c in range(2):
        truth = specimen.truth(shape, (px,) * 3, origin_um, c)
        assert ncc(volumes[c], truth, seen) >= 0.95
    # half a step, 0.2 µm, apart they would be 0.87
    assert ncc(volumes[0], volumes[1], seen) >= 0.99


def test_afterwards_the_camera_runs_free_again(scope: Scope, core) -> None:
    core.mda.run(stage_scan())
    assert core.getProperty("Camera", "StartTrigger") == "Off"
    core.snapImage()
    assert core.getImage().shape == (208, 32)
