"""`Clocking`: which clock plays a waveform on a board, and whether the board can.

Separate because it is pure: decided at planning time as well as when the board is
armed. Two samples per frame are played by the two edges of exposure-out where the board
detects changes; else its active edge starts a train of pulses of the board's own clock:
of a counter that can be triggered again and again, or, on older boards, of one whose
pulses a second one lets through for the length of a train.
Each refusal is a `DaqError` that names the field, the reason and what would do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from opm_engine.daq.capabilities import WOULD_DO
from opm_engine.daq.protocol import DaqError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opm_engine.config import Microscope
    from opm_engine.daq.capabilities import Capabilities
    from opm_engine.daq.protocol import Waveform

T = TypeVar("T", bound=np.generic)

REARM_MS = 0.01
"""Least pause between a train's end and the next exposure."""

GATE_DELAY_MS = 0.002
"""From the opening of a gate to the first pulse: 40 ticks of 20 MHz from the moment
when the gate closes, so that one more or less loses no pulse; and less than the time of
a row, by which planned light ends before the window does."""

MIN_PULSE_TICKS = 4
"""Two up, two down, of the counter's timebase."""

MOST_PULSES = 64
"""Into which two samples per frame are stretched."""

USB_STREAM_HZ = 100e3
"""Samples of all channels that a USB board surely streams; PCI Express does 100 times
more. Only a period longer than the FIFO is streamed."""


@dataclass(frozen=True)
class Clocking:
    """How the board's samples follow the camera.

    Attributes
    ----------
    by_edges : bool
        Both edges of exposure-out play one sample each; else pulses do.
    per_frame : int
        Samples that the board plays for a frame.
    sample_ms : float
        Between them, if pulses play them.
    gated : bool
        Whether pulses run all the time and ``daq.counter`` lets them through. It then
        cannot count exposures.
    stretched : bool
        Whether the first of two samples is repeated ``per_frame - 1`` times.
    """

    by_edges: bool
    per_frame: int
    sample_ms: float
    gated: bool = False
    stretched: bool = False

    def expand(self, samples: NDArray[T]) -> NDArray[T]:
        """Samples as the board plays them: (..., P) -> (..., P * per_frame / K)."""
        if not self.stretched:
            return samples
        repeats = np.tile([self.per_frame - 1, 1], samples.shape[-1] // 2)
        return np.repeat(samples, repeats, axis=-1)


def clocking_of(
    waveform: Waveform, microscope: Microscope, device: Capabilities
) -> Clocking:
    """Choose the clock of a waveform.

    Raises
    ------
    DaqError
        If the device cannot play it.
    """
    terminal = microscope.camera.exposure_out.terminal
    k, period_ms = waveform.samples_per_frame, waveform.period_ms
    if k == 2 and device.detects_changes(terminal):
        clocking = Clocking(by_edges=True, per_frame=2, sample_ms=waveform.sample_ms)
    else:
        _refuse_pulses(microscope, device, k)
        clocking = _pulses(waveform, device)
        train_ms = clocking.per_frame * clocking.sample_ms
        if train_ms > period_ms - REARM_MS:
            msg = (
                f"waveform: {clocking.per_frame} samples of {clocking.sample_ms:g} ms "
                f"outlast a frame of {period_ms:g} ms"
            )
            raise DaqError(msg)
    _refuse_rates(waveform, clocking, microscope, device)
    return clocking


def _pulses(waveform: Waveform, device: Capabilities) -> Clocking:
    """Clock of a train of pulses, of whole ticks and with two equal halves."""
    n_pulses, sample_ms = waveform.samples_per_frame, waveform.sample_ms
    if n_pulses == 2:
        n_pulses, sample_ms = _stretched(waveform)
    ticks_per_ms = device.timebase_hz / 1e3
    return Clocking(
        by_edges=False,
        per_frame=n_pulses,
        sample_ms=max(2, round(sample_ms * ticks_per_ms / 2) * 2) / ticks_per_ms,
        gated=not device.family.retriggers,
        stretched=waveform.samples_per_frame == 2,
    )


def _stretched(waveform: Waveform) -> tuple[int, float]:
    """Pulses, and their period, for two samples of which the first is the window.

    A train is over one pulse after its last sample, and must be before the next
    exposure: so the window is divided into n pulses and one more follows.
    """
    window_ms, rest_ms = waveform.sample_ms, waveform.period_ms - waveform.sample_ms
    n = math.ceil(window_ms / max(rest_ms - REARM_MS, 1e-9) - 1e-9)
    n = max(1, n)
    if n >= MOST_PULSES:
        msg = (
            f"waveform: {rest_ms:g} ms between two exposure windows of {window_ms:g} ms"
            " are too short for a board that detects no changes; a shorter exposure or "
            f"{WOULD_DO}"
        )
        raise DaqError(msg)
    return n + 1, window_ms / n


def _refuse_pulses(microscope: Microscope, device: Capabilities, k: int) -> None:
    daq, terminal = microscope.daq, microscope.camera.exposure_out.terminal
    where = f"{daq.device} ({device.product})"
    why = f"{k} samples per frame are played by pulses of {daq.pulse_counter}"
    if not device.makes_trains:
        msg = f"daq.pulse_counter: {why}, and the counters of {where} cannot start a"
        raise DaqError(f"{msg} pulse train at each exposure; {WOULD_DO}")
    if daq.pulse_counter not in device.counters:
        raise DaqError(f"daq.pulse_counter: {where} has no {daq.pulse_counter}")
    if not terminal.startswith("PFI"):
        msg = f"camera.exposure_out.terminal: {why}, which {terminal} cannot trigger"
        raise DaqError(f"{msg}; a PFI terminal can")


def _refuse_rates(
    waveform: Waveform, clocking: Clocking, microscope: Microscope, device: Capabilities
) -> None:
    where = f"{microscope.daq.device} ({device.product})"
    rate_hz = rate_of(waveform, clocking)
    n_inputs = len(microscope.daq.record)
    limits_hz = {
        f"{len(waveform.channels)} analog outputs": device.ao_max_rate_hz
        / len(waveform.channels),
        f"{len(waveform.lines)} laser lines": device.do_max_rate_hz,
    }
    if n_inputs:
        limits_hz[f"{n_inputs} analog inputs"] = device.ai_max_rate_hz / n_inputs
    if not clocking.by_edges:
        fastest_hz = device.timebase_hz / MIN_PULSE_TICKS
        limits_hz[f"pulses of {microscope.daq.pulse_counter}"] = fastest_hz
    for what, limit_hz in limits_hz.items():
        if rate_hz > limit_hz:
            msg = f"waveform: {rate_hz:g} samples/s on {what}: {where} does at most"
            raise DaqError(f"{msg} {limit_hz:g}")
    missing = set(waveform.lines) - device.buffered_lines
    missing |= set(waveform.channels) - set(device.analog_outputs)
    if missing:
        msg = f"waveform: {where} cannot play {', '.join(sorted(missing))}"
        raise DaqError(msg)


def rate_of(waveform: Waveform, clocking: Clocking) -> float:
    """Upper bound of the samples per second."""
    return waveform.max_rate_hz if clocking.by_edges else 1e3 / clocking.sample_ms


def streams_over_usb(
    waveform: Waveform, clocking: Clocking, device: Capabilities, ao_fifo: int
) -> str | None:
    """Say why a waveform may run dry; None if it cannot.

    A period that fits the FIFO is repeated by the board itself. A longer one comes from
    the computer's memory all the time, which matters on USB alone, and there only at
    rates that no camera reaches with two samples per frame. The driver would stop the
    outputs with an error then, and `make_dark` follows; so this is a warning.
    """
    n_channels = len(waveform.channels)
    frames = waveform.digital.size // waveform.samples_per_frame
    n_samples = frames * clocking.per_frame * n_channels
    rate_hz = 1e3 * clocking.per_frame / waveform.period_ms * n_channels
    if not device.on_usb or n_samples <= ao_fifo or rate_hz <= USB_STREAM_HZ:
        return None
    return (
        f"{n_samples} samples at {rate_hz:g}/s do not fit the {ao_fifo} of the FIFO of "
        f"{device.product} and must come through USB; fewer samples per frame are safe"
    )
