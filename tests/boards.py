"""Simulated boards for tests: served to the real library, with tasks and exposures."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import nidaqmx
import numpy as np
from nidaqmx.grpc_session_options import GrpcSessionOptions

from opm_engine.simulation.board import Board
from opm_engine.simulation.board_tasks import Kind, Pulse
from opm_engine.simulation.grpc_face import BoardServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EVENT = "/Dev1/ChangeDetectionEvent"
ALWAYS = (0.0, 1e9)


@contextmanager
def served(board: Board) -> Iterator[GrpcSessionOptions]:
    with BoardServer(board) as server, grpc.insecure_channel(server.address) as channel:
        yield GrpcSessionOptions(channel, "")


def new(options: GrpcSessionOptions) -> nidaqmx.Task:
    return nidaqmx.Task(grpc_options=options)


def exposures(
    board: Board,
    starts_s: Sequence[float],
    width_s: float = 0.004,
    terminal: str = "PFI0",
) -> None:
    for start_s in starts_s:
        board.drive(terminal, True, start_s)
        board.drive(terminal, False, start_s + width_s)


def pulsing(
    board: Board,
    pulse: Pulse,
    n_pulses: int | None,
    *,
    counter: str = "ctr1",
    trigger: str = "/Dev1/PFI0",
    rising: bool = True,
    retriggerable: bool = True,
    start: bool = True,
) -> str:
    """A counter that answers a trigger with pulses."""
    name = f"pulses {counter}"
    board.create_task(name)
    board.add_pulses(name, f"Dev1/{counter}", "", pulse)
    board.time_pulses(name, n_pulses)
    if trigger:
        board.trigger_by(name, trigger, rising=rising)
        board.task(name).trigger.retriggerable = retriggerable
    if start:
        board.start(name)
    return name


def ramp(
    board: Board,
    source: str = "/Dev1/Ctr1InternalOutput",
    n: int | None = None,
    *,
    rising: bool = True,
    start: bool = True,
) -> str:
    """An analog output that plays 0.001, 0.002, … V; its trace shows every sample."""
    board.create_task("ramp")
    board.add_ao("ramp", "Dev1/ao0", "", *board.product.ao_range_v)
    board.clock_by_edges("ramp", source, 1000, rising=rising, samples=n)
    board.write("ramp", [[0.001 * (k + 1)] for k in range(1000)], auto_start=start)
    return "ramp"


def played_s(board: Board, until_s: float = 50.0) -> np.ndarray:
    """When the ramp played its samples."""
    times_s, _ = board.analog_trace("ao0", 0.0, until_s)
    return times_s[1:]


def lit(board: Board, lines: str, words: list[list[int]], source: str) -> str:
    """Buffered lines that play ``words``."""
    board.create_task("lines")
    board.add_lines("lines", Kind.DO, lines, "", together=True)
    board.clock_by_edges("lines", source, 1000, rising=True, samples=None)
    board.write("lines", words, auto_start=True)
    return "lines"


def clocked(board: Board, name: str, samples: list[list[float]], n: int | None) -> None:
    """A running buffered output: one column is port0/line0, two are ao0 and ao1."""
    board.create_task(name)
    if len(samples[0]) == 1:
        board.add_lines(name, Kind.DO, "Dev1/port0/line0", "", together=True)
    else:
        board.add_ao(name, "Dev1/ao0:1", "", -10, 10)
    board.clock_by_edges(name, EVENT, 1000, rising=True, samples=n)
    board.write(name, samples, auto_start=True)


def detecting(board: Board, terminal: str = "PFI0", buffer: int = 0) -> None:
    board.create_task("edges")
    board.add_lines("edges", Kind.DI, f"Dev1/{terminal}", "", together=True)
    board.idle("edges").input_buffer = buffer
    board.clock_by_changes("edges", f"Dev1/{terminal}", f"Dev1/{terminal}", None)
    board.start("edges")


def pulses(
    board: Board, n: int, *, first_s: float = 1.0, terminal: str = "PFI0"
) -> None:
    """Exposures of 4 ms every 10 ms."""
    for k in range(n):
        board.drive(terminal, True, first_s + k * 0.010)
        board.drive(terminal, False, first_s + k * 0.010 + 0.004)
