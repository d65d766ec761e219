"""What a deskew has to know of a run, read from its metadata.

Separate from the handler, which reacts to frames: here plain JSON, or a sequence and a
geometry, become one checked description, and the description of the volumes that come
out. Knows no pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from opm_engine.geometry import Geometry, voxel_size
from opm_engine.plan import Place, Stream, stream_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import useq

Block = dict[str, Any]
VoxelSize = float | tuple[float, float] | None


@dataclass(frozen=True)
class Scan:
    """A stream of planes and the volumes that it becomes.

    All volumes share one grid, whatever their channel, position or direction: that of
    the geometry, lengthened along Y where a position has more planes; a shorter one's
    volumes are 0 at their end. They begin with the plane lowest in Y, which lies at
    ``geometry.origin_um`` or, where a position has one, at its own ``origin_um``.

    Directions. ``geometry.scan_direction`` is that of even t. In a bidirectional stream
    volumes of odd t are scanned the other way: their plane z lies where plane
    n_planes - 1 - z of an even one does. A channel's offset counts along the scan, so
    there it points the other way along Y too.

    Attributes
    ----------
    geometry : Geometry
        Of the volumes' planes; ``n_planes`` where the position has none of its own.
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
                f"{planes.kind} of {planes.n_planes}; leave Deskew out"
            )
            raise ValueError(msg)
        for position in planes.positions:
            if position.n_planes == 1:
                msg = (
                    f"Deskew needs a scan of two planes or more, but position "
                    f"{position.name!r} has one; leave Deskew out"
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
        offsets_um, n_channels = planes.channel_offsets_um, len(planes.channels)
        if len(offsets_um) not in (0, n_channels):
            msg = (
                f"the stream has {n_channels} channels, but "
                f"{len(offsets_um)} channel_offsets_um"
            )
            raise ValueError(msg)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of every volume."""
        longest = max(p.n_planes or self.planes.n_planes for p in self.planes.positions)
        return self._of_length(longest).volume_shape(self.voxel_um)

    def n_planes_at(self, place: Place) -> int:
        """Return the number of planes of the volume that an item belongs to."""
        position = self.planes.positions[place.position]
        return position.n_planes or self.planes.n_planes

    def geometry_at(self, place: Place) -> Geometry:
        """Return the geometry of the volume that an item belongs to."""
        geometry = self._of_length(self.n_planes_at(place))
        backwards = self.planes.bidirectional and place.t % 2
        if not backwards:
            return geometry
        direction = -geometry.scan_direction
        return geometry.model_copy(update={"scan_direction": direction})

    def shift_um(self, place: Place) -> float:
        """Return by how much an item lies further along +Y than the geometry says."""
        offsets_um = self.planes.channel_offsets_um
        if not offsets_um:
            return 0.0
        return self.geometry_at(place).scan_direction * offsets_um[place.channel]

    def kinds(self) -> Iterator[Place]:
        """Return a place of each kind of volume: of each length, shift, direction."""
        planes = self.planes
        numbers = {p.n_planes: number for number, p in enumerate(planes.positions)}
        channels = range(len(planes.channels)) if planes.channel_offsets_um else (0,)
        times = range(min(planes.n_times, 1 + planes.bidirectional))
        for number, channel, t in product(numbers.values(), channels, times):
            yield Place(t, number, channel, 0)

    def _of_length(self, n_planes: int) -> Geometry:
        if n_planes == self.geometry.n_planes:
            return self.geometry
        return self.geometry.model_copy(update={"n_planes": n_planes})

    def volumes(self) -> Stream:
        """Describe the volumes."""
        dz_um, dy_um = self.voxel_um
        positions = self.planes.positions
        return self.planes.model_copy(
            update={
                "kind": "volumes",
                "shape": self.shape,
                "scale_um": (dz_um, dy_um, self.geometry.pixel_size_um),
                "translation_um": (0.0, self.geometry.origin_um, 0.0),
                "n_planes": 1,
                "positions": tuple(
                    position.model_copy(update={"n_planes": None})
                    for position in positions
                ),
                "channel_offsets_um": (),
                "bidirectional": False,
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
                "channel_offsets_um": list(self.planes.channel_offsets_um),
                "bidirectional": self.planes.bidirectional,
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
    if ((block or {}).get("plan") or {}).get("mode") == "projection":
        msg = (
            'Deskew cannot take mode "projection": each of its frames is a projection '
            "of the scan already; leave Deskew out"
        )
        raise ValueError(msg)
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
