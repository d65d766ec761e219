"""Reading back what the writer wrote: images, and what was noted beside them.

Separate from the writer because it serves stores of any origin with our layout: one
image at the root, or images in groups ``0``, ``1``, ….
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zarr

from opm_engine.plan import BLOCK, Flag, Inputs
from opm_engine.writers.metadata import ARRAY
from opm_engine.writers.notes import FLAGS, INPUTS

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
    image = _image_group(store, position).get(ARRAY)
    if not isinstance(image, zarr.Array):
        raise _no_image(store, position)
    return image


def read_flags(store: str | Path, position: int = 0) -> tuple[Flag, ...]:
    """Return the flags of one stage position: its volumes that must not be trusted.

    Parameters
    ----------
    store : str or Path
        An OME-Zarr store.
    position : int
        Stage position, from 0.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    KeyError
        If the store holds no such position.
    """
    block: Any = _image_group(store, position).attrs.get(BLOCK, {})
    entries = [dict(entry) for entry in block.get(FLAGS, [])]
    return tuple(Flag(message=entry.pop("message"), index=entry) for entry in entries)


def read_inputs(store: str | Path) -> Inputs | None:
    """Return the analog inputs of all frames, or None if none were recorded.

    Those of frames that never came are NaN.

    Parameters
    ----------
    store : str or Path
        An OME-Zarr store.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    """
    array: Any = zarr.open_group(store, mode="r").get(INPUTS)
    if array is None:
        return None
    return Inputs(0, tuple(array.attrs["names"]), array[:])


def _image_group(store: str | Path, position: int) -> zarr.Group:
    root = zarr.open_group(store, mode="r")
    ome: Any = root.attrs.get("ome", {})
    several = "bioformats2raw.layout" in ome
    group = root.get(str(position)) if several or position else root
    if not isinstance(group, zarr.Group):
        raise _no_image(store, position)
    return group


def _no_image(store: str | Path, position: int) -> KeyError:
    return KeyError(f"{store} holds no image of position {position}")
