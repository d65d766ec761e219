"""`camera_properties`: which Micro-Manager properties put a make of camera in order.

A pure table, separate from what sets properties and reads them back. Names and values
are those of the device adapters in ``micro-manager/mmCoreAndDevices``
(``DeviceAdapters/…``), read in July 2026:

- hamamatsu: HamamatsuHam is not open; its names are DCAM's, as QI2lab/OPM and dOPM set
  them; the values of ``OUTPUT TRIGGER KIND`` are in ``dcamprop.h``.
- pvcam: ``PVCAM/PVCAMUniversal.cpp``; the values are PVCAM's own texts.
- pco: ``PCO_Generic/MicroManager.cpp``, ``MMHWio.cpp``; the camera names its signals.
- andor: ``AndorSDK3/AndorSDK3.cpp``; SDK 3 names the values of ``AuxOut1``.
- tucam: ``TUCam/MMTUCam.cpp``.

A newer adapter or another model may differ: whoever uses the table compares it with
the loaded device first, and ``camera.properties`` mends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opm_engine.config.errors import ConfigError

if TYPE_CHECKING:
    from opm_engine.config.camera import Camera

Value = str | float
Properties = dict[str, Value]


@dataclass(frozen=True)
class Profile:
    """Properties of one make.

    Attributes
    ----------
    free : dict
        Free running, each frame after the other.
    start : dict or None
        On top of ``free``: wait for one pulse, then run free. None: it cannot.
    kinds : dict
        `ExposureOut.kind` → properties; kinds that it cannot are missing.
    polarities : dict
        `ExposureOut.polarity` → properties, likewise.
    """

    free: Properties
    start: Properties | None
    kinds: Mapping[str, Properties]
    polarities: Mapping[str, Properties] = field(default_factory=dict)


PROFILES: Mapping[str, Profile] = {
    "hamamatsu": Profile(
        free={"TRIGGER SOURCE": "INTERNAL", "Trigger": "NORMAL"},
        start={
            "TRIGGER SOURCE": "EXTERNAL",
            "Trigger": "START",
            "TriggerPolarity": "POSITIVE",
        },
        kinds={
            "all_rows": {"OUTPUT TRIGGER KIND[0]": "EXPOSURE"},
            "any_row": {"OUTPUT TRIGGER KIND[0]": "ANYROW EXPOSURE"},
        },
        polarities={
            "active_high": {"OUTPUT TRIGGER POLARITY[0]": "POSITIVE"},
            "active_low": {"OUTPUT TRIGGER POLARITY[0]": "NEGATIVE"},
        },
    ),
    "pvcam": Profile(
        free={"TriggerMode": "Internal Trigger"},
        start={"TriggerMode": "Trigger first"},
        kinds={
            "all_rows": {"ExposeOutMode": "All Rows"},
            "first_row": {"ExposeOutMode": "First Row"},
            "any_row": {"ExposeOutMode": "Any Row"},
        },
        polarities={"active_high": {}},
    ),
    "pco": Profile(
        free={"Triggermode": "Internal", "Acquiremode": "Internal"},
        start=None,
        kinds={
            "all_rows": {
                "Signal 4 (Status Expos) Status": "on",
                "Signal 4 (Status Expos) Timing": "Show common time of 'All Lines'",
            },
            "first_row": {
                "Signal 4 (Status Expos) Status": "on",
                "Signal 4 (Status Expos) Timing": "Show time of 'First Line'",
            },
            "any_row": {
                "Signal 4 (Status Expos) Status": "on",
                "Signal 4 (Status Expos) Timing": "Show overall time of 'All Lines'",
            },
        },
        polarities={
            "active_high": {"Signal 4 (Status Expos) Polarity": "high"},
            "active_low": {"Signal 4 (Status Expos) Polarity": "low"},
        },
    ),
    # FireAny never falls between overlapped frames: no any_row.
    "andor": Profile(
        free={
            "TriggerMode": "Internal (Recommended for fast acquisitions)",
            "Overlap": "On",
        },
        start={"TriggerMode": "External Start"},
        kinds={
            "all_rows": {"AuxOut1 (TTL I/O)": "FireAll"},
            "first_row": {"AuxOut1 (TTL I/O)": "FireRow1"},
        },
        polarities={"active_high": {}},
    ),
    # The port first: kind and edge are those of the chosen port. "Exposure Start" is a
    # pulse of set width, not as long as the exposure: no first_row.
    "tucam": Profile(
        free={"Trigger Mode": "Off", "Output Trigger Port": "1"},
        start=None,
        kinds={"all_rows": {"Output Trigger Kind": "Global Exposure"}},
        polarities={
            "active_high": {"Output Trigger Edge Mode": "Rising"},
            "active_low": {"Output Trigger Edge Mode": "Falling"},
        },
    ),
    "demo": Profile(
        free={"TriggerSource": "Internal", "StartTrigger": "Off"},
        start={"StartTrigger": "On"},
        kinds={
            "all_rows": {"ExposureOutKind": "AllRows"},
            "first_row": {"ExposureOutKind": "FirstRow"},
            "any_row": {"ExposureOutKind": "AnyRow"},
        },
        polarities={
            "active_high": {"ExposureOutPolarity": "ActiveHigh"},
            "active_low": {"ExposureOutPolarity": "ActiveLow"},
        },
    ),
}


def camera_properties(camera: Camera, *, start_triggered: bool) -> dict[str, Value]:
    """Return the properties to set before a run, in this order.

    Later ones win: profile, ``camera.properties``, and if start-triggered the profile's
    start trigger, ``camera.start_trigger``.

    Parameters
    ----------
    camera : Camera
    start_triggered : bool
        Whether it waits for the stage's start pulse before it runs free.

    Raises
    ------
    ConfigError
        If this make cannot do what ``camera.exposure_out`` says, or nobody says how it
        waits for a start pulse; names the field.
    """
    profile = PROFILES[camera.profile] if camera.profile else None
    found: dict[str, Value] = {}
    if profile is not None:
        out = camera.exposure_out
        found |= profile.free
        found |= _choice(camera, "kind", profile.kinds, out.kind)
        found |= _choice(camera, "polarity", profile.polarities, out.polarity)
    found |= camera.properties
    if not start_triggered:
        return found
    start = profile.start if profile else None
    if start is None and not camera.start_trigger:
        who = f"profile {camera.profile!r}" if profile else "a camera without profile"
        msg = (
            f"camera.start_trigger: {who} knows no way to wait for one pulse and then "
            "run free; name the properties that make it do so"
        )
        raise ConfigError(msg)
    return found | (start or {}) | camera.start_trigger


def _choice(
    camera: Camera, name: str, known: Mapping[str, Properties], wanted: str
) -> Properties:
    if wanted not in known:
        msg = (
            f"camera.exposure_out.{name}: profile {camera.profile!r} knows "
            f"{' and '.join(known)}, not {wanted}"
        )
        raise ConfigError(msg)
    return known[wanted]
