"""Samples in NI's messages: unpacked for the board, packed for whoever reads.

Separate from the service because it is about arrays alone. Knows the fields of the
messages, but not how they travel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from opm_engine.simulation.board_tasks import BoardError, lines_of_words

if TYPE_CHECKING:
    from opm_engine.simulation.board import Board

_GROUP_BY_CHANNEL = 0


def _columns(request: Any, flat: Any, channels: int) -> Any:
    samples = request.num_samps_per_chan
    if len(flat) != samples * channels:
        raise BoardError(-200524)
    array = np.asarray(flat)
    if request.data_layout_raw == _GROUP_BY_CHANNEL:
        return array.reshape(channels, samples).T
    return array.reshape(samples, channels)


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
    return {"value": board.read_count(request.task.name)}


def read_counts(board: Board, request: Any) -> dict[str, Any]:
    """Read the buffer of a clocked counter."""
    wanted = request.num_samps_per_chan
    if wanted < 0:
        wanted = board.task(request.task.name).waiting
    if wanted > request.array_size_in_samps:
        raise BoardError(-200229)
    counts = board.read_counts(request.task.name, wanted)
    return {"read_array": counts, "samps_per_chan_read": len(counts)}
