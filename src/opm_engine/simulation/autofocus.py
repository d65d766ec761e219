"""A hardware autofocus for the simulated microscope.

Separate from the other devices because `UniMMCore` knows no autofocus in Python: the
calls for it must be caught in the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymmcore_plus import DeviceType
from pymmcore_plus.experimental.unicore import Device, UniMMCore

if TYPE_CHECKING:
    from opm_engine.simulation.devices import SimulatedFocus

AUTOFOCUS = "Autofocus"
"""Its label."""


class SimulatedAutofocus(Device):
    """Finds the coverslip with the focus stage.

    Attributes
    ----------
    focus_um : float
        Where it is; tests displace it.
    offset_um : float
        How far from it the stage shall stand.
    failures : int
        So many of the coming searches fail.
    is_on : bool
        Whether it keeps the focus; it then finds it once.
    """

    _TYPE = DeviceType.AutoFocusDevice

    def __init__(self, stage: SimulatedFocus) -> None:
        super().__init__()
        self._stage = stage
        self.focus_um = self.offset_um = 0.0
        self.failures = 0
        self.is_on = False

    def find(self) -> None:
        """Move the stage there.

        Raises
        ------
        RuntimeError
            If it is to fail.
        """
        if self.failures:
            self.failures -= 1
            msg = "no coverslip found"
            raise RuntimeError(msg)
        self._stage.set_position_um(self.focus_um + self.offset_um)

    def keep(self, *, on: bool) -> None:
        """Keep the focus from now on, or no longer."""
        self.is_on = on
        if on:
            self.find()


class AutofocusCore(UniMMCore):
    """A core that has a simulated autofocus.

    Attributes
    ----------
    simulated_autofocus : SimulatedAutofocus or None
        In use while it is the current autofocus device.
    """

    simulated_autofocus: SimulatedAutofocus | None = None
    _autofocus_label = ""

    def unloadAllDevices(self) -> None:
        """Forget it too."""
        self._autofocus_label = ""
        super().unloadAllDevices()

    def _autofocus(self) -> SimulatedAutofocus | None:
        label = self._autofocus_label
        return self.simulated_autofocus if label == AUTOFOCUS else None

    def setAutoFocusDevice(self, focusLabel: str) -> None:
        """Choose the autofocus, or none: ""."""
        if focusLabel != AUTOFOCUS:
            super().setAutoFocusDevice(focusLabel)
        self._autofocus_label = focusLabel

    def getAutoFocusDevice(self) -> Any:
        """Label of the autofocus; "" without."""
        return self._autofocus_label

    def fullFocus(self) -> None:
        """Find the focus."""
        if autofocus := self._autofocus():
            autofocus.find()
        else:
            super().fullFocus()

    def enableContinuousFocus(self, enable: bool) -> None:
        """Keep the focus, or no longer."""
        if autofocus := self._autofocus():
            autofocus.keep(on=enable)
        else:
            super().enableContinuousFocus(enable)

    def isContinuousFocusEnabled(self) -> bool:
        """Whether the focus is kept."""
        autofocus = self._autofocus()
        return autofocus.is_on if autofocus else super().isContinuousFocusEnabled()

    def isContinuousFocusLocked(self) -> bool:
        """Whether the focus is kept; it never gets lost."""
        return self.isContinuousFocusEnabled()

    def setAutoFocusOffset(self, offset: float) -> None:
        """Distance to keep from what it finds."""
        if autofocus := self._autofocus():
            autofocus.offset_um = offset
        else:
            super().setAutoFocusOffset(offset)

    def getAutoFocusOffset(self) -> float:
        """Distance to keep from what it finds."""
        autofocus = self._autofocus()
        return autofocus.offset_um if autofocus else super().getAutoFocusOffset()
