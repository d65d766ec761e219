"""Plays one waveform and returns the frames, watched like any burst.

Separate from the engine because checks and calibrations play what no sequence plans.
Nothing is written and no handler is called.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.daq.protocol import DaqError
from opm_engine.frames import FrameSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opm_engine.daq.protocol import Waveform
    from opm_engine.engine import OPMEngine

TIMEOUT_S = 5.0


class Cancelled(RuntimeError):
    """The run was asked to end; what was to be played is not complete."""


def play(
    engine: OPMEngine, waveform: Waveform, exposure_ms: float
) -> NDArray[np.uint16]:
    """Play a waveform in the calling thread, outside a run.

    Parameters
    ----------
    engine : OPMEngine
    waveform : Waveform
    exposure_ms : float
        Of the camera.

    Returns
    -------
    ndarray, (frames, rows, columns) uint16
        All frames, dark ones included.

    Raises
    ------
    DaqError, SafetyError
        As in a run; all is dark then.
    RuntimeError
        If a run is in progress.
    """
    engine.turn.take()
    with ExitStack() as backwards:
        backwards.callback(engine.turn.release)
        engine.supervisor.begin()
        backwards.callback(engine.supervisor.end)
        return play_in_run(engine, waveform, exposure_ms)


def play_in_run(
    engine: OPMEngine, waveform: Waveform, exposure_ms: float
) -> NDArray[np.uint16]:
    """Play a waveform in the runner's thread, between bursts; see `play`."""
    core, supervisor = engine.mmcore, engine.supervisor
    with ExitStack() as backwards:
        core.setExposure(exposure_ms)
        backwards.callback(supervisor.rest)
        backwards.callback(core.stopSequenceAcquisition)
        backwards.callback(supervisor.make_dark)
        supervisor.light_may_come(waveform.period_ms, waveform.n_frames)
        try:
            engine.daq.arm(waveform)
        except DaqError:
            refuse_cancelled(engine)
            raise
        source = FrameSource(core, waveform.n_frames)
        core.startSequenceAcquisition(waveform.n_frames, 0, True)
        popped = source.frames(
            lambda: supervisor.reason is not None, TIMEOUT_S, TIMEOUT_S
        )
        frames = [frame.image for frame in popped]
        supervisor.raise_if_tripped()
        refuse_cancelled(engine)
    return np.stack(frames)


def refuse_cancelled(engine: OPMEngine) -> None:
    """Raise `Cancelled` if the run was asked to end."""
    if engine.mmcore.mda.status.cancel_requested:
        raise Cancelled
