"""Forms in which outputs get volumes, and how much memory that takes."""

from __future__ import annotations

import numpy as np
import pytest
import useq
from pymmcore_plus import GeneratorMDASequence

from deskewing import (
    GEOMETRY,
    Recorder,
    assert_all_volumes,
    frames,
    noise,
    play,
    sequence_of,
    summary_with,
    whole,
)
from opm_engine.plan import ChannelInfo, Flag, PositionInfo, Stream
from opm_engine.processing import Deskew
from opm_engine.processing import memory as deskew_memory
from opm_engine.processing.memory import n_open_volumes
from opm_engine.processing.streaming import Deskewer

LONG = GEOMETRY.model_copy(update={"n_planes": 60})
LONG_SEQUENCE = sequence_of().replace(
    z_plan={"range": 59 * 0.4, "step": 0.4}, stage_positions=[(0, 0, 0)]
)


def long_summary(**stream) -> dict:
    return summary_with(
        stream.pop("geometry", LONG),
        n_planes=60,
        positions=(PositionInfo(name="0"),),
        **stream,
    )


class SlabRecorder(Recorder):
    """An output that takes slabs, in place of volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.slabs: dict[tuple, list[tuple[int, np.ndarray, dict]]] = {}

    def slabReady(self, slab, first_row, event, meta) -> None:
        assert "z" not in event.index
        assert meta.get("mda_event", event) is event
        key = tuple(event.index.get(axis, 0) for axis in "tpc")
        self.slabs.setdefault(key, []).append((first_row, slab, meta))

    def frameReady(self, volume, event, meta) -> None:
        pytest.fail("slabs come in place of the volume")

    def volume(self, key: tuple) -> np.ndarray:
        slabs = sorted(self.slabs[key], key=lambda slab: slab[0])
        return np.concatenate([pixels for _, pixels, _ in slabs], axis=1)


class Both(Recorder):
    """Like a relay whose branches want different things."""

    def __init__(self, *wants: str) -> None:
        super().__init__()
        self.wants = frozenset(wants)

    def slabReady(self, slab, first_row, event, meta) -> None:
        self.calls.append("slab")

    def projectionsReady(self, projections, event, meta) -> None:
        self.calls.append("projections")


def stacks(direction: int = 1) -> dict[tuple, np.ndarray]:
    """What arrives, by (t, p, c)."""
    return {
        (t, 0, c): noise(10 + 2 * t + c, LONG)[::direction] for t, c in np.ndindex(2, 2)
    }


def play_long(handler: Deskew, arriving: dict, summary: dict) -> None:
    handler.sequenceStarted(LONG_SEQUENCE, summary)
    for event in LONG_SEQUENCE:
        t, c, z = (event.index[axis] for axis in "tcz")
        meta = {"mda_event": event, "number": z}
        handler.frameReady(arriving[t, 0, c][z], event, meta)
    handler.sequenceFinished(LONG_SEQUENCE)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("with_whole", [False, True])
def test_slabs_of_a_run(direction: int, with_whole: bool) -> None:
    """Interleaved channels, each row once, in the order of the scan, none changed."""
    output, other = SlabRecorder(), Recorder()
    handler = Deskew([output, other] if with_whole else [output])
    geometry = LONG.model_copy(update={"scan_direction": direction})
    summary = long_summary(geometry=geometry)
    play_long(handler, stacks(direction), summary)
    first_run, output.slabs = output.slabs, {}
    play_long(handler, stacks(direction), summary)
    assert output.calls == ["started", "finished"] * 2
    assert set(output.slabs) == set(first_run) == set(stacks())
    for key, stack in stacks().items():
        expected = whole(stack)
        np.testing.assert_array_equal(output.volume(key), expected)
        if with_whole:
            np.testing.assert_array_equal(other.volumes[key], expected)
            with pytest.raises(ValueError, match="read-only"):
                other.volumes[key][:] = 0
        firsts = [first for first, _, _ in output.slabs[key]]
        assert firsts == list(range(0, expected.shape[1], 32))[::direction]
        assert len(firsts) == 4
        numbers = [meta["number"] for _, _, meta in output.slabs[key]]
        assert numbers == sorted(numbers)
        assert numbers[0] < 20  # while the scan runs
        assert numbers[-1] == 59
        told = [meta["extra"].get("deskew") for _, _, meta in output.slabs[key]]
        assert told[:-1] == [None] * 3
        assert told[-1]["latency_ms"] > 0
        for (_, pixels, _), (_, before, _) in zip(
            output.slabs[key], first_run[key], strict=True
        ):
            assert not np.shares_memory(pixels, before)
            np.testing.assert_array_equal(pixels, before)
            with pytest.raises(ValueError, match="read-only"):
                pixels[:] = 0


def test_bidirectional_channels_apart_and_other_lengths_come_as_slabs() -> None:
    slabs, volumes = SlabRecorder(), Recorder()
    positions = PositionInfo(name="0"), PositionInfo(name="1", p=1, n_planes=90)
    summary = summary_with(
        LONG,
        n_planes=60,
        positions=positions,
        bidirectional=True,
        channel_offsets_um=(0.0, 0.13),
    )
    for handler in (Deskew([slabs]), Deskew([volumes])):
        handler.sequenceStarted(sequence_of(), summary)
        for t, p, c in np.ndindex(2, 2, 2):
            planes = noise(t + c, LONG.model_copy(update={"n_planes": 90}))
            for z in range(positions[p].n_planes or 60):
                event = useq.MDAEvent(index={"t": t, "p": p, "c": c, "z": z})
                handler.frameReady(planes[z], event, {})
        handler.sequenceFinished(sequence_of())
    assert len(volumes.volumes) == 8
    for key, volume in volumes.volumes.items():
        assert volume.shape == volumes.stream.shape
        np.testing.assert_array_equal(slabs.volume(key), volume)


@pytest.mark.parametrize(
    ("wants", "expected"),
    [
        ((), []),
        (("projectionsReady",), ["projections"]),
        (("slabReady",), ["slab"]),
        (("frameReady",), ["volume"]),
        (("frameReady", "projectionsReady"), ["projections", "volume"]),
        (
            ("frameReady", "projectionsReady", "slabReady", "noteReady"),
            ["slab", "projections", "volume"],
        ),
    ],
    ids=str,
)
def test_an_output_may_say_what_it_wants(wants, expected) -> None:
    output = Both(*wants)
    play(Deskew([output]), sequence_of(), summary_with())
    assert output.calls == ["started", *expected * 8, "finished"]


def test_without_a_wish_the_first_form_counts() -> None:
    output = Both()
    del output.wants
    play(Deskew([output]), sequence_of(), summary_with())
    assert output.calls == ["started", *["projections"] * 8, "finished"]


def test_flags_and_planes_are_told_with_the_last_slab() -> None:
    """Several slabs end with the last plane, but only one is the last."""
    output = SlabRecorder()
    handler = Deskew([output], voxel_size_um=(0.2, 0.02))
    handler.sequenceStarted(LONG_SEQUENCE, long_summary())
    for z, plane in enumerate(noise(1, LONG)):
        if z == 10:
            handler.noteReady(Flag({"t": 0, "p": 0, "z": 9}, "an edge too many"))
        if z not in (3, 4):
            event = useq.MDAEvent(index={"z": z, "c": 1})
            handler.frameReady(plane, event, {"number": z})
    *others, (_, _, meta) = output.slabs[0, 0, 1]
    assert [other["number"] for _, _, other in others].count(59) > 1
    assert not any("deskew" in other["extra"] for _, _, other in others)
    assert meta["extra"]["deskew"]["flags"] == ["an edge too many"]
    assert meta["extra"]["deskew"]["missing_planes"] == [3, 4]


def test_a_cancelled_run_comes_to_its_end() -> None:
    """Slabs that were complete have come; the others follow, with what there is."""
    output, other, flat = SlabRecorder(), Recorder(), Both("projectionsReady")
    handler = Deskew([output, other, flat])
    handler.sequenceStarted(LONG_SEQUENCE, long_summary())
    stack = noise(1, LONG)
    for z in range(40):
        handler.frameReady(stack[z], useq.MDAEvent(index={"z": z}), {})
    assert [first for first, _, _ in output.slabs[0, 0, 0]] == [0, 32]
    handler.sequenceFinished(LONG_SEQUENCE)
    deskewer = Deskewer(LONG)
    for z in range(60):
        deskewer.add(stack[z]) if z < 40 else deskewer.skip()
    assert [first for first, _, _ in output.slabs[0, 0, 0]] == [0, 32, 64, 96]
    np.testing.assert_array_equal(output.volume((0, 0, 0)), deskewer.volume)
    np.testing.assert_array_equal(other.volumes[0, 0, 0], deskewer.volume)
    assert flat.calls == ["started", "projections", "finished"]
    told = [meta["extra"].get("deskew") for _, _, meta in output.slabs[0, 0, 0]]
    assert told == [None] * 3 + [{"missing_planes": list(range(40, 60))}]
    assert handler.incomplete == ({},)  # that of t=0, p=0, c=0


class Failing(SlabRecorder):
    """An output that cannot take its second slab."""

    def slabReady(self, slab, first_row, event, meta) -> None:
        super().slabReady(slab, first_row, event, meta)
        if first_row:
            raise OSError("disk full")


def test_an_output_that_fails_in_a_slab_ends_once_like_the_others() -> None:
    outputs = [SlabRecorder(), Failing(), SlabRecorder()]
    handler = Deskew(outputs)
    with pytest.raises(OSError, match="disk full"):
        play_long(handler, stacks(), long_summary())
    for _ in range(2):
        handler.sequenceFinished(LONG_SEQUENCE)
    assert [output.calls for output in outputs] == [["started", "finished"]] * 3


# --- Outputs added later


def test_outputs_may_be_added_between_runs() -> None:
    first, second = Recorder(), Recorder()
    handler = Deskew([first])
    handler.add_output(second)
    assert handler.outputs == (first, second)
    play(handler, sequence_of(), summary_with())
    assert_all_volumes(second)
    handler.sequenceStarted(sequence_of(), summary_with())
    with pytest.raises(RuntimeError, match="while a run goes on"):
        handler.add_output(Recorder())
    handler.sequenceFinished(sequence_of())
    with pytest.raises(TypeError, match="outputs must be"):
        handler.add_output(5)
    assert handler.outputs == (first, second)


# --- Memory


@pytest.mark.parametrize(
    ("axis_order", "n_open"),
    [("tpzc", 2), ("tpcz", 1), ("zctp", 8), ("tcpz", 1), ("tzcp", 4), ("pczt", 2)],
)
def test_open_volumes_are_counted(axis_order: str, n_open: int) -> None:
    """As many as there are at most in a run."""
    sequence = sequence_of(axis_order)
    output = Recorder()
    handler = Deskew([output])
    handler.sequenceStarted(sequence, summary_with())
    planes = Stream.model_validate(summary_with()["extra"]["opm_engine"]["stream"])
    most = 0
    for frame in frames(sequence):
        handler.frameReady(*frame)
        most = max(most, len(handler._open))
    # The last of them is complete with its last plane.
    assert n_open_volumes(sequence, planes) == n_open
    assert most in (n_open, n_open - 1) or n_open == 1
    cameras = planes.model_copy(
        update={"n_cameras": 2, "channels": tuple(map(named, "abcd"))}
    )
    assert n_open_volumes(sequence, cameras) == 2 * n_open


def named(name: str) -> ChannelInfo:
    return ChannelInfo(name=name)


def test_positions_with_an_order_of_their_own_are_counted() -> None:
    inner = useq.MDASequence(
        channels=["488", "561"], z_plan={"range": 1.2, "step": 0.4}, axis_order="tpgzc"
    )
    sequence = useq.MDASequence(stage_positions=[{"x": 0, "y": 0, "sequence": inner}])
    planes = Stream.model_validate(summary_with()["extra"]["opm_engine"]["stream"])
    assert n_open_volumes(sequence, planes) == 2
    assert n_open_volumes(GeneratorMDASequence(), planes) == 2


@pytest.mark.parametrize("method", ["checkSequence", "sequenceStarted"])
@pytest.mark.parametrize(
    ("output", "kind", "n_bytes"),
    [
        pytest.param(Recorder, "whole", 2 * 30_000 * 4096 * 2 * 30, id="whole"),
        pytest.param(SlabRecorder, r"as \d+ slabs of 32 rows", 3e9, id="slabs"),
    ],
)
def test_a_run_beyond_memory_is_refused(
    method, output, kind, n_bytes, monkeypatch
) -> None:
    """Two channels at a time, 100 000 planes long; nothing is taken of it."""
    asked: list[tuple[int, str]] = []

    def refuse(n_bytes: int, what: str) -> None:
        asked.append((n_bytes, what))
        raise MemoryError(f"{what} needs {n_bytes} bytes")

    monkeypatch.setattr(deskew_memory, "refuse_beyond_memory", refuse)
    geometry = GEOMETRY.model_copy(update={"n_planes": 100_000, "n_columns": 4096})
    summary = summary_with(geometry, n_planes=100_000, shape=(9, 4096))
    handler = Deskew([output()])
    with pytest.raises(MemoryError, match=rf"Deskew of 2 volume\(s\) .*{kind}, needs"):
        getattr(handler, method)(sequence_of(), summary)
    assert handler.outputs[0].calls == []
    ((asked_bytes, _),) = asked
    z, y, x = geometry.volume_shape()
    if output is Recorder:
        assert asked_bytes >= 2 * z * y * x * 2
    else:  # two slabs each, planes and tables
        assert asked_bytes < 2e7 < z * y * x * 2


def test_memory_that_is_there_already_is_not_counted_twice(monkeypatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        deskew_memory, "refuse_beyond_memory", lambda n, what: asked.append(n)
    )
    handler = Deskew([SlabRecorder()])
    for _ in range(2):
        handler.checkSequence(LONG_SEQUENCE, long_summary())
        play_long(handler, stacks(), long_summary())
        handler.outputs[0].slabs.clear()
    assert asked[0] == asked[1] > asked[2] > 0
