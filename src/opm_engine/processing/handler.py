"""`Deskew`: the handler that turns a stream of planes into volumes.

Separate from the deskewers because it only sorts: which plane belongs to which volume,
what was left unfinished. ``outputs`` knows how to tell others. Knows no geometry and
no microscope beyond what the run's metadata say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from opm_engine.geometry import Geometry, voxel_size
from opm_engine.plan import BLOCK, Flag, Place, block_of, is_loose
from opm_engine.processing.outputs import (
    check_all,
    finish_all,
    hand_out,
    judged,
    note_all,
    start_all,
)
from opm_engine.processing.scan import Block, Scan, VoxelSize, describe_scan
from opm_engine.processing.streaming import Deskewer, warm_up
from opm_engine.processing.taps import N_TABLES, make_taps

if TYPE_CHECKING:
    import useq

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
    :class:`~opm_engine.processing.scan.Scan`.

    Outputs are handlers too, with any of the three methods. Their ``frameReady`` gets
    (volume (Z, Y, X) uint16, event, meta) once per volume, event and meta being those
    of its last plane, the event's index without "z". The volume is a new array, theirs
    to keep; it is shared between them, so none may change it. An output that has
    ``projectionsReady(projections, event, meta)`` gets the volume's
    :class:`MaxProjections` in place of the volume. One that has ``noteReady(note)``
    gets the flags of the run; the metadata of a volume that was flagged before it was
    complete say so under ``extra``, ``deskew``, ``flags``.

    Parameters
    ----------
    outputs : iterable of handlers
    geometry : Geometry, optional
        For engines that put no ``opm_engine`` block into the metadata; goes before the
        block's.
    voxel_size_um : float or (float, float), optional
        Voxel (dz, dy) in µm; defaults to the pixel size.

    Attributes
    ----------
    incomplete : tuple of dict
        Index of each volume of the last run whose planes did not all come. They are
        not handed out.
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
        If ``voxel_size_um`` is not positive.
    """

    def __init__(
        self,
        outputs: Iterable[object] = (),
        *,
        geometry: Geometry | None = None,
        voxel_size_um: VoxelSize = None,
    ) -> None:
        voxel_size(1.0, voxel_size_um)  # refuses nonsense now, not in the run
        if not isinstance(geometry, Geometry | None):
            msg = f"geometry must be a Geometry(angle_deg=..., ...), not {geometry!r}"
            raise TypeError(msg)
        self.outputs = judged(outputs)
        self.geometry = geometry
        self.voxel_size_um = voxel_size_um
        self.incomplete: tuple[Index, ...] = ()
        self.flags: tuple[Flag, ...] = ()
        self.latency_ms: deque[float] = deque(maxlen=1000)
        self._project = any(hasattr(o, "projectionsReady") for o in self.outputs)
        self._run: Run | None = None
        self._scan: Scan | None = None
        self._open: dict[Place, tuple[Index, Deskewer]] = {}
        self._done: set[Place] = set()

    def checkSequence(self, sequence: useq.MDASequence, summary: Meta) -> None:
        """Refuse a run that cannot be deskewed, or that an output refuses.

        Raises
        ------
        ValueError
            If nothing says the geometry, the planes are not those of the geometry, or
            they make no volume (modes ``projection`` and ``single``).
        """
        block = block_of(summary)
        if block is not None or not is_loose(sequence):
            scan = self._describe(sequence, block)
            summary = _volume_summary(summary, scan, block)
        check_all(self.outputs, sequence, summary)

    def sequenceStarted(self, sequence: useq.MDASequence, summary: Meta) -> None:
        """Compile the kernels and start the outputs.

        A run made from loose events says nothing yet: the outputs then start with the
        first frame.

        Raises
        ------
        ValueError
            If nothing says the geometry, or the planes are not those of the geometry.
        """
        self._run = sequence, summary
        self._scan = None
        self._open = {}
        self._done = set()
        self.incomplete = ()
        self.flags = ()
        self.latency_ms.clear()
        warm_up()
        block = block_of(summary)
        if block is not None or not is_loose(sequence):
            self._start((sequence, summary), sequence, block)

    def frameReady(self, image: NDArray[Any], event: useq.MDAEvent, meta: Meta) -> None:
        """Add a plane (S, X) uint16; hand the volume out if it was the last.

        Raises
        ------
        ValueError
            If the plane is not the next one of its volume or not of its shape, its
            volume was complete before, or the frame's metadata announce another scan
            than the one running.
        IndexError
            If the run has no such position.
        RuntimeError
            If no run has started.
        """
        arrived = perf_counter()
        scan = self._follow(event, meta)
        index = {axis: i for axis, i in event.index.items() if axis != "z"}
        key = scan.planes.place(event.index)._replace(plane=0)
        _, deskewer = self._open.get(key, (index, None))
        n_planes = scan.n_planes_at(key)
        n_before = n_planes if key in self._done else 0
        expected = n_before if deskewer is None else deskewer.n_added
        _check_order(event, expected, n_planes)
        if deskewer is None:
            deskewer = self._new_deskewer(scan, key)
            self._open[key] = index, deskewer
        deskewer.add(image)
        if deskewer.is_complete:
            del self._open[key]
            self._done.add(key)
            self.latency_ms.append((perf_counter() - arrived) * 1e3)
            event = event.model_copy(update={"index": type(event.index)(index)})
            meta = self._volume_meta(scan, key, event, meta)
            hand_out(self.outputs, deskewer, event, meta)

    def noteReady(self, note: object) -> None:
        """Keep a flag and pass it on; other notes are about planes."""
        if isinstance(note, Flag) and self._scan is not None:
            self.flags = (*self.flags, note)
            note_all(self.outputs, note)

    def sequenceFinished(self, sequence: useq.MDASequence) -> None:
        """Finish every output, even if another fails; then raise the first failure."""
        self.incomplete = (
            *self.incomplete,
            *(index for index, _ in self._open.values()),
        )
        outputs = self.outputs if self._scan is not None else ()
        self._run, self._scan, self._open = None, None, {}
        finish_all(outputs, sequence)

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
        return describe_scan(sequence, block, self.geometry, self.voxel_size_um)

    def _start(self, run: Run, source: useq.MDASequence, block: Block | None) -> Scan:
        """Settle what will come, then tell the outputs."""
        scan = self._describe(source, block)
        for place in islice(scan.kinds(), N_TABLES):
            geometry, shift_um = scan.geometry_at(place), scan.shift_um(place)
            # Kept, so that the first planes need not wait.
            make_taps(geometry, scan.voxel_um, shift_um, scan.shape[1])
        self._scan = scan
        sequence, summary = run
        start_all(self.outputs, sequence, _volume_summary(summary, scan, block))
        return scan

    def _new_deskewer(self, scan: Scan, place: Place) -> Deskewer:
        return Deskewer(
            scan.geometry_at(place),
            voxel_size_um=scan.voxel_um,
            shift_um=scan.shift_um(place),
            n_y=scan.shape[1],
            project=self._project,
        )

    def _volume_meta(
        self, scan: Scan, place: Place, event: useq.MDAEvent, meta: Meta
    ) -> Meta:
        """Return the last plane's metadata, saying volume where they said plane."""
        extra = {k: v for k, v in (meta.get("extra") or {}).items() if k != BLOCK}
        extra["deskew"] = {"latency_ms": self.latency_ms[-1]}
        flags = [
            flag.message
            for flag in self.flags
            if scan.planes.place(flag.index)[:2] == place[:2]
        ]
        if flags:
            extra["deskew"]["flags"] = flags
        changed = {"mda_event": event} if "mda_event" in meta else {}
        return {**meta, **changed, "extra": extra}


def _volume_summary(summary: Meta, scan: Scan, block: Block | None) -> Meta:
    """Return a run's summary as the outputs need it."""
    extra = {**(summary.get("extra") or {}), BLOCK: scan.volume_block(block)}
    return {**summary, "extra": extra}


def _check_order(event: useq.MDAEvent, expected: int, n_planes: int) -> None:
    plane = event.index.get("z", 0)
    if plane == expected < n_planes:
        return
    if plane >= n_planes:
        what = f"came, but its volumes have {n_planes} planes"
    elif plane < expected:
        what = "came twice; deskew it in a run of its own"
    else:
        what = f"came, plane {expected} did not: no volume without gaps"
    msg = f"plane {plane} of {dict(event.index)} {what}"
    raise ValueError(msg)
