"""Frames off MMCore's circular buffer, and how threads take turns meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext

import pymmcore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mm_test_adapters import device_adapter_path
from pymmcore_plus import CMMCorePlus

from bench import wait_for
from opm_engine import ThreadRelay
from opm_engine.frames import BATCH, FrameSource, parse_tags
from opm_engine.switching import SWITCH_S, quick_switching
from sequences import scan
from twins import Breaks, Broken, opened

NEVER_S = 60.0


@pytest.fixture
def core() -> Iterator[CMMCorePlus]:
    """DemoCamera with a circular buffer of two frames per MB."""
    core = CMMCorePlus()
    core.setDeviceAdapterSearchPaths([device_adapter_path()])
    core.loadDevice("Camera", "DemoCamera", "DCam")
    core.initializeAllDevices()
    core.setCameraDevice("Camera")
    core.setProperty("Camera", "PixelType", "16bit")
    core.setProperty("Camera", "FastImage", 1)
    core.setExposure(1)
    yield core
    core.stopSequenceAcquisition()
    core.unloadAllDevices()
    pymmcore.CMMCore.registerCallback(core, None)


def numbers(source: FrameSource, core: CMMCorePlus, **changes: object) -> Iterator[int]:
    """Image numbers as the camera counted them; each ``remaining`` is checked."""
    waits = {"ending": lambda: False, "first_timeout_s": NEVER_S, "timeout_s": NEVER_S}
    for frame in source.frames(**(waits | changes)):  # type: ignore[arg-type]
        assert frame.image.shape == (512, 512)
        assert 0 <= frame.remaining <= core.getRemainingImageCount()
        yield int(frame.tags["ImageNumber"])


# ------------------------------------------------------------------- frames


@pytest.mark.parametrize("waiting", [False, True], ids=["as they come", "all there"])
def test_every_frame_comes_once_in_order(core: CMMCorePlus, waiting: bool) -> None:
    n_frames = 3 * BATCH + 1
    core.setCircularBufferMemoryFootprint(n_frames)
    core.startSequenceAcquisition(n_frames, 0, True)
    if waiting:
        wait_for(lambda: not core.isSequenceRunning())
    source = FrameSource(core, n_frames)
    assert list(numbers(source, core)) == list(range(n_frames))
    assert source.popped == n_frames


def test_a_stopped_camera_is_drained(core: CMMCorePlus) -> None:
    core.startSequenceAcquisition(100_000, 0, True)
    source = FrameSource(core, 100_000)
    there: list[int] = []
    got = []
    for number in numbers(source, core, ending=lambda: bool(there)):
        got.append(number)
        if number == 5:
            wait_for(lambda: core.getRemainingImageCount() > BATCH)
            core.stopSequenceAcquisition()
            there.append(core.getRemainingImageCount())
    assert got == list(range(6 + there[0]))


def test_what_an_ending_raises_comes_out(core: CMMCorePlus) -> None:
    def broken() -> bool:
        raise Broken("while nothing came")

    core.setExposure(300)
    core.startSequenceAcquisition(2, 0, True)
    with pytest.raises(Broken):
        next(numbers(FrameSource(core, 2), core, ending=broken))


def test_overflow_delivers_what_was_buffered(core: CMMCorePlus) -> None:
    core.setCircularBufferMemoryFootprint(1)
    core.startSequenceAcquisition(20, 0, True)
    wait_for(core.isBufferOverflowed)
    got = []
    with pytest.raises(MemoryError, match="overflowed; 18 frames were lost"):
        got.extend(numbers(FrameSource(core, 20), core))
    wait_for(lambda: not core.isSequenceRunning())


def test_silence_ends_in_words(core: CMMCorePlus) -> None:
    core.setExposure(300)
    core.startSequenceAcquisition(2, 0, True)
    with pytest.raises(TimeoutError, match=r"no frame for 0\.1 s after 0 frames"):
        next(numbers(FrameSource(core, 2), core, first_timeout_s=0.1))


TEXT = st.text(st.characters(exclude_characters="\n\r\0", codec="ascii"), max_size=9)
VALUES = TEXT | st.lists(TEXT, min_size=1, max_size=3)


@given(st.dictionaries(TEXT.filter(bool), VALUES, max_size=5))
def test_tags_of_any_kind(tags: dict[str, str | list[str]]) -> None:
    lines = [str(len(tags))]
    for name, value in tags.items():
        if isinstance(value, str):
            lines += ["s", name, "_", "1", value]
        else:
            lines += ["a", name, "_", "1", str(len(value)), *value]
    expected = {
        name: value if isinstance(value, str) else " ".join(value)
        for name, value in tags.items()
    }
    assert parse_tags("\n".join([*lines, ""])) == expected


def test_tags_as_mmcore_writes_them(core: CMMCorePlus) -> None:
    core.snapImage()
    tags = core.getTaggedImage().tags
    core.startSequenceAcquisition(1, 0, True)
    wait_for(core.getRemainingImageCount)
    metadata = pymmcore.Metadata()
    metadata.Restore("1\ns\nstale\n_\n1\nyes\n")
    core.popNextImageMD(metadata)
    parsed = parse_tags(metadata.Serialize())
    assert "stale" not in parsed
    assert parsed == {key: metadata.GetSingleTag(key).GetValue() for key in parsed}
    assert set(parsed) == set(metadata.GetKeys())
    assert int(parsed["Width"]) == int(tags["Width"])


# ------------------------------------------------------------------- switching

USUAL_S = 5e-3


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(USUAL_S)
    yield
    assert sys.getswitchinterval() == pytest.approx(USUAL_S)
    sys.setswitchinterval(before_s)


def test_switching_is_restored_after_an_error() -> None:
    def within() -> None:
        with quick_switching():
            assert sys.getswitchinterval() == pytest.approx(SWITCH_S)
            raise Broken("within")

    with pytest.raises(Broken):
        within()
    assert sys.getswitchinterval() == pytest.approx(USUAL_S)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first", "last"])
def test_the_last_one_restores(order: tuple[int, int]) -> None:
    entered = [quick_switching(), quick_switching()]
    for one in entered:
        one.__enter__()
    entered[order[0]].__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_S)
    entered[order[1]].__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(USUAL_S)


@pytest.mark.parametrize("theirs_s", [1e-4, 2e-3])
def test_somebody_elses_interval_stays(theirs_s: float) -> None:
    with quick_switching():
        sys.setswitchinterval(theirs_s)
        theirs_s = sys.getswitchinterval()  # whole microseconds
    assert sys.getswitchinterval() == theirs_s
    sys.setswitchinterval(USUAL_S)


@pytest.mark.parametrize("before_us", [99, 4999, 501, 19997])
def test_nothing_is_lost_to_rounding(before_us: int) -> None:
    sys.setswitchinterval((before_us + 0.5) * 1e-6)
    before_s = sys.getswitchinterval()
    for _ in range(3):
        with quick_switching():
            assert sys.getswitchinterval() == min(before_s, SWITCH_S)
    assert sys.getswitchinterval() == before_s
    sys.setswitchinterval(USUAL_S)


@pytest.mark.parametrize("end", ["normal", "cancelled", "broken"])
def test_a_run_takes_turns_quickly_and_restores(end: str) -> None:
    seen = []
    breaks = Breaks(2 if end == "broken" else -1)

    def look(image: object, event: object, meta: object) -> None:
        seen.append(sys.getswitchinterval())
        if end == "cancelled":
            scope.core.mda.cancel()

    with opened() as scope:
        scope.core.mda.events.frameReady.connect(look)
        with (
            ThreadRelay(breaks).connected(scope.core.mda),
            pytest.raises(Broken) if end == "broken" else nullcontext(),
        ):
            scope.core.mda.run(scan(time_plan={"interval": 0, "loops": 20}))
        assert sys.getswitchinterval() == pytest.approx(USUAL_S)
    assert seen
    assert seen == pytest.approx([SWITCH_S] * len(seen))
