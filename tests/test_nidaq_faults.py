"""`NIDaq` when the board, the server or another thread gets in the way: dark first."""

from __future__ import annotations

import gc
import signal
import socket
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nidaqs import (
    ENABLE,
    FULL_WAVEFORM,
    WAVEFORM,
    assert_dark,
    changed,
    expose,
    full_microscope,
    opened,
)
from opm_engine.daq.nidaq import NIDaq
from opm_engine.daq.protocol import DaqError
from opm_engine.simulation.board import Board
from opm_engine.simulation.grpc_face import BoardServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opm_engine.config import Microscope
    from opm_engine.daq.protocol import Waveform

RECORD = [{"name": "power", "channel": "ai0"}]
RAMPED = replace(
    FULL_WAVEFORM,
    digital=np.array([1, 1, 1, 1, 2, 2, 2, 2], np.uint32),
    samples_per_frame=4,
    sample_ms=1.5,
)
EACH = [
    # waveform, every how many-th call fails
    pytest.param(FULL_WAVEFORM, 7, id="some of edges"),
    pytest.param(RAMPED, 11, id="some of pulses"),
    pytest.param(FULL_WAVEFORM, 1, id="edges", marks=pytest.mark.slow),
    pytest.param(RAMPED, 1, id="pulses", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def bench() -> Iterator[tuple[NIDaq, Board]]:
    """One board for all failures: each must leave it fit for the next."""
    microscope = changed(full_microscope(), "daq.record", RECORD)
    microscope = changed(microscope, "camera.exposure_out.debounce_us", 1)
    microscope = changed(microscope, "daq.watchdog_s", 30)
    with opened(microscope) as (daq, board):
        yield daq, board


def calls_of(board: Board, act: Callable[[], object]) -> list[tuple[str, int]]:
    """Every call that an action makes of the board: its name, and for which time."""
    board.calls.clear()
    act()
    turns = Counter[str]()
    calls = []
    for rpc in board.calls:
        calls.append((rpc, turns[rpc]))
        turns[rpc] += 1
    assert calls
    return calls


def assert_clean(board: Board) -> None:
    assert_dark(board)
    assert board.volts("ao1") == -1
    assert not board.open_tasks()


def light(board: Board) -> None:
    """Leave the board in the middle of an exposure, the laser on."""
    board.drive("PFI0", True, board._latest_s + 1e-3)
    board.advance(board._latest_s + 1e-4)
    assert board.line("port0/line0")


@pytest.mark.parametrize(("waveform", "every"), EACH)
class TestEachCallFails:
    """One by one; what is armed next tells whether the board is fit again."""

    def test_of_arm(
        self, bench: tuple[NIDaq, Board], waveform: Waveform, every: int
    ) -> None:
        daq, board = bench
        calls = calls_of(board, lambda: daq.arm(waveform))
        daq.make_dark()
        for rpc, turn in calls[::every]:
            board.fail(rpc, -50405, after=turn)
            with pytest.raises(DaqError, match=r"failed \(NI -50405\)") as failure:
                daq.arm(waveform)
            assert failure.value.__cause__ is not None, (rpc, turn)
            assert not daq.light_possible
            assert_clean(board)
        daq.arm(waveform)
        daq.make_dark()

    @pytest.mark.parametrize("action", ["count", "inputs"])
    def test_of_looking(
        self, bench: tuple[NIDaq, Board], waveform: Waveform, every: int, action: str
    ) -> None:
        daq, board = bench
        daq.arm(waveform)
        expose(board, 1, first_s=board._latest_s + 1)
        for rpc, turn in calls_of(board, getattr(daq, action)):
            expose(board, 1, first_s=board._latest_s + 1)
            board.fail(rpc, -50405, after=turn)
            with pytest.raises(DaqError, match=r"failed \(NI -50405\)"):
                getattr(daq, action)()
            getattr(daq, action)()
        daq.make_dark()
        assert_clean(board)

    @pytest.mark.parametrize("action", ["make_dark", "close"])
    def test_of_going_dark(
        self, bench: tuple[NIDaq, Board], waveform: Waveform, every: int, action: str
    ) -> None:
        daq, board = bench
        act = getattr(daq, action)
        daq.arm(waveform)
        light(board)
        calls = calls_of(board, act)
        if action == "close":  # all of its calls are those of make_dark
            every = 2 * every + 6
        for rpc, turn in calls[::every]:
            daq.open()
            board.drive("PFI0", False, board._latest_s)
            board.advance(board._latest_s + 1e-4)
            daq.arm(waveform)
            light(board)
            board.fail(rpc, -50405, after=turn)
            with pytest.raises(DaqError, match=r"failed \(NI -50405\)"):
                act()
            assert_clean(board)
            assert not daq.light_possible
        daq.open()
        board.drive("PFI0", False, board._latest_s)
        daq.make_dark()


@pytest.mark.parametrize("after", [2, 4], ids=["lasers", "analog outputs"])
def test_a_task_that_will_not_close_is_closed_later(after: int) -> None:
    with opened(full_microscope()) as (daq, board):
        daq.arm(FULL_WAVEFORM)
        light(board)
        # its own two ways to end, and then by name; laser_enable's task comes first
        board.fail("TaskControl", -50405, after=after - 1)
        for turn in (after - 1, after):
            board.fail("ClearTask", -50405, after=turn)
        with pytest.raises(DaqError, match=r"failed \(NI -50405\)"):
            daq.make_dark()
        assert "ResetDevice" not in board.calls
        assert_clean(board)


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_each_call_of_opening_fails(demo: Microscope, every: int) -> None:
    demo, board = changed(demo, "daq.watchdog_s", 1), Board()
    with BoardServer(board) as server:
        daq = NIDaq(demo, address=server.address)
        calls = calls_of(board, daq.open)[::every]
        for rpc, turn in calls:
            daq.close()
            if rpc == "GetSystemInfoAttributeUInt32":
                continue  # nidaqmx goes on without the driver's version
            board.fail(rpc, -50405, after=turn)
            with pytest.raises(DaqError, match=r"failed \(NI -50405\)"):
                daq.open()
            assert not board.open_tasks()
            with pytest.raises(DaqError, match="not open"):
                daq.arm(WAVEFORM)
            daq.open()
        daq.close()


class SlowBoard(Board):
    """Hangs in the ``turn``-th call of ``rpc`` until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.hang_at = ("", 0)
        self.hangs, self.go_on = threading.Event(), threading.Event()

    def called(self, rpc: str) -> None:
        super().called(rpc)
        name, left = self.hang_at
        if rpc == name:
            self.hang_at = (name, left - 1)
            if not left:
                self.hangs.set()
                self.go_on.wait(10)


class Arming(threading.Thread):
    """Arms; keeps the error."""

    def __init__(self, daq: NIDaq) -> None:
        super().__init__()
        self.daq = daq
        self.error: DaqError | None = None

    def run(self) -> None:
        try:
            self.daq.arm(WAVEFORM)
        except DaqError as error:
            self.error = error


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.001)


class TestThreads:
    @pytest.mark.parametrize(
        "hang_at",
        [
            ("ReadDigitalLines", 0),
            ("WriteAnalogF64", 0),
            ("StartTask", 0),
            ("StartTask", 3),
            ("WriteDigitalLines", 0),
        ],
        ids=lambda at: f"{at[0]}-{at[1]}",
    )
    def test_arming_fails_if_it_is_made_dark_meanwhile(
        self, hang_at: tuple[str, int]
    ) -> None:
        with opened(board=SlowBoard()) as (daq, board):
            board.hang_at = hang_at
            arming = Arming(daq)
            arming.start()
            assert board.hangs.wait(10)
            darkening = threading.Thread(target=daq.make_dark)
            darkening.start()
            wait_for(lambda: daq._asked_dark > daq._made_dark)
            board.go_on.set()
            arming.join()
            darkening.join()
            assert "made dark while it was being armed" in str(arming.error)
            assert board.rises(ENABLE) == (hang_at[0] == "WriteDigitalLines")
            assert_dark(board)
            assert not daq.light_possible

    def test_dark_waits_a_deadline_for_a_hung_call(self) -> None:
        deadline_s = 1.0  # of which other calls may use some, on a busy machine
        with opened(board=SlowBoard(), deadline_s=deadline_s) as (daq, board):
            board.hang_at = ("CfgSampClkTiming", 1)
            arming = Arming(daq)
            arming.start()
            assert board.hangs.wait(10)
            started_s = time.monotonic()
            daq.make_dark()
            assert time.monotonic() - started_s < deadline_s + 1.5
            arming.join()
            assert "DEADLINE_EXCEEDED" in str(arming.error)
            assert_dark(board)
            board.go_on.set()

    def test_a_signal_handler_may_make_it_dark_while_it_is_armed(self) -> None:
        with opened(changed(full_microscope(), "daq.galvo.slew_v_per_ms", 0.01)) as (
            daq,
            board,
        ):
            # the ramp to 0.5 V takes 50 steps
            refusals: list[str] = []

            def darken(*_: object) -> None:
                # It must not raise: within gRPC's locks that leaves one held for ever.
                try:
                    daq.make_dark()
                except DaqError as error:
                    refusals.append(str(error))

            before = signal.signal(signal.SIGALRM, darken)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.04)
                with pytest.raises(DaqError, match="made dark while"):
                    daq.arm(WAVEFORM)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
            # the ramp that it interrupts holds the galvo
            assert all("NI -50103" in refusal for refusal in refusals)
            assert_clean(board)

    def test_two_threads_count_while_a_third_makes_it_dark(self) -> None:
        with opened() as (daq, board):
            daq.arm(WAVEFORM)
            errors: list[BaseException] = []
            totals: list[int] = []
            stop = threading.Event()

            def count() -> None:
                try:
                    while not stop.wait(0.001):
                        totals.append(daq.count().total)
                except DaqError as error:
                    errors.append(error)

            threads = [threading.Thread(target=count) for _ in range(2)]
            for thread in threads:
                thread.start()
            for k in range(12):
                expose(board, 1, first_s=1e3 + 0.01 * k)
                wait_for(lambda k=k: k + 1 in totals)
            daq.make_dark()
            stop.set()
            for thread in threads:
                thread.join()
            assert errors == []
            assert daq.count() == (12, 12, None)

    def test_light_is_possible_from_arming_to_darkness(self, demo: Microscope) -> None:
        daq = NIDaq(demo)
        assert not daq.light_possible
        with opened(board=SlowBoard(), deadline_s=1.0) as (daq, board):
            assert not daq.light_possible
            daq.arm(WAVEFORM)
            assert daq.light_possible
            with board._lock, pytest.raises(DaqError):
                daq.make_dark()
            assert daq.light_possible
            daq.make_dark()
            assert not daq.light_possible


class TestUnreachable:
    def test_no_driver_or_no_device(self, demo: Microscope) -> None:
        with pytest.raises(DaqError, match="Dev1 at the local NI-DAQmx driver"):
            NIDaq(demo).open()

    @pytest.mark.parametrize("listens", [False, True], ids=["nobody", "a mute"])
    def test_nobody_answers(self, demo: Microscope, listens: bool) -> None:
        with socket.socket() as mute:
            mute.bind(("127.0.0.1", 0))
            if listens:
                mute.listen()
            address = f"127.0.0.1:{mute.getsockname()[1]}"
            demo = changed(demo, "daq.address", address)
            daq = NIDaq(changed(demo, "daq.deadline_s", 0.3))
            with pytest.raises(DaqError, match=f"nobody answers at {address} .*0.3 s"):
                daq.open()
            daq.close()

    def test_a_server_that_freezes(self) -> None:
        with opened(full_microscope(), deadline_s=1.0) as (daq, board):
            daq.arm(FULL_WAVEFORM)
            with board._lock, pytest.raises(DaqError, match="DEADLINE_EXCEEDED"):
                daq.count()
            daq.close()
            assert_dark(board)

    @pytest.mark.parametrize("action", ["make_dark", "close"])
    def test_darkness_waits_for_one_deadline_in_all(self, action: str) -> None:
        with opened(full_microscope(), deadline_s=1.0) as (daq, board):
            daq.arm(FULL_WAVEFORM)
            light(board)
            started_s = time.monotonic()
            with board._lock, pytest.raises(DaqError, match="DEADLINE_EXCEEDED"):
                getattr(daq, action)()
            assert time.monotonic() - started_s < 1.0 + 1.0
            daq.open()
            daq.make_dark()
            assert_dark(board)

    def test_a_server_that_thaws_meanwhile_is_made_dark(self) -> None:
        with opened(deadline_s=0.8) as (daq, board):
            daq.arm(WAVEFORM)
            light(board)
            frozen = threading.Event()

            def freeze() -> None:
                with board._lock:
                    frozen.set()
                    time.sleep(1.0)

            freezing = threading.Thread(target=freeze)
            freezing.start()
            frozen.wait()
            with pytest.raises(DaqError, match="DEADLINE_EXCEEDED"):
                daq.make_dark()
            freezing.join()
            assert_dark(board)

    def test_a_server_that_ends(self, demo: Microscope) -> None:
        board = Board()
        server = BoardServer(board)
        server.start()
        daq = NIDaq(demo, address=server.address, deadline_s=1.0)
        daq.open()
        daq.arm(WAVEFORM)
        server.stop()
        for action in (daq.count, daq.make_dark, daq.close):
            started_s = time.monotonic()
            with pytest.raises(DaqError, match="Failed to connect"):
                action()
            assert time.monotonic() - started_s < 1.0 + 1.0
        assert daq.count() == (0, 0, None)
        daq.close()
        del daq
        gc.collect()  # a task that was not closed would be a ResourceWarning
