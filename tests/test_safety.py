"""Light off on every way out: asserted at a board in a process of its own.

Each row of the table in ``docs/safety.md`` is a case here.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from opm_engine.simulation.board_status import board_status

HERE = Path(__file__).parent
LASERS = ("port0/line0", "port0/line1")
ENABLE = "port1/line1"
SOON_S = 30.0
KILLED_S = 0.5
"""Light is off so long after a kill."""
FROZEN_S = 1.0
"""And so long after a freeze: the heartbeat comes on top."""


class Child:
    """A process that writes lines, read in a thread."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE,
            start_new_session=True,
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.heard: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put(None)

    def hear(self, word: str = "", within_s: float = SOON_S) -> Any:
        """The next line, or the next JSON line that has this word."""
        end_s = time.monotonic() + within_s
        while True:
            line = self.lines.get(timeout=max(0.01, end_s - time.monotonic()))
            assert line is not None, f"it ended: {self.heard}"
            self.heard.append(line)
            if not word:
                return line
            if word in (said := json.loads(line)):
                return said[word]

    def end(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def board() -> Iterator[Child]:
    child = Child(
        "-m", "opm_engine.simulation.board_process", "--address", "127.0.0.1:0"
    )
    child.address = child.hear()
    yield child
    child.end()


@pytest.fixture
def patient(board: Child, tmp_path: Path) -> Iterator[Callable[[str], Child]]:
    children = []

    def start(ending: str) -> Child:
        child = Child("patient.py", board.address, ending, str(tmp_path))
        children.append(child)
        return child

    yield start
    for child in children:
        child.end()


def lit(address: str) -> list[str]:
    status = board_status(address, deadline_s=5.0)
    return [line for line in (*LASERS, ENABLE) if status["lines"][line]]


def rises(address: str) -> int:
    counts = board_status(address, deadline_s=5.0)["rises"]
    return sum(counts[line] for line in LASERS)


def dark_after_s(address: str, within_s: float) -> float:
    """Seconds until everything is dark, and stays so."""
    start_s = time.monotonic()
    while lit(address):
        assert time.monotonic() < start_s + within_s, f"{lit(address)} still lit"
        time.sleep(0.005)
    return time.monotonic() - start_s


def assert_stays_dark(address: str) -> None:
    before = rises(address)
    time.sleep(0.3)
    assert lit(address) == []
    assert rises(address) == before


class Ending(NamedTuple):
    name: str
    error: str
    """What the error says; empty if the run just ends."""


LIVES = [
    Ending("end", ""),
    Ending("cancel", ""),
    Ending("cancel_without_an_edge", ""),
    Ending("error_in_setup", "Broken: the handler broke"),
    Ending("error_in_an_action", "Broken: the handler broke"),
    Ending("error_in_exec", "Broken: the handler broke"),
    Ending("error_in_a_handler", "Broken: the handler broke"),
    Ending("error_in_the_twin", "SafetyError: the camera stopped after"),
    Ending("stall", "SafetyError: the camera stopped after 30 of"),
    Ending("overflow", "MemoryError: circular buffer overflowed"),
    Ending("disk_full", "File too large"),
    Ending("block_behind_a_relay", "At"),
]


@pytest.mark.slow
@pytest.mark.parametrize("ending", LIVES, ids=lambda ending: ending.name)
def test_the_process_lives_and_the_next_run_works(ending, board, patient) -> None:
    child = patient(ending.name)
    child.hear("running")
    result = child.hear("result")
    assert lit(board.address) == []
    assert ending.error in result["error"]
    assert bool(result["error"]) is bool(ending.error)
    assert result["idle"]
    assert result["finished"] == 1
    assert child.hear("again") == 10
    assert child.process.wait(SOON_S) == 0
    assert_stays_dark(board.address)
    assert board_status(board.address)["ao"]["ao0"] == 0


@pytest.mark.slow
def test_pause_is_dark_and_resumes(board, patient) -> None:
    child = patient("pause")
    assert child.hear("paused") == []
    assert child.hear("frames") == 40
    assert child.hear("result")["error"] == ""


@pytest.mark.slow
def test_a_handler_that_blocks_the_runner_is_named_in_the_dark(board, patient) -> None:
    child = patient("block")
    child.hear("running")
    assert "patient.blocks" in child.hear("result")["error"]
    assert lit(board.address) == []
    assert_stays_dark(board.address)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)], ids=str
)
def test_signals(number, status, board, patient) -> None:
    child = patient("wait")
    child.hear("running")
    os.kill(child.process.pid, number)
    dark_after_s(board.address, 1.0)
    if number == signal.SIGINT:
        assert child.hear("result") == {"error": "", "idle": True, "finished": 1}
        assert child.hear("again") == 10
    assert child.process.wait(SOON_S) == status
    assert_stays_dark(board.address)


def kill(child: Child) -> None:
    os.kill(child.process.pid, signal.SIGKILL)


def kill_group(child: Child) -> None:
    os.killpg(child.process.pid, signal.SIGKILL)


def kill_tree(child: Child) -> None:
    """Every descendant, as far as parent pids tell, and the parent."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parent = int(stat.rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(entry.name))
    tree = [child.process.pid]
    for pid in tree:
        tree += parents.get(pid, [])
    for pid in tree:
        os.kill(pid, signal.SIGKILL)


def freeze(child: Child) -> None:
    os.kill(child.process.pid, signal.SIGSTOP)


def let_be(child: Child) -> None:
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "how", "within_s"),
    [
        ("wait", kill, KILLED_S),
        ("wait", kill_group, KILLED_S),
        ("wait", kill_tree, KILLED_S),
        ("wait", freeze, FROZEN_S),
        ("crash", let_be, KILLED_S),
        ("exit_at_once", let_be, KILLED_S),
        ("leave", let_be, 3.0),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_process_is_gone(ending, how, within_s, board, patient) -> None:
    child = patient(ending)
    child.hear("running")
    if how is not let_be:
        how(child)
    elif ending != "leave":
        child.process.wait(SOON_S)
    assert dark_after_s(board.address, 10.0) < within_s
    assert_stays_dark(board.address)


@pytest.mark.slow
def test_a_frozen_board_does_not_hold_up_the_run(board, patient) -> None:
    child = patient("wait")
    child.hear("running")
    os.kill(board.process.pid, signal.SIGSTOP)
    try:
        result = child.hear("result")
        assert "did not answer" in result["error"] or "Deadline" in result["error"]
        assert result["idle"]
    finally:
        os.kill(board.process.pid, signal.SIGCONT)
    dark_after_s(board.address, 5.0)
