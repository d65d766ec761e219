"""How many samples a frame gets, and in which of them a laser is on.

Separate because it is about the board's clock alone. Pure. Two samples per frame are
the camera's own edges and need no clock; what moves or ends *within* a window needs
more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from opm_engine.geometry import EPSILON
from opm_engine.plan.parts import PlannedChannel, SampleClock
from opm_engine.plan.settings import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opm_engine.plan.parts import CameraTiming

MIN_SAMPLE_MS = 0.01
"""Finer than this no galvo and no dose needs it; every board plays 100 kHz."""

TICK_MS = 1e-5
"""Of the board's 100 MHz timebase, of which a sample is a whole number."""

REARM_MS = 0.02
"""Between the last sample of a frame and the next exposure, for the retrigger."""

PULSE_RESOLUTION = 100
SWEEP_RESOLUTION = 250
"""Samples in a window, at least, unless ``MIN_SAMPLE_MS`` forbids it."""

READOUT_RESOLUTION = 50
"""Samples in a readout, in which a sweep returns, at least, with the same exception."""

RAMP_RESOLUTION = 20
"""Samples in a frame: each stair of a ramp is a twentieth of the way to the next."""

MAX_PERIOD_SAMPLES = 20_000_000


def edges_only(timing: CameraTiming) -> SampleClock:
    """Two samples per frame, one at each end of the window."""
    return SampleClock(samples_per_frame=2, sample_ms=timing.window_ms, n_window=1)


def clocked(
    timing: CameraTiming, wanted_ms: float, line_ms: float, where: str
) -> SampleClock:
    """Samples of the board's clock, from the start of each window on.

    Parameters
    ----------
    timing : CameraTiming
    wanted_ms : float
        Between samples, at most.
    line_ms : float
        Kept dark at the window's end: cameras round exposures to whole lines, and
        here no falling edge ends the light.
    where : str
        Names the channel in refusals.

    Raises
    ------
    PlanError
        If window or readout are too short for it.
    """
    window_ms = timing.window_ms - line_ms
    room_ms = timing.readout_ms + line_ms - REARM_MS
    if min(window_ms, room_ms) < MIN_SAMPLE_MS:
        msg = (
            f"{where}.exposure: window ({timing.window_ms:.4f} ms) and readout "
            f"({timing.readout_ms:.4f} ms) are too short to play more than two samples "
            f"per frame; use a longer exposure and more rows in camera.roi"
        )
        raise PlanError(msg)
    sample_ms = min(max(wanted_ms, MIN_SAMPLE_MS), room_ms, window_ms)
    n_window = math.ceil(window_ms / sample_ms - EPSILON)
    sample_ms = round(math.floor(window_ms / n_window / TICK_MS + EPSILON) * TICK_MS, 5)
    return SampleClock(
        samples_per_frame=math.floor((timing.period_ms - REARM_MS) / sample_ms),
        sample_ms=sample_ms,
        n_window=n_window,
    )


def refit(channel: PlannedChannel, timing: CameraTiming) -> PlannedChannel:
    """The same samples in a frame that turned out longer or shorter."""
    old, first_stop = channel.sampling, channel.light
    if old.samples_per_frame == 2:
        return channel.model_copy(
            update={"timing": timing, "sampling": edges_only(timing)}
        )
    spare_ms = channel.timing.window_ms - old.n_window * old.sample_ms
    window_ms = timing.window_ms - spare_ms + EPSILON
    n_window = min(old.n_window, math.floor(window_ms / old.sample_ms))
    room = math.floor((timing.period_ms - REARM_MS) / old.sample_ms + EPSILON)
    sampling = SampleClock(
        samples_per_frame=max(min(old.samples_per_frame, room), n_window + 1),
        sample_ms=old.sample_ms,
        n_window=n_window,
    )
    light = (first_stop[0], min(first_stop[1], n_window))
    return channel.model_copy(
        update={"timing": timing, "sampling": sampling, "light": light}
    )


def lit(
    channel: PlannedChannel, pulse_ms: Mapping[str, float], margin_ms: float = 0.0
) -> PlannedChannel:
    """Say in which samples a channel's laser is on: the window, or a part of it.

    Parameters
    ----------
    channel : PlannedChannel
    pulse_ms : mapping
        Laser name to pulse length; pulses lie in the middle of the window.
    margin_ms : float
        Kept dark at both ends of the window.

    Raises
    ------
    PlanError
        If a pulse is longer than the window or shorter than a sample.
    """
    sampling = channel.sampling
    if channel.name not in pulse_ms:
        first = math.ceil(margin_ms / sampling.sample_ms - EPSILON)
        light = first, sampling.n_window - first
        return channel.model_copy(update={"light": light})
    wanted_ms = pulse_ms[channel.name]
    longest_ms = sampling.n_window * sampling.sample_ms
    fits = wanted_ms <= channel.timing.window_ms + EPSILON
    n_on = round(wanted_ms / sampling.sample_ms) if fits else 0
    if n_on < 1:
        msg = (
            f'pulse_ms["{channel.name}"] = {wanted_ms:g} ms must lie within the '
            f"window in which all rows expose: from {sampling.sample_ms:.4f} to "
            f"{longest_ms:.4f} ms at this exposure"
        )
        raise PlanError(msg)
    n_on = min(n_on, sampling.n_window)
    first = (sampling.n_window - n_on) // 2
    return channel.model_copy(update={"light": (first, first + n_on)})
