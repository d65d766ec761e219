"""Devices beside the board: what a run sets, reads back, restores and refuses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opm_engine import DaqError, PlanError, ThreadRelay, open_microscope
from opm_engine import instrument as instrument_module
from opm_engine.accounts import FrameAccountError
from opm_engine.config import ConfigError
from opm_engine.instrument import InstrumentError
from opm_engine.plan import BLOCK
from sequences import TWO_CHANNELS, scan, settings
from twins import Collect, Ruler, microscope, opened

POWERED = [
    {"name": name, "line": line, "power_property": ["Lasers", f"Power-{name}"]}
    for name, line in (("488", "port0/line0"), ("561", "port0/line1"))
]


def run(scope, sequence) -> Collect:
    collect = Collect()
    relay = ThreadRelay(collect)
    with relay.connected(scope.core.mda):
        scope.core.mda.run(sequence)
    return collect


def during(scope, look) -> list[Any]:
    """What ``look()`` returns at each frame of the runs to come."""
    seen: list[Any] = []
    scope.core.mda.events.frameReady.connect(
        lambda image, event, meta: seen.append(look())
    )
    return seen


def test_laser_power_is_set_recorded_and_restored() -> None:
    sequence = scan(
        metadata=settings(laser_power={"561": 25.0}), z_plan={"range": 1, "step": 0.5}
    )
    with opened(Ruler(), lasers=POWERED) as scope:
        core = scope.core
        core.setProperty("Lasers", "Power-488", 80)
        collect = run(scope, sequence)
        assert float(core.getProperty("Lasers", "Power-561")) == 100
        plain = run(scope, scan(z_plan={"range": 1, "step": 0.5}))
    block = collect.summary["extra"][BLOCK]
    assert block["laser_power"] == {"488": 80, "561": 25}
    assert plain.summary["extra"][BLOCK]["laser_power"] == {"488": 80, "561": 100}
    bright = np.array([image.max() for image in plain.images], float) - 100
    dim = np.array([image.max() for image in collect.images], float) - 100
    np.testing.assert_allclose(dim / bright, [1, 0.25] * 3, rtol=1e-3)


def test_every_channels_preset_is_applied() -> None:
    with opened() as scope:
        core = scope.core
        ready = during(
            scope,
            lambda: [core.getProperty("Lasers", f"Ready-{n}") for n in ("488", "561")],
        )
        core.mda.run(scan())
        assert ready == [["On", "On"]] * 10


def test_presets_that_disagree() -> None:
    with opened(lasers=POWERED) as scope:
        core = scope.core
        for name, value in (("488", "10"), ("561", "20")):
            core.defineConfig("Channel", name, "Lasers", "Power-488", value)
        with pytest.raises(InstrumentError, match=r'Lasers\.Power-488.*"tpcz"'):
            core.mda.run(scan())
        power = during(scope, lambda: core.getProperty("Lasers", "Power-488"))
        core.mda.run(scan(axis_order="tpcz"))
        assert [float(value) for value in power] == [10] * 5 + [20] * 5


def test_the_shutter_is_open_for_frames_only() -> None:
    with opened() as scope:
        scope.core.setAutoShutter(True)
        states = during(scope, scope.core.getShutterOpen)
        scope.core.mda.run(scan())
        assert states == [True] * 10
        assert not scope.core.getShutterOpen()


def test_the_buffer_holds_seconds_of_frames() -> None:
    sequence = scan(time_plan={"interval": 0, "loops": 100})
    with opened() as scope:
        scope.core.setCircularBufferMemoryFootprint(1)
        capacity = during(scope, scope.core.getBufferTotalCapacity)
        scope.core.mda.events.frameReady.connect(lambda *_: scope.core.mda.cancel())
        scope.core.mda.run(sequence)
        assert capacity[0] >= 3000 / 5


CAMERA_FAULTS = {
    "unknown": ({"TriggerSauce": "Internal"}, r'properties\["TriggerSauce"\].*it has'),
    "value": ({"TriggerSource": "Moon"}, r'properties\["TriggerSource"\] = .*refused'),
}


@pytest.mark.parametrize("case", CAMERA_FAULTS)
def test_camera_properties_that_cannot_be(case: str) -> None:
    properties, says = CAMERA_FAULTS[case]
    wrong = microscope(camera__properties=properties)
    with pytest.raises(InstrumentError, match=says):
        open_microscope(wrong)


class OddCore:
    """A core some of whose devices do not do what they are told."""

    def __init__(self, core, **answers: Any) -> None:
        self._core = core
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        if name in self._answers:
            return lambda *_: self._answers[name]
        return getattr(self._core, name)


ODD = {
    "deaf": ({"setProperty": None}, "but it reads 'External'"),
    "8-bit": ({"getBytesPerPixel": 1}, "16-bit"),
    "region": ({"getROI": [0, 0, 32, 200]}, r"camera\.roi = .*took"),
}


@pytest.mark.parametrize("case", ODD)
def test_a_camera_that_does_not_obey(case: str) -> None:
    answers, says = ODD[case]
    with opened() as scope:
        scope.core.setProperty("Camera", "TriggerSource", "External")
        with pytest.raises(InstrumentError, match=says):
            instrument_module.prepare_camera(
                OddCore(scope.core, **answers), scope.microscope
            )


def test_an_exposure_that_the_camera_rounds() -> None:
    with opened() as scope:
        scope.engine.microscope = microscope(
            camera__line_time_us=0.1, daq__galvo__settle_ms=0.0
        )
        with pytest.raises(InstrumentError, match=r"camera set 4\.999"):
            scope.core.mda.run(scan(z_plan={"range": 0.02, "step": 0.01}))


def test_a_region_that_the_camera_does_not_take() -> None:
    with opened() as scope:
        scope.engine.microscope = microscope(camera__roi=[0, 0, 32, 4096])
        with pytest.raises((InstrumentError, ValueError), match="4096"):
            scope.core.mda.run(scan(channels=[{"config": "488", "exposure": 50}]))


def test_missing_micro_manager_configuration(tmp_path: Path) -> None:
    table = microscope().model_dump(mode="json", exclude_none=True)
    del table["simulation"]
    real = type(microscope()).from_table({**table, "mm_config": str(tmp_path / "x")})
    with pytest.raises(ConfigError, match="mm_config"):
        open_microscope(real)


def test_a_burst_of_another_microscope() -> None:
    with opened(camera__roi=[0, 0, 32, 300]) as other:
        bursts = list(other.engine.bursts(scan()))
    with opened() as scope:
        with pytest.raises(PlanError, match=r"camera\.roi"):
            scope.core.mda.run(bursts)
        assert scope.twin.board.open_tasks() == []


# ------------------------------------------------------------------- frames and runs


def test_overflow_delivers_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrument_module, "MAX_BUFFER_BYTES", 2**20)
    sequence = scan(time_plan={"interval": 0, "loops": 40})
    with opened() as scope:
        scope.core.setCircularBufferMemoryFootprint(1)
        rises = scope.twin.board.rises
        stop = rises("PFI0") + 200
        numbers = []

        def slow(image, event, meta):
            numbers.append(int(meta["camera_metadata"]["FrameNumber"]))
            while rises("PFI0") < stop:
                time.sleep(0.01)

        scope.core.mda.events.frameReady.connect(slow)
        with pytest.raises(MemoryError, match="frames were lost"):
            scope.core.mda.run(sequence)
        lit = [n for n in range(439) if n % 11 != 10]
        assert 50 < len(numbers) < 200
        assert numbers == lit[: len(numbers)]
        assert not scope.twin.board.line("port1/line1")


def test_a_camera_that_stops_early() -> None:
    with opened() as scope:
        core, frames = scope.core, []

        def stop_at_5(image, event, meta):
            frames.append(event)
            if len(frames) == 5:
                core.stopSequenceAcquisition()

        core.mda.events.frameReady.connect(stop_at_5)
        with pytest.raises(FrameAccountError, match="406 frames asked"):
            core.mda.run(scan(time_plan={"interval": 0, "loops": 37}))


def test_more_trailing_exposures_than_usual() -> None:
    with opened(camera__trailing_exposures=2) as scope:
        rises = scope.twin.board.rises

        def dawdle(image, event, meta):
            if event.index["z"] == 4 and event.index["c"] == 1:
                start = rises("PFI0")
                while rises("PFI0") < start + 5:
                    time.sleep(0.005)

        scope.core.mda.events.frameReady.connect(dawdle)
        with pytest.raises(FrameAccountError, match="trailing_exposures = 2"):
            scope.core.mda.run(scan())


def test_accounts_of_a_cancelled_run(tmp_path: Path) -> None:
    sequence = scan(time_plan={"interval": 0, "loops": 500})
    with opened() as scope:
        cancel = scope.core.mda.cancel
        acquisition = scope.acquire(
            sequence,
            tmp_path / "out",
            on_frame=lambda done, total: cancel() if done == 50 else None,
        )
    report = acquisition.report()
    assert report["cancelled"]
    assert report["frames_lost"] == 0
    assert 50 <= report["frames_popped"] == report["frames_counted"] < 5000
    assert report["frames_asked"] == 500 * 11 - 1
    assert report["frames_handled"] >= 50


def test_a_second_run_is_refused_and_harms_nobody(tmp_path: Path) -> None:
    first = scan(time_plan={"interval": 0, "loops": 30})
    collect = Collect()
    relay = ThreadRelay(collect)
    with opened() as scope:
        with relay.connected(scope.core.mda):
            thread = scope.core.run_mda(first)
            while not collect.images:
                time.sleep(0.01)
            with pytest.raises(RuntimeError, match="in progress"):
                scope.acquire(scan(), tmp_path / "out")
            with pytest.raises(RuntimeError, match="in progress"):
                scope.core.mda.run(scan())
            thread.join()
        assert len(collect.images) == 300
        assert not (tmp_path / "out").exists()
        assert len(run(scope, scan()).images) == 10


def test_a_refused_acquisition_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "o{run:03d}"
    with opened() as scope:
        scope.twin.board.fail("StartTask", -200279)
        with pytest.raises(DaqError):
            scope.acquire(scan(), out)
        assert list(tmp_path.iterdir()) == []
        assert scope.acquire(scan(), out).out == tmp_path / "o000"
        assert scope.acquire(scan(), out).out == tmp_path / "o001"
    assert {path.name for path in tmp_path.iterdir()} == {"o000", "o001"}
    with pytest.raises(RuntimeError, match="closed"):
        scope.acquire(scan(), out)


def test_acquire_with_the_stock_engine(tmp_path: Path) -> None:
    sequence = scan(metadata=settings(mode="off"), channels=TWO_CHANNELS[:1])
    with opened() as scope:
        acquisition = scope.acquire(sequence, tmp_path / "out")
    assert acquisition.n_frames == 5
    assert acquisition.projections is None
