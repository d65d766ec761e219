"""Documents (`zarr.json`) of a store, read by who cannot trust them.

Separate from `reading`, which serves stores that are in order. Whatever is wrong with a
document is told in plain words, as one kind of error. Knows no pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from opm_engine.plan import BLOCK, Stream
from opm_engine.writers import reading
from opm_engine.writers.metadata import ARRAY
from opm_engine.writers.node import NAME, read_attributes, read_node
from opm_engine.writers.shards.layout import Layout
from opm_engine.writers.upkeep.files import UNFINISHED

WRONG = (OSError, KeyError, TypeError, AttributeError, IndexError, ValueError)
"""What reading a document raises that is missing, torn or says something else."""


class NotAStoreError(ValueError):
    """What was named is no store of sharded images t, c, z, y, x."""


def checked_group(folder: Path) -> dict[str, Any]:
    """Return ``ome`` of the group of an image, which says what it should.

    Raises
    ------
    NotAStoreError
        If it does not.
    """
    with _plain_words(folder):
        ome: dict[str, Any] = read_attributes(folder)["ome"]
        levels = ome["multiscales"][0]["datasets"]
        names = [level["path"] for level in levels]
        names += [channel["label"] for channel in ome["omero"]["channels"]]
        if not all(isinstance(name, str) for name in names):
            msg = "levels and channels have no names"
            raise ValueError(msg)
    return ome


def checked_layout(folder: Path) -> Layout:
    """Return how an image is cut, whose metadata say what they should.

    Raises
    ------
    NotAStoreError
        If they do not.
    """
    checked_group(folder)
    with _plain_words(folder / ARRAY):
        layout = reading.layout_of(folder / ARRAY)
        reading.codec_of(folder / ARRAY)
        np.dtype(layout.dtype)
        shapes = layout.shape, layout.shard, layout.chunk
        sizes = [n for shape in shapes for n in shape]
        if any(type(n) is not int or n < 1 for n in sizes) or len(sizes) != 15:
            msg = "the axes are not t, c, z, y, x"
            raise ValueError(msg)
        if any(n % m for n, m in zip(layout.shard, layout.chunk, strict=True)):
            msg = "shards do not hold whole chunks"
            raise ValueError(msg)
    return layout


def described(store: Path) -> tuple[dict[str, Any], list[Path]]:
    """Return the run's block, and the folder of each image.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    NotAStoreError
        If the root, or the list of images, does not say what it should.
    """
    if not store.exists():
        msg = f"there is no {store}"
        raise FileNotFoundError(msg)
    with _plain_words(store):
        folders = reading.image_folders(store)
        attributes = read_attributes(store)
        block = attributes.get(BLOCK) or _older_block(folders)
        if not isinstance(block, dict):
            msg = f"the block {BLOCK!r} is not one of ours"
            raise TypeError(msg)
        if "stream" in block:
            Stream.model_validate(block["stream"])
    return block, folders


def unlisted_levels(image: Path) -> Iterator[Path]:
    """Find smaller levels that the metadata of an image do not list.

    Raises
    ------
    NotAStoreError
        If they do not say what they should.
    """
    multiscale = checked_group(image)["multiscales"][0]
    listed = {dataset["path"] for dataset in multiscale["datasets"]}
    for folder in sorted(image.iterdir()):
        if folder.name not in {ARRAY, *listed} and _is_level(folder):
            yield folder


def _is_level(folder: Path) -> bool:
    """Whether a folder is a level, or what is left of one."""
    if not folder.name.isdecimal() or not folder.is_dir() or folder.is_symlink():
        return False
    try:
        return bool(read_node(folder)["node_type"] == "array")
    except FileNotFoundError:  # it was just begun, or is half removed
        names = {path.name for path in folder.iterdir()}
        return all(name == "c" or name.endswith(UNFINISHED) for name in names)
    except (ValueError, KeyError, TypeError):  # torn
        return True


def _older_block(folders: list[Path]) -> dict[str, Any]:
    """Return what the first image says: roots of older collections say nothing."""
    try:
        block: dict[str, Any] = read_attributes(folders[0]).get(BLOCK, {})
    except WRONG:
        return {}
    return block


@contextmanager
def _plain_words(folder: Path) -> Iterator[None]:
    """Say of whatever a wrong document leads to that this is no store of ours."""
    try:
        yield
    except WRONG as error:
        why = f"{NAME} does not say what it should"
        if isinstance(error, OSError):
            why = f"{NAME}: {error.strerror}"
        elif isinstance(error, ValidationError):
            why = f"its block {BLOCK!r} is not one of ours"
        elif isinstance(error, UnicodeError | json.JSONDecodeError):
            why = f"{NAME} is torn"
        elif isinstance(error, ValueError):
            why = f"{NAME}: {error}"
        msg = f"{folder} is no OME-Zarr that was written here: {why}"
        raise NotAStoreError(msg) from error
