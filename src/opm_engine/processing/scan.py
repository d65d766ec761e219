"""What a deskew has to know of a run, read from its metadata.

Separate from the handler, which reacts to frames: here plain JSON, or a sequence and a
geometry, become one checked description, and the description of the volumes that come
out. Knows no pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opm_engine.geometry import Geometry, voxel_size
from opm_engine.plan import Stream, stream_of

if TYPE_CHECKING:
    import useq

Block = dict[str, Any]
VoxelSize = float | tuple[float, float] | None


@dataclass(frozen=True)
class Scan:
    """A stream of planes and the volumes that it becomes.

    Attributes
    ----------
    geometry : Geometry
        Of each volume's planes.
    planes : Stream
        What comes in.
    voxel_um : (float, float)
        (dz, dy) in µm of what goes out.

    Raises
    ------
    ValueError
        If the planes cannot be deskewed, or are not those of the geometry.
    """

    geometry: Geometry
    planes: Stream
    voxel_um: tuple[float, float]

    def __post_init__(self) -> None:
        planes, geometry = self.planes, self.geometry
        if planes.kind != "planes" or planes.n_planes < 2:
            msg = (
                f"Deskew needs a scan of two planes or more, but the stream has "
                f"{planes.kind} of {planes.n_planes} (mode projection or single?)"
            )
            raise ValueError(msg)
        if planes.dtype != "uint16":
            msg = f"Deskew takes uint16 planes, but the stream's are {planes.dtype}"
            raise ValueError(msg)
        streamed = planes.n_planes, *planes.shape
        expected = geometry.n_planes, geometry.n_rows, geometry.n_columns
        if streamed != expected:
            msg = (
                f"the stream's (planes, rows, columns) {streamed} are not the "
                f"geometry's {expected}"
            )
            raise ValueError(msg)

    def volumes(self) -> Stream:
        """Describe the volumes."""
        dz_um, dy_um = self.voxel_um
        return self.planes.model_copy(
            update={
                "kind": "volumes",
                "shape": self.geometry.volume_shape(self.voxel_um),
                "scale_um": (dz_um, dy_um, self.geometry.pixel_size_um),
                "translation_um": (0.0, self.geometry.origin_um, 0.0),
                "n_planes": 1,
            }
        )

    def volume_block(self, block: Block | None) -> Block:
        """Return the metadata block for the outputs: the planes', where it differs."""
        geometry = self.geometry
        return {
            **(block or {}),
            "geometry": geometry.model_dump(mode="json"),
            "stream": self.volumes().model_dump(mode="json"),
            "angle_deg": geometry.angle_deg,
            "step_um": geometry.step_um,
            "pixel_size_um": geometry.pixel_size_um,
            "scan_direction": geometry.scan_direction,
            "affine": geometry.affine(),
            "deskew": {
                "interpolation": "orthogonal",
                "voxel_size_um": list(self.voxel_um),
            },
        }


def describe_scan(
    sequence: useq.MDASequence,
    block: Block | None,
    geometry: Geometry | None,
    voxel_size_um: VoxelSize,
) -> Scan:
    """Read a run's description.

    Parameters
    ----------
    sequence : useq.MDASequence
        Read only if there is no block.
    block : dict, optional
        The run's ``opm_engine`` metadata.
    geometry : Geometry, optional
        Goes before the block's.
    voxel_size_um : float or (float, float), optional

    Raises
    ------
    ValueError
        If nothing says the geometry, or the planes are not those of the geometry.
    """
    if block is not None:
        planes = Stream.model_validate(block["stream"])
        geometry = geometry or Geometry.model_validate(block["geometry"])
    elif geometry is not None:
        pixel_um = geometry.pixel_size_um
        planes = stream_of(
            sequence,
            (geometry.n_rows, geometry.n_columns),
            "uint16",
            (geometry.step_um, pixel_um, pixel_um),
        )
    else:
        msg = (
            "no geometry: the run's metadata have no opm_engine block; "
            "use Deskew(geometry=...) with other engines"
        )
        raise ValueError(msg)
    return Scan(geometry, planes, voxel_size(geometry.pixel_size_um, voxel_size_um))
