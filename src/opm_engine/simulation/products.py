"""What a type of NI board can do, and what its pins are called.

Separate so that another board is another row of a table. Knows no task and no level.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TIMEBASES_HZ = {"100khztimebase": 1e5, "20mhztimebase": 2e7, "100mhztimebase": 1e8}
"""Internal clocks that a counter can count."""


@dataclass(frozen=True)
class Product:
    """One type of board.

    Attributes
    ----------
    name : str
        Product type, as the driver reports it.
    category : int
        NI's number of the series.
    analog_outputs, analog_inputs : int
    ao_range_v, ai_range_v : (low, high)
        Volts the outputs can reach, the inputs can measure.
    ao_max_rate_hz, do_max_rate_hz, ai_max_rate_hz : float
        Fastest clock of buffered tasks; 0 where every sample is software's.
    ai_multiplexed_rate_hz : float
        Samples per second of several inputs together.
    ao_fifo, do_fifo : int
        Samples of the onboard buffers, all channels together.
    port_widths : tuple of int
        Lines of each digital port.
    clocked_lines : int
        Lines of port0 that can be clocked; of the other ports none can.
    pfi_port : int or None
        Port whose line 0 is the same pin as PFI0; None if PFIs are pins of their own.
    pfis : int
        PFI pins that are not port lines.
    counter_sources : tuple of str
        Terminal that each counter counts unless told otherwise.
    counter_bits : int
    timebase_hz : float
        Fastest timebase: pulses are whole ticks of it. 0 if counters make no pulses.
    retriggers : bool
        Whether trains of several pulses and finite generations can be retriggered.
    paired_counters : bool
        Whether a finite pulse train takes both counters.
    change_detection, filters, watchdog : bool
        Whether the board detects changes, debounces terminals, has a watchdog timer.
    needs_extra_edge : bool
        Whether a finite generation with an external clock is done one edge late.
    ao_zero_on_reset : bool
        Whether a device reset drives the analog outputs to 0 V.
    """

    name: str
    category: int
    analog_outputs: int
    port_widths: tuple[int, ...]
    counter_sources: tuple[str, ...]
    clocked_lines: int
    analog_inputs: int = 0
    ao_range_v: tuple[float, float] = (-10.0, 10.0)
    ai_range_v: tuple[float, float] = (-10.0, 10.0)
    ao_max_rate_hz: float = 0.0
    do_max_rate_hz: float = 0.0
    ai_max_rate_hz: float = 0.0
    ai_multiplexed_rate_hz: float = 0.0
    ao_fifo: int = 0
    do_fifo: int = 0
    pfi_port: int | None = 1
    pfis: int = 0
    counter_bits: int = 32
    timebase_hz: float = 100e6
    retriggers: bool = True
    paired_counters: bool = False
    change_detection: bool = True
    filters: bool = True
    watchdog: bool = True
    needs_extra_edge: bool = False
    ao_zero_on_reset: bool = True

    def lines(self) -> list[str]:
        """Names of all digital lines, like ``"port0/line0"``."""
        return [
            f"port{port}/line{line}"
            for port, width in enumerate(self.port_widths)
            for line in range(width)
        ]

    def pins(self) -> list[str]:
        """Names of everything that has a level: lines, and PFIs that are no lines."""
        return self.lines() + [f"pfi{index}" for index in range(self.pfis)]

    def terminals(self) -> list[str]:
        """Names of the PFI terminals, like ``"PFI0"``."""
        n_pfis = self.pfis
        if self.pfi_port is not None:
            n_pfis = sum(self.port_widths[self.pfi_port :])
        return [f"PFI{index}" for index in range(n_pfis)]

    def analog_channels(self) -> list[str]:
        """Names of the analog outputs, like ``"ao0"``."""
        return [f"ao{index}" for index in range(self.analog_outputs)]

    def input_channels(self) -> list[str]:
        """Names of the analog inputs, like ``"ai0"``."""
        return [f"ai{index}" for index in range(self.analog_inputs)]

    def counter_channels(self) -> list[str]:
        """Names of the counters, like ``"ctr0"``."""
        return [f"ctr{index}" for index in range(len(self.counter_sources))]

    def pulse_channels(self) -> list[str]:
        """Names of the counters that can make pulses."""
        return self.counter_channels() if self.timebase_hz else []

    def clocked(self, line: str) -> bool:
        """Whether a line, like ``"port0/line0"``, can be buffered."""
        port, _, index = line.partition("/line")
        return port == "port0" and int(index or 0) < self.clocked_lines

    def is_pfi(self, pin: str) -> bool:
        """Whether a pin can trigger and clock."""
        if self.pfi_port is None:
            return pin.startswith("pfi")
        return pin.startswith("port") and int(pin[4:].partition("/")[0]) >= 1

    def line_of(self, terminal: str) -> str:
        """Name of the pin as a port line: PFI9 of an X-series board is port2/line1."""
        match = re.fullmatch(r"pfi(\d+)", terminal.lower())
        if not match or self.pfi_port is None:
            return terminal.lower()
        index, port = int(match[1]), self.pfi_port
        while port < len(self.port_widths) and index >= self.port_widths[port]:
            index -= self.port_widths[port]
            port += 1
        return f"port{port}/line{index}"


_X_SERIES, _AO_SERIES, _USB = 15858, 14647, 14646
_X_COUNTERS = ("PFI8", "PFI3", "PFI0", "PFI5")

# Read: channels, ports and rates in labscript-devices' capabilities.json, which the
# driver wrote (6343, 6363, 6738, 6733, 6008); analog input rates, retriggering and
# watchdog in the X Series User Manual; the AO series' edge more in NI-DAQmx Device
# Considerations.
# Not found in print, so to be verified on the device: the USB-6341's output rates
# (taken from the 6343), all FIFO sizes, outputs that a reset leaves alone, the 6738's
# series, change detection and counter sources, the 6733's filters.
_BOARDS = (
    Product(
        name="USB-6341",
        category=_X_SERIES,
        analog_outputs=2,
        analog_inputs=16,
        port_widths=(8, 8, 8),
        counter_sources=_X_COUNTERS,
        clocked_lines=8,
        ao_max_rate_hz=1e8 / 109,
        do_max_rate_hz=1e6,
        ai_max_rate_hz=500e3,
        ai_multiplexed_rate_hz=500e3,
        ao_fifo=8191,
        do_fifo=2047,
    ),
    Product(
        name="PCIe-6343",
        category=_X_SERIES,
        analog_outputs=4,
        analog_inputs=32,
        port_widths=(32, 8, 8),
        counter_sources=_X_COUNTERS,
        clocked_lines=32,
        ao_max_rate_hz=1e8 / 109,
        do_max_rate_hz=1e6,
        ai_max_rate_hz=500e3,
        ai_multiplexed_rate_hz=500e3,
        ao_fifo=8191,
        do_fifo=2047,
    ),
    Product(
        name="PCIe-6363",
        category=_X_SERIES,
        analog_outputs=4,
        analog_inputs=32,
        port_widths=(32, 8, 8),
        counter_sources=_X_COUNTERS,
        clocked_lines=32,
        ao_max_rate_hz=1e8 / 35,
        do_max_rate_hz=10e6,
        ai_max_rate_hz=2e6,
        ai_multiplexed_rate_hz=1e6,
        ao_fifo=8191,
        do_fifo=2047,
    ),
    Product(
        name="PCIe-6738",
        category=_AO_SERIES,
        analog_outputs=32,
        port_widths=(2, 8),
        counter_sources=("PFI0", "PFI3", "PFI0", "PFI3"),
        clocked_lines=2,
        ao_max_rate_hz=1e6,
        do_max_rate_hz=10e6,
        ao_fifo=65535,
        do_fifo=2047,
        ao_zero_on_reset=False,
    ),
    Product(
        name="PCI-6733",
        category=_AO_SERIES,
        analog_outputs=8,
        port_widths=(8,),
        counter_sources=("PFI8", "PFI3"),
        clocked_lines=8,
        ao_max_rate_hz=1e6,
        do_max_rate_hz=10e6,
        ao_fifo=16384,
        do_fifo=2048,
        pfi_port=None,
        pfis=10,
        counter_bits=24,
        timebase_hz=20e6,
        retriggers=False,
        paired_counters=True,
        change_detection=False,
        filters=False,
        watchdog=False,
        needs_extra_edge=True,
        ao_zero_on_reset=False,
    ),
    Product(
        name="USB-6008",
        category=_USB,
        analog_outputs=2,
        analog_inputs=8,
        ao_range_v=(0.0, 5.0),
        port_widths=(8, 4),
        counter_sources=("PFI0",),
        clocked_lines=0,
        ai_max_rate_hz=10e3,
        ai_multiplexed_rate_hz=10e3,
        pfi_port=None,
        pfis=1,
        timebase_hz=0.0,
        retriggers=False,
        change_detection=False,
        filters=False,
        watchdog=False,
    ),
)
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
