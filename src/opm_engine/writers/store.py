"""A new OME-Zarr store with all its metadata, and no pixels yet.

Separate from the handler so that the layout on disk can be read in one piece. Knows
nothing of runs or frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from ome_zarr.axes import Axes
from ome_zarr.format import format_from_version
from zarr.codecs import BloscCodec

from opm_engine.plan import Stream
from opm_engine.writers import metadata
from opm_engine.writers.shards import array_shapes

FORMAT = format_from_version(metadata.VERSION)

Codec = Literal["lz4", "zstd", "none"]

COMPRESSORS: dict[Codec, tuple[BloscCodec, ...]] = {
    "lz4": (BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle"),),
    "zstd": (BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),),
    "none": (),
}
"""lz4 keeps up with a camera on one core; zstd is smaller and slower."""


def create_store(
    path: Path, stream: Stream, block: Mapping[str, Any], depth: int, codec: Codec
) -> list[zarr.Array[Any]]:
    """Create a store; parent folders too.

    One position: the image is the root. Several: images ``0``, ``1``, … under it, in
    the bioformats2raw layout.

    Parameters
    ----------
    path : Path
        Where nothing exists.
    stream : Stream
        What will be written.
    block : Mapping
        Our metadata block, plain JSON.
    depth : int
        Planes per shard; fewer where a position has fewer.
    codec : {"lz4", "zstd", "none"}

    Returns
    -------
    list of zarr.Array
        One array (t, c, z, y, x) per position.
    """
    images = [
        metadata.image_attributes(block, stream, p)
        for p in range(len(stream.positions))
    ]
    _check(images[0])
    if len(images) == 1:
        groups = [_create_group(path, images[0])]
    else:
        ome, series = metadata.collection(len(images))
        _create_group(path, {"ome": ome})
        _create_group(path / "OME", {"ome": series})
        groups = [_create_group(path / str(p), image) for p, image in enumerate(images)]
    return [
        _create_array(group, shape, stream.dtype, depth, codec)
        for group, shape in zip(groups, array_shapes(stream), strict=True)
    ]


def image_path(path: Path, stream: Stream, position: int) -> Path:
    """Return the group of one position's image."""
    return path if len(stream.positions) == 1 else path / str(position)


def _check(image: dict[str, Any]) -> None:
    # The reference implementation's rules, not ours, say what is valid.
    (multiscale,) = image["ome"]["multiscales"]
    axes = Axes(multiscale["axes"], fmt=FORMAT).to_list()
    transformations = [
        dataset["coordinateTransformations"] for dataset in multiscale["datasets"]
    ]
    FORMAT.validate_coordinate_transformations(len(axes), 1, transformations)


def _create_group(path: Path, attributes: dict[str, Any]) -> zarr.Group:
    return zarr.create_group(
        str(path), zarr_format=FORMAT.zarr_format, attributes=attributes
    )


def _create_array(
    group: zarr.Group, shape: tuple[int, ...], dtype: str, depth: int, codec: Codec
) -> zarr.Array[Any]:
    return group.create_array(
        metadata.ARRAY,
        shape=shape,
        chunks=(1, 1, 1, *shape[3:]),
        shards=(1, 1, min(depth, shape[2]), *shape[3:]),
        dtype=np.dtype(dtype),
        compressors=COMPRESSORS[codec],
        chunk_key_encoding=FORMAT.chunk_key_encoding,
        fill_value=0,
        dimension_names=[axis["name"] for axis in metadata.AXES],
        # Looking for empty planes would cost more than writing them, and a plane that
        # is absent was never written.
        config={"write_empty_chunks": True},
    )
