"""What a burst needs of the instrument beside the board, through Micro-Manager.

Separate from the engine because it is about devices, not about the order of things.
Every setting is read back; nothing is caught.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymmcore_plus import CMMCorePlus

    from opm_engine.config import Microscope
    from opm_engine.plan import CameraTiming, PositionInfo, ScanPlan

BUFFER_S = 3.0
"""Seconds of frames that the circular buffer holds."""

MIN_BUFFER_FRAMES = 100
MAX_BUFFER_BYTES = 4 * 1024**3


class InstrumentError(RuntimeError):
    """A device did not take a setting; the message names it."""


def prepare_camera(core: CMMCorePlus, microscope: Microscope) -> None:
    """Set region, pixel type and trigger properties, and read them back."""
    camera = microscope.camera
    if tuple(core.getROI()) != camera.roi:
        core.clearROI()
        core.setROI(*camera.roi)
        if (got := tuple(core.getROI())) != camera.roi:
            msg = f"camera.roi = {list(camera.roi)}, but the camera took {list(got)}"
            raise InstrumentError(msg)
    for name, wanted in camera.properties.items():
        core.setProperty(camera.label, name, wanted)
        value = core.getProperty(camera.label, name)
        if not _same(value, wanted):
            msg = f'camera.properties["{name}"] = {wanted!r}, but it reads {value!r}'
            raise InstrumentError(msg)
    if core.getBytesPerPixel() != 2:
        msg = f"{camera.label} must give 16-bit pixels; choose them in mm_config"
        raise InstrumentError(msg)


def set_exposure(
    core: CMMCorePlus, microscope: Microscope, timing: CameraTiming
) -> None:
    """Set the exposure; refuse if the camera rounds it by more than one line."""
    core.setExposure(timing.exposure_ms)
    actual_ms = core.getExposure()
    if abs(actual_ms - timing.exposure_ms) > microscope.camera.line_time_us / 1000:
        msg = (
            f"exposure = {timing.exposure_ms:g} ms, but the camera set "
            f"{actual_ms:g} ms; ask for that"
        )
        raise InstrumentError(msg)


def size_buffer(core: CMMCorePlus, timing: CameraTiming, n_frames: int) -> None:
    """Size the circular buffer for a few seconds of frames, before light is armed."""
    frame_bytes = core.getImageWidth() * core.getImageHeight() * core.getBytesPerPixel()
    wanted = max(MIN_BUFFER_FRAMES, math.ceil(BUFFER_S * 1000 / timing.period_ms))
    n_bytes = min(min(wanted, n_frames + 2) * frame_bytes, MAX_BUFFER_BYTES)
    footprint_mb = math.ceil(n_bytes / 1024**2)
    if core.getCircularBufferMemoryFootprint() < footprint_mb:
        core.setCircularBufferMemoryFootprint(footprint_mb)


def set_laser_power(core: CMMCorePlus, microscope: Microscope, plan: ScanPlan) -> None:
    """Set the power of lasers whose settings name one."""
    for laser in microscope.lasers:
        if laser.power_property and laser.name in plan.laser_power:
            core.setProperty(*laser.power_property, plan.laser_power[laser.name])


def move_stages(
    core: CMMCorePlus, position: PositionInfo, focus_um: float | None
) -> None:
    """Go to a position; where it names no coordinate, stay.

    Parameters
    ----------
    core : CMMCorePlus
    position : PositionInfo
    focus_um : float or None
        Target of the focus stage; None if there is no such stage.
    """
    if position.x_um is not None or position.y_um is not None:
        x_um, y_um = core.getXYPosition()
        core.setXYPosition(
            x_um if position.x_um is None else position.x_um,
            y_um if position.y_um is None else position.y_um,
        )
    if focus_um is not None and core.getPosition() != focus_um:
        core.setPosition(focus_um)
    core.waitForSystem()


def open_shutter(core: CMMCorePlus) -> None:
    """Open the shutter if the core opens it by itself for an image."""
    if core.getAutoShutter() and core.getShutterDevice():
        core.setShutterOpen(True)


def close_shutter(core: CMMCorePlus) -> None:
    """Close the shutter if there is one."""
    if core.getShutterDevice():
        core.setShutterOpen(False)


def _same(value: str, wanted: str | float) -> bool:
    if isinstance(wanted, str):
        return value == wanted
    return math.isclose(float(value), wanted, rel_tol=1e-6)
