"""`Specimen`: what lies under the simulated microscope, known in closed form.

A cloud of points, each blurred by a Gaussian light sheet and a Gaussian detection.
Separate from camera and galvo so that ``truth`` is computed from the points alone: it
shares nothing with the scan but the Gaussian. Knows no time, no volts and no noise.

Coordinates. Points lie in sample coordinates (z, y, x) in µm. The field starts at the
stage position: the pixel with field coordinates (Z, Y, X) shows the sample point
(stage_z + Z, stage_y + Y, stage_x + X), and in the plane at scan offset d, row s and
column x have Z = s px sin(angle), Y = d + s px cos(angle), X = x px.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np

from opm_engine.simulation.render import REACH, render_plane, render_volume
from opm_engine.simulation.structures import demo_points, pattern_points

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Visible(Protocol):
    """Anything that the simulated camera can look at."""

    def plane(
        self,
        offset_um: float,
        laser_index: int,
        origin_um: tuple[float, float, float],
        shape: tuple[int, int],
    ) -> NDArray[np.float32]:
        """Return one plane; see :meth:`Specimen.plane`."""


@dataclass(frozen=True)
class Optics:
    """How the instrument blurs.

    Attributes
    ----------
    angle_deg : float
        Between light sheet and coverslip; the demo's by default.
    pixel_size_um : float
        Camera pixel in sample space; the demo's by default.
    sheet_sigma_um : float
        Half thickness of the light sheet, normal to it.
    detection_sigma_um : float
        Blur within the sheet's plane.
    """

    angle_deg: float = 30.0
    pixel_size_um: float = 0.115
    sheet_sigma_um: float = 0.5
    detection_sigma_um: float = 0.22


class _Cloud(NamedTuple):
    """The points that one laser lights, sorted by ``normal``; (K,) float64 each."""

    normal: NDArray[np.float64]
    along: NDArray[np.float64]
    across: NDArray[np.float64]
    brightness: NDArray[np.float64]
    points: NDArray[np.float64]


class Specimen:
    """A cloud of points that glow in the light of some lasers.

    Parameters
    ----------
    points_um : (K, 3) float64
        (z, y, x) of each point.
    amplitude : (K, n_lasers) float64
        Counts per ms of light at the centre of each point, for each laser.
    optics : Optics
    """

    def __init__(
        self, points_um: ArrayLike, amplitude: ArrayLike, optics: Optics
    ) -> None:
        points = np.asarray(points_um, dtype=np.float64).reshape(-1, 3)
        brightness = np.asarray(amplitude, dtype=np.float64).reshape(len(points), -1)
        self.optics = optics
        theta = math.radians(optics.angle_deg)
        self._sin, self._cos = math.sin(theta), math.cos(theta)
        self._clouds = [self._cloud(points, column) for column in brightness.T]

    @classmethod
    def demo(cls, n_lasers: int, seed: int = 1, optics: Optics | None = None) -> Self:
        """Beads, filaments and shells, partly shared between the lasers.

        They fill -30…190 µm in x and y and -1…18 µm in z: room for stage positions
        tens of µm apart. The same ``seed`` gives the same specimen.
        """
        points, amplitude = demo_points(n_lasers, seed)
        return cls(points, amplitude, optics or Optics())

    @classmethod
    def pattern(cls, n_lasers: int, optics: Optics | None = None) -> Self:
        """A test pattern; see `structures.pattern_points`."""
        points, amplitude = pattern_points(n_lasers)
        return cls(points, amplitude, optics or Optics())

    def plane(
        self,
        offset_um: float,
        laser_index: int,
        origin_um: tuple[float, float, float],
        shape: tuple[int, int],
    ) -> NDArray[np.float32]:
        """Render the oblique plane at a scan offset.

        Parameters
        ----------
        offset_um : float
            Position of the sheet along +Y, at the field's first row.
        laser_index : int
            Which laser is on.
        origin_um : (x, y, z)
            Stage position, which is where the field starts.
        shape : (S, X)
            Rows towards +Z and columns towards +X.

        Returns
        -------
        ndarray, (S, X) float32
            Counts per ms of light.
        """
        x_um, y_um, z_um = origin_um
        y_um += offset_um
        cloud, optics = self._clouds[laser_index], self.optics
        normal_um = y_um * self._sin - z_um * self._cos
        along_um = y_um * self._cos + z_um * self._sin
        reach_um = REACH * optics.sheet_sigma_um
        near = slice(
            *np.searchsorted(cloud.normal, [normal_um - reach_um, normal_um + reach_um])
        )
        px = optics.pixel_size_um
        image = np.zeros(shape, dtype=np.float32)
        render_plane(
            (cloud.normal[near] - normal_um) / px,
            (cloud.along[near] - along_um) / px,
            (cloud.across[near] - x_um) / px,
            cloud.brightness[near],
            optics.sheet_sigma_um / px,
            optics.detection_sigma_um / px,
            image,
        )
        return image

    def truth(
        self,
        shape: tuple[int, int, int],
        voxel_um: tuple[float, float, float],
        origin_um: tuple[float, float, float],
        laser_index: int,
    ) -> NDArray[np.float32]:
        """Evaluate the specimen on a grid, as an ideal instrument would see it.

        Parameters
        ----------
        shape : (Z, Y, X)
        voxel_um : (dz, dy, dx)
        origin_um : (z, y, x)
            Sample coordinates of voxel (0, 0, 0): the stage position, plus the scan
            offset of the plane lowest in Y for y.
        laser_index : int

        Returns
        -------
        ndarray, (Z, Y, X) float32
            Counts per ms of light.
        """
        cloud, optics = self._clouds[laser_index], self.optics
        volume = np.zeros(shape, dtype=np.float32)
        render_volume(
            (cloud.points - origin_um) / voxel_um,
            cloud.brightness,
            tuple(float(size) for size in voxel_um),
            math.radians(optics.angle_deg),
            optics.sheet_sigma_um,
            optics.detection_sigma_um,
            volume,
        )
        return volume

    def _cloud(
        self, points: NDArray[np.float64], brightness: NDArray[np.float64]
    ) -> _Cloud:
        z, y, x = points.T
        normal = y * self._sin - z * self._cos
        lit = np.flatnonzero(brightness)
        order = lit[np.argsort(normal[lit], kind="stable")]
        along = (y * self._cos + z * self._sin)[order]
        return _Cloud(
            normal[order],
            along,
            np.ascontiguousarray(x[order]),
            brightness[order],
            np.ascontiguousarray(points[order]),
        )
