"""`ExposureSettings`: what the properties of a camera of some make amount to.

The simulated camera has the property names of the make that it is said to be, and
behaves as the profile of that make says. Separate from the camera so that it need not
know any names. Knows no MMCore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from opm_engine.config.profiles import PROFILES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opm_engine.config.profiles import Profile, Value
    from opm_engine.simulation.shutter import ExposureOutKind

Mode = Literal["free", "start", "other"]

COMES_WITH: Mapping[str, Mapping[str, str]] = {
    "hamamatsu": {
        "OUTPUT TRIGGER KIND[0]": "LOW",
        "OUTPUT TRIGGER POLARITY[0]": "NEGATIVE",
    },
    "pco": {"Signal 4 (Status Expos) Status": "off"},
    "tucam": {"Output Trigger Kind": "Readout End"},
    "demo": {"ExposureOutPolarity": "ActiveLow"},
}
"""Values after power-up that no profile asks for; the others come as asked for."""

OTHER_VALUES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "hamamatsu": {"OUTPUT TRIGGER KIND[0]": ("HIGH", "PROGRAMABLE", "TRIGGER READY")},
    "pvcam": {"TriggerMode": ("Edge Trigger",), "ExposeOutMode": ("Rolling Shutter",)},
    "pco": {"Triggermode": ("External",), "Acquiremode": ("External",)},
    "andor": {"TriggerMode": ("External",), "Overlap": ("Off",)},
    "tucam": {"Trigger Mode": ("Standard",), "Output Trigger Port": ("2", "3")},
    "demo": {"TriggerSource": ("External",)},
}
"""Some values that a real adapter offers besides."""

KINDS: Mapping[str, ExposureOutKind] = {
    "all_rows": "AllRows",
    "first_row": "FirstRow",
    "any_row": "AnyRow",
}


class ExposureSettings:
    """Trigger and exposure-out properties of one make.

    Parameters
    ----------
    make : str
        Key of `PROFILES`.
    """

    def __init__(self, make: str) -> None:
        self._profile: Profile = PROFILES[make]
        self._comes_with = COMES_WITH.get(make, {})
        self._others = OTHER_VALUES[make]

    def allowed(self) -> dict[str, tuple[str, ...]]:
        """Values of each property, first the one after power-up."""
        profile = self._profile
        tables = [profile.free, profile.start or {}]
        tables += [*profile.kinds.values(), *profile.polarities.values()]
        found: dict[str, tuple[str, ...]] = {
            name: (value,) for name, value in self._comes_with.items()
        }
        for table in tables:
            for name, asked in table.items():
                found[name] = (*found.get(name, ()), str(asked))
        for name, others in self._others.items():
            found[name] += others
        return {name: tuple(dict.fromkeys(every)) for name, every in found.items()}

    def mode(self, values: Mapping[str, Value]) -> Mode:
        """Whether it runs free, waits for a start pulse, or anything else."""
        profile = self._profile
        if profile.start is not None and _match(profile.free | profile.start, values):
            return "start"
        return "free" if _match(profile.free, values) else "other"

    def kind(self, values: Mapping[str, Value]) -> ExposureOutKind | None:
        """When exposure-out is active; None if it shows no exposure."""
        kinds = self._profile.kinds.items()
        found = (KINDS[kind] for kind, table in kinds if _match(table, values))
        return next(found, None)

    def active_high(self, values: Mapping[str, Value]) -> bool:
        """Level of exposure-out while active."""
        return _match(self._profile.polarities["active_high"], values)


def _match(table: Mapping[str, Value], values: Mapping[str, Value]) -> bool:
    return all(str(values[name]) == str(value) for name, value in table.items())
