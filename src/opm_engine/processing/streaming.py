"""`Deskewer`: one volume, computed while its planes arrive.

Separate from the handler because it is arrays only: it turns planes the right way up,
remembers the last one and has the kernels write the rows that have become computable.
Does not know sequences, channels or who wants the volume.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opm_engine.geometry import Geometry, voxel_size
from opm_engine.processing.kernels import mix_and_project, mix_planes
from opm_engine.processing.projections import MaxProjections
from opm_engine.processing.taps import TapTable, make_taps


class Deskewer:
    """Deskews one stack, plane by plane.

    Planes are added in the order in which they were taken. Each is copied, so the
    caller may reuse its memory, and every row of the volume is written as soon as both
    planes around it are there.

    Parameters
    ----------
    geometry : Geometry
        Scan direction and flips included.
    voxel_size_um : float or (float, float), optional
        Voxel (dz, dy) in µm; defaults to the pixel size.
    shift_um : float
        By how much all planes lie further along +Y than the geometry says; the volume
        stays where it is.
    n_y : int, optional
        Length of the volume along Y; defaults to what ``geometry.volume_shape`` says.
    out : (Z, Y, X) uint16 array, optional
        Where to write: C-contiguous, of the volume's shape.
    project : bool
        Also make the maximum projections on the way.

    Attributes
    ----------
    volume : (Z, Y, X) uint16 array
        ``out``, or a new array. 0 where the scan has no data, or not yet.
    projections : MaxProjections, optional
        Of what has been written.
    n_added : int
        Planes that have come.

    Raises
    ------
    ValueError
        If ``voxel_size_um`` is not positive or ``out`` cannot take the volume.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        voxel_size_um: float | tuple[float, float] | None = None,
        shift_um: float = 0.0,
        n_y: int | None = None,
        out: NDArray[np.uint16] | None = None,
        project: bool = False,
    ) -> None:
        self.geometry = geometry
        voxel_um = voxel_size(geometry.pixel_size_um, voxel_size_um)
        self._taps = make_taps(geometry, voxel_um, shift_um, n_y)
        self.volume = _dark_volume(self._taps, out)
        self.projections = MaxProjections.zeros(self._taps.shape) if project else None
        self.n_added = 0
        # Planes take turns, so the last one survives while the next is copied.
        shape = (2, geometry.n_rows, geometry.n_columns)
        self._planes = np.empty(shape, np.uint16)

    @property
    def is_complete(self) -> bool:
        """Whether all planes have come, and so the volume is finished."""
        return self.n_added == self.geometry.n_planes

    def add(self, plane: NDArray[Any]) -> None:
        """Add the next plane and write what it completes.

        Parameters
        ----------
        plane : (S, X) uint16 array
            As the camera delivered it. Any memory layout.

        Raises
        ------
        ValueError
            If the plane has another shape or dtype, or there is one too many.
        """
        self._check(plane)
        geometry = self.geometry
        row_sign = -1 if geometry.flip_rows else 1
        column_sign = -1 if geometry.flip_columns else 1
        new = self._planes[self.n_added % 2]
        new[...] = plane[::row_sign, ::column_sign]
        previous = self._planes[(self.n_added + 1) % 2]

        last = geometry.n_planes - 1
        forward = geometry.scan_direction > 0
        number = self.n_added if forward else last - self.n_added
        if self.n_added and forward:
            self._write(number - 1, previous, new)
        elif self.n_added:
            self._write(number, new, previous)
        if number == last:  # rows that lie on the last plane need no other
            self._write(last, new, new)
        self.n_added += 1

    def _check(self, plane: NDArray[Any]) -> None:
        if self.is_complete:
            msg = f"plane: all {self.n_added} planes of the volume have come already"
            raise ValueError(msg)
        expected = self._planes.shape[1:]
        if plane.shape != expected or plane.dtype != np.uint16:
            msg = (
                f"plane must be {expected} uint16, as the geometry says, "
                f"not {plane.shape} {plane.dtype}"
            )
            raise ValueError(msg)

    def _write(
        self, n: int, lower: NDArray[np.uint16], upper: NDArray[np.uint16]
    ) -> None:
        """Write the rows on plane ``n`` and between it and the next."""
        taps = self._taps
        rows = slice(taps.first[n], taps.first[n + 1])
        inputs = lower, upper, taps.voxels[rows], taps.rows[rows], taps.weights[rows]
        if self.projections is None:
            mix_planes(*inputs, self.volume)
        else:
            mix_and_project(*inputs, self.volume, *self.projections)


@cache
def warm_up() -> None:
    """Compile the kernels, or load them, so that the first plane does not wait."""
    tiny = Geometry(
        angle_deg=45, step_um=1, pixel_size_um=1, n_planes=1, n_rows=1, n_columns=1
    )
    for project in (False, True):
        Deskewer(tiny, project=project).add(np.zeros((1, 1), np.uint16))


def _dark_volume(taps: TapTable, out: NDArray[np.uint16] | None) -> NDArray[np.uint16]:
    """Return a volume that is 0 outside the scan; ``out`` if it is given and fits."""
    if out is None:
        return np.zeros(taps.shape, np.uint16)
    if (np.shape(out), getattr(out, "dtype", None)) != (taps.shape, np.uint16):
        kind = f"{np.shape(out)} {getattr(out, 'dtype', type(out).__name__)}"
        msg = f"out must be a {taps.shape} uint16 array, not {kind}"
        raise ValueError(msg)
    flags = out.flags
    if not (flags.c_contiguous and flags.writeable and flags.aligned):
        msg = "out must be C-contiguous, aligned and writeable"
        raise ValueError(msg)
    out[~taps.valid()] = 0
    return out
