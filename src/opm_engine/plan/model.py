"""`ScanPlan`: everything that is decided about a run before hardware is touched.

Separate from ``resolve``, which makes it, so that whoever reads a plan need not read
how it came about. Frozen, plain JSON, without devices: lines and volts follow from it
and the microscope in ``daq.waveforms``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Literal

from opm_engine.geometry import Geometry
from opm_engine.plan.measured import as_measured
from opm_engine.plan.modes import Mode
from opm_engine.plan.parts import (
    AXES,
    Axis,
    Burst,
    CameraTiming,
    Frozen,
    PlannedChannel,
    StageScan,
    Whole,
)
from opm_engine.plan.stream import ChannelInfo, PositionInfo, Stream

__all__ = ["AXES", "Axis", "Burst", "CameraTiming", "PlannedChannel", "ScanPlan"]


class ScanPlan(Frozen):
    """A sequence as the microscope will play it.

    Attributes
    ----------
    mode : {"galvo", "stage", "projection", "single"}
    motion : {"stepped", "ramp"}
        Of the galvo, in mode ``galvo``.
    bidirectional : bool
        Volumes of odd t are scanned backwards.
    blanking : bool
        Light only in the window in which all rows expose.
    laser_power : dict
        Laser name to percent.
    pulse_ms : dict
        Laser name to length of its pulse, as asked for; what is played is in
        ``channels``.
    axes : tuple of {"t", "p", "c", "z"}
        Used axes, outermost first.
    burst_axes : tuple
        The innermost of them, which one camera sequence covers.
    channels, positions : tuple
    cameras : tuple of str
        Labels of the physical cameras, if there are several.
    n_times : int
    interval_s : float
    start_um, step_um : float
        Scan offset of the first plane and from plane to plane, signed, along the
        coverslip; in mode ``stage`` relative to the stage position, along its axis.
    rest_um : float
        Scan offset at which the galvo rests in mode ``stage``, and of the centre of
        ``range_um`` in mode ``projection``.
    range_um : float
        That one frame of mode ``projection`` covers.
    shear_ratio : float
        Shift of the image per scan offset in mode ``projection``; else 0.
    n_lead : int
        Dark frames before each run, in which galvo or stage gain speed.
    n_flyback : int
        Dark frames in which the galvo returns between gapless runs.
    geometry : Geometry
    stage : StageScan, optional
        Path of the stage in each burst of mode ``stage``.
    whole : Whole, optional
        Of which this is one scan, if the sequence is no regular grid; ``axes`` and
        sizes are then this scan's.
    warnings : tuple of str
        What works but the user should know.
    """

    mode: Mode
    motion: Literal["stepped", "ramp"] = "stepped"
    bidirectional: bool = False
    blanking: bool
    laser_power: dict[str, float]
    pulse_ms: dict[str, float]
    axes: tuple[Axis, ...]
    burst_axes: tuple[Axis, ...]
    channels: tuple[PlannedChannel, ...]
    positions: tuple[PositionInfo, ...]
    cameras: tuple[str, ...] = ()
    n_times: int
    interval_s: float
    start_um: float
    step_um: float
    rest_um: float = 0.0
    range_um: float = 0.0
    shear_ratio: float = 0.0
    n_lead: int = 0
    n_flyback: int = 0
    geometry: Geometry
    stage: StageScan | None = None
    whole: Whole | None = None
    warnings: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[Axis, int]:
        """Length of each axis, used or not."""
        return {
            "t": self.n_times,
            "p": len(self.positions),
            "g": 1,
            "c": len(self.channels),
            "z": self.geometry.n_planes,
        }

    @property
    def interleaved(self) -> bool:
        """Whether channels alternate from plane to plane."""
        return self.axes[-1] == "c"

    @property
    def n_events(self) -> int:
        """Frames that a run yields."""
        if self.whole is not None:
            return self.whole.n_events
        return math.prod(self.sizes.values())

    @property
    def makes_volumes(self) -> bool:
        """Whether what every position gives can be deskewed."""
        sites = (self.whole or self._alone).positions
        scanned = self.geometry.n_planes > 1
        return scanned and all(site.n_planes != 1 for site in sites)

    @property
    def duration_s(self) -> float:
        """Time that the camera exposes in a run; stages and board come on top."""
        mean_ms = sum(c.timing.period_ms for c in self.channels) / len(self.channels)
        burst = next(self.bursts())
        n_frames = self.n_events / burst.n_events * burst.n_frames
        return n_frames * mean_ms / 1000

    @property
    def n_cameras(self) -> int:
        """Frames per exposure."""
        return max(len(self.cameras), 1)

    @property
    def frames_per_plane(self) -> int:
        """Channels that are acquired before the scan goes on."""
        return len(self.channels) if self.interleaved else 1

    @property
    def is_moving(self) -> bool:
        """Whether the scan moves while a plane is exposed."""
        return self.mode == "stage" or self.motion == "ramp"

    @property
    def channel_offsets_um(self) -> tuple[float, ...]:
        """By how much each channel's planes lie further along the scan; or empty.

        Interleaved channels of a moving scan: channel c of C lies c / C of a step
        further the way the scan moves; along Y that is the volume's scan direction.
        """
        n_channels = len(self.channels)
        if not (self.is_moving and self.interleaved and n_channels > 1):
            return ()
        step_um = self.geometry.step_um
        return tuple(c * step_um / n_channels for c in range(n_channels))

    @property
    def projected_pixel_um(self) -> tuple[float, float] | None:
        """(Y, X) of the pixels in mode ``projection``: rows are px / r apart."""
        if self.mode != "projection":
            return None
        pixel_um = self.geometry.pixel_size_um
        return pixel_um / self.shear_ratio, pixel_um

    def is_backward(self, t: int) -> bool:
        """Whether the volume of a time point is scanned from its end."""
        return self.bidirectional and t % 2 == 1

    def plane_of(self, t: int, z: int) -> int:
        """Which plane of the scan comes as the ``z``-th of a volume."""
        return self.geometry.n_planes - 1 - z if self.is_backward(t) else z

    def offset_um(self, plane: int) -> float:
        """Scan offset of a plane, numbered along the scan."""
        return self.start_um + plane * self.step_um

    def bursts(self) -> Iterator[Burst]:
        """Bursts in the order in which they are played."""
        sizes = self.sizes
        outer = [axis for axis in self.axes if axis not in self.burst_axes]
        run_axes = {"z", "c"} if self.interleaved else {"z"}
        n_lit = math.prod(sizes[axis] for axis in self.burst_axes if axis in run_axes)
        n_runs = math.prod(
            sizes[axis] for axis in self.burst_axes if axis not in run_axes
        )
        n_dark = self.n_flyback if n_runs > 1 else 0
        ranges = (range(sizes[axis]) for axis in outer)
        for number, where in enumerate(itertools.product(*ranges)):
            yield Burst(
                index=dict(zip(outer, where, strict=True)),
                first_event=number * n_lit * n_runs,
                n_lit=n_lit,
                n_dark=n_dark,
                n_runs=n_runs,
                n_lead=self.n_lead,
            )

    def channels_of(self, burst: Burst) -> tuple[PlannedChannel, ...]:
        """Return the channels that a burst acquires; their exposures are equal."""
        if "c" in burst.index:
            return (self.channels[burst.index["c"]],)
        return self.channels

    def index_of(self, burst: Burst, event: int) -> dict[Axis, int]:
        """Return all four indices of the burst's ``event``-th lit frame."""
        index: dict[Axis, int] = {"t": 0, "p": 0, "c": 0, "z": 0, **burst.index}
        for axis in reversed(self.burst_axes):
            event, index[axis] = divmod(event, self.sizes[axis])
        return index

    def measured(
        self, *, period_ms: float, stage_speed_um_per_s: float | None = None
    ) -> ScanPlan:
        """Return the plan with what camera and stage turned out to do.

        Parameters
        ----------
        period_ms : float
            From frame to frame, at the exposure of the first channel.
        stage_speed_um_per_s : float, optional
            Constant speed that the controller took.

        Returns
        -------
        ScanPlan
            Timing, light and, in mode ``stage``, step, geometry and path follow.

        Raises
        ------
        PlanError
            If the period differs by more than 1 % from the planned one, or the speed
            by more than 10 %.
        """
        return as_measured(self, period_ms, stage_speed_um_per_s)

    def stream(self) -> Stream:
        """Describe the planes that handlers will receive."""
        whole = self.whole or self._alone
        geometry = whole.geometry
        pixel_um = geometry.pixel_size_um
        y_um, x_um = self.projected_pixel_um or (pixel_um, pixel_um)
        z_um = 1.0 if self.projected_pixel_um else geometry.step_um
        return Stream(
            kind="planes",
            shape=(geometry.n_rows, geometry.n_columns),
            scale_um=(z_um, y_um, x_um),
            n_planes=geometry.n_planes,
            n_times=whole.n_times,
            interval_s=self.interval_s,
            channels=whole.channels,
            positions=whole.positions,
            n_cameras=self.n_cameras,
            channel_offsets_um=whole.channel_offsets_um,
            bidirectional=self.bidirectional,
        )

    def position_of(self, burst: Burst) -> PositionInfo:
        """Return where the stage is in a burst."""
        if self.whole is None:
            return self.positions[burst.index.get("p", 0)]
        site = burst.index.get("p", 0), burst.index.get("g", 0)
        return next(x for x in self.whole.positions if (x.p, x.g) == site)

    def is_of(self, other: ScanPlan | None) -> bool:
        """Whether both are scans of one sequence."""
        if self is other or other is None:
            return self is other
        return self.whole is not None and self.whole == other.whole

    @property
    def _alone(self) -> Whole:
        """The whole, of which this is all."""
        return Whole(
            n_events=self.n_events,
            n_times=self.n_times,
            geometry=self.geometry,
            channels=self._channel_infos,
            channel_offsets_um=tuple(
                offset_um
                for offset_um in self.channel_offsets_um
                for _ in range(self.n_cameras)
            ),
            positions=self.positions,
        )

    @property
    def _channel_infos(self) -> tuple[ChannelInfo, ...]:
        return tuple(
            ChannelInfo(
                name=f"{channel.name} {camera}".rstrip(),
                colour=channel.colour,
                exposure_ms=channel.timing.exposure_ms,
            )
            for channel in self.channels
            for camera in self.cameras or ("",)
        )
