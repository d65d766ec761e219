"""Ways to the disk that ``writer.py`` compares; each writes the frames of a scene.

Separate so that what is compared can be read apart from how it is measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ome_writers
from noise_camera import Frames

from opm_engine.plan import ChannelInfo, Place, PositionInfo, Stream
from opm_engine.writers.node import write_node
from opm_engine.writers.shards import sinks
from opm_engine.writers.shards.layout import layouts
from opm_engine.writers.shards.sink import Codec, Sink
from opm_engine.writers.shards.sinks import Backend, open_sink
from opm_engine.writers.store import array_document

SIZE = 2304, 512
"""Columns, rows."""

PLANES = 100
"""Per volume."""

LINE = b'{"index": {"t": 0, "c": 0, "z": 0}, "runner_time_ms": 123.456}\n'

OME_CODECS: dict[Codec, Literal["none", "blosc-lz4", "blosc-zstd"]] = {
    "none": "none",
    "lz4": "blosc-lz4",
}


class Journal:
    """Takes lines and forgets them."""

    def add(self, place: Place, line: bytes) -> None:
        """Forget it."""


@dataclass(frozen=True)
class Scene:
    """What is written, and where.

    Attributes
    ----------
    frames : (n, rows, columns) uint16
        Different ones, on page boundaries; they come again and again in this order.
    n_frames : int
        Of each run.
    folder : Path
    direct : bool
        Whether there is a way past the page cache.
    """

    frames: Frames
    n_frames: int
    folder: Path
    direct: bool

    @property
    def gigabytes(self) -> float:
        """Of all frames, as they come from the camera."""
        return self.n_frames * self.frames[0].nbytes / 1e9

    def frame(self, number: int) -> Any:
        """One of them."""
        return self.frames[number % len(self.frames)]


Way = Callable[[Scene, Path], None]


def raw(scene: Scene, folder: Path) -> None:
    """Write the bytes into one file, and nothing else."""
    flags = os.O_DIRECT if scene.direct else 0
    file = os.open(folder / "raw", os.O_CREAT | os.O_WRONLY | flags)
    for i in range(scene.n_frames):
        os.pwrite(file, scene.frame(i), i * scene.frames[0].nbytes)
    os.close(file)


def ours(codec: Codec, backend: Backend) -> Way:
    """Append to shards, or write whole ones."""

    def write(scene: Scene, folder: Path) -> None:
        sink = sink_for(folder, scene.n_frames, SIZE, codec, backend)
        for i in range(scene.n_frames):
            sink.put(place_of(i), scene.frame(i), LINE)
        sink.close()

    return write


def ome(codec: Codec) -> Way:
    """What ome-writers does unless told otherwise."""

    def write(scene: Scene, folder: Path) -> None:
        settings = ome_writers.AcquisitionSettings(
            root_path=str(folder / "x.ome.zarr"),
            dimensions=tuple(
                ome_writers.dims_from_standard_axes(
                    {"t": scene.n_frames, "y": SIZE[1], "x": SIZE[0]}
                )
            ),
            dtype="uint16",
            compression=OME_CODECS[codec],
        )
        with ome_writers.create_stream(settings) as stream:
            for i in range(scene.n_frames):
                stream.append(scene.frame(i))

    return write


WAYS: dict[str, Way] = {
    "raw": raw,
    "none": ours("none", "append"),
    "lz4": ours("lz4", "append"),
    "zstd": ours("zstd", "append"),
    "fallback_none": ours("none", "tensorstore"),
    "fallback_lz4": ours("lz4", "tensorstore"),
    "ome_writers_none": ome("none"),
    "ome_writers_lz4": ome("lz4"),
}


def sink_for(
    folder: Path,
    n_frames: int,
    size: tuple[int, int],
    codec: Codec,
    backend: Backend = "auto",
    budget_bytes: int = sinks.BUDGET_BYTES,
) -> Sink:
    """A new array of so many frames, and the way into it."""
    columns, rows = size
    stream = Stream(
        kind="planes",
        shape=(rows, columns),
        scale_um=(1.0, 1.0, 1.0),
        n_planes=PLANES,
        n_times=-(-n_frames // PLANES),
        channels=(ChannelInfo(name="488"),),
        positions=(PositionInfo(name="0"),),
    )
    (layout,) = layouts(stream)
    array = folder / "0"
    array.mkdir()
    write_node(array, array_document(layout, codec))
    return open_sink(
        [array], [layout], codec, Journal(), budget_bytes=budget_bytes, backend=backend
    )


def place_of(number: int) -> Place:
    """Planes of one volume after another."""
    return Place(number // PLANES, 0, 0, number % PLANES)
