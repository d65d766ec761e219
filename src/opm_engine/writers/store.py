"""A new OME-Zarr store with all its metadata, and no pixels yet.

The one place that imports zarr and ome-zarr. Separate from the handler so that the
layout on disk can be read in one piece. Knows nothing of runs or frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from ome_zarr.format import FormatV05
from ome_zarr.writer import write_multiscales_metadata
from zarr.codecs import BloscCodec

from opm_engine.plan import BLOCK, Stream
from opm_engine.writers import metadata
from opm_engine.writers.shards import array_shape

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
        Planes per shard.
    codec : {"lz4", "zstd", "none"}

    Returns
    -------
    list of zarr.Array
        One array (t, c, z, y, x) per position.
    """
    root = zarr.create_group(str(path), zarr_format=3)
    n_images = len(stream.positions)
    groups = [root]
    if n_images > 1:
        ome, series = metadata.collection(n_images)
        root.attrs["ome"] = ome
        root.create_group("OME", attributes={"ome": series})
        groups = [root.create_group(str(p)) for p in range(n_images)]
    for p, group in enumerate(groups):
        _describe(group, stream, block, p)
    return [_create_array(group, stream, depth, codec) for group in groups]


def _describe(
    group: zarr.Group, stream: Stream, block: Mapping[str, Any], p: int
) -> None:
    group.attrs[BLOCK] = metadata.image_block(block, stream, p)
    write_multiscales_metadata(
        group,
        datasets=metadata.datasets(stream),
        fmt=FormatV05(),
        axes=metadata.AXES,
        name=stream.positions[p].name,
        metadata={"omero": metadata.omero(stream, block.get("camera_offset", 0.0))},
    )


def _create_array(
    group: zarr.Group, stream: Stream, depth: int, codec: Codec
) -> zarr.Array[Any]:
    shape = array_shape(stream)
    return group.create_array(
        metadata.ARRAY,
        shape=shape,
        chunks=(1, 1, 1, *shape[3:]),
        shards=(1, 1, depth, *shape[3:]),
        dtype=np.dtype(stream.dtype),
        compressors=COMPRESSORS[codec],
        fill_value=0,
        dimension_names=[axis["name"] for axis in metadata.AXES],
        # Looking for empty planes would cost more than writing them, and a plane that
        # is absent was never written.
        config={"write_empty_chunks": True},
    )
