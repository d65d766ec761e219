"""Modes: what each needs, and which settings have a meaning in it.

Separate from ``resolve`` because it is a table. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from opm_engine.plan.settings import PlanError, ScanSettings

if TYPE_CHECKING:
    import useq

    from opm_engine.config import Microscope

Mode = Literal["galvo", "stage", "projection", "single"]

SCANS: tuple[Mode, ...] = ("galvo", "stage")
"""Modes that take a z plan."""

USED_IN: dict[str, tuple[Mode, ...]] = {
    "motion": ("galvo",),
    "bidirectional": ("galvo",),
    "offset_um": ("single", "projection", "stage"),
    "range_um": ("projection",),
    "pulse_ms": ("galvo", "single", "stage"),
}
"""Settings that only some modes know."""


def plan_mode(
    settings: ScanSettings, sequence: useq.MDASequence, microscope: Microscope
) -> Mode:
    """Return the mode, with all that it needs.

    Raises
    ------
    PlanError
        If something is missing, or given but without a meaning in this mode.
    """
    mode = settings.mode
    if mode is None or mode == "off":
        listed = ", ".join(f'"{known}"' for known in get_args(Mode))
        msg = f'mode = "{mode}" cannot be planned; these can: {listed}'
        raise PlanError(msg)
    if mode in SCANS and not sequence.z_plan:
        msg = f'z_plan: mode "{mode}" needs a scan, like {{"range": 60, "step": 0.4}}'
        raise PlanError(msg)
    _refuse_idle(settings, mode)
    if mode == "single" and sequence.z_plan:
        msg = 'z_plan: mode "single" takes one plane; leave the z_plan out'
        raise PlanError(msg)
    if mode == "projection":
        _refuse_projection(settings, sequence, microscope)
    if mode == "stage" and microscope.scan_stage is None:
        msg = (
            'mode "stage" needs the table [scan_stage] in the microscope\'s '
            'description; mode "galvo" scans without one'
        )
        raise PlanError(msg)
    if not settings.blanking and settings.pulse_ms:
        msg = "pulse_ms: pulses are made by blanking; leave blanking on"
        raise PlanError(msg)
    return mode


def _refuse_idle(settings: ScanSettings, mode: Mode) -> None:
    for name, modes in USED_IN.items():
        default = ScanSettings.model_fields[name].default
        if mode not in modes and getattr(settings, name) != default:
            where = " and ".join(f'"{known}"' for known in modes)
            msg = f'{name}: has no meaning in mode "{mode}", only in {where}'
            raise PlanError(msg)


def _refuse_projection(
    settings: ScanSettings, sequence: useq.MDASequence, microscope: Microscope
) -> None:
    if sequence.z_plan:
        msg = (
            'z_plan: mode "projection" scans its range within each frame; leave the '
            'z_plan out and give "range_um" in the settings'
        )
    elif settings.range_um is None:
        msg = 'range_um: mode "projection" needs the scan range, like "range_um": 30.0'
    elif microscope.daq.projection is None:
        msg = (
            'mode "projection" needs the second galvo: the table [daq.projection] in '
            "the microscope's description"
        )
    elif not settings.blanking:
        msg = 'blanking: mode "projection" needs it, the galvos return in the readout'
    else:
        return
    raise PlanError(msg)
