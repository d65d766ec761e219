"""What a burst needs of the instrument beside the board, through Micro-Manager.

Separate from the engine because it is about devices, not about the order of things.
Every setting is read back; nothing is caught.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opm_engine import scan_stage
from opm_engine.config.profiles import camera_properties
from opm_engine.plan import BLOCK, describe
from opm_engine.properties import (
    InstrumentError,
    Property,
    require_property,
    set_property,
)

if TYPE_CHECKING:
    from pymmcore_plus import CMMCorePlus

    from opm_engine.config import Camera, Microscope
    from opm_engine.plan import (
        Burst,
        CameraTiming,
        PlannedChannel,
        PositionInfo,
        ScanPlan,
    )

BUFFER_S = 3.0
"""Seconds of frames that the circular buffer holds."""

MIN_BUFFER_FRAMES = 100
MAX_BUFFER_BYTES = 4 * 1024**3

Shift = tuple[float, float, float]
NO_SHIFT: Shift = (0.0, 0.0, 0.0)


@dataclass
class Before:
    """What a run will change and the stock engine does not restore.

    Attributes
    ----------
    focus_um : float or None
        Where the focus stage stands; None without one.
    powers : dict
        Value of each laser's power property.
    stage : dict
        Speed and limits of the scanning stage's controller.
    xy_um : (x, y) or None
        Where the XY stage stands; None without one.
    shifts_um : dict
        Number of a stage position to (x, y, z) by which its coming visits move.
    focus_corrections_um : dict
        Number of a stage position to what its autofocus has found; None is every one.
    start_triggered : bool
        Whether a burst has made the camera wait for the stage.
    """

    focus_um: float | None = None
    powers: dict[Property, str] = field(default_factory=dict)
    stage: dict[Property, str] = field(default_factory=dict)
    xy_um: tuple[float, float] | None = None
    shifts_um: dict[int, Shift] = field(default_factory=dict)
    focus_corrections_um: dict[int | None, float] = field(default_factory=dict)
    start_triggered: bool = False

    def shift(self, p: int, x_um: float, y_um: float, z_um: float) -> None:
        """Move the coming visits of a position, on top of earlier shifts.

        Raises
        ------
        ValueError
            If the position is no number from 0, or a shift is not finite.
        """
        if p < 0:
            msg = f"p = {p} is no number of a stage position, from 0"
            raise ValueError(msg)
        if not all(map(math.isfinite, (x_um, y_um, z_um))):
            msg = f"a shift must be finite, not ({x_um}, {y_um}, {z_um}) µm"
            raise ValueError(msg)
        x, y, z = self.shifts_um.get(p, NO_SHIFT)
        self.shifts_um[p] = x + x_um, y + y_um, z + z_um

    def restore_powers(self, core: CMMCorePlus) -> None:
        """Set powers back: what a burst does not ask for is not the last one's."""
        for (device, name), value in self.powers.items():
            if core.getProperty(device, name) != value:
                core.setProperty(device, name, value)

    def restore(self, core: CMMCorePlus, microscope: Microscope) -> None:
        """Set the properties back; a camera that waits for the stage runs free."""
        self.restore_powers(core)
        scan_stage.restore(core, self.stage)
        if self.start_triggered:
            prepare_camera(core, microscope)


def remember(core: CMMCorePlus, microscope: Microscope) -> Before:
    """Read what a run will change."""
    properties = [x.power_property for x in microscope.lasers if x.power_property]
    stage = microscope.scan_stage
    return Before(
        focus_um=core.getPosition() if core.getFocusDevice() else None,
        powers={where: core.getProperty(*where) for where in properties},
        stage=scan_stage.remember(core, stage) if stage else {},
        xy_um=_xy_um(core),
    )


def _xy_um(core: CMMCorePlus) -> tuple[float, float] | None:
    if not core.getXYStageDevice():
        return None
    x_um, y_um = core.getXYPosition()
    return x_um, y_um


def prepare_camera(
    core: CMMCorePlus, microscope: Microscope, *, start_triggered: bool = False
) -> None:
    """Set region, pixel type and trigger properties, and read them back.

    ``start_triggered`` makes it wait for the stage's pulse before it runs free.

    Raises
    ------
    InstrumentError
        If the camera has no such property, or does not take a value.
    """
    camera = microscope.camera
    wanted = refuse_unknown(core, microscope, start_triggered=start_triggered)
    if tuple(core.getROI()) != camera.roi:
        core.clearROI()
        core.setROI(*camera.roi)
        if (got := tuple(core.getROI())) != camera.roi:
            msg = f"camera.roi = {list(camera.roi)}, but the camera took {list(got)}"
            raise InstrumentError(msg)
    for device in camera.devices:
        for name, value in wanted.items():
            set_property(core, (device, name), value, _field_of(camera, name))
    if core.getBytesPerPixel() != 2:
        msg = f"{camera.label} must give 16-bit pixels; choose them in mm_config"
        raise InstrumentError(msg)


def refuse_unknown(
    core: CMMCorePlus, microscope: Microscope, *, start_triggered: bool
) -> dict[str, str | float]:
    """Return the camera's properties, once the loaded devices have all of them.

    Raises
    ------
    ConfigError
        If this make of camera cannot do what is described.
    InstrumentError
        If a device lacks a property; nothing was set or moved then.
    """
    camera = microscope.camera
    wanted = camera_properties(camera, start_triggered=start_triggered)
    for device in camera.devices:
        for name in wanted:
            require_property(core, (device, name), _field_of(camera, name))
    return wanted


def _field_of(camera: Camera, name: str) -> str:
    """Field of the description that asks for a property."""
    for table in ("start_trigger", "properties"):
        if name in getattr(camera, table):
            return f'camera.{table}["{name}"]'
    return f'camera.profile = "{camera.profile}": "{name}"'


def prepare_burst(
    core: CMMCorePlus,
    microscope: Microscope,
    plan: ScanPlan,
    burst: Burst,
    before: Before,
) -> None:
    """Bring everything but the board to where a burst starts.

    Raises
    ------
    InstrumentError
        If a device does not take a setting, or presets disagree.
    """
    channels = plan.channels_of(burst)
    position = plan.position_of(burst)
    before.start_triggered |= plan.stage is not None
    prepare_camera(core, microscope, start_triggered=plan.stage is not None)
    scan_stage.restore(core, before.stage)
    focus_um = _focus_um(position, channels[0], before)
    _move_stages(core, microscope, position, focus_um, before)
    before.restore_powers(core)
    _set_presets(core, channels)
    set_laser_power(core, microscope, plan)
    prepare_exposure(core, microscope, channels[0])
    _size_buffer(core, channels[0].timing, burst.n_frames, plan.n_cameras)
    if plan.stage is not None and microscope.scan_stage is not None:
        scan_stage.prepare_scan(core, microscope.scan_stage, plan.stage)
    for shutter in _shutters_of(core, microscope, channels):
        core.setShutterOpen(shutter, True)
    core.waitForSystem()


def set_laser_power(core: CMMCorePlus, microscope: Microscope, plan: ScanPlan) -> None:
    """Set the power of lasers whose settings name one."""
    for laser in microscope.lasers:
        if laser.power_property and laser.name in plan.laser_power:
            percent = plan.laser_power[laser.name]
            set_property(
                core, laser.power_property, percent, f'laser_power["{laser.name}"]'
            )


def describe_run(
    core: CMMCorePlus, plan: ScanPlan, microscope: Microscope
) -> dict[str, Any]:
    """Return our block of metadata: the plan, with the powers as they read now."""
    powers = laser_power(core, microscope)
    return {BLOCK: {**describe(plan, microscope), "laser_power": powers}}


def laser_power(core: CMMCorePlus, microscope: Microscope) -> dict[str, float]:
    """Power of each laser that has a property for it, as it reads now."""
    return {
        laser.name: float(core.getProperty(*laser.power_property))
        for laser in microscope.lasers
        if laser.power_property
    }


def close_shutters(
    core: CMMCorePlus, microscope: Microscope, *, lamp: bool = True
) -> None:
    """Close the shutters of the lasers and, unless it stays, the core's own."""
    labels: list[str] = [core.getShutterDevice()] if lamp else []
    labels += [laser.shutter for laser in microscope.lasers if laser.shutter]
    with ExitStack() as each_of_them:
        for label in filter(None, dict.fromkeys(labels)):
            each_of_them.callback(core.setShutterOpen, label, False)


def halt_stages(core: CMMCorePlus, microscope: Microscope) -> None:
    """Stop what a burst has set in motion."""
    if microscope.scan_stage is not None:
        scan_stage.halt(core, microscope.scan_stage)


def start_stage(core: CMMCorePlus, microscope: Microscope, plan: ScanPlan) -> None:
    """Let the scanning stage go, if the plan has one."""
    if plan.stage is not None and microscope.scan_stage is not None:
        scan_stage.start_scan(core, microscope.scan_stage)


def _shutters_of(
    core: CMMCorePlus, microscope: Microscope, channels: tuple[PlannedChannel, ...]
) -> list[str]:
    """Return the shutters that must be open for some channels."""
    names = {channel.name for channel in channels}
    wanted = [x.shutter for x in microscope.lasers if x.shutter and x.name in names]
    if core.getAutoShutter() and core.getShutterDevice():
        wanted.append(core.getShutterDevice())
    return wanted


def _set_presets(core: CMMCorePlus, channels: tuple[PlannedChannel, ...]) -> None:
    """Apply the presets of all channels of a burst; nothing can change within it."""
    owners: dict[tuple[str, str], tuple[str, str]] = {}
    for channel in channels:
        for device, name, value in core.getConfigData(channel.group, channel.name):
            first, other = owners.setdefault((device, name), (channel.name, value))
            if other != value:
                msg = (
                    f'channels: the presets "{first}" and "{channel.name}" of group '
                    f'"{channel.group}" set {device}.{name} differently, which cannot '
                    "change within one camera sequence; acquire one after the other, "
                    'axis_order="tpcz", with a time interval above 0'
                )
                raise InstrumentError(msg)
        core.setConfig(channel.group, channel.name)


def prepare_exposure(
    core: CMMCorePlus, microscope: Microscope, channel: PlannedChannel
) -> None:
    """Set the exposure; refuse if the camera rounds it by more than one line."""
    timing = channel.timing
    core.setExposure(timing.exposure_ms)
    actual_ms = core.getExposure()
    if abs(actual_ms - timing.exposure_ms) > microscope.camera.line_time_us / 1000:
        msg = (
            f"exposure = {timing.exposure_ms:g} ms, but the camera set "
            f"{actual_ms:g} ms; ask for that"
        )
        raise InstrumentError(msg)


def _size_buffer(
    core: CMMCorePlus, timing: CameraTiming, n_frames: int, n_cameras: int
) -> None:
    """Size the circular buffer for a few seconds of frames, before light is armed."""
    image_bytes = core.getImageWidth() * core.getImageHeight() * core.getBytesPerPixel()
    frame_bytes = image_bytes * n_cameras
    wanted = max(MIN_BUFFER_FRAMES, math.ceil(BUFFER_S * 1000 / timing.period_ms))
    n_bytes = min(min(wanted, n_frames + 2) * frame_bytes, MAX_BUFFER_BYTES)
    footprint_mb = math.ceil(n_bytes / 1024**2)
    if core.getCircularBufferMemoryFootprint() < footprint_mb:
        core.setCircularBufferMemoryFootprint(footprint_mb)


def _focus_um(
    position: PositionInfo, channel: PlannedChannel, before: Before
) -> float | None:
    """Target of the focus stage; without a position's z, where it stood."""
    if before.focus_um is None:
        return None
    base_um = before.focus_um if position.z_um is None else position.z_um
    corrections = before.focus_corrections_um
    found_um = corrections.get(position.p, 0.0) + corrections.get(None, 0.0)
    return base_um + channel.z_offset_um + found_um


def _move_stages(
    core: CMMCorePlus,
    microscope: Microscope,
    position: PositionInfo,
    focus_um: float | None,
    before: Before,
) -> None:
    """Go to a position; where it names no coordinate, stay.

    A scanning stage has not stayed: it goes back to where the run began.
    """
    shift_x, shift_y, shift_z = before.shifts_um.get(position.p, NO_SHIFT)
    named = position.x_um is not None or position.y_um is not None
    if before.xy_um is not None and (named or shift_x or shift_y or before.stage):
        here = before.xy_um if before.stage else core.getXYPosition()
        x_um = here[0] if position.x_um is None else position.x_um
        y_um = here[1] if position.y_um is None else position.y_um
        x_um, y_um = x_um + shift_x, y_um + shift_y
        scan_stage.refuse_beyond(microscope.scan_stage, x_um, y_um)
        core.setXYPosition(x_um, y_um)
    if focus_um is not None and core.getPosition() != focus_um + shift_z:
        core.setPosition(focus_um + shift_z)
    core.waitForSystem()
