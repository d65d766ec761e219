"""The simulated camera, galvo and core against the board model.

The specimen of most tests is a ruler: its brightness says which laser shone and where
the sheet was, so that pixels can be read back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import useq
from hypothesis import given, settings
from hypothesis import strategies as st
from pymmcore_plus import FocusDirection
from scipy import signal

from bench import (
    BOTH_OFF,
    COLUMNS,
    EXPOSURE_S,
    FIRST,
    LINE_S,
    OFFSET,
    RISE_MS,
    ROWS,
    SECOND,
    WINDOW_MS,
    Bench,
    Ruler,
    described,
    on_bench,
    sensor_threads,
    wait_for,
)
from opm_engine.config import Microscope
from opm_engine.simulation.core import SimulatedCore
from opm_engine.simulation.galvo import DAMPING, SETTLED_RAD, GalvoResponse
from opm_engine.simulation.sensor import WAITING_FRAMES
from opm_engine.simulation.shutter import RollingShutter
from opm_engine.simulation.specimen import Optics, Specimen


@pytest.fixture
def bench(demo: Microscope) -> Iterator[Bench]:
    with on_bench(described(demo), Ruler()) as bench:
        yield bench


# ------------------------------------------------------------------ light


@pytest.mark.parametrize(
    ("lasers", "volts", "enable", "expected"),
    [
        pytest.param([BOTH_OFF] * 2, 0.0, True, (0, 0), id="off is dark"),
        pytest.param([FIRST, BOTH_OFF], 0.0, True, (1000, 1000), id="first laser"),
        pytest.param([SECOND, BOTH_OFF], 0.0, True, (3000, 3000), id="second laser"),
        pytest.param([FIRST, BOTH_OFF], 0.5, True, (2000, 2000), id="sheet at 10 um"),
        pytest.param([FIRST, BOTH_OFF], -0.2, True, (600, 600), id="sheet at -4 um"),
        pytest.param([FIRST, BOTH_OFF], 0.0, False, (0, 0), id="laser_enable is low"),
        pytest.param(
            [FIRST, BOTH_OFF, SECOND, BOTH_OFF],
            0.0,
            True,
            (1000, 3000),
            id="lasers take turns",
        ),
        pytest.param(
            [(True, True), BOTH_OFF], 0.0, True, (4000, 4000), id="lasers together"
        ),
    ],
)
def test_pixels_follow_lasers_and_galvo(
    bench: Bench,
    lasers: list[tuple[bool, bool]],
    volts: float,
    enable: bool,
    expected: tuple[int, int],
) -> None:
    bench.play(lasers, [volts] * 2, enable=enable)
    frames = bench.acquire(4).astype(float)
    for number, frame in enumerate(frames):
        counts = OFFSET + expected[number % 2] * (WINDOW_MS - RISE_MS)
        assert frame == pytest.approx(np.full(frame.shape, counts), abs=0.51)


def test_power_scales_one_laser(bench: Bench) -> None:
    bench.core.setProperty("Lasers", "Power-488", 50)
    bench.play([(True, True), BOTH_OFF])
    counts = OFFSET + (500 + 3000) * (WINDOW_MS - RISE_MS)
    assert bench.acquire(1)[0, 0, 0] == pytest.approx(counts, abs=0.51)


def test_light_between_exposures_smears_two_frames(bench: Bench) -> None:
    # Blanking inverted: on while rows of two frames expose; the lasers take turns.
    bench.play([BOTH_OFF, FIRST, BOTH_OFF, SECOND])
    frames = bench.acquire(4)[:, :, 0].astype(float) - OFFSET
    rows = np.arange(ROWS)
    after_ms = 1e3 * LINE_S * rows
    before_ms = 1e3 * LINE_S * (ROWS - 1 - rows)
    away_from_rise = slice(8, -8)
    for frame, (before, after) in zip(
        frames[1:], [(1000, 3000), (3000, 1000), (1000, 3000)], strict=True
    ):
        # The pulse before this frame's window has risen by the time it is seen.
        expected = before * before_ms + after * (after_ms - RISE_MS)
        assert frame[away_from_rise] == pytest.approx(expected[away_from_rise], abs=1.0)


def test_light_left_on_fills_the_whole_exposure(bench: Bench) -> None:
    bench.play([FIRST, FIRST])
    frames = bench.acquire(3).astype(float)
    counts = OFFSET + 1000 * 1e3 * EXPOSURE_S
    assert frames[1:] == pytest.approx(np.full(frames[1:].shape, counts), abs=0.51)


def test_unsettled_galvo_shifts_the_plane(bench: Bench, demo: Microscope) -> None:
    light = [FIRST, BOTH_OFF, FIRST, BOTH_OFF]
    # 0 and 20 µm in turns, stepped either when the rows stop or when light comes.
    bench.play(light, [0.0, 1.0, 1.0, 0.0])
    settled = bench.acquire(4)[2:, 0, 0]
    for task in ("enable", "lasers", "galvo", "edges"):
        bench.board.clear(task)
    bench.play(light, [0.0, 0.0, 1.0, 1.0])
    late = bench.acquire(4)[2:, 0, 0]

    light_ms = WINDOW_MS - RISE_MS
    at = OFFSET + np.array([1000, 3000]) * light_ms
    assert settled == pytest.approx(at, abs=1.0)
    # The lag of a damped step integrates to 2 zeta / omega; the rising laser does not
    # see its beginning.
    lag_ms = 2 * DAMPING / SETTLED_RAD * demo.daq.galvo.settle_ms
    missing_ms = 20 * lag_ms - 20 * RISE_MS
    lag_um = np.abs(late - at) / 100 / light_ms
    assert lag_um == pytest.approx(missing_ms / light_ms, rel=0.03)


# ------------------------------------------------------- geometry of the image


@pytest.mark.parametrize(
    ("changes", "volts", "expected"),
    [
        pytest.param({}, 0.5, (50.0, 10.0), id="plain"),
        pytest.param({"flip_rows": True}, 0.5, (205.0, 10.0), id="rows flipped"),
        pytest.param({"flip_columns": True}, 0.5, (50.0, 21.0), id="columns flipped"),
        pytest.param({"scan_sign": -1}, -0.5, (50.0, 10.0), id="scan reversed"),
    ],
)
def test_bead_lands_on_the_pixel_that_the_geometry_names(
    demo: Microscope,
    changes: dict[str, object],
    volts: float,
    expected: tuple[float, float],
) -> None:
    theta, px = np.deg2rad(30), 0.115
    along_um = 50 * px
    field_um = np.array(
        [along_um * np.sin(theta), 10 + along_um * np.cos(theta), 10 * px]
    )
    stage_um = (7.0, -30.0, 2.0)
    specimen = Specimen(
        [field_um + np.array(stage_um)[::-1]], [[2000.0]], Optics(30, px)
    )
    bench = Bench(
        described(demo, camera={"roi": (4, 8, 32, 256)}, geometry=changes), specimen
    )
    try:
        bench.core.setXYPosition(*stage_um[:2])
        bench.core.setPosition(stage_um[2])
        bench.play([FIRST, BOTH_OFF], [volts] * 2)
        frame = bench.acquire(1)[0].astype(float) - OFFSET
        rows, columns = np.indices(frame.shape)
        found = (frame * rows).sum(), (frame * columns).sum()
        assert np.divide(found, frame.sum()) == pytest.approx(expected, abs=0.1)

        # Another region of the sensor shows another part of the sample.
        bench.core.setROI(6, 28, 26, 236)
        moved = bench.acquire(1)[0].astype(float) - OFFSET
        assert moved == pytest.approx(frame[20:, 2:-4], abs=200)
        assert np.unravel_index(moved.argmax(), moved.shape) == (
            round(expected[0]) - 20,
            round(expected[1]) - 2,
        )
    finally:
        bench.core.close()


def test_noise_is_shot_and_read_noise(demo: Microscope) -> None:
    bench = Bench(described(demo, simulation={"noise": True}), Ruler())
    try:
        bench.play([FIRST, BOTH_OFF, BOTH_OFF, BOTH_OFF])
        lit, dark = bench.acquire(2).astype(float)
    finally:
        bench.core.close()
    light = 1000 * (WINDOW_MS - RISE_MS)
    read_variance = (1.4 / 0.5) ** 2
    assert dark.mean() == pytest.approx(OFFSET, abs=0.3)
    assert dark.var() == pytest.approx(read_variance + 1 / 12, rel=0.1)
    assert lit.mean() == pytest.approx(OFFSET + light, rel=0.01)
    assert lit.var() == pytest.approx(light / 0.5 + read_variance, rel=0.1)


# ------------------------------------------------------------- camera as master


def test_camera_exposes_on_until_stopped(bench: Bench) -> None:
    bench.core.startSequenceAcquisition(3, 0, True)
    assert len(bench.pop(3)) == 3
    wait_for(lambda: bench.board.rises("PFI0") > 6)
    assert not bench.core.isSequenceRunning()
    assert bench.core.getRemainingImageCount() == 0
    bench.core.stopSequenceAcquisition()
    seen = bench.board.rises("PFI0")
    assert not sensor_threads()
    assert not bench.board.line("PFI0")
    time.sleep(0.02)
    assert bench.board.rises("PFI0") == seen


def test_exposures_and_stamps_are_evenly_spaced(bench: Bench) -> None:
    core = bench.core
    core.startSequenceAcquisition(5, 0, True)
    wait_for(lambda: core.getRemainingImageCount() == 5)
    core.stopSequenceAcquisition()
    stamps = [core.popNextImageAndMD()[1] for _ in range(5)]
    assert [int(stamp["FrameNumber"]) for stamp in stamps] == [0, 1, 2, 3, 4]
    starts_s = np.array([float(stamp["ExposureStart_ms"]) for stamp in stamps]) / 1e3
    assert np.diff(starts_s) == pytest.approx(EXPOSURE_S)

    times_s, levels = bench.board.digital_trace("PFI0", starts_s[0], starts_s[-1])
    rises_s, falls_s = times_s[1:][levels[1:]], times_s[1:][~levels[1:]]
    assert rises_s[:3] == pytest.approx(starts_s[:3] + (ROWS - 1) * LINE_S)
    assert falls_s[:3] == pytest.approx(starts_s[:3] + EXPOSURE_S)


@pytest.mark.parametrize(
    ("asked_ms", "lines"),
    [(5, 1027), (0.001, 1), (LINE_S * 300.4e3, 300), (LINE_S * 300.6e3, 301)],
)
def test_exposure_is_quantised_to_the_line_time(
    bench: Bench, asked_ms: float, lines: int
) -> None:
    core = bench.core
    core.setExposure(asked_ms)
    assert core.getExposure() == pytest.approx(lines * LINE_S * 1e3)
    assert float(core.getProperty("Camera", "ReadoutTime")) == pytest.approx(1.246208)
    assert float(core.getProperty("Camera", "FrameInterval")) == pytest.approx(
        max(lines * LINE_S * 1e3, 1.246208)
    )


@pytest.mark.parametrize(
    ("kind", "exposure_lines", "active_lines"),
    [
        ("AllRows", 100, (49, 100)),
        ("AllRows", 50, (49, 50)),
        ("AllRows", 49, None),
        ("FirstRow", 100, (0, 99)),  # readout overlaps: low for one line
        ("FirstRow", 30, (0, 30)),
        ("AnyRow", 100, (0, 99)),
        ("AnyRow", 30, (0, 49)),
    ],
)
def test_when_exposure_out_is_active(
    kind: str, exposure_lines: int, active_lines: tuple[int, int] | None
) -> None:
    shutter = RollingShutter(50, 1e-5, exposure_lines)
    active_s = shutter.active_s(kind)
    if active_lines is None:
        assert active_s is None
    else:
        assert active_s == pytest.approx(np.array(active_lines) * 1e-5)
    events = shutter.events(1.0, kind)
    times_s = [next(events).time_s for _ in range(30)]
    assert times_s == sorted(times_s)


def test_polarity_sets_the_idle_level(bench: Bench) -> None:
    assert not bench.board.line("PFI0")
    bench.core.setProperty("Camera", "ExposureOutPolarity", "ActiveLow")
    assert bench.board.line("PFI0")
    rises = bench.board.rises("PFI0")
    bench.play([BOTH_OFF, FIRST])  # the first edge falls, into the exposure
    frame = bench.acquire(2)[1]
    assert bench.board.line("PFI0")
    assert bench.board.rises("PFI0") > rises
    assert frame[128, 0] < OFFSET + 1000 * 1e3 * ROWS * LINE_S, "light between only"


def test_snap_is_one_dark_exposure(bench: Bench) -> None:
    rises = bench.board.rises("PFI0")
    bench.core.snapImage()
    image = bench.core.getImage()
    assert bench.board.rises("PFI0") == rises + 1
    assert image.shape == (ROWS, COLUMNS)
    assert (image == OFFSET).all()


def test_stop_is_heard_while_waiting_for_a_trigger(bench: Bench) -> None:
    bench.core.setProperty("Camera", "TriggerSource", "External")
    rises = bench.board.rises("PFI0")
    bench.core.startSequenceAcquisition(3, 0, True)
    assert bench.core.isSequenceRunning()
    time.sleep(0.02)
    bench.core.stopSequenceAcquisition()
    assert not bench.core.isSequenceRunning()
    assert not sensor_threads()
    assert bench.board.rises("PFI0") == rises


def test_others_may_ask_whether_it_runs(bench: Bench) -> None:
    core, over = bench.core, threading.Event()

    def ask() -> None:
        while not over.is_set():
            core.isSequenceRunning()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(60):
            core.startSequenceAcquisition(1000, 0, True)
            assert core.isSequenceRunning()
            core.stopSequenceAcquisition()
    finally:
        over.set()
        asking.join()


def test_stop_is_heard_while_nobody_takes_the_frames(bench: Bench) -> None:
    rises = bench.board.rises("PFI0")
    frames = bench.camera.start_sequence(50, np.empty)
    wait_for(lambda: bench.board.rises("PFI0") > rises + WAITING_FRAMES)
    time.sleep(0.02)  # one frame later the sensor is stuck with a frame in its hands
    bench.camera.stop_exposing()
    assert not sensor_threads()
    assert list(frames) == []


def test_stall_stops_frames_and_edges(bench: Bench) -> None:
    bench.camera.stall_after = 2
    rises = bench.board.rises("PFI0")
    bench.core.startSequenceAcquisition(5, 0, True)
    assert len(bench.pop(2)) == 2
    time.sleep(0.03)
    assert bench.core.isSequenceRunning()
    assert bench.core.getRemainingImageCount() == 0
    assert bench.board.rises("PFI0") == rises + 2
    bench.core.stopSequenceAcquisition()


def test_settings_wait_for_the_frames(bench: Bench) -> None:
    core = bench.core
    core.setProperty("Camera", "TriggerSource", "External")
    core.startSequenceAcquisition(1, 0, True)
    with pytest.raises(RuntimeError, match="while frames are acquired"):
        core.setROI(0, 0, 8, 8)
    with pytest.raises(RuntimeError, match="while frames are acquired"):
        core.setExposure(1)
    core.stopSequenceAcquisition()
    core.setROI(0, 0, 8, 8)
    assert core.getROI() == [0, 0, 8, 8]
    with pytest.raises(ValueError, match="ROI"):
        core.setROI(1020, 0, 8, 8)
    core.clearROI()
    assert core.getROI() == [0, 0, 1024, 512]


def test_a_new_setting_ends_trailing_exposures(bench: Bench) -> None:
    bench.core.startSequenceAcquisition(2, 0, True)
    bench.pop(2)
    bench.core.setExposure(1)
    assert not sensor_threads()
    assert not bench.board.line("PFI0")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_broken_optics_end_the_sequence(demo: Microscope) -> None:
    class Broken(Ruler):
        def plane(self, offset_um: float, *args: object) -> np.ndarray:
            if offset_um:
                msg = "broken"
                raise RuntimeError(msg)
            return super().plane(offset_um, *args)

    bench = Bench(described(demo), Broken())
    try:
        bench.play([FIRST, BOTH_OFF], [0.1, 0.1])
        bench.core.startSequenceAcquisition(3, 0, True)
        wait_for(lambda: not bench.core.isSequenceRunning())
        assert bench.core.getRemainingImageCount() == 0
    finally:
        bench.core.close()


# --------------------------------------------------------------------- core


def test_ring_holds_whole_frames_and_wraps(bench: Bench) -> None:
    core = bench.core
    frame_bytes = ROWS * COLUMNS * 2
    core.setROI(0, 0, 24, 256)
    core.setCircularBufferMemoryFootprint(1)
    core.setROI(0, 0, COLUMNS, ROWS)
    core.setExposure(1.3)
    n = 3 * 2**20 // frame_bytes
    assert len(bench.acquire(n)) == n, "more than three times round the ring"
    assert not core.isBufferOverflowed()
    assert core.getBufferTotalCapacity() == 2**20 // frame_bytes


def test_core_describes_the_microscope(bench: Bench) -> None:
    core = bench.core
    assert core.getPixelSizeUm() == 0.115
    assert core.getAvailableConfigs("Channel") == ("488", "561")
    core.setConfig("Channel", "561")
    assert core.getCurrentConfig("Channel") == "561"
    assert core.getProperty("Lasers", "Ready-561") == "On"
    assert core.getCameraDevice() == "Camera"
    assert (core.getXYStageDevice(), core.getFocusDevice()) == ("XY", "Z")
    assert core.getFocusDirection("Z") == FocusDirection.TowardSample
    with pytest.raises(ValueError, match="Power-488"):
        core.setProperty("Lasers", "Power-488", 120)


def test_stock_engine_runs_a_plain_sequence(bench: Bench) -> None:
    frames: list[useq.MDAEvent] = []

    def count(image: np.ndarray, event: useq.MDAEvent) -> None:
        assert (image == OFFSET).all()
        frames.append(event)

    bench.core.mda.events.frameReady.connect(count)
    bench.core.mda.run(
        useq.MDASequence(
            channels=[{"config": "488", "exposure": 2}],
            z_plan={"range": 2, "step": 1},
            stage_positions=[(0, 0, 0), (40, 10, 3)],
        )
    )
    assert len(frames) == 6


def test_close_leaves_no_thread_and_may_be_called_twice(demo: Microscope) -> None:
    before = set(threading.enumerate())
    bench = Bench(described(demo), Ruler())
    bench.core.startSequenceAcquisition(1000, 0, True)
    wait_for(lambda: bench.core.getRemainingImageCount() > 2)
    bench.core.close()
    bench.core.close()
    assert set(threading.enumerate()) <= before
    assert isinstance(bench.core, SimulatedCore)


# -------------------------------------------------------------------- galvo


STEPS = st.lists(
    st.tuples(st.integers(5, 200), st.floats(-5, 5)), min_size=1, max_size=5
)


@settings(deadline=None, max_examples=40)
@given(start_v=st.floats(-5, 5), steps=STEPS, cut=st.floats(0, 1))
def test_galvo_propagates_exactly(
    start_v: float, steps: list[tuple[int, float]], cut: float
) -> None:
    lengths_us, volts = (np.array(column) for column in zip(*steps, strict=True))
    trace = (np.concatenate([[0], np.cumsum(lengths_us)[:-1]]) * 1e-6, volts)
    times_s = np.arange(lengths_us.sum()) * 1e-6
    whole = GalvoResponse(0.0, start_v, settle_ms=0.4).positions(trace, times_s)

    # The same system, stepped by someone else.
    omega = SETTLED_RAD / 0.4e-3
    system = signal.lti([omega**2], [1, 2 * DAMPING * omega, omega**2])
    drive = np.repeat(volts, lengths_us) - start_v
    _, found, _ = signal.lsim(system, drive, times_s, interp=False)
    assert whole == pytest.approx(found + start_v, abs=1e-6)

    # Advancing in between changes nothing.
    halfway = GalvoResponse(0.0, start_v, settle_ms=0.4)
    halfway.advance(trace, cut * times_s[-1])
    later = times_s >= halfway.time_s
    rest = halfway.positions(trace, times_s[later])
    assert rest == pytest.approx(whole[later], abs=1e-9)


@pytest.mark.parametrize("settle_ms", [0.05, 0.8, 3.0], ids=str)
def test_galvo_settles_when_it_says(settle_ms: float) -> None:
    trace = (np.array([0.0]), np.array([1.0]))
    times_s = np.linspace(0, 3e-3 * settle_ms, 3001)
    off = np.abs(GalvoResponse(settle_ms=settle_ms).positions(trace, times_s) - 1)
    latest_s = times_s[np.flatnonzero(off > 0.01)[-1]]
    assert latest_s == pytest.approx(settle_ms * 1e-3, rel=2e-3)


def test_no_galvo_is_endlessly_fast() -> None:
    trace = (np.array([0.0]), np.array([1.0]))
    (early,) = GalvoResponse(settle_ms=0.0).positions(trace, [1e-6])
    assert 0 < early < 0.1
