"""Every pixel has one place in one shard, and shards are neither too large nor many."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opm_engine.plan import ChannelInfo, PositionInfo, Stream
from opm_engine.writers.shards.layout import Layout, layouts
from sharding import planes_layout, volumes_layout


def stream_of(
    shape: tuple[int, ...], n_planes: int = 1, slab_rows: int | None = None
) -> Stream:
    return Stream(
        kind="planes" if len(shape) == 2 else "volumes",
        shape=shape,
        scale_um=(1.0, 1.0, 1.0),
        n_planes=n_planes,
        n_times=3,
        channels=(ChannelInfo(name="488"), ChannelInfo(name="561")),
        positions=(PositionInfo(name="0"),),
        slab_rows=slab_rows,
    )


PLANES = [
    # (rows, columns), planes: planes per shard
    ((512, 2304), 300, 28),
    ((512, 2304), 10, 10),
    ((64, 64), 500, 63),
    ((16, 16), 1000, 63),
    ((4000, 10_000), 3, 1),
]


@pytest.mark.parametrize(("shape", "n_planes", "expected"), PLANES)
def test_planes_share_shards(
    shape: tuple[int, int], n_planes: int, expected: int
) -> None:
    (layout,) = layouts(stream_of(shape, n_planes))
    assert layout.shard == (1, 1, expected, *shape)
    assert layout.chunk == (1, 1, 1, *shape)
    assert layout.chunks_per_piece == 1  # each is on disk at once
    assert layout.dtype == "uint16"


def test_a_slab_is_one_row_of_bricks() -> None:
    (layout,) = layouts(stream_of((256, 1483, 1024), slab_rows=32))
    assert layout.chunk == (1, 1, 16, 32, 1024)
    assert layout.chunks_per_piece == 16
    assert layout.shard == (1, 1, 256, 24 * 32, 1024)


@settings(deadline=None)
@given(
    st.tuples(*(st.integers(1, n) for n in (2, 2, 9, 13, 3))),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 5),
)
def test_every_chunk_has_one_place(
    shape: tuple[int, int, int, int, int], depth: int, rows: int, slabs: int
) -> None:
    for layout in (
        planes_layout(*shape[:3], min(depth, shape[2]), *shape[3:]),
        volumes_layout(shape, slabs, rows, depth),
    ):
        seen: dict[tuple[int, ...], set[int]] = {}
        z_step, y_step = layout.chunk[2:4]
        for t, c, z, y in itertools.product(
            range(shape[0]),
            range(shape[1]),
            range(0, shape[2], z_step),
            range(0, shape[3], y_step),
        ):
            key, number = layout.locate(t, c, z, y)
            assert 0 <= number < layout.n_chunks
            assert number not in seen.setdefault(key, set())
            seen[key].add(number)
            last = min(z + z_step, shape[2]) - 1, min(y + y_step, shape[3]) - 1
            assert layout.locate(t, c, *last) == (key, number)
        for key, numbers in seen.items():
            assert layout.n_chunks_of(key) == len(numbers)
        assert len(seen) == math.prod(layout.grid)


def test_sizes() -> None:
    layout = Layout((2, 1, 5, 7, 3), (1, 1, 4, 6, 3), (1, 1, 2, 3, 3), "uint16")
    assert layout.chunk_bytes == 36
    assert layout.n_chunks == 4
    assert layout.grid == (2, 1, 2, 2, 1)
