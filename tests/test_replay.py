"""A stored run in place of a microscope: the same frames, the same end."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import useq
from pymmcore_plus.mda import FinishReason

from opm_engine import (
    Deskew,
    OMEZarrWriter,
    PlanError,
    ThreadRelay,
    open_microscope,
)
from opm_engine.plan import BLOCK, Flag, Inputs, plan_scan
from opm_engine.recording import Recording
from opm_engine.session import ReplayScope
from opm_engine.writers.reading import read_flags, read_frames, read_inputs
from scopes import full
from sequences import scan, settings
from stored import (
    CASES,
    CHANNELS,
    DESKEWED,
    RAW,
    SEQUENCE,
    assert_same_voxels,
    documents,
    frames_of,
    store_run,
    summary_of,
    two_cameras,
)
from twins import Breaks, Broken, Collect, microscope, opened, read

ONE = CASES["one-position"]


def opened_replay(store: Path, **how: Any) -> ReplayScope:
    scope = open_microscope(f"replay:{store}", **how)
    assert isinstance(scope, ReplayScope)
    return scope


def replay(store: Path, sequence: useq.MDASequence, *handlers: Any) -> ReplayScope:
    with opened_replay(store) as scope:
        relay = ThreadRelay(*handlers)
        with relay.connected(scope.core.mda):
            scope.core.mda.run(sequence)
    return scope


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw store of a small run."""
    return store_run(tmp_path_factory.mktemp("run"), ONE)[0]


# ---- the same frames ----------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"sequential", "downwards"}))
def test_the_same_stores_again(name: str, tmp_path: Path) -> None:
    raw, deskewed = store_run(tmp_path, CASES[name])
    again = OMEZarrWriter(tmp_path / "again.ome.zarr")
    volumes = OMEZarrWriter(tmp_path / "volumes.ome.zarr")
    scope = replay(raw, CASES[name], again, Deskew(outputs=[volumes]))
    assert_same_voxels(again.path, raw)
    assert_same_voxels(volumes.path, deskewed)
    assert documents(again.path) == documents(raw)
    assert documents(volumes.path) == documents(deskewed)
    for position in range(len(Recording(raw).stream.positions)):
        told = list(read_frames(again.path, position))
        assert told == list(read_frames(raw, position)) != []
    accounts = scope.engine.accounts
    assert accounts.asked == accounts.popped == len(list(frames_of(CASES[name])))
    assert not accounts.lost


def test_handlers_get_what_was_told_of_each_frame(stored: Path) -> None:
    seen = Collect()
    replay(stored, ONE, seen)
    for image, event, meta, (sent, planned, told) in zip(
        seen.images, seen.events, seen.metas, frames_of(ONE), strict=True
    ):
        np.testing.assert_array_equal(image, sent)
        assert event == planned
        assert meta["mda_event"] is event
        assert meta["runner_time_ms"] == told["runner_time_ms"]
        assert meta["exposure_ms"] == pytest.approx(told["exposure_ms"], abs=5e-4)
        assert meta["camera_metadata"] == told["camera_metadata"]
    block = dict(seen.summary["extra"][BLOCK])
    assert useq.MDASequence(**block.pop("sequence")) == ONE
    assert block == summary_of(ONE)["extra"][BLOCK]
    assert seen.summary["image_infos"][0]["plane_shape"] == (208, 16)


@pytest.mark.parametrize("how", ["acquire", "writer", "other-writer"])
def test_what_is_replayed_cannot_be_replaced(how: str, tmp_path: Path) -> None:
    raw, _ = store_run(tmp_path, ONE)
    before = read(raw)
    assert before.any()
    writer = OMEZarrWriter(raw, overwrite=True)

    def replace(scope: ReplayScope) -> None:
        if how == "acquire":
            scope.acquire(scope.sequence, raw.parent, overwrite=True)
        elif how == "writer":
            with ThreadRelay(writer).connected(scope.core.mda):
                scope.core.mda.run(scope.sequence)
        else:
            writer.sequenceStarted(ONE, summary_of(ONE))

    with opened_replay(raw) as scope, pytest.raises(OSError, match="or replayed"):
        replace(scope)
    np.testing.assert_array_equal(read(raw), before)
    OMEZarrWriter(raw, overwrite=True).checkSequence(ONE, summary_of(ONE))


def test_acquire(stored: Path, tmp_path: Path) -> None:
    with opened_replay(stored) as scope:
        acquisition = scope.acquire(scope.sequence, tmp_path / "out")
    assert acquisition.n_frames == acquisition.accounts.asked == 9
    assert_same_voxels(tmp_path / "out" / RAW, stored)
    assert_same_voxels(tmp_path / "out" / DESKEWED, stored.parent / DESKEWED)
    with pytest.raises(FileNotFoundError, match="did you mean"):
        open_microscope(f"replay:{tmp_path / 'out'}")


def test_one_scope_serves_many_runs(stored: Path) -> None:
    seen = Collect()
    with opened_replay(stored) as scope, ThreadRelay(seen).connected(scope.core.mda):
        scope.core.mda.run(ONE)
        scope.core.mda.run(ONE)
    assert len(seen.images) == 18
    assert seen.started == seen.finished == 2


def test_the_stock_sink_leaves_room_for_what_is_not_stored(tmp_path: Path) -> None:
    raw, _ = store_run(tmp_path, ONE, keep=lambda at: at["z"] not in (3, 8), live=False)
    with opened_replay(raw) as scope:
        scope.core.mda.run(ONE, output=tmp_path / "stock.ome.zarr")
        view = np.asarray(scope.core.mda.get_view())
    sent = np.stack([image for image, _, _ in frames_of(ONE)])
    sent[[3, 8]] = 0
    np.testing.assert_array_equal(view.reshape(sent.shape), sent)


@pytest.mark.slow
def test_an_acquisition_of_the_twin(tmp_path: Path) -> None:
    wanted = settings(bidirectional=True)
    sequence = SEQUENCE.replace(channels=CHANNELS, metadata=wanted)
    with opened(simulation__noise=True) as scope:
        scope.acquire(sequence, tmp_path / "live")
    with opened_replay(tmp_path / "live" / RAW) as scope:
        scope.acquire(scope.sequence, tmp_path / "again")
    for name in (RAW, DESKEWED):
        assert_same_voxels(tmp_path / "again" / name, tmp_path / "live" / name)
        assert documents(tmp_path / "again" / name) == documents(
            tmp_path / "live" / name
        )


def test_notes_come_along(tmp_path: Path) -> None:
    raw = OMEZarrWriter(tmp_path / "noted.ome.zarr")
    raw.sequenceStarted(ONE, summary_of(ONE))
    for frame in frames_of(ONE):
        raw.frameReady(*frame)
    raw.noteReady(Flag({"t": 0, "p": 0}, "an edge too many"))
    volts = np.arange(9.0)[:, None]
    raw.noteReady(Inputs(0, ("laser",), volts))
    raw.sequenceFinished(ONE)
    again = OMEZarrWriter(tmp_path / "again.ome.zarr")
    replay(raw.path, ONE, again)
    assert read_flags(again.path) == read_flags(raw.path) != ()
    inputs = read_inputs(again.path)
    assert inputs is not None
    np.testing.assert_array_equal(inputs.volts, volts)


def test_frames_that_are_not_stored_are_skipped_and_counted(tmp_path: Path) -> None:
    lost = {(0, 0, 0, 3), (1, 0, 1, 0), (1, 0, 1, 1)}

    def kept(index: dict[str, int]) -> bool:
        return tuple(index[axis] for axis in "tpcz") not in lost

    raw, _ = store_run(tmp_path, SEQUENCE, keep=kept, live=False)
    seen = Collect()
    scope = replay(raw, SEQUENCE, seen)
    sent = [frame for frame in frames_of(SEQUENCE) if kept(dict(frame[1].index))]
    assert [e.index for e in seen.events] == [e.index for _, e, _ in sent]
    np.testing.assert_array_equal(seen.images, [image for image, _, _ in sent])
    assert scope.engine.accounts.lost == 3
    assert scope.engine.accounts.asked == len(sent) + 3


def test_several_cameras(tmp_path: Path) -> None:
    """Of one exposure both frames are missing, of another one."""
    lost = {(0, 2, 0), (0, 2, 1), (1, 4, 1)}
    sequence = SEQUENCE.replace(stage_positions=(), time_plan=None)

    def kept(index: dict[str, int]) -> bool:
        return (index["c"], index["z"], index["cam"]) not in lost

    raw, live = store_run(tmp_path, sequence, keep=kept, scope=two_cameras())
    volumes = OMEZarrWriter(tmp_path / "volumes.ome.zarr")
    seen = Collect()
    scope = replay(raw, sequence, seen, Deskew(outputs=[volumes]))
    accounts = scope.engine.accounts
    assert (accounts.asked, accounts.popped, accounts.lost) == (18, 16, 2)
    assert len(seen.images) == 33
    assert seen.events[1].index["cam"] == 1
    assert_same_voxels(volumes.path, live)


# ---- the same end --------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 4])
def test_a_handlers_error_ends_it(at: int, stored: Path) -> None:
    broken, seen = Breaks(at), Collect()
    with (
        opened_replay(stored) as scope,
        pytest.raises(Broken),
        ThreadRelay(broken, seen).connected(scope.core.mda),
    ):
        scope.core.mda.run(ONE)
    assert seen.finished == (at > 0 or seen.started)
    assert not scope.engine.turn.running
    assert scope.engine.accounts.lost == 0


class Slow(Collect):
    """A handler that waits until it may go on, from its third frame on."""

    def __init__(self) -> None:
        super().__init__()
        self.held = threading.Event()
        self.may_go_on = threading.Event()

    def frameReady(self, image, event, meta):
        super().frameReady(image, event, meta)
        if len(self.images) == 3:
            self.held.set()
            self.may_go_on.wait(10)


def test_a_full_branch_holds_it_back_and_a_cancel_lets_go(tmp_path: Path) -> None:
    raw, _ = store_run(tmp_path, SEQUENCE, live=False)
    slow = Slow()
    plane_bytes = 16 * 208 * 2
    with opened_replay(raw) as scope:
        relay = ThreadRelay(slow, max_bytes=2 * plane_bytes)
        mda = scope.core.mda
        with relay.connected(mda):
            run = threading.Thread(target=mda.run, args=(SEQUENCE,))
            run.start()
            assert slow.held.wait(10)
            time.sleep(0.2)
            assert len(slow.images) == 3
            mda.cancel()
            latest_s = time.monotonic() + 5  # though the handler still holds on
            while not scope.engine.accounts.abandoned and time.monotonic() < latest_s:
                time.sleep(0.01)
            assert scope.engine.accounts.abandoned
            slow.may_go_on.set()
            run.join(10)
            assert not run.is_alive()
    assert mda.status.finish_reason is FinishReason.CANCELED
    accounts = scope.engine.accounts
    assert 3 <= accounts.popped == len(slow.images) < 12
    assert accounts.abandoned == accounts.asked - accounts.popped
    assert slow.finished == 1
    assert accounts.lost == 0


def test_at_the_recorded_pace(stored: Path) -> None:
    arrived: list[float] = []

    class Times:
        def frameReady(self, image, event, meta):
            arrived.append(time.perf_counter())

    with opened_replay(stored, pace="recorded") as scope:
        frames = Recording(stored)
        relay = ThreadRelay(Times())
        with relay.connected(scope.core.mda):
            scope.core.mda.run(ONE)
    assert frames.plan.n_events == 9
    assert arrived[-1] - arrived[0] > 0.8 * 8 * 2.5e-3


# ---- refusals ------------------------------------------------------------------

OTHERS = {
    "planes": (scan(channels=CHANNELS[:1], z_plan={"range": 4, "step": 0.4}), "planes"),
    "step": (scan(channels=CHANNELS[:1], z_plan={"range": 4, "step": 0.5}), "step_um"),
    "channel": (ONE.replace(channels=CHANNELS[1:]), r"channels\[0\].name: 561"),
    "channels": (ONE.replace(channels=CHANNELS), "channels: 2 asked for, 1 stored"),
    "times": (ONE.replace(time_plan={"interval": 0, "loops": 2}), "n_times"),
    "exposure": (
        ONE.replace(channels=[{"config": "488", "exposure": 2.434}]),
        "exposure_ms",
    ),
    "mode": (ONE.replace(metadata=settings(mode="off")), "mode"),
    "unplayable": (ONE.replace(channels=[{"config": "nm", "exposure": 2}]), "nm"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_sequence_is_refused(name: str, stored: Path) -> None:
    sequence, message = OTHERS[name]
    seen = Collect()
    with pytest.raises(PlanError, match=message):
        replay(stored, sequence, seen)
    assert not seen.images


def test_a_run_that_was_measured_is_accepted() -> None:
    scope = full()
    sequence = scan(
        channels=CHANNELS[:1],
        z_plan={"range": 20, "step": 0.4},
        metadata=settings(mode="stage"),
    )
    plan = plan_scan(sequence, scope)
    period_ms = plan.channels[0].timing.period_ms * 1.003
    measured = plan.measured(period_ms=period_ms)
    assert measured.stage is not None
    speed = measured.stage.speed_um_per_s * 1.02
    measured = measured.measured(period_ms=period_ms, stage_speed_um_per_s=speed)
    stored = Recording.__new__(Recording)
    stored.microscope, stored.plan = scope, measured
    stored.refuse_other(sequence)


def test_loose_events_are_refused(stored: Path) -> None:
    with opened_replay(stored) as scope, pytest.raises(PlanError, match="sequence"):
        scope.core.mda.run(list(ONE))


def test_there_is_no_camera(stored: Path) -> None:
    with opened_replay(stored) as scope:
        with pytest.raises(RuntimeError, match="no camera"):
            scope.snap()
        with pytest.raises(RuntimeError, match="acquired"):
            scope.describe_as(microscope())
    with pytest.raises(RuntimeError, match="closed"):
        scope.acquire(ONE, stored.parent / "never")


STORES = {
    "nothing": ("missing.ome.zarr", FileNotFoundError, "no store at .*missing"),
    "folder": ("", FileNotFoundError, r"no store at .*; did you mean .*raw\.ome\.zarr"),
    "volumes": (DESKEWED, ValueError, "volumes"),
}


@pytest.mark.parametrize("name", STORES)
def test_a_store_that_cannot_be_replayed(name: str, stored: Path) -> None:
    file, kind, message = STORES[name]
    with pytest.raises(kind, match=message):
        open_microscope(f"replay:{stored.parent / file}")


def test_a_store_of_another_engine(tmp_path: Path) -> None:
    writer = OMEZarrWriter(tmp_path / "other.ome.zarr")
    summary = summary_of(ONE)
    block = summary["extra"][BLOCK]
    summary["extra"][BLOCK] = {"stream": block["stream"]}
    writer.sequenceStarted(ONE, summary)
    writer.sequenceFinished(ONE)
    with pytest.raises(ValueError, match="does not tell its microscope"):
        open_microscope(f"replay:{writer.path}")


def test_no_such_pace(stored: Path) -> None:
    with pytest.raises(ValueError, match="fast, recorded"):
        opened_replay(stored, pace="slow")
