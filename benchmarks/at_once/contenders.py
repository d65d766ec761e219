"""What a run of frames can go through: this package's relay and writers, or others.

Separate from the measurement, which treats all of them alike. Each contender is given
the same frames by the same engine; they differ in what listens to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray
from ome_writers import AcquisitionSettings, create_stream, dims_from_standard_axes
from pymmcore_plus.mda import MDARunner, mda_listeners_connected
from pymmcore_plus.mda._sink import OmeWritersSink

from opm_engine import Deskew, OMEZarrWriter, ThreadRelay
from opm_engine.plan import Stream, block_of
from opm_engine.relay import Branch, latest

SHOWN_HZ = 30
"""Pictures per second that a display takes."""

RAW, DESKEWED = "raw.ome.zarr", "deskewed.ome.zarr"

Codec = Literal["none", "lz4"]


@dataclass(frozen=True)
class Contender:
    """One way to deal with the frames.

    Attributes
    ----------
    title : str
    codec : {"none", "lz4"}
    deskews, saves_volumes, shows : bool
        Whether it deskews with projections, saves the deskewed volumes, and feeds a
        display.
    is_stock : bool
        Behind pymmcore-plus's relay, saved by ome-writers with its default backend. It
        has no deskew of its own, so it gets ours.
    """

    title: str
    codec: Codec
    deskews: bool = False
    saves_volumes: bool = False
    shows: bool = False
    is_stock: bool = False

    @property
    def squeezes(self) -> float:
        """By how much the frames shrink, at least."""
        if self.codec == "none":
            return 1.0
        return 1.2 if self.is_stock else 2.0  # shuffles bytes, which helps little


CONTENDERS = {
    "raw_none": Contender("raw, uncompressed", "none"),
    "raw_lz4": Contender("raw lz4", "lz4"),
    "deskew": Contender("+ deskew with projections", "lz4", deskews=True),
    "deskewed": Contender(
        "+ deskewed volumes lz4", "lz4", deskews=True, saves_volumes=True
    ),
    "everything": Contender(
        "+ display", "lz4", deskews=True, saves_volumes=True, shows=True
    ),
    "stock_raw": Contender("stock: raw, uncompressed", "none", is_stock=True),
    "stock_raw_lz4": Contender("stock: raw lz4", "lz4", is_stock=True),
    "stock_everything": Contender(
        "stock: everything",
        "lz4",
        deskews=True,
        saves_volumes=True,
        shows=True,
        is_stock=True,
    ),
}


class Display:
    """Takes pictures no faster than a screen shows them, and lets the others pass."""

    def __init__(self) -> None:
        self.n_shown = 0
        self.shown: Any = None
        self._next_s = 0.0

    def frameReady(self, image: NDArray[Any], event: Any, meta: Any) -> None:
        """Keep a smaller copy of a frame."""
        now_s = time.perf_counter()
        if now_s >= self._next_s:
            self._next_s = now_s + 1 / SHOWN_HZ
            self.shown = image[::4, ::4].copy()
            self.n_shown += 1


class ProjectionDisplay:
    """Takes the projections of each volume."""

    def __init__(self) -> None:
        self.n_shown = 0
        self.shown: Any = None

    def projectionsReady(self, projections: Any, event: Any, meta: Any) -> None:
        """Keep a copy of each."""
        self.shown = [projection.copy() for projection in projections]
        self.n_shown += 1


class OmeWritersPlanes:
    """Raw frames as ``core.mda.run(output=...)`` saves them, as a listener."""

    def __init__(self, path: Path, codec: Codec) -> None:
        compression = {"none": None, "lz4": "blosc-lz4"}[codec]
        self._sink = OmeWritersSink.from_output(
            AcquisitionSettings(root_path=str(path), compression=compression)
        )
        self.n_taken = 0

    def sequenceStarted(self, sequence: Any, summary: Any) -> None:
        """Create the store."""
        self._sink.setup(sequence, summary)

    def frameReady(self, image: NDArray[Any], event: Any, meta: Any) -> None:
        """Append a frame."""
        self._sink.append(image, event, meta)
        self.n_taken += 1

    def sequenceFinished(self, sequence: Any) -> None:
        """Write what is still held."""
        self._sink.close()


class OmeWritersVolumes:
    """Deskewed volumes, appended slice by slice."""

    def __init__(self, path: Path, codec: Codec) -> None:
        self._path = path
        self._compression = {"none": None, "lz4": "blosc-lz4"}[codec]
        self._stream: Any = None
        self.n_taken = 0

    def sequenceStarted(self, sequence: Any, summary: Any) -> None:
        """Create the store."""
        stream = Stream.model_validate((block_of(summary) or {})["stream"])
        shape = dict(zip("tczyx", (stream.n_times, 1, *stream.shape), strict=True))
        settings = AcquisitionSettings(
            root_path=str(self._path),
            dimensions=dims_from_standard_axes(shape),
            dtype=stream.dtype,
            compression=self._compression,
        )
        self._stream = create_stream(settings)

    def frameReady(self, volume: NDArray[Any], event: Any, meta: Any) -> None:
        """Append a volume (Z, Y, X)."""
        for image in volume:
            self._stream.append(image)
        self.n_taken += 1

    def sequenceFinished(self, sequence: Any) -> None:
        """Write what is still held."""
        self._stream.close()


Backlog = Callable[[], dict[str, int]]


@dataclass(frozen=True)
class Listening:
    """What is connected, and what of it can be read while it runs.

    Attributes
    ----------
    backlog : callable
        Bytes that wait in front of each branch, by name.
    errors : callable
        What went wrong, by branch.
    taken : callable
        Planes and volumes that the writers have taken.
    deskew : Deskew, optional
    displays : tuple
    """

    backlog: Backlog
    errors: Callable[[], dict[str, str]]
    taken: Callable[[], tuple[int, int]]
    deskew: Deskew | None
    displays: tuple[Any, ...]


@contextmanager
def listening(
    contender: Contender, runner: MDARunner, folder: Path
) -> Iterator[Listening]:
    """Connect a contender's handlers to a runner."""
    connect = _stock if contender.is_stock else _ours
    with connect(contender, runner, folder) as found:
        yield found


@contextmanager
def _ours(contender: Contender, runner: MDARunner, folder: Path) -> Iterator[Listening]:
    raw = OMEZarrWriter(folder / RAW, codec=contender.codec)
    volumes = OMEZarrWriter(folder / DESKEWED, codec=contender.codec)
    shown, preview = ProjectionDisplay(), Display()
    deskew = None
    branches = [Branch(raw, name="raw")]
    if contender.deskews:
        below = [latest(shown, name="projections")]
        if contender.saves_volumes:
            below.insert(0, Branch(volumes, name="deskewed"))
        deskew = Deskew(outputs=[ThreadRelay(*below)])
        branches.append(Branch(deskew, name="deskew"))
    if contender.shows:
        branches.append(latest(preview, name="display"))
    relay = ThreadRelay(*branches)
    with relay.connected(runner):
        yield Listening(
            backlog=lambda: {s.name: s.backlog_bytes for s in relay.stats},
            errors=lambda: {s.name: repr(s.error) for s in relay.stats if s.error},
            taken=lambda: (raw.frames_written, volumes.frames_written),
            deskew=deskew,
            displays=(preview, shown),
        )


@contextmanager
def _stock(
    contender: Contender, runner: MDARunner, folder: Path
) -> Iterator[Listening]:
    raw = OmeWritersPlanes(folder / RAW, contender.codec)
    volumes = OmeWritersVolumes(folder / DESKEWED, contender.codec)
    shown, preview = ProjectionDisplay(), Display()
    deskew = Deskew(outputs=[volumes, shown]) if contender.deskews else None
    handlers = [raw, deskew, preview if contender.shows else None]
    listeners = [handler for handler in handlers if handler is not None]
    n_bytes = 0

    def measure(image: NDArray[Any], event: Any, meta: Any) -> None:
        nonlocal n_bytes
        n_bytes = image.nbytes

    runner.events.frameReady.connect(measure)
    try:
        with mda_listeners_connected(*listeners, mda_events=runner.events) as relay:
            relay.name = type(relay).__name__
            yield Listening(
                backlog=lambda: {relay.name: relay.remaining() * n_bytes},
                errors=dict,
                taken=lambda: (raw.n_taken, volumes.n_taken),
                deskew=deskew,
                displays=(preview, shown),
            )
    finally:
        runner.events.frameReady.disconnect(measure)
