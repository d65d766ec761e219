"""The compiled loops, against float64, at every width and alignment."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opm_engine.processing.kernels import darken, mix_rows, mix_rows_and_project

N_Z, N_Y, N_ROWS, SLAB_ROWS = 3, 8, 9, 3
N_TAPS = N_Z * N_Y
WIDTHS = [1, 2, 7, 15, 17, 31, 32, 33, 63, 64, 65, 95, 1000, 1023, 1024, 1040]
DTYPES = [np.uint16, np.float32]
GUARD = 0xBEEF


@dataclass
class Case:
    """Two planes, the taps of every row of a volume, and memory for it."""

    lower: np.ndarray
    upper: np.ndarray
    voxels: np.ndarray
    rows: np.ndarray
    weights: np.ndarray
    memory: np.ndarray
    volume: np.ndarray

    @property
    def arguments(self) -> tuple:
        """What both kernels take."""
        n_slabs, n_x = -(-N_Y // SLAB_ROWS), self.volume.shape[2]
        steps = np.arange(n_slabs, dtype=np.uint64) * np.uint64(SLAB_ROWS * n_x * 2)
        slabs = steps + np.uint64(self.volume.ctypes.data)
        taps = self.voxels, self.rows, self.weights
        return self.lower, self.upper, *taps, slabs, N_Y, SLAB_ROWS

    @property
    def truth(self) -> np.ndarray:
        """The volume in float64, clipped, not rounded."""
        at = self.rows.T
        taps = (
            self.lower[at[0]],
            self.lower[at[1]],
            self.upper[at[2]],
            self.upper[at[3]],
        )
        shares = self.weights.T.astype(float)[:, :, None]
        total = sum(share * tap for share, tap in zip(shares, taps, strict=True))
        return np.clip(total, 0, 65535).reshape(self.volume.shape)

    def assert_guards_stand(self) -> None:
        """Nothing was written beside the volume."""
        inside = np.zeros(self.memory.shape, bool)
        start = (self.volume.ctypes.data - self.memory.ctypes.data) // 2
        inside[start : start + self.volume.size] = True
        assert (self.memory[~inside] == GUARD).all()


def memory_for(n_x: int, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """Memory, and a volume in it that begins ``offset`` pixels into a cache line."""
    n_pixels = N_Z * N_Y * n_x
    memory = np.full(n_pixels + 128, GUARD, np.uint16)
    start = -memory.ctypes.data % 64 // 2 + offset
    volume = memory[start : start + n_pixels].reshape(N_Z, N_Y, n_x)
    return memory, volume


def make_case(n_x: int, offset: int = 0, dtype=np.uint16, seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    planes = rng.integers(0, 65536, (2, N_ROWS, n_x)).astype(dtype)
    if dtype == np.float32:
        planes = planes * np.float32(1.1) - np.float32(2000.3)
    for extreme in (0, 65535):
        planes[rng.random(planes.shape) < 0.2] = extreme
    rows = np.sort(rng.integers(0, N_ROWS, (N_TAPS, 4)), axis=0).astype(np.uint32)
    if seed % 2:
        rows = rows[::-1].copy()
    return Case(
        lower=planes[0],
        upper=planes[1],
        voxels=np.argwhere(np.ones((N_Z, N_Y))).astype(np.uint32),
        rows=rows,
        weights=rng.dirichlet([0.5] * 4, N_TAPS).astype(np.float32),
        memory=(memory := memory_for(n_x, offset))[0],
        volume=memory[1],
    )


def assert_right(case: Case) -> None:
    """Both kernels write the same, near the truth, and project it exactly."""
    case.volume[...] = 1
    mix_rows(*case.arguments)
    case.assert_guards_stand()
    assert np.abs(case.volume - case.truth).max() <= 0.51
    alone = case.volume.copy()

    case.volume[...] = 2
    shape = case.volume.shape
    projections = [
        np.zeros(shape[:axis] + shape[axis + 1 :], np.uint16) for axis in range(3)
    ]
    mix_rows_and_project(*case.arguments, *projections)
    case.assert_guards_stand()
    np.testing.assert_array_equal(case.volume, alone)
    for axis, projection in enumerate(projections):
        np.testing.assert_array_equal(projection, alone.max(axis=axis))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_x", WIDTHS)
def test_rows_are_mixed_and_projected(n_x: int, dtype: type) -> None:
    for offset in (0, 1, 16, 31):
        assert_right(make_case(n_x, offset, dtype, seed=offset))


@settings(max_examples=50, deadline=None)
@given(
    n_x=st.integers(1, 200),
    offset=st.integers(0, 31),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
def test_any_width_anywhere(n_x: int, offset: int, dtype: type, seed: int) -> None:
    assert_right(make_case(n_x, offset, dtype, seed))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_constant_keeps_its_value(dtype: type) -> None:
    case = make_case(65536, dtype=dtype)
    every_value = np.arange(65536).astype(dtype)
    case.lower[...] = case.upper[...] = every_value
    mix_rows(*case.arguments)
    expected = np.broadcast_to(np.arange(65536), case.volume.shape)
    np.testing.assert_array_equal(case.volume, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_where_a_row_lies(dtype: type) -> None:
    first = make_case(70, 0, dtype)
    mix_rows(*first.arguments)
    for offset in range(1, 32):
        other = make_case(70, offset, dtype)
        mix_rows(*other.arguments)
        np.testing.assert_array_equal(other.volume, first.volume)
    narrow = make_case(70, 0, dtype)  # as wide as is not done in whole lines
    for planes in ("lower", "upper"):
        setattr(narrow, planes, np.ascontiguousarray(getattr(narrow, planes)[:, :31]))
    narrow.memory, narrow.volume = memory_for(31, 0)
    mix_rows(*narrow.arguments)
    np.testing.assert_array_equal(narrow.volume, first.volume[:, :, :31])


@pytest.mark.parametrize(
    ("corrected", "expected"),
    [
        pytest.param(-0.4, 0, id="below-by-less-than-half"),
        pytest.param(-5000.0, 0, id="below"),
        pytest.param(-1e30, 0, id="far-below"),
        pytest.param(65535.4, 65535, id="above-by-less-than-half"),
        pytest.param(70000.0, 65535, id="above"),
        pytest.param(1e30, 65535, id="far-above"),
        pytest.param(np.inf, 65535, id="infinite"),
        pytest.param(np.nan, 0, id="not-a-number"),
        pytest.param(99.6, 100, id="inside"),
    ],
)
@pytest.mark.parametrize("n_x", [3, 64])
def test_corrected_counts_are_clipped(n_x, corrected, expected) -> None:
    case = make_case(n_x, dtype=np.float32)
    case.lower[...] = case.upper[...] = corrected
    case.weights[...] = 0.25
    mix_rows(*case.arguments)
    assert (case.volume == expected).all()


def test_clipped_once_after_mixing() -> None:
    case = make_case(40, dtype=np.float32)
    case.lower[...], case.upper[...] = -1000, 1400
    case.weights[...] = 0.25
    mix_rows(*case.arguments)
    assert (case.volume == 200).all()


def test_slabs_may_lie_anywhere() -> None:
    whole, apart = make_case(50), make_case(50)
    mix_rows(*whole.arguments)
    slabs = [np.full((N_Z, SLAB_ROWS, 50), 7, np.uint16) for _ in range(3)]
    addresses = np.array([slab.ctypes.data for slab in slabs], np.uint64)
    mix_rows(*apart.arguments[:5], addresses, SLAB_ROWS, SLAB_ROWS)
    together = np.concatenate(slabs, axis=1)
    np.testing.assert_array_equal(together[:, :N_Y], whole.volume)
    assert (together[:, N_Y:] == 7).all()  # the last slab is thinner


def test_no_rows_are_no_work() -> None:
    case = make_case(5)
    case.voxels, case.rows, case.weights = (
        array[:0] for array in (case.voxels, case.rows, case.weights)
    )
    mix_rows(*case.arguments)
    assert (case.volume == GUARD).all()


@pytest.mark.parametrize("n_x", WIDTHS)
def test_darken_clears_rows_and_nothing_else(n_x: int) -> None:
    dark = np.random.default_rng(n_x).random((N_Z, N_Y - 2)) < 0.5
    for offset in (0, 1, 31):
        memory, volume = memory_for(n_x, offset)
        darken(volume, 2, dark)
        assert (volume[:, 2:][dark] == 0).all()
        assert (memory == 0).sum() == dark.sum() * n_x


@pytest.mark.parametrize("kernel", [mix_rows, mix_rows_and_project, darken])
def test_kernels_are_sequential_and_let_python_run(kernel) -> None:
    assert kernel.targetoptions["nogil"]
    assert not kernel.targetoptions.get("parallel", False)


@pytest.mark.slow
def test_kernels_are_compiled_once_and_kept(tmp_path) -> None:
    code = (
        "from test_kernels import make_case, assert_right, mix_rows;"
        "assert_right(make_case(5));"
        "stats = mix_rows.stats;"
        "print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    counts = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert counts == [["0", "1"], ["1", "0"]]
