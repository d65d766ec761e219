"""What a deskew has to know of a run, read from its metadata.

Separate from the handler, which reacts to frames: here plain JSON, or a sequence and a
geometry, become one checked description, and the description of the volumes that come
out. Knows no pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from opm_engine.geometry import Geometry
from opm_engine.plan import Place, Stream, stream_of
from opm_engine.processing.correction import Correction
from opm_engine.processing.options import Options
from opm_engine.processing.sampling import SLAB_ROWS, Sampling, sampling_of
from opm_engine.processing.streaming import Deskewer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import useq

Block = dict[str, Any]


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
    options : Options
    correction : Correction, optional
        That of the options, if it is to be the camera's read from the metadata.

    Raises
    ------
    ValueError
        If the planes cannot be deskewed, or are not those of the geometry.
    """

    geometry: Geometry
    planes: Stream
    options: Options
    correction: Correction | None

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
        if self.correction is not None:
            self.correction.check((geometry.n_rows, geometry.n_columns))

    @cached_property
    def sampling(self) -> Sampling:
        """Grid of every volume."""
        longest = max(p.n_planes or self.planes.n_planes for p in self.planes.positions)
        return self._sampling_of(self._of_length(longest))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of every volume."""
        return self.sampling.shape

    def sampling_at(
        self, place: Place, *, first_row: int = 0, n_rows: int | None = None
    ) -> Sampling:
        """Return which rows of the volume that an item belongs to come from where."""
        return self._sampling_of(
            self.geometry_at(place),
            shift_um=self.shift_um(place),
            n_y=self.shape[1],
            first_row=first_row,
            n_rows=n_rows,
        )

    def deskewer(self, place: Place, **how: Any) -> Deskewer:
        """Return what computes the volume that an item belongs to, or rows of it.

        Parameters
        ----------
        place : Place
        **how
            ``first_row``, ``n_rows``, ``out``, ``whole``, ``project`` and ``pool`` of
            :class:`Deskewer`.
        """
        options = self.options
        return Deskewer(
            self.geometry_at(place),
            voxel_size_um=options.voxel_size_um,
            interpolation=options.interpolation,
            z_bin=options.z_bin,
            shift_um=self.shift_um(place),
            n_y=self.shape[1],
            correction=self.correction,
            **how,
        )

    def _sampling_of(self, geometry: Geometry, **which: Any) -> Sampling:
        options = self.options
        return sampling_of(
            geometry,
            voxel_size_um=options.voxel_size_um,
            interpolation=options.interpolation,
            z_bin=options.z_bin,
            **which,
        )

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
        sampling = self.sampling
        dz_um, dy_um = sampling.voxel_um
        positions = self.planes.positions
        return self.planes.model_copy(
            update={
                "kind": "volumes",
                "shape": self.shape,
                "scale_um": (dz_um, dy_um, self.geometry.pixel_size_um),
                "translation_um": (sampling.first_z_um, self.geometry.origin_um, 0.0),
                "n_planes": 1,
                "positions": tuple(
                    position.model_copy(update={"n_planes": None})
                    for position in positions
                ),
                "channel_offsets_um": (),
                "bidirectional": False,
                "slab_rows": SLAB_ROWS,
            }
        )

    def volume_block(self, block: Block | None) -> Block:
        """Return the metadata block for the outputs: the planes', where it differs."""
        geometry, correction = self.geometry, self.correction
        return {
            **(block or {}),
            **_camera_after(correction, block or {}),
            "geometry": geometry.model_dump(mode="json"),
            "stream": self.volumes().model_dump(mode="json"),
            "angle_deg": geometry.angle_deg,
            "step_um": geometry.step_um,
            "pixel_size_um": geometry.pixel_size_um,
            "scan_direction": geometry.scan_direction,
            "affine": geometry.affine(),
            "deskew": {
                "interpolation": self.options.interpolation,
                "voxel_size_um": list(self.sampling.voxel_um),
                "z_bin": self.options.z_bin,
                "correction": None if correction is None else correction.described(),
                "missing": self.options.missing,
                "channel_offsets_um": list(self.planes.channel_offsets_um),
                "bidirectional": self.planes.bidirectional,
            },
        }


def _camera_after(correction: Correction | None, block: Block) -> Block:
    """Return what a block says of the camera's offset and gain, of corrected values."""
    if correction is None:
        return {}
    offset, gain = "camera_offset", "camera_gain_e_per_count"
    after: Block = {}
    if offset in block:
        after[offset] = (block[offset] - correction.offset_counts) * correction.gain
    if gain in block:
        after[gain] = block[gain] / correction.gain
    return after


def describe_scan(
    sequence: useq.MDASequence,
    block: Block | None,
    geometry: Geometry | None,
    options: Options,
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
    options : Options

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
    return Scan(geometry, planes, options, options.correction_of(block))
