"""`Daq`: the NI board, the galvos it moves and the inputs it records."""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from opm_engine.config.errors import FieldError
from opm_engine.config.fields import (
    AnalogInput,
    AnalogOutput,
    Counter_,
    DigitalLine,
    Finite,
    Name,
    NotNegative,
    Positive,
    Table,
    Volts,
    matching,
)


class Galvo(Table):
    """The scan galvo: how volts move the light sheet along the coverslip.

    Attributes
    ----------
    channel : str
        Analog output, like ``"ao0"``.
    volts_per_um : float
        May be negative; not 0.
    offset_v : float
        Volts at scan offset 0.
    range_v : (low, high)
        Volts that the driver may ever see, within ±10 V.
    park_v : float
        Where it rests when nothing runs.
    slew_v_per_ms : float
        Fastest ramp.
    settle_ms : float
        Time to settle after a step between planes.
    acceleration_v_per_ms2 : float, optional
        Largest change of its speed; without it only the slew limits a move.
    """

    channel: AnalogOutput
    volts_per_um: Finite
    offset_v: Finite = 0.0
    range_v: tuple[Volts, Volts]
    park_v: Finite = 0.0
    slew_v_per_ms: Positive
    settle_ms: NotNegative
    acceleration_v_per_ms2: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.range_v
        if not self.volts_per_um:
            raise FieldError("volts_per_um", "must not be 0")
        if not low < high:
            raise FieldError("range_v", f"must be [low, high], not [{low}, {high}]")
        for name in ("park_v", "offset_v"):
            if not low <= (volts := getattr(self, name)) <= high:
                raise FieldError(
                    name, f"{volts:g} V lies outside range_v = [{low:g}, {high:g}]"
                )
        return self

    def volts_at(self, offset_um: float) -> float:
        """Volts that put the light sheet at a scan offset."""
        return self.offset_v + self.volts_per_um * offset_um

    def move_ms(self, distance_v: float) -> float:
        """Least time for a move from rest to rest, without settling.

        With an acceleration limit a the fastest move is a trapezoid of speed: up to
        the slew limit s, d/s + s/a; below it a triangle, 2 sqrt(d/a).
        """
        distance_v = abs(distance_v)
        slew, limit = self.slew_v_per_ms, self.acceleration_v_per_ms2
        if limit is None:
            return distance_v / slew
        if distance_v < slew**2 / limit:
            return 2 * math.sqrt(distance_v / limit)
        return distance_v / slew + slew / limit


class ProjectionGalvo(Galvo):
    """The second galvo of projection mode, which shifts the image on the camera.

    Attributes
    ----------
    volts_per_um : float
        Volts that shift the image by 1 µm of sample along the camera's rows axis; its
        sign decides which way.
    shear_ratio : float
        Shift of the image per scan offset, µm per µm. ``1 / cos(angle)`` projects
        along the coverslip's normal.
    """

    shear_ratio: Positive


class Recorded(Table):
    """An analog input that is recorded with every frame.

    Attributes
    ----------
    name : str
        Of the column in the dataset, like ``"488 power"``.
    channel : str
        Like ``"ai0"``.
    range_v : (low, high)
    """

    name: Name
    channel: AnalogInput
    range_v: tuple[Volts, Volts] = (-10.0, 10.0)


class Daq(Table):
    """The NI board and what is wired to it.

    Attributes
    ----------
    device : str
        Name in NI MAX, like ``"Dev1"``.
    counter : str
        Counter that counts the camera's exposures.
    galvo : Galvo
    projection : ProjectionGalvo, optional
        Needed for ``projection`` mode.
    pulse_counter : str
        Counter that makes the sample clock where one exposure plays more than two
        samples, or where the board detects no changes.
    record : tuple of Recorded
        Analog inputs, sampled once per frame.
    address : str, optional
        ``"host:port"`` of NI's gRPC device server; without it the local driver.
    deadline_s : float
        How long that server may take to answer a call.
    laser_enable : str, optional
        Static line on an unbuffered port, ANDed in hardware with every laser; raised
        after arming, dropped before anything else.
    watchdog_s : float, optional
        Time without a word from software after which the board itself sets the lasers'
        lines and ``laser_enable`` to 0 and holds them there; at most 34. For boards
        with a watchdog timer, like X series; others are refused. It covers digital
        lines, not the power outputs nor the galvos, which stay where they are. While a
        burst is armed, software must ask the board at least that often: the engine
        does so every 10 ms, so a second or more leaves room for a busy computer. Tried
        on the simulated board alone: try it on yours before you rely on it.
    """

    device: Annotated[str, matching(r"[A-Za-z][\w-]*", "Dev1")]
    counter: Counter_ = "ctr0"
    pulse_counter: Counter_ = "ctr1"
    galvo: Galvo
    projection: ProjectionGalvo | None = None
    record: tuple[Recorded, ...] = ()
    address: Annotated[str, matching(r".+:\d{1,5}", "127.0.0.1:31763")] | None = None
    deadline_s: Positive = 2.0
    laser_enable: DigitalLine | None = None
    watchdog_s: Annotated[Positive, Field(le=34)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.laser_enable and self.laser_enable.startswith("port0/"):
            raise FieldError(
                "laser_enable",
                "must be on a port other than port0, whose lines are buffered; "
                f"port1/line0, say, not {self.laser_enable!r}",
            )
        if self.counter == self.pulse_counter:
            raise FieldError("pulse_counter", f"{self.counter} is taken by counter")
        return self
