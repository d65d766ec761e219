"""The watchdog, and servers that freeze."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from nidaqmx._stubs import nidaqmx_pb2 as messages
from nidaqmx._stubs.nidaqmx_pb2_grpc import NiDAQmxStub
from nidaqmx.constants import Level
from nidaqmx.errors import DaqError
from nidaqmx.system.watchdog import DOExpirationState, WatchdogTask

from boards import exposures, lit, new, served
from opm_engine.simulation.board import Board
from opm_engine.simulation.grpc_face import BoardServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nidaqmx.grpc_session_options import GrpcSessionOptions


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def options(board: Board) -> Iterator[GrpcSessionOptions]:
    with served(board) as options:
        yield options


@contextmanager
def watching(
    options: GrpcSessionOptions, timeout_s: float, states: dict[str, Level]
) -> Iterator[WatchdogTask]:
    with WatchdogTask("Dev1", timeout=timeout_s, grpc_options=options) as task:
        task.cfg_watchdog_do_expir_states(
            [DOExpirationState(f"Dev1/{name}", state) for name, state in states.items()]
        )
        yield task


SAFE = {"port0/line0": Level.LOW, "port0/line1": Level.LOW, "port1/line3": Level.HIGH}


class TestWatchdog:
    def test_expires_locks_and_unlocks(
        self, board: Board, options: GrpcSessionOptions
    ) -> None:
        lit(board, "Dev1/port0/line0:1", [[1, 1], [1, 1]], "/Dev1/PFI0")
        exposures(board, [1.0])
        with watching(options, 30.0, SAFE) as watchdog, new(options) as other:
            watchdog.start()
            other.do_channels.add_do_chan("Dev1/port1/line3")
            other.write(False, auto_start=True)
            board.advance(board._latest_s + 29.0)
            assert not watchdog.expired
            assert board.line("port0/line0")
            board.advance(board._latest_s + 31.0)
            assert watchdog.expired
            assert not board.line("port0/line0")
            assert board.line("port1/line3")
            # the clock runs on, the lines stay
            exposures(board, [50.0, 51.0])
            assert board.task("lines").generated == 3
            assert not board.line("port0/line1")
            for act in (lambda: other.write(False), watchdog.reset_timer):
                with pytest.raises(DaqError) as refusal:
                    act()
                assert refusal.value.error_code in (-200678, -200644)
            watchdog.clear_expiration()
            assert not watchdog.expired
            assert board.line("port1/line3")
            other.write(False)
            assert not board.line("port1/line3")
            exposures(board, [60.0])
            assert board.line("port0/line0")

    def test_a_reset_in_time_holds_it_off(
        self, board: Board, options: GrpcSessionOptions
    ) -> None:
        with watching(options, 1.0, SAFE) as watchdog:
            watchdog.start()
            for step in range(1, 4):
                exposures(board, [0.7 * step])
                watchdog.reset_timer()
            assert not watchdog.expired
            board.advance(4.0)
            assert watchdog.expired

    def test_software_that_falls_silent(
        self, board: Board, options: GrpcSessionOptions
    ) -> None:
        """In real time, with nobody asking."""
        lit(board, "Dev1/port0/line0", [[1], [1]], "/Dev1/PFI0")
        exposures(board, [0.0001])
        with watching(options, 0.05, SAFE) as watchdog:
            watchdog.start()
            deadline = time.monotonic() + 20
            while board.line("port0/line0") and time.monotonic() < deadline:
                time.sleep(0.005)
            assert not board.line("port0/line0")

    @pytest.mark.parametrize("way", ["stop", "close"])
    def test_a_task_that_ends_disarms(
        self, board: Board, options: GrpcSessionOptions, way: str
    ) -> None:
        lit(board, "Dev1/port0/line0", [[1], [1]], "/Dev1/PFI0")
        exposures(board, [1.0])
        with watching(options, 2.0, SAFE) as watchdog:
            watchdog.start()
            if way == "stop":
                watchdog.stop()
        board.advance(10.0)
        assert board.line("port0/line0")

    def test_never(self, board: Board, options: GrpcSessionOptions) -> None:
        with watching(options, -1, SAFE) as watchdog:
            watchdog.start()
            board.advance(1000.0)
            assert not watchdog.expired

    def test_reset_of_the_device_unlocks(
        self, board: Board, options: GrpcSessionOptions
    ) -> None:
        with watching(options, 1.0, {"port1": Level.HIGH}) as watchdog:
            watchdog.start()
            board.advance(5.0)
            assert all(board.line(f"port1/line{k}") for k in range(8))
            board.reset()
            with new(options) as task:
                task.do_channels.add_do_chan("Dev1/port1/line0")
                task.write(False)
        assert not board.line("port1/line0")

    def test_states_and_timeouts_are_told(self, options: GrpcSessionOptions) -> None:
        with watching(options, 1.0, SAFE) as watchdog:
            states = watchdog.expiration_states
            assert states["Dev1/port1/line3"].do_state is Level.HIGH
            states["Dev1/port1/line3"].do_state = Level.NO_CHANGE
            assert states["Dev1/port1/line3"].do_state is Level.NO_CHANGE
            assert states["Dev1/port0/line0"].do_state is Level.LOW
            watchdog.timeout = 2.5
            assert watchdog.timeout == 2.5
            watchdog.start()
            with pytest.raises(DaqError) as refusal:
                watchdog.timeout = 3
            assert refusal.value.error_code == -200479

    def test_one_timer(self, options: GrpcSessionOptions) -> None:
        with watching(options, 9.0, SAFE) as first, watching(options, 9.0, {}) as other:
            first.start()
            with pytest.raises(DaqError) as refusal:
                other.start()
            assert refusal.value.error_code == -50103

    @pytest.mark.parametrize(
        ("product", "timeout_s", "code"),
        [("PCI-6733", 1.0, -200662), ("PCIe-6363", 40.0, -200668)],
        ids=["no timer", "too long"],
    )
    def test_refused(self, product: str, timeout_s: float, code: int) -> None:
        with (
            served(Board(product=product)) as options,
            pytest.raises(DaqError) as refusal,
            watching(options, timeout_s, SAFE),
        ):
            pass
        assert refusal.value.error_code == code


class TestFreeze:
    def test_calls_block_and_outputs_go_on(
        self, board: Board, options: GrpcSessionOptions
    ) -> None:
        lit(board, "Dev1/port0/line0", [[1], [0]], "/Dev1/PFI0")
        with new(options) as task:
            board.freeze()
            asking = threading.Thread(target=task.is_task_done)
            asking.start()
            exposures(board, [1.0])
            asking.join(0.2)
            assert asking.is_alive()
            assert board.line("port0/line0")
            board.thaw()
            asking.join(20)
            assert not asking.is_alive()

    def test_for_a_while(self, board: Board, options: GrpcSessionOptions) -> None:
        with new(options) as task:
            board.freeze(0.1)
            begun = time.monotonic()
            task.is_task_done()
            assert time.monotonic() - begun >= 0.1
            board.thaw()

    def test_a_frozen_server_can_be_closed(self, board: Board) -> None:
        server = BoardServer(board)
        server.start()
        with grpc.insecure_channel(server.address) as channel:
            board.freeze()
            request = messages.GetErrorStringRequest(error_code=-200088)
            answer = NiDAQmxStub(channel).GetErrorString.future(request)
            deadline = time.monotonic() + 20
            while not answer.running() and time.monotonic() < deadline:
                time.sleep(0.01)
            server.stop()
            assert answer.exception(timeout=20) is not None
