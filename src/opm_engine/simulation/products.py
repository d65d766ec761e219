"""What each modelled NI board can do, and what its pins are called.

Separate so that another board is another row of a table. Knows no task and no level.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """One type of board.

    Attributes
    ----------
    name : str
        Product type, as the driver reports it.
    analog_outputs : int
    ao_range_v : (low, high)
        Volts the outputs can reach.
    port_widths : tuple of int
        Lines of each digital port; only port0 can be clocked.
    counter_sources : tuple of str
        Terminal that each counter counts unless told otherwise.
    first_pfi_port : int
        Port whose line 0 is the same pin as PFI0.
    max_rate_hz, ao_max_rate_hz : float
        Fastest clock of buffered digital and analog outputs.
    ao_zero_on_reset : bool
        Whether a device reset drives the analog outputs to 0 V.
    """

    name: str
    analog_outputs: int
    ao_range_v: tuple[float, float]
    port_widths: tuple[int, ...]
    counter_sources: tuple[str, ...]
    first_pfi_port: int = 1
    max_rate_hz: float = 10e6
    ao_max_rate_hz: float = 2.86e6
    change_detection: bool = True
    ao_zero_on_reset: bool = True

    def lines(self) -> list[str]:
        """Names of all digital lines, like ``"port0/line0"``."""
        return [
            f"port{port}/line{line}"
            for port, width in enumerate(self.port_widths)
            for line in range(width)
        ]

    def analog_channels(self) -> list[str]:
        """Names of the analog outputs, like ``"ao0"``."""
        return [f"ao{index}" for index in range(self.analog_outputs)]

    def counter_channels(self) -> list[str]:
        """Names of the counters, like ``"ctr0"``."""
        return [f"ctr{index}" for index in range(len(self.counter_sources))]

    def line_of(self, terminal: str) -> str:
        """Name of the pin as a port line: PFI9 of an X-series board is port2/line1."""
        match = re.fullmatch(r"pfi(\d+)", terminal.lower())
        if not match:
            return terminal.lower()
        index = int(match[1])
        port = self.first_pfi_port
        while port < len(self.port_widths) and index >= self.port_widths[port]:
            index -= self.port_widths[port]
            port += 1
        return f"port{port}/line{index}"


_BOARDS = (
    Product(
        "PCIe-6363", 4, (-10.0, 10.0), (32, 8, 8), ("PFI8", "PFI3", "PFI0", "PFI5")
    ),
)
TIMEBASES_HZ = {"100khztimebase": 1e5, "20mhztimebase": 2e7, "100mhztimebase": 1e8}
"""Internal clocks that a counter can count."""

PRODUCTS = {product.name: product for product in _BOARDS}


def expand(names: str) -> list[str]:
    """Split NI's channel lists: ``"Dev1/ao0:1, Dev1/ao3"`` are three names."""
    found: list[str] = []
    for part in filter(None, (name.strip() for name in names.split(","))):
        match = re.fullmatch(r"(.*?)(\d+):(?:.*?)(\d+)", part)
        if not match:
            found.append(part)
            continue
        first, last = int(match[2]), int(match[3])
        step = 1 if last >= first else -1
        found += [f"{match[1]}{index}" for index in range(first, last + step, step)]
    return found
