"""`NIDaq` against the board model: what reaches the pins, and what is left behind."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nidaqs import (
    ENABLE,
    FULL_WAVEFORM,
    LASERS,
    WAVEFORM,
    assert_dark,
    changed,
    expose,
    full_microscope,
    opened,
)
from opm_engine.daq import driver_burst
from opm_engine.daq.nidaq import NIDaq
from opm_engine.daq.protocol import DaqError, ExposureCount
from opm_engine.simulation.board import Board
from opm_engine.simulation.board_tasks import Kind
from opm_engine.simulation.grpc_face import BoardServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opm_engine.config import Microscope


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def address(board: Board) -> Iterator[str]:
    with BoardServer(board) as server:
        yield server.address


@pytest.fixture
def daq(demo: Microscope, address: str) -> Iterator[NIDaq]:
    daq = NIDaq(demo, address=address, deadline_s=2.0)
    daq.open()
    yield daq
    daq.close()


@pytest.fixture(scope="module")
def bench() -> Iterator[tuple[NIDaq, Board]]:
    """One board for all slips: each must leave it fit for the next."""
    with opened() as bench:
        yield bench


class TestBurst:
    @pytest.mark.parametrize("polarity", ["active_high", "active_low"])
    def test_plays_exactly_the_planned_samples(
        self, demo: Microscope, board: Board, address: str, polarity: str
    ) -> None:
        idle = polarity == "active_low"
        board.drive("PFI0", idle, 0.0)
        microscope = changed(demo, "camera.exposure_out.polarity", polarity)
        daq = NIDaq(microscope, address=address)
        daq.open()
        daq.arm(WAVEFORM)
        assert board.volts("ao0") == 0.5
        assert board.line(ENABLE)
        period = WAVEFORM.digital.size
        for edge in range(28):
            board.drive("PFI0", idle ^ (edge % 2 == 0), 1e3 + edge * 0.005)
            sample = min(edge, WAVEFORM.n_samples - 1) % period
            word = sum(board.line(line) << k for k, line in enumerate(LASERS))
            assert word == WAVEFORM.digital[sample]
            assert board.volts("ao0") == WAVEFORM.analog[0, sample]
            assert daq.count().total == edge // 2 + 1
        assert daq.count() == ExposureCount(planned=12, total=14)
        daq.make_dark()
        assert daq.count() == ExposureCount(planned=12, total=14)
        assert_dark(board)
        daq.close()
        assert not board.open_tasks()

    def test_every_burst_starts_from_sample_0(self, daq: NIDaq, board: Board) -> None:
        for burst, n in enumerate([3, 5, 1]):
            daq.arm(WAVEFORM)
            assert daq.count() == (0, 0, None)
            expose(board, n, first_s=1e3 * (burst + 1))
            assert daq.count() == (n, n, None)
            daq.make_dark()
        assert_dark(board)
        # frames 0, 2 of the first, 0, 2, 4 of the second, 0 of the third
        assert board.rises("port0/line0") == 6

    def test_a_long_burst_is_not_stopped_by_a_full_buffer(
        self, daq: NIDaq, board: Board
    ) -> None:
        daq.arm(replace(WAVEFORM, n_samples=4000))
        expose(board, 2001)
        assert daq.count() == (2000, 2001, None)

    @pytest.mark.parametrize(
        ("n", "at_once"),
        [(8, 3), pytest.param(600_000, None, marks=pytest.mark.slow)],
        ids=["in parts of 3", "4.8 MB of volts"],
    )
    def test_a_period_longer_than_a_message(
        self,
        daq: NIDaq,
        board: Board,
        monkeypatch: pytest.MonkeyPatch,
        n: int,
        at_once: int | None,
    ) -> None:
        monkeypatch.setattr(driver_burst, "_AT_ONCE", at_once or driver_burst._AT_ONCE)
        numbers = np.arange(n)
        waveform = replace(
            WAVEFORM,
            digital=(numbers % 3).astype(np.uint32),
            analog=numbers[np.newaxis] * 1e-6,
            n_samples=n,
        )
        daq.arm(waveform)
        tasks = {board.task(name).kind: board.task(name) for name in board.open_tasks()}
        words = np.array(tasks[Kind.DO].samples) @ [1, 2]
        assert np.array_equal(words, waveform.digital)
        assert np.array_equal(np.array(tasks[Kind.AO].samples).T, waveform.analog)
        expose(board, 2)
        assert board.volts("ao0") == 3e-6
        assert daq.count() == (2, 2, None)

    def test_arms_outputs_before_the_edges_and_light_last(
        self, daq: NIDaq, board: Board
    ) -> None:
        board.calls.clear()
        daq.arm(WAVEFORM)
        calls = list(board.calls)
        starts = [k for k, call in enumerate(calls) if call == "StartTask"]
        timed = calls.index("CfgChangeDetectionTiming")
        assert len(starts) == 4
        assert starts[2] < timed < starts[3] < calls.index("WriteDigitalLines")

    def test_a_waveform_shorter_than_its_period(self, daq: NIDaq, board: Board) -> None:
        daq.arm(replace(WAVEFORM, n_samples=2))
        expose(board, 3)
        assert daq.count() == (1, 3, None)
        assert board.volts("ao0") == 0.5

    def test_armed_twice_plays_the_second(self, daq: NIDaq, board: Board) -> None:
        daq.arm(WAVEFORM)
        daq.arm(replace(WAVEFORM, n_samples=2))
        expose(board, 3)
        assert daq.count() == (1, 3, None)

    def test_from_a_line_that_no_counter_can_count(
        self, demo: Microscope, board: Board, address: str
    ) -> None:
        terminal = "port0/line9"
        daq = NIDaq(
            changed(demo, "camera.exposure_out.terminal", terminal), address=address
        )
        daq.open()
        daq.arm(WAVEFORM)
        for k in range(3):
            board.drive(terminal, True, 1e3 + 0.01 * k)
            board.drive(terminal, False, 1e3 + 0.01 * k + 0.004)
        assert daq.count() == (3, 3, None)
        daq.close()


SLIPS = {
    # (exposure, edge of it, how often it is seen) -> (exposure, interval in ms)
    "both edges missed": ([(3, 0, 0), (3, 1, 0)], (3, 20)),
    "rising missed": ([(3, 0, 0)], (3, 14)),
    "falling missed": ([(3, 1, 0)], (3, 16)),
    "both doubled": ([(3, 0, 2), (3, 1, 2)], (3, 6)),
    "rising doubled": ([(3, 0, 2)], (3, 6)),
    "falling doubled": ([(3, 1, 2)], (4, 4)),
    "the second": ([(1, 0, 0), (1, 1, 0)], (1, 20)),
    "the first doubled": ([(0, 0, 2), (0, 1, 2)], (1, 4)),
    "the last planned": ([(11, 0, 0), (11, 1, 0)], (11, 20)),
    "after the last planned": ([(12, 0, 0), (12, 1, 0)], None),
    # what is missed before anything was seen leaves no gap
    "the first": ([(0, 0, 0), (0, 1, 0)], None),
}


class TestSlips:
    """The camera exposes on, so in the end the numbers agree."""

    @pytest.mark.parametrize(
        "late",
        [True, pytest.param(False, marks=pytest.mark.slow)],
        ids=["late", "at every edge"],
    )
    @pytest.mark.parametrize(("faults", "expected"), SLIPS.values(), ids=SLIPS)
    def test_show_however_late_software_reads(
        self,
        bench: tuple[NIDaq, Board],
        faults: list[tuple[int, int, int]],
        expected: tuple[int, float] | None,
        late: bool,
    ) -> None:
        daq, board = bench
        daq.arm(WAVEFORM)
        how_often = {(2 * n + edge): seen for n, edge, seen in faults}
        edges = itertools.count()
        board.edge_filter = lambda level, time_s: how_often.get(next(edges), 1)
        start_s = board._latest_s + 1
        for k in range(14):
            expose(board, 1, first_s=start_s + 0.01 * k)
            if not late:
                daq.count()
        board.edge_filter = None
        for seen in (daq.count(), daq.make_dark() or daq.count()):
            assert seen.planned == 12
            assert seen.total >= 12
            if expected is None:
                assert seen.irregular is None
            else:
                exposure, interval_ms = expected
                near_ms = pytest.approx(interval_ms, abs=0.011)  # one tick
                assert seen.irregular == (exposure, near_ms, 10, False)

    def test_a_stamp_that_was_lost_is_an_error_and_nothing_stops(
        self, daq: NIDaq, board: Board, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(driver_burst, "SPARE_STAMPS", 0)
        # at this rate the driver's own choice would be smaller still
        daq.arm(replace(WAVEFORM, n_samples=1200, max_rate_hz=100))
        expose(board, 500)
        assert daq.count() == (500, 500, None)
        expose(board, 601, first_s=1005.0)
        assert board.task(board.open_tasks()[0]).error == -200222
        with pytest.raises(DaqError, match=r"time stamps failed \(NI -200222\)"):
            daq.count()
        generated = [board.task(name).generated for name in board.open_tasks()]
        assert generated.count(1200) == 2
        with pytest.raises(DaqError):
            daq.make_dark()
        assert_dark(board)


class TestDark:
    def test_in_the_middle_of_an_exposure(self, daq: NIDaq, board: Board) -> None:
        daq.arm(WAVEFORM)
        board.drive("PFI0", True, 0.0)
        assert board.line("port0/line0")
        daq.make_dark()
        assert_dark(board)
        off_s = {
            line: board.digital_trace(line, 0, 1e9)[0][-1]
            for line in (ENABLE, "port0/line0")
        }
        parked_s = board.analog_trace("ao0", 0, 1e9)[0][-1]
        assert off_s[ENABLE] <= off_s["port0/line0"] < parked_s

    def test_the_galvo_never_moves_faster_than_its_slew_limit(
        self, demo: Microscope, board: Board, address: str
    ) -> None:
        slew = 0.5
        microscope = changed(demo, "daq.galvo.slew_v_per_ms", slew)
        microscope = changed(microscope, "daq.galvo.park_v", -1.0)
        daq = NIDaq(microscope, address=address)
        daq.open()
        opened_s = board._latest_s
        daq.arm(
            replace(WAVEFORM, initial_v=np.array([3.0]), analog=np.full((1, 8), 4.0))
        )
        armed_s = board._latest_s
        expose(board, 2, first_s=0.0)  # that is, now
        daq.make_dark()
        ramps = [
            (-1.0, 3.0, opened_s, np.nextafter(armed_s, 0)),
            (4.0, -1.0, armed_s, 1e9),
        ]
        for first_v, last_v, start_s, end_s in ramps:
            times_s, volts = board.analog_trace("ao0", start_s, end_s)
            assert (volts[0], volts[-1]) == (first_v, last_v)
            assert volts.size >= abs(last_v - first_v) / slew
            # the first step leaves a voltage that was held for long
            speed = np.abs(np.diff(volts))[1:] / (np.diff(times_s)[1:] * 1e3)
            assert speed.max() <= slew * 1.001
            assert np.abs(np.diff(volts)).max() <= slew
        daq.close()
        assert_dark(board, park_v=-1.0)

    def test_at_any_time_and_twice(
        self, demo: Microscope, board: Board, address: str
    ) -> None:
        daq = NIDaq(demo, address=address)
        daq.make_dark()
        daq.close()
        assert not board.calls
        daq.open()
        daq.open()
        daq.make_dark()
        daq.make_dark()
        daq.arm(WAVEFORM)
        daq.close()
        daq.close()
        daq.make_dark()
        assert_dark(board)
        with pytest.raises(DaqError, match="not open"):
            daq.arm(WAVEFORM)
        daq.open()
        daq.close()
        assert not board.open_tasks()

    def test_from_another_thread(self, daq: NIDaq, board: Board) -> None:
        daq.arm(WAVEFORM)
        board.drive("PFI0", True, 1.0)
        threads = [threading.Thread(target=daq.make_dark) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_dark(board)

    def test_open_makes_a_lit_board_dark(
        self, demo: Microscope, board: Board, address: str
    ) -> None:
        for line in (*LASERS, ENABLE):
            board.drive(line, True, 0.0)
        daq = NIDaq(demo, address=address)
        daq.open()
        assert_dark(board)
        daq.close()

    def test_a_reset_is_the_last_resort(self, daq: NIDaq, board: Board) -> None:
        daq.arm(WAVEFORM)
        board.drive("PFI0", True, 1.0)
        # laser_enable's own task is closed first, then the lasers', in four ways
        board.fail("TaskControl", -50405, after=1)
        for turn in (1, 2, 3):
            board.fail("ClearTask", -50405, after=turn)
        board.calls.clear()
        with pytest.raises(DaqError, match="closing the lasers task"):
            daq.make_dark()
        assert "ResetDevice" in board.calls
        assert_dark(board)


class TestSeveralOutputs:
    """A projection galvo on ao1 and a laser's power on ao2."""

    def test_play_together(self) -> None:
        with opened(full_microscope()) as (daq, board):
            assert board.volts("ao1") == -1
            daq.arm(FULL_WAVEFORM)
            channels = FULL_WAVEFORM.channels
            assert [board.volts(one) for one in channels] == [0.5, 0, 4.5]
            for edge in range(24):
                board.drive("PFI0", edge % 2 == 0, 1e3 + edge * 0.005)
                volts = [board.volts(channel) for channel in channels]
                assert volts == FULL_WAVEFORM.analog[:, edge % 8].tolist()
            assert daq.count() == (12, 12, None)
            assert len(board.open_tasks()) == 4

    def test_dark_is_light_then_power_then_both_galvos_at_their_pace(self) -> None:
        with opened(full_microscope()) as (daq, board):
            daq.arm(FULL_WAVEFORM)
            for edge in range(4):
                board.drive("PFI0", edge % 2 == 0, edge * 1e-6)
            board.drive("PFI0", True, 1e-5)
            assert board.line("port0/line0")
            at_s = board._latest_s
            daq.make_dark()
            assert_dark(board)
            assert board.volts("ao1") == -1
            off_s = board.digital_trace("port0/line0", at_s, 1e9)[0][-1]
            times_s, power_v = board.analog_trace("ao2", at_s, 1e9)
            assert power_v.tolist() == [4.5, 0.0]
            for channel, slew in (("ao0", 1.0), ("ao1", 0.5)):
                moved_s, volts = board.analog_trace(channel, at_s, 1e9)
                assert off_s < times_s[1] < moved_s[1]
                assert np.abs(np.diff(volts)).max() <= slew * 1.001
            # from 2 V to -1 V in six steps
            assert volts.tolist() == [2, 1.5, 1, 0.5, 0, -0.5, -1]

    def test_a_waveform_without_them_leaves_them_at_rest(self) -> None:
        with opened(full_microscope()) as (daq, board):
            daq.arm(WAVEFORM)
            expose(board, 2)
            assert (board.volts("ao1"), board.volts("ao2")) == (-1, 0)


class TestArmFails:
    def test_ramps_back_even_if_the_board_cannot_count(
        self, daq: NIDaq, board: Board
    ) -> None:
        board.fail("StartTask", -200016, after=2)
        board.fail("GetWriteAttributeUInt64", -200475)
        board.fail("GetWriteAttributeUInt64", -200475, after=1)
        with pytest.raises(DaqError, match="NI -200016"):
            daq.arm(replace(WAVEFORM, initial_v=np.array([3.0])))
        # 1 V/ms: three steps up, three down
        assert board.analog_trace("ao0", 0, 1e9)[1].tolist() == [0, 1, 2, 3, 2, 1, 0]

    def test_both_errors_are_told(self, daq: NIDaq, board: Board) -> None:
        board.fail("StartTask", -200016, after=1)
        board.fail("WriteDigitalScalarU32", -50405)
        with pytest.raises(DaqError, match="NI -200016") as failure:
            daq.arm(WAVEFORM)
        assert "NI -50405" in failure.value.__notes__[0]
        assert_dark(board)

    @pytest.mark.parametrize("polarity", ["active_high", "active_low"])
    def test_a_busy_line(
        self, demo: Microscope, board: Board, address: str, polarity: str
    ) -> None:
        microscope = changed(demo, "camera.exposure_out.polarity", polarity)
        board.drive("PFI0", polarity == "active_high", 0.0)
        daq = NIDaq(microscope, address=address)
        daq.open()
        with pytest.raises(DaqError, match=r"PFI0 is (high|low): the camera exposes"):
            daq.arm(WAVEFORM)
        assert_dark(board)
        daq.close()

    def test_lines_that_somebody_else_holds(self, daq: NIDaq, board: Board) -> None:
        board.create_task("other program")
        board.add_ao("other program", "Dev1/ao0", "", -10, 10)
        board.commit("other program")
        with pytest.raises(DaqError, match=r"moving the galvos failed \(NI -50103\)"):
            daq.arm(WAVEFORM)
        board.clear("other program")
        daq.make_dark()
        assert_dark(board)


def test_nothing_is_left_behind(demo: Microscope, board: Board) -> None:
    threads = set(threading.enumerate())
    with BoardServer(board) as server:
        daq = NIDaq(demo, address=server.address)
        daq.open()
        daq.arm(WAVEFORM)
        expose(board, 2)
        daq.close()
        host, _, port = server.address.rpartition(":")
    server.stop()
    assert not board.open_tasks()
    assert set(threading.enumerate()) == threads
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=1)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")  # noqa: PTH112
def test_sockets_do_not_pile_up(demo: Microscope, board: Board, address: str) -> None:
    def sockets() -> int:
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))  # noqa: PTH208
        targets = (os.readlink(link) for link in links if os.path.islink(link))  # noqa: PTH114, PTH115
        return sum(target.startswith("socket:") for target in targets)

    def cycle() -> None:
        daq = NIDaq(demo, address=address)
        daq.open()
        daq.close()

    cycle()
    before = sockets()
    for _ in range(5):
        cycle()
    assert sockets() <= before + 2
