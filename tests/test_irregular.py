"""Irregular sequences on the simulated microscope, compared with the stock engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import useq
from pymmcore_plus.mda import MDAEngine

from irregulars import CASES, GRID, ONCE, SHORT, SLOW, Case, Where, at
from opm_engine import Deskew, OMEZarrWriter, Scope, ThreadRelay
from opm_engine.bursts import BurstEvent
from opm_engine.plan import plan_scan, with_field_of_view
from opm_engine.simulation.specimen import Optics, Specimen
from scales import FAST
from sequences import scan, settings
from test_engine import assert_dark
from test_modes_stage import stage_microscope
from twins import Broken, Collect, opened, read

Index = tuple[int, ...]
Sites = dict[Index, tuple[float, ...]]


@pytest.fixture(scope="module")
def opened_scope() -> Iterator[Scope]:
    with opened(Where(), **FAST) as scope:
        yield scope


@pytest.fixture
def scope(opened_scope: Scope) -> Iterator[Scope]:
    """Whatever happened, it is dark and nothing of the core is left changed."""
    core = opened_scope.core
    core.setXYPosition(0, 0)
    core.setPosition(0)
    yield opened_scope
    assert core.getAutoShutter()
    assert not core.getShutterOpen()
    assert_dark(opened_scope)
    autofocus = core.simulated_autofocus
    autofocus.focus_um = autofocus.offset_um = 0.0
    autofocus.failures = 0


class Watch(Collect):
    """Where the stages are at each frame, and the lamp's shutter before each event."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self._core = core
        self.sites: Sites = {}
        self.lamp: dict[Index, bool] = {}

    def eventStarted(self, event: useq.MDAEvent) -> None:
        if isinstance(event.action, useq.AcquireImage):
            self.lamp[index_of(event, "tpgc")] = self._core.getShutterOpen()

    def frameReady(self, image, event, meta):
        super().frameReady(image, event, meta)
        core = self._core
        where = (*core.getXYPosition(), core.getPosition())
        self.sites.setdefault(index_of(event, "tpgc"), where)


def index_of(event: useq.MDAEvent, axes: str) -> Index:
    return tuple(event.index.get(axis, 0) for axis in axes)


def planned_um(event: useq.MDAEvent) -> float:
    """Scan offset, as the sequence says it."""
    sequence = event.sequence
    position = sequence.stage_positions[event.index.get("p", 0) :][:1]
    own = position[0].sequence if position else None
    z_plan = (own and own.z_plan) or sequence.z_plan
    return list(z_plan)[event.index["z"]] if z_plan else 0.0


def run(scope: Scope, events: Any, engine: Any = None) -> Watch:
    """Run it, watched in the runner's own thread."""
    core, watch = scope.core, Watch(scope.core)
    signals = core.mda.events
    signals.sequenceStarted.connect(watch.sequenceStarted)
    signals.eventStarted.connect(watch.eventStarted)
    signals.frameReady.connect(watch.frameReady)
    before = core.mda.set_engine(engine) if engine else None
    try:
        core.mda.run(events)
    finally:
        if before is not None:
            core.mda.set_engine(before)
        signals.sequenceStarted.disconnect(watch.sequenceStarted)
        signals.eventStarted.disconnect(watch.eventStarted)
        signals.frameReady.disconnect(watch.frameReady)
    return watch


def stock(scope: Scope, sequence: useq.MDASequence) -> Watch:
    """Run each scan's first plane, at offset 0, under the stock engine."""
    tiled = with_field_of_view(sequence.replace(), scope.microscope)

    def flat(some: useq.MDASequence) -> useq.MDASequence:
        return some.replace(z_plan={"relative": [0.0]} if some.z_plan else None)

    positions = [
        position.replace(sequence=position.sequence and flat(position.sequence))
        for position in tiled.stage_positions
    ]
    events = list(flat(tiled).replace(stage_positions=positions))
    # Under an engine of its own, else the sequence's mode would be ours.
    return run(scope, events, MDAEngine(scope.core, use_hardware_sequencing=False))


def _marked(number: int, case: Case) -> object:
    """Every second runs with the slow tests."""
    marks = [pytest.mark.slow] if number % 2 else []
    return pytest.param(case, marks=marks, id=case.id)


@pytest.mark.parametrize("case", [_marked(*item) for item in enumerate(CASES)])
def test_as_the_stock_engine(case: Case, scope: Scope) -> None:
    """At each site and channel the same stages, and the lamp's shutter before it."""
    sequence = case.sequence
    ours = run(scope, sequence)
    theirs = stock(scope, sequence)
    assert len(ours.images) == case.n_frames
    assert list(ours.sites) == sorted(ours.sites) or not case.in_order
    assert ours.sites.keys() == theirs.sites.keys()
    for site, where in theirs.sites.items():
        assert ours.sites[site] == pytest.approx(where), site
    if case.in_order:
        assert ours.lamp == {site: theirs.lamp[site] for site in ours.lamp}
    assert_shown(ours, scope)


def assert_shown(watch: Watch, scope: Scope) -> None:
    """What the pixels tell is what the events say."""
    laser, found_um = Where.read(np.stack(watch.images))
    names = scope.microscope.laser_names
    assert [names[n] for n in laser] == [e.channel.config for e in watch.events]
    moving = watch.summary["extra"]["opm_engine"]["plan"]["motion"] == "ramp"
    error_um = 0.3 if moving else 0.06
    for event, um in zip(watch.events, found_um, strict=True):
        assert um[0] == pytest.approx(planned_um(event), abs=error_um)
        where = watch.sites[index_of(event, "tpgc")]
        assert um[1:] == pytest.approx(where, abs=0.02)


QUICK = "short-scan-first", "own-grid-and-scan", "every-second-time", "z-offset"
SAVED = [
    pytest.param(case, id=case.id, marks=() if case.id in QUICK else pytest.mark.slow)
    for case in CASES
    if "shutter" not in case.id and case.id not in ("single", "ramp")
]


@pytest.mark.parametrize("case", SAVED)
def test_every_image_holds_its_own_planes(
    case: Case, scope: Scope, tmp_path: Path
) -> None:
    """Read with zarr-python: position, tile, time, channel and plane, in the pixels."""
    collect, writer = Collect(), OMEZarrWriter(tmp_path / "raw.ome.zarr")
    deskew = Deskew(outputs=[OMEZarrWriter(tmp_path / "volumes.ome.zarr")])
    watch = Watch(scope.core)
    relay = ThreadRelay(collect, writer, deskew)
    with relay.connected(scope.core.mda):
        scope.core.mda.events.frameReady.connect(watch.frameReady)
        scope.core.mda.run(case.sequence)
        scope.core.mda.events.frameReady.disconnect(watch.frameReady)
    assert not deskew.incomplete
    plan = plan_scan(case.sequence, scope.microscope)
    stream = plan.stream()
    several = len(stream.positions) > 1
    for number, site in enumerate(stream.positions):
        group = f"{number}/0" if several else "0"
        image = read(tmp_path / "raw.ome.zarr", group)
        came = [x for x in watch.events if index_of(x, "pg") == (site.p, site.g)]
        assert image.shape[2] == (site.n_planes or stream.n_planes)
        assert (image.max(axis=(3, 4)) > 0).sum() == len(came)
        for event in came:
            plane = image[index_of(event, "tcz")]
            laser, um = Where.read(plane)
            assert laser == index_of(event, "c")[0]
            where = watch.sites[index_of(event, "tpgc")]
            assert um[1:] == pytest.approx(where, abs=0.02)
            assert um[0] == pytest.approx(planned_um(event), abs=0.06)
        volumes = read(tmp_path / "volumes.ome.zarr", group)
        assert (volumes.max(axis=(2, 3, 4)) > 0).sum() == len(
            {index_of(event, "tc") for event in came}
        )


def test_a_shorter_scan_lies_where_it_was(tmp_path: Path) -> None:
    """A bead is at one place, however short the scan that saw it, and wherever."""
    bead_um = np.array([[4.0, 9.0, 5.0]])
    specimen = Specimen(bead_um, np.full((1, 2), 3000.0), Optics())
    scans = [
        {"range": 20, "step": 0.4},
        {"range": 8, "step": 0.4},
        {"above": 11.2, "below": 3.2, "step": 0.4},
    ]
    sequence = scan(stage_positions=[at(0, 0, 0, z_plan=z_plan) for z_plan in scans])
    store = tmp_path / "volumes.ome.zarr"
    relay = ThreadRelay(Deskew(outputs=[OMEZarrWriter(store)]))
    with (
        opened(specimen, camera__roi=[0, 0, 96, 208]) as scope,
        relay.connected(scope.core.mda),
    ):
        scope.core.mda.run(sequence)
    for position in range(len(scans)):
        image = zarr_image(store, position)
        volume = np.asarray(image["0"][0, 0], float)
        bright = np.clip(volume - volume.max() / 2, 0, None)
        (scale, move) = (
            np.array(x[key][2:])
            for x, key in zip(
                image.attrs["ome"]["multiscales"][0]["datasets"][0][
                    "coordinateTransformations"
                ],
                ("scale", "translation"),
                strict=True,
            )
        )
        centre = [
            np.average(np.arange(n), weights=bright.sum(axis=others))
            for n, others in zip(volume.shape, ((1, 2), (0, 2), (0, 1)), strict=True)
        ]
        np.testing.assert_allclose(centre * scale + move, bead_um[0], atol=0.1)


def zarr_image(store: Path, position: int) -> Any:
    import zarr

    return zarr.open_group(store, mode="r")[str(position)]


# ------------------------------------------------------------------------- autofocus


def focused(axes: tuple[str, ...], **changes: Any) -> useq.MDASequence:
    return scan(autofocus_plan={"axes": axes}, **changes)


FOCUSED = {
    "z": ([(0, 0, 1), (5, 0, 2)], ()),
    "no-z": ([(0, 0), (5, 0)], ()),
    "z-offset": ([(0, 0, 1), (5, 0, 2)], (0.5, 1.5)),
    "z-offset-no-z": ([(0, 0), (5, 0)], (0.5, 1.5)),
}


@pytest.mark.parametrize(("places", "offsets_um"), FOCUSED.values(), ids=FOCUSED)
def test_what_autofocus_finds_reaches_the_bursts(places, offsets_um, scope) -> None:
    """As under the stock engine: the first channel's plane is what was found."""
    first, second = offsets_um or (0.0, 0.0)
    channels = [
        {"config": "488", "exposure": 5, "z_offset": first},
        {"config": "561", "exposure": 5, "z_offset": second},
    ]
    sequence = focused(
        ("p",), stage_positions=places, channels=channels, axis_order="tpcz"
    )
    found = {0: 3.0, 5: -2.0}
    autofocus, core = scope.core.simulated_autofocus, scope.core

    def displace() -> None:
        autofocus.focus_um = found[round(core.getXPosition())]

    find, autofocus.find = autofocus.find, lambda: (displace(), find())
    try:
        watch = run(scope, sequence)
    finally:
        del autofocus.find
    focus = {
        index_of(e, "pc"): watch.sites[index_of(e, "tpgc")][2] for e in watch.events
    }
    assert focus == {
        (0, 0): pytest.approx(3.0),
        (0, 1): pytest.approx(3.0 + second - first),
        (1, 0): pytest.approx(-2.0),
        (1, 1): pytest.approx(-2.0 + second - first),
    }


def test_a_correction_lasts_until_the_next_autofocus(scope: Scope) -> None:
    scope.core.simulated_autofocus.focus_um = 3.0
    sequence = focused(
        ("p",), stage_positions=[(0, 0, 1)], time_plan={**SLOW, "interval": 0.05}
    )
    watch = run(scope, sequence)
    assert {where[2] for where in watch.sites.values()} == {3.0}
    assert {t for t, *_ in watch.sites} == {0, 1}
    assert scope.core.getPosition() == 0  # what it was before


def test_a_shifted_position_is_focused_where_it_went(scope: Scope) -> None:
    sequence = focused(("t",), stage_positions=[(0, 0, 1)], time_plan=ONCE)
    places = []
    autofocus, core = scope.core.simulated_autofocus, scope.core
    find = autofocus.find
    autofocus.find = lambda: (places.append(core.getXPosition()), find())

    def shift(image, event, meta):
        if index_of(event, "tcz") == (0, 1, 4):
            scope.engine.shift_position(0, x_um=4.0)

    core.mda.events.frameReady.connect(shift)
    try:
        run(scope, sequence)
    finally:
        core.mda.events.frameReady.disconnect(shift)
        del autofocus.find
    assert places == [0, 4]


@pytest.mark.parametrize("how", ["fails", "fails-once", "no-device"])
def test_without_autofocus_the_run_goes_on(how: str, scope: Scope, caplog) -> None:
    core = scope.core
    core.simulated_autofocus.focus_um = 3.0
    core.simulated_autofocus.failures = {"fails": 99, "fails-once": 1}.get(how, 0)
    label = core.getAutoFocusDevice()
    if how == "no-device":
        core.setAutoFocusDevice("")
    try:
        with caplog.at_level("WARNING", "pymmcore-plus"):
            watch = run(scope, focused(("p",), stage_positions=[(0, 0, 1)]))
    finally:
        core.setAutoFocusDevice(label)
    assert len(watch.images) == 10
    wanted_um = 3.0 if how == "fails-once" else 1.0
    assert {where[2] for where in watch.sites.values()} == {wanted_um}


def test_continuous_focus_is_taken_up_again(scope: Scope) -> None:
    core = scope.core
    core.enableContinuousFocus(True)
    seen = []
    core.mda.events.frameReady.connect(
        lambda image, event, meta: seen.append(core.isContinuousFocusLocked())
    )
    try:
        run(scope, focused(("p",), stage_positions=[(0, 0, 1)]))
    finally:
        core.enableContinuousFocus(False)
        core.mda.events.frameReady.disconnect()
    assert set(seen) == {True}


# --------------------------------------------------------------------------- shutter

KEEPING = scan(keep_shutter_open_across="tzc", time_plan={**SLOW, "interval": 1.0})


def test_the_lamp_stays_open_and_lasers_dark_between_bursts(scope: Scope) -> None:
    core, board = scope.core, scope.twin.board
    lamp, lasers = [], []

    def between(event, remaining_s):
        # a camera of Micro-Manager would close it at its end if it were automatic
        lamp.append(core.getShutterOpen() and not core.getAutoShutter())
        lasers.append(board.line("port0/line0") or board.line("port0/line1"))

    core.mda.events.awaitingEvent.connect(between)
    try:
        run(scope, KEEPING)
    finally:
        core.mda.events.awaitingEvent.disconnect(between)
    assert lamp
    assert all(lamp)
    assert not any(lasers)


@pytest.mark.parametrize("how", ["cancel", "error", "cancel-between"])
def test_the_lamp_is_closed_however_it_ends(how, scope, monkeypatch) -> None:
    monkeypatch.setattr(scope.engine, "restore_initial_state", False)
    core = scope.core

    class Ends:
        def frameReady(self, image, event, meta):
            if index_of(event, "zc") == (2, 0):
                if how == "cancel":
                    core.mda.cancel()
                elif how == "error":
                    raise Broken

    def stop(event, remaining_s):
        if how == "cancel-between":
            core.mda.cancel()

    core.mda.events.awaitingEvent.connect(stop)
    relay = ThreadRelay(Ends())
    try:
        with relay.connected(core.mda):
            if how == "error":
                with pytest.raises(Broken):
                    core.mda.run(KEEPING)
            else:
                core.mda.run(KEEPING)
    finally:
        core.mda.events.awaitingEvent.disconnect(stop)


# ---------------------------------------------------------------- the rest of the house


def test_bursts_in_a_queue(scope: Scope, tmp_path: Path) -> None:
    """Each says on its own what the dataset will be, the shorter ones too."""
    sequence = scan(stage_positions=[at(0, 0, 1, z_plan=SHORT), at(5, 0, 2)])
    collect = Collect()
    volumes = OMEZarrWriter(tmp_path / "volumes.ome.zarr")
    relay = ThreadRelay(
        collect, OMEZarrWriter(tmp_path / "raw.ome.zarr"), Deskew(outputs=[volumes])
    )
    with relay.connected(scope.core.mda):
        scope.core.mda.run(iter(list(scope.engine.bursts(sequence))))
    assert len(collect.images) == 16
    assert read(tmp_path / "raw.ome.zarr", "0/0").shape[2] == 3
    assert read(tmp_path / "volumes.ome.zarr", "1/0").any()


def test_acquire(scope: Scope, tmp_path: Path) -> None:
    sequence = scan(
        stage_positions=[at(0, 0, 1), at(5, 0, 2, grid_plan=GRID, z_plan=SHORT)],
        autofocus_plan={"axes": ("p",)},
    )
    progress = []
    acquired = scope.acquire(
        sequence,
        tmp_path / "out",
        on_frame=lambda n, total: progress.append((n, total)),
    )
    n_frames = 10 + 2 * 6
    assert progress[-1] == (n_frames, n_frames)
    assert acquired.accounts.lost == 0
    assert acquired.accounts.asked == acquired.accounts.counted == n_frames
    assert acquired.projections is not None
    assert set(acquired.projections.latest) == {
        (p, c) for p in range(3) for c in (0, 1)
    }
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"raw.ome.zarr", "deskewed.ome.zarr", "sequence.yaml"} <= names
    again = useq.MDASequence.from_file(tmp_path / "out" / "sequence.yaml")
    assert plan_scan(again, scope.microscope) == plan_scan(sequence, scope.microscope)


def test_some_positions_with_one_plane(scope: Scope, tmp_path: Path) -> None:
    """Nothing to deskew there; the planes are all saved."""
    sequence = scan(z_plan=None, stage_positions=[at(0, 0, z_plan=SHORT), at(5, 0)])
    acquired = scope.acquire(sequence, tmp_path / "out")
    assert acquired.n_frames == 2 * 3 + 2
    assert acquired.projections is None


def test_properties_of_positions(scope: Scope) -> None:
    (case,) = (case for case in CASES if case.id == "properties-and-names")
    core, powers = scope.core, {}

    def look(image, event, meta):
        powers.setdefault(event.pos_name, core.getProperty("Lasers", "Power-488"))

    core.mda.events.frameReady.connect(look)
    try:
        run(scope, case.sequence)
    finally:
        core.mda.events.frameReady.disconnect(look)
    assert {name: float(power) for name, power in powers.items()} == {
        "here": 50,
        "there": 100,
    }


def test_a_grid_of_stage_scans(tmp_path: Path) -> None:
    """Each tile is reached, scanned with the measured step, and left again."""
    sequence = scan(
        grid_plan={"rows": 2, "columns": 1},
        axis_order="tpgzc",
        stage_positions=[(0, 0)],
        metadata=settings(mode="stage"),
    )
    with opened(Where(), **stage_microscope(), **FAST) as scope:
        collect = Collect()
        relay = ThreadRelay(collect, OMEZarrWriter(tmp_path / "raw.ome.zarr"))
        with relay.connected(scope.core.mda):
            scope.core.mda.run(sequence)
        assert scope.core.getXYPosition() == pytest.approx((0, 0), abs=1e-3)
        assert scope.engine.accounts.lost == 0
        assert_dark(scope)
    stream = collect.summary["extra"]["opm_engine"]["stream"]
    step_um = stream["scale_um"][0]
    assert step_um != 0.5  # what it is, not what was asked
    for number, site in enumerate(stream["positions"]):
        image = read(tmp_path / "raw.ome.zarr", f"{number}/0")
        laser, um = Where.read(image[0])
        assert (laser == [[0], [1]]).all()
        along_um = -1 + step_um * (np.arange(5) + np.array([[0], [0.5]]))
        np.testing.assert_allclose(
            um[..., 0] + um[..., 2], site["y_um"] + along_um, atol=0.02
        )


def test_off_is_the_stock_engine(scope: Scope) -> None:
    sequence = scan(
        grid_plan=GRID, axis_order="tpgc", z_plan=None, metadata=settings(mode="off")
    )
    watch = run(scope, sequence)
    assert len(watch.images) == 4
    assert not any(isinstance(event, BurstEvent) for event in watch.events)
