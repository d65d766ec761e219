"""Reading back what the writer wrote.

Separate from the writer because it serves stores of any origin with our layout: one
image at the root, or images in groups ``0``, ``1``, ….
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zarr

from opm_engine.writers.metadata import ARRAY

if TYPE_CHECKING:
    from pathlib import Path


def open_image(store: str | Path, position: int = 0) -> zarr.Array[Any]:
    """Open the image of one stage position.

    Parameters
    ----------
    store : str or Path
        An OME-Zarr store.
    position : int
        Stage position, from 0.

    Returns
    -------
    zarr.Array
        (T, C, Z, Y, X), read-only.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    KeyError
        If the store holds no such position.
    """
    root = zarr.open_group(store, mode="r")
    ome: Any = root.attrs.get("ome", {})
    several = "bioformats2raw.layout" in ome
    group = f"{position}/" if several or position else ""
    image = root.get(f"{group}{ARRAY}")
    if not isinstance(image, zarr.Array):
        msg = f"{store} holds no image of position {position}"
        raise KeyError(msg)
    return image
