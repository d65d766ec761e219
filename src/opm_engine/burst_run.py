"""`BurstRun`: one camera sequence while it plays: frames, accounts, inputs.

Separate from the engine, which keeps the runner's order of calls, because this is what
belongs to one burst and ends with it. Knows no stage and no preset.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from opm_engine.accounts import FrameAccountError
from opm_engine.daq.protocol import DaqError
from opm_engine.frames import FrameSource, frame_metadata
from opm_engine.plan import Flag, Inputs
from opm_engine.switching import quick_switching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import useq
    from numpy.typing import NDArray
    from pymmcore_plus import CMMCorePlus

    from opm_engine.accounts import Accounts
    from opm_engine.bursts import BurstEvent
    from opm_engine.config import Microscope
    from opm_engine.daq.protocol import Daq
    from opm_engine.frames import Frame
    from opm_engine.relays import Relays
    from opm_engine.supervisor import Supervisor

CHECK_S = 0.05
"""Between comparisons of popped frames with the exposures that the board has seen."""


class BurstRun:
    """Plays one burst: frames out, compared with the board's exposures.

    Parameters
    ----------
    event : BurstEvent
    core : CMMCorePlus
    daq : Daq
    microscope : Microscope
    accounts : Accounts
        Of the whole run.
    supervisor : Supervisor
        Halts, and hears when the runner's thread leaves and comes back.
    relays : Relays
        May fail, and take notes.
    """

    def __init__(
        self,
        event: BurstEvent,
        core: CMMCorePlus,
        daq: Daq,
        microscope: Microscope,
        *,
        accounts: Accounts,
        supervisor: Supervisor,
        relays: Relays,
    ) -> None:
        self._event = event
        self._core = core
        self._daq = daq
        self._accounts = accounts
        self._supervisor = supervisor
        self._relays = relays
        self._trailing = microscope.camera.trailing_exposures
        self._inputs = tuple(record.name for record in microscope.daq.record)
        self._n_inputs = self._n_lit_inputs = 0
        self._n_cameras = event.plan.n_cameras
        self._source = FrameSource(core, event.burst.n_frames, self._n_cameras)
        self._delivered = 0
        self._is_open = True
        self._while_playing = ExitStack()

    def play(
        self,
        started: Callable[[BurstEvent], None],
        extra: dict[str, Any],
        timeouts_s: tuple[float, float],
    ) -> Iterator[tuple[NDArray[np.uint16], useq.MDAEvent, dict[str, Any]]]:
        """Start the camera, yield what handlers get, close the accounts.

        Parameters
        ----------
        started : callable
            Called with the event once the camera runs.
        extra : dict
            Goes into the first frame's metadata.
        timeouts_s : (first, further)
            How long to wait for a frame.

        Raises
        ------
        FrameAccountError
            In the volume in which a camera edge was missing or one too many; it is
            dark and the handlers know of it then.
        MemoryError
            If the circular buffer overflowed, after what it held was yielded.
        SafetyError
            If light was switched off unasked.
        """
        event = self._event
        common = self._common_metadata()
        self._while_playing.enter_context(quick_switching())
        self._core.startSequenceAcquisition(event.burst.n_frames, 0, True)
        started(event)
        try:
            for number, frame in self._frames(*timeouts_s):
                sub_event = event.events[number]
                if self._n_cameras > 1:
                    index = {**sub_event.index, "cam": frame.camera}
                    sub_event = sub_event.model_copy(update={"index": index})
                meta = frame_metadata(frame, mda_event=sub_event, **common)
                if extra and not number and not frame.camera:
                    meta["extra"] = extra
                self._supervisor.handed_over()
                yield frame.image, sub_event, meta
                self._supervisor.taken_back()
            if self._source.popped < event.burst.n_frames:
                self._supervisor.halt()  # or wait for whoever does it just now
            self._supervisor.raise_if_tripped()
            if not self._cancelled():
                self._close()
        except FrameAccountError as error:
            self._supervisor.halt()
            self._flag(error)
            raise
        except MemoryError as error:
            raise self._overflowed() from error
        except DaqError:
            self._supervisor.raise_if_tripped()
            raise
        finally:
            self._while_playing.close()

    def abandon(self) -> None:
        """End it; if it was cut short, close its accounts. May be called twice."""
        self._while_playing.close()
        if self._is_open:
            self._is_open = False
            self._read_inputs()
            burst, seen = self._event.burst, self._daq.count()
            self._accounts.abandon_burst(burst, self._delivered, seen)

    def _frames(self, *timeouts_s: float) -> Iterator[tuple[int, Frame]]:
        """Lit frames with the number of their event."""
        burst = self._event.burst
        n_run = burst.frames_per_run
        next_check_s, number, exposure = 0.0, -1, -1
        for frame in self._source.frames(self._ending, *timeouts_s):
            if not frame.camera:
                exposure += 1
                number += burst.is_lit(exposure)
            ending, now_s = self._ending(), time.monotonic()
            if not ending and (now_s > next_check_s or not (exposure + 1) % n_run):
                next_check_s = now_s + CHECK_S
                ending = self._overtaken_in_check()
            if ending and exposure >= self._supervisor.n_lit:
                break  # exposed in the dark, after the light was switched off
            self._delivered = exposure + 1
            if burst.is_lit(exposure):
                yield number, frame

    def _ending(self) -> bool:
        """Whether the burst ends early; then it is dark and the camera stopped."""
        self._relays.raise_if_failed()
        if self._cancelled() or self._supervisor.reason is not None:
            self._supervisor.halt()  # or wait for whoever does it just now
            return True
        return False

    def _cancelled(self) -> bool:
        return self._core.mda.status.cancel_requested

    def _overtaken_in_check(self) -> bool:
        """Compare; True if it fails because light was switched off meanwhile."""
        seen = self._daq.count()
        try:
            self._accounts.check_progress(self._event.burst, self._source.popped, seen)
        except FrameAccountError:
            if seen.irregular is None and self._ending():
                return True
            raise
        self._read_inputs()
        return False

    def _close(self) -> None:
        """Count, stop the camera, count again, compare."""
        seen = self._daq.count()
        self._core.stopSequenceAcquisition()
        self._is_open = False
        self._read_inputs()
        self._accounts.close_burst(
            self._event.burst,
            self._source.popped,
            seen,
            stopped=self._daq.count(),
            usual_trailing=self._trailing,
        )

    def _overflowed(self) -> MemoryError:
        """Say how many frames are lost: exposed, but not in the buffer."""
        popped, n_frames = self._source.popped, self._event.burst.n_frames
        lost = max(self._daq.count().planned - popped, 0)
        msg = (
            f"circular buffer overflowed; {lost} frames were lost, and the burst ended "
            f"after {popped} of {n_frames}: handlers are too slow"
        )
        return MemoryError(msg)

    def _flag(self, error: FrameAccountError) -> None:
        """Tell the handlers which volume an error belongs to."""
        burst = self._event.burst
        lit = sum(burst.is_lit(frame) for frame in range(error.frame))
        index = self._event.events[min(lit, burst.n_events - 1)].index
        where = {str(axis): number for axis, number in index.items()}
        self._relays.note(Flag(where, str(error)))

    def _read_inputs(self) -> None:
        """Hand on what the board has recorded of lit frames since the last time."""
        if not self._inputs:
            return
        rows, burst = self._daq.inputs(), self._event.burst
        first, self._n_inputs = self._n_inputs, self._n_inputs + len(rows)
        lit = [burst.is_lit(frame) for frame in range(first, self._n_inputs)]
        before, self._n_lit_inputs = self._n_lit_inputs, self._n_lit_inputs + sum(lit)
        if any(lit):
            note = Inputs(burst.first_event + before, self._inputs, rows[lit])
            self._relays.note(note)

    def _common_metadata(self) -> dict[str, Any]:
        event, now_s = self._event, time.perf_counter()
        core, where = self._core, dict[str, Any]()
        if core.getXYStageDevice() and event.plan.stage is None:
            x_um, y_um = core.getXYPosition()
            where = {"position": {"x": x_um, "y": y_um}}
            if core.getFocusDevice():
                where["position"]["z"] = core.getPosition()
        return {
            **where,
            "camera_device": core.getCameraDevice(),
            "exposure_ms": core.getExposure(),
            "pixel_size_um": event.plan.geometry.pixel_size_um,
            "started_ms": (now_s - event.metadata.get("runner_t0", now_s)) * 1000,
        }
