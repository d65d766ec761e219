"""The metadata block: everything a handler or a later reader needs to know of a run.

Separate from the plan because it also names the microscope, and because its keys are
a contract with files on disk. Plain JSON.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opm_engine.config import Microscope
    from opm_engine.plan.model import ScanPlan


def describe(plan: ScanPlan, microscope: Microscope) -> dict[str, Any]:
    """Return the block that goes under the key ``opm_engine``.

    Parameters
    ----------
    plan : ScanPlan
    microscope : Microscope

    Returns
    -------
    dict
        JSON: ``plan``, ``geometry``, ``microscope`` and ``stream`` in full, and the
        numbers needed to deskew under flat keys. ``channel_offsets_um`` count the way
        the scan moves (in backward volumes along -Y if it was +Y), ``light_ms`` are
        per channel, ``projected_pixel_um`` is (Y, X) or None, ``stage`` the path of
        the scanning stage or None.
    """
    geometry = plan.whole.geometry if plan.whole else plan.geometry
    stream = plan.stream()
    stage = None if plan.stage is None else plan.stage.model_dump(mode="json")
    pixel_um = plan.projected_pixel_um
    return {
        "version": version("opm-engine"),
        "angle_deg": geometry.angle_deg,
        "step_um": geometry.step_um,
        "pixel_size_um": geometry.pixel_size_um,
        "scan_direction": geometry.scan_direction,
        "flip_rows": geometry.flip_rows,
        "flip_columns": geometry.flip_columns,
        "origin_um": geometry.origin_um,
        "affine": geometry.affine(),
        "camera_offset": microscope.camera.offset_counts,
        "camera_gain_e_per_count": microscope.camera.gain_e_per_count,
        "frame_rate_hz": [1000 / c.timing.period_ms for c in plan.channels],
        "light_ms": [channel.light_ms for channel in plan.channels],
        "channel_offsets_um": list(stream.channel_offsets_um),
        "bidirectional": plan.bidirectional,
        "projected_pixel_um": None if pixel_um is None else list(pixel_um),
        "stage": stage,
        "geometry": geometry.model_dump(mode="json"),
        "settings": {
            "mode": plan.mode,
            "motion": plan.motion,
            "bidirectional": plan.bidirectional,
            "offset_um": plan.rest_um,
            "range_um": plan.range_um or None,
            "blanking": plan.blanking,
            "pulse_ms": plan.pulse_ms,
            "laser_power": plan.laser_power,
        },
        "plan": plan.model_dump(mode="json"),
        "stream": stream.model_dump(mode="json"),
        "microscope": microscope.model_dump(mode="json"),
    }
