"""`zarr.json` of a group or an array: read, and replaced whole.

Separate because a process may be killed at any moment: a reader finds the old document
or the new one, never a part of one. Knows nothing of what the documents say.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

NAME = "zarr.json"

_OF_ARRAYS = (
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "fill_value",
    "codecs",
    "dimension_names",
)
"""What tensorstore takes of an array's document."""


def read_node(folder: Path) -> dict[str, Any]:
    """Return the document of a group or an array.

    Raises
    ------
    FileNotFoundError
        If the folder is neither.
    """
    document: dict[str, Any] = json.loads((folder / NAME).read_bytes())
    return document


def write_node(folder: Path, document: dict[str, Any]) -> None:
    """Replace the document of a group or an array.

    Raises
    ------
    OSError
        If it cannot be written; then the old one stays.
    """
    new = folder / f".{NAME}.new"
    new.write_text(json.dumps(document), encoding="utf-8")  # indented: 10 times slower
    new.replace(folder / NAME)


def write_n_times(array: Path, n_times: int) -> None:
    """Give an array (t, …) another length.

    Raises
    ------
    OSError
        If it cannot be written; then the old one stays.
    """
    document = read_node(array)
    document["shape"][0] = n_times
    write_node(array, document)


def read_attributes(folder: Path) -> dict[str, Any]:
    """Return the attributes of a group or an array.

    Raises
    ------
    FileNotFoundError
        If the folder is neither.
    """
    attributes: dict[str, Any] = read_node(folder).get("attributes", {})
    return attributes


def tensorstore_spec(array: Path, n_times: int) -> dict[str, Any]:
    """Return how tensorstore opens an array as if it had so many time points.

    To be opened with ``assume_metadata=True``: an array that grows need not be opened
    again.

    Raises
    ------
    FileNotFoundError
        If there is no array.
    """
    document = read_node(array)
    document["shape"][0] = n_times
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{array}{os.sep}"},
        "metadata": {name: document[name] for name in _OF_ARRAYS},
    }
