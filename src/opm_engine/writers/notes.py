"""`Notebook`: what is noted in a store beside its pixels.

Separate from the pixels because notes are rare, come after the metadata were written
and are on disk as soon as they came. Knows nothing of runs.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import zarr

from opm_engine.plan import BLOCK, Flag, Inputs, Stream
from opm_engine.writers.node import read_node, write_node
from opm_engine.writers.shards.layout import array_shapes
from opm_engine.writers.store import image_path

FLAGS = "flags"
"""Key in our block of an image's attributes."""

INPUTS = "inputs"
"""Name of the array at the root of a store. NGFF readers open what ``ome`` lists."""

_ROWS_PER_CHUNK = 4096


class Notebook:
    """Writes notes into a store.

    Parameters
    ----------
    path : Path
        Of a store that exists.
    stream : Stream
        What it holds.
    """

    def __init__(self, path: Path, stream: Stream) -> None:
        self._path = path
        self._stream = stream
        self._inputs: zarr.Array[Any] | None = None

    def add_flag(self, flag: Flag) -> None:
        """Add a flag to the attributes of its position's image.

        Raises
        ------
        ValueError
            If the stream has no such position.
        """
        try:
            position = self._stream.place(flag.index).position
        except IndexError as error:
            raise ValueError(str(error)) from error
        path = image_path(self._path, self._stream, position)
        image = read_node(path)
        index = {str(axis): number for axis, number in flag.index.items()}
        entry = {"t": 0, "p": 0, **index, "message": flag.message}
        image["attributes"][BLOCK].setdefault(FLAGS, []).append(entry)
        write_node(path, image)

    def add_inputs(self, inputs: Inputs) -> None:
        """Write the analog inputs of consecutive frames; the others stay NaN.

        Raises
        ------
        ValueError
            If they are not those that came before.
        """
        first, n_rows = inputs.first_frame, len(inputs.volts)
        if self._inputs is None:
            self._inputs = self._create_inputs(inputs.names)
        known = tuple(self._inputs.attrs["names"])  # type: ignore[arg-type]
        if inputs.names != known:
            msg = f"inputs {inputs.names} came in a run that records {known}"
            raise ValueError(msg)
        if first + n_rows > self._inputs.shape[0]:
            self._inputs.resize((first + n_rows, len(known)))
        self._inputs[first : first + n_rows] = inputs.volts

    def _create_inputs(self, names: tuple[str, ...]) -> zarr.Array[Any]:
        stream = self._stream
        n_planes = sum(shape[2] for shape in array_shapes(stream))
        n_channels = len(stream.channels) // stream.n_cameras
        n_frames = n_planes * stream.n_times * n_channels
        return zarr.open_group(str(self._path), mode="r+").create_array(
            INPUTS,
            shape=(n_frames, len(names)),
            chunks=(min(n_frames, _ROWS_PER_CHUNK), len(names)),
            dtype="float64",
            fill_value=math.nan,
            dimension_names=["frame", "input"],
            attributes={"names": list(names), "unit": "V"},
        )
