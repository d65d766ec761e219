"""Sharded arrays, pixels that say where they belong, and readers that are not ours."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorstore
import zarr

from opm_engine.plan import Place
from opm_engine.writers.node import write_node
from opm_engine.writers.shards import file as shard_file
from opm_engine.writers.shards.layout import Layout
from opm_engine.writers.shards.sink import Codec, Sink
from opm_engine.writers.shards.sinks import Backend
from opm_engine.writers.store import array_document

CODECS: tuple[Codec, ...] = ("none", "lz4", "zstd")
BACKENDS: tuple[Backend, ...] = ("append", "tensorstore")

can_append = pytest.mark.skipif(
    shard_file.pwrite is None, reason="nothing can be appended on this platform"
)
both = pytest.mark.parametrize(
    "backend", [pytest.param("append", marks=can_append), "tensorstore"]
)


def planes_layout(
    t: int = 1, c: int = 1, z: int = 5, depth: int = 2, y: int = 6, x: int = 7
) -> Layout:
    return Layout((t, c, z, y, x), (1, 1, depth, y, x), (1, 1, 1, y, x), "uint16")


def volumes_layout(
    shape: tuple[int, int, int, int, int],
    slabs: int,
    rows: int,
    depth: int,
) -> Layout:
    """Bricks of `depth` x `rows`, shards of `slabs` of them along Y."""
    x = shape[-1]
    whole = -(-shape[2] // depth) * depth
    return Layout(shape, (1, 1, whole, slabs * rows, x), (1, 1, depth, rows, x), "u2")


LARGE = planes_layout(c=2, z=3, depth=2, y=64, x=600)
"""Past the page cache, where that works."""


def new_array(folder: Path, layout: Layout, codec: Codec) -> Path:
    folder.mkdir(parents=True)
    write_node(folder, array_document(layout, codec))
    return folder


def truth(layout: Layout, position: int = 0) -> npt.NDArray[np.uint16]:
    """Every plane (t, c, z) has a number in its pixels, beside a pattern; none is 0."""
    n_planes = math.prod(layout.shape[:3])
    number = (np.arange(n_planes) + 1000 * position).reshape(*layout.shape[:3], 1, 1)
    pattern = np.arange(math.prod(layout.shape[3:])).reshape(layout.shape[3:])
    return ((number * 131 + pattern * 17) % 65521 + 1).astype(np.uint16)


def readings(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """The whole array, as readers of others see it."""
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}}
    return {
        "zarr": np.asarray(zarr.open_array(str(folder), mode="r")[...]),
        "tensorstore": np.asarray(tensorstore.open(spec).result().read().result()),
    }


def check(folder: Path, expected: npt.NDArray[Any]) -> None:
    for reader, pixels in readings(folder).items():
        assert np.array_equal(pixels, expected), reader


def shards(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "c").rglob("*") if path.is_file())


class Lines:
    """A journal in memory."""

    def __init__(self) -> None:
        self.lines: list[tuple[Place, bytes]] = []

    def add(self, place: Place, line: bytes) -> None:
        self.lines.append((place, line))

    @property
    def places(self) -> list[Place]:
        return [place for place, _ in self.lines]


def places_of(layout: Layout, order: str, position: int = 0) -> list[Place]:
    """Places of all planes; interleaved, channel by channel, backward or shuffled."""
    ts, cs, zs = (range(size) for size in layout.shape[:3])
    ordered = {
        "interleaved": [(t, c, z) for t in ts for z in zs for c in cs],
        "by channel": [(t, c, z) for t in ts for c in cs for z in zs],
        "times last": [(t, c, z) for z in zs for c in cs for t in ts],
    }
    ordered["backward"] = ordered["interleaved"][::-1]
    ordered["shuffled"] = random.Random(1).sample(
        ordered["interleaved"], len(ordered["interleaved"])
    )
    return [Place(t, position, c, z) for t, c, z in ordered[order]]


ORDERS = ("interleaved", "by channel", "times last", "backward", "shuffled")


def line_of(place: Place) -> bytes:
    return f"{tuple(place)}\n".encode()


def put_planes(sink: Sink, pixels: npt.NDArray[np.uint16], places: list[Place]) -> None:
    for place in places:
        plane = pixels[place.t, place.channel, place.plane]
        sink.put(place, plane, line_of(place))
