"""What a board is asked to play, checked against the microscope before it is asked.

Separate because it is pure: no board, no NI library. Each refusal is a `DaqError` that
names the field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from opm_engine.daq.outputs import outputs_of
from opm_engine.daq.protocol import DaqError

if TYPE_CHECKING:
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
    outputs = outputs_of(microscope)
    galvo, *_ = outputs
    if waveform.channels[:1] != (galvo,):
        msg = f"the galvo is on {galvo}; the waveform moves {waveform.channels}"
        raise DaqError(msg)
    if len(set(waveform.channels)) != len(waveform.channels):
        msg = f"waveform: channels = {waveform.channels} names one twice"
        raise DaqError(msg)
    for row, channel in enumerate(waveform.channels):
        if channel not in outputs:
            msg = f"waveform: {channel} is no galvo's channel and no power output's"
            raise DaqError(msg)
        low_v, high_v = outputs[channel].range_v
        volts = np.append(waveform.analog[row], waveform.initial_v[row])
        inside = (volts >= low_v) & (volts <= high_v)
        if not inside.all():
            msg = (
                f"{volts[~inside][0]:g} V on {channel} is outside "
                f"{outputs[channel].limit} = [{low_v:g}, {high_v:g}]"
            )
            raise DaqError(msg)


def _refuse_shapes(waveform: Waveform) -> None:
    period, k = waveform.digital.size, waveform.samples_per_frame
    if k < 2:
        raise DaqError(f"waveform: samples_per_frame = {k} is less than 2")
    expected = (len(waveform.channels), period)
    if waveform.analog.shape != expected or period < 2 or period % k:
        msg = f"waveform: analog is {waveform.analog.shape}, digital {period} samples"
        raise DaqError(msg)
    if waveform.initial_v.shape != expected[:1]:
        msg = "waveform: initial_v must hold one voltage for each channel"
        raise DaqError(msg)
    if waveform.n_samples < k or waveform.n_samples % k:
        each = "two" if k == 2 else k
        msg = f"waveform: n_samples = {waveform.n_samples} is not {each} for each"
        raise DaqError(f"{msg} exposure")
    for name in ("period_ms", "sample_ms", "max_rate_hz"):
        value = getattr(waveform, name)
        if not (value > 0 and np.isfinite(value)):
            what = "period" if name == "period_ms" else "positive number"
            raise DaqError(f"waveform: {name} = {value} is no {what}")


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
