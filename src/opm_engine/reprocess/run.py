"""`reprocess`: deskew a stored run anew, shard by shard, in several processes.

Separate from what a shard takes: here is only their order, and that it may be broken
off at any moment and gone on with. Knows no pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass, fields
from multiprocessing import get_context
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import useq

from opm_engine.processing.options import Options
from opm_engine.processing.scan import describe_scan
from opm_engine.processing.volume import Gap
from opm_engine.recording import Recording
from opm_engine.reprocess import target
from opm_engine.reprocess.memory import shared_out
from opm_engine.reprocess.source import index_of, volumes_of
from opm_engine.reprocess.work import Job, prepare_process, work
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.paths import resolve
from opm_engine.writers.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opm_engine.geometry import Geometry
    from opm_engine.plan import Place
    from opm_engine.processing.scan import Scan
    from opm_engine.reprocess.memory import Share
    from opm_engine.writers.shards.sink import Codec
    from opm_engine.writers.shelf import VolumeShard

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Reprocessed:
    """What was made.

    Attributes
    ----------
    out : Path
    n_volumes : int
    n_shards : int
        Files that hold them.
    n_found : int
        Of these, the ones that an earlier try had left complete.
    n_absent : int
        Volumes of the run of which no plane is stored; there is none of them.
    gaps : tuple of Gap
        Volumes that lack planes, and which.
    """

    out: Path
    n_volumes: int
    n_shards: int
    n_found: int
    n_absent: int
    gaps: tuple[Gap, ...]

    def report(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "out": str(self.out),
            "volumes": self.n_volumes,
            "volumes_absent": self.n_absent,
            "shards": self.n_shards,
            "shards_found": self.n_found,
            "missing_planes": [
                {**gap.index, "planes": list(gap.planes)} for gap in self.gaps
            ],
        }


def reprocess(
    raw: str | Path,
    out: str | Path,
    *,
    geometry: Geometry | None = None,
    codec: Codec = "lz4",
    shard_bytes: int | None = None,
    executor: Executor | None = None,
    jobs: int | None = None,
    memory_bytes: int | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = lambda done, total: None,
    **options: Any,
) -> Reprocessed:
    """Deskew a stored run into a store of its own.

    With the options of the live deskew the voxels are the same, and so is what the
    store says of itself. Broken off, even by SIGKILL, it goes on where it was when it
    is called again with the same arguments: shards that are whole stay. When all are,
    nothing is done, so it may be called until it succeeds.

    Parameters
    ----------
    raw : str or Path
        Store of raw planes, complete or not; nobody writes it now.
    out : str or Path
        Store to make, or to go on with.
    geometry : Geometry, optional
        For planes that another engine took; goes before the store's own.
    codec, shard_bytes
        Of ``out``; see `OMEZarrWriter`.
    executor : concurrent.futures.Executor, optional
        Where shards are computed; by default in processes that are started afresh, so
        a script that calls this needs its ``if __name__ == "__main__"``.
    jobs : int, optional
        Shards in the making at once, fewer if memory is short; one per core by
        default.
    memory_bytes : int, optional
        For all of them, beyond what processes take that do nothing. Half of what is
        free by default.
    overwrite : bool
        Begin anew, replacing a zarr store that is there; but go on with one that was
        begun with the same planes and options and is not complete, so that this may be
        broken off and called again, too.
    on_progress : callable
        Called with shards that are whole, and all.
    **options
        Of the deskew: see `opm_engine.processing.options.Options`.

    Returns
    -------
    Reprocessed

    Raises
    ------
    BlockingIOError
        If one of the stores is being written.
    FileExistsError
        If ``out`` is there and was not begun here, or is no zarr store.
    FileNotFoundError
        If there is no ``raw``.
    MemoryError
        If ``memory_bytes`` is not enough; what was at ``out`` stays as it was.
    OSError
        If the disk is too small, or something cannot be read or written.
    RuntimeError
        If a worker process was ended.
    TypeError, ValueError
        If an option makes no sense, ``raw`` cannot be deskewed, or ``out`` was begun
        with others.
    """
    raw, out = Path(raw), resolve(out)
    recording = Recording(raw)
    _refuse_nonsense(raw, out, jobs=jobs, memory_bytes=memory_bytes)
    scan = _scan_of(recording, geometry, _options(options))
    gaps = dict(volumes_of(recording.planes))
    memory = int(memory_bytes or psutil.virtual_memory().available // 2)

    def shares(shelf: Shelf, due: Sequence[VolumeShard]) -> tuple[int, Share]:
        n_jobs = min(jobs or _n_cores(), len(due))
        return shared_out(memory, n_jobs, scan, shelf, _largest(due))

    def judge(shelf: Shelf) -> None:
        if shards := _shards_of(shelf, gaps):
            shares(shelf, shards)

    was_complete = target.open_target(
        out,
        recording,
        scan,
        gaps,
        codec=codec,
        shard_bytes=shard_bytes,
        overwrite=overwrite,
        judge=judge,
    )
    with recording.kept(), StoreLock(out):
        shelf = Shelf.of(out)
        shards = _shards_of(shelf, gaps)
        due = [shard for shard in shards if not shelf.is_whole(shard)]
        if due:
            n_jobs, share = shares(shelf, due)
            job = Job(raw.resolve(), scan, shelf, share)
            n_found = len(shards) - len(due)
            with _executor(executor, n_jobs) as workers:
                _compute(
                    job,
                    due,
                    workers,
                    n_jobs,
                    lambda done: on_progress(n_found + done, len(shards)),
                )
        if due or not was_complete:
            target.finish(out, recording, scan, gaps)
    stream = recording.stream
    n_announced = stream.n_times * len(stream.positions) * len(stream.channels)
    return Reprocessed(
        out=out,
        n_volumes=len(gaps),
        n_shards=len(shards),
        n_found=len(shards) - len(due),
        n_absent=n_announced - len(gaps),
        gaps=tuple(
            Gap(index_of(stream, place), lost) for place, lost in gaps.items() if lost
        ),
    )


def _compute(
    job: Job,
    shards: Iterable[VolumeShard],
    workers: Executor,
    n_jobs: int,
    on_done: Callable[[int], None],
) -> None:
    """Have all shards made, only so many at a time."""
    pending: set[Future[None]] = set()
    n_done = 0
    on_done(0)

    def collect(until: int) -> None:
        nonlocal pending, n_done
        while len(pending) > until:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                n_done += 1
            on_done(n_done)

    try:
        for shard in shards:
            collect(n_jobs - 1)
            pending.add(workers.submit(work, job, shard))
        collect(0)
    except BrokenExecutor as error:
        msg = (
            "a worker process was ended from outside, perhaps for lack of memory; "
            "call again, with fewer jobs or less memory, and it goes on"
        )
        raise RuntimeError(msg) from error
    finally:
        for future in pending:
            future.cancel()
        wait(pending)


@contextmanager
def _executor(given: Executor | None, n_jobs: int) -> Iterator[Executor]:
    if given is not None:
        yield given
        return
    with ProcessPoolExecutor(
        n_jobs, mp_context=get_context("spawn"), initializer=prepare_process
    ) as own:
        yield own


def _refuse_nonsense(
    raw: Path, out: Path, *, jobs: int | None, memory_bytes: int | None
) -> None:
    for name, value in (("jobs", jobs), ("memory_bytes", memory_bytes)):
        if value is not None and value < 1:
            msg = f"{name} must be 1 or more, not {value}"
            raise ValueError(msg)
    if jobs is not None and not isinstance(jobs, Integral):
        msg = f"jobs must be a whole number, not {jobs!r}"
        raise ValueError(msg)
    ours, theirs = out.resolve(), raw.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        msg = f"out = {out} must lie beside {raw}, which stays as it is"
        raise ValueError(msg)


def _options(given: dict[str, Any]) -> Options:
    known = [field.name for field in fields(Options)]
    if unknown := given.keys() - known:
        msg = (
            f"there is no option {', '.join(sorted(unknown))}; those of the deskew are "
            f"{', '.join(known)}"
        )
        raise TypeError(msg)
    return Options(**given)


def _shards_of(shelf: Shelf, places: Iterable[Place]) -> list[VolumeShard]:
    return [shard for place in places for shard in shelf.shards_of(place)]


def _scan_of(recording: Recording, geometry: Geometry | None, options: Options) -> Scan:
    block = recording.block
    if geometry is None and "geometry" not in block:
        msg = (
            f"{recording.store} does not tell its geometry: in Python, "
            "reprocess(..., geometry=...) takes one"
        )
        raise ValueError(msg)
    return describe_scan(useq.MDASequence(), block, geometry, options)


def _n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _largest(shards: Iterable[VolumeShard]) -> VolumeShard:
    return max(shards, key=lambda shard: shard.stop_row - shard.first_row)
