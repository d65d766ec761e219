"""The log of exposures: which came too early or too late."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opm_engine.daq.exposures import ExposureLog

PERIOD_MS = 5.0
TICKS = 500


def stamps(n_exposures: int, *, active: int, start: int = 0) -> np.ndarray:
    """Both edges of each exposure; (2 n,) uint32."""
    rising = start + TICKS * np.arange(n_exposures, dtype=np.int64)
    edges = np.stack([rising, rising + active], axis=1).ravel()
    return (edges % 2**32).astype(np.uint32)


def logged(edges: np.ndarray, n_planned: int) -> ExposureLog:
    log = ExposureLog(n_planned, PERIOD_MS)
    log.add(edges)
    return log


@given(
    n=st.integers(1, 20),
    active=st.integers(5, TICKS - 5),
    start=st.integers(0, 2**32 - 1),
    shift=st.lists(st.integers(-1, 1), min_size=40, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_regular_exposures(
    n: int, active: int, start: int, shift: list[int], cuts: list[int]
) -> None:
    """Whatever their width, rounding, number of readings, or a wrap of 32 bits."""
    edges = stamps(n, active=active, start=start)
    edges += np.array(shift[: 2 * n]).astype(np.uint32)
    log = ExposureLog(2 * n, PERIOD_MS)
    for part in np.split(edges, sorted(cuts)):
        log.add(part)
    assert log.irregular is None
    assert log.exposures == n


@given(
    active=st.integers(1, TICKS - 1),
    fault=st.integers(2, 30),
    how_often=st.sampled_from([0, 2]),
    pair=st.booleans(),
    start=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(0, 50), max_size=6),
)
def test_any_edge_but_the_first_exposure(
    active: int, fault: int, how_often: int, pair: bool, start: int, cuts: list[int]
) -> None:
    """However short the pulse or the pause, the camera exposing on."""
    edges = stamps(25, active=active, start=start)
    repeats = np.ones(edges.size, int)
    repeats[fault : fault + 1 + pair] = how_often
    edges = np.repeat(edges, repeats)
    log = ExposureLog(40, PERIOD_MS)
    for part in np.split(edges, sorted(cuts)):
        log.add(part)
    assert log.irregular == logged(edges, 40).irregular
    assert log.irregular is not None
    # at once, or at the edge after next where pulse or pause are very short
    assert fault // 2 <= log.irregular.exposure <= fault // 2 + 2


def test_says_which_and_by_how_much() -> None:
    edges = np.delete(stamps(12, active=400), [14, 15])
    assert logged(edges, 20).irregular == (7, 10.0, 5.0, False)


def test_only_planned_exposures_are_judged() -> None:
    edges = np.delete(stamps(12, active=400), [20, 21])
    assert logged(edges, 20).irregular is None
    assert logged(edges, 21).irregular[:3] == (10, 10.0, 5.0)


@pytest.mark.parametrize(
    ("late", "wrong"), [(50, False), (51, True)], ids=["within", "beyond"]
)
def test_a_tenth_of_the_period_is_tolerated(late: int, wrong: bool) -> None:
    edges = stamps(4, active=400)
    edges[4:] += np.uint32(late)
    assert (logged(edges, 8).irregular is not None) is wrong


def test_begun_exposures_count() -> None:
    edges = stamps(3, active=400)
    assert [logged(edges[:n], 6).exposures for n in range(7)] == [0, 1, 1, 2, 2, 3, 3]


def test_memory_does_not_grow() -> None:
    log = ExposureLog(10**9, PERIOD_MS)
    for k in range(50):
        log.add(stamps(100, active=400, start=k * 100 * TICKS))
    assert log.exposures == 5000
    assert log.irregular is None
    assert log._latest.size == 2
    assert log._latest.base is None


@pytest.mark.parametrize(
    ("missed", "wrong"),
    [(0, (0, 1.0, 4.0, True)), (5, (2, 5.0, 4.0, True)), (None, None)],
    ids=["first", "a-falling-one", "none"],
)
def test_widths_tell_the_edges_apart(missed, wrong) -> None:
    edges = stamps(6, active=400)
    if missed is not None:
        edges = np.delete(edges, missed)
    log = ExposureLog(8, 5.0, active_ms=4.0)
    for part in np.array_split(edges, 3):
        log.add(part)
    assert log.irregular == wrong
