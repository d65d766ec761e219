"""`Options`: how a run is to be deskewed, judged before any run.

Separate from the handler because reprocessing makes the same choices, and because
metadata tell them. Knows no run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from opm_engine.geometry import voxel_size
from opm_engine.processing.correction import Correction
from opm_engine.processing.sampling import Interpolation, VoxelSize, check_options

Missing = Literal["zero", "interpolate"]


@dataclass(frozen=True)
class Options:
    """Choices of a deskew.

    Attributes
    ----------
    voxel_size_um : (float, float), optional
        Voxel (dz, dy) in µm before z-binning, or dy; None is the pixel size.
    interpolation : {"orthogonal", "shear"}
        ``shear`` moves the camera's rows along Y alone; along Z they stay as they are,
        pixel * sin(angle) apart.
    z_bin : int
        Rows along Z whose mean becomes one.
    correction : Correction or "camera", optional
        ``"camera"``: offset and gain that the run's metadata say; see
        :meth:`Correction.of_camera`.
    missing : {"zero", "interpolate"}
        What stands in for a plane that did not come: nothing, so that rows that need
        it are 0, or the planes around it, mixed linearly and rounded. What lies after
        the last plane that came is 0 either way, and what before the first.

    Raises
    ------
    ValueError, TypeError
        Naming the option that makes no sense.
    """

    voxel_size_um: VoxelSize = None
    interpolation: Interpolation = "orthogonal"
    z_bin: int = 1
    correction: Correction | Literal["camera"] | None = None
    missing: Missing = "zero"

    def __post_init__(self) -> None:
        size = self.voxel_size_um
        check_options(size, self.interpolation, self.z_bin)
        if size is not None:  # plain numbers, which can be compared
            pair = voxel_size(1.0, size)
            is_one = not hasattr(size, "__len__")
            object.__setattr__(self, "voxel_size_um", pair[0] if is_one else pair)
        object.__setattr__(self, "z_bin", int(self.z_bin))
        if self.missing not in get_args(Missing):
            msg = f"missing must be one of {get_args(Missing)}, not {self.missing!r}"
            raise ValueError(msg)
        correction: Any = self.correction
        if not (
            correction is None
            or correction == "camera"
            or isinstance(correction, Correction)
        ):
            msg = f'correction must be a Correction or "camera", not {correction!r}'
            raise TypeError(msg)

    def correction_of(self, block: dict[str, Any] | None) -> Correction | None:
        """Return the correction of a run, its metadata block being this.

        Raises
        ------
        ValueError
            If it is to be the camera's, and the block does not say it.
        """
        if isinstance(self.correction, Correction | None):
            return self.correction
        return Correction.of_camera(block)
