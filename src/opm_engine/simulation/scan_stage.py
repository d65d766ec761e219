"""`SimulatedXYStage`: an XY stage that scans, as an ASI Tiger with SCAN module does.

Separate from the other devices because it takes time: it moves along a `Track` that the
optics can ask for any moment, and its start pulse is wired to the camera. Without a
``scan_stage`` in the description its plain moves are done at once. Knows neither camera
nor specimen.

A scan goes from rest at its start to rest at its stop; the pulse comes as it sets off.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pymmcore_plus.experimental.unicore import XYStageDevice

from opm_engine.config import ScanProperties
from opm_engine.simulation.motion import Track, stopped_at, travel

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from opm_engine.config import ScanStage
    from opm_engine.simulation.clock import SimClock
    from opm_engine.simulation.motion import Stretch
    from opm_engine.simulation.trigger import TriggerLine

    Axis = Literal["x", "y"]

AXES: tuple[Axis, Axis] = ("x", "y")
SPEED_STEP_MM_S = 1e-4
"""The controller rounds speeds to this."""

DEFAULT_SPEED_MM_S = 5.0
RETURN_MM_S = 5.0
"""How fast it goes to the start of a scan, at least."""

TRAVEL_MM = 50.0
"""Limits of the controller as it comes, on both sides of 0."""


class SimulatedXYStage(XYStageDevice):
    """Moves the sample in x and y, and scans one of them.

    Parameters
    ----------
    clock : SimClock
    trigger : TriggerLine
        Where the start pulse goes.
    scan : ScanStage, optional
        Axis, ramp and names of the controller's properties.

    Attributes
    ----------
    runaway : bool
        Fault for tests: a scan does not end at its stop position.
    """

    def __init__(
        self, clock: SimClock, trigger: TriggerLine, scan: ScanStage | None = None
    ) -> None:
        super().__init__()
        self._clock = clock
        self._trigger = trigger
        self._axis: Axis = scan.axis if scan else "y"
        self._ramp_s = scan.ramp_ms / 1e3 if scan else 0.0
        self._takes_time = scan is not None
        self._tracks = {axis: Track() for axis in AXES}
        self._sent_um = dict.fromkeys(AXES, 0.0)
        self._speed_mm_s = dict.fromkeys(AXES, DEFAULT_SPEED_MM_S)
        self._limits_mm = {axis: [-TRAVEL_MM, TRAVEL_MM] for axis in AXES}
        self._ends_mm = [0.0, 0.0]
        self._settling_ms = 0.0
        self._scanning = False
        self.runaway = False
        self._register(scan.properties if scan else ScanProperties())

    def _register(self, names: ScanProperties) -> None:
        for axis in AXES:
            self._number(
                names.speed_mm_s.format(axis=axis.upper()),
                lambda stage, axis=axis: stage._speed_mm_s[axis],
                lambda stage, value, axis=axis: stage._set_speed(axis, value),
            )
            limits = (names.lower_limit_mm, names.upper_limit_mm)
            for side, name in enumerate(limits):
                self._number(
                    name.format(axis=axis.upper()),
                    lambda stage, axis=axis, side=side: stage._limits_mm[axis][side],
                    lambda stage, value, axis=axis, side=side: stage._set_limit(
                        axis, side, value
                    ),
                )
        for side, name in enumerate((names.start_mm, names.stop_mm)):
            self._number(
                name,
                lambda stage, side=side: stage._ends_mm[side],
                lambda stage, value, side=side: stage._set_end(side, value),
            )
        self._number(
            names.settling_ms,
            lambda stage: stage._settling_ms,
            lambda stage, value: stage._set_settling(value),
        )
        self._running, self._idle = names.running, names.idle
        self.register_property(
            names.state,
            allowed_values=(names.idle, names.running),
            property_type=str,
            getter=SimulatedXYStage._get_state,
            setter=SimulatedXYStage._set_state,
        )

    def _number(
        self,
        name: str,
        getter: Callable[..., float],
        setter: Callable[..., None],
    ) -> None:
        self.register_property(name, property_type=float, getter=getter, setter=setter)

    # ------------------------------------------------------------ settings

    def _set_speed(self, axis: Axis, value: float) -> None:
        steps = max(1, round(float(value) / SPEED_STEP_MM_S))
        self._speed_mm_s[axis] = round(steps * SPEED_STEP_MM_S, 4)

    def _set_limit(self, axis: Axis, side: int, value: float) -> None:
        self._limits_mm[axis][side] = float(value)

    def _set_end(self, side: int, value: float) -> None:
        self._ends_mm[side] = round(float(value), 6)

    def _set_settling(self, value: float) -> None:
        self._settling_ms = max(0.0, float(value))

    def _get_state(self) -> str:
        moving = self._clock.now() < self._tracks[self._axis].end_s
        return self._running if self._scanning and moving else self._idle

    def _set_state(self, value: str) -> None:
        scans = self._get_state() == self._running
        if value == self._running and not scans:
            self._scan()
        elif value == self._idle and scans:
            self.stop()

    # --------------------------------------------------------------- moves

    @property
    def scan_axis(self) -> Axis:
        """The axis that scans."""
        return self._axis

    @property
    def sent_um(self) -> tuple[float, float]:
        """Where the latest plain move was sent to; scans do not change it."""
        return self._sent_um["x"], self._sent_um["y"]

    def track(self, axis: Axis) -> Track:
        """Where an axis is at any time."""
        return self._tracks[axis]

    def busy(self) -> bool:
        """Whether an axis moves."""
        now_s = self._clock.now()
        return any(now_s < track.end_s for track in self._tracks.values())

    def get_position_um(self) -> tuple[float, float]:
        """Position (x, y) now."""
        now_s = self._clock.now()
        return self._tracks["x"].position(now_s), self._tracks["y"].position(now_s)

    def set_position_um(self, x: float, y: float) -> None:
        """Move there, not beyond the limits; takes time if the stage scans."""
        self.stop()
        now_s = self._clock.now()
        for axis, target_um in zip(AXES, (x, y), strict=True):
            track, target_um = self._tracks[axis], self._clip(axis, target_um)
            self._sent_um[axis] = target_um
            if self._takes_time and target_um != track.position(now_s):
                track.follow(self._way(axis, now_s, track.position(now_s), target_um))
            else:
                track.rest(now_s, target_um)

    def set_origin_x(self) -> None:
        """Call the present position x = 0."""
        self._zero("x")

    def set_origin_y(self) -> None:
        """Call the present position y = 0."""
        self._zero("y")

    def home(self) -> None:
        """Move to (0, 0)."""
        self.set_position_um(0.0, 0.0)

    def stop(self) -> None:
        """Halt at once, scan or not; a start pulse still to come does not."""
        now_s = self._clock.now()
        self._scanning = False
        self._trigger.silence(now_s)
        for track in self._tracks.values():
            if now_s < track.end_s:
                track.rest(now_s)

    def _zero(self, axis: Axis) -> None:
        self._sent_um[axis] = 0.0
        self._tracks[axis].rest(self._clock.now(), 0.0)

    def _scan(self) -> None:
        """Lay out the whole scan: to the start, settle, then through to the stop."""
        self.stop()
        axis, now_s = self._axis, self._clock.now()
        track, way_mm_s = self._tracks[axis], max(self._speed_mm_s[axis], RETURN_MM_S)
        start_um, stop_um = (1e3 * end_mm for end_mm in self._ends_mm)
        start_um = self._clip(axis, start_um)
        if self.runaway:
            stop_um += math.copysign(2e3 * TRAVEL_MM, stop_um - start_um)
        here_um = track.position(now_s)
        way = travel(now_s, here_um, start_um, 1e3 * way_mm_s, self._ramp_s)
        ready_s = way[-1].time_s + self._settling_ms / 1e3
        track.follow([*way, *self._way(axis, ready_s, start_um, stop_um)])
        self._scanning = True
        self._trigger.pulse(ready_s)

    def _way(
        self, axis: Axis, time_s: float, from_um: float, to_um: float
    ) -> list[Stretch]:
        speed_um_s = 1e3 * self._speed_mm_s[axis]
        way = travel(time_s, from_um, to_um, speed_um_s, self._ramp_s)
        return stopped_at(way, self._limits_um(axis))

    def _limits_um(self, axis: Axis) -> tuple[float, float]:
        low_mm, high_mm = self._limits_mm[axis]
        return 1e3 * low_mm, 1e3 * high_mm

    def _clip(self, axis: Axis, position_um: float) -> float:
        low_um, high_um = self._limits_um(axis)
        return min(max(float(position_um), low_um), high_um)
