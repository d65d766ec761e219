"""Light off on every way out: asserted at a board in a process of its own.

One process is the board, one acquires, this one looks at the board. Each row of the
table in ``docs/safety.md`` is a test here or in ``test_safety_twin``.
"""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import nidaqmx
import pytest
from nidaqmx.grpc_session_options import GrpcSessionOptions

import test_safety_twin
from conftest import ROOT
from opm_engine.simulation.board_status import board_status
from patient import DEADLINE_S, PARK_V
from victims import kill_tree

HERE = Path(__file__).parent
LASERS = ("port0/line0", "port0/line1")
ENABLE = "port1/line1"
GALVO = "ao0"
SOON_S = 40.0
KILLED_S = 0.5
"""Light is off so long after a kill."""
FROZEN_S = 1.0
"""And so long after a freeze: the heartbeat comes on top."""

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(
        sys.platform != "linux", reason="signals and /proc as Linux has them"
    ),
]


class Child:
    """A process that takes and writes lines."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE,
            start_new_session=True,
        )
        self.pid = self.process.pid
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.heard: list[str] = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put(None)

    def say(self, order: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()

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

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> None:
        if self.process.poll() is None:
            self.send(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        self.reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


class Board(Child):
    """The board, and what is seen of it from here."""

    def __init__(self) -> None:
        module = "opm_engine.simulation.board_process"
        super().__init__("-m", module, "--address", "127.0.0.1:0")
        self.address = self.hear()

    def lit(self) -> list[str]:
        levels = board_status(self.address, deadline_s=5.0)["lines"]
        return [line for line in (*LASERS, ENABLE) if levels[line]]

    def dark_after_s(self, limit_s: float) -> float:
        start_s = time.monotonic()
        while lit := self.lit():
            assert time.monotonic() < start_s + limit_s, f"{lit} still lit"
            time.sleep(0.002)
        return time.monotonic() - start_s

    def assert_at_rest(self) -> None:
        """Dark, parked, and nobody holds an output."""
        assert self.lit() == []
        assert board_status(self.address)["ao"][GALVO] == PARK_V
        with grpc.insecure_channel(self.address) as channel:
            options = GrpcSessionOptions(channel, "")
            with nidaqmx.Task(grpc_options=options) as task:
                for line in LASERS:
                    task.do_channels.add_do_chan(f"Dev1/{line}")
                task.write([False] * len(LASERS), auto_start=True)
            with nidaqmx.Task(grpc_options=options) as task:
                task.ao_channels.add_ao_voltage_chan(f"Dev1/{GALVO}")
                task.write(PARK_V, auto_start=True)

    def assert_stays_at_rest(self) -> None:
        rises = board_status(self.address)["rises"]
        time.sleep(0.2)
        self.assert_at_rest()
        assert board_status(self.address)["rises"] == rises


class Ward:
    """Whoever acquires; another if the last one is gone or has failed a test."""

    def __init__(self, board: Board, out: Path) -> None:
        self.board, self.out = board, out
        self.child: Child | None = None
        self.fit = False

    def patient(self) -> Child:
        if self.child is None or not self.fit:
            self.leave()
            self.out.mkdir()
            self.child = Child("patient.py", self.board.address, str(self.out))
            self.child.hear("ready")
        self.fit = False
        return self.child

    def leave(self) -> None:
        if self.child is not None:
            self.child.end()
        self.child, self.out = None, self.out.with_name(f"{self.out.name}+")

    def assert_lives(self, ending: str = "", finished: int = 1) -> None:
        """It tells why the run ended, in the dark, and can go on."""
        assert self.child is not None
        result = self.child.hear("result")
        self.board.assert_at_rest()
        assert re.search(ending, result["error"]) if ending else not result["error"]
        assert result["finished"] == finished
        assert result["idle"] is bool(finished)
        self.child.say("again")
        assert self.child.hear("again") == 10
        self.board.assert_stays_at_rest()
        self.fit = True


@pytest.fixture(scope="module")
def shared_board() -> Iterator[Board]:
    board = Board()
    yield board
    board.end()


@pytest.fixture(scope="module")
def shared_ward(
    shared_board: Board, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ward]:
    ward = Ward(shared_board, tmp_path_factory.mktemp("ward") / "out")
    yield ward
    ward.leave()


@pytest.fixture
def ward(shared_ward: Ward) -> Ward:
    return shared_ward


def lit_patient(ward: Ward, ending: str = "wait") -> Child:
    """One who is in the middle of a run."""
    child = ward.patient()
    child.say(ending)
    child.hear("running")
    return child


# -------------------------------------------------------------------- it lives through


class Ending(NamedTuple):
    name: str
    error: str = ""
    """What the error says; empty if the run just ends."""
    fast: bool = False


LIVES = [
    Ending("cancel", fast=True),
    Ending("stall", "SafetyError: the camera stopped after 30 of", fast=True),
    Ending("end"),
    Ending("cancel_without_an_edge"),
    Ending("error_in_setup", "Broken: the handler broke"),
    Ending("error_in_exec", "Broken: the handler broke"),
    Ending("error_while_popping", "Broken: the handler broke"),
    Ending("error_in_an_action", "Broken: the handler broke"),
    Ending("error_at_the_start", "Broken|EmitLoopError"),
    Ending("error_in_a_handler", "Broken: the handler broke"),
    Ending("error_in_a_handler_of_the_runner"),
    Ending("error_in_the_writer", "Broken: the handler broke"),
    Ending("error_in_the_twin", "frames asked|camera stopped after"),
    Ending("overflow", r"MemoryError: .*overflowed; \d+ frames were lost"),
    Ending("disk_full", "File too large"),
    Ending("block_behind_a_relay", "SafetyError: .*ThreadRelay.* has blocked the run"),
    Ending("hog"),
]


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(x, id=x.name, marks=[] if x.fast else pytest.mark.slow)
        for x in LIVES
    ],
)
def test_it_lives_through(ending: Ending, ward: Ward) -> None:
    lit_patient(ward, ending.name)
    ward.assert_lives(ending.error)


@pytest.mark.slow
def test_pause(ward: Ward) -> None:
    """Dark at the end of the burst, and it resumes."""
    child = lit_patient(ward, "pause")
    assert child.hear("paused")
    ward.board.assert_stays_at_rest()
    child.say("unblock")
    ward.assert_lives()


@pytest.mark.slow
def test_a_handler_that_blocks_the_runner(ward: Ward) -> None:
    """Its thread cannot be freed; but it is dark, and the handler is named."""
    child = lit_patient(ward, "block")
    named = r"At\.frameReady \(.*patient\.py:\d+\) has blocked the run"
    assert re.search(named, child.hear("reason"))
    ward.board.dark_after_s(1.0)
    time.sleep(0.3)  # enable is low first; lines rise, without light, till tasks end
    ward.board.assert_stays_at_rest()
    child.say("unblock")
    ward.assert_lives(f"SafetyError: .*{named}")


@pytest.mark.slow
def test_ctrl_c(ward: Ward) -> None:
    lit_patient(ward).send(signal.SIGINT)
    ward.board.dark_after_s(1.0)
    ward.assert_lives()


@pytest.mark.slow
def test_ctrl_c_twice(ward: Ward) -> None:
    """The second interrupts, so the runner announces no end."""
    child = lit_patient(ward, "block")
    child.send(signal.SIGINT)
    ward.board.dark_after_s(1.0)
    child.send(signal.SIGINT)
    ward.assert_lives("KeyboardInterrupt", finished=0)


def test_frozen_and_thawed(ward: Ward) -> None:
    child = lit_patient(ward)
    child.send(signal.SIGSTOP)
    assert ward.board.dark_after_s(10.0) < FROZEN_S
    child.send(signal.SIGCONT)
    ward.assert_lives("SafetyError: no heartbeat for")


@pytest.mark.slow
def test_a_board_that_freezes(ward: Ward) -> None:
    """The run ends soon; the guardian tries on, and succeeds once the board thaws."""
    child = lit_patient(ward)
    ward.board.send(signal.SIGSTOP)
    try:
        frozen_s = time.monotonic()
        result = child.hear("result")
        took_s = time.monotonic() - frozen_s
        time.sleep(1.0)
    finally:
        ward.board.send(signal.SIGCONT)
    assert ward.board.dark_after_s(10.0) < FROZEN_S
    assert re.search(r"did not answer|Deadline Exceeded", result["error"])
    assert result["idle"]
    assert result["finished"] == 1
    assert took_s < 5 * DEADLINE_S
    ward.board.assert_stays_at_rest()
    child.say("reopen")
    child.hear("ready")
    child.say("end")
    ward.assert_lives()


@pytest.mark.slow
def test_a_board_that_vanishes(tmp_path: Path) -> None:
    board = Board()
    ward = Ward(board, tmp_path / "out")
    try:
        child = lit_patient(ward)
        board.process.kill()
        result = child.hear("result")
    finally:
        ward.leave()
        board.end()
    assert re.search("did not answer|UNAVAILABLE", result["error"])
    assert result["idle"]
    assert result["finished"] == 1


# ------------------------------------------------------------------------ it dies of it


def killed(child: Child) -> None:
    child.send(signal.SIGKILL)


def killed_with_its_group(child: Child) -> None:
    os.killpg(child.pid, signal.SIGKILL)


def killed_with_its_tree(child: Child) -> None:
    kill_tree(child.pid)


def dies_by_itself(child: Child) -> None:
    child.process.wait(SOON_S)


class Death(NamedTuple):
    name: str
    how: Callable[[Child], None]
    order: str = "wait"
    fast: bool = False


DEATHS = [
    Death("killed", killed, fast=True),
    Death("killed_with_its_group", killed_with_its_group),
    Death("killed_with_its_tree", killed_with_its_tree),
    Death("segmentation_fault", dies_by_itself, "crash"),
    Death("exit_at_once", dies_by_itself, "exit_at_once"),
    Death("interpreter_exit", dies_by_itself, "leave"),
]


@pytest.mark.parametrize(
    "death",
    [
        pytest.param(x, id=x.name, marks=[] if x.fast else pytest.mark.slow)
        for x in DEATHS
    ],
)
def test_it_dies(death: Death, ward: Ward) -> None:
    death.how(lit_patient(ward, death.order))
    assert ward.board.dark_after_s(10.0) < KILLED_S
    time.sleep(0.2)  # the galvo follows
    ward.board.assert_stays_at_rest()


def test_terminated(ward: Ward) -> None:
    """SIGTERM is a cancel first; then the process ends."""
    child = lit_patient(ward)
    child.send(signal.SIGTERM)
    ward.board.dark_after_s(1.0)
    assert child.process.wait(SOON_S) == 143
    ward.board.assert_stays_at_rest()


# ---------------------------------------------------------------------------- the table


def rows() -> set[str]:
    """Tests of both modules; those of a table here with each of its rows."""
    here = sys.modules[__name__]
    names = {
        name
        for module in (here, test_safety_twin)
        for name in vars(module)
        if name.startswith("test_") and callable(getattr(module, name))
    }
    tables = {"test_it_lives_through": LIVES, "test_it_dies": DEATHS}
    single = names - set(tables) - {"test_the_table_in_the_docs"}
    return single.union(
        f"{test}[{row.name}]" for test, table in tables.items() for row in table
    )


def test_the_table_in_the_docs() -> None:
    page = (ROOT / "docs" / "safety.md").read_text("utf-8")
    cited = re.findall(r"`(test_\w+(?:\[\w+\])?)`", page)
    assert sorted(cited) == sorted(rows())
