"""What a store says about itself: NGFF 0.5 metadata, and our block beside it.

Pure: a :class:`~opm_engine.plan.Stream` in, plain dicts out. Separate from the files so
that it can be checked without any. Knows nothing of zarr, shards or paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from opm_engine.geometry import Geometry
from opm_engine.plan import BLOCK, Stream
from opm_engine.writers.journal import FRAMES

VERSION = "0.5"
"""Of the NGFF specification."""

AXES: list[dict[str, str]] = [
    {"name": "t", "type": "time", "unit": "second"},
    {"name": "c", "type": "channel"},
    {"name": "z", "type": "space", "unit": "micrometer"},
    {"name": "y", "type": "space", "unit": "micrometer"},
    {"name": "x", "type": "space", "unit": "micrometer"},
]
"""Axes of every image. The z of raw images counts planes along the coverslip."""

ARRAY = "0"
"""Name of the full-size level of every image."""

SHOWN_COUNTS = 4095
"""Width of the initial display window, where most counts of a camera lie."""

RUN_ONLY = ("plan", "microscope", "sequence")
"""Keys of the block that are told once per store: they grow with the positions."""


def run_block(block: Mapping[str, Any], stream: Stream) -> dict[str, Any]:
    """Return the block of a whole run, with the stream in it, plain JSON."""
    return {"stream": stream.model_dump(mode="json"), **block}


def image_attributes(
    block: Mapping[str, Any], stream: Stream, p: int
) -> dict[str, Any]:
    """Return all attributes of the image of position ``p``, plain JSON.

    They are ``ome``, and the run's block with ``position`` (index and
    :class:`PositionInfo`; ``affine`` if its scan is not the geometry's) and ``frames``
    (where each frame is told of) added. One of several images has a stream of its own
    position alone, and leaves what is :data:`RUN_ONLY` to the root.
    """
    site = stream.positions[p]
    position = {"index": p, **site.model_dump(mode="json")}
    own = {
        name: value
        for name in ("n_planes", "origin_um")
        if (value := getattr(site, name)) is not None
    }
    if own and "geometry" in block:
        geometry = Geometry.model_validate({**block["geometry"], **own})
        position["affine"] = geometry.affine()
    if len(stream.positions) == 1:
        ours = run_block(block, stream)
    else:
        alone = stream.model_copy(update={"positions": (site,)})
        ours = {name: block[name] for name in block if name not in RUN_ONLY}
        ours["stream"] = alone.model_dump(mode="json")
    multiscale = {
        "name": site.name,
        "axes": AXES,
        "datasets": datasets(stream, p),
    }
    return {
        "ome": {
            "version": VERSION,
            "multiscales": [multiscale],
            "omero": omero(stream, block.get("camera_offset", 0.0)),
        },
        BLOCK: {**ours, "position": position, "frames": f"{ARRAY}/{FRAMES}"},
    }


def datasets(stream: Stream, p: int) -> list[dict[str, Any]]:
    """Return the ``datasets`` of the ``multiscales`` of image ``p``, in s and µm.

    The translation is relative to the stage position, which our block tells.
    """
    # An interval of 0 means as fast as the camera goes; a scale may not be 0.
    scale = [stream.interval_s or 1.0, 1.0, *stream.scale_um]
    translation = [0.0, 0.0, *stream.translation_of(p)]
    transformations = [
        {"type": "scale", "scale": scale},
        {"type": "translation", "translation": translation},
    ]
    return [{"path": ARRAY, "coordinateTransformations": transformations}]


def omero(stream: Stream, camera_offset: float = 0.0) -> dict[str, Any]:
    """Return names, colours and display windows of the channels.

    Parameters
    ----------
    stream : Stream
    camera_offset : float
        In counts; shown as black.
    """
    dtype = np.dtype(stream.dtype)
    top = int(np.iinfo(dtype).max) if dtype.kind in "iu" else 1
    start = min(round(camera_offset), top - 1)
    end = min(start + SHOWN_COUNTS, top)
    window = {"min": 0, "max": top, "start": start, "end": end}
    channels = [
        {
            "label": channel.name,
            "color": channel.colour.removeprefix("#").upper(),
            "active": True,
            "window": window,
        }
        for channel in stream.channels
    ]
    return {"channels": channels}


def collection(n_images: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ``ome`` of the root and of the group ``OME`` of several images."""
    names = [str(p) for p in range(n_images)]
    return (
        {"version": VERSION, "bioformats2raw.layout": 3},
        {"version": VERSION, "series": names},
    )
