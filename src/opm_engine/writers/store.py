"""A new OME-Zarr store with all its metadata, and no pixels yet.

Separate from the handler so that the layout on disk can be read in one piece. Knows
nothing of runs or frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

from opm_engine.plan import BLOCK, Stream
from opm_engine.writers import metadata
from opm_engine.writers.node import NAME, write_n_times, write_node
from opm_engine.writers.shards.encoding import BLOSC
from opm_engine.writers.shards.layout import Layout
from opm_engine.writers.shards.sink import Codec

if TYPE_CHECKING:
    from ome_zarr.format import Format

MAX_TIMES = 2**31 - 1
"""More time points than any run has, where their number is not known."""


def create_store(
    path: Path,
    stream: Stream,
    block: Mapping[str, Any],
    layouts: Sequence[Layout],
    codec: Codec,
) -> None:
    """Create a store; parent folders too.

    One position: the image is the root. Several: images ``0``, ``1``, … under it, in
    the bioformats2raw layout, and our block in full at the root.

    Parameters
    ----------
    path : Path
        Where nothing exists.
    stream : Stream
        What will be written.
    block : Mapping
        Our metadata block, plain JSON.
    layouts : sequence of Layout
        Of each position.
    codec : {"lz4", "zstd", "none"}
    """
    n_images = len(stream.positions)
    images = (metadata.image_attributes(block, stream, p) for p in range(n_images))
    if n_images > 1:
        ome, series = metadata.collection(n_images)
        _create_group(path, {"ome": ome, BLOCK: metadata.run_block(block, stream)})
        _create_group(path / "OME", {"ome": series})
    arrays = array_paths(path, stream)
    for number, (array, image) in enumerate(zip(arrays, images, strict=True)):
        if not number:  # they differ in numbers alone
            _check(image)
        _create_group(array.parent, image)
        array.mkdir()
        write_node(array, array_document(layouts[number], codec))


def array_paths(path: Path, stream: Stream) -> list[Path]:
    """Return the folder of the array (t, c, z, y, x) of each position."""
    images = (image_path(path, stream, p) for p in range(len(stream.positions)))
    return [image / metadata.ARRAY for image in images]


def image_path(path: Path, stream: Stream, position: int) -> Path:
    """Return the group of one position's image."""
    return path if len(stream.positions) == 1 else path / str(position)


@lru_cache(maxsize=16)
def array_document(layout: Layout, codec: Codec) -> dict[str, Any]:
    """Return what ``zarr.json`` of an array says; shared, so never change it.

    zarr-python writes it, as it knows best what is valid.
    """
    memory: dict[str, Any] = {}
    zarr.create_array(
        MemoryStore(memory),
        shape=layout.shape,
        chunks=layout.chunk,
        shards=layout.shard,
        dtype=np.dtype(layout.dtype),
        compressors=_compressors(codec),
        chunk_key_encoding=ngff_format().chunk_key_encoding,
        fill_value=0,
        dimension_names=[axis["name"] for axis in metadata.AXES],
    )
    document: dict[str, Any] = json.loads(memory[NAME].to_bytes())
    return document


def _compressors(codec: Codec) -> tuple[BloscCodec, ...]:
    settings = BLOSC[codec]
    return () if settings is None else (BloscCodec(**settings._asdict()),)


@cache
def ngff_format() -> Format:
    """Return what the reference implementation knows of the version that we write.

    The first call takes a second, which readers of a store need not wait.
    """
    from ome_zarr.format import format_from_version

    return format_from_version(metadata.VERSION)


class Times:
    """Length of the time axis of every array of a store, as its metadata tell it.

    An array that grows has room for twice as many time points as it needs, so that its
    metadata change seldom; `cut` ends that.

    Parameters
    ----------
    arrays : sequence of Path
        Folder of each.
    n_times : int
        Length that all have.
    """

    def __init__(self, arrays: Sequence[Path], n_times: int) -> None:
        self._arrays = arrays
        self._lengths = [n_times] * len(arrays)

    def reach(self, position: int, t: int) -> None:
        """Make room for time point ``t`` of a position.

        Raises
        ------
        OSError
            If the metadata cannot be written.
        """
        length = self._lengths[position]
        if t >= length:
            self._set(position, max(2 * length, t + 1))

    def cut(self, n_times: int) -> None:
        """Give every array this length.

        Raises
        ------
        OSError
            If the metadata cannot be written.
        """
        for position, length in enumerate(self._lengths):
            if length != n_times:
                self._set(position, n_times)

    def _set(self, position: int, n_times: int) -> None:
        write_n_times(self._arrays[position], n_times)
        self._lengths[position] = n_times


def _check(image: dict[str, Any]) -> None:
    # The reference implementation's rules, not ours, say what is valid.
    from ome_zarr.axes import Axes

    (multiscale,) = image["ome"]["multiscales"]
    axes = Axes(multiscale["axes"], fmt=ngff_format()).to_list()
    transformations = [
        dataset["coordinateTransformations"] for dataset in multiscale["datasets"]
    ]
    ngff_format().validate_coordinate_transformations(len(axes), 1, transformations)


def _create_group(path: Path, attributes: dict[str, Any]) -> None:
    path.mkdir(parents=True)
    group = {"zarr_format": ngff_format().zarr_format, "node_type": "group"}
    write_node(path, {**group, "attributes": attributes})
