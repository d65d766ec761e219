"""Smaller levels of images: by 2, by 4, …, until a screen can show a whole one.

Separate from writing, because levels are made from what is on disk: of a store that
was closed long ago, or behind a writer's back (``pyramid_thread``). The means are
tensorstore's. Knows nothing of runs.

Each level is the mean of 2 by 2 pixels of the one before and, where the planes of a
volume lie about as close as its pixels, of 2 planes. An odd last pixel has no partner
and is left out. Levels are listed in the metadata only once they are all there.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from opm_engine.plan import BLOCK, Stream
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.metadata import ARRAY
from opm_engine.writers.node import (
    read_node,
    tensorstore_spec,
    write_n_times,
    write_node,
)
from opm_engine.writers.reading import codec_of, image_folders, layout_of
from opm_engine.writers.shards.layout import Layout, array_shapes
from opm_engine.writers.store import MAX_TIMES, array_document

SMALLEST = 256
"""Pixels along Y and X that need no smaller level."""

BATCH_BYTES = 64 * 2**20
"""Of the larger level, that are read at a time."""

CHUNK = (8, 256, 256)
"""Of the levels, (z, y, x)."""

# One thread's worth of work, and no memory but what is in hand.
_CONTEXT = {
    "data_copy_concurrency": {"limit": 1},
    "file_io_concurrency": {"limit": 1},
    "cache_pool": {"total_bytes_limit": 0},
}

Zyx = tuple[int, int, int]


def build_pyramid(store: str | Path, *, overwrite: bool = False) -> int:
    """Add smaller levels to every image of a store; takes about 64 MB of memory.

    Parameters
    ----------
    store : str or Path
        An OME-Zarr store (NGFF 0.5) that nobody writes.
    overwrite : bool
        Make them anew where there are some; else such images stay as they are.

    Returns
    -------
    int
        Number of levels of each image, the full size included.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    ValueError
        If it is of another version, or has no shards.
    OSError
        If a level cannot be written.
    """
    with StoreLock(Path(store)):
        images = [ImagePyramid(folder) for folder in image_folders(store)]
        for image in images:
            if overwrite or not image.is_listed:
                image.begin()
                image.complete()
    return max(image.n_levels for image in images)


def level_factors(shape: Zyx, scale_um: tuple[float, float, float]) -> list[Zyx]:
    """Return by how much each smaller level is smaller than the one before.

    Parameters
    ----------
    shape : (z, y, x)
        Of the full size.
    scale_um : (z, y, x)
        Pixel spacing; infinite along an axis that is never to be halved.
    """
    factors = []
    while max(shape[1:]) > SMALLEST:
        closest = min(scale_um[1:])
        z, y, x = (
            2 if size > 1 and spacing < 2 * closest else 1
            for size, spacing in zip(shape, scale_um, strict=True)
        )
        factors.append((z, y, x))
        shape = shape[0] // z, shape[1] // y, shape[2] // x
        scale_um = scale_um[0] * z, scale_um[1] * y, scale_um[2] * x
    return factors


def levels_share(stream: Stream) -> float:
    """Return how many bytes all smaller levels have at most for each of full size."""
    z_um, y_um, x_um = stream.scale_um
    shape = array_shapes(stream)[0][2:]
    share, whole = 1.0, 0.0
    for factor in level_factors(shape, _spacing(stream.kind, (z_um, y_um, x_um))):
        share /= math.prod(factor)  # at most: what has no partner is left out
        whole += share
    return whole


class ImagePyramid:
    """The smaller levels of one image.

    Parameters
    ----------
    folder : Path
        Group of the image.
    check : callable, optional
        Called before each batch that is written, and before the levels are listed.
        What it raises ends the work.

    Attributes
    ----------
    shard_bytes : int
        Of the full size, uncompressed.

    Raises
    ------
    FileNotFoundError
        If there is no image.
    ValueError
        If its metadata are not of NGFF 0.5, or it has no shards.
    """

    def __init__(self, folder: Path, check: Callable[[], None] = lambda: None) -> None:
        attributes = read_node(folder)["attributes"]
        version = attributes["ome"]["version"]
        if version != "0.5":
            msg = f"{folder} is NGFF {version}: rewrite it as 0.5 first"
            raise ValueError(msg)
        (multiscale,) = attributes["ome"]["multiscales"]
        self._folder = folder
        self._check = check
        self._full = multiscale["datasets"][0]
        self.is_listed = len(multiscale["datasets"]) > 1
        layout = layout_of(folder / ARRAY)
        scale_um = self._full["coordinateTransformations"][0]["scale"][2:]
        kind = attributes.get(BLOCK, {}).get("stream", {}).get("kind")
        factors = level_factors(layout.shape[2:], _spacing(kind, scale_um))
        self._factors = factors
        self._layouts = [layout]
        for factor in factors:
            self._layouts.append(_halved(self._layouts[-1], factor))
        self.shard_bytes = layout.n_chunks * layout.chunk_bytes
        self._codec = codec_of(folder / ARRAY)
        self._levels: list[Any] = []
        self._done: set[tuple[int, int]] = set()

    @property
    def n_levels(self) -> int:
        """Number of levels, the full size included."""
        return len(self._layouts)

    def begin(self) -> None:
        """Make the levels, empty; what an earlier try left is removed.

        Raises
        ------
        OSError
            If they cannot be made.
        """
        self._list([self._full])
        for number, layout in enumerate(self._layouts[1:], 1):
            folder = self._folder / str(number)
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
            write_node(folder, array_document(layout, self._codec))
        folders = [self._folder / str(number) for number in range(self.n_levels)]
        self._levels = [_open(folder) for folder in folders]
        self._done = set()

    def add(self, t: int, c: int) -> None:
        """Fill the levels of one volume, which is on disk as far as it came.

        Raises
        ------
        OSError
            If it cannot be read, or they cannot be written.
        """
        if (t, c) in self._done:
            return
        for number, factor in enumerate(self._factors):
            larger, smaller = self._levels[number : number + 2]
            layout = self._layouts[number + 1]
            mean = tensorstore.downsample(larger, [1, 1, *factor], "mean")
            n_z, n_y, n_x = layout.shape[2:]
            for z in range(0, n_z, layout.shard[2]):
                batch = slice(z, min(z + layout.shard[2], n_z))
                part = (t, c, batch, slice(n_y), slice(n_x))
                self._check()
                try:
                    smaller[part].write(mean[part]).result()
                except (ValueError, RuntimeError) as error:  # how it says all else
                    raise OSError(str(error)) from error
        self._done.add((t, c))

    def complete(self) -> None:
        """Fill what is not filled yet, and list the levels in the metadata.

        Raises
        ------
        OSError
            If something cannot be read or written.
        """
        for t, c in _volumes(self._folder / ARRAY):
            self.add(t, c)
        self._check()
        n_times = layout_of(self._folder / ARRAY).shape[0]
        for number in range(1, self.n_levels):
            write_n_times(self._folder / str(number), n_times)
        self._list(_datasets(self._full, self._factors))

    def remove(self) -> None:
        """Remove levels that are not listed.

        Raises
        ------
        OSError
            If they cannot be removed.
        """
        self._levels = []
        for number in range(1, self.n_levels):
            if (folder := self._folder / str(number)).is_dir():
                shutil.rmtree(folder)

    def _list(self, datasets: list[dict[str, Any]]) -> None:
        document = read_node(self._folder)
        (multiscale,) = document["attributes"]["ome"]["multiscales"]
        if multiscale["datasets"] == datasets:
            return
        multiscale["datasets"] = datasets
        multiscale["type"] = "mean"
        multiscale["metadata"] = {"method": "tensorstore.downsample"}
        write_node(self._folder, document)


def _spacing(
    kind: str | None, scale_um: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return the pixel spacing, infinite along z where planes are never averaged."""
    if kind == "planes":  # neighbours in camera pixels, but not in the sample
        return (math.inf, *scale_um[1:])
    return scale_um


def _halved(layout: Layout, factor: Zyx) -> Layout:
    """Lay out the next level, so that a shard is made of one batch of this one."""
    z, y, x = (n // f for n, f in zip(layout.shape[2:], factor, strict=True))
    plane_bytes = math.prod(layout.shape[3:]) * np.dtype(layout.dtype).itemsize
    depth = max(1, min(z, BATCH_BYTES // (plane_bytes * factor[0])))
    chunk_z, chunk_y, chunk_x = map(min, CHUNK, (depth, y, x))
    return replace(
        layout,
        shape=(*layout.shape[:2], z, y, x),
        shard=(
            1,
            1,
            -(-depth // chunk_z) * chunk_z,
            -(-y // chunk_y) * chunk_y,
            -(-x // chunk_x) * chunk_x,
        ),
        chunk=(1, 1, chunk_z, chunk_y, chunk_x),
    )


def _datasets(full: dict[str, Any], factors: list[Zyx]) -> list[dict[str, Any]]:
    """Say where pixels of each level lie: in the middle of what they are made of."""
    scale, translation = full["coordinateTransformations"]
    datasets = [full]
    whole = np.ones(5)
    for number, factor in enumerate(factors, 1):
        whole[2:] *= factor
        finest = np.array(scale["scale"])
        shift = (whole - 1) / 2 * finest + translation["translation"]
        transformations = [
            {"type": "scale", "scale": (whole * finest).tolist()},
            {"type": "translation", "translation": shift.tolist()},
        ]
        datasets.append(
            {"path": str(number), "coordinateTransformations": transformations}
        )
    return datasets


def _volumes(array: Path) -> Iterator[tuple[int, int]]:
    """Yield t and c of what there is of an array."""
    for t in (array / "c").glob("*/*"):
        yield int(t.parent.name), int(t.name)


def _open(folder: Path) -> Any:
    """Open a level, however many time points it may get."""
    context = tensorstore.Context(_CONTEXT)
    spec = tensorstore_spec(folder, MAX_TIMES)
    return tensorstore.open(
        spec, open=True, assume_metadata=True, context=context
    ).result()
