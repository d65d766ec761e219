"""A picture of maximum projections, volumes side by side.

Separate because it is the only thing that knows image files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

GAP = 6
"""Grey pixels between and around projections."""

GREY = 96


class Views(Protocol):
    """Projections of one volume: (Y, X), (Z, X) and (Z, Y), any number type."""

    @property
    def xy(self) -> NDArray[np.generic]:
        """(Y, X)."""

    @property
    def xz(self) -> NDArray[np.generic]:
        """(Z, X)."""

    @property
    def yz(self) -> NDArray[np.generic]:
        """(Z, Y)."""


def save_projections(rows: Sequence[Sequence[Views]], path: Path) -> None:
    """Save a table of volumes as one PNG.

    Of each volume XY is at the upper left, YZ beside it with Z to the right, XZ below
    it with Z downwards; stretched to 8 bits between the median and the 99.9th
    percentile of its XY.

    Parameters
    ----------
    rows : sequence of sequences of Views
    path : Path
    """
    table = [_beside([_panel(views) for views in row]) for row in rows]
    Image.fromarray(_below(table)).save(path)


def _panel(views: Views) -> NDArray[np.uint8]:
    low, high = np.percentile(np.asarray(views.xy, np.float64), (50, 99.9))
    xy, xz, zy = (
        _to_8_bit(view, float(low), float(high))
        for view in (views.xy, views.xz, np.transpose(views.yz))
    )
    return _below([_beside([xy, zy]), xz])


def _to_8_bit(view: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    stretched = (np.asarray(view, np.float64) - low) / max(high - low, 1e-9)
    grey: NDArray[np.uint8] = (np.clip(stretched, 0, 1) * 255).astype(np.uint8)
    return grey


def _beside(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return _below([panel.T for panel in panels]).T


def _below(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    width = max(panel.shape[1] for panel in panels)
    return np.concatenate(
        [
            np.pad(
                panel,
                ((0, GAP), (0, width - panel.shape[1] + GAP)),
                constant_values=GREY,
            )
            for panel in panels
        ]
    )
