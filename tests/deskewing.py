"""Scans, their pixels and an output that keeps all, for tests of the deskew."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator

import numpy as np
import useq

from opm_engine.buffers import BufferPool
from opm_engine.geometry import Geometry
from opm_engine.plan import BLOCK, ChannelInfo, PositionInfo, Stream
from opm_engine.processing import Deskew, deskew

GEOMETRY = Geometry(
    angle_deg=30,
    step_um=0.4,
    pixel_size_um=0.2,
    n_planes=4,
    n_rows=9,
    n_columns=5,
    origin_um=-0.6,
)


def noise(seed: int, geometry: Geometry = GEOMETRY) -> np.ndarray:
    shape = geometry.n_planes, geometry.n_rows, geometry.n_columns
    return np.random.default_rng(seed).integers(0, 65536, shape, dtype=np.uint16)


def whole(stack: np.ndarray, **arguments) -> np.ndarray:
    return deskew(stack, angle_deg=30, step_um=0.4, pixel_size_um=0.2, **arguments)


class Dirty(BufferPool):
    """A pool whose memory was used before, and that knows how much is out."""

    def __init__(self) -> None:
        super().__init__()
        self.out_bytes = self.most_bytes = 0

    def take(self, shape, dtype):
        array = super().take(shape, dtype)
        array.view(np.uint8).fill(0xA5)
        self.out_bytes += array.nbytes
        self.most_bytes = max(self.most_bytes, self.out_bytes)
        weakref.finalize(array.base, self._came_back, array.nbytes)
        return array

    def _came_back(self, n_bytes: int) -> None:
        self.out_bytes -= n_bytes


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
        PositionInfo(name="1", x_um=100, y_um=50, z_um=0, p=1),
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
