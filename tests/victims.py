"""Programs that tests start as processes of their own, and what tests do with them.

``python victims.py board`` is a board; the others arm one and wait to be killed.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from opm_engine.config import Microscope
from scopes import bare

LASERS = ("port0/line0", "port0/line1")
ENABLE = "port1/line1"
PARK_V = 0.25
LIT = {"lines": {LASERS[0]: True, LASERS[1]: True, ENABLE: True}, "ao": [1.25, 3.0]}
DARK = {"lines": dict.fromkeys((*LASERS, ENABLE), False), "ao": [PARK_V, 0.0]}


def microscope(*, power: bool = True) -> Microscope:
    """The demo's, with a galvo that parks away from 0 and a power output."""
    table = bare().model_dump(mode="json", exclude_none=True)
    table["daq"]["galvo"]["park_v"] = PARK_V
    if power:
        table["lasers"][0]["power_output"] = {"channel": "ao1", "full_v": 5.0}
    return Microscope.from_table(table)


def changed(path: str, value: object) -> Microscope:
    """The microscope with one field set."""
    table = microscope().model_dump(mode="json", exclude_none=True)
    *tables, field = path.split(".")
    inner = table
    for name in tables:
        inner = inner[name]
    inner[field] = value
    return Microscope.from_table(table)


class Program:
    """One of the programs below, with a line of JSON for an answer to each line."""

    def __init__(self, *args: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | env,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def say(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, command: str) -> Any:
        self.say(command)
        return self.answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


# ---- processes -------------------------------------------------------------------


def stat(pid: int) -> tuple[str, int, int, int]:
    """State, parent, process group and session of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[2]), int(fields[3])


def processes() -> dict[int, tuple[str, int, int, int]]:
    """All that have not ended."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = stat(int(entry.name))
            except OSError:  # ended meanwhile
                continue
    return {pid: what for pid, what in found.items() if what[0] != "Z"}


def tree(root: int) -> list[int]:
    """A process, its descendants, and whoever shares its process group or session."""
    alive = processes()
    _, _, group, session = alive[root]
    found = [root]
    for pid in found:
        found += [child for child, (_, parent, *_) in alive.items() if parent == pid]
    shared = [p for p, what in alive.items() if what[2] == group or what[3] == session]
    return sorted({*found, *shared})


def kill_tree(root: int) -> list[int]:
    """Kill it all; return who that was."""
    family = tree(root)
    for pid in family:
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(pid, signal.SIGKILL)
    return family


def marked(mark: str) -> list[int]:
    """Processes with ``mark`` in their environment."""
    found = []
    for pid in processes():
        try:
            if mark.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
        except OSError:  # ended meanwhile
            continue
    return found


# ---- programs --------------------------------------------------------------------


def tell(**answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def board() -> None:
    """A board on a socket, and what is plugged into it."""
    from opm_engine.simulation.board import Board
    from opm_engine.simulation.grpc_face import BoardServer

    model = Board()
    with BoardServer(model) as server:
        tell(address=server.address)
        for command in sys.stdin:
            what, *args = command.split()
            if what == "drive":
                model.drive(args[0], args[1] == "high", time.monotonic())
            elif what == "reset":
                model.drive("PFI0", False, time.monotonic())
                model.reset()
                for task in model.open_tasks():
                    model.clear(task)
            lines = {line: model.line(line) for line in (*LASERS, ENABLE)}
            volts = [model.volts(channel) for channel in ("ao0", "ao1")]
            tell(lines=lines, ao=volts, calls=len(model.calls))


def arm(address: str) -> list[Any]:
    """Let the next edge raise both lasers; return what must be kept."""
    import nidaqmx
    from nidaqmx.grpc_session_options import GrpcSessionOptions

    from opm_engine.daq.deadline import open_channel
    from opm_engine.daq.nidaq import NIDaq
    from opm_engine.daq.protocol import Waveform

    daq = NIDaq(microscope(power=False), address=address)
    daq.open()
    daq.arm(
        Waveform(
            digital=np.array([3, 0], np.uint32),
            lines=LASERS,
            analog=np.array([[1.25, 1.25]]),
            channels=("ao0",),
            initial_v=np.array([0.5]),
            settle_ms=0.5,
            period_ms=10.0,
            n_samples=100,
            max_rate_hz=1000.0,
            sample_ms=6.0,
        )
    )
    bounded, channel = open_channel(address, 2.0)
    task = nidaqmx.Task(grpc_options=GrpcSessionOptions(bounded, ""))
    task.ao_channels.add_ao_voltage_chan("Dev1/ao1", min_val=0, max_val=5)
    task.start()
    task.write(3.0)
    return [daq, task, channel]


def victim(address: str, guarded: str) -> None:
    """A run with light that waits for its end."""
    from opm_engine.daq.guardian import Guardian

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    guardian = Guardian(microscope(), address=address, heartbeat_s=0.05)
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    if guarded == "guarded":
        guardian.start()
        guardian.watch(True)
        threading.Thread(target=beat, args=(guardian,), daemon=True).start()
    kept = arm(address)
    tell(guardian=guardian.pid, helper=helper.pid)
    for command in sys.stdin:
        what = command.strip()
        if what == "segfault":
            faulthandler._sigsegv()
        elif what == "_exit":
            os._exit(1)
        elif what == "raise":
            raise RuntimeError(len(kept))
        elif what == "return":
            return
        elif what == "share":
            guardian.watch(False)
            line = guardian._socket.fileno()
            sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
            tell(child=subprocess.Popen(sleeper, pass_fds=[line]).pid)
        elif what == "rest":
            guardian.watch(False)
            tell(alive=guardian.is_alive)
        else:
            tell(tripped=guardian.tripped(), alive=guardian.is_alive)


def beat(guardian: Any) -> None:
    while True:
        guardian.beat()
        time.sleep(guardian.heartbeat_s)


def starter(address: str) -> None:
    """Only starts a guardian."""
    from opm_engine.daq.guardian import Guardian

    guardian = Guardian(microscope(), address=address)
    tell(starting=True)
    guardian.start()
    sys.stdin.read()


def leaver(address: str) -> None:
    """Ends while its guardian cannot."""
    from opm_engine.daq.guardian import Guardian

    guardian = Guardian(microscope(), address=address)
    guardian.start()
    assert guardian.pid is not None
    os.kill(guardian.pid, signal.SIGSTOP)
    tell(guardian=guardian.pid)
    os._exit(0)


if __name__ == "__main__":
    program, *arguments = sys.argv[1:]
    {
        "board": board,
        "victim": victim,
        "starter": starter,
        "leaver": leaver,
    }[program](*arguments)
