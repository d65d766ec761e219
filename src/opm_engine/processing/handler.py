"""`Deskew`: the handler that turns a stream of planes into volumes.

Separate from the deskewers because it only sorts: which plane belongs to which volume,
what was left unfinished. ``outputs`` knows how to tell others. Knows no geometry and
no microscope beyond what the run's metadata say.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable
from functools import partial
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from opm_engine.geometry import Geometry
from opm_engine.plan import BLOCK, Flag, Place, block_of, is_loose
from opm_engine.processing.correction import Correction
from opm_engine.processing.memory import Reserve, most_open_volumes
from opm_engine.processing.options import Missing, Options
from opm_engine.processing.outputs import (
    Parcel,
    as_volume,
    call_all,
    check_all,
    finish_all,
    hand_out,
    judged,
    note_all,
    start_all,
    wanted,
)
from opm_engine.processing.sampling import Interpolation, VoxelSize
from opm_engine.processing.scan import Block, Scan, describe_scan
from opm_engine.processing.streaming import warm_up
from opm_engine.processing.taps import N_TABLES, is_kept, make_taps
from opm_engine.processing.volume import Finished, Gap, OpenVolume

if TYPE_CHECKING:
    import useq

    from opm_engine.processing.window import Slab

logger = logging.getLogger(__name__)

Meta = dict[str, Any]
Index = dict[str, int]
Run = tuple["useq.MDASequence", Meta]


class Deskew:
    """Deskews while the scan runs and hands each volume to its outputs.

    An ordinary handler of camera frames, for any number of runs, one after the other.
    Each volume is complete right after its last plane; channels, time points and
    positions may alternate as they like, planes of one volume come in the order in
    which they were scanned. Channels that lie apart along the scan, volumes scanned
    backwards and positions of other lengths all come out on one grid; see
    :class:`~opm_engine.processing.scan.Scan`. Frames are not copied where that can be
    helped: nobody may write into them after they were handed on.

    Outputs are handlers too, called one after the other in the thread of the deskew: a
    slow one holds up all, and one that fails keeps what is due from those after it. A
    :class:`~opm_engine.relay.ThreadRelay` among them isolates its branches, each in a
    thread of its own. A volume comes in the first of these forms that an output has a
    method for, or in all that its attribute ``wants`` names:

    ``projectionsReady(projections, event, meta)``
        Its :class:`MaxProjections`.
    ``slabReady(slab, first_row, event, meta)``
        Slabs (Z, 32 or fewer, X) uint16 while the scan runs, in its order, each once.
        They begin at multiples of 32 along Y.
    ``frameReady(volume, event, meta)``
        The volume (Z, Y, X) uint16, once it is complete.

    If no output wants whole volumes, only slabs that are not complete are in memory.
    Event and meta are those of the plane that completed it, the event's index without
    "z". The meta of a volume, and of its last slab, say ``latency_ms``, ``flags`` and
    ``missing_planes``, where there are any, under ``extra``, ``deskew``. Arrays are
    the outputs' to keep; they are shared between them and read-only. An output that
    has ``noteReady(note)`` gets the flags of the run.

    Planes that do not come are noticed when a later one of their volume comes. Last
    planes are given up at the end of the run, also of a cancelled one, or when more
    volumes are open than the sequence explains: rows that need them are 0, and the
    volume is handed out like any other, with event and meta of the last plane that
    came but no ``latency_ms``. Volumes of which no plane came are not made. If the run
    ends with a failure of the deskew or of an output, nothing more is handed out.

    Parameters
    ----------
    outputs : iterable of handlers
    geometry : Geometry, optional
        For engines that put no ``opm_engine`` block into the metadata; goes before the
        block's.
    voxel_size_um, interpolation, z_bin, correction, missing
        See :class:`~opm_engine.processing.options.Options`. With
        ``missing="interpolate"`` the plane that stands in is rounded once itself, so
        that voxels made of it are within 1 of the exact value, not 0.51.

    Attributes
    ----------
    incomplete : tuple of dict
        Index of each volume of the run, or of the last one, that lacks its last planes.
    gaps : tuple of Gap
        Planes of the run, or of the last one, that never came, by volume; first, last
        or in between.
    flags : tuple of Flag
        Of the run, or of the last one.
    latency_ms : deque of float
        Of the last 1000 volumes of the run: from the arrival of the last plane to the
        volume being complete.

    Raises
    ------
    TypeError
        If an output is not a handler, or ``geometry`` not a :class:`Geometry`.
    ValueError
        If an option makes no sense; names it.
    """

    def __init__(
        self,
        outputs: Iterable[object] = (),
        *,
        geometry: Geometry | None = None,
        voxel_size_um: VoxelSize = None,
        interpolation: Interpolation = "orthogonal",
        z_bin: int = 1,
        correction: Correction | Literal["camera"] | None = None,
        missing: Missing = "zero",
    ) -> None:
        if not isinstance(geometry, Geometry | None):
            msg = f"geometry must be a Geometry(angle_deg=..., ...), not {geometry!r}"
            raise TypeError(msg)
        self.outputs = judged(outputs)
        self.geometry = geometry
        self.options = Options(voxel_size_um, interpolation, z_bin, correction, missing)
        self.incomplete: tuple[Index, ...] = ()
        self.gaps: tuple[Gap, ...] = ()
        self.flags: tuple[Flag, ...] = ()
        self.latency_ms: deque[float] = deque(maxlen=1000)
        self._reserve = Reserve()
        self._wanted: frozenset[str] = frozenset()
        self._run: Run | None = None
        self._scan: Scan | None = None
        self._open: dict[Place, OpenVolume] = {}
        self._most_open = math.inf
        self._finished = Finished()
        self._has_failed = False

    def add_output(self, output: object) -> None:
        """Add a handler to the outputs, from the next run on.

        Raises
        ------
        RuntimeError
            During a run.
        TypeError
            If it is not a handler.
        """
        if self._run is not None:
            msg = "outputs cannot be added while a run goes on"
            raise RuntimeError(msg)
        self.outputs = judged([*self.outputs, output])

    def checkSequence(self, sequence: useq.MDASequence, summary: Meta) -> None:
        """Refuse a run that cannot be deskewed, or that an output refuses.

        Raises
        ------
        ValueError
            If nothing says the geometry, the planes are not those of the geometry, or
            they make no volume (modes ``projection`` and ``single``).
        MemoryError
            If memory cannot hold what is in the making.
        """
        block = block_of(summary)
        if block is not None or not is_loose(sequence):
            scan = self._describe(sequence, block)
            self._reserve.refuse_too_large(scan, sequence, wanted(self.outputs))
            summary = _volume_summary(summary, scan, block)
        check_all(self.outputs, sequence, summary)

    def sequenceStarted(self, sequence: useq.MDASequence, summary: Meta) -> None:
        """Compile the kernels, take the memory and start the outputs.

        A run made from loose events says nothing yet: the outputs then start with the
        first frame.

        Raises
        ------
        ValueError
            If nothing says the geometry, or the planes are not those of the geometry.
        MemoryError
            If memory cannot hold what is in the making.
        """
        self._run = sequence, summary
        self._scan = None
        self._open = {}
        self._finished = Finished()
        self._has_failed = False
        self.incomplete = ()
        self.gaps = ()
        self.flags = ()
        self.latency_ms.clear()
        self._wanted = wanted(self.outputs)
        warm_up(
            binned=self.options.z_bin > 1,
            corrected=self.options.correction is not None,
        )
        block = block_of(summary)
        if block is not None or not is_loose(sequence):
            self._start((sequence, summary), sequence, block)

    def frameReady(self, image: NDArray[Any], event: useq.MDAEvent, meta: Meta) -> None:
        """Add a plane (S, X) uint16; hand out what it completes.

        Raises
        ------
        ValueError
            If the plane came before, or later than one beyond it, is not of its shape,
            or the frame's metadata announce another scan than the one running.
        IndexError
            If the run has no such position.
        RuntimeError
            If no run has started.
        """
        arrived = perf_counter()
        scan = self._follow(event, meta)
        key = scan.planes.place(event.index)._replace(plane=0)
        volume = self._volume_of(scan, key, event)
        self._has_failed = True  # if this ends with an exception
        slabs = volume.add(image, event.index.get("z", 0))
        volume.latest = event, meta
        if volume.deskewer.is_complete:
            volume.latency_ms = (perf_counter() - arrived) * 1e3
            self.latency_ms.append(volume.latency_ms)
        self._go_on(key, volume, slabs)

    def noteReady(self, note: object) -> None:
        """Keep a flag and pass it on; other notes are about planes."""
        if isinstance(note, Flag) and self._scan is not None:
            self.flags = (*self.flags, note)
            note_all(self.outputs, note)

    def sequenceFinished(self, sequence: useq.MDASequence) -> None:
        """Hand out what lacks its last planes and finish every output.

        Each is finished, even if another fails; then the first failure is raised.
        """
        outputs = self.outputs if self._scan is not None else ()
        giving_up = (partial(self._give_up, key) for key in list(self._open))
        call_all([*giving_up, self._end, partial(finish_all, outputs, sequence)])

    def _end(self) -> None:
        self._run, self._scan, self._open = None, None, {}
        self._reserve.relax()

    def _follow(self, event: useq.MDAEvent, meta: Meta) -> Scan:
        """Return the scan that a frame belongs to; its first frame may announce it."""
        if self._run is None:
            msg = "frameReady without a run: sequenceStarted comes first"
            raise RuntimeError(msg)
        block = block_of(meta)
        source = event.sequence or self._run[0]
        if self._scan is None:
            return self._start(self._run, source, block)
        if block is not None and self._describe(source, block) != self._scan:
            msg = "the scan changed within the run: its volumes would not fit together"
            raise ValueError(msg)
        return self._scan

    def _describe(self, sequence: useq.MDASequence, block: Block | None) -> Scan:
        return describe_scan(sequence, block, self.geometry, self.options)

    def _start(self, run: Run, source: useq.MDASequence, block: Block | None) -> Scan:
        """Settle what will come, then tell the outputs."""
        scan = self._describe(source, block)
        sequence, summary = run
        self._reserve.refuse_too_large(scan, sequence, self._wanted)
        self._reserve.prepare(scan, sequence, self._wanted)
        self._most_open = most_open_volumes(sequence, scan.planes)
        for place in islice(scan.kinds(), N_TABLES):
            sampling = scan.sampling_at(place)
            if is_kept(sampling):  # so that the first planes need not wait
                make_taps(sampling)
        self._scan = scan
        start_all(self.outputs, sequence, _volume_summary(summary, scan, block))
        return scan

    def _volume_of(self, scan: Scan, key: Place, event: useq.MDAEvent) -> OpenVolume:
        """Return the volume that a plane belongs to; a new one if it is the first."""
        n_planes, plane = scan.n_planes_at(key), event.index.get("z", 0)
        problem = ""
        if plane >= n_planes:
            problem = f"came, but its volumes have {n_planes} planes"
        elif self._finished.has((key.position, key.channel), key.t):
            problem = "came twice; deskew it in a run of its own"
        if problem:
            msg = f"plane {plane} of {dict(event.index)} {problem}"
            raise ValueError(msg)
        if key not in self._open:
            if len(self._open) >= self._most_open:
                self._give_up(next(iter(self._open)))
            deskewer = scan.deskewer(
                key,
                whole="frameReady" in self._wanted,
                project="projectionsReady" in self._wanted,
                pool=self._reserve.pool,
            )
            index = {axis: i for axis, i in event.index.items() if axis != "z"}
            self._open[key] = OpenVolume(index, deskewer, self.options.missing)
        return self._open[key]

    def _give_up(self, key: Place) -> None:
        """Go on with a volume without the planes that have not come."""
        volume = self._open[key]
        self.incomplete = (*self.incomplete, volume.index)
        if volume.latest is None or self._has_failed:
            self._close(key, volume)
            return
        while not volume.deskewer.is_complete:
            self._has_failed = True  # if this ends with an exception
            self._go_on(key, volume, volume.skip())

    def _go_on(self, key: Place, volume: OpenVolume, slabs: list[Slab]) -> None:
        """Hand out what a plane has completed, or its being given up."""
        is_complete = volume.deskewer.is_complete
        if is_complete:
            self._close(key, volume)
        if is_complete or (slabs and "slabReady" in self._wanted):
            self._hand_out(key, volume, slabs)
        self._has_failed = False

    def _close(self, key: Place, volume: OpenVolume) -> None:
        del self._open[key]
        self._finished.add((key.position, key.channel), key.t)
        if volume.missing_planes:
            gap = Gap(volume.index, tuple(volume.missing_planes))
            self.gaps = (*self.gaps, gap)
            logger.warning("planes %s of %s never came", gap.planes, gap.index)

    def _hand_out(self, key: Place, volume: OpenVolume, slabs: list[Slab]) -> None:
        """Tell the outputs what is due, as an event of the volume."""
        assert volume.latest is not None
        event, meta = as_volume(*volume.latest)
        if not volume.deskewer.is_complete:
            hand_out(self.outputs, Parcel(event, meta, slabs))
            return
        extra = {**meta["extra"], "deskew": self._told_of(key, volume)}
        whole = volume.deskewer.finished()
        parcel = Parcel(event, meta, slabs, {**meta, "extra": extra}, *whole)
        hand_out(self.outputs, parcel)

    def _told_of(self, key: Place, volume: OpenVolume) -> Meta:
        """Return what the metadata say of a complete volume."""
        told: Meta = {}
        if volume.latency_ms is not None:
            told["latency_ms"] = volume.latency_ms
        assert self._scan is not None
        place = self._scan.planes.place
        flags = [f.message for f in self.flags if place(f.index)[:2] == key[:2]]
        if flags:
            told["flags"] = flags
        if volume.missing_planes:
            told["missing_planes"] = list(volume.missing_planes)
        return told


def _volume_summary(summary: Meta, scan: Scan, block: Block | None) -> Meta:
    """Return a run's summary as the outputs need it."""
    extra = {**(summary.get("extra") or {}), BLOCK: scan.volume_block(block)}
    return {**summary, "extra": extra}
