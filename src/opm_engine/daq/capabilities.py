"""`Capabilities`: what a board can do, and which microscopes it can serve.

Separate because it is pure: the driver asks the device and fills it in; here is what
follows from the answers. Each refusal is a `DaqError` that names the field, the reason
and what would do. Knows no task.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from opm_engine.daq.outputs import outputs_of
from opm_engine.daq.protocol import DaqError

if TYPE_CHECKING:
    from opm_engine.config import Microscope

WOULD_DO = "an X-series board such as USB-6341 would do"


class Family(NamedTuple):
    """What cannot be asked of a device, but is known of its make."""

    retriggers: bool
    """Whether one counter makes a finite pulse train anew at each trigger."""
    gates: bool
    """Whether one counter can make single pulses at each trigger that let another's
    pulses through."""
    filters: bool
    """Whether terminals have a digital filter."""
    ao_fifo: int
    """Samples, shared by the channels of a task; 0 if not known."""


# Sources: "Output FIFO size" in NI's specifications of each device; pulse generation
# and digital filters in the user manuals of X Series and of 6738/6739 (DAQ-STC3), of M
# Series (DAQ-STC2) and of 671x/673x (DAQ-STC). The older chips need a second counter
# for the length of a finite train, which then cannot be triggered twice.
_FAMILIES = {
    r"63\d\d": Family(True, True, True, ao_fifo=8191),
    r"673[89]": Family(True, True, True, ao_fifo=65535),
    r"62\d\d": Family(False, True, True, ao_fifo=8191),
    r"67[13][13]": Family(False, True, False, ao_fifo=16384),
}
UNKNOWN = Family(False, False, True, ao_fifo=0)


def family_of(product: str) -> Family:
    """Look a product type like ``"PCIe-6363"`` up."""
    number = re.search(r"\d{4}", product)
    for pattern, family in _FAMILIES.items():
        if number and re.fullmatch(pattern, number[0]):
            return family
    return UNKNOWN


@dataclass(frozen=True)
class Capabilities:
    """What a device says of itself. Names are without the device's.

    Attributes
    ----------
    product : str
        Like ``"PCIe-6363"``.
    analog_outputs : tuple of str
    ao_ranges_v : tuple of (low, high)
    ao_max_rate_hz : float
        Of one channel; 0 if outputs cannot be clocked.
    lines : frozenset of str
        All digital lines.
    buffered_lines : frozenset of str
        Those that can be clocked.
    do_max_rate_hz : float
        0 without buffered lines.
    change_ports : frozenset of str
        Digital ports on which changes can be detected.
    counters : tuple of str
    counter_bits : int
    timebase_hz : float
        Fastest that a counter can count; 0 if counters make no pulses.
    analog_inputs : tuple of str
    ai_ranges_v : tuple of (low, high)
    ai_max_rate_hz : float
        Of all channels together.
    """

    product: str
    analog_outputs: tuple[str, ...]
    ao_ranges_v: tuple[tuple[float, float], ...]
    ao_max_rate_hz: float
    lines: frozenset[str]
    buffered_lines: frozenset[str]
    do_max_rate_hz: float
    change_ports: frozenset[str]
    counters: tuple[str, ...]
    counter_bits: int
    timebase_hz: float
    analog_inputs: tuple[str, ...] = ()
    ai_ranges_v: tuple[tuple[float, float], ...] = ()
    ai_max_rate_hz: float = 0.0

    @property
    def family(self) -> Family:
        """What is known of its make."""
        return family_of(self.product)

    @property
    def makes_trains(self) -> bool:
        """Whether its counters can start a train of pulses at each exposure."""
        two = len(self.counters) > 1 and self.timebase_hz > 0
        return two and (self.family.retriggers or self.family.gates)

    @property
    def on_usb(self) -> bool:
        """Whether samples that do not fit its FIFO come through USB."""
        return self.product.startswith("USB")

    @property
    def timebase(self) -> str:
        """Terminal of the fastest clock that a counter can count."""
        return f"{round(self.timebase_hz / 1e6)}MHzTimebase"

    def reads(self, terminal: str) -> bool:
        """Whether the level of a terminal can be read: PFIs are lines or are not."""
        return terminal in self.lines or "port1/line0" in self.lines

    def detects_changes(self, terminal: str) -> bool:
        """Whether both edges of a terminal can play samples."""
        if terminal.startswith("PFI"):
            return bool(self.change_ports)
        return terminal.partition("/")[0] in self.change_ports


def refuse_device(microscope: Microscope, device: Capabilities) -> None:
    """Raise unless the device has what the microscope names.

    Raises
    ------
    DaqError
    """
    where = f"{microscope.daq.device} ({device.product})"
    terminal = microscope.camera.exposure_out.terminal
    if not device.buffered_lines:
        msg = f"daq.device: {where} has no buffered lines, but the lasers need clocked"
        raise DaqError(f"{msg} digital lines; {WOULD_DO}")
    if not device.ao_max_rate_hz:
        msg = f"daq.galvo.channel: {where} cannot clock its analog outputs; {WOULD_DO}"
        raise DaqError(msg)
    if not (device.detects_changes(terminal) or device.makes_trains):
        msg = (
            f"camera.exposure_out.terminal: {where} detects no changes of {terminal}, "
            f"nor can its counters start a pulse train at each exposure; {WOULD_DO}"
        )
        raise DaqError(msg)
    if microscope.camera.exposure_out.debounce_us and not device.family.filters:
        msg = f"camera.exposure_out.debounce_us: {where} has no digital filters; use 0"
        raise DaqError(msg)
    _refuse_missing(microscope, device, where)
    for laser in microscope.lasers:
        if laser.line not in device.buffered_lines:
            have = ", ".join(sorted(device.buffered_lines, key=_by_number))
            msg = f"lasers.{laser.name}.line: {where} cannot clock {laser.line}; it can"
            raise DaqError(f"{msg} clock {have}")
    _refuse_ranges(microscope, device, where)


def _refuse_missing(microscope: Microscope, device: Capabilities, where: str) -> None:
    daq = microscope.daq
    channels = {*device.analog_outputs, *device.counters, *device.analog_inputs}
    channels |= device.lines
    outputs = outputs_of(microscope).values()
    needed = {f"lasers.{laser.name}": laser.line for laser in microscope.lasers}
    needed |= {f"{output.table}.channel": output.channel for output in outputs}
    needed |= {f"daq.record.{record.name}": record.channel for record in daq.record}
    needed["daq.counter"] = daq.counter
    if daq.laser_enable is not None:
        needed["daq.laser_enable"] = daq.laser_enable
    terminal = microscope.camera.exposure_out.terminal
    if not terminal.startswith("PFI"):
        needed["camera.exposure_out.terminal"] = terminal
    if not device.detects_changes(terminal):
        needed["daq.pulse_counter"] = daq.pulse_counter
    for field, channel in needed.items():
        if channel not in channels:
            raise DaqError(f"{field}: {where} has no {channel}")


def _refuse_ranges(microscope: Microscope, device: Capabilities, where: str) -> None:
    wanted = [
        (output.limit, output.range_v, device.ao_ranges_v, "put out")
        for output in outputs_of(microscope).values()
    ]
    wanted += [
        (f"daq.record.{record.name}", record.range_v, device.ai_ranges_v, "measure")
        for record in microscope.daq.record
    ]
    for field, (low_v, high_v), ranges_v, do in wanted:
        if not any(low <= low_v and high_v <= high for low, high in ranges_v):
            raise DaqError(f"{field}: {where} cannot {do} {low_v:g}..{high_v:g} V")


def _by_number(line: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", line)]
