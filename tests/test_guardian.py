"""The guardian: a board in one process, light from a second, the test in a third."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import victims
from opm_engine.daq import blackout, guardian
from opm_engine.daq.guardian import Guardian
from opm_engine.daq.protocol import DaqError
from opm_engine.simulation.board import Board
from opm_engine.simulation.grpc_face import BoardServer
from victims import DARK, LIT, Program, changed, microscope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]

DEAD_S = 0.5
"""From the parent's death to darkness."""
FROZEN_S = 0.4 + DEAD_S
"""From the last heartbeat to darkness."""
LEFT_S = 5.0
"""Until no process is left."""


class Bench:
    """A board in its own process, shared by the tests of a module."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.address = program.answer()["address"]

    def status(self) -> dict[str, object]:
        status = self.program.ask("status")
        return {key: status[key] for key in ("lines", "ao")}

    def calls(self) -> int:
        return int(self.program.ask("status")["calls"])

    def expose(self) -> None:
        """An edge of the camera: light comes."""
        self.program.ask("drive PFI0 high")
        assert self.status() == LIT

    def dark_after_s(self, since_s: float, limit_s: float) -> float:
        while (status := self.status()) != DARK:
            waited_s = time.monotonic() - since_s
            assert waited_s < limit_s, f"after {waited_s:.2f} s still {status}"
            time.sleep(0.002)
        return time.monotonic() - since_s


@pytest.fixture(scope="module")
def shared_bench() -> Iterator[Bench]:
    with Program("board") as program:
        yield Bench(program)


@pytest.fixture
def bench(shared_bench: Bench) -> Bench:
    shared_bench.program.ask("reset")
    return shared_bench


@pytest.fixture
def mark() -> Iterator[str]:
    """In the environment of all processes of a test: none of them may be left."""
    mark = f"victim-{uuid.uuid4()}"
    yield mark
    left = victims.marked(mark)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.fixture
def victim(bench: Bench, mark: str) -> Iterator[Program]:
    with Program("victim", bench.address, "guarded", MARK=mark) as program:
        ids = program.answer()
        bench.expose()
        yield program
    if ids["helper"] in victims.marked(mark):
        os.kill(ids["helper"], signal.SIGKILL)
    assert_nobody_left(mark)


def assert_nobody_left(mark: str, seconds: float = LEFT_S) -> None:
    end_s = time.monotonic() + seconds
    while left := victims.marked(mark):
        assert time.monotonic() < end_s, left
        time.sleep(0.02)


def kill_tree(program: Program) -> None:
    assert len(victims.kill_tree(program.pid)) >= 2, "its helper at least"


def sending(number: int) -> Callable[[Program], None]:
    return lambda program: os.kill(program.pid, number)


def saying(command: str) -> Callable[[Program], None]:
    return lambda program: program.say(command)


ENDS: dict[str, Callable[[Program], None]] = {
    "killed": sending(signal.SIGKILL),
    "killed with its whole tree": kill_tree,
    "killed with its group": lambda program: os.killpg(program.pid, signal.SIGKILL),
    "terminated": sending(signal.SIGTERM),
    "interrupted": lambda program: os.killpg(program.pid, signal.SIGINT),
    "hung up": lambda program: os.killpg(program.pid, signal.SIGHUP),
    "segmentation fault": saying("segfault"),
    "os._exit": saying("_exit"),
    "exception": saying("raise"),
    "end of the script": saying("return"),
}
QUICK = {"killed", "killed with its whole tree"}


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(end, id=name, marks=[] if name in QUICK else pytest.mark.slow)
        for name, end in ENDS.items()
    ],
)
def test_dark_when_the_parent_ends(
    bench: Bench, victim: Program, end: Callable[[Program], None]
) -> None:
    end(victim)
    victim.process.wait(5)
    assert bench.dark_after_s(time.monotonic(), DEAD_S) < DEAD_S


def test_dark_when_the_parent_freezes(bench: Bench, victim: Program) -> None:
    os.kill(victim.pid, signal.SIGSTOP)
    assert bench.dark_after_s(time.monotonic(), FROZEN_S) < FROZEN_S
    os.kill(victim.pid, signal.SIGCONT)
    assert victim.ask("tripped?")["alive"] is False
    message = "no heartbeat for 0.4 s: made dark"
    wait_until(lambda: victim.ask("tripped?")["tripped"] == message)


def test_without_a_guardian_the_light_stays_on(bench: Bench, mark: str) -> None:
    with Program("victim", bench.address, "alone", MARK=mark) as program:
        program.answer()
        bench.expose()
        kill_tree(program)
        program.process.wait()
        time.sleep(DEAD_S)
        assert bench.status() == LIT
        with pytest.raises(AssertionError, match="still"):
            bench.dark_after_s(time.monotonic() - DEAD_S, DEAD_S)
    assert_nobody_left(mark)


@pytest.mark.slow
def test_at_rest_a_freeze_is_no_reason(bench: Bench, victim: Program) -> None:
    assert victim.ask("rest") == {"alive": True}
    os.kill(victim.pid, signal.SIGSTOP)
    time.sleep(FROZEN_S)
    assert bench.status() == LIT
    os.kill(victim.pid, signal.SIGCONT)
    assert victim.ask("tripped?") == {"tripped": None, "alive": True}


@pytest.mark.slow
def test_a_child_that_inherits_the_connection(bench: Bench, victim: Program) -> None:
    child = victim.ask("share")["child"]
    os.kill(victim.pid, signal.SIGKILL)
    assert bench.dark_after_s(time.monotonic(), DEAD_S) < DEAD_S
    os.kill(child, signal.SIGKILL)


@pytest.mark.slow
def test_a_board_that_freezes_with_the_parent(bench: Bench, victim: Program) -> None:
    os.kill(bench.program.pid, signal.SIGSTOP)
    os.kill(victim.pid, signal.SIGKILL)
    time.sleep(1.0)
    os.kill(bench.program.pid, signal.SIGCONT)
    assert bench.dark_after_s(time.monotonic(), 1.5) < 1.5


@pytest.mark.slow
def test_a_board_that_ends_with_the_parent(mark: str) -> None:
    with Program("board") as program:
        bench = Bench(program)
        with Program("victim", bench.address, "guarded", MARK=mark) as victim:
            victim.answer()
            program.process.kill()
            kill_tree(victim)
    assert_nobody_left(mark, blackout.RETRY_S + LEFT_S)


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_a_parent_killed_while_its_guardian_starts(
    bench: Bench, mark: str, after_s: float
) -> None:
    with Program("starter", bench.address, MARK=mark) as program:
        program.answer()
        time.sleep(after_s)
        victims.kill_tree(program.pid)
    time.sleep(0.3)  # one that was only just forked has no environment to be known by
    assert_nobody_left(mark)


@pytest.mark.slow
def test_nobody_waits_for_its_pipes(bench: Bench, mark: str) -> None:
    done = subprocess.run(
        [sys.executable, victims.__file__, "leaver", bench.address],
        capture_output=True,
        env=os.environ | {"MARK": mark},
        timeout=20,
        check=True,
    )
    pid = json.loads(done.stdout)["guardian"]
    assert pid in victims.marked(mark), "it should have been there all the time"
    os.kill(pid, signal.SIGCONT)
    assert_nobody_left(mark)


# ---- the parent's half, with the board in the test's process ------------------------


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def address(board: Board) -> Iterator[str]:
    with BoardServer(board) as server:
        yield server.address


@pytest.fixture
def watcher(address: str) -> Iterator[Guardian]:
    watcher = Guardian(microscope(), address=address)
    watcher.start()
    yield watcher
    watcher.stop()
    assert watcher.pid not in victims.processes()


def wait_until(condition: Callable[[], object], seconds: float = 3.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_it_stands_apart_and_heeds_no_signal(watcher: Guardian) -> None:
    assert watcher.pid is not None
    assert watcher.pid not in victims.tree(os.getpid())
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        os.kill(watcher.pid, number)
    watcher.watch(True)
    watcher.watch(False)
    assert watcher.is_alive


def test_stop_leaves_the_board_alone(board: Board, address: str) -> None:
    watcher = Guardian(microscope(), address=address)
    assert watcher.trouble() == "the guardian process was not started"
    for _ in range(2):
        watcher.start()
        assert "WriteDigitalScalarU32" not in board.calls
        n_calls = len(board.calls)
        watcher.watch(True)
        watcher.stop()
        watcher.stop()
        assert len(board.calls) == n_calls
        assert not board.open_tasks()
        assert watcher.pid not in victims.processes()
        assert not watcher.is_alive


def test_one_that_dies_is_missed(watcher: Guardian, board: Board) -> None:
    assert watcher.pid is not None
    os.kill(watcher.pid, signal.SIGKILL)
    wait_until(lambda: not watcher.is_alive)
    watcher.beat()
    assert watcher.trouble() == "the guardian process has ended"
    with pytest.raises(DaqError, match=r"has ended: nobody would turn the light off"):
        watcher.watch(True)
    watcher.watch(False)
    assert watcher.tripped() is None


def test_one_that_freezes_is_missed(
    watcher: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guardian, "ANSWER_S", 0.2)
    assert watcher.pid is not None
    os.kill(watcher.pid, signal.SIGSTOP)
    with pytest.raises(DaqError, match="does not answer: nobody"):
        watcher.watch(True)
    watcher.beat()
    assert watcher.trouble() == "the guardian process does not answer"
    os.kill(watcher.pid, signal.SIGCONT)
    wait_until(lambda: watcher.is_alive)
    monkeypatch.undo()


@pytest.mark.slow
def test_each_board_has_its_own(
    watcher: Guardian, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_board = Board()
    with BoardServer(other_board) as server:
        other = Guardian(microscope(), address=server.address)
        other.start()
        n_calls = len(board.calls)
        other.watch(True)
        message = "no heartbeat for 0.4 s: made dark"
        wait_until(lambda: other.tripped() == message)
        assert other.trouble() == message
        assert "ResetDevice" in other_board.calls
        other.stop()
        assert other.tripped() is not None
    assert watcher.is_alive
    assert len(board.calls) == n_calls


def test_a_board_that_is_not_there() -> None:
    watcher = Guardian(changed("daq.deadline_s", 0.3), address="127.0.0.1:9")
    message = r"did not start: Dev1: nobody answers at 127.0.0.1:9"
    with pytest.raises(DaqError, match=message):
        watcher.start()
    assert watcher.trouble() == "the guardian process was not started"


def test_an_output_that_is_not_there(address: str) -> None:
    watcher = Guardian(changed("daq.galvo.channel", "ao9"), address=address)
    with pytest.raises(DaqError, match=r"did not start: .* looking for ao9 failed"):
        watcher.start()


@pytest.mark.parametrize(
    ("executable", "message"),
    [("/bin/false", "status 1"), ("/nowhere", "No such file")],
)
def test_a_process_that_cannot_start(
    monkeypatch: pytest.MonkeyPatch, executable: str, message: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(DaqError, match=f"guardian process did not start: .*{message}"):
        Guardian(microscope()).start()


def test_patience_is_longer_than_two_heartbeats() -> None:
    with pytest.raises(ValueError, match="two heartbeats"):
        Guardian(microscope(), heartbeat_s=0.3, patience_s=0.5)
