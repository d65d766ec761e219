"""Everything at once: the highest frame rate at which nothing is lost.

Run ``python benchmarks/system.py``; ``--json`` prints one JSON object instead of a
table. A camera-like source of 2304x512 noise frames at a given rate -> raw lz4 +
streaming deskew with projections + deskewed volumes saved + a display, step by step,
and beside it the same behind pymmcore-plus's relay with ome-writers.

Each trial is a process of its own. The contenders take turns, so that whatever else
the machine does meanwhile falls on all of them. See README.md for what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from at_once.bottleneck import bottleneck
from at_once.contenders import CONTENDERS
from at_once.disk import PROBE_BYTES, file_system, refuse_too_small, write_mb_s
from at_once.rates import Search, Step, rates_hz
from at_once.trial import Trial, run
from at_once.watch import Outcome
from noise_camera import N_FRAMES, entropy_limit, noise

SHORT = 1 / 3
"""Of the seconds: how long a trial lasts that only finds the neighbourhood."""

FRAMES, OUTCOME = "frames.npy", "outcome.json"
VOLUME_BYTES = 1.6
"""Of a compressed volume over its compressed planes, at most: it has twice as many
voxels, but they are smoother, and dark outside the scan."""


@dataclass(frozen=True)
class Options:
    """What is asked for.

    Attributes
    ----------
    seconds : float
        For which a rate must hold.
    min_rate_hz, max_rate_hz : float
        Lowest and highest that are tried; half of the latter where volumes are saved.
    only : tuple of str
        Contenders.
    folder : Path
        Where a folder for the files is made, and removed.
    size : (columns, rows)
    planes : int
        Per volume.
    in_process : bool
        Run the trials here instead of in processes of their own.
    """

    seconds: float = 15.0
    min_rate_hz: float = 12.5
    max_rate_hz: float = 800.0
    only: tuple[str, ...] = tuple(CONTENDERS)
    folder: Path = Path(tempfile.gettempdir())
    size: tuple[int, int] = (2304, 512)
    planes: int = 300
    in_process: bool = False

    def highest_hz(self, name: str) -> float:
        """Return the highest rate that a contender is tried at."""
        return self.max_rate_hz / (2 if CONTENDERS[name].saves_volumes else 1)

    def trial(self, name: str, step: Step) -> Trial:
        """Return the trial of a step."""
        seconds = self.seconds * (1 if step.is_full else SHORT)
        return Trial(name, step.rate_hz, seconds, self.size, self.planes)

    @property
    def frame_mb(self) -> float:
        """Size of a frame."""
        return 2 * self.size[0] * self.size[1] / 1e6

    @property
    def needed_bytes(self) -> int:
        """Disk that the largest trial takes, beside the frames and the probe."""
        most = 0.0
        for name in self.only:
            contender = CONTENDERS[name]
            step = Step(self.highest_hz(name), is_full=True)
            frames = self.trial(name, step).n_volumes * self.planes
            share = 1 + VOLUME_BYTES * contender.saves_volumes
            most = max(most, frames * share / contender.squeezes)
        return int((most + N_FRAMES) * self.frame_mb * 1e6) + PROBE_BYTES


ENDING = signal.SIGINT, signal.SIGTERM

PEERS = (
    ("raw_none", "stock_raw"),
    ("raw_lz4", "stock_raw_lz4"),
    ("everything", "stock_everything"),
)
GOALS_HZ = {"raw_none": 400, "raw_lz4": 400, "deskew": 200, "everything": 200}

QUICK = {
    "seconds": 0.3,
    "min_rate_hz": 100.0,
    "max_rate_hz": 100.0,
    "size": (128, 64),
    "planes": 5,
}
"""Small enough for a test; says nothing about speed."""


@dataclass
class Record:
    """What was tried with one contender."""

    search: Search
    outcomes: list[tuple[Step, Outcome]] = field(default_factory=list)

    def held(self) -> Outcome | None:
        """Return the full trial at the highest rate that held."""
        rate_hz = self.search.held_hz
        full = [o for s, o in self.outcomes if s.is_full and o.rate_hz == rate_hz]
        return full[-1] if full else None

    def failed(self) -> Outcome | None:
        """Return the trial at the lowest rate that did not hold."""
        failed = [o for _, o in self.outcomes if not o.is_sustained]
        return min(failed, key=lambda o: o.rate_hz, default=None)


# ---------------------------------------------------------------- trials


def in_child(trial: Trial, folder: Path) -> Outcome:
    """Run a trial in a process of its own, which ends with this one."""
    command = [sys.executable, __file__, "--dir", str(folder)]
    with (folder / "stderr.txt").open("w+") as stderr:
        child = subprocess.Popen(
            [*command, "--trial", json.dumps(asdict(trial))],
            stderr=stderr,
            start_new_session=True,  # Ctrl-C is for this process, which ends the other
        )
        try:
            child.wait()
        finally:
            child.kill()
            child.wait()
        try:
            return Outcome(**json.loads((folder / OUTCOME).read_text()))
        except FileNotFoundError:
            stderr.seek(0)
            msg = f"{trial.contender} crashed ({child.returncode}): {stderr.read()}"
            raise RuntimeError(msg) from None


def be_child(trial: Trial, folder: Path) -> None:
    """Run a trial, leave its outcome in the folder and end, whatever still works."""
    parent = os.getppid()

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    def leave(outcome: Outcome) -> None:
        (folder / OUTCOME).write_text(json.dumps(asdict(outcome)))
        os._exit(0)

    threading.Thread(target=end_with_parent, name="parent", daemon=True).start()
    frames = np.load(folder.parent / FRAMES)
    leave(run(trial, frames, folder, give_up=leave))


def attempt(trial: Trial, folder: Path, *, in_process: bool) -> Outcome:
    """Run a trial in a new folder, and remove what it has written."""
    own = Path(tempfile.mkdtemp(dir=folder))
    try:
        if in_process:
            return run(trial, np.load(folder / FRAMES), own)
        return in_child(trial, own)
    finally:
        shutil.rmtree(own)


@contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A folder that is removed in the end, also after Ctrl-C and SIGTERM."""

    def ended(number: int, frame: object) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)  # what follows is not to be hurried
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, ended) for number in ENDING}
    folder = Path(tempfile.mkdtemp(prefix="opm-system-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- everything


def measure(options: Options, tell: Callable[[str], None]) -> dict[str, Any]:
    """Everything, as it is printed by ``--json``."""
    need_gb = options.needed_bytes / 1e9
    tell(
        f"needs up to {need_gb:.1f} GB of disk in {options.folder}, removed afterwards"
    )
    refuse_too_small(options.folder, options.needed_bytes)
    frames = noise(options.size)
    n_probe = PROBE_BYTES if not options.in_process else PROBE_BYTES // 1000
    with work_folder(options.folder) as folder:
        np.save(folder / FRAMES, frames)
        content = frames.tobytes()[: 8 * 2**20]
        disk = [write_mb_s(folder, content, n_probe)]
        records = search(options, folder, tell)
        disk.append(write_mb_s(folder, content, n_probe))
        found = {
            "machine": machine(folder, disk),
            "source": {
                "size": options.size,
                "frame_mb": options.frame_mb,
                "planes_per_volume": options.planes,
                "entropy_limit": round(entropy_limit(frames), 2),
            },
            "seconds": options.seconds,
            "disk_needed_gb": round(need_gb, 1),
        }
    found["contenders"] = {
        name: summary(record, options, name, max(disk))
        for name, record in records.items()
    }
    return {**found, "goals": goals(found["contenders"])}


def search(
    options: Options, folder: Path, tell: Callable[[str], None]
) -> dict[str, Record]:
    """Find each contender's rate, one trial of each in turn."""
    records = {
        name: Record(Search(rates_hz(options.min_rate_hz, options.highest_hz(name))))
        for name in options.only
    }
    while any(record.search.step() for record in records.values()):
        for name, record in records.items():
            if (step := record.search.step()) is None:
                continue
            trial = options.trial(name, step)
            outcome = attempt(trial, folder, in_process=options.in_process)
            record.search.tell(step, held=outcome.is_sustained)
            record.outcomes.append((step, outcome))
            fate = "; ".join(outcome.why_not) or "held"
            tell(f"{name} {step.rate_hz:g}/s for {trial.seconds:g} s: {fate}")
    return records


def summary(
    record: Record, options: Options, name: str, disk_mb_s: float
) -> dict[str, Any]:
    """What was found of one contender."""
    held, failed = record.held(), record.failed()
    saved_hz = held.saved_hz if held else 0.0
    if failed is None:
        limit = f"none found up to {options.highest_hz(name):g} frames/s"
    else:
        limit = bottleneck(asdict(failed), options.frame_mb, disk_mb_s)
    return {
        "title": CONTENDERS[name].title,
        "saved_hz": saved_hz,
        "saved_mb_s": round(saved_hz * options.frame_mb, 1),
        "bottleneck": limit,
        "held": asdict(held) if held else None,
        "failed": asdict(failed) if failed else None,
        "tried": [
            {"rate_hz": o.rate_hz, "seconds": o.seconds, "held": o.is_sustained}
            for _, o in record.outcomes
        ],
    }


def goals(contenders: dict[str, Any]) -> dict[str, Any]:
    """What is aimed at, and how ours compares with the stock relay and ome-writers."""
    rate = {name: found["saved_hz"] for name, found in contenders.items()}
    ratios = {
        f"{ours}_over_{stock}": round(rate[ours] / rate[stock], 2)
        for ours, stock in PEERS
        if rate.get(stock) and ours in rate
    }
    # A dark frame between volumes is not saved: one in three hundred.
    wanted = {
        f"{name}_{hz}_hz": rate[name] >= 0.99 * hz
        for name, hz in GOALS_HZ.items()
        if name in rate
    }
    return {**wanted, **ratios}


def machine(folder: Path, disk_mb_s: list[float]) -> dict[str, Any]:
    """What it was measured on."""
    return {
        "python": platform.python_version(),
        "pymmcore_plus": version("pymmcore-plus"),
        "ome_writers": version("ome-writers"),
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "file_system": file_system(folder),
        "disk_mb_s": [round(rate, 1) for rate in disk_mb_s],
    }


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    where = found["machine"]
    rates = " and ".join(f"{rate:.0f}" for rate in where["disk_mb_s"])
    lines = [
        f"{where['cpus']} cores, {where['file_system']}, direct writes {rates} MB/s; "
        f"each rate held for {found['seconds']:g} s",
        f"{'':28}{'frames/s':>9}{'MB/s':>7}{'cores':>7}{'GB of memory':>14}",
    ]
    for each in found["contenders"].values():
        held = each["held"] or {"cores_busy": 0, "memory_gb": 0}
        lines.append(
            f"{each['title']:28}{each['saved_hz']:9.1f}{each['saved_mb_s']:7.0f}"
            f"{held['cores_busy']:7.2f}{held['memory_gb']:14.2f}"
        )
    lines.append("beyond that")
    for each in found["contenders"].values():
        lines.append(f"  {each['title']}: {each['bottleneck']}")
    lines += [f"{name}: {value}" for name, value in found["goals"].items()]
    return "\n".join(lines)


# ---------------------------------------------------------------- command line


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--seconds", type=float, default=15, help="that a rate must hold (15)"
    )
    parser.add_argument(
        "--max-rate", type=float, default=800, help="highest that is tried (800)"
    )
    parser.add_argument(
        "--only", default=",".join(CONTENDERS), help="some of " + ", ".join(CONTENDERS)
    )
    parser.add_argument(
        "--dir", type=Path, default=Path(tempfile.gettempdir()), help="on which disk"
    )
    parser.add_argument("--quick", action="store_true", help="tiny, for tests")
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    asked = parsed(arguments)
    if asked.trial:
        fields = json.loads(asked.trial)
        be_child(Trial(**{**fields, "size": tuple(fields["size"])}), asked.dir)
    options = Options(
        seconds=asked.seconds,
        max_rate_hz=asked.max_rate,
        only=tuple(asked.only.split(",")),
        folder=asked.dir,
    )
    if unknown := set(options.only) - set(CONTENDERS):
        raise SystemExit(f"--only knows no {', '.join(sorted(unknown))}")
    if asked.quick:
        options = replace(options, **QUICK, in_process=True)
    found = measure(options, lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(found) if asked.json else table(found))


if __name__ == "__main__":
    main()
