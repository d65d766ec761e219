"""`RemoteFocusSearch`: brings the tertiary objective, O3, back into focus.

Separate from the engine because it is an action like any lab's own. It lights the
alignment source, moves O3 within its limits and keeps the sharpest place; if it finds
none, O3 goes back to where it was.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import useq

from opm_engine import instrument
from opm_engine.daq.waveforms import burst_waveform
from opm_engine.plan import BLOCK, plan_scan
from opm_engine.play import Cancelled, play_in_run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opm_engine.config import RemoteFocus
    from opm_engine.engine import OPMEngine

ACTION = "o3_autofocus"
"""Name of the action."""

COARSE_STEPS = 2.0
FINE_STEPS = 0.5
"""Of a depth of field, between the images of the two passes."""

MIN_CONTRAST = 1.05
"""By how much the sharpest image must surpass the median one."""

logger = logging.getLogger(__name__)


class AutofocusError(RuntimeError):
    """No focus was found; O3 is where it was."""


class Focus(NamedTuple):
    """Outcome of a search: where O3 was, where it is now, in µm."""

    start_um: float
    found_um: float


class RemoteFocusSearch:
    """The action ``o3_autofocus``.

    ``useq.CustomAction(name="o3_autofocus", data={"required": False})`` goes on after
    a failed search, with a warning; else the run ends.

    Parameters
    ----------
    engine : OPMEngine
    focus : RemoteFocus
        Stage, limits, alignment source.

    Attributes
    ----------
    latest : Focus or None
        Outcome of the last search that succeeded.
    """

    def __init__(self, engine: OPMEngine, focus: RemoteFocus) -> None:
        self._engine = engine
        self._focus = focus
        self.latest: Focus | None = None

    def execute(self, event: useq.MDAEvent) -> None:
        """Search; called by the engine."""
        action = event.action
        data = action.data if isinstance(action, useq.CustomAction) else {}
        try:
            self.latest = self.search()
        except Cancelled:
            logger.info("O3 stays where it was: the run was cancelled")
        except AutofocusError as error:
            if data.get("required", True):
                raise
            logger.warning("%s", error)
        else:
            logger.info("O3 moved from %.2f to %.2f µm", *self.latest)

    def search(self) -> Focus:
        """Find the focus in two passes and leave O3 there.

        Raises
        ------
        AutofocusError
            If no place within limits and search range is the sharpest; O3 is where it
            was, as after any other error.
        """
        core, focus = self._engine.mmcore, self._focus
        start_um = core.getPosition(focus.stage)
        found = False
        try:
            depth = focus.depth_of_field_um
            best_um = self._sharpest(start_um, focus.search_um, COARSE_STEPS * depth)
            best_um = self._sharpest(best_um, COARSE_STEPS * depth, FINE_STEPS * depth)
            self._go(best_um)
            found = True
        finally:
            if not found:
                self._go(start_um)
        return Focus(start_um, best_um)

    def _sharpest(self, centre_um: float, reach_um: float, step_um: float) -> float:
        """Place within reach and limits with the sharpest image."""
        low, high = self._focus.limits_um
        n_steps = max(2, int(np.ceil(reach_um / step_um)))
        places = centre_um + np.linspace(-reach_um, reach_um, 2 * n_steps + 1)
        places = places[(places >= low) & (places <= high)]
        if len(places) < 3:
            msg = (
                f"O3 at {centre_um:g} µm cannot search within remote_focus.limits_um = "
                f"[{low:g}, {high:g}]"
            )
            raise AutofocusError(msg)
        values = np.array([sharpness(self._image(float(um))) for um in places])
        best = int(np.argmax(values))
        if values[best] < MIN_CONTRAST * np.median(values) or not (
            0 < best < len(places) - 1
        ):
            msg = (
                f"no focus of O3 between {places[0]:.3g} and {places[-1]:.3g} µm: the "
                f"sharpest image is at {places[best]:.3g} µm; is the alignment source "
                f"({self._focus.laser}) on, remote_focus.search_um large enough?"
            )
            raise AutofocusError(msg)
        left, top, right = values[best - 1 : best + 2]
        shift = (left - right) / (2 * (left - 2 * top + right))
        return float(places[best] + shift * (places[1] - places[0]))

    def _go(self, position_um: float) -> None:
        core = self._engine.mmcore
        core.setPosition(self._focus.stage, position_um)
        core.waitForDevice(self._focus.stage)

    def _image(self, position_um: float) -> NDArray[np.uint16]:
        """One plane by the alignment source, with O3 at a position."""
        engine, focus = self._engine, self._focus
        core, microscope = engine.mmcore, engine.microscope
        self._go(position_um)
        group = microscope.channel_group
        percent = focus.power_percent
        powers = {} if percent is None else {focus.laser: percent}
        channel = {
            "config": focus.laser,
            "group": group,
            "exposure": focus.exposure_ms,
        }
        sequence = useq.MDASequence(
            channels=[channel],
            metadata={BLOCK: {"mode": "single", "laser_power": powers}},
        )
        plan = plan_scan(sequence, microscope)
        instrument.prepare_camera(core, microscope)
        instrument.set_laser_power(core, microscope, plan)
        instrument.prepare_exposure(core, microscope, plan.channels[0])
        core.setConfig(group, focus.laser)
        waveform = burst_waveform(plan, next(plan.bursts()), microscope)
        return np.asarray(play_in_run(engine, waveform, focus.exposure_ms)[0])


def sharpness(image: NDArray[np.uint16]) -> float:
    """Squared differences of rows and columns two apart, over squared contrast.

    Brenner's measure (Brenner et al., 1976, doi:10.1177/24.1.1254907), in both
    directions; independent of brightness and offset.

    Parameters
    ----------
    image : ndarray, (rows, columns)
    """
    light = image.astype(np.float64)
    steep = np.mean((light[2:] - light[:-2]) ** 2)
    steep += np.mean((light[:, 2:] - light[:, :-2]) ** 2)
    spread = np.mean(np.abs(light - np.median(light))) ** 2
    return float(steep / spread) if spread else 0.0
