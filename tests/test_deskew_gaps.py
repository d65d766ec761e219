"""Planes that never come."""

from __future__ import annotations

import numpy as np
import pytest
import useq
from hypothesis import given, settings
from hypothesis import strategies as st

from deskewing import GEOMETRY, Dirty, Recorder, noise, sequence_of, summary_with
from oblique import binned, reference
from opm_engine.processing import Correction, Deskew, memory
from opm_engine.processing.volume import Finished, Gap

N_PLANES = 8
SCAN = GEOMETRY.model_copy(update={"n_planes": N_PLANES})


def played(stack, lost: set[int], direction: int = 1, **options):
    """Run a deskew on a stack in order of arrival; return it and its output."""
    geometry = SCAN.model_copy(update={"scan_direction": direction})
    output = Recorder()
    handler = Deskew([output], **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "BufferPool", lambda n_bytes: Dirty())
        summary = summary_with(geometry, n_planes=N_PLANES)
        handler.sequenceStarted(sequence_of(), summary)
    for z, plane in enumerate(stack):
        if z not in lost:
            event = useq.MDAEvent(index={"t": 1, "c": 1, "z": z})
            handler.frameReady(plane, event, {})
    handler.sequenceFinished(sequence_of())
    return handler, output


def dark_without(stack, missing: set[int], z_bin: int):
    """Float64 volume in which every row that needs a missing plane is 0."""
    fine, valid = reference(stack, 30, 0.4, 0.2, (0.2, 0.2))
    mark = np.zeros_like(stack)
    mark[list(missing)] = 1
    needs = reference(mark, 30, 0.4, 0.2, (0.2, 0.2))[0].any(axis=-1)
    usable = valid & ~needs
    return binned(fine * usable[..., None], usable, z_bin)[0]


@settings(max_examples=60, deadline=None)
@given(
    missing=st.sets(st.integers(0, N_PLANES - 2), max_size=5),
    direction=st.sampled_from([1, -1]),
    z_bin=st.integers(1, 3),
)
def test_rows_that_need_a_missing_plane_are_zero(missing, direction, z_bin) -> None:
    stack = noise(1, SCAN) | 1
    arrived = stack[::direction]
    lost = {N_PLANES - 1 - z for z in missing} if direction < 0 else missing
    expected = dark_without(stack, lost, z_bin)
    handler, output = played(arrived, missing, direction, z_bin=z_bin)
    volume = output.volumes[1, 0, 1]
    assert np.abs(volume - expected).max() <= 0.51
    assert not volume[expected == 0].any()
    told = output.metas[0]["extra"]["deskew"]
    assert told.get("missing_planes", []) == sorted(missing)
    index = {"t": 1, "c": 1}
    assert handler.gaps == ((Gap(index, tuple(sorted(missing))),) if missing else ())
    assert handler.incomplete == ()


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("correction", [None, Correction(50.0, 0.5)])
def test_planes_are_interpolated_over(direction: int, correction) -> None:
    stack = noise(2, SCAN)
    missing = {2, 3, 5}
    mended = stack.astype(np.float64)
    for z, before, after in [(2, 1, 4), (3, 1, 4), (5, 4, 6)]:
        share = (z - before) / (after - before)
        mended[z] = np.rint((1 - share) * mended[before] + share * mended[after])
    if correction is not None:
        mended = (mended - 50.0) * 0.5
    options = {"missing": "interpolate", "correction": correction}
    _, output = played(stack, missing, direction, **options)
    expected, _ = reference(mended[::direction], 30, 0.4, 0.2, (0.2, 0.2))
    volume = output.volumes[1, 0, 1]
    assert np.abs(volume - expected.clip(0)).max() <= 0.51
    assert output.metas[0]["extra"]["deskew"]["missing_planes"] == [2, 3, 5]


def test_first_planes_have_nothing_to_be_interpolated_from() -> None:
    stack = noise(3, SCAN) | 1
    _, output = played(stack, {0, 1}, missing="interpolate")
    expected = dark_without(stack, {0, 1}, 1)
    assert np.abs(output.volumes[1, 0, 1] - expected).max() <= 0.51
    assert output.metas[0]["extra"]["deskew"]["missing_planes"] == [0, 1]


def test_what_lacks_its_last_planes_is_not_made_up() -> None:
    handler, output = played(noise(4, SCAN), {3, N_PLANES - 1})
    assert output.calls == ["started", "finished"]
    assert handler.incomplete == ({"t": 1, "c": 1},)
    assert handler.gaps == (Gap({"t": 1, "c": 1}, (3,)),)


def test_volumes_that_stay_behind_are_given_up() -> None:
    """Each loses its last plane: they may not pile up until the end of a run."""
    handler = Deskew()
    sequence = sequence_of().replace(time_plan={"interval": 0, "loops": 20})
    summary = summary_with(SCAN, n_planes=N_PLANES, n_times=20)
    handler.sequenceStarted(sequence, summary)
    for t, z, c in np.ndindex(20, N_PLANES - 1, 2):
        event = useq.MDAEvent(index={"t": t, "p": 0, "c": c, "z": z})
        handler.frameReady(noise(6, SCAN)[z], event, {})
        assert len(handler._open) <= 4
    assert handler.incomplete[:2] == (
        {"t": 0, "p": 0, "c": 0},
        {"t": 0, "p": 0, "c": 1},
    )
    handler.sequenceFinished(sequence)
    assert len(handler.incomplete) == 40


def test_a_refused_plane_leaves_the_gap_open() -> None:
    handler = Deskew()
    handler.sequenceStarted(sequence_of(), summary_with(SCAN, n_planes=N_PLANES))
    stack = noise(5, SCAN)
    handler.frameReady(stack[0], useq.MDAEvent(index={"z": 0}), {})
    with pytest.raises(ValueError, match="plane must be"):
        handler.frameReady(stack[2][:-1], useq.MDAEvent(index={"z": 2}), {})
    handler.frameReady(stack[1], useq.MDAEvent(index={"z": 1}), {})


def test_finished_volumes_are_remembered_in_little_memory() -> None:
    finished = Finished()
    for t in (0, 1, 2, 4, 5):
        finished.add((0, 1), t)
    assert [finished.has((0, 1), t) for t in range(7)] == [1, 1, 1, 0, 1, 1, 0]
    assert not finished.has((0, 0), 0)
    assert finished._beyond == {(0, 1): {4, 5}}
    finished.add((0, 1), 3)
    assert finished._beyond == {(0, 1): set()}
    assert finished.has((0, 1), 5)
