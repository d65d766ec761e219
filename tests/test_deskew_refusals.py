"""`Deskew`: what it refuses, and outputs that fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import useq
from pymmcore_plus import GeneratorMDASequence

from deskewing import (
    GEOMETRY,
    Recorder,
    block_with,
    frames,
    noise,
    play,
    sequence_of,
    summary_with,
    whole,
)
from opm_engine.plan import BLOCK, PositionInfo
from opm_engine.processing import Deskew
from opm_engine.relay import ThreadRelay
from opm_engine.writers import OMEZarrWriter
from relaying import TellingEngine, connected_run, make_runner


def projection() -> dict:
    """The summary of a run in mode projection, even if it has planes."""
    block = block_with() | {"plan": {"mode": "projection"}}
    return {"extra": {BLOCK: block}}


@pytest.mark.parametrize("method", ["checkSequence", "sequenceStarted"])
@pytest.mark.parametrize(
    ("summary", "geometry", "message"),
    [
        pytest.param(
            projection(), None, 'mode "projection".*leave Deskew out', id="projection"
        ),
        pytest.param(
            summary_with(positions=(PositionInfo(name="A1", n_planes=1),)),
            None,
            "position 'A1' has one",
            id="single-at-one-position",
        ),
        pytest.param(
            summary_with(channel_offsets_um=(0.1,)),
            None,
            "2 channels, but 1 channel_offsets_um",
            id="offsets",
        ),
        pytest.param({}, None, "no geometry", id="nothing-known"),
        pytest.param({"extra": None}, None, "no geometry", id="extra-none"),
        pytest.param(
            summary_with(n_planes=1), None, "scan of two planes or more", id="single"
        ),
        pytest.param(summary_with(kind="volumes"), None, "volumes", id="volumes"),
        pytest.param(summary_with(dtype="uint8"), None, "uint16", id="uint8"),
        pytest.param(
            summary_with(shape=(9, 6)), None, r"\(4, 9, 6\) are not", id="columns"
        ),
        pytest.param(summary_with(n_planes=5), None, r"\(5, 9, 5\)", id="planes"),
        pytest.param(
            {},
            GEOMETRY.model_copy(update={"n_planes": 5}),
            r"\(4, 9, 5\) are not the geometry's \(5, 9, 5\)",
            id="geometry-of-another-sequence",
        ),
    ],
)
def test_run_is_refused_at_its_start(summary, geometry, message, method) -> None:
    output = Recorder()
    handler = Deskew([output], geometry=geometry)
    with pytest.raises(ValueError, match=message):
        getattr(handler, method)(sequence_of(), summary)
    handler.sequenceFinished(sequence_of())
    assert output.calls == []


class SinglePlanes(TellingEngine):
    """An engine that announces planes without a scan."""

    def setup_sequence(self, sequence):
        return summary_with(n_planes=1)


def test_refusal_leaves_no_other_branchs_store(tmp_path) -> None:
    raw = OMEZarrWriter(tmp_path / "raw.ome.zarr")
    relay, engine = ThreadRelay(raw, Deskew()), SinglePlanes()
    with pytest.raises(ValueError, match="two planes or more"):
        connected_run(make_runner(engine), relay)
    assert list(tmp_path.iterdir()) == []
    assert not engine.armed


def test_outputs_may_refuse_beforehand(tmp_path) -> None:
    writer = OMEZarrWriter(tmp_path / "deskewed.ome.zarr")
    deskew, loose = Deskew([Recorder(), writer]), GeneratorMDASequence()
    for sequence, summary in [(sequence_of(), summary_with()), (loose, {})]:
        deskew.checkSequence(sequence, summary)
    assert not writer.path.exists()
    writer.path.mkdir()
    for sequence, summary in [(sequence_of(), summary_with()), (loose, {})]:
        with pytest.raises(FileExistsError, match=r"deskewed\.ome\.zarr"):
            deskew.checkSequence(sequence, summary)


@pytest.mark.parametrize(
    ("sequence", "geometry", "message"),
    [
        pytest.param(None, None, "no geometry", id="nothing-known"),
        pytest.param(None, GEOMETRY, "made from a sequence", id="no-sequence"),
        pytest.param(
            sequence_of("tpgzc").replace(grid_plan={"rows": 1, "columns": 2}),
            GEOMETRY,
            "without grid",
            id="grid",
        ),
    ],
)
def test_loose_run_is_refused_at_its_first_frame(sequence, geometry, message) -> None:
    handler = Deskew(geometry=geometry)
    handler.sequenceStarted(GeneratorMDASequence(), {})
    image, event, meta = next(frames(sequence_of()))
    event = event.model_copy(update={"sequence": sequence})
    with pytest.raises(ValueError, match=message):
        handler.frameReady(image, event, meta)


@pytest.mark.parametrize(
    ("z", "message"),
    [
        pytest.param([0, 2, 1], "plane 1 of .* came after a later one", id="late"),
        pytest.param([1, 0], "plane 0 of .* came after a later one", id="first-late"),
        pytest.param([0, 0], "plane 0 of .* came twice", id="twice"),
        pytest.param([0, 1, 0], "plane 0 of .* came twice", id="backwards"),
        pytest.param([0, 1, 2, 3, 3], "plane 3 of .* came twice", id="after-the-last"),
        pytest.param([0, 1, 2, 3, 0], "plane 0 of .* came twice", id="volume-twice"),
    ],
)
def test_planes_out_of_order_are_refused(z: list[int], message: str) -> None:
    handler = Deskew()
    handler.sequenceStarted(sequence_of(), summary_with())
    # A missing key means 0: the last event is of the same volume as the others.
    *good, bad = (useq.MDAEvent(index={"t": 0, "c": 1, "z": plane}) for plane in z)
    bad = bad.replace(index={"c": 1, "z": z[-1]})
    for image, event, meta in frames(good):
        handler.frameReady(image, event, meta)
    with pytest.raises(ValueError, match=message):
        handler.frameReady(*next(frames([bad])))


def test_missing_index_key_means_zero() -> None:
    output = Recorder()
    handler = Deskew([output])
    handler.sequenceStarted(sequence_of(), summary_with())
    indices = [{}, {"z": 1, "c": 0}, {"z": 2, "t": 0}, {"p": 0, "z": 3}]
    for frame in frames(useq.MDAEvent(index=index) for index in indices):
        handler.frameReady(*frame)
    np.testing.assert_array_equal(output.volumes[0, 0, 0], whole(noise(100)))


def test_wrong_frame_is_refused() -> None:
    handler = Deskew()
    handler.sequenceStarted(sequence_of(), summary_with())
    event = next(iter(sequence_of()))
    with pytest.raises(ValueError, match=r"^plane must be"):
        handler.frameReady(np.zeros((5, 9), np.uint16), event, {})


def test_a_volume_may_come_again_in_the_next_run() -> None:
    output = Recorder()
    handler = Deskew([output])
    for _ in range(2):
        play(handler, sequence_of(), summary_with())
    assert len(output.events) == 16


@pytest.mark.parametrize(
    "size",
    [
        *(0, np.nan, np.float32(0), True, "a", "ab", {0.1, 0.2}, np.array(0.1)),
        *((0.2, -1), np.array([0.1, np.inf]), ("0.1", "0.1"), [[1], [1, 2]]),
        *((), (1, 1, 1)),
    ],
    ids=repr,
)
def test_nonsense_voxel_size_is_refused_at_once(size) -> None:
    with pytest.raises(ValueError, match=r"^voxel_size_um "):
        Deskew(voxel_size_um=size)


@pytest.mark.parametrize(
    "size",
    [np.float32(0.5), np.int64(1), 1, (np.float16(0.5), 1), np.array([0.5, 1])],
    ids=repr,
)
def test_voxel_size_may_be_numpys(size) -> None:
    output = Recorder()
    play(Deskew([output], voxel_size_um=size), sequence_of(), summary_with())
    dz_um, dy_um = np.broadcast_to(size, 2).tolist()
    volume = whole(noise(100), voxel_size_um=(dz_um, dy_um))
    np.testing.assert_array_equal(output.volumes[0, 0, 0], volume)
    assert output.stream.scale_um == (dz_um, dy_um, 0.2)


def test_a_volume_that_no_memory_holds_is_refused_before_the_outputs_start() -> None:
    output = Recorder()
    handler = Deskew([output], voxel_size_um=1e-9)
    with pytest.raises(ValueError, match=r"voxel_size_um = \(1e-09, 1e-09\)"):
        handler.sequenceStarted(sequence_of(), summary_with())
    assert output.calls == []


@pytest.mark.parametrize(
    "outputs",
    [
        ["deskewed.ome.zarr"],
        "deskewed.ome.zarr",
        Path("deskewed.ome.zarr"),
        OMEZarrWriter("deskewed.ome.zarr"),
        [OMEZarrWriter],
        [Recorder(), 5],
        {"deskewed": OMEZarrWriter("deskewed.ome.zarr")},
        None,
    ],
    ids=["path", "str", "Path", "handler", "class", "number", "dict", "none"],
)
def test_outputs_that_would_get_nothing(outputs) -> None:
    with pytest.raises(TypeError, match=r"^outputs must be a list .*OMEZarrWriter\("):
        Deskew(outputs=outputs)


def test_geometry_must_be_one() -> None:
    with pytest.raises(TypeError, match=r"^geometry must be a Geometry\(.* not \{"):
        Deskew(geometry=GEOMETRY.model_dump())


class Failing(Recorder):
    """An output that raises when it gets to a certain method."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    def _fail_in(self, method: str) -> None:
        if method == self.method:
            raise OSError(f"disk full in {method}")

    def sequenceStarted(self, sequence, summary) -> None:
        super().sequenceStarted(sequence, summary)
        self._fail_in("sequenceStarted")

    def frameReady(self, volume, event, meta) -> None:
        super().frameReady(volume, event, meta)
        self._fail_in("frameReady")

    def sequenceFinished(self, sequence) -> None:
        super().sequenceFinished(sequence)
        self._fail_in("sequenceFinished")


@pytest.mark.parametrize(
    "method", ["sequenceStarted", "frameReady", "sequenceFinished"]
)
def test_failure_of_an_output_is_raised_and_all_are_finished(method: str) -> None:
    outputs = [Recorder(), Failing(method), Recorder()]
    handler = Deskew(outputs)
    with pytest.raises(OSError, match=f"disk full in {method}"):
        play(handler, sequence_of(), summary_with())
    handler.sequenceFinished(sequence_of())
    assert [output.calls.count("finished") for output in outputs] == [1, 1, 1]


def test_first_failure_at_the_end_is_raised() -> None:
    first, second = Failing("sequenceFinished"), Failing("sequenceFinished")
    second._fail_in = lambda method: 1 / 0 if method == "sequenceFinished" else None
    with pytest.raises(OSError, match="disk full"):
        play(Deskew([first, second]), sequence_of(), summary_with())
