"""`Window`: the memory of a volume while it is made.

Separate from the deskewer, which knows when a row is due, because this knows only
where its pixels lie: in one array, or in slabs of which only those that are begun and
not yet given away exist. Knows no planes and no angles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opm_engine.buffers import BufferPool
from opm_engine.processing.kernels import darken
from opm_engine.processing.sampling import SLAB_ROWS, Sampling
from opm_engine.processing.taps import lit


class Slab(NamedTuple):
    """Some rows of a volume.

    Attributes
    ----------
    pixels : (Z, rows, X) uint16
    first_row : int
        Along Y in the volume.
    """

    pixels: NDArray[np.uint16]
    first_row: int


class Window:
    """Memory of a volume, in slabs of 32 rows along Y.

    Parameters
    ----------
    sampling : Sampling
    pool : BufferPool
        Where slabs come from, and go back to when nobody holds them any more.
    volume : (Z, Y, X) uint16 array, optional
        All of the memory: slabs are then views of it.

    Attributes
    ----------
    addresses : (n,) uint64
        Of the memory of each slab; 0 where there is none.
    pitch : int
        Rows in memory from one z to the next.
    """

    def __init__(
        self,
        sampling: Sampling,
        pool: BufferPool,
        volume: NDArray[np.uint16] | None = None,
    ) -> None:
        self.volume = volume
        self._sampling = sampling
        self._pool = pool
        self._slabs: dict[int, NDArray[np.uint16]] = {}
        n_rows, n_x = sampling.shape[1:]
        if volume is None:
            self.pitch = min(SLAB_ROWS, n_rows)
            self.addresses = np.zeros(sampling.n_slabs, np.uint64)
        else:
            self.pitch = n_rows
            steps = np.arange(sampling.n_slabs, dtype=np.uint64) * (SLAB_ROWS * n_x * 2)
            self.addresses = steps + np.uint64(volume.ctypes.data)

    def open(self, first: int, last: int) -> None:
        """Make sure that slabs first to last have memory; what is in it is anything."""
        for number in range(first, last + 1):
            if not self.addresses[number]:
                n_z, _, n_x = self._sampling.shape
                slab = self._pool.take((n_z, self.pitch, n_x), np.uint16)
                self._slabs[number] = slab
                self.addresses[number] = slab.ctypes.data

    def darken_outside(self, number: int) -> None:
        """Write 0 where a slab lies outside the scan."""
        self.open(number, number)
        rows = self._rows(number)
        memory, start = self._slabs.get(number), 0
        if memory is None:
            assert self.volume is not None
            memory, start = self.volume, rows.start
        darken(memory, start, ~lit(self._sampling, rows.start, rows.stop))

    def darken_rows(self, voxels: NDArray[np.uint32]) -> None:
        """Write 0 to some rows (M, 2), z and y."""
        for z, y in voxels.tolist():
            number = y // SLAB_ROWS
            self.open(number, number)
            if self.volume is None:
                self._slabs[number][z, y % SLAB_ROWS] = 0
            else:
                self.volume[z, y] = 0

    def take(self, number: int) -> Slab:
        """Give a slab away: nothing may be written to it any more."""
        rows = self._rows(number)
        if self.volume is None:
            pixels = self._slabs.pop(number)[:, : len(rows)]
            self.addresses[number] = 0
        else:
            pixels = self.volume[:, rows.start : rows.stop]
        pixels.flags.writeable = False
        return Slab(pixels, self._sampling.first_row + rows.start)

    def _rows(self, number: int) -> range:
        start = number * SLAB_ROWS
        return range(start, min(start + SLAB_ROWS, self._sampling.n_rows))
