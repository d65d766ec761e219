"""Single planes and snaps, the stock engine, and how long time-lapses are started."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pymmcore_plus.mda import MDAEngine

from opm_engine import PlanError, Scope
from opm_engine.plan import BLOCK, BurstEvents
from scales import (
    FAST,
    RISE_MS,
    ROWS,
    Scale,
    assert_dark_between,
    assert_lit_alone,
    scaled,
    show,
    window_ms,
)
from sequences import scan, settings
from test_engine import assert_dark
from twins import Collect

LIGHT_MS = window_ms(5.0) - RISE_MS


@pytest.fixture(scope="module")
def scope() -> Iterator[Scope]:
    with scaled(**FAST) as scope:
        yield scope


@pytest.mark.parametrize("offset_um", [0.0, 3.2, -1.7], ids=str)
def test_single_planes_at_an_offset(offset_um: float, scope: Scope) -> None:
    wishes = {"mode": "single", "offset_um": offset_um}
    shown = show(scope, scan(z_plan=None, metadata=settings(**wishes)))
    assert shown.index["c"].tolist() == [0, 1]
    assert_lit_alone(shown, LIGHT_MS)
    assert_dark_between(shown, 0)
    np.testing.assert_allclose(shown.y_um, offset_um, atol=0.002)
    assert_dark(scope)


SNAPS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "all": ({"exposure_ms": 5.0}, {"488": 5.0, "561": 5.0}),
    "one": ({"channels": ["561"], "exposure_ms": 8.0}, {"561": 8.0}),
    "name": ({"channels": "561", "exposure_ms": 8.0}, {"561": 8.0}),
    "order": ({"channels": ["561", "488"], "exposure_ms": 3.0}, {"561": 3, "488": 3}),
    "dict": (
        {"channels": [{"config": "488", "exposure": 4.0}, "561"], "exposure_ms": 6.0},
        {"488": 4.0, "561": 6.0},
    ),
    "offset": ({"offset_um": 2.5, "exposure_ms": 5.0}, {"488": 5.0, "561": 5.0}),
}


@pytest.mark.parametrize("name", SNAPS)
def test_snap(name: str, scope: Scope) -> None:
    wishes, exposures_ms = SNAPS[name]
    images = scope.snap(**wishes)
    assert list(images) == list(exposures_ms)
    for laser, image in images.items():
        assert (image.shape, image.dtype) == ((ROWS, 32), np.uint16)
        light_ms, y_um = Scale.read(image)
        wanted_ms = window_ms(exposures_ms[laser]) - RISE_MS
        wanted = [wanted_ms, 0] if laser == "488" else [0, wanted_ms]
        np.testing.assert_allclose(light_ms, wanted, atol=2e-3)
        assert y_um == pytest.approx(wishes.get("offset_um", 0.0), abs=0.002)
    assert_dark(scope)


def test_a_snap_takes_the_cameras_exposure(scope: Scope) -> None:
    scope.core.setExposure(7.0)
    light_ms, _ = Scale.read(scope.snap(["488"])["488"])
    assert light_ms[0] == pytest.approx(window_ms(7.0) - RISE_MS, abs=2e-3)


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"channels": ["405"]}, r'channels\["405"\]\.config: no such laser'),
        ({"offset_um": 500.0}, "offset_um: scan offset 500 µm needs 25 V"),
        ({"laser_power": {"488": 5.0}}, r'laser_power\["488"\]'),
    ],
    ids=["laser", "offset", "power"],
)
def test_a_snap_that_cannot_be(wishes, says: str, scope: Scope) -> None:
    with pytest.raises(PlanError, match=says):
        scope.snap(exposure_ms=5.0, **wishes)
    assert_dark(scope)


def test_off_is_the_stock_engine(scope: Scope) -> None:
    """Same events, same metadata, and nothing of ours: no task on the board."""
    sequence = scan(metadata=settings(mode="off"), z_plan={"range": 1, "step": 0.5})
    mda, engine = scope.core.mda, scope.engine
    ours, stock, tasks = Collect(), Collect(), []

    def look(image, event, meta):
        tasks.extend(scope.twin.board.open_tasks())

    mda.events.frameReady.connect(look)
    try:
        mda.run(sequence, output=[ours])
        mda.set_engine(MDAEngine(scope.core))
        mda.run(sequence, output=[stock])
    finally:
        mda.set_engine(engine)
        mda.events.frameReady.disconnect(look)
    assert tasks == []
    assert [dict(e.index) for e in ours.events] == [dict(e.index) for e in stock.events]
    assert [e.z_pos for e in ours.events] == [e.z_pos for e in stock.events]
    assert [set(meta) for meta in ours.metas] == [set(meta) for meta in stock.metas]
    assert BLOCK not in ours.summary.get("extra", {})
    assert set(ours.summary) == set(stock.summary)
    assert (np.stack(ours.images) == np.stack(stock.images)).all()


# ------------------------------------------------------------------ time-lapses


def counted(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Frames asked of the camera, for each time it is started."""
    asked: list[int] = []
    start = scope.core.startSequenceAcquisition

    def count(n: int, *args: Any) -> None:
        asked.append(n)
        start(n, *args)

    monkeypatch.setattr(scope.core, "startSequenceAcquisition", count)
    return asked


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"time_plan": {"interval": 0, "loops": 12}}, [12 * 11 - 1]),
        ({"time_plan": {"interval": 0.05, "loops": 3}}, [10] * 3),
        (
            {
                "time_plan": {"interval": 0, "loops": 4},
                "axis_order": "ptzc",
                "stage_positions": [(0, 0), (1, 0)],
            },
            [4 * 11 - 1] * 2,
        ),
    ],
    ids=["gapless", "interval", "positions"],
)
def test_how_often_the_camera_is_started(
    changes, wanted, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = counted(scope, monkeypatch)
    shown = show(scope, scan(**changes))
    assert asked == wanted
    assert_lit_alone(shown, LIGHT_MS)
    assert len(shown.y_um) == len(list(scan(**changes)))


def test_the_board_repeats_one_volume(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve gapless volumes take no more samples than one with its flyback."""
    written: list[int] = []
    board = scope.twin.board
    write = board.write

    def count(name, samples, *, auto_start):
        written.append(len(samples))
        return write(name, samples, auto_start=auto_start)

    monkeypatch.setattr(board, "write", count)
    show(scope, scan(time_plan={"interval": 0, "loops": 12}))
    assert sorted(n for n in written if n > 2) == [22, 22]


def test_a_hundred_thousand_planes_start_at_once(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events are made when they are asked for; useq would take seconds for all."""
    made = []
    get = BurstEvents.__getitem__
    monkeypatch.setattr(
        BurstEvents, "__getitem__", lambda *args: (made.append(1), get(*args))[1]
    )
    asked = counted(scope, monkeypatch)
    sequence = scan(time_plan={"interval": 0, "loops": 10_000})
    began_s, first_s, seen = time.perf_counter(), [], []

    def cancel(image, event, meta):
        first_s.append(time.perf_counter() - began_s)
        seen.append(event)
        scope.core.mda.cancel()

    scope.core.mda.events.frameReady.connect(cancel)
    try:
        scope.core.mda.run(sequence)
    finally:
        scope.core.mda.events.frameReady.disconnect(cancel)
    assert asked == [10_000 * 11 - 1]
    assert len(made) < 300
    assert first_s[0] < 2  # on a busy machine; useq alone needs more
    assert [dict(e.index) for e in seen[:2]] == [
        {"t": 0, "c": 0, "z": 0},
        {"t": 0, "c": 1, "z": 0},
    ][: len(seen)]
    assert_dark(scope)
