"""`PlaneRing`: the last few planes of a scan, as the kernels want them.

Separate from the deskewer because here is decided when a plane has to be copied: if its
columns are flipped, its counts corrected, its memory is not contiguous or not to be
kept. Rows that are flipped are a matter of the table of taps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from opm_engine.geometry import Geometry
from opm_engine.processing.correction import Correction

Plane = NDArray[Any]
"""uint16, or float32 if corrected."""


class PlaneRing:
    """Keeps the last planes, each copied once at most.

    Parameters
    ----------
    geometry : Geometry
    n_kept : int
        Planes that are kept.
    correction : Correction, optional
        Planes are then float32.
    stacked : bool
        Keep them in one array, ``stack`` (n_kept, S, X), plane n at n % n_kept.
    """

    def __init__(
        self,
        geometry: Geometry,
        n_kept: int,
        correction: Correction | None = None,
        *,
        stacked: bool = False,
    ) -> None:
        self.shape = geometry.n_rows, geometry.n_columns
        if correction is not None:
            correction.check(self.shape)
        self.stacked = stacked
        self._correction = correction
        self._turned = slice(None, None, -1 if geometry.flip_columns else None)
        self._must_copy = stacked or geometry.flip_columns or correction is not None
        self._n_kept = n_kept
        self._planes: dict[int, Plane | None] = {}
        self._memory: Plane | None = None

    @property
    def stack(self) -> Plane:
        """Memory of the planes that were copied, (n_kept, S, X)."""
        if self._memory is None:
            shape = self._n_kept, *self.shape
            dtype = np.uint16 if self._correction is None else np.float32
            self._memory = np.zeros(shape, dtype)
        return self._memory

    def put(
        self, number: int, plane: NDArray[np.uint16] | None, *, lasting: bool
    ) -> None:
        """Keep a plane (S, X), or None for one that is missing.

        Parameters
        ----------
        number : int
            Along +Y; the plane ``n_kept`` away from it is forgotten.
        plane : (S, X) uint16 array, optional
        lasting : bool
            Whether nobody will write into it again, so that it need not be copied.
        """
        for old in (number - self._n_kept, number + self._n_kept):
            self._planes.pop(old, None)
        self._planes[number] = None
        if plane is not None:
            self._planes[number] = self._taken(number, plane, lasting=lasting)

    def get(self, number: int) -> Plane | None:
        """Return a plane; None if it is missing."""
        return self._planes.get(number)

    def _taken(self, number: int, plane: NDArray[np.uint16], *, lasting: bool) -> Plane:
        flags = plane.flags
        if lasting and not self._must_copy and flags.c_contiguous and flags.aligned:
            mine: Plane = plane.view()
        else:
            mine = self.stack[number % self._n_kept]
            if self._correction is None:
                mine[...] = plane[:, self._turned]
            else:
                self._correction.apply(plane, mine, self._turned)
        # Whether an array may be written to is part of its type: one kind is enough.
        mine.flags.writeable = False
        return mine
