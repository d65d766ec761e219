"""Every way to run the engine, and every way a run can end."""

from __future__ import annotations

import itertools
import queue
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pymmcore_plus.mda import mda_listeners_connected

from opm_engine import (
    DaqError,
    Deskew,
    OMEZarrWriter,
    PlanError,
    Scope,
    ThreadRelay,
)
from opm_engine.accounts import FrameAccountError
from opm_engine.bursts import BurstEvent
from opm_engine.plan import BLOCK
from opm_engine.simulation.board import Board
from opm_engine.supervisor import SafetyError
from sequences import TWO_CHANNELS, scan, settings
from twins import Breaks, Broken, Collect, Ruler, opened, read

SCAN = scan(time_plan={"interval": 0, "loops": 2})
N_FRAMES = 20


def assert_dark(scope: Scope) -> None:
    board = scope.twin.board
    lines = [laser.line for laser in scope.microscope.lasers]
    assert [line for line in [*lines, "port1/line1"] if board.line(line)] == []
    assert board.volts("ao0") == scope.microscope.daq.galvo.park_v
    assert board.open_tasks() == []
    assert not scope.core.isSequenceRunning()


def assert_runs(scope: Scope) -> None:
    """Whatever happened before, a run works."""
    collect = Collect()
    relay = ThreadRelay(collect)
    with relay.connected(scope.core.mda):
        scope.core.mda.run(SCAN)
    assert len(collect.images) == N_FRAMES
    assert_dark(scope)


# ------------------------------------------------------------------- ways to run


def test_alone() -> None:
    with opened() as scope:
        indices = []
        scope.core.mda.events.frameReady.connect(
            lambda image, event, meta: indices.append(dict(event.index))
        )
        scope.core.mda.run(SCAN)
        assert indices == [dict(event.index) for event in SCAN]
        accounts = scope.engine.accounts
        assert accounts.asked == accounts.popped == accounts.counted == 21
        assert_dark(scope)


def test_output_path(tmp_path: Path) -> None:
    with opened(Ruler()) as scope:
        scope.core.mda.run(SCAN, output=tmp_path / "x.ome.zarr")
    planes = read(tmp_path / "x.ome.zarr")
    assert planes.shape == (2, 2, 5, 208, 32)
    laser, offset_um = Ruler.read(planes, 4.0)
    assert (laser == np.array([0, 1])[:, None]).all()
    assert (np.diff(offset_um, axis=2) > 0.3).all()


@pytest.mark.parametrize("how", ["listeners", "output", "relay", "relay-as-output"])
def test_our_handlers_under_the_stock_relay(how: str, tmp_path: Path) -> None:
    handlers = [
        OMEZarrWriter(tmp_path / "raw.ome.zarr"),
        Deskew(outputs=[OMEZarrWriter(tmp_path / "deskewed.ome.zarr")]),
    ]
    relay = ThreadRelay(*handlers)
    with opened(Ruler()) as scope:
        mda = scope.core.mda
        if how == "listeners":
            with mda_listeners_connected(*handlers, mda_events=mda.events):
                mda.run(SCAN)
        elif how == "output":
            mda.run(SCAN, output=handlers)
        elif how == "relay":
            with mda_listeners_connected(relay, mda_events=mda.events):
                mda.run(SCAN)
        else:
            mda.run(SCAN, output=[relay])
    laser, _ = Ruler.read(read(tmp_path / "raw.ome.zarr"), 4.0)
    assert (laser == np.array([0, 1])[:, None]).all()
    assert read(tmp_path / "deskewed.ome.zarr").any(axis=(2, 3, 4)).all()


@pytest.mark.parametrize("feed", ["queue", "list"])
def test_ready_bursts(feed: str, tmp_path: Path) -> None:
    sequence = scan(stage_positions=[(0, 0), (5, 5)])
    collect = Collect()
    relay = ThreadRelay(
        collect,
        OMEZarrWriter(tmp_path / "raw.ome.zarr"),
        Deskew(outputs=[OMEZarrWriter(tmp_path / "deskewed.ome.zarr")]),
    )
    with opened(Ruler()) as scope:
        bursts = list(scope.engine.bursts(sequence))
        events: object = bursts
        if feed == "queue":
            waiting: queue.Queue[BurstEvent | None] = queue.Queue()
            for burst in bursts:
                waiting.put(burst)
            waiting.put(None)
            events = iter(waiting.get, None)
        with relay.connected(scope.core.mda):
            scope.core.mda.run(events)
        assert_dark(scope)
    assert [dict(e.index) for e in collect.events] == [dict(e.index) for e in sequence]
    assert [BLOCK in meta.get("extra", {}) for meta in collect.metas] == [
        True,
        *[False] * 9,
    ] * 2
    for group in ("0/0", "1/0"):
        laser, _ = Ruler.read(read(tmp_path / "raw.ome.zarr", group), 4.0)
        assert (laser == np.array([0, 1])[:, None]).all()
        assert read(tmp_path / "deskewed.ome.zarr", group).any()


def test_off_is_the_stock_engine() -> None:
    sequence = scan(metadata=settings(mode="off"), z_plan={"range": 2, "step": 1})
    collect = Collect()
    relay = ThreadRelay(collect)
    with opened(Ruler()) as scope, relay.connected(scope.core.mda):
        scope.core.mda.run(sequence)
    assert len(collect.images) == 6
    laser, _ = Ruler.read(collect.images, 4.0)
    assert (laser == -1).all()


def test_single_plane() -> None:
    collect = Collect()
    relay = ThreadRelay(collect)
    with opened(Ruler()) as scope, relay.connected(scope.core.mda):
        scope.core.mda.run(scan(z_plan=None))
    laser, offset_um = Ruler.read(collect.images, 3.99)
    assert laser.tolist() == [0, 1]
    np.testing.assert_allclose(offset_um, 0, atol=0.1)


def test_plain_events_of_a_scan_are_refused() -> None:
    with opened() as scope:
        with pytest.raises(PlanError, match=r"engine.bursts\(sequence\)"):
            scope.core.mda.run(list(SCAN))
        assert_runs(scope)


def test_summary_keeps_what_the_stock_engine_says() -> None:
    collect = Collect()
    relay = ThreadRelay(collect)
    with opened() as scope, relay.connected(scope.core.mda):
        scope.core.mda.run(SCAN)
    summary = collect.summary
    assert summary["mda_sequence"] == SCAN
    assert summary["image_infos"][0]["height"] == 208
    assert summary["extra"][BLOCK]["plan"]["n_times"] == 2
    meta = collect.metas[5]
    assert meta["exposure_ms"] == pytest.approx(5, abs=0.005)
    assert meta["mda_event"] == collect.events[5]
    numbers = [int(m["camera_metadata"]["FrameNumber"]) for m in collect.metas]
    flyback = 10
    assert numbers == [n for n in range(21) if n != flyback]


def test_focus_and_channel_offset() -> None:
    """The focus stage goes to position.z + z_offset, the scan to the galvo."""
    heights_um = []
    sequence = scan(
        axis_order="tpcz",
        stage_positions=[{"x": 1, "y": 2, "z": 7}, {"x": 3}],
        channels=[TWO_CHANNELS[0], {**TWO_CHANNELS[1], "z_offset": 1.5}],
    )
    with opened() as scope:
        core = scope.core
        core.setPosition(4.0)
        core.mda.events.frameReady.connect(
            lambda image, event, meta: heights_um.append(
                (core.getPosition(), *core.getXYPosition())
            )
        )
        core.mda.run(sequence)
    assert heights_um[::5] == [
        (7, 1, 2),
        (8.5, 1, 2),
        (4, 3, 2),
        (5.5, 3, 2),
    ]


# ------------------------------------------------------------------- ways to end


@pytest.mark.parametrize("at", [0, 10])
def test_a_handler_that_raises(at: int, tmp_path: Path) -> None:
    sequence = scan(time_plan={"interval": 0, "loops": 20})
    breaks = Breaks(at)
    relay = ThreadRelay(breaks, OMEZarrWriter(tmp_path / "{run:03d}.ome.zarr"))
    with opened(Ruler()) as scope:
        with relay.connected(scope.core.mda):
            with pytest.raises(Broken) as error:
                scope.core.mda.run(sequence)
            assert error.value is relay.error
            assert_dark(scope)
            breaks.at = -1
            scope.core.mda.run(SCAN)
        first, second = sorted(tmp_path.iterdir())
    laser, _ = Ruler.read(read(first), 4.0)
    order = laser.transpose(0, 2, 1).ravel()  # t, z, c
    there = np.flatnonzero(order >= 0)
    written = len(there)
    assert at <= written < 200
    assert there.tolist() == list(range(written)), "a hole"
    assert order[:written].tolist() == [n % 2 for n in range(written)]
    laser, _ = Ruler.read(read(second), 4.0)
    assert (laser >= 0).all()
    assert breaks.finished == 2


def test_an_existing_path_is_refused_before_anything_is_armed(tmp_path: Path) -> None:
    path = tmp_path / "raw.ome.zarr"
    path.mkdir()
    relay = ThreadRelay(OMEZarrWriter(path))
    with opened() as scope:
        rises = scope.twin.board.rises("port1/line1")
        with (
            relay.connected(scope.core.mda),
            pytest.raises(FileExistsError, match="overwrite it"),
        ):
            scope.core.mda.run(SCAN)
        assert scope.twin.board.rises("port1/line1") == rises
        assert list(path.iterdir()) == []
        assert_runs(scope)


def test_cancel() -> None:
    sequence = scan(time_plan={"interval": 0, "loops": 500})
    with opened() as scope:
        mda = scope.core.mda
        frames = []

        def cancel_at_50(image, event, meta):
            frames.append(event)
            if len(frames) == 50:
                mda.cancel()

        mda.events.frameReady.connect(cancel_at_50)
        mda.run(sequence)
        mda.events.frameReady.disconnect(cancel_at_50)
        # what was exposed before the light went off is still delivered, in order
        assert 50 <= len(frames) < 100
        expected = itertools.islice(sequence, len(frames))
        assert [f.index for f in frames] == [e.index for e in expected]
        accounts = scope.engine.accounts
        assert accounts.lost == 0
        assert accounts.abandoned > 0
        assert_dark(scope)
        assert_runs(scope)


def test_cancel_without_a_frame() -> None:
    with opened() as scope:
        scope.core._pydevices["Camera"].stall_after = 0
        threading.Timer(0.3, scope.core.mda.cancel).start()
        scope.core.mda.run(SCAN)
        assert_dark(scope)
        scope.core._pydevices["Camera"].stall_after = None
        assert_runs(scope)


def test_a_camera_that_stalls() -> None:
    with opened() as scope:
        scope.core._pydevices["Camera"].stall_after = 7
        with pytest.raises(SafetyError, match="after 7 of 21 exposures"):
            scope.core.mda.run(SCAN)
        assert_dark(scope)
        scope.core._pydevices["Camera"].stall_after = None
        assert_runs(scope)


def test_a_board_that_fails_while_arming() -> None:
    with opened() as scope:
        scope.twin.board.fail("StartTask", -200279, after=2)
        with pytest.raises(DaqError, match="-200279"):
            scope.core.mda.run(SCAN)
        assert_dark(scope)
        assert_runs(scope)


def see(board: Board, exposure: int, how_often: int) -> None:
    """Make the board see both edges of one exposure, from 1, so many times."""
    begun = itertools.count(1)
    now = 0

    def filtered(level: bool, time_s: float) -> int:
        nonlocal now
        now = next(begun) if level else now
        return how_often if now == exposure else 1

    board.edge_filter = filtered


@pytest.mark.parametrize("how_often", [0, 2], ids=["missed", "doubled"])
@pytest.mark.parametrize(
    "exposure",
    [2, pytest.param(10, marks=pytest.mark.slow), 21],
    ids=lambda n: f"exposure-{n}",
)
def test_a_slip_is_an_error_however_late_it_is_seen(
    exposure: int, how_often: int
) -> None:
    """The camera exposes on, so in the end the board has seen exposures enough."""
    with opened() as scope:
        see(scope.twin.board, exposure, how_often)
        # after the first frame software sleeps until long after the last one
        pauses_s = iter([0.3])

        def stall(image, event, meta):
            time.sleep(next(pauses_s, 0))

        scope.core.mda.events.frameReady.connect(stall)
        message = rf"exposure {exposure} of 21 (came|lasted) .* ms planned"
        with pytest.raises(FrameAccountError, match=message):
            scope.core.mda.run(SCAN)
        assert_dark(scope)
        scope.twin.board.edge_filter = None
        scope.core.mda.events.frameReady.disconnect(stall)
        assert_runs(scope)


def test_a_first_exposure_that_is_missed_is_missing_in_the_end() -> None:
    """It leaves no gap; a camera that does not expose on cannot make up for it."""
    with opened() as scope:
        scope.core._pydevices["Camera"].stall_after = 21
        see(scope.twin.board, 1, 0)
        with pytest.raises(FrameAccountError, match="planned exposures"):
            scope.core.mda.run(SCAN)
        assert_dark(scope)
        scope.core._pydevices["Camera"].stall_after = None
        scope.twin.board.edge_filter = None
        assert_runs(scope)


def test_interval_time_lapse() -> None:
    times_s = []
    with opened() as scope:
        scope.core.mda.events.frameReady.connect(
            lambda image, event, meta: times_s.append(meta["runner_time_ms"] / 1000)
        )
        scope.core.mda.run(scan(time_plan={"interval": 0.5, "loops": 3}))
    assert len(times_s) == 30
    assert np.all(np.array(times_s[::10]) >= [0, 0.5, 1.0]), "before its time"


def test_many_runs_in_one_connection(tmp_path: Path) -> None:
    relay = ThreadRelay(OMEZarrWriter(tmp_path / "{run:03d}.ome.zarr"))
    with opened() as scope, relay.connected(scope.core.mda):
        for _ in range(3):
            scope.core.mda.run(SCAN)
            names = [thread.name for thread in threading.enumerate()]
            assert [name for name in names if name.startswith("relay")] == []
    assert len(list(tmp_path.iterdir())) == 3


# ------------------------------------------------------------------- open and close


def test_nothing_is_left_after_close() -> None:
    before = set(threading.enumerate())
    with opened() as scope:
        scope.core.mda.run(SCAN)
        board, address = scope.twin.board, scope.twin.address
        assert set(threading.enumerate()) - before, "the twin has threads of its own"
    assert board.open_tasks() == []
    deadline_s = time.monotonic() + 5
    while left := set(threading.enumerate()) - before:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.01)
    host, port = address.split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=1)


def test_close_while_running() -> None:
    sequence = scan(time_plan={"interval": 0, "loops": 1000})
    with opened() as scope:
        run = scope.core.run_mda(sequence)
        while not scope.twin.board.line("port1/line1"):
            time.sleep(0.01)
        board = scope.twin.board
        scope.close()
        run.join(5)
        assert not run.is_alive()
        assert not board.line("port1/line1")
        assert board.open_tasks() == []


def test_close_twice_and_reopen() -> None:
    with opened() as scope:
        scope.close()
    with opened() as scope:
        assert_runs(scope)
