"""`Deskew`, the handler: whole runs, of whatever engine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import useq
import zarr
from numba.core.registry import CPUDispatcher
from pymmcore_plus import GeneratorMDASequence
from pymmcore_plus.mda import MDARunner

from deskewing import (
    GEOMETRY,
    PLANES,
    Recorder,
    assert_all_volumes,
    block_with,
    frames,
    play,
    sequence_of,
    summary_with,
)
from opm_engine.plan import BLOCK
from opm_engine.processing import (
    Correction,
    Deskew,
    MaxProjections,
    kernels,
    kernels_binned,
    taps,
)
from opm_engine.writers import OMEZarrWriter
from opm_engine.writers.reading import open_image


@pytest.mark.parametrize("axis_order", ["tpzc", "tpcz", "ptzc", "zctp"])
def test_volumes_of_a_run(axis_order: str) -> None:
    output = Recorder()
    quiet = SimpleNamespace(sequenceFinished=lambda sequence: None)
    handler = Deskew([quiet, output])
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
            "slab_rows": 32,
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


def test_stored_volumes_lie_where_the_planes_did(tmp_path: Path) -> None:
    """A plane's pixel and its voxel in the store have the same place in µm."""
    geometry = GEOMETRY.model_copy(update={"scan_direction": -1, "flip_columns": True})
    writer = OMEZarrWriter(tmp_path / "x.ome.zarr")
    handler = Deskew([writer], voxel_size_um=(0.1, 0.1 * math.sqrt(3)))
    handler.sequenceStarted(sequence_of(), summary_with(geometry))
    affine = np.array(geometry.affine())
    for z in range(4):  # one bright pixel: row 0, column 1 of plane 3, lowest in Y
        plane = np.zeros((9, 5), np.uint16)
        plane[0, 1] = 1000 * (z == 3)
        event = useq.MDAEvent(index={"t": 1, "p": 1, "c": 0, "z": z})
        handler.frameReady(plane, event, {})
    handler.sequenceFinished(sequence_of())
    found = np.argwhere(np.asarray(open_image(writer.path, 1)[1, 0]) == 1000)
    attributes = zarr.open_group(writer.path / "1", mode="r").attrs
    (dataset,) = attributes["ome"]["multiscales"][0]["datasets"]
    scale, translation = dataset["coordinateTransformations"]
    place_um = found[0] * scale["scale"][2:] + np.array(translation["translation"][2:])
    np.testing.assert_allclose(place_um, affine @ [3, 0, 1, 1], atol=1e-9)
    # The stage position is not in it: it stands beside it.
    assert attributes[BLOCK]["position"]["x_um"] == 100


@pytest.mark.parametrize(
    "options", [{}, {"z_bin": 2}, {"correction": Correction(1.0)}], ids=str
)
def test_read_only_planes_stay_as_they_are_and_compile_nothing(options) -> None:
    """The first plane of a run need not wait for a compiler."""
    output, eager = Recorder(), ProjectionsOnly()
    handlers = Deskew([output], **options), Deskew([output, eager], **options)
    compiled: list[list] = []
    for handler in handlers:
        handler.sequenceStarted(sequence_of(), summary_with())
        compiled.append(signatures())
        for image, event, meta in frames(sequence_of()):
            image.flags.writeable = False
            before = image.copy()
            handler.frameReady(image, event, meta)
            np.testing.assert_array_equal(image, before)
        handler.sequenceFinished(sequence_of())
    assert compiled == [signatures()] * 2
    if not options:
        assert_all_volumes(output)


def signatures() -> list:
    """All that is compiled."""
    parts = [*vars(kernels).values(), *vars(kernels_binned).values()]
    parts += vars(taps).values()
    return [part.signatures for part in parts if isinstance(part, CPUDispatcher)]


def test_cancelled_run_hands_out_what_came() -> None:
    output = Recorder()
    handler = Deskew([output])
    sequence = sequence_of()
    handler.sequenceStarted(sequence, summary_with())
    for image, event, meta in list(frames(sequence))[:13]:
        handler.frameReady(image, event, meta)
    handler.sequenceFinished(sequence)
    begun = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]
    assert list(output.volumes) == begun
    for key, missing in zip(begun, ([], [], [3], [2, 3]), strict=True):
        told = output.metas[begun.index(key)]["extra"]["deskew"]
        assert told.get("missing_planes", []) == missing
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
