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

from pydantic import BaseModel, ConfigDict

from opm_engine.geometry import Geometry
from opm_engine.plan.stream import ChannelInfo, PositionInfo, Stream

Axis = Literal["t", "p", "c", "z"]
AXES: tuple[Axis, ...] = ("t", "p", "c", "z")
"""In the order of useq's own event index."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CameraTiming(_Frozen):
    """Timing of a rolling shutter with overlapped readout.

    Attributes
    ----------
    exposure_ms : float
        Of each row.
    readout_ms : float
        Rows times line time: the galvo moves in it, lasers are off.
    period_ms : float
        From frame to frame.
    window_ms : float
        In which all rows expose together: the light per frame.
    """

    exposure_ms: float
    readout_ms: float
    period_ms: float
    window_ms: float


class PlannedChannel(_Frozen):
    """One channel: a laser, its exposure, its focus offset."""

    name: str
    group: str
    line: str
    colour: str
    timing: CameraTiming
    z_offset_um: float = 0.0


class Burst(_Frozen):
    """Frames of one camera sequence: ``n_runs`` runs of lit planes, dark ones between.

    Attributes
    ----------
    index : dict
        Outer axes that stay fixed, like ``{"t": 0, "p": 1}``.
    first_event : int
        Number of the burst's first event in the whole sequence.
    n_lit, n_dark, n_runs : int
        Lit frames of a run, dark flyback frames between two runs, runs.
    """

    index: dict[Axis, int]
    first_event: int
    n_lit: int
    n_dark: int
    n_runs: int

    @property
    def n_frames(self) -> int:
        """Frames to ask of the camera, dark ones included."""
        return self.n_runs * (self.n_lit + self.n_dark) - self.n_dark

    @property
    def n_events(self) -> int:
        """Frames to yield."""
        return self.n_runs * self.n_lit

    def is_lit(self, frame: int) -> bool:
        """Whether a frame belongs to an event; the others are flyback."""
        return frame % (self.n_lit + self.n_dark) < self.n_lit


class ScanPlan(_Frozen):
    """A sequence as the microscope will play it.

    Attributes
    ----------
    mode : {"galvo", "single"}
    blanking : bool
        Light only in the window in which all rows expose.
    laser_power : dict
        Laser name to percent.
    axes : tuple of {"t", "p", "c", "z"}
        Used axes, outermost first.
    burst_axes : tuple
        The innermost of them, which one camera sequence covers.
    channels, positions : tuple
    n_times : int
    interval_s : float
    start_um, step_um : float
        Scan offset of the first plane and from plane to plane, signed, along the
        coverslip.
    n_flyback : int
        Dark frames in which the galvo returns between gapless runs.
    geometry : Geometry
    warnings : tuple of str
        What works but the user should know.
    """

    mode: Literal["galvo", "single"]
    blanking: bool
    laser_power: dict[str, float]
    axes: tuple[Axis, ...]
    burst_axes: tuple[Axis, ...]
    channels: tuple[PlannedChannel, ...]
    positions: tuple[PositionInfo, ...]
    n_times: int
    interval_s: float
    start_um: float
    step_um: float
    n_flyback: int
    geometry: Geometry
    warnings: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[Axis, int]:
        """Length of each axis, used or not."""
        return {
            "t": self.n_times,
            "p": len(self.positions),
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
        return math.prod(self.sizes.values())

    @property
    def duration_s(self) -> float:
        """Time that the camera exposes in a run; stages and board come on top."""
        mean_ms = sum(c.timing.period_ms for c in self.channels) / len(self.channels)
        return self.n_events * mean_ms / 1000

    def offset_um(self, plane: int) -> float:
        """Scan offset of a plane, in acquisition order."""
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

    def stream(self) -> Stream:
        """Describe the planes that handlers will receive."""
        geometry = self.geometry
        pixel = geometry.pixel_size_um
        return Stream(
            kind="planes",
            shape=(geometry.n_rows, geometry.n_columns),
            scale_um=(geometry.step_um, pixel, pixel),
            n_planes=geometry.n_planes,
            n_times=self.n_times,
            interval_s=self.interval_s,
            channels=tuple(
                ChannelInfo(
                    name=channel.name,
                    colour=channel.colour,
                    exposure_ms=channel.timing.exposure_ms,
                )
                for channel in self.channels
            ),
            positions=self.positions,
        )
