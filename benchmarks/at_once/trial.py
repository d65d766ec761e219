"""One run at one frame rate: whether anything got lost or fell behind, and where.

Separate from the search for the highest rate, which starts one process per trial, so
that no contender inherits another's memory, threads or compiled code.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import useq
import zarr
from demo_camera import AgreeingDaq, demo_core, microscope
from noise_camera import NoiseCore

from at_once.contenders import CONTENDERS, DESKEWED, RAW, Listening, listening
from at_once.disk import write_all
from at_once.watch import Outcome, Watch
from opm_engine.engine import OPMEngine
from opm_engine.plan import ScanPlan, plan_scan

STEP_UM = 0.4

N_CHECKED = 24
"""Raw planes that are read back and compared with what the camera saw."""


@dataclass(frozen=True)
class Trial:
    """What is run.

    Attributes
    ----------
    contender : str
    rate_hz : float
        Exposures per second.
    seconds : float
        Of exposures; they are rounded to whole volumes, at least two.
    size : (columns, rows)
    planes : int
        Per volume.
    """

    contender: str
    rate_hz: float
    seconds: float
    size: tuple[int, int]
    planes: int

    @property
    def lasts_s(self) -> float:
        """How long the camera exposes."""
        return self.n_volumes * self.planes / self.rate_hz

    @property
    def finish_limit_s(self) -> float:
        """From the last exposure until everything is handled: what may have waited.

        Whoever saves volumes whole can begin only then, and has until the next.
        """
        limit_s = 0.5 + 0.05 * self.lasts_s
        if CONTENDERS[self.contender].saves_volumes:
            return max(limit_s, self.planes / self.rate_hz)
        return limit_s

    @property
    def disk_limit_s(self) -> float:
        """The same until it is on the disk, with what the system holds back."""
        return self.finish_limit_s + 0.1 * self.lasts_s

    @property
    def patience_s(self) -> float:
        """From the last exposure until it is certain that it was too fast."""
        return 3 + 3 * self.finish_limit_s

    @property
    def n_volumes(self) -> int:
        """Scans of the run."""
        return max(2, round(self.rate_hz * self.seconds / self.planes))

    def sequence(self) -> useq.MDASequence:
        """Gapless volumes."""
        return useq.MDASequence(
            channels=[{"config": "488", "exposure": 1000 / self.rate_hz}],
            z_plan={"range": (self.planes - 1) * STEP_UM, "step": STEP_UM},
            time_plan={"interval": 0, "loops": self.n_volumes},
            axis_order="tpzc",
        )

    def plan(self) -> ScanPlan:
        """As the engine will make it."""
        return plan_scan(self.sequence(), microscope(self.size))


def run(
    trial: Trial,
    frames: np.ndarray,
    folder: Path,
    give_up: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Run a trial in this process; its files are the caller's to remove.

    Parameters
    ----------
    trial : Trial
    frames : (n, rows, columns) uint16 array
    folder : Path
        Empty.
    give_up : callable, optional
        What to do with an outcome that cannot be waited for; by default the run is
        cancelled.
    """
    contender = CONTENDERS[trial.contender]
    n_volumes = trial.n_volumes if contender.deskews else 0
    outcome = Outcome(
        trial.rate_hz,
        round(trial.lasts_s, 2),
        trial.n_volumes * trial.planes,
        n_volumes,
    )
    write_all()  # what others have left to write is not ours
    with demo_core(trial.size, 1, NoiseCore) as core:
        core.see(frames)
        core.mda.set_engine(OPMEngine(core, microscope(trial.size), AgreeingDaq()))

        def surrender(reason: str) -> None:
            outcome.why_not.append(reason)
            watch.tell(outcome)
            (give_up or (lambda _: core.mda.cancel()))(outcome)

        with listening(contender, core.mda, folder) as connected:
            watch = Watch(core, connected, trial.patience_s, surrender)
            watch.start()
            try:
                core.mda.run(trial.sequence())
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told
                outcome.why_not.append(f"{type(error).__name__}: {error}")
        finished_s = time.perf_counter()
        watch.stop()
    watch.tell(outcome)
    _judge(trial, outcome, core, connected, finished_s)
    outcome.stored_mb = round(_stored(folder) / 1e6, 1)
    if outcome.is_sustained:
        check(trial, frames, folder, outcome)
    return outcome


def _judge(
    trial: Trial,
    outcome: Outcome,
    core: NoiseCore,
    connected: Listening,
    finished_s: float,
) -> None:
    """Tell what was handled, and when."""
    write_all()
    why_not = outcome.why_not
    why_not += [f"{name}: {error}" for name, error in connected.errors().items()]
    if not core.due_s:
        why_not.append("the camera was not started")
        return
    finish_s, disk_s = finished_s - core.due_s, time.perf_counter() - core.due_s
    outcome.finish_s, outcome.disk_s = round(finish_s, 3), round(disk_s, 3)
    planes, volumes = connected.taken()
    saves_volumes = CONTENDERS[trial.contender].saves_volumes
    n_volumes = outcome.volumes if saves_volumes else 0
    outcome.saved_hz = round(planes / (core.due_s - core.began_s), 1)
    if planes < outcome.frames:
        why_not.append(f"{outcome.frames - planes} planes were not saved")
    if volumes < n_volumes:
        why_not.append(f"{n_volumes - volumes} volumes were not saved")
    for taken_s, limit_s, what in (
        (finish_s, trial.finish_limit_s, "handled"),
        (disk_s, trial.disk_limit_s, "on disk"),
    ):
        if taken_s > limit_s:
            late = f"{taken_s:.2f} s after the last exposure, not {limit_s:.2f} s"
            why_not.append(f"{what} {late}")
    if connected.deskew is not None and connected.deskew.latency_ms:
        latency_ms = statistics.median(connected.deskew.latency_ms)
        outcome.deskew_latency_ms = round(latency_ms, 3)
    outcome.shown = sum(display.n_shown for display in connected.displays)


def check(trial: Trial, frames: np.ndarray, folder: Path, outcome: Outcome) -> None:
    """Read back with zarr-python, and compare with what the camera saw."""
    (burst,) = trial.plan().bursts()
    lit = [number for number in range(burst.n_frames) if burst.is_lit(number)]
    raw = zarr.open_array(str(folder / RAW / "0"), mode="r")
    numbers = np.linspace(0, outcome.frames - 1, N_CHECKED, dtype=int)
    for number in sorted({int(number) for number in numbers}):
        t, z = divmod(number, trial.planes)
        if not np.array_equal(raw[t, 0, z], frames[lit[number] % len(frames)]):
            outcome.why_not.append(f"plane t={t}, z={z} was not stored as it was")
    if CONTENDERS[trial.contender].saves_volumes:
        volumes = zarr.open_array(str(folder / DESKEWED / "0"), mode="r")
        middle = volumes.shape[2] // 2, volumes.shape[3] // 2
        for t in range(volumes.shape[0]):
            if not np.all(volumes[t, 0, middle[0], middle[1]]):
                outcome.why_not.append(f"volume t={t} was not stored")


def _stored(folder: Path) -> int:
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sum(file.stat().st_size for file in files)
