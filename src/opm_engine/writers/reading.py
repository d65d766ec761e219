"""Reading back what the writer wrote.

Separate from the writer because it serves stores of any origin with our layout: one
image at the root, or images in groups ``0``, ``1``, ….
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zarr

if TYPE_CHECKING:
    from pathlib import Path


def open_image(store: Path, position: int = 0) -> zarr.Array[Any]:
    """Open the image of one stage position.

    Parameters
    ----------
    store : Path
        An OME-Zarr store.
    position : int
        Stage position, from 0.

    Returns
    -------
    zarr.Array
        (T, C, Z, Y, X), read-only.

    Raises
    ------
    KeyError
        If the store holds no such position.
    """
    root = zarr.open_group(store, mode="r")
    ome: Any = root.attrs.get("ome", {})
    several = "bioformats2raw.layout" in ome
    if not several and position:
        msg = f"{store} holds one position, not {position}"
        raise KeyError(msg)
    image = root[f"{position}/0" if several else "0"]
    if not isinstance(image, zarr.Array):
        msg = f"{store} holds no image at position {position}"
        raise KeyError(msg)
    return image
