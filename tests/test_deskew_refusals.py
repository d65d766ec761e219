"""`Deskew`: what it refuses, and outputs that fail."""

from __future__ import annotations

import numpy as np
import pytest
import useq
from pymmcore_plus import GeneratorMDASequence

from deskewing import *


@pytest.mark.parametrize(
    ("summary", "geometry", "message"),
    [
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
def test_run_is_refused_at_its_start(summary, geometry, message) -> None:
    output = Recorder()
    handler = Deskew([output], geometry=geometry)
    with pytest.raises(ValueError, match=message):
        handler.sequenceStarted(sequence_of(), summary)
    handler.sequenceFinished(sequence_of())
    assert output.calls == []


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
        pytest.param([1], "plane 1 of .* came, plane 0 did not", id="first-missing"),
        pytest.param([0, 2], "plane 2 of .* came, plane 1 did not", id="missing"),
        pytest.param([0, 0], "plane 0 of .* came twice", id="twice"),
        pytest.param([0, 1, 0], "plane 0 of .* came twice", id="backwards"),
        pytest.param([0, 1, 2, 3, 3], "plane 3 of", id="after-the-last"),
    ],
)
def test_planes_out_of_order_are_refused(z: list[int], message: str) -> None:
    handler = Deskew()
    handler.sequenceStarted(sequence_of(), summary_with())
    *good, bad = (useq.MDAEvent(index={"t": 0, "c": 1, "z": plane}) for plane in z)
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


def test_nonsense_voxel_size_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"^voxel_size_um "):
        Deskew(voxel_size_um=(0.2, -1))


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
