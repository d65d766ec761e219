"""The simulated board as a process of its own: seen from outside, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import nidaqmx
import nidaqmx.system
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opm_engine.daq.nidaq import NIDaq
from opm_engine.daq.protocol import ExposureCount, Waveform
from opm_engine.instrument import prepare_camera
from opm_engine.simulation.board import Board
from opm_engine.simulation.board_process import serve_board
from opm_engine.simulation.board_status import board_status
from opm_engine.simulation.board_tasks import Kind
from opm_engine.simulation.cable_service import CableService
from opm_engine.simulation.clock import SimClock
from opm_engine.simulation.grpc_face import BoardServer
from opm_engine.simulation.remote_cables import RemoteCables
from opm_engine.simulation.twin import Twin
from twins import Ruler, microscope

LASERS = ("port0/line0", "port0/line1")
ENABLE, EXPOSURE_OUT = "port1/line1", "port1/line0"
N_FRAMES = 8
LIMIT_S = 20.0
"""For whatever must happen soon; only its absence is a failure."""


def eventually(found: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + LIMIT_S
    while not (value := found()) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert value
    return value


class Process(NamedTuple):
    pid: int
    address: str
    popen: subprocess.Popen[str]


@contextmanager
def process(*arguments: str) -> Iterator[Process]:
    """A board process, killed by its id in the end."""
    command = [sys.executable, "-m", "opm_engine.simulation.board_process"]
    with subprocess.Popen([*command, *arguments], stdout=-1, text=True) as popen:
        try:
            assert popen.stdout is not None
            yield Process(popen.pid, popen.stdout.readline().strip(), popen)
        finally:
            popen.kill()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a board process for all tests that leave it alive."""
    with process() as served:
        yield served.address


class Bench(NamedTuple):
    """A served board in this process, with both ends of the cables in sight."""

    board: Board
    clock: SimClock
    address: str


@pytest.fixture
def bench() -> Iterator[Bench]:
    clock = SimClock()
    board = Board(clock=clock)
    service = CableService(board, clock)
    with BoardServer(board, others=[service.handler]) as server:
        yield Bench(board, clock, server.address)
    service.close()


def waveform(twin: Twin, n_frames: int) -> Waveform:
    """Lasers in turn, the galvo stepping while they are dark."""
    camera = twin.core.simulated_camera
    assert camera is not None
    timing = camera.timing()
    volts = np.repeat(np.linspace(-0.5, 0.5, N_FRAMES), 2)
    words = np.zeros(2 * N_FRAMES, np.uint32)
    words[0::2] = np.arange(N_FRAMES) % 2 + 1
    return Waveform(
        digital=words,
        lines=LASERS,
        analog=np.append(volts[1:], volts[0])[np.newaxis],
        channels=("ao0",),
        initial_v=volts[:1],
        settle_ms=1.0,
        period_ms=1e3 * timing.period_s,
        n_samples=2 * n_frames,
        max_rate_hz=5e3,
        sample_ms=1e3 * (timing.exposure_s - timing.readout_s),
    )


def play(
    twin: Twin, daq: NIDaq, n_frames: int = N_FRAMES
) -> tuple[np.ndarray, ExposureCount]:
    """One burst: its frames and what the board counted."""
    core = twin.core
    daq.arm(waveform(twin, n_frames))
    core.startSequenceAcquisition(n_frames, 0, True)
    frames = []
    while len(frames) < n_frames:
        if core.getRemainingImageCount():
            frames.append(core.popNextImage().copy())
        elif not core.isSequenceRunning():
            break
        else:
            time.sleep(1e-3)
    core.stopSequenceAcquisition()
    counted = daq.count()
    daq.make_dark()
    return np.array(frames), counted


@contextmanager
def opened(address: str | None) -> Iterator[tuple[Twin, NIDaq]]:
    description = microscope(camera__roi=[0, 0, 32, 128])
    twin = Twin(description, Ruler(), address)
    daq = NIDaq(description, address=twin.address)
    try:
        prepare_camera(twin.core, description)
        twin.core.setExposure(5)
        daq.open()
        yield twin, daq
    finally:
        daq.close()
        twin.close()


def play_for_ever(address: str) -> None:
    """What a process does that is killed meanwhile."""
    with opened(address) as (twin, daq):
        play(twin, daq, 100_000)


@contextmanager
def playing(address: str) -> Iterator[int]:
    """The id of a process that plays a burst without an end."""
    code = f"import test_board_process as t; t.play_for_ever({address!r})"
    reset(address)  # another's tasks may have outlived it
    begun = board_status(address)["rises"][LASERS[0]]
    folder = Path(__file__).parent
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder) as popen:
        try:
            while board_status(address)["rises"][LASERS[0]] < begun + N_FRAMES:
                assert popen.poll() is None
                time.sleep(0.02)
            yield popen.pid
        finally:
            popen.kill()


def rises(twin: Twin) -> list[int]:
    found = twin.status()["rises"]
    return [found[line] for line in (*LASERS, ENABLE)]


class TestBurst:
    def test_is_the_same_on_a_board_elsewhere(self, address: str) -> None:
        frames, counts, rose = [], [], []
        for where in (None, address):
            with opened(where) as (twin, daq):
                before = rises(twin)
                burst, count = play(twin, daq)
                frames.append(burst.astype(int))
                counts.append(count)
                rose.append(np.subtract(rises(twin), before).tolist())
        here, there = frames
        assert here.shape == there.shape == (N_FRAMES, 128, 32)
        assert here.max() > 1000
        np.testing.assert_allclose(there, here, atol=2)
        assert [count.planned for count in counts] == [N_FRAMES, N_FRAMES]
        assert [count.irregular for count in counts] == [None, None]
        assert rose[0] == rose[1] == [N_FRAMES // 2, N_FRAMES // 2, 1]

    def test_leaves_all_dark_and_the_twin_without_a_board(self, address: str) -> None:
        with opened(address) as (twin, daq):
            assert twin.board is None
            assert twin.address == address
            play(twin, daq)
            assert twin.status() == board_status(address)
        assert not any(board_status(address)["lines"].values())


class TestStatus:
    def test_lists_every_output_of_the_product(self) -> None:
        with process("--device", "Dev7", "--product", "PCIe-6738") as served:
            before = board_status(served.address)
            board = Board(product="PCIe-6738")
            assert list(before["lines"]) == list(before["rises"]) == list(board.lines())
            assert list(before["ao"]) == board.product.analog_channels()
            assert not any((before["lines"] | before["rises"] | before["ao"]).values())
            cables = RemoteCables(served.address, SimClock())
            cables.drive("PFI0", True, 0.0)
            cables.close()
            after = board_status(served.address)
            driven = board.pin("PFI0")
            assert set(before["lines"]) - set(after["lines"]) == {driven}
            assert driven not in after["rises"]

    def test_says_what_the_board_puts_out(self, bench: Bench) -> None:
        put_out(bench.board, "Dev1/port0/line3", [True, False, True])
        bench.board.create_task("volts")
        bench.board.add_ao("volts", "Dev1/ao1", "", -10, 10)
        bench.board.write("volts", [(2.5,)], auto_start=True)
        status = board_status(bench.address)
        assert status == json.loads(json.dumps(status))
        assert {k for k, v in status["lines"].items() if v} == {"port0/line3"}
        assert status["rises"]["port0/line3"] == 2
        assert status["ao"] == {"ao0": 0.0, "ao1": 2.5, "ao2": 0.0, "ao3": 0.0}

    def test_answers_while_the_driver_is_frozen(self, bench: Bench) -> None:
        bench.board.freeze()
        with grpc.insecure_channel(bench.address) as channel:
            call = channel.unary_unary("/nidaqmx_grpc.NiDAQmx/ResetDevice")
            calls = [call.future(b"", timeout=LIMIT_S) for _ in range(100)]
            time.sleep(0.1)
            assert board_status(bench.address)["lines"]["port0/line0"] == 0
            cables = RemoteCables(bench.address, SimClock())
            cables.drive("PFI0", True, 0.0)
            assert bench.board.line("PFI0")
            cables.close()
            assert not any(call.done() for call in calls)
            bench.board.thaw()

    def test_imports_next_to_nothing(self) -> None:
        code = (
            "import sys, opm_engine.simulation.board_status;"
            "heavy = 'numba zarr pymmcore nidaqmx napari numpy pydantic useq'.split();"
            "sys.exit(' '.join(name for name in heavy if name in sys.modules) or 0)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def reset(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        options = nidaqmx.GrpcSessionOptions(channel, "")
        nidaqmx.system.System.remote(options).devices["Dev1"].reset_device()


def put_out(board: Board, line: str, levels: list[bool]) -> None:
    board.create_task(line)
    board.add_lines(line, Kind.DO, line, "", together=True)
    for level in levels:
        board.write(line, [(level,)], auto_start=True)
    board.clear(line)


class TestProcess:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ends_in_order_when_told(self, number: signal.Signals) -> None:
        with process() as served:
            board_status(served.address)
            os.kill(served.pid, number)
            assert served.popen.wait(LIMIT_S) == 0
            with pytest.raises(ConnectionError, match="its process has ended"):
                board_status(served.address)

    def test_a_killed_client_changes_nothing_and_the_next_one_can_play(
        self, address: str
    ) -> None:
        with playing(address) as pid:
            for _ in range(10):  # answers while others use the board
                assert set(LASERS) < set(board_status(address)["lines"])
            os.kill(pid, signal.SIGKILL)
        before = board_status(address)
        time.sleep(0.1)
        assert board_status(address) == before  # whatever was lit is lit
        assert before["lines"][ENABLE] == 1
        reset(address)
        with opened(address) as (twin, daq):
            assert not any(board_status(address)["lines"].values())
            began_s = twin.clock.now()
            assert began_s > 0.1  # the board's time went on
            _, count = play(twin, daq)
            assert count.planned == N_FRAMES

    @pytest.mark.parametrize(
        ("number", "error", "words"),
        [
            (signal.SIGKILL, ConnectionError, "its process has ended"),
            (signal.SIGSTOP, TimeoutError, "did not answer within 0.3 s"),
        ],
        ids=["killed", "frozen"],
    )
    def test_a_board_that_is_gone_is_said_in_words(
        self, number: signal.Signals, error: type[Exception], words: str
    ) -> None:
        with process() as served:
            clock = SimClock()
            cables = RemoteCables(served.address, clock, deadline_s=0.3)
            cables.digital_trace("port0/line0", 0.0, clock.now())
            os.kill(served.pid, number)
            with pytest.raises(error, match=words):
                eventually(lambda: look(cables, clock))
            with pytest.raises(error, match=words):
                cables.analog_trace("ao0", 0.0, 1.0)
            cables.drive("PFI0", True, clock.now())  # nobody sees it
            clock.sleep_until(clock.now() + 0.01, threading.Event())
            clock.release()
            cables.close()
            with pytest.raises(error):
                board_status(served.address, 0.3)

    def test_a_twin_closes_although_its_board_is_gone(self) -> None:
        with process() as served:
            twin = Twin(microscope(), Ruler(), served.address)
            twin.core.setExposure(5)
            served.popen.kill()
            served.popen.wait()
            twin.close()
            twin.close()


def look(cables: RemoteCables, clock: SimClock) -> None:
    now_s = clock.now()
    cables.digital_trace("port0/line0", now_s - 1e-3, now_s)


@pytest.mark.parametrize(
    ("address", "product", "words"),
    [
        ("0.0.0.0:0", "PCIe-6363", "address: .* this machine only"),
        ("example.org:31763", "PCIe-6363", "address: .* not example.org"),
        ("127.0.0.1", "PCIe-6363", 'address: must be "host:port"'),
        ("127.0.0.1:70000", "PCIe-6363", 'address: must be "host:port"'),
        ("127.0.0.1:0", "PCIe-9999", "product: 'PCIe-9999'.*PCIe-6363"),
    ],
)
def test_refuses_what_it_cannot_serve(address: str, product: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        serve_board(address, product=product)


def test_refuses_a_port_that_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"address: port {port}"):
            serve_board(f"localhost:{port}")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("what", ["status", "cables"])
def test_says_when_nobody_is_there(what: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ask = {
        "status": lambda: board_status(address),
        "cables": lambda: RemoteCables(address, SimClock()),
    }
    with pytest.raises(ConnectionError, match=f"no simulated board at {address}"):
        ask[what]()


@pytest.mark.parametrize("what", ["status", "cables"])
def test_says_when_something_else_is_there(what: str) -> None:
    with BoardServer(Board()) as server:
        ask = {
            "status": lambda: board_status(server.address),
            "cables": lambda: RemoteCables(server.address, SimClock()),
        }
        with pytest.raises(ConnectionError, match="is not a simulated board"):
            ask[what]()


class TestTime:
    def test_goes_as_the_camera_goes_and_never_past_it(self, bench: Bench) -> None:
        eventually(lambda: bench.clock.now() > 0.05)
        clock, never = SimClock(), threading.Event()
        cables = RemoteCables(bench.address, clock)
        assert clock.now() > 0.05  # the board was there before
        event_s = clock.now() + 0.05
        clock.sleep_until(event_s, never)
        time.sleep(0.2)  # the machine stalls
        assert bench.clock.now() == event_s
        cables.drive("PFI0", True, event_s)
        event_s += 0.01
        clock.sleep_until(event_s, never)
        cables.analog_trace("ao0", 0.0, event_s)
        assert bench.clock.now() == event_s
        cables.close()
        eventually(lambda: bench.clock.now() > event_s)

    def test_goes_on_when_the_camera_ends_its_run(self, bench: Bench) -> None:
        clock = SimClock()
        cables = RemoteCables(bench.address, clock)
        event_s = clock.now() + 0.01
        clock.sleep_until(event_s, threading.Event())
        cables.drive("PFI0", True, event_s)
        clock.release()
        assert bench.board.line("PFI0")  # seen before the release returns
        eventually(lambda: bench.clock.now() > event_s)
        cables.close()

    def test_goes_at_the_cameras_pace(self, bench: Bench) -> None:
        clock = SimClock(time_scale=1e3)
        cables = RemoteCables(bench.address, clock)
        cables.drive("PFI0", True, clock.now())
        eventually(lambda: bench.clock.now() > 60)
        cables.close()


def test_refuses_a_terminal_that_is_none(bench: Bench) -> None:
    cables = RemoteCables(bench.address, SimClock())
    with pytest.raises(ValueError, match="PFI99"):
        cables.drive("PFI99", True, 0.0)
    with pytest.raises(ValueError, match="port9"):
        cables.digital_trace("port9/line0", 0.0, 1.0)
    cables.drive("PFI0", True, 0.0)
    assert bench.board.line("PFI0")
    cables.close()


def test_looks_further_back_when_asked() -> None:
    wall_s = 0.0
    clock = SimClock(wall=lambda: wall_s)
    board = Board(clock=clock)
    service = CableService(board, clock)
    line = "port0/line0"
    with BoardServer(board, others=[service.handler]) as server:
        cables = RemoteCables(server.address, SimClock(wall=lambda: wall_s))
        for wall_s in (0.1, 0.2, 0.3, 0.4):
            put_out(board, f"Dev1/{line}", [wall_s in (0.1, 0.3)])
        wall_s = 0.5
        for start_s, end_s in [(0.35, 0.5), (0.05, 0.25), (0.15, 0.5)]:
            mine = cables.digital_trace(line, start_s, end_s)
            true = board.digital_trace(line, start_s, end_s)
            np.testing.assert_array_equal(mine, true)
        cables.close()
    service.close()


def steps(trace: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """A trace without what changes nothing."""
    times_s, values = trace
    changed = np.append(True, np.diff(values.astype(float)) != 0)
    return np.array([times_s[changed], values[changed]])


PINS = ("port0/line0", "port0/line1", "port1/line1")
MOVES = st.one_of(
    st.tuples(st.just("wait"), st.just(""), st.sampled_from([0.0, 1e-5, 1e-3])),
    st.tuples(st.just("write"), st.sampled_from(PINS), st.booleans()),
    st.tuples(st.just("volts"), st.just("ao0"), st.floats(-10, 10)),
    st.tuples(st.just("edge"), st.just("PFI0"), st.booleans()),
    st.tuples(st.just("look"), st.sampled_from(PINS), st.floats(0, 0.01)),
    st.tuples(st.just("look"), st.just("ao0"), st.floats(0, 0.01)),
)


@given(moves=st.lists(MOVES, max_size=25))
@settings(max_examples=60, deadline=None)
def test_the_copy_is_what_the_board_remembers(
    moves: list[tuple[str, str, Any]],
) -> None:
    # Time made by hand: much happens at the same time.
    wall_s, looked_s = 0.0, -1.0
    clock = SimClock(wall=lambda: wall_s)
    board = Board(clock=clock)
    board.create_task("volts")
    board.add_ao("volts", "Dev1/ao0", "", -10, 10)
    service = CableService(board, clock)
    with BoardServer(board, others=[service.handler]) as server:
        cables = RemoteCables(server.address, SimClock(wall=lambda: wall_s))
        for what, pin, value in moves:
            if what == "wait":
                wall_s += value
            elif what == "look" and looked_s == clock.now():
                wall_s += 1e-6  # what has been looked at is settled
            now_s = clock.now()
            if what == "wait":
                continue
            if what == "write":
                put_out(board, f"Dev1/{pin}", [value])
            elif what == "volts":
                board.write("volts", [(value,)], auto_start=True)
            elif what == "edge":
                cables.drive(pin, value, now_s)
            else:
                looked_s = now_s
                kind = "analog_trace" if pin == "ao0" else "digital_trace"
                span_s = (max(0.0, now_s - value), now_s)
                mine = getattr(cables, kind)(pin, *span_s)
                true = getattr(board, kind)(pin, *span_s)
                np.testing.assert_array_equal(steps(mine), steps(true))
                assert mine[1].dtype == true[1].dtype
        cables.close()
    service.close()
