"""Pixels of a chunk to bytes, exactly as the store's metadata say.

Separate because every way to the disk encodes alike. One home of the codecs: knows
neither files nor where in an image a chunk lies. No state; any number of threads.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import blosc
import numcodecs.blosc
import numpy as np
import numpy.typing as npt

from opm_engine.writers.shards.sink import Codec

# Of these two, as they come from PyPI, the first knows AVX2 and shuffles in a quarter
# less time; the second takes the size of blocks with each call.
blosc.set_releasegil(True)
blosc.set_nthreads(1)

Bytes = npt.NDArray[np.uint8]


class Blosc(NamedTuple):
    """Settings of the compressor, as zarr names them."""

    cname: Literal["lz4", "zstd"]
    clevel: int
    shuffle: Literal["shuffle", "bitshuffle"]
    blocksize: int


BLOSC: dict[Codec, Blosc | None] = {
    "none": None,
    "lz4": Blosc("lz4", 1, "bitshuffle", 0),
    # Blocks larger than the automatic ones: twice as fast, and a little smaller.
    "zstd": Blosc("zstd", 1, "shuffle", 2**18),
}

SHUFFLES = {"shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}
"""As Blosc numbers them."""


def most_bytes(n_bytes: int) -> int:
    """Return the largest size of a chunk of so many bytes, encoded."""
    return n_bytes + int(numcodecs.blosc.MAX_OVERHEAD)


def encode_into(
    out: Bytes, pixels: npt.NDArray[Any], shape: tuple[int, ...], codec: Codec
) -> int:
    """Encode one chunk; lets go of the interpreter lock while it works.

    Parameters
    ----------
    out : (n,) uint8
        Where to; large enough for `most_bytes`.
    pixels : ndarray
        Little endian on every platform we know; at the image's far edges smaller than
        the chunk, which is then filled up with 0.
    shape : tuple of int
        Of the chunk, of as many axes as ``pixels``.
    codec : {"lz4", "zstd", "none"}

    Returns
    -------
    int
        Bytes used of ``out``.
    """
    settings = BLOSC[codec]
    if settings is None:
        n_bytes = pixels.dtype.itemsize * math.prod(shape)
        _fill(out[:n_bytes].view(pixels.dtype).reshape(shape), pixels)
        return n_bytes
    if pixels.shape != shape or not pixels.flags.c_contiguous:
        whole = np.empty(shape, pixels.dtype)
        _fill(whole, pixels)
        pixels = whole
    # Much of a deskewed volume lies outside the scan.
    is_dark = not pixels[(-1,) * pixels.ndim] and not pixels.max()
    data = (
        _dark(pixels.nbytes, settings, pixels.itemsize)
        if is_dark
        else _compressed(pixels, settings)
    )
    out[: len(data)] = np.frombuffer(data, np.uint8)
    return len(data)


def _compressed(pixels: npt.NDArray[Any], settings: Blosc) -> bytes:
    cname, clevel, _, blocksize = settings
    shuffle = SHUFFLES[settings.shuffle]
    data: bytes = (
        numcodecs.blosc.compress(pixels, cname.encode(), clevel, shuffle, blocksize)
        if blocksize
        else blosc.compress(pixels, pixels.itemsize, clevel, shuffle, cname)
    )
    return data


@lru_cache(maxsize=16)
def _dark(n_bytes: int, settings: Blosc, itemsize: int) -> bytes:
    return _compressed(np.zeros(n_bytes // itemsize, f"u{itemsize}"), settings)


def _fill(chunk: npt.NDArray[Any], pixels: npt.NDArray[Any]) -> None:
    if chunk.shape != pixels.shape:
        chunk[...] = 0
    chunk[tuple(slice(size) for size in pixels.shape)] = pixels
