"""One acquisition into a folder: pipeline, log, and what was measured.

Separate from ``session``, which opens devices; this runs a sequence on them. Knows
pipelines, not file formats.
"""

from __future__ import annotations

import logging
import statistics
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from pymmcore_plus.mda import FinishReason

from opm_engine import run_folder
from opm_engine.pictures import save_projections
from opm_engine.pipeline import STAGES, Stages, build
from opm_engine.plan import ScanSettings, plan_scan
from opm_engine.progress import ProgressFile
from opm_engine.relay import BranchStats, ThreadRelay
from opm_engine.run_folder import DESKEWED, PICTURE, RAW
from opm_engine.writers import OMEZarrWriter
from opm_engine.writers.paths import resolve
from opm_engine.writers.room import size_of
from opm_engine.writers.store import ngff_format

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    import useq
    from numpy.typing import NDArray

    from opm_engine.accounts import Accounts
    from opm_engine.engine import OPMEngine
    from opm_engine.processing import Deskew, Projections
    from opm_engine.replay import ReplayEngine
    from opm_engine.writers.shards.sink import Codec

    Engine: TypeAlias = OPMEngine | ReplayEngine

POLL_S = 0.1

PIPELINE: tuple[Any, ...] = (
    ("writer", {"name": "raw", "path": RAW}),
    (
        "deskew",
        {
            "outputs": [
                ("writer", {"name": "deskewed", "path": DESKEWED}),
                ("projections", {}),
            ]
        },
    ),
)
"""What an acquisition does with its frames, if it is not told otherwise.

Paths count from its folder. Of scans that make no volumes the first stage is left.
"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Acquisition:
    """What one acquisition left and how it went.

    Attributes
    ----------
    out : Path
        Folder of all files.
    accounts : Accounts
        Frames asked, popped and counted.
    n_frames : int
        Frames that were handled; flyback is not among them.
    frames_per_s, mb_per_s : float
        Rate at which they came.
    deskew_latency_ms : float or None
        Median from the last plane of a volume to the complete volume.
    cancelled : bool
        Whether the run ended early because someone asked for it.
    projections : Projections or None
        Maximum projections of the last volume of each position and channel.
    acknowledged : int
        Raw frames that are on disk.
    branches : tuple of BranchStats
        What each branch of the pipeline did.
    """

    out: Path
    accounts: Accounts
    n_frames: int
    frames_per_s: float
    mb_per_s: float
    deskew_latency_ms: float | None
    cancelled: bool
    projections: Projections | None
    acknowledged: int
    branches: tuple[BranchStats, ...]

    def report(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        accounts = self.accounts
        return {
            "frames_asked": accounts.asked,
            "frames_popped": accounts.popped,
            "frames_counted": accounts.counted,
            "frames_lost": accounts.lost,
            "frames_handled": self.n_frames,
            "frames_acknowledged": self.acknowledged,
            "frames_per_s": round(self.frames_per_s, 1),
            "mb_per_s": round(self.mb_per_s, 1),
            "deskew_latency_ms": self.deskew_latency_ms,
            "cancelled": self.cancelled,
            "branches": {stats.name: _figures(stats) for stats in self.branches},
            "bytes_on_disk": {
                name: size_of(self.out / name)
                for name in (RAW, DESKEWED)
                if (self.out / name).exists()
            },
        }


def acquire(
    engine: Engine,
    sequence: useq.MDASequence,
    out: Path,
    *,
    overwrite: bool = False,
    on_frame: Callable[[int, int], None] | None = None,
    progress_file: Path | None = None,
    codec: Codec = "lz4",
    pipeline: Sequence[Any] | None = None,
) -> Acquisition:
    """Acquire a sequence into a folder; see ``Scope.acquire``."""
    engine.turn.refuse_second()
    total, makes_volumes = 0, False
    out = resolve(out)
    plan = None
    if ScanSettings.of(sequence).mode != "off":
        plan = plan_scan(sequence, engine.microscope)
        total, makes_volumes = plan.n_events * plan.n_cameras, plan.makes_volumes
    if pipeline is None:
        pipeline = PIPELINE if makes_volumes else PIPELINE[:1]
    meter = _Meter(on_frame, total)
    writer = partial(_writer_in, out, overwrite=overwrite, codec=codec)
    stages: Stages = {**STAGES, "writer": writer, "meter": lambda: meter}
    relay = build(["meter", *pipeline], stages=stages)
    raw, projections = _stage(relay, "raw"), _stage(relay, "projections")
    ngff_format()  # loading it would hold up the progress file
    with (
        run_folder.claimed(out, meter.has_begun, overwrite=overwrite),
        _telling(progress_file, raw),
    ):
        if plan is not None:
            run_folder.refuse_too_small(out, plan, codec)
        _run(engine, sequence, out, relay)
        if projections is not None:
            _draw(projections, out / PICTURE)
    finished = engine.mmcore.mda.status.finish_reason
    return Acquisition(
        out=out,
        accounts=engine.accounts,
        n_frames=meter.n_frames,
        frames_per_s=meter.frames_per_s,
        mb_per_s=meter.mb_per_s,
        deskew_latency_ms=_median(_stage(relay, "deskew")),
        cancelled=finished is FinishReason.CANCELED,
        projections=projections,
        acknowledged=0 if raw is None else raw.frames_written,
        branches=relay.stats,
    )


def _writer_in(out: Path, path: str, **options: Any) -> OMEZarrWriter:
    """Make a writer whose path counts from the acquisition's folder."""
    return OMEZarrWriter(out / path, **options)


def _stage(relay: ThreadRelay, name: str) -> Any:
    """Return a handler of the pipeline, or None if it has none of that name."""
    try:
        return relay.stage(name)
    except KeyError:
        return None


def _telling(path: Path | None, raw: Any) -> AbstractContextManager[object]:
    """Tell a file, if there is one, how many frames nothing can take any more."""
    if path is None:
        return nullcontext()
    if raw is None:
        msg = "progress_file: the pipeline has no writer that is named raw"
        raise ValueError(msg)
    return ProgressFile(path, lambda: raw.frames_written)


def _run(
    engine: Engine, sequence: useq.MDASequence, out: Path, relay: ThreadRelay
) -> None:
    """Run with log and descriptions beside the data."""
    with run_folder.logged(out), relay.connected(engine.mmcore.mda):
        run_folder.describe(out, engine.microscope, sequence)
        logger.info("acquiring %s", sequence)
        _run_cancellable(engine, sequence)
        logger.info("acquired: %s", engine.accounts)


@dataclass(eq=False)
class _Meter:
    """Handler that counts frames and times them."""

    on_frame: Callable[[int, int], None] | None
    total: int
    n_frames: int = 0
    n_bytes: int = 0
    _first_s: float = field(default=0.0, init=False)
    _last_s: float = field(default=0.0, init=False)

    def has_begun(self) -> bool:
        return self.n_frames > 0

    def frameReady(self, image: NDArray[np.uint16]) -> None:
        self._last_s = time.perf_counter()
        self._first_s = self._first_s or self._last_s
        self.n_frames += 1
        self.n_bytes += image.nbytes
        if self.on_frame is not None:
            self.on_frame(self.n_frames, self.total)

    @property
    def frames_per_s(self) -> float:
        if self.n_frames < 2:
            return 0.0
        return (self.n_frames - 1) / (self._last_s - self._first_s)

    @property
    def mb_per_s(self) -> float:
        return self.frames_per_s * self.n_bytes / max(self.n_frames, 1) / 1e6


def _run_cancellable(engine: Engine, sequence: useq.MDASequence) -> None:
    """Run in a thread, so that Ctrl-C arrives here and becomes a cancel.

    In the runner's own thread it would interrupt the runner, which does not recover.
    """
    mda = engine.mmcore.mda
    with ThreadPoolExecutor(1, thread_name_prefix="acquisition") as pool:
        run = pool.submit(mda.run, sequence)
        try:
            while not run.done():
                wait([run], timeout=POLL_S)
        except BaseException:
            mda.cancel()
            raise
        run.result()


def _draw(projections: Projections, path: Path) -> None:
    """One row per position, channels side by side."""
    latest = projections.latest
    positions = sorted({p for p, _ in latest})
    rows = [[latest[key] for key in sorted(latest) if key[0] == p] for p in positions]
    if rows:
        save_projections(rows, path)


def _median(deskew: Deskew | None) -> float | None:
    return (
        statistics.median(deskew.latency_ms) if deskew and deskew.latency_ms else None
    )


def _figures(stats: BranchStats) -> dict[str, Any]:
    """Return what a branch did, as JSON."""
    return {
        "handled": stats.handled,
        "dropped": stats.dropped,
        "peak_mb": round(stats.peak_bytes / 1e6, 1),
        "latency_ms": round(stats.latency_ms, 2),
    }
