"""What can be seen of a run while it goes on, and what is said of it in the end.

Separate from the trial, which runs something and judges it. Looks now and then: seeing
more would cost what it is to measure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import psutil
from noise_camera import NoiseCore

from at_once.contenders import Listening

SAMPLE_S = 0.25

MEMORY_SHARE = 0.6
"""Of what is free at the start; beyond, a trial is given up."""


@dataclass
class Outcome:
    """What a trial showed; JSON.

    Attributes
    ----------
    saved_hz : float
        Frames per second that handlers were given while the camera ran.
    why_not : list of str
        Reasons why the rate was not sustained; none if it was.
    finish_s, disk_s : float
        From the last exposure until everything was handled, and on the disk.
    backlog_mb : dict
        Most that waited in front of each branch, and in the camera's buffer.
    growth_mb_s : dict
        How fast these grew in the second half of the run.
    cpu : dict
        Cores that each thread kept busy.
    cores_busy, cores_others : float
        Of this process, and of all others on this machine.
    memory_gb : float
        Most that the process held, beyond what it held before the run.
    stored_mb : float
        On disk.
    disk_mb_s : float
        Written to the machine's disks during the run, by whomever.
    deskew_latency_ms : float or None
        Median, from a volume's last plane to the volume.
    shown : int
        Pictures that the displays took.
    """

    rate_hz: float
    seconds: float
    frames: int
    volumes: int
    saved_hz: float = 0.0
    why_not: list[str] = field(default_factory=list)
    finish_s: float | None = None
    disk_s: float | None = None
    backlog_mb: dict[str, float] = field(default_factory=dict)
    growth_mb_s: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    cores_busy: float = 0.0
    cores_others: float = 0.0
    memory_gb: float = 0.0
    stored_mb: float = 0.0
    disk_mb_s: float = 0.0
    deskew_latency_ms: float | None = None
    shown: int = 0

    @property
    def is_sustained(self) -> bool:
        """Whether nothing was lost and nothing fell behind."""
        return not self.why_not


class Sample(NamedTuple):
    """What was seen at one time: bytes that wait, seconds that were computed."""

    time_s: float
    waiting: dict[str, int]
    cpu: dict[str, float]
    own_s: float
    busy_s: float
    written: int


class Watch(threading.Thread):
    """Reads what waits, what computes and what memory is held, now and then.

    Parameters
    ----------
    core : NoiseCore
    connected : Listening
    patience_s : float
        After the last exposure.
    give_up : callable
        Called with the reason when there is nothing to wait for any more.
    """

    def __init__(
        self,
        core: NoiseCore,
        connected: Listening,
        patience_s: float,
        give_up: Callable[[str], None],
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self._core = core
        self._patience_s = patience_s
        self._connected = connected
        self._give_up = give_up
        self._ending = threading.Event()
        self._process = psutil.Process()
        self._memory_before = self._process.memory_info().rss
        self._memory_limit = MEMORY_SHARE * psutil.virtual_memory().available
        self._frame_bytes = core.frames[0].nbytes
        self._samples: list[Sample] = []
        self.memory = 0

    def run(self) -> None:
        """Sample until told to stop."""
        while not self._ending.wait(SAMPLE_S):
            self._sample()
            if reason := self._hopeless():
                self._give_up(reason)
                return

    def _hopeless(self) -> str:
        core = self._core
        if core.lost:
            return f"the camera's buffer overflowed: {core.lost} frames were lost"
        if self.memory > self._memory_limit:
            return f"held {self.memory / 1e9:.1f} GB of memory and went on growing"
        if core.due_s and time.perf_counter() > core.due_s + self._patience_s:
            return f"still worked {self._patience_s:.1f} s after the last exposure"
        return ""

    def stop(self) -> None:
        """Take the last sample."""
        self._ending.set()
        self.join()
        self._sample()

    def _sample(self) -> None:
        waiting = {"camera": self._core.waiting * self._frame_bytes}
        own, machine = self._process.cpu_times(), psutil.cpu_times()
        disk = psutil.disk_io_counters()
        self._samples.append(
            Sample(
                time.perf_counter(),
                waiting | self._connected.backlog(),
                self._threads(),
                own.user + own.system,
                sum(machine) - machine.idle - getattr(machine, "iowait", 0),
                disk.write_bytes if disk else 0,
            )
        )
        rss = self._process.memory_info().rss
        self.memory = max(self.memory, rss - self._memory_before)

    def _threads(self) -> dict[str, float]:
        names = {t.native_id: t.name for t in threading.enumerate()}
        seconds: dict[str, float] = {}
        for thread in self._process.threads():
            name = names.get(thread.id, "native threads")
            seconds.setdefault(name, 0.0)
            seconds[name] += thread.user_time + thread.system_time
        return seconds

    def tell(self, outcome: Outcome) -> None:
        """Sum up what was seen while the camera exposed."""
        core = self._core
        outcome.memory_gb = round(self.memory / 1e9, 2)
        seen = [x for x in self._samples if core.began_s <= x.time_s <= core.due_s]
        if len(seen) < 2:
            return
        first, last = seen[0], seen[-1]
        lasted_s = last.time_s - first.time_s
        own_s = last.own_s - first.own_s
        others_s = max(0.0, last.busy_s - first.busy_s - own_s)
        outcome.cores_busy = round(own_s / lasted_s, 2)
        outcome.cores_others = round(others_s / lasted_s, 2)
        written = last.written - first.written
        outcome.disk_mb_s = round(written / lasted_s / 1e6, 1)
        for name, seconds in last.cpu.items():
            cores = (seconds - first.cpu.get(name, 0.0)) / lasted_s
            if cores >= 0.005:
                outcome.cpu[name] = round(cores, 3)
        times_s = [x.time_s for x in seen]
        half = len(seen) // 2
        for name in last.waiting:
            mb = [x.waiting.get(name, 0) / 1e6 for x in seen]
            outcome.backlog_mb[name] = round(max(mb), 1)
            if len(seen) - half > 1:
                slope = np.polyfit(times_s[half:], mb[half:], 1)[0]
                outcome.growth_mb_s[name] = round(float(slope), 1)
