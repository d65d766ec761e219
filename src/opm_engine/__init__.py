"""Acquisition engine for oblique plane microscopes, on pymmcore-plus.

Names are imported when they are first used, so that ``import opm_engine`` and the
command line's help do not wait for a compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opm_engine.config import ConfigError, Microscope
    from opm_engine.daq.protocol import DaqError
    from opm_engine.engine import OPMEngine
    from opm_engine.plan import PlanError, ScanPlan, ScanSettings, plan_scan
    from opm_engine.processing import Correction, Deskew, Projections, deskew
    from opm_engine.relay import ThreadRelay, latest
    from opm_engine.session import Scope, open_microscope
    from opm_engine.writers import OMEZarrWriter

__all__ = [
    "ConfigError",
    "Correction",
    "DaqError",
    "Deskew",
    "Microscope",
    "OMEZarrWriter",
    "OPMEngine",
    "PlanError",
    "Projections",
    "ScanPlan",
    "ScanSettings",
    "Scope",
    "ThreadRelay",
    "deskew",
    "latest",
    "open_microscope",
    "plan_scan",
]

_HOMES = {
    "config": ("ConfigError", "Microscope"),
    "daq.protocol": ("DaqError",),
    "engine": ("OPMEngine",),
    "plan": ("PlanError", "ScanPlan", "ScanSettings", "plan_scan"),
    "processing": ("Correction", "Deskew", "Projections", "deskew"),
    "relay": ("ThreadRelay", "latest"),
    "session": ("Scope", "open_microscope"),
    "writers": ("OMEZarrWriter",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
