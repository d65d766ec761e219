"""Writers that tests start as processes of their own, to kill them or to fill a disk.

Frames are noise that differs with their number, so that each pixel tells whose it is.
Processes are forked from one that has everything loaded: a kill costs no start.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import useq

from opm_engine import OMEZarrWriter
from opm_engine.plan import Place, Stream
from opm_engine.writers.reading import read_frames
from writing import SEQUENCE, carrier, images, stream_for

N_TIMES = 500
"""More than any of them comes to write."""

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["crashing"])

STREAMS = {
    "small": stream_for(t=1, p=2, c=2, z=16, shape=(48, 64)).model_copy(
        update={"unbounded": True}
    ),
    "large": stream_for(t=N_TIMES, p=2, c=2, z=12, shape=(256, 512)),
    "paced": stream_for(t=4, c=2, z=16, shape=(48, 64)),
    "volumes": stream_for(t=N_TIMES, c=2, shape=(12, 100, 256)).model_copy(
        update={"slab_rows": 32}
    ),
}
"""Written through the page cache and past it; volumes come as slabs."""


@cache
def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).integers(100, 400, shape, np.uint16)


def frame(stream: Stream, number: int) -> np.ndarray:
    return noise(stream.shape) ^ np.uint16(number % 65000 + 1)


def index_of(stream: Stream, number: int) -> dict[str, int]:
    """Acquisition order t, p, z, c; of volumes t, c."""
    number, c = divmod(number, len(stream.channels))
    number, z = divmod(number, stream.n_planes)
    t, p = divmod(number, len(stream.positions))
    index = {"t": t, "p": p, "c": c}
    return index | {"z": z} if stream.kind == "planes" else index


def number_of(stream: Stream, place: Place) -> int:
    t, p, c, z = place
    return ((t * len(stream.positions) + p) * stream.n_planes + z) * len(
        stream.channels
    ) + c


def write(
    store: Path, progress: Path, kind: str, codec: str, backend: str, limit: int = 0
) -> None:
    """Write without end, and after each frame tell how many are acknowledged."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if limit:  # so that the next write beyond it fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    stream = STREAMS[kind]
    writer = OMEZarrWriter(store, codec=codec, backend=backend, budget_bytes=2**24)
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    told = os.open(progress, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in itertools.count():
        send(writer, stream, number)
        os.write(told, b"%d %d\n" % (writer.frames_written, number + 1))


def pace(store: Path, progress: Path, period_s: float, n_frames: int) -> None:
    """Write small frames as a camera would, and tell how many were handed over."""
    stream = STREAMS["paced"]
    writer = OMEZarrWriter(store)
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    told = os.open(progress, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in range(n_frames):
        send(writer, stream, number)
        os.write(told, b"%d %d\n" % (writer.frames_written, number + 1))
        time.sleep(period_s)
    writer.sequenceFinished(SEQUENCE)


def send(writer: OMEZarrWriter, stream: Stream, number: int) -> None:
    image, meta = frame(stream, number), {"runner_time_ms": float(number)}
    event = useq.MDAEvent(index=index_of(stream, number))
    if stream.slab_rows is None:
        writer.frameReady(image, event, meta)
        return
    for row in range(0, stream.shape[1], stream.slab_rows):
        slab = image[:, row : row + stream.slab_rows]
        writer.slabReady(slab, row, event, meta)


@contextmanager
def process(target: Any, *args: Any) -> Iterator[BaseProcess]:
    """A process that is gone afterwards."""
    running = FORKS.Process(target=target, args=args, daemon=True)
    running.start()
    try:
        yield running
    finally:
        running.kill()
        running.join()


def told(progress: Path) -> tuple[int, int]:
    """Frames acknowledged and sent, as the last whole line says."""
    lines = progress.read_bytes().split(b"\n") if progress.exists() else [b""]
    if len(lines) < 2:
        return 0, 0
    acknowledged, sent = map(int, lines[-2].split())
    return acknowledged, sent


def acknowledged(progress: Path) -> int:
    """What the last whole line of a ``--progress-file`` says."""
    lines = progress.read_bytes().split(b"\n") if progress.exists() else [b""]
    return int(json.loads(lines[-2])["acknowledged"]) if len(lines) > 1 else 0


def wait_for(
    what: Callable[[], bool], writer: BaseProcess, timeout_s: float = 20.0
) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not what():
        assert writer.exitcode is None
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


class Found:
    """What a store holds, as zarr-python reads it."""

    def __init__(self, store: Path, stream: Stream) -> None:
        self.stream = stream
        self.arrays: list[Any] = [image["0"] for image in images(store, stream)]
        self.volumes: dict[Place, np.ndarray] = {}
        self.lines: dict[Place, dict[str, Any]] = {}
        for position in range(len(stream.positions)):
            for line in read_frames(store, position):
                place = stream.place(line["index"])
                assert place not in self.lines, "told twice"
                self.lines[place] = line

    def pixels(self, place: Place) -> np.ndarray:
        key = place._replace(plane=0)
        if key not in self.volumes:
            self.volumes[key] = self.arrays[key.position][key.t, key.channel]
        volume = self.volumes[key]
        return volume[place.plane] if self.stream.kind == "planes" else volume

    def assert_sound(self) -> set[int]:
        """Whatever is told of is there, pixel by pixel; return the frames' numbers."""
        numbers = {number_of(self.stream, at): at for at in self.lines}
        for number, place in numbers.items():
            line = self.lines[place]
            assert line.get("runner_time_ms", number) == number
            np.testing.assert_array_equal(
                self.pixels(place), frame(self.stream, number), err_msg=str(number)
            )
        return set(numbers)
