"""One acquisition into a folder: pipeline, log, and what was measured.

Separate from ``session``, which opens devices; this runs a sequence on them. Knows
file names, not file formats.
"""

from __future__ import annotations

import logging
import shutil
import statistics
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import tomli_w
from pymmcore_plus.mda import FinishReason

from opm_engine.pictures import save_projections
from opm_engine.plan import ScanSettings, plan_scan
from opm_engine.processing import Deskew, Projections
from opm_engine.relay import ThreadRelay
from opm_engine.writers import OMEZarrWriter
from opm_engine.writers.paths import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    import useq
    from numpy.typing import NDArray

    from opm_engine.accounts import Accounts
    from opm_engine.engine import OPMEngine

RAW, DESKEWED = "raw.ome.zarr", "deskewed.ome.zarr"
MICROSCOPE, SEQUENCE = "microscope.toml", "sequence.yaml"
LOG, PICTURE = "acquisition.log", "projections.png"
NAMES = (RAW, DESKEWED, MICROSCOPE, SEQUENCE, LOG, PICTURE)
POLL_S = 0.1

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
    """

    out: Path
    accounts: Accounts
    n_frames: int
    frames_per_s: float
    mb_per_s: float
    deskew_latency_ms: float | None
    cancelled: bool
    projections: Projections | None

    def report(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        accounts = self.accounts
        return {
            "frames_asked": accounts.asked,
            "frames_popped": accounts.popped,
            "frames_counted": accounts.counted,
            "frames_lost": accounts.lost,
            "frames_handled": self.n_frames,
            "frames_per_s": round(self.frames_per_s, 1),
            "mb_per_s": round(self.mb_per_s, 1),
            "deskew_latency_ms": self.deskew_latency_ms,
            "cancelled": self.cancelled,
        }


def acquire(
    engine: OPMEngine,
    sequence: useq.MDASequence,
    out: Path,
    *,
    overwrite: bool = False,
    on_frame: Callable[[int, int], None] | None = None,
) -> Acquisition:
    """Acquire a sequence into a folder; see ``Scope.acquire``."""
    engine.turn.refuse_second()
    total, makes_volumes = 0, False
    if ScanSettings.of(sequence).mode != "off":
        plan = plan_scan(sequence, engine.microscope)
        total, makes_volumes = plan.n_events * plan.n_cameras, plan.makes_volumes
    out = resolve(out)
    _refuse_existing(out, overwrite=overwrite)
    meter = _Meter(on_frame, total)
    branches: list[Any] = [meter, OMEZarrWriter(out / RAW, overwrite=overwrite)]
    projections = Projections() if makes_volumes else None
    deskew = None
    if projections is not None:
        volumes = OMEZarrWriter(out / DESKEWED, overwrite=overwrite)
        deskew = Deskew(outputs=[volumes, projections])
        branches.append(deskew)
    with _nothing_left(out, meter):
        _run(engine, sequence, out, ThreadRelay(*branches))
        if projections is not None:
            _draw(projections, out / PICTURE)
    finished = engine.mmcore.mda.status.finish_reason
    return Acquisition(
        out=out,
        accounts=engine.accounts,
        n_frames=meter.n_frames,
        frames_per_s=meter.frames_per_s,
        mb_per_s=meter.mb_per_s,
        deskew_latency_ms=_median(deskew),
        cancelled=finished is FinishReason.CANCELED,
        projections=projections,
    )


def _run(
    engine: OPMEngine, sequence: useq.MDASequence, out: Path, relay: ThreadRelay
) -> None:
    """Run with log and descriptions beside the data."""
    out.mkdir(parents=True, exist_ok=True)
    with _logged(out / LOG), relay.connected(engine.mmcore.mda):
        _describe(engine, sequence, out)
        logger.info("acquiring %s", sequence)
        _run_cancellable(engine, sequence)
        logger.info("acquired: %s", engine.accounts)


@contextmanager
def _nothing_left(out: Path, meter: _Meter) -> Iterator[None]:
    """Remove what a run made that was refused before its first frame.

    Else a mended second try would find its files in the way.
    """
    before = {name for name in NAMES if (out / name).exists()}
    made_folder = not out.exists()
    try:
        yield
    except BaseException:
        if not meter.n_frames:
            for path in (out / name for name in NAMES if name not in before):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            if made_folder and out.exists() and not any(out.iterdir()):
                out.rmdir()
        raise


@dataclass(eq=False)
class _Meter:
    """Handler that counts frames and times them."""

    on_frame: Callable[[int, int], None] | None
    total: int
    n_frames: int = 0
    n_bytes: int = 0
    _first_s: float = field(default=0.0, init=False)
    _last_s: float = field(default=0.0, init=False)

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


def _run_cancellable(engine: OPMEngine, sequence: useq.MDASequence) -> None:
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


def _refuse_existing(out: Path, *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        msg = f"{out} is a file; choose a folder"
        raise NotADirectoryError(msg)
    existing = [name for name in NAMES if (out / name).exists()]
    if existing and not overwrite:
        msg = f"{out} already holds {', '.join(existing)}; choose another folder"
        raise FileExistsError(msg)


def _describe(engine: OPMEngine, sequence: useq.MDASequence, out: Path) -> None:
    table = engine.microscope.model_dump(mode="json", exclude_none=True)
    (out / MICROSCOPE).write_text(tomli_w.dumps(table), encoding="utf-8")
    text = sequence.yaml(exclude_defaults=True) or ""
    (out / SEQUENCE).write_text(text, encoding="utf-8")


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Write what this package and pymmcore-plus log to a file."""
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours, theirs = logging.getLogger("opm_engine"), logging.getLogger("pymmcore-plus")
    level = ours.level
    ours.setLevel(logging.INFO)
    with ExitStack() as leaving:
        leaving.callback(handler.close)
        leaving.callback(ours.setLevel, level)
        for source in (ours, theirs):
            source.addHandler(handler)
            leaving.callback(source.removeHandler, handler)
        yield


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
