"""The demo's verdict."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from opm_engine.demo import failures, ncc

GOOD: dict[str, Any] = {"frames_lost": 0, "lasers_on_after": [], "ncc": {"488": 0.99}}

BAD = {
    "lost": ({"frames_lost": 3}, "3 frames lost"),
    "laser": ({"lasers_on_after": ["561"]}, "561"),
    "ncc": ({"ncc": {"488": 0.99, "561": 0.94}}, "561"),
    "nan": ({"ncc": {"488": math.nan}}, "488"),
}


def test_good() -> None:
    assert failures(GOOD) == []


@pytest.mark.parametrize("case", BAD)
def test_bad(case: str) -> None:
    change, names = BAD[case]
    (line,) = failures({**GOOD, **change})
    assert names in line


def test_ncc() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 4, 5, 6))
    where = rng.random(a.shape) > 0.3
    assert ncc(a, 3 * a + 7, where) == pytest.approx(1)
    assert ncc(a, -a, where) == pytest.approx(-1)
    assert ncc(a, b, where) == pytest.approx(np.corrcoef(a[where], b[where])[0, 1])
