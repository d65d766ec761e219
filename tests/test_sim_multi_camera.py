"""Several cameras behind one Multi Camera device, as stock tools see them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import useq
from pymmcore_plus import CMMCorePlus

from bench import (
    BOTH_OFF,
    FIRST,
    OFFSET,
    RISE_MS,
    ROWS,
    WINDOW_MS,
    Bench,
    Ruler,
    described,
    on_bench,
    sensor_threads,
    wait_for,
)
from opm_engine.config import Microscope

LIGHT = 1000 * (WINDOW_MS - RISE_MS)
SENSORS = ("Left", "Right")


@pytest.fixture
def bench(demo: Microscope) -> Iterator[Bench]:
    camera = {"label": "Both", "sensors": SENSORS, "profile": "demo"}
    with on_bench(described(demo, camera=camera), Ruler()) as bench:
        bench.play([FIRST, BOTH_OFF])
        yield bench


def channel(tags: dict[str, str]) -> int:
    return int(tags["Both-CameraChannelIndex"])


def popped(core: CMMCorePlus, n: int) -> list[tuple[np.ndarray, dict[str, str]]]:
    frames: list[tuple[np.ndarray, dict[str, str]]] = []

    def pop() -> bool:
        while core.getRemainingImageCount():
            image, tags = core.popNextImageAndMD()
            frames.append((image, dict(tags)))
        return len(frames) >= n

    wait_for(pop)
    return frames


def test_the_core_says_which_cameras_there_are(bench: Bench) -> None:
    core = bench.core
    assert core.getNumberOfCameraChannels() == 2
    assert [core.getCameraChannelName(k) for k in (0, 1)] == list(SENSORS)
    assert [core.getPhysicalCameraDevice(k) for k in (0, 1)] == list(SENSORS)
    assert core.getImageHeight() == ROWS
    core.setCameraDevice("Left")
    assert core.getNumberOfCameraChannels() == 1


def test_each_exposure_gives_an_image_of_each_camera(bench: Bench) -> None:
    core = bench.core
    rises = bench.board.rises("PFI0")
    core.startSequenceAcquisition(4, 0, True)
    frames = popped(core, 8)
    core.stopSequenceAcquisition()
    assert len(frames) == 8
    assert bench.board.rises("PFI0") >= rises + 4
    for image, tags in frames:
        number = channel(tags)
        assert tags["Camera"] == tags["Both-CameraChannelName"] == SENSORS[number]
        assert image == pytest.approx(
            np.full(image.shape, OFFSET + LIGHT / 2**number), abs=0.51
        )
    for number in (0, 1):
        own = [tags for _, tags in frames if channel(tags) == number]
        assert [int(tags["FrameNumber"]) for tags in own] == [0, 1, 2, 3]
    order = [channel(tags) for _, tags in frames]
    assert order != [0, 1] * 4, "real cameras keep no order"


def test_a_snap_has_an_image_of_each_camera(bench: Bench) -> None:
    rises = bench.board.rises("PFI0")
    bench.core.snapImage()
    assert bench.board.rises("PFI0") == rises + 1
    first, second = bench.core.getImage(0), bench.core.getImage(1)
    assert first.max() - OFFSET == pytest.approx(2 * (second.max() - OFFSET), abs=2)
    assert (bench.core.getImage() == first).all()
    assert not sensor_threads()


def test_settings_reach_all_cameras(bench: Bench) -> None:
    core = bench.core
    core.setExposure(7)
    core.setROI(0, 0, 8, 16)
    for label in SENSORS:
        assert core.getExposure(label) == pytest.approx(7, abs=0.01)
        assert list(core.getROI(label)) == [0, 0, 8, 16]
    core.clearROI()
    assert list(core.getROI("Right")) == [0, 0, 1024, 512]


def test_each_camera_can_be_used_alone(bench: Bench) -> None:
    core = bench.core
    core.setCameraDevice("Right")
    core.setROI(0, 0, 8, 8)
    rises = bench.board.rises("PFI0")
    core.snapImage()
    core.startSequenceAcquisition(2, 0, True)
    assert len(popped(core, 2)) == 2
    core.stopSequenceAcquisition()
    assert bench.board.rises("PFI0") == rises, "it is not wired to the board"
    assert not sensor_threads()


def test_the_stock_engine_tells_them_apart(bench: Bench) -> None:
    seen: list[tuple[int, int]] = []

    def see(image: np.ndarray, event: useq.MDAEvent) -> None:
        number = event.index["cam"]
        light = image.max() - OFFSET
        assert light == pytest.approx(LIGHT / 2**number, abs=2) or light == 0
        seen.append((event.index["t"], number))

    bench.core.mda.events.frameReady.connect(see)
    bench.core.mda.run(
        useq.MDASequence(
            channels=[{"config": "488", "exposure": 5}],
            time_plan={"interval": 0, "loops": 3},
        )
    )
    assert seen == [(t, number) for t in range(3) for number in (0, 1)]
