"""Samples in NI's messages: unpacked for the board, packed for whoever reads.

Separate from the service because it is about arrays alone. Knows the fields of the
messages, but not how they travel.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from opm_engine.simulation.board_errors import BoardError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opm_engine.simulation.board import Board

_GROUP_BY_CHANNEL = 0
_POLL_S = 0.002
_FOR_EVER_S = 60.0


def _columns(request: Any, flat: Any, channels: int) -> Any:
    samples = request.num_samps_per_chan
    if len(flat) != samples * channels:
        raise BoardError(-200524)
    array = np.asarray(flat)
    if request.data_layout_raw == _GROUP_BY_CHANNEL:
        return array.reshape(channels, samples).T
    return array.reshape(samples, channels)


def lines_of_words(
    words: NDArray[np.uint32], lines: tuple[str, ...]
) -> list[list[bool]]:
    """Unpack port values: bit *i* is line *i* of the port.

    Parameters
    ----------
    words : ndarray, (P,) uint32
    lines : tuple of str
        Lines of one channel.

    Returns
    -------
    list of list of bool
        (P, len(lines)).
    """
    bits = np.array([int(line.rpartition("line")[2]) for line in lines], np.uint32)
    levels = (words[:, None] >> bits) & 1
    return levels.astype(bool).tolist()  # type: ignore[no-any-return]


def write_volts(board: Board, request: Any) -> dict[str, Any]:
    """Write voltages to a buffered task."""
    task = board.task(request.task.name)
    volts = _columns(request, request.write_array, len(task.channels))
    return _write(board, request, volts.tolist())


def write_words(board: Board, request: Any) -> dict[str, Any]:
    """Write port values, one per channel and sample."""
    task = board.task(request.task.name)
    # a byte array arrives as bytes, wider words as a repeated field
    words = _columns(request, list(request.write_array), len(task.channels))
    levels = [
        lines_of_words(words[:, index].astype(np.uint32), channel.pins)
        for index, channel in enumerate(task.channels)
    ]
    return _write(board, request, np.concatenate(levels, axis=1).tolist())


def write_lines(board: Board, request: Any) -> dict[str, Any]:
    """Write levels, one byte per line and sample."""
    task = board.task(request.task.name)
    levels = np.frombuffer(request.write_array, bool)
    return _write(board, request, _columns(request, levels, len(task.pins)).tolist())


def _write(board: Board, request: Any, samples: list[list[float]]) -> dict[str, Any]:
    taken = board.write(request.task.name, samples, auto_start=request.auto_start)
    return {"samps_per_chan_written": taken}


def write_one_voltage(board: Board, request: Any) -> dict[str, Any]:
    """Write one voltage on demand."""
    board.write(request.task.name, [[request.value]], auto_start=request.auto_start)
    return {}


def write_one_word(board: Board, request: Any) -> dict[str, Any]:
    """Write one port value on demand."""
    pins = board.task(request.task.name).pins
    samples = lines_of_words(np.array([request.value], np.uint32), pins)
    board.write(request.task.name, samples, auto_start=request.auto_start)
    return {}


def read_lines(board: Board, request: Any) -> dict[str, Any]:
    """Read the levels of all lines now."""
    levels = board.read_levels(request.task.name)
    channels = board.task(request.task.name).channels
    return {
        "read_array": bytes(levels),
        "samps_per_chan_read": 1,
        "num_bytes_per_samp": max(len(channel.pins) for channel in channels),
    }


def read_words(board: Board, request: Any) -> dict[str, Any]:
    """Read the port value of each channel now."""
    board.read_levels(request.task.name)
    channels = board.task(request.task.name).channels
    words = [
        sum(board.line(pin) << int(pin.rpartition("line")[2]) for pin in channel.pins)
        for channel in channels
    ]
    return {"read_array": words, "samps_per_chan_read": 1}


def read_one_word(board: Board, request: Any) -> dict[str, Any]:
    """Read the port value of one channel now."""
    return {"value": read_words(board, request)["read_array"][0]}


def read_count(board: Board, request: Any) -> dict[str, Any]:
    """Read a counter once."""
    if board.task(request.task.name).clock is not None:
        _wait_for(board, request, 1)
    return {"value": board.read_count(request.task.name)}


def read_counts(board: Board, request: Any) -> dict[str, Any]:
    """Read the buffer of a clocked counter."""
    task = board.task(request.task.name)
    wanted = _wanted(board, request)
    if wanted > request.array_size_in_samps:
        raise BoardError(-200229)
    if task.clock is not None:
        _wait_for(board, request, wanted)
    counts = board.read_counts(request.task.name, wanted)
    return {"read_array": counts, "samps_per_chan_read": len(counts)}


def read_volts(board: Board, request: Any) -> dict[str, Any]:
    """Read analog inputs: the buffer of a clocked task, else now."""
    task = board.task(request.task.name)
    wanted = _wanted(board, request)
    if wanted * len(task.channels) > request.array_size_in_samps:
        raise BoardError(-200229)
    if task.clock is not None:
        _wait_for(board, request, wanted)
    rows = board.read_volts(request.task.name, wanted)
    volts = np.array(rows, np.float64).reshape(len(rows), len(task.channels))
    if request.fill_mode_raw == _GROUP_BY_CHANNEL:
        volts = volts.T
    return {"read_array": volts.ravel().tolist(), "samps_per_chan_read": len(rows)}


def read_one_voltage(board: Board, request: Any) -> dict[str, Any]:
    """Read one analog input once."""
    if len(board.task(request.task.name).channels) != 1:
        raise BoardError(-200524)
    if board.task(request.task.name).clock is not None:
        _wait_for(board, request, 1)
    return {"value": board.read_volts(request.task.name, 1)[0][0]}


def _wanted(board: Board, request: Any) -> int:
    """Samples to read: all that are there, of a finite task all there will be."""
    wanted = int(request.num_samps_per_chan)
    if wanted >= 0:
        return wanted
    task = board.current(request.task.name)
    if task.clock is None:
        return 1
    return task.waiting if task.clock.samples is None else task.clock.samples


def _wait_for(board: Board, request: Any, wanted: int) -> None:
    """Start the task and wait until its samples are there, or the time is over."""
    board.start(request.task.name)
    timeout_s = request.timeout if request.timeout >= 0 else _FOR_EVER_S
    deadline = time.monotonic() + timeout_s
    while board.current(request.task.name).waiting < wanted:
        if time.monotonic() >= deadline:
            return
        time.sleep(_POLL_S)
