"""`Deskewer`: one volume, or some of its rows, computed while its planes arrive.

Separate from the handler because it is arrays only: it remembers the last planes, has
the kernels write the rows that have become computable and gives slabs away as soon as
they are complete. Does not know sequences, channels or who wants the volume.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opm_engine.buffers import BufferPool
from opm_engine.geometry import Geometry
from opm_engine.processing.correction import Correction
from opm_engine.processing.kernels import mix_rows, mix_rows_and_project
from opm_engine.processing.kernels_binned import bin_rows, project_rows
from opm_engine.processing.planes import PlaneRing
from opm_engine.processing.projections import MaxProjections
from opm_engine.processing.sampling import (
    SLAB_ROWS,
    Interpolation,
    VoxelSize,
    sampling_of,
)
from opm_engine.processing.taps import Taps, TapTable, block_around, is_kept, make_taps
from opm_engine.processing.window import Slab, Window


class Deskewer:
    """Deskews one stack, plane by plane.

    Planes are added in the order in which they were taken. Every row is written as
    soon as the planes that it needs are there, and rows are given away in slabs: 32
    along Y, in the order of the scan, each once.

    Some rows of a volume alone, the same to the bit as in the whole one::

        part = Deskewer(geometry, first_row=640, n_rows=64)
        for number in part.planes:
            part.add(stack[number])
        part.volume  # (Z, 64, X)

    Parameters
    ----------
    geometry : Geometry
        Scan direction and flips included.
    voxel_size_um, interpolation, z_bin, shift_um, n_y, first_row, n_rows
        See :func:`~opm_engine.processing.sampling.sampling_of`. With ``first_row`` or
        ``n_rows`` only the planes that these rows need are taken.
    correction : Correction, optional
        Of the planes, before they are interpolated; values are clipped once, after it.
    out : (Z, Y, X) uint16 array, optional
        Where to write: C-contiguous, of the volume's shape.
    whole : bool
        Keep the whole volume. Else only slabs that are not complete are in memory.
    project : bool
        Also make the maximum projections on the way.
    pool : BufferPool, optional
        Where memory comes from.

    Attributes
    ----------
    volume : (Z, Y, X) uint16 array, optional
        ``out``, or a new array; with ``whole`` alone. 0 where the scan has no data;
        what is not written yet is anything.
    projections : MaxProjections, optional
        Of what has been written.
    planes : range
        Numbers, as they were taken, of the planes that have to come.
    n_added : int
        How many have come, or were skipped.

    Raises
    ------
    ValueError
        If an argument makes no sense, or ``out`` cannot take the volume.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        voxel_size_um: VoxelSize = None,
        interpolation: Interpolation = "orthogonal",
        z_bin: int = 1,
        shift_um: float = 0.0,
        n_y: int | None = None,
        first_row: int = 0,
        n_rows: int | None = None,
        correction: Correction | None = None,
        out: NDArray[np.uint16] | None = None,
        whole: bool = True,
        project: bool = False,
        pool: BufferPool | None = None,
    ) -> None:
        self.geometry = geometry
        self.sampling = sampling = sampling_of(
            geometry,
            voxel_size_um=voxel_size_um,
            interpolation=interpolation,
            z_bin=z_bin,
            shift_um=shift_um,
            n_y=n_y,
            first_row=first_row,
            n_rows=n_rows,
        )
        pool = BufferPool(0) if pool is None else pool
        if out is not None:
            _check_out(out, sampling.shape)
        elif whole:
            out = pool.take(sampling.shape, np.uint16)
        self.volume = out
        self.projections = (
            MaxProjections.dark(sampling.shape, pool) if project else None
        )
        self.n_added = 0
        self._window = Window(sampling, pool, out)
        self._ring = PlaneRing(
            geometry, sampling.reach + 1, correction, stacked=z_bin > 1
        )
        self._scratch = np.empty(geometry.n_columns, np.float32)
        self._forward = geometry.scan_direction > 0
        is_part = first_row > 0 or n_rows is not None
        needed = sampling.planes(0, sampling.n_rows)
        self._numbers = needed if is_part else range(geometry.n_planes)
        self._order = range(sampling.n_slabs)
        if not self._forward:
            self._numbers, self._order = self._numbers[::-1], self._order[::-1]
        self._n_dark = self._n_given = 0
        self._table = self._first_table()
        if not self._numbers:
            self._darken(sampling.n_slabs)

    @property
    def planes(self) -> range:
        """Numbers, as they were taken, of the planes that have to come."""
        if self._forward:
            return self._numbers
        last = self.geometry.n_planes - 1
        numbers = self._numbers
        return range(last - numbers.start, last - numbers.stop)

    @property
    def is_complete(self) -> bool:
        """Whether all planes have come, and so all rows are written."""
        return self.n_added == len(self._numbers)

    def add(self, plane: NDArray[Any], *, lasting: bool = False) -> list[Slab]:
        """Add the next plane and write what it completes.

        Parameters
        ----------
        plane : (S, X) uint16 array
            As the camera delivered it. Any memory layout.
        lasting : bool
            Whether nobody will write into it again. It need not be copied then.

        Returns
        -------
        list of Slab
            Those that are complete now. They are the caller's, read-only; without a
            whole volume nothing else holds them.

        Raises
        ------
        ValueError
            If the plane has another shape or dtype, or there is one too many.
        """
        self.check(plane)
        return self._advance(plane, lasting=lasting)

    def skip(self) -> list[Slab]:
        """Go on without the next plane: rows that need it are 0; else like `add`."""
        self._check_number()
        return self._advance(None, lasting=True)

    def finished(self) -> tuple[NDArray[np.uint16] | None, MaxProjections | None]:
        """Return volume and projections as they may be handed on: read-only."""
        volume, projections = self.volume, self.projections
        if volume is not None:
            volume = volume.view()
            volume.flags.writeable = False
        if projections is not None:
            projections = MaxProjections(*(array.view() for array in projections))
            for array in projections:
                array.flags.writeable = False
        return volume, projections

    def check(self, plane: NDArray[Any]) -> None:
        """Refuse what `add` would refuse.

        Raises
        ------
        ValueError
        """
        self._check_number()
        expected = self._ring.shape
        if plane.shape != expected or plane.dtype != np.uint16:
            msg = (
                f"plane must be {expected} uint16, as the geometry says, "
                f"not {plane.shape} {plane.dtype}"
            )
            raise ValueError(msg)

    def _check_number(self) -> None:
        if self.is_complete:
            msg = f"plane: all {self.n_added} planes of the volume have come already"
            raise ValueError(msg)

    def _advance(self, plane: NDArray[Any] | None, *, lasting: bool) -> list[Slab]:
        number = self._numbers[self.n_added]
        self._ring.put(number, plane, lasting=lasting)
        self.n_added += 1
        reach = self.sampling.reach
        if not self._forward:
            self._write(number)
        elif not self.is_complete:
            self._write(number - reach)
        else:  # what lies on the last planes needs no others
            for first in range(number - reach, number + 1):
                self._write(first)
        # Darkness is spread over the scan, so that no plane has to wait for it.
        n_slabs, n_before = len(self._order), max(1, len(self._numbers) - 1)
        self._darken(min(n_slabs, math.ceil(n_slabs * self.n_added / n_before)))
        slabs = self._give()
        if not self.is_complete:
            self._prepare()
        return slabs

    def _first_table(self) -> TapTable:
        """Return all taps, or those of the rows that the first planes complete."""
        if is_kept(self.sampling) or not self._numbers:
            return make_taps(self.sampling)
        return block_around(self.sampling, self._numbers[0])

    def _prepare(self) -> None:
        """Have the taps of the rows that the next plane completes."""
        number = self._numbers[self.n_added]
        first = max(0, number - self.sampling.reach) if self._forward else number
        if first not in self._table.planes and not is_kept(self.sampling):
            self._table = block_around(self.sampling, first)

    def _write(self, first_plane: int) -> None:
        """Write the rows whose first plane this is."""
        if first_plane < 0:
            return
        if first_plane not in self._table.planes and not is_kept(self.sampling):
            self._table = block_around(self.sampling, first_plane)
        taps = self._table.at(first_plane)
        n_planes, get = self.geometry.n_planes, self._ring.get
        needed = range(first_plane, first_plane + self.sampling.reach + 1)
        there = [n >= n_planes or get(n) is not None for n in needed]
        if not all(there):
            taps = self._without_missing(taps, there)
        if not len(taps.voxels):
            return
        y = taps.voxels[:, 1]
        self._window.open(int(y.min()) // SLAB_ROWS, int(y.max()) // SLAB_ROWS)
        self._mix(first_plane, taps)

    def _without_missing(self, taps: Taps, there: list[bool]) -> Taps:
        """Leave out the rows that need a plane that is missing, and make them dark."""
        present = np.array([*there, True])
        offsets = taps.offsets
        above = taps.weights.reshape(*offsets.shape, 4)[..., 2:].any(axis=-1)
        fine = present[offsets] & (present[offsets + 1] | ~above)
        usable: Any = fine.all(axis=1)
        self._window.darken_rows(taps.voxels[~usable])
        return taps.pick(usable)

    def _mix(self, first_plane: int, taps: Taps) -> None:
        window = self._window
        place = window.addresses, window.pitch, SLAB_ROWS
        if self._ring.stacked:
            bin_rows(self._ring.stack, first_plane, *taps, *place, self._scratch)
            if self.projections is not None:
                project_rows(taps.voxels, *place, *self.projections)
            return
        lower, upper = self._ring.get(first_plane), self._ring.get(first_plane + 1)
        upper = lower if upper is None else upper
        rows = taps.voxels, taps.rows, taps.weights
        if self.projections is None:
            mix_rows(lower, upper, *rows, *place)
        else:
            mix_rows_and_project(lower, upper, *rows, *place, *self.projections)

    def _darken(self, n_slabs: int) -> None:
        """Make the first slabs of the scan dark where they lie outside of it."""
        for number in self._order[self._n_dark : n_slabs]:
            self._window.darken_outside(number)
        self._n_dark = max(self._n_dark, n_slabs)

    def _give(self) -> list[Slab]:
        """Give away what is complete."""
        low, high = self.sampling.first_planes_of_slabs
        number = self._numbers[self.n_added - 1]
        slabs = []
        for slab in self._order[self._n_given :]:
            if self._forward:
                is_due = high[slab] + self.sampling.reach <= number
            else:
                is_due = low[slab] >= number
            if not is_due and not self.is_complete:
                break
            self._n_given += 1
            self._darken(self._n_given)
            slabs.append(self._window.take(slab))
        return slabs


@cache
def warm_up(*, binned: bool = False, corrected: bool = False) -> None:
    """Compile the kernels, or load them, so that the first plane does not wait."""
    tiny = Geometry(
        angle_deg=45, step_um=1, pixel_size_um=1, n_planes=2, n_rows=4, n_columns=1
    )
    for project in (False, True):
        deskewer = Deskewer(
            tiny,
            z_bin=2 if binned else 1,
            correction=Correction() if corrected else None,
            project=project,
        )
        for _ in deskewer.planes:
            deskewer.add(np.zeros((4, 1), np.uint16))


def _check_out(out: NDArray[np.uint16], shape: tuple[int, int, int]) -> None:
    """Refuse an array that cannot take the volume."""
    if (np.shape(out), getattr(out, "dtype", None)) != (shape, np.uint16):
        kind = f"{np.shape(out)} {getattr(out, 'dtype', type(out).__name__)}"
        msg = f"out must be a {shape} uint16 array, not {kind}"
        raise ValueError(msg)
    flags = out.flags
    if not (flags.c_contiguous and flags.writeable and flags.aligned):
        msg = "out must be C-contiguous, aligned and writeable"
        raise ValueError(msg)
