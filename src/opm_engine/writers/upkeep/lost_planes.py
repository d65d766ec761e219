"""How many planes each volume was made without, as its journal tells.

Separate from the stock of shards, which is the same whether planes came or not.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from opm_engine.writers.journal import frames_of
from opm_engine.writers.upkeep.documents import WRONG

Counts = npt.NDArray[np.int64]


def count_lost_planes(journal: Path, n_cameras: int, counts: Counts) -> None:
    """Count the planes that volumes lack; what tells nothing is passed over.

    Parameters
    ----------
    journal : Path
        Need not exist.
    n_cameras : int
    counts : (T, C) int
        Where they are noted.
    """
    if not journal.is_file():
        return
    with suppress(*WRONG):
        for told in frames_of(journal):
            with suppress(*WRONG):
                index = told["index"]
                channel = index.get("c", 0) * n_cameras + index.get("cam", 0)
                lost = told["extra"]["deskew"]["missing_planes"]
                counts[index.get("t", 0), channel] = len(lost)
