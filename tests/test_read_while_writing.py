"""Another process reads a store that is being written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crashing import STREAMS, Found, frame, index_of, pace, process, told, wait_for

PERIOD_S = 0.02
N_FRAMES = 60
MOST_LATE = 2
STREAM = STREAMS["paced"]


def test_frames_are_there_at_once(tmp_path: Path) -> None:
    """At most two frames late; one retry where the file grew in between."""
    store, progress = tmp_path / "x.ome.zarr", tmp_path / "sent.txt"
    seen, n_retries = set(), 0
    with process(pace, store, progress, PERIOD_S, N_FRAMES) as writer:
        wait_for(lambda: told(progress)[1] > MOST_LATE, writer)
        reader = Found(store, STREAM)
        while (n_sent := told(progress)[1]) < N_FRAMES:
            number = n_sent - 1 - MOST_LATE
            try:
                pixels = read(reader, number)
            except ValueError as error:
                if "checksum" not in str(error):
                    raise
                n_retries += 1
                pixels = read(reader, number)
            np.testing.assert_array_equal(pixels, frame(STREAM, number))
            seen.add(number)
        writer.join()
    assert writer.exitcode == 0
    assert len(seen) > N_FRAMES / 2
    assert n_retries <= len(seen) / 10
    assert len(Found(store, STREAM).assert_sound()) == N_FRAMES


def read(reader: Found, number: int) -> np.ndarray:
    t, p, c, z = STREAM.place(index_of(STREAM, number))
    return np.asarray(reader.arrays[p][t, c, z])
