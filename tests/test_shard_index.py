"""The index at the end of a shard agrees with zarr's, and is found in torn files."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opm_engine.writers.shards import index as shard_index

ABSENT = 2**64 - 1


def an_index(*entries: tuple[int, int]) -> shard_index.Table:
    return np.array(entries, np.uint64)


@pytest.mark.parametrize("n_written", [1, 3, 4])
def test_the_bytes_are_those_that_zarr_writes(tmp_path: Path, n_written: int) -> None:
    array = zarr.create_array(
        str(tmp_path), shape=(4, 8), chunks=(1, 8), shards=(4, 8), dtype="u2"
    )
    array[:n_written] = 7
    (path,) = (tmp_path / "c").rglob("0/0")
    data = path.read_bytes()[-shard_index.index_bytes(4) :]
    table = shard_index.decode(data, 4)
    assert table is not None
    assert (table[:, 0] != ABSENT).sum() == n_written
    assert shard_index.encode(table) == data
    assert np.array_equal(shard_index.read(path, 4), table)


entry = st.one_of(
    st.just((ABSENT, ABSENT)), st.tuples(st.integers(0, 2**40), st.integers(0, 2**30))
)


@settings(deadline=None)
@given(st.lists(entry, min_size=1, max_size=40), st.data())
def test_what_was_encoded_is_decoded_and_any_flipped_bit_is_seen(
    entries: list[tuple[int, int]], data: st.DataObject
) -> None:
    table = np.array(entries, np.uint64)
    encoded = shard_index.encode(table)
    assert len(encoded) == shard_index.index_bytes(len(entries))
    decoded = shard_index.decode(encoded, len(entries))
    assert decoded is not None
    assert np.array_equal(decoded, table)
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    flipped = bytearray(encoded)
    flipped[bit // 8] ^= 1 << bit % 8
    assert shard_index.decode(bytes(flipped), len(entries)) is None
    assert shard_index.decode(encoded[1:], len(entries)) is None


def appended(sizes: list[int], block: int, n_chunks: int) -> tuple[bytes, list[int]]:
    """A file as the appender leaves it, and where each append ended."""
    rng = np.random.default_rng(0)
    table = shard_index.empty(n_chunks)
    data, ends = b"", []
    for number, size in enumerate(sizes):
        data += bytes(-len(data) % block)
        table[number] = len(data), size
        index = shard_index.encode(table)
        data += rng.bytes(size)
        data += bytes(-(len(data) + len(index)) % block) + index
        ends.append(len(data))
    return data, ends


@settings(max_examples=60, deadline=None)
@example([988, 1], 64, 0.95, False)  # no padding before the first index
@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    st.sampled_from([64, 4096]),
    st.floats(0, 1),
    st.booleans(),
)
def test_a_torn_file_gives_its_last_whole_state(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    block: int,
    cut: float,
    zeros_follow: bool,
) -> None:
    data, ends = appended(sizes, block, 6)
    size = round(cut * len(data))
    path = tmp_path_factory.mktemp("torn") / "0"
    path.write_bytes(data[:size] + bytes(4096 * zeros_follow))
    table, n_valid = shard_index.recover(path, 6)
    whole = [end for end in ends if end <= size]
    assert n_valid == (whole[-1] if whole else 0)
    assert (table[:, 0] != ABSENT).sum() == len(whole)
    assert table[: len(whole), 1].tolist() == sizes[: len(whole)]


@pytest.mark.parametrize("value", [0x00, 0xFF], ids=["dark", "saturated"])
def test_a_long_torn_end_is_searched_through(tmp_path: Path, value: int) -> None:
    data, (end,) = appended([100_000], 4096, 64)
    path = tmp_path / "0"
    path.write_bytes(data + bytes([value]) * (9 * 2**20 + 17))
    table, n_valid = shard_index.recover(path, 64)
    assert n_valid == end
    assert table[0].tolist() == [0, 100_000]


def test_an_index_that_points_beyond_itself_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "0"
    path.write_bytes(bytes(44) + shard_index.encode(an_index((0, 45))))
    assert shard_index.recover(path, 1)[1] == 0
    path.write_bytes(bytes(44) + shard_index.encode(an_index((0, 44))))
    assert shard_index.recover(path, 1)[1] == 64


@pytest.mark.parametrize("size", [0, 1, 19, 20, 64])
def test_reading_a_file_without_an_index_says_so(tmp_path: Path, size: int) -> None:
    path = tmp_path / "0"
    path.write_bytes(bytes(size))
    with pytest.raises(ValueError, match="does not end in an index of 1 chunks"):
        shard_index.read(path, 1)
    table, n_valid = shard_index.recover(path, 1)
    assert (table.tolist(), n_valid) == ([[ABSENT, ABSENT]], 0)


def test_a_shard_that_grows_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = appended([50], 64, 1)
    path = tmp_path / "0"
    path.write_bytes(data[:-1])
    monkeypatch.setattr(shard_index, "_RETRY_S", 0.2)
    timer = threading.Timer(0.05, path.write_bytes, [data])
    timer.start()
    began_s = time.monotonic()
    assert shard_index.read(path, 1).tolist() == [[0, 50]]
    assert time.monotonic() - began_s >= 0.2
    timer.join()
