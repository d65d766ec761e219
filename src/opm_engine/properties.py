"""Device properties, set and read back.

Separate because whoever sets one must not believe it: adapters round, clip and refuse
in their own ways. Knows no device.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymmcore_plus import CMMCorePlus

Property = tuple[str, str]


class InstrumentError(RuntimeError):
    """A device did not take a setting; the message names it."""


def set_property(
    core: CMMCorePlus, where: Property, value: str | float, field_name: str
) -> None:
    """Set a property unless it has the value, and read it back.

    Parameters
    ----------
    core : CMMCorePlus
    where : (device, property)
    value : str or float
    field_name : str
        Of the description or the settings, for errors.

    Raises
    ------
    InstrumentError
        If there is no such property, or the device does not take the value.
    """
    require_property(core, where, field_name)
    if same(core.getProperty(*where), value):
        return
    try:
        core.setProperty(*where, value)
    except (RuntimeError, ValueError) as error:
        msg = f"{field_name} = {value!r} was refused: {error}"
        raise InstrumentError(msg) from error
    if not same(read := core.getProperty(*where), value):
        msg = f"{field_name} = {value!r}, but it reads {read!r}"
        raise InstrumentError(msg)


def require_property(core: CMMCorePlus, where: Property, field_name: str) -> None:
    """Raise `InstrumentError` unless the device has the property; names what it has."""
    if not core.hasProperty(*where):
        known = ", ".join(core.getDevicePropertyNames(where[0]))
        msg = f"{field_name}: {where[0]} has no such property; it has {known}"
        raise InstrumentError(msg)


def same(value: str, wanted: str | float) -> bool:
    """Whether a property's text is the wanted value."""
    if isinstance(wanted, str):
        return value == wanted
    try:
        return math.isclose(float(value), wanted, rel_tol=1e-6)
    except ValueError:
        return False
