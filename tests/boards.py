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

ALWAYS = (0.0, 50.0)


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
