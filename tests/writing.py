"""Streams, their pixels and a reader that is not ours, for tests of handlers."""

import itertools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import useq
import zarr
from pymmcore_plus import GeneratorMDASequence

from opm_engine.plan import BLOCK, ChannelInfo, PositionInfo, Stream
from opm_engine.writers import OMEZarrWriter

SEQUENCE = useq.MDASequence(channels=["488"])
NOTHING_KNOWN = GeneratorMDASequence()  # what sequenceStarted gets for event lists
Index = dict[str, int]


def stream_for(
    *, t: int = 1, p: int = 1, c: int = 1, z: int = 3, shape: tuple[int, ...] = (4, 5)
) -> Stream:
    return Stream(
        kind="planes" if len(shape) == 2 else "volumes",
        shape=shape,
        scale_um=(0.4, 0.115, 0.115),
        translation_um=(0.0, -12.5, 0.0),
        n_planes=z if len(shape) == 2 else 1,
        n_times=t,
        interval_s=2.0,
        channels=tuple(ChannelInfo(name=f"laser {i}") for i in range(c)),
        positions=tuple(PositionInfo(name=f"well {i}", x_um=i, p=i) for i in range(p)),
    )


def carrier(stream: Stream) -> dict[str, Any]:
    """What a run's summary, or the first frame of a burst, carries."""
    block = {
        "version": "1",
        "angle_deg": 30.0,
        "camera_offset": 100.0,
        "stream": stream.model_dump(mode="json"),
    }
    return {"extra": {BLOCK: block}}


def indices(stream: Stream, order: str) -> list[Index]:
    sizes = {
        "t": stream.n_times,
        "p": len(stream.positions),
        "c": len(stream.channels),
        "z": stream.n_planes,
    }
    ranges = [range(sizes[axis]) for axis in order]
    return [dict(zip(order, at, strict=True)) for at in itertools.product(*ranges)]


def item(stream: Stream, at: Index) -> npt.NDArray[np.uint16]:
    """Pixels that differ from each other and say which index they belong to."""
    number = ((at["t"] * 7 + at["p"]) * 5 + at["c"]) * 11 + at.get("z", 0)
    within = np.arange(math.prod(stream.shape)).reshape(stream.shape)
    return ((number * 131 + within * 17) % 65521 + 1).astype(np.uint16)


def send(
    writer: OMEZarrWriter, stream: Stream, at: Index, meta: dict[str, Any] | None = None
) -> None:
    writer.frameReady(item(stream, at), useq.MDAEvent(index=at), meta or {})


def send_slab(
    writer: OMEZarrWriter, stream: Stream, at: Index, first_row: int, n_rows: int
) -> None:
    slab = item(stream, at)[:, first_row : first_row + n_rows]
    writer.slabReady(slab, first_row, useq.MDAEvent(index=at), {})


def record(
    writer: OMEZarrWriter, stream: Stream, order: str = "tpzc", stop: int | None = None
) -> list[Index]:
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    sent = indices(stream, order)[:stop]
    for at in sent:
        send(writer, stream, at)
    writer.sequenceFinished(SEQUENCE)
    return sent


def images(path: Path, stream: Stream) -> list[zarr.Group]:
    root = zarr.open_group(path, mode="r")
    n_images = len(stream.positions)
    return [root] if n_images == 1 else [root[str(p)] for p in range(n_images)]


def wait_written(writer: OMEZarrWriter, n_items: int) -> None:
    """Wait until so many items are on disk."""
    deadline_s = time.monotonic() + 30
    while writer.frames_written < n_items:
        assert time.monotonic() < deadline_s
        time.sleep(1e-3)


def assert_holds(path: Path, stream: Stream, sent: list[Index]) -> None:
    """Every item that was sent is where it belongs, and nothing else is anywhere."""
    n_z = stream.n_planes if stream.kind == "planes" else stream.shape[0]
    shape = (stream.n_times, len(stream.channels), n_z, *stream.shape[-2:])
    expected = np.zeros((len(stream.positions), *shape), stream.dtype)
    for at in sent:
        where = (at["p"], at["t"], at["c"])
        if stream.kind == "planes":
            where += (at["z"],)
        expected[where] = item(stream, at)
    found = np.stack([image["0"][:] for image in images(path, stream)])
    np.testing.assert_array_equal(found, expected)
