"""`Pins`: names, levels and history of a board's pins, and its time.

Separate from `board` so that tasks are one subject and pins another. Knows no task;
whoever plugs something in reads the traces here.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.board_tasks import CHANGE_DETECTION
from opm_engine.simulation.products import PRODUCTS, TIMEBASES_HZ
from opm_engine.simulation.traces import Trace
from opm_engine.simulation.trains import EventQueue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from opm_engine.simulation.clock import SimClock

_SAMPLE_CLOCKS = ("ai/sampleclock", "ao/sampleclock", "do/sampleclock")
_AHEAD_S = 60.0


class Pins:
    """The pins of one board. Thread-safe.

    Parameters
    ----------
    name : str
        Name in NI MAX; names may carry it as a prefix or not.
    product : str
        Row of `products.PRODUCTS`.
    clock : SimClock
        Stamps what software does, and says what "now" is.
    history_s : float
        Simulated seconds that the traces remember.
    """

    def __init__(
        self, name: str, product: str, clock: SimClock, history_s: float
    ) -> None:
        self.name = name
        self.product = PRODUCTS[product]
        self._lock = threading.RLock()
        self._clock = clock
        self._queue = EventQueue()
        self._latest_s = 0.0
        self._lines = {pin: Trace(False, history_s) for pin in self.product.pins()}
        self._line_names = self.product.lines()
        self._resolved: dict[str, str] = {}
        self._volts = {
            channel: Trace(0.0, history_s) for channel in self.product.analog_channels()
        }

    def pin(self, name: str) -> str:
        """Name of a line's or a PFI's pin, like ``"port0/line0"``."""
        return self._line(name)

    def port_of(self, name: str) -> str:
        """Name of a port, like ``"port0"``, or of a line's port."""
        return self._port_lines(name)[0].partition("/")[0]

    def line(self, name: str) -> bool:
        """Level of a pin now."""
        with self._lock:
            self._queue.run(self._clock.now())
            return bool(self._lines[self._line(name)].value)

    def lines(self) -> dict[str, bool]:
        """Levels of all port lines now."""
        with self._lock:
            self._queue.run(self._clock.now())
            return {name: bool(self._lines[name].value) for name in self._line_names}

    def rises(self, name: str) -> int:
        """How often a pin has risen since the board was made."""
        with self._lock:
            self._queue.run(self._clock.now())
            return self._lines[self._line(name)].rises

    def volts(self, channel: str) -> float:
        """Voltage of an analog output now."""
        with self._lock:
            self._queue.run(self._clock.now())
            return self._volts[self._channel(channel)].value

    def digital_trace(
        self, line: str, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Level of a pin over time, at most a minute ahead: see `Trace.between`."""
        with self._lock:
            self._catch_up(end_s)
            times_s, levels = self._lines[self._line(line)].between(start_s, end_s)
        return times_s, levels.astype(bool)

    def analog_trace(
        self, channel: str, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Volts of an analog output over time, as `digital_trace` does it."""
        with self._lock:
            self._catch_up(end_s)
            return self._volts[self._channel(channel)].between(start_s, end_s)

    def advance(self, time_s: float) -> None:
        """Let simulated time pass until ``time_s``: everything due till then happens.

        Cables, traces and software do so by themselves.
        """
        with self._lock:
            self._queue.run(time_s)

    def _catch_up(self, end_s: float) -> None:
        now_s = max(self._latest_s, self._clock.now())
        self._queue.run(min(end_s, now_s + _AHEAD_S))

    def _software_s(self) -> float:
        """Time of something that software does now."""
        now_s = self._clock.now()
        self._queue.run(now_s)
        return self._stamp(now_s)

    def _stamp(self, time_s: float) -> float:
        self._latest_s = max(self._latest_s, time_s)
        return self._latest_s

    def check_device(self, name: str) -> None:
        """Raise -200220 unless this is the device of that name."""
        if name.lower() != self.name.lower():
            raise BoardError(-200220, name)

    def _local(self, name: str) -> str:
        """Name without the device; -200220 if it is another device's."""
        head, slash, tail = name.strip().lstrip("/").lower().partition("/")
        if not slash or re.fullmatch(r"port\d+", head):
            return name.strip().lstrip("/").lower()
        self.check_device(head)
        return tail

    def _line(self, name: str) -> str:
        line = self._resolved.get(name)
        if line is None:
            line = self.product.line_of(self._local(name))
            if line not in self._lines:
                raise BoardError(-200170, name)
            self._resolved[name] = line
        return line

    def _port_lines(self, name: str) -> list[str]:
        local = self._local(name)
        if not re.fullmatch(r"port\d+", local):
            return [self._line(name)]
        lines = [line for line in self._lines if line.startswith(f"{local}/")]
        if not lines:
            raise BoardError(-200170, name)
        return lines

    def _channel(self, name: str) -> str:
        channel = self._local(name)
        if channel not in self._volts:
            raise BoardError(-200170, name)
        return channel

    def _terminal(self, name: str) -> str:
        """Signal of a terminal: a pin that can clock and trigger, or an internal one.

        Raises
        ------
        BoardError
            -200040 if there is no such terminal, -89136 if it leads nowhere.
        """
        local = self._local(name)
        if local == CHANGE_DETECTION:
            if not self.product.change_detection:
                raise BoardError(-89136, name)
            return local
        if local in _SAMPLE_CLOCKS:
            return local
        if local in TIMEBASES_HZ:
            raise BoardError(-89136, name)
        if local.endswith("internaloutput"):
            if local.removesuffix("internaloutput") in self.product.pulse_channels():
                return local
            raise BoardError(-200040, name)
        pin = self.product.line_of(local)
        if pin not in self._lines:
            raise BoardError(-200040, name)
        if not self.product.is_pfi(pin):
            raise BoardError(-89136, name)
        return pin

    def _counted(self, name: str) -> str:
        """What a counter may count: a terminal's edges or a timebase's."""
        local = self._local(name)
        if local not in TIMEBASES_HZ:
            return self._terminal(name)
        if TIMEBASES_HZ[local] > self.product.timebase_hz:
            raise BoardError(-200040, name)
        return local
