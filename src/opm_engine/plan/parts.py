"""What a plan is made of: timing, channels, bursts, the path of a stage.

Separate from ``model`` so that each step of ``resolve`` can make its part without
knowing the whole. Frozen, plain JSON.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from opm_engine.geometry import Geometry
from opm_engine.plan.stream import ChannelInfo, PositionInfo

Axis = Literal["t", "p", "g", "c", "z"]
AXES: tuple[Axis, ...] = ("t", "p", "g", "c", "z")
"""In the order of useq's own event index."""


class Frozen(BaseModel):
    """A part of a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CameraTiming(Frozen):
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


class SampleClock(Frozen):
    """Samples that the board plays per camera frame.

    Attributes
    ----------
    samples_per_frame : int
        K. With two, one is played at each end of the window in which all rows expose;
        with more, the board's own clock plays them from its start on.
    sample_ms : float
        Between samples; with two of them the length of the window.
    n_window : int
        How many of them lie in the window; the next one is dark.
    """

    samples_per_frame: int
    sample_ms: float
    n_window: int


class PlannedChannel(Frozen):
    """One channel: a laser, its exposure, its focus offset.

    Attributes
    ----------
    name, group, line, colour : str
    timing : CameraTiming
    sampling : SampleClock
    light : (first, stop)
        Samples of a frame in which the laser is on, the last one excluded.
    z_offset_um : float
        Of the focus stage.
    """

    name: str
    group: str
    line: str
    colour: str
    timing: CameraTiming
    sampling: SampleClock
    light: tuple[int, int] = (0, 1)
    z_offset_um: float = 0.0

    @property
    def light_ms(self) -> float:
        """Light per frame."""
        first, stop = self.light
        return (stop - first) * self.sampling.sample_ms


class StageScan(Frozen):
    """Path of the scanning stage during one burst.

    The stage sends its start pulse where it starts, at rest, and is at constant speed
    ``ramp_ms`` later; plane 0 is reached in the middle of the first lit exposure.

    Attributes
    ----------
    speed_um_per_s : float
        Constant, positive.
    start_um, stop_um : float
        Relative to the stage position.
    n_lead : int
        Excess start planes: dark frames in which it gains speed.
    direction : {1, -1}
        1 towards larger positions.
    ramp_ms : float
        Time to reach constant speed, and to stop.
    """

    speed_um_per_s: float
    start_um: float
    stop_um: float
    n_lead: int
    direction: Literal[1, -1]
    ramp_ms: float


class Burst(Frozen):
    """Frames of one camera sequence: runs of lit frames, dark ones around them.

    Each run is ``n_lead`` dark frames, ``n_lit`` lit ones and, except the last run's,
    ``n_dark`` dark ones.

    Attributes
    ----------
    index : dict
        Outer axes that stay fixed, like ``{"t": 0, "p": 1}``.
    first_event : int
        Number of the burst's first event in the whole sequence.
    n_lit : int
        Lit frames of a run.
    n_dark : int
        Dark frames between two runs, in which the galvo returns.
    n_runs : int
    n_lead : int
        Dark frames before the lit ones of each run, in which galvo or stage gain
        speed.
    """

    index: dict[Axis, int]
    first_event: int
    n_lit: int
    n_dark: int
    n_runs: int
    n_lead: int = 0

    @property
    def frames_per_run(self) -> int:
        """Frames from the start of one run to that of the next."""
        return self.n_lead + self.n_lit + self.n_dark

    @property
    def n_frames(self) -> int:
        """Frames to ask of the camera, dark ones included; of each camera."""
        return self.n_runs * self.frames_per_run - self.n_dark

    @property
    def n_events(self) -> int:
        """Frames to yield, of each camera."""
        return self.n_runs * self.n_lit

    def is_lit(self, frame: int) -> bool:
        """Whether a frame belongs to an event; the others are popped and dropped."""
        return 0 <= frame % self.frames_per_run - self.n_lead < self.n_lit


class Whole(Frozen):
    """What several scans, planned one by one, make together.

    Attributes
    ----------
    n_events : int
        Frames that the run yields, of each camera.
    n_times : int
    geometry : Geometry
        Of the longest scan.
    channels : tuple of ChannelInfo
        By their number in the events; with several cameras c * n_cameras + cam.
    channel_offsets_um : tuple of float
        Of each of them along the scan; empty for none.
    positions : tuple of PositionInfo
        Sites: stage positions, or the tiles of their grids.
    """

    n_events: int
    n_times: int
    geometry: Geometry
    channels: tuple[ChannelInfo, ...]
    channel_offsets_um: tuple[float, ...]
    positions: tuple[PositionInfo, ...]
