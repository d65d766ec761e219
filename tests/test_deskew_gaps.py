"""Planes that never come."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext

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
    missing=st.sets(st.integers(0, N_PLANES - 1), max_size=6),
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
    is_cut = N_PLANES - 1 in missing
    assert handler.incomplete == ((index,) if is_cut else ())
    assert ("latency_ms" in told) is not is_cut
    assert len(handler.latency_ms) == (not is_cut)


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


def test_last_planes_have_nothing_to_be_interpolated_to() -> None:
    stack = noise(4, SCAN) | 1
    _, output = played(stack, {6, 7}, missing="interpolate")
    expected = dark_without(stack, {6, 7}, 1)
    assert np.abs(output.volumes[1, 0, 1] - expected).max() <= 0.51
    assert output.calls == ["started", "volume", "finished"]


def test_what_lacks_its_last_planes_comes_with_the_latest_metadata() -> None:
    output = Recorder()
    handler = Deskew([output])
    handler.sequenceStarted(sequence_of(), summary_with(SCAN, n_planes=N_PLANES))
    for z, plane in enumerate(noise(4, SCAN)[:5]):
        event = useq.MDAEvent(index={"t": 1, "z": z}, x_pos=z)
        handler.frameReady(plane, event, {"runner_time_ms": z})
    handler.sequenceFinished(sequence_of())
    (event,), (meta,) = output.events, output.metas
    assert (dict(event.index), event.x_pos) == ({"t": 1}, 4)
    assert meta["runner_time_ms"] == 4
    assert meta["extra"]["deskew"] == {"missing_planes": [5, 6, 7]}


def test_a_volume_without_planes_is_not_made() -> None:
    output = Recorder()
    handler = Deskew([output])
    handler.sequenceStarted(sequence_of(), summary_with(SCAN, n_planes=N_PLANES))
    with pytest.raises(ValueError, match="plane must be"):
        handler.frameReady(noise(1)[0, :-1], useq.MDAEvent(index={"z": 3}), {})
    handler.frameReady(noise(1)[0], useq.MDAEvent(index={"t": 1, "z": 0}), {})
    handler.sequenceFinished(sequence_of())
    assert set(output.volumes) == {(1, 0, 0)}
    assert handler.gaps == (Gap({"t": 1}, tuple(range(1, N_PLANES))),)


class Full(Recorder):
    """An output whose disk is full after so many volumes."""

    def __init__(self, n_volumes: int) -> None:
        super().__init__()
        self.n_volumes = n_volumes

    def frameReady(self, volume, event, meta) -> None:
        if self.n_volumes == len(self.events):
            raise OSError(f"no room for {dict(event.index)}")
        super().frameReady(volume, event, meta)

    def sequenceFinished(self, sequence) -> None:
        super().sequenceFinished(sequence)
        raise RuntimeError("cannot finish what is broken")


@pytest.mark.parametrize("n_before", [0, 1, 2])
def test_the_first_failure_is_told_and_nothing_comes_after_it(n_before, caplog) -> None:
    """Three volumes: the first comes whole, two lack their last planes."""
    outputs = [Recorder(), Full(n_before), Recorder()]
    handler = Deskew(outputs)
    handler.sequenceStarted(sequence_of(), summary_with(SCAN, n_planes=N_PLANES))
    planes = [(t, z) for t, n in ((0, 6), (1, 8), (2, 6)) for z in range(n)]
    failure = pytest.raises(OSError, match=f"'t': {(1, 0, 2)[n_before]}")
    with ExitStack() as stack:
        if n_before:
            stack.enter_context(failure)
        for t, z in planes:
            is_fatal = not n_before and (t, z) == (1, 7)
            with failure if is_fatal else nullcontext():
                event = useq.MDAEvent(index={"t": t, "z": z})
                handler.frameReady(noise(1, SCAN)[z], event, {})
            if is_fatal:
                break
        with nullcontext() if n_before else pytest.raises(RuntimeError):
            handler.sequenceFinished(sequence_of())
    n_volumes = [output.calls.count("volume") for output in outputs]
    assert n_volumes == [n_before + 1, n_before, n_before]
    assert [output.calls.count("finished") for output in outputs] == [1, 1, 1]
    assert ("cannot finish" in caplog.text) is (n_before > 0)
    handler.sequenceFinished(sequence_of())


def test_volumes_that_stay_behind_are_given_up() -> None:
    """Each loses its last plane: they may not pile up until the end of a run."""
    output = Recorder()
    handler = Deskew([output])
    sequence = sequence_of().replace(time_plan={"interval": 0, "loops": 20})
    summary = summary_with(SCAN, n_planes=N_PLANES, n_times=20)
    handler.sequenceStarted(sequence, summary)
    stack = noise(6, SCAN) | 1
    for t, z, c in np.ndindex(20, N_PLANES - 1, 2):
        event = useq.MDAEvent(index={"t": t, "p": 0, "c": c, "z": z})
        handler.frameReady(stack[z], event, {})
        assert len(handler._open) <= 4
    assert handler.incomplete[:2] == (
        {"t": 0, "p": 0, "c": 0},
        {"t": 0, "p": 0, "c": 1},
    )
    assert len(output.volumes) == 36
    handler.sequenceFinished(sequence)
    assert len(handler.incomplete) == 40
    expected = dark_without(stack, {N_PLANES - 1}, 1)
    assert set(output.volumes) == {(t, 0, c) for t, c in np.ndindex(20, 2)}
    for volume in output.volumes.values():
        assert np.abs(volume - expected).max() <= 0.51


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
