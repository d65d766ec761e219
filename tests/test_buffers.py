"""Buffers go round, and never while somebody holds them."""

from __future__ import annotations

import gc
import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opm_engine.buffers import BufferPool, refuse_beyond_memory


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((3, 5), "uint16"), ((), "float64"), ((0, 4), "uint8"), ((2, 3, 4096), "uint16")],
    ids=["small", "scalar", "empty", "pages"],
)
def test_an_array_lies_on_a_page_and_can_be_written(shape, dtype) -> None:
    array = BufferPool().take(shape, dtype)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert address(array) % mmap.PAGESIZE == 0
    array[...] = 7
    assert (array == 7).all()


def test_memory_comes_back_with_the_last_view_and_not_before() -> None:
    pool = BufferPool()
    first = pool.take((4, 100), np.uint16)
    place, view = address(first), first[1:, ::2].reshape(-1)[3:]
    del first
    assert address(pool.take((4, 100), np.uint16)) != place
    assert pool.spare_bytes == mmap.PAGESIZE  # of the array that nobody kept
    del view
    assert pool.spare_bytes == 2 * mmap.PAGESIZE
    again = [pool.take((4, 100), np.uint16) for _ in range(2)]
    assert place in map(address, again)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5000)), max_size=60),
    st.integers(0, 30_000),
)
def test_what_is_held_is_never_written_by_others(steps, max_spare_bytes) -> None:
    pool = BufferPool(max_spare_bytes)
    held: dict[int, tuple[np.ndarray, int]] = {}
    for number, (slot, size) in enumerate(steps):
        held.pop(slot, None)
        array = pool.take((size,), np.uint32)
        array[...] = number
        held[slot] = array[size // 2 :], number
        for kept, expected in held.values():
            assert (kept == expected).all()
        assert pool.spare_bytes <= max_spare_bytes


def test_spare_memory_is_bounded_and_can_be_let_go() -> None:
    pool = BufferPool(3 * mmap.PAGESIZE)
    arrays = [pool.take((mmap.PAGESIZE,), np.uint8) for _ in range(5)]
    del arrays
    gc.collect()
    assert pool.spare_bytes == 3 * mmap.PAGESIZE
    pool.keep(mmap.PAGESIZE)
    assert pool.spare_bytes == mmap.PAGESIZE
    pool.keep(0)
    assert pool.spare_bytes == 0


def test_what_memory_cannot_hold_is_refused_with_the_numbers() -> None:
    refuse_beyond_memory(1, "a byte")
    with pytest.raises(
        MemoryError, match=r"A volume needs 1000000\.0 GB .* are available"
    ):
        refuse_beyond_memory(10**15, "A volume")
