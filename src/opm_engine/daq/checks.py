"""What a board is asked for, checked against the microscope before it is asked.

Separate because it is pure: no board, no NI library. Each refusal is a `DaqError` that
names the field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from opm_engine.daq.protocol import DaqError

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import ArrayLike

    from opm_engine.config import Microscope
    from opm_engine.daq.protocol import Waveform


def refuse_waveform(waveform: Waveform, microscope: Microscope) -> None:
    """Raise unless the arrays fit each other and this microscope may play them.

    Raises
    ------
    DaqError
    """
    _refuse_shapes(waveform)
    _refuse_lines(waveform, tuple(laser.line for laser in microscope.lasers))
    galvo = microscope.daq.galvo
    if waveform.channels != (galvo.channel,):
        msg = f"the galvo is on {galvo.channel}; the waveform moves {waveform.channels}"
        raise DaqError(msg)
    low_v, high_v = galvo.range_v
    volts = np.concatenate([waveform.analog.ravel(), waveform.initial_v])
    inside = (volts >= low_v) & (volts <= high_v)
    if not inside.all():
        msg = (
            f"{volts[~inside][0]:g} V on {galvo.channel} is outside "
            f"daq.galvo.range_v = [{low_v:g}, {high_v:g}]"
        )
        raise DaqError(msg)


def refuse_device(
    microscope: Microscope,
    product: str,
    channels: Collection[str],
    ao_ranges_v: ArrayLike,
) -> None:
    """Raise unless the device has every channel that the microscope names.

    Parameters
    ----------
    product : str
    channels : collection of str
        Outputs, lines and counters of the device, without its name.
    ao_ranges_v : array_like, (2 * K,)
        Low and high of each range of the analog outputs.

    Raises
    ------
    DaqError
    """
    daq = microscope.daq
    needed = {f"lasers.{laser.name}": laser.line for laser in microscope.lasers}
    needed["daq.galvo.channel"] = daq.galvo.channel
    needed["daq.counter"] = daq.counter
    if daq.laser_enable is not None:
        needed["daq.laser_enable"] = daq.laser_enable
    terminal = microscope.camera.exposure_out.terminal
    if not terminal.startswith("PFI"):
        needed["camera.exposure_out.terminal"] = terminal
    for field, channel in needed.items():
        if channel not in channels:
            msg = f"{field}: {daq.device} ({product}) has no {channel}"
            raise DaqError(msg)
    low_v, high_v = daq.galvo.range_v
    ranges_v = np.reshape(ao_ranges_v, (-1, 2))
    if not any(low <= low_v and high_v <= high for low, high in ranges_v):
        volts = f"{low_v:g}..{high_v:g} V"
        msg = f"daq.galvo.range_v: {daq.device} ({product}) cannot put out {volts}"
        raise DaqError(msg)


def _refuse_shapes(waveform: Waveform) -> None:
    period = waveform.digital.size
    expected = (len(waveform.channels), period)
    if waveform.analog.shape != expected or period < 2:
        msg = f"waveform: analog is {waveform.analog.shape}, digital {period} samples"
        raise DaqError(msg)
    if waveform.initial_v.shape != expected[:1]:
        msg = "waveform: initial_v must hold one voltage for each channel"
        raise DaqError(msg)
    if waveform.n_samples < 2 or waveform.n_samples % 2:
        msg = f"waveform: n_samples = {waveform.n_samples} is not two for each exposure"
        raise DaqError(msg)
    if not waveform.period_ms > 0:
        raise DaqError(f"waveform: period_ms = {waveform.period_ms} is no period")


def _refuse_lines(waveform: Waveform, laser_lines: tuple[str, ...]) -> None:
    unknown = set(waveform.lines) - set(laser_lines)
    if unknown:
        msg = f"waveform: {', '.join(sorted(unknown))} is no laser's line"
        raise DaqError(msg)
    bits = [1 << int(line.rpartition("line")[2]) for line in waveform.lines]
    raised = int(np.bitwise_or.reduce(waveform.digital)) & ~sum(bits)
    if raised:
        msg = f"waveform: raises bits {raised:#x} beyond {waveform.lines}"
        raise DaqError(msg)
