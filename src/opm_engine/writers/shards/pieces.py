"""Items cut into pieces: chunks that reach their shard together.

Separate, and pure, because every way to the disk cuts alike. A plane is one chunk; of
volumes, the bricks above each other are a piece, so that a slab is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy.typing as npt

from opm_engine.plan import Place
from opm_engine.writers.shards.layout import Layout, ShardKey


class Piece(NamedTuple):
    """Chunks of one shard.

    Attributes
    ----------
    key : tuple of int
        The shard's place in the grid (t, c, z, y, x).
    numbers : list of int
        Of the chunks, in the shard.
    chunks : list of ndarray
        (z, y, x) each, views; smaller than the layout's chunk at the image's far edges.
    first : (z, y)
        First pixel of the first chunk in the image; the others follow along Z.
    """

    key: ShardKey
    numbers: list[int]
    chunks: list[npt.NDArray[Any]]
    first: tuple[int, int]


def cut(
    layout: Layout, place: Place, first_row: int, pixels: npt.NDArray[Any]
) -> list[Piece]:
    """Cut a plane (rows, columns), or rows (Z, rows, X) of a volume from a row on.

    Raises
    ------
    ValueError
        If the rows of a volume do not begin and end where chunks do.
    """
    if pixels.ndim == 3:
        return list(_of_volume(layout, place, first_row, pixels))
    key, number = layout.locate(place.t, place.channel, place.plane, 0)
    return [Piece(key, [number], [pixels[None]], (place.plane, 0))]


def _of_volume(
    layout: Layout, place: Place, first_row: int, slab: npt.NDArray[Any]
) -> Iterator[Piece]:
    n_z, chunk_z = layout.shape[2], layout.chunk[2]
    chunk_y, stop = layout.chunk[3], first_row + slab.shape[1]
    if first_row % chunk_y or (stop % chunk_y and stop != layout.shape[3]):
        msg = f"rows {first_row} to {stop} are not whole chunks of {chunk_y} rows"
        raise ValueError(msg)
    step_z = chunk_z * layout.chunks_per_piece
    for y in range(first_row, stop, chunk_y):
        rows = slab[:, y - first_row : y - first_row + chunk_y]
        for first_z in range(0, n_z, step_z):
            starts = range(first_z, min(first_z + step_z, n_z), chunk_z)
            where = [layout.locate(place.t, place.channel, z, y) for z in starts]
            yield Piece(
                where[0][0],
                [number for _, number in where],
                [rows[z : z + chunk_z] for z in starts],
                (first_z, y),
            )
