"""`OnDemand`: a microscope's outputs, one value at a time, when nothing is played.

Separate from ``nidaq``, which says when, and from ``driver``, which knows no
microscope. It remembers where the analog outputs stand, so that galvos are ramped and
never jump.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.daq.motion import STEP_MS, ramp_v
from opm_engine.daq.outputs import outputs_of
from opm_engine.daq.protocol import DaqError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from opm_engine.config import Microscope
    from opm_engine.daq.driver import Driver
    from opm_engine.daq.outputs import Output


class OnDemand:
    """Writes to lines and voltages on demand. Not thread-safe.

    Parameters
    ----------
    driver : Driver
    microscope : Microscope
    """

    def __init__(self, driver: Driver, microscope: Microscope) -> None:
        self._driver = driver
        self._enable_line = microscope.daq.laser_enable
        self._laser_lines = [laser.line for laser in microscope.lasers]
        self._exposure_out = microscope.camera.exposure_out
        outputs = outputs_of(microscope).values()
        self._galvos = [output for output in outputs if output.galvo is not None]
        self._powers = [output for output in outputs if output.galvo is None]
        self._standing_v: dict[str, float | None] = {}
        self.forget()

    def refuse_busy_line(self) -> None:
        """Raise if the camera exposes."""
        terminal = self._exposure_out.terminal
        level = self._driver.read_line(terminal)
        if level == (self._exposure_out.polarity == "active_high"):
            msg = (
                f"{terminal} is {'high' if level else 'low'}: the camera exposes, or "
                "camera.exposure_out.polarity is wrong"
            )
            raise DaqError(msg)

    def enable(self, level: bool) -> None:
        """Raise or drop ``laser_enable``, if there is one."""
        if self._enable_line is not None:
            what = f"{'raising' if level else 'dropping'} laser_enable"
            self._driver.write_line(self._enable_line, level, what)

    def blank_lasers(self) -> None:
        """Set the lasers' lines to 0."""
        self._driver.lower_lines(self._laser_lines)

    def drop_powers(self) -> None:
        """Set the power outputs to 0 V."""
        self._put_out(self._powers, dict.fromkeys(self._channels(self._powers), 0.0))

    def park(self) -> None:
        """Ramp the galvos to where they rest."""
        parked_v = {one.channel: one.galvo.park_v for one in self._galvos if one.galvo}
        self._ramp(parked_v, lambda: None)

    def bring(self, target_v: Mapping[str, float], proceed: Callable[[], None]) -> None:
        """Set power outputs, ramp galvos.

        Parameters
        ----------
        target_v : dict
            Channel → volts.
        proceed : callable
            Called before every step; raises if there should be no more.
        """
        self._put_out(
            [one for one in self._powers if one.channel in target_v], target_v
        )
        self._ramp(target_v, proceed)

    def forget(self) -> None:
        """Take note that the outputs stand anywhere."""
        self._standing_v = dict.fromkeys(self._channels(self._galvos))

    def stand_at(self, volts: Mapping[str, float]) -> None:
        """Take note of where a burst has left them."""
        self._standing_v |= volts

    def _put_out(self, powers: list[Output], target_v: Mapping[str, float]) -> None:
        if powers:
            with self._driver.voltages(powers, "setting the power outputs") as put_out:
                put_out([target_v[channel] for channel in self._channels(powers)])

    def _ramp(self, target_v: Mapping[str, float], proceed: Callable[[], None]) -> None:
        """Move galvos together, each no faster than it may.

        From an unknown voltage (nothing was written yet, or the board could not say
        where the burst stopped) there is no ramp to compute: one step.
        """
        moving = [one for one in self._galvos if one.channel in target_v]
        with self._driver.voltages(moving, "moving the galvos") as put_out:
            for volts in self._paths_v(moving, target_v).T:
                proceed()
                put_out(volts)
                self.stand_at(
                    dict(zip(self._channels(moving), volts.tolist(), strict=True))
                )
                time.sleep(STEP_MS / 1e3)

    def _paths_v(
        self, moving: list[Output], target_v: Mapping[str, float]
    ) -> NDArray[np.float64]:
        """Volts of each galvo on its way, (galvos, n); who arrives early waits."""
        paths_v = [
            ramp_v(self._standing_v[one.channel], target_v[one.channel], one.galvo)
            for one in moving
            if one.galvo is not None
        ]
        longest = max(path_v.size for path_v in paths_v)
        return np.stack(
            [np.pad(path_v, (0, longest - path_v.size), "edge") for path_v in paths_v]
        )

    @staticmethod
    def _channels(outputs: list[Output]) -> list[str]:
        return [output.channel for output in outputs]
