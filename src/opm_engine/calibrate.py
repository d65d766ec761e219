"""`opm-engine calibrate`: volts per µm, sign and settle time of a galvo, from images.

Separate from the engine because it measures the instrument instead of a sample. The
sample's own structure is the ruler: the stage moves it by known distances, and the
galvo voltage is looked for at which the same plane is seen again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import useq

from opm_engine.daq.protocol import Waveform
from opm_engine.plan import BLOCK, plan_scan
from opm_engine.play import play
from opm_engine.snap import collect

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opm_engine.session import Scope

SHIFTS_UM = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)
REACH_UM, STEP_UM = 8.0, 0.1
EXPOSURE_READOUTS = 4
JUMP_UM = 6.0
PULSE_MS = 0.1
REPEATS = 4
"""Images that are averaged for each delay of a pulse."""

N_FINAL = 6
"""Last pulses of the window, which tell where the galvo stays."""

SETTLED = 0.01
"""Part of a step within which the galvo counts as settled."""

MIN_MATCH = 0.3
"""Correlation of a plane with its match below which nothing was recognised."""

SIGNIFICANT = 8.0
"""Times the correlation that noise has with anything; for the dim images of pulses."""

NEAR, FAR = 1, 6
"""Planes on both sides of the best one that say where the match lies: few for bright
images, many for dim ones, which shifts all of them alike."""


class CalibrationError(RuntimeError):
    """The images did not say what was asked; the message says what would help."""


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Attributes
    ----------
    volts_per_um : float
        For the configured ``geometry.scan_sign``; its sign says which way it runs.
    settle_ms : float
        After a step, until within 1 % of it.
    residual_um : float
        Root mean square distance of the matches from the line.
    """

    volts_per_um: float
    settle_ms: float
    residual_um: float

    def report(self, scope: Scope) -> dict[str, Any]:
        """Return the figures beside those of the description, as JSON."""
        galvo = scope.microscope.daq.galvo
        return {
            **{name: round(value, 6) for name, value in asdict(self).items()},
            "sign": 1 if self.volts_per_um > 0 else -1,
            "configured": {
                "volts_per_um": galvo.volts_per_um,
                "settle_ms": galvo.settle_ms,
            },
        }


def calibrate(scope: Scope, laser: str | None = None) -> Calibration:
    """Measure the scan galvo on what lies in the field of view. Lights the sample.

    Parameters
    ----------
    scope : Scope
    laser : str, optional
        By default the first.

    Raises
    ------
    CalibrationError
        If too little structure is in view.
    PlanError
        If the galvo cannot reach far enough.
    """
    laser = laser or scope.microscope.laser_names[0]
    exposure_ms = _exposure_ms(scope)
    volts, stack = _galvo_stack(scope, laser, exposure_ms)
    volts_per_um, residual_um = _slope(scope, laser, exposure_ms, volts, stack)
    settle_ms = _settling(scope, laser, exposure_ms, volts, stack)
    sign = scope.microscope.geometry.scan_sign
    return Calibration(volts_per_um * sign, settle_ms, residual_um)


def _exposure_ms(scope: Scope) -> float:
    camera = scope.microscope.camera
    return EXPOSURE_READOUTS * camera.roi[3] * camera.line_time_us / 1000


def _galvo_stack(
    scope: Scope, laser: str, exposure_ms: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Planes (N, S, X) around the middle, and the volts (N,) that show them."""
    sequence = useq.MDASequence(
        channels=[_channel(scope, laser, exposure_ms)],
        z_plan={"range": 2 * REACH_UM, "step": STEP_UM},
    )
    offsets_um = np.array([float(z) for z in sequence.z_plan or ()])
    galvo = scope.microscope.daq.galvo
    volts = np.array([galvo.volts_at(offset) for offset in offsets_um])
    planes = collect(scope.engine, sequence)
    scope.raise_if_interrupted()
    return volts, _normalised(planes[laser])


def _slope(
    scope: Scope,
    laser: str,
    exposure_ms: float,
    volts: NDArray[np.float64],
    stack: NDArray[np.float64],
) -> tuple[float, float]:
    """Volts per µm of stage travel, and how well they lie on a line in µm."""
    core, stage = scope.core, scope.microscope.scan_stage
    axis = 0 if stage is not None and stage.axis == "x" else 1
    home = core.getXYPosition()
    found = []
    try:
        for shift_um in SHIFTS_UM:
            target = list(home)
            target[axis] += shift_um
            core.setXYPosition(*target)
            core.waitForSystem()
            plane = scope.snap([_channel(scope, laser, exposure_ms)])[laser]
            found.append(_match(_normalised(plane[np.newaxis])[0], volts, stack, NEAR))
    finally:
        core.setXYPosition(*home)
    slope, middle = np.polyfit(SHIFTS_UM, found, 1)
    apart = np.array(found) - (slope * np.array(SHIFTS_UM) + middle)
    residual_um = float(np.sqrt(np.mean(apart**2)) / abs(slope))
    if residual_um > STEP_UM:
        msg = (
            f"the planes lie {residual_um:.2g} µm off a line; is the sample still, "
            "and does it have structure?"
        )
        raise CalibrationError(msg)
    return float(slope), residual_um


def _settling(
    scope: Scope,
    laser: str,
    exposure_ms: float,
    volts: NDArray[np.float64],
    stack: NDArray[np.float64],
) -> float:
    """Time in ms after a step until short pulses see the plane where it stays."""
    waveform, delays_ms = _step_waveform(scope, laser, exposure_ms)
    frames = play(scope.engine, waveform, exposure_ms)[1::2]
    scope.raise_if_interrupted()
    frames = frames.reshape(REPEATS, -1, *frames.shape[1:]).mean(axis=0)
    least = SIGNIFICANT / np.sqrt(frames[0].size)
    found_v = np.array(
        [_match(p, volts, stack, FAR, least) for p in _normalised(frames)]
    )
    final_v = found_v[-N_FINAL:]
    allowed_v = SETTLED * abs(JUMP_UM * scope.microscope.daq.galvo.volts_per_um)
    if np.ptp(final_v) > 2 * allowed_v:
        msg = (
            "the last pulses of the window do not agree: the galvo does not settle "
            "within it, or the images are too noisy; expose longer, or raise the power"
        )
        raise CalibrationError(msg)
    late = np.flatnonzero(np.abs(found_v - np.median(final_v)) > allowed_v)
    # between the middles of the last pulse that saw it move and the next one
    return float(delays_ms[late[-1]] + PULSE_MS) if late.size else 0.0


def _step_waveform(
    scope: Scope, laser: str, exposure_ms: float
) -> tuple[Waveform, NDArray[np.float64]]:
    """Every second frame starts with a step; a pulse follows, each time later.

    Returns
    -------
    Waveform
    delays_ms : ndarray, (pulses,)
        From the step to the start of the pulse.
    """
    microscope = scope.microscope
    sequence = useq.MDASequence(
        channels=[_channel(scope, laser, exposure_ms)],
        metadata={BLOCK: {"mode": "single"}},
    )
    channel = plan_scan(sequence, microscope).channels[0]
    timing, galvo = channel.timing, microscope.daq.galvo
    n_pulses = int((timing.window_ms - PULSE_MS) / PULSE_MS)
    k = int((timing.period_ms - 0.05) / PULSE_MS)
    digital = np.zeros((n_pulses, 2, k), np.uint32)
    pulses = np.arange(n_pulses)
    digital[pulses, 1, pulses] = 1 << int(channel.line.rpartition("line")[2])
    analog = np.empty((n_pulses, 2, k))
    analog[:, 0], analog[:, 1] = (
        galvo.volts_at(-JUMP_UM / 2),
        galvo.volts_at(JUMP_UM / 2),
    )
    analog[:, 1, n_pulses + 1 :] = galvo.volts_at(-JUMP_UM / 2)
    waveform = Waveform(
        digital=digital.ravel(),
        lines=(channel.line,),
        analog=analog.reshape(1, -1),
        channels=(galvo.channel,),
        initial_v=analog[0, 0, :1].copy(),
        settle_ms=galvo.settle_ms,
        period_ms=timing.period_ms,
        n_samples=REPEATS * digital.size,
        max_rate_hz=1000 / PULSE_MS,
        sample_ms=PULSE_MS,
        samples_per_frame=k,
    )
    return waveform, np.asarray(pulses * PULSE_MS, np.float64)


def _channel(scope: Scope, laser: str, exposure_ms: float) -> dict[str, Any]:
    group = scope.microscope.channel_group
    return {"config": laser, "group": group, "exposure": exposure_ms}


def _normalised(planes: NDArray[Any]) -> NDArray[np.float64]:
    """Planes (N, S, X) with mean 0 and norm 1 each."""
    centred = planes - planes.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    return np.asarray(centred / np.linalg.norm(centred, axis=(1, 2), keepdims=True))


def _match(
    plane: NDArray[np.float64],
    volts: NDArray[np.float64],
    stack: NDArray[np.float64],
    n_around: int,
    least: float = MIN_MATCH,
) -> float:
    """Volts of the place in a stack that looks most like a plane (both normalised).

    The top of the parabola through the likeness of the best plane and ``n_around`` on
    both sides of it.

    Raises
    ------
    CalibrationError
        If nothing looks like it, with a correlation of ``least``.
    """
    likeness = np.tensordot(stack, plane, axes=2)
    best = int(np.argmax(likeness))
    inside = n_around <= best < len(volts) - n_around
    if inside and likeness[best] >= least:
        near = slice(best - n_around, best + n_around + 1)
        bend, tilt, _ = np.polyfit(volts[near] - volts[best], likeness[near], 2)
        if bend < 0:
            return float(volts[best] - tilt / (2 * bend))
    msg = (
        f"a plane was not recognised (correlation {likeness[best]:.2f}); bring "
        "more structure into view, or raise power or exposure"
    )
    raise CalibrationError(msg)
