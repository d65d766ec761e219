"""`Pins`: names, levels and history of a board's pins.

Separate from `board` so that tasks are one subject and pins another. Knows no task;
whoever plugs something in reads the traces here.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from opm_engine.simulation.board_tasks import CHANGE_DETECTION, BoardError
from opm_engine.simulation.products import PRODUCTS, TIMEBASES_HZ
from opm_engine.simulation.traces import Trace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Pins:
    """The pins of one board. Thread-safe.

    Parameters
    ----------
    name : str
        Name in NI MAX; names may carry it as a prefix or not.
    product : str
        Row of `products.PRODUCTS`.
    history_s : float
        Simulated seconds that the traces remember.
    """

    def __init__(self, name: str, product: str, history_s: float) -> None:
        self.name = name
        self.product = PRODUCTS[product]
        self._lock = threading.RLock()
        self._latest_s = 0.0
        self._lines = {line: Trace(False, history_s) for line in self.product.lines()}
        self._volts = {
            channel: Trace(0.0, history_s) for channel in self.product.analog_channels()
        }

    def line(self, name: str) -> bool:
        """Level of a pin now."""
        with self._lock:
            return bool(self._lines[self._line(name)].value)

    def lines(self) -> dict[str, bool]:
        """Levels of all pins now, by port line."""
        with self._lock:
            return {name: bool(trace.value) for name, trace in self._lines.items()}

    def rises(self, name: str) -> int:
        """How often a pin has risen since the board was made."""
        with self._lock:
            return self._lines[self._line(name)].rises

    def volts(self, channel: str) -> float:
        """Voltage of an analog output now."""
        with self._lock:
            return self._volts[self._channel(channel)].value

    def digital_trace(
        self, line: str, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Level of a pin over time: see :meth:`Trace.between`."""
        with self._lock:
            times_s, levels = self._lines[self._line(line)].between(start_s, end_s)
        return times_s, levels.astype(bool)

    def analog_trace(
        self, channel: str, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Volts of an analog output over time: see :meth:`Trace.between`."""
        with self._lock:
            return self._volts[self._channel(channel)].between(start_s, end_s)

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
        line = self.product.line_of(self._local(name))
        if line not in self._lines:
            raise BoardError(-200170, name)
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
        local = self._local(name)
        if local == CHANGE_DETECTION:
            if not self.product.change_detection:
                raise BoardError(-89136, name)
            return CHANGE_DETECTION
        if local in TIMEBASES_HZ:
            raise BoardError(-89136, name)
        if not local.startswith("pfi"):
            raise BoardError(-200040, name)
        return self._line(name)

    def _counted(self, name: str) -> str:
        """What a counter may count: a terminal's edges or a timebase's."""
        local = self._local(name)
        return local if local in TIMEBASES_HZ else self._terminal(name)
