"""A picture of projections, side by side.

Separate because it is the only thing that knows image files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

GAP = 8
"""Grey pixels around each panel."""


def save_picture(rows: Sequence[Sequence[NDArray[np.generic]]], path: Path) -> None:
    """Save rows of images as one PNG.

    Parameters
    ----------
    rows : sequence of sequences of ndarray
        Each (height, width), any number type; stretched to 8 bits one by one between
        its median and its 99.9th percentile.
    path : Path
    """
    strips = [_strip([_to_8_bit(panel) for panel in row]) for row in rows]
    width = max(strip.shape[1] for strip in strips)
    padded = [
        np.pad(strip, ((0, 0), (0, width - strip.shape[1])), constant_values=96)
        for strip in strips
    ]
    Image.fromarray(np.concatenate(padded)).save(path)


def _strip(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    height = max(panel.shape[0] for panel in panels)
    return np.concatenate(
        [
            np.pad(
                panel,
                ((GAP, height - panel.shape[0] + GAP), (GAP, GAP)),
                constant_values=96,
            )
            for panel in panels
        ],
        axis=1,
    )


def _to_8_bit(panel: NDArray[np.generic]) -> NDArray[np.uint8]:
    values = np.asarray(panel, np.float64)
    low, high = np.percentile(values, (50, 99.9))
    span = max(high - low, 1e-9)
    grey: NDArray[np.uint8] = (np.clip((values - low) / span, 0, 1) * 255).astype(
        np.uint8
    )
    return grey
