"""`Deskewer`, one volume plane by plane, and `Deskew`, the handler of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
import useq
from pymmcore_plus import GeneratorMDASequence
from pymmcore_plus.mda import MDARunner

from opm_engine.geometry import Geometry
from opm_engine.plan import BLOCK, ChannelInfo, PositionInfo, Stream
from opm_engine.processing import Deskew, Deskewer, MaxProjections, deskew

GEOMETRY = Geometry(
    angle_deg=30,
    step_um=0.4,
    pixel_size_um=0.2,
    n_planes=4,
    n_rows=9,
    n_columns=5,
    origin_um=-0.6,
)
ORIENTATIONS = [
    pytest.param(direction, rows, columns, id=f"{direction:+}-{rows:d}-{columns:d}")
    for direction in (1, -1)
    for rows in (False, True)
    for columns in (False, True)
]


def oriented(direction: int, rows: bool, columns: bool, **changes) -> Geometry:
    flips = {"scan_direction": direction, "flip_rows": rows, "flip_columns": columns}
    return GEOMETRY.model_copy(update={**flips, **changes})


def noise(seed: int, geometry: Geometry = GEOMETRY) -> np.ndarray:
    shape = geometry.n_planes, geometry.n_rows, geometry.n_columns
    return np.random.default_rng(seed).integers(0, 65536, shape, dtype=np.uint16)


def whole(stack: np.ndarray, **arguments) -> np.ndarray:
    return deskew(stack, angle_deg=30, step_um=0.4, pixel_size_um=0.2, **arguments)


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize(("direction", "rows", "columns"), ORIENTATIONS)
def test_streaming_equals_whole_stack(direction, rows, columns, project) -> None:
    stack = noise(2)
    row_sign, column_sign = (-1 if flip else 1 for flip in (rows, columns))
    as_taken = stack[::direction, ::row_sign, ::column_sign]
    deskewer = Deskewer(oriented(direction, rows, columns), project=project)
    memory = np.empty(as_taken.shape[1:], np.uint16)
    for n, plane in enumerate(as_taken):
        assert deskewer.n_added == n
        assert not deskewer.is_complete
        memory[:] = plane
        deskewer.add(memory)
        memory[:] = 0  # the caller may reuse it
    assert deskewer.is_complete
    np.testing.assert_array_equal(deskewer.volume, whole(stack))
    if project:
        for axis, projection in enumerate(deskewer.projections):
            np.testing.assert_array_equal(projection, whole(stack).max(axis=axis))
    else:
        assert deskewer.projections is None


@pytest.mark.parametrize("direction", [1, -1])
def test_rows_are_written_as_soon_as_they_can_be(direction: int) -> None:
    stack = noise(3) | 1  # no dark pixel
    final = whole(stack)
    deskewer = Deskewer(oriented(direction, False, False))
    n_before = 0
    for plane in stack[::direction]:
        deskewer.add(plane)
        written = deskewer.volume != 0
        np.testing.assert_array_equal(deskewer.volume[written], final[written])
        n_after = np.count_nonzero(written)
        # The first plane alone completes only what lies exactly on the last in Y.
        assert n_after > n_before or deskewer.n_added == 1
        n_before = n_after


@pytest.mark.parametrize(("direction", "rows", "columns"), ORIENTATIONS)
def test_bead_lands_where_it_is(direction, rows, columns) -> None:
    geometry = oriented(
        direction, rows, columns, n_planes=24, n_rows=40, n_columns=20, step_um=0.3
    )
    bead_um = np.array([1.4, 5.0, 2.6])
    index = np.indices((24, 40, 20)).reshape(3, -1)
    affine = np.array(geometry.affine())
    distance_um = affine[:, :3] @ index + affine[:, 3:] - bead_um[:, None]
    bead = 1000 * np.exp(-((distance_um / 0.5) ** 2).sum(axis=0) / 2)
    deskewer = Deskewer(geometry, voxel_size_um=(0.25, 0.15))
    for plane in bead.reshape(24, 40, 20).round().astype(np.uint16):
        deskewer.add(plane)
    volume = deskewer.volume.astype(float)
    grid = np.indices(volume.shape).reshape(3, -1)
    centroid = (grid * volume.ravel()).sum(axis=1) / volume.sum()
    scale_um, start_um = np.array([0.25, 0.15, 0.2]), np.array([0, -0.6, 0])
    np.testing.assert_allclose(centroid * scale_um + start_um, bead_um, atol=0.02)


def test_deskewer_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^voxel_size_um "):
        Deskewer(GEOMETRY, voxel_size_um=0)
    deskewer = Deskewer(GEOMETRY)
    for plane in (np.zeros((9, 6), np.uint16), np.zeros((9, 5), np.uint8)):
        with pytest.raises(ValueError, match=r"^plane must be \(9, 5\) uint16"):
            deskewer.add(plane)
    for plane in noise(0):
        deskewer.add(plane)
    with pytest.raises(ValueError, match=r"^plane: all 4 planes"):
        deskewer.add(noise(0)[0])


# --- The handler


class Recorder:
    """An output that keeps all it is told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.summary: dict = {}
        self.volumes: dict[tuple, np.ndarray] = {}
        self.events: list[useq.MDAEvent] = []
        self.metas: list[dict] = []

    def sequenceStarted(self, sequence, summary) -> None:
        self.calls.append("started")
        self.summary = summary

    def frameReady(self, volume, event, meta) -> None:
        self.calls.append("volume")
        self.volumes[tuple(event.index.get(axis, 0) for axis in "tpc")] = volume
        self.events.append(event)
        self.metas.append(meta)

    def sequenceFinished(self, sequence) -> None:
        self.calls.append("finished")

    @property
    def stream(self) -> Stream:
        return Stream.model_validate(self.summary["extra"][BLOCK]["stream"])


def sequence_of(axis_order: str = "tpzc") -> useq.MDASequence:
    return useq.MDASequence(
        channels=[{"config": "488", "exposure": 5}, {"config": "561", "exposure": 5}],
        z_plan={"range": 1.2, "step": 0.4},
        stage_positions=[(0, 0, 0), (100, 50, 0)],
        time_plan={"interval": 2, "loops": 2},
        axis_order=axis_order,
    )


PLANES = Stream(
    kind="planes",
    shape=(9, 5),
    scale_um=(0.4, 0.2, 0.2),
    n_planes=4,
    n_times=2,
    interval_s=2,
    channels=tuple(ChannelInfo(name=name, exposure_ms=5) for name in ("488", "561")),
    positions=(
        PositionInfo(name="0", x_um=0, y_um=0, z_um=0),
        PositionInfo(name="1", x_um=100, y_um=50, z_um=0),
    ),
)


def block_with(geometry: Geometry = GEOMETRY, **stream) -> dict:
    """The metadata block of a run, after a round trip through JSON."""
    planes = PLANES.model_copy(update=stream)
    block = {
        "version": "1",
        "settings": {"mode": "galvo"},
        "geometry": geometry.model_dump(mode="json"),
        "stream": planes.model_dump(mode="json"),
        "camera_offset": 100,
    }
    return json.loads(json.dumps(block))


def summary_with(*args, **stream) -> dict:
    extra = {"other": 1, BLOCK: block_with(*args, **stream)}
    return {"format": "summary-dict", "extra": extra}


def stack_of(event: useq.MDAEvent) -> np.ndarray:
    t, p, c = (event.index.get(axis, 0) for axis in "tpc")
    return noise(100 + 4 * t + 2 * p + c)


def frames(events) -> Iterator[tuple[np.ndarray, useq.MDAEvent, dict]]:
    for number, event in enumerate(events):
        meta = {"runner_time_ms": float(number), "mda_event": event}
        yield stack_of(event)[event.index.get("z", 0)], event, meta


def play(handler: Deskew, sequence: useq.MDASequence, summary: dict) -> None:
    handler.sequenceStarted(sequence, summary)
    for image, event, meta in frames(sequence):
        handler.frameReady(image, event, meta)
    handler.sequenceFinished(sequence)


def assert_all_volumes(output: Recorder) -> None:
    assert set(output.volumes) == set(np.ndindex(2, 2, 2))
    for (t, p, c), volume in output.volumes.items():
        np.testing.assert_array_equal(volume, whole(noise(100 + 4 * t + 2 * p + c)))


@pytest.mark.parametrize("axis_order", ["tpzc", "tpcz", "ptzc", "zctp"])
def test_volumes_of_a_run(axis_order: str) -> None:
    output, bare = Recorder(), object()
    handler = Deskew([bare, output])
    for _ in range(2):  # the same handler serves many runs
        output.calls.clear()
        play(handler, sequence_of(axis_order), summary_with())
        assert output.calls == ["started", *["volume"] * 8, "finished"]
        assert_all_volumes(output)
        assert len(handler.latency_ms) == 8
        assert all(0 < latency < math.inf for latency in handler.latency_ms)
        assert handler.incomplete == ()
    volumes = list(output.volumes.values())
    assert not any(np.shares_memory(volumes[0], other) for other in volumes[1:])


def test_outputs_are_told_about_volumes() -> None:
    output = Recorder()
    summary = summary_with()
    play(Deskew([output], voxel_size_um=(0.25, 0.15)), sequence_of(), summary)
    assert summary == summary_with()  # ours is a copy
    assert output.stream == PLANES.model_copy(
        update={
            "kind": "volumes",
            "shape": GEOMETRY.volume_shape((0.25, 0.15)),
            "scale_um": (0.25, 0.15, 0.2),
            "translation_um": (0.0, -0.6, 0.0),
            "n_planes": 1,
        }
    )
    assert output.stream.shape == next(iter(output.volumes.values())).shape
    extra = output.summary["extra"]
    assert json.loads(json.dumps(extra)) == extra
    assert extra["other"] == 1
    assert extra[BLOCK]["camera_offset"] == 100
    assert extra[BLOCK]["angle_deg"] == 30
    assert extra[BLOCK]["deskew"]["voxel_size_um"] == [0.25, 0.15]
    for event, meta in zip(output.events, output.metas, strict=True):
        assert set(event.index) == {"t", "p", "c"}
        assert meta["mda_event"] is event
        assert meta["extra"]["deskew"]["latency_ms"] > 0
    # The metadata of the first volume's last plane: z 3 of 4, two channels.
    assert output.metas[0]["runner_time_ms"] == 6


def test_cancelled_run_hands_out_no_half_volumes() -> None:
    output = Recorder()
    handler = Deskew([output])
    sequence = sequence_of()
    handler.sequenceStarted(sequence, summary_with())
    for image, event, meta in list(frames(sequence))[:13]:
        handler.frameReady(image, event, meta)
    handler.sequenceFinished(sequence)
    assert set(output.volumes) == {(0, 0, 0), (0, 0, 1)}
    cut = ({"t": 0, "p": 1, "c": 0}, {"t": 0, "p": 1, "c": 1})
    assert handler.incomplete == cut
    handler.sequenceFinished(sequence)  # a second time: nothing more to finish
    assert handler.incomplete == cut
    assert output.calls.count("finished") == 1
    play(handler, sequence, summary_with())
    assert handler.incomplete == ()


def test_finished_without_started_is_harmless() -> None:
    output = Recorder()
    Deskew([output]).sequenceFinished(sequence_of())
    assert output.calls == []


def test_frame_without_run_is_refused() -> None:
    with pytest.raises(RuntimeError, match="sequenceStarted"):
        Deskew().frameReady(*next(frames(sequence_of())))


# --- Runs from loose events, and under other engines


def loose_frames(blocks: dict[int, dict]) -> Iterator[tuple]:
    """Frames of a sequence; those of the given numbers carry a block."""
    for number, (image, event, meta) in enumerate(frames(sequence_of())):
        extra = {"extra": {BLOCK: blocks[number]}} if number in blocks else {}
        yield image, event.model_copy(update={"sequence": None}), meta | extra


def test_loose_events_open_outputs_at_the_first_frame() -> None:
    output = Recorder()
    handler = Deskew([output])
    handler.sequenceStarted(GeneratorMDASequence(), {"extra": {"other": 1}})
    assert output.calls == []
    # The 7th frame completes a volume and starts a burst: bursts may be that short.
    for frame in loose_frames(dict.fromkeys((0, 6, 8), block_with())):
        handler.frameReady(*frame)
        assert output.calls[0] == "started"
    handler.sequenceFinished(GeneratorMDASequence())
    assert output.calls == ["started", *["volume"] * 8, "finished"]
    assert_all_volumes(output)
    assert output.stream.kind == "volumes"
    assert output.summary["extra"]["other"] == 1
    assert not any(BLOCK in meta["extra"] for meta in output.metas)


def test_changed_scan_within_a_run_is_refused() -> None:
    handler = Deskew()
    handler.sequenceStarted(GeneratorMDASequence(), {})
    turned = block_with(GEOMETRY.model_copy(update={"angle_deg": 31}))
    first, second = list(loose_frames({0: block_with(), 1: turned}))[:2]
    handler.frameReady(*first)
    with pytest.raises(ValueError, match="scan changed"):
        handler.frameReady(*second)


class OtherEngine:
    """An engine that knows nothing of ours."""

    def setup_sequence(self, sequence):
        return None

    def setup_event(self, event) -> None:
        pass

    def exec_event(self, event):
        yield from frames([event])

    def event_iterator(self, events):
        yield from events

    def teardown_event(self, event) -> None:
        pass

    def teardown_sequence(self, sequence) -> None:
        pass


@pytest.mark.parametrize(
    "of_sequence",
    [
        pytest.param(lambda sequence: sequence, id="sequence"),
        pytest.param(list, id="list"),
        pytest.param(iter, id="iterator"),
    ],
)
def test_geometry_serves_other_engines(of_sequence) -> None:
    output = Recorder()
    handler = Deskew([output], geometry=GEOMETRY)
    runner = MDARunner()
    runner.set_engine(OtherEngine())
    sequence = sequence_of().replace(time_plan={"interval": 0, "loops": 2})
    runner.run(of_sequence(sequence), output=[handler])
    assert output.calls == ["started", *["volume"] * 8, "finished"]
    assert_all_volumes(output)
    stream = output.stream
    assert [channel.name for channel in stream.channels] == ["488", "561"]
    assert [(p.x_um, p.y_um) for p in stream.positions] == [(0, 0), (100, 50)]
    assert (stream.n_times, stream.kind) == (2, "volumes")
    assert output.summary["extra"][BLOCK]["step_um"] == 0.4


def test_explicit_geometry_goes_before_the_blocks() -> None:
    output = Recorder()
    wrong = GEOMETRY.model_copy(update={"angle_deg": 50})
    play(Deskew([output], geometry=GEOMETRY), sequence_of(), summary_with(wrong))
    assert_all_volumes(output)
    assert output.summary["extra"][BLOCK]["geometry"]["angle_deg"] == 30


# --- Refusals and failing outputs


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


class ProjectionsOnly:
    """An output that wants the projections in place of the volume."""

    def __init__(self) -> None:
        self.received: list[tuple[MaxProjections, dict]] = []

    def projectionsReady(self, projections, event, meta) -> None:
        self.received.append((projections, dict(event.index)))

    def frameReady(self, volume, event, meta) -> None:
        pytest.fail("the projections come in place of the volume")


def test_projections_come_with_each_volume() -> None:
    output, eager = Recorder(), ProjectionsOnly()
    play(Deskew([output, eager]), sequence_of(), summary_with())
    assert len(eager.received) == 8
    for projections, index in eager.received:
        volume = output.volumes[index["t"], index["p"], index["c"]]
        for axis, projection in enumerate(projections):
            np.testing.assert_array_equal(projection, volume.max(axis=axis))
