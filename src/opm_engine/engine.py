"""`OPMEngine`: pymmcore-plus's engine, playing bursts clocked by the camera.

Hooks and the frame loop, no arithmetic: what is played comes from ``plan`` and
``daq.waveforms``, devices are set in ``instrument``. Per burst the runner calls::

    setup_event     stages, exposure, buffer; the board armed     (rolls back itself)
    exec_event      camera started, frames popped and yielded, accounts closed
    teardown_event  dark, camera stopped                          (also after errors)
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import useq
from pymmcore_plus import GeneratorMDASequence
from pymmcore_plus.core import SequencedEvent
from pymmcore_plus.mda import MDAEngine

from opm_engine import instrument
from opm_engine.accounts import Accounts
from opm_engine.bursts import BurstEvent, burst_events, is_off, refuse_outside_burst
from opm_engine.daq.waveforms import burst_waveform
from opm_engine.frames import FrameSource, frame_metadata
from opm_engine.plan import BLOCK, describe, plan_scan

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from pymmcore_plus import CMMCorePlus
    from pymmcore_plus.metadata import SummaryMetaV1

    from opm_engine.config import Microscope
    from opm_engine.daq.protocol import Daq
    from opm_engine.frames import Frame
    from opm_engine.plan import Burst, PositionInfo, ScanPlan

logger = logging.getLogger(__name__)

POLL_S = 5e-4
"""Sleep while the circular buffer is empty."""

CHECK_S = 0.05
"""Between comparisons of popped frames with the exposures that the board has seen."""


class Relay(Protocol):
    """Whoever handles frames and may have failed."""

    def raise_if_failed(self) -> None:
        """Raise the handler's own error, if there is one."""


class OPMEngine(MDAEngine):
    """Engine for an oblique plane microscope.

    Parameters
    ----------
    mmc : CMMCorePlus
        With the microscope's devices loaded.
    microscope : Microscope
        What is wired to what.
    daq : Daq
        An opened board.
    **kwargs
        Of ``MDAEngine``.
    """

    def __init__(
        self, mmc: CMMCorePlus, microscope: Microscope, daq: Daq, **kwargs: Any
    ) -> None:
        super().__init__(mmc, **kwargs)
        self.microscope = microscope
        self.daq = daq
        self.accounts = Accounts()
        self._relays: list[Relay] = []
        self._announced: ScanPlan | None = None
        self._start_focus_um: float | None = None

    # ---------------------------------------------------------------- for callers

    def bursts(self, sequence: useq.MDASequence) -> Iterator[BurstEvent]:
        """Return the ready bursts of a sequence, for a list or a queue of events.

        Raises
        ------
        PlanError
            If the microscope cannot play the sequence.
        """
        return burst_events(sequence, plan_scan(sequence, self.microscope))

    def attach_relay(self, relay: Relay) -> None:
        """Stop runs, before arming or between frames, when ``relay`` has failed."""
        self._relays.append(relay)

    def detach_relay(self, relay: Relay) -> None:
        """Forget a relay."""
        self._relays.remove(relay)

    def make_dark(self) -> None:
        """Lasers off, galvo parked, shutter closed; each tried whatever the others do.

        Raises
        ------
        DaqError
            If the board did not obey.
        """
        with ExitStack() as last_to_first:
            last_to_first.callback(instrument.close_shutter, self.mmcore)
            last_to_first.callback(self.daq.make_dark)

    # ---------------------------------------------------------------- whole sequence

    def setup_sequence(self, sequence: useq.MDASequence) -> SummaryMetaV1 | None:
        """Plan, prepare the camera, and tell handlers what is coming."""
        self.accounts = Accounts()
        self._announced = None
        core = self.mmcore
        self._start_focus_um = core.getPosition() if core.getFocusDevice() else None
        if isinstance(sequence, GeneratorMDASequence) or is_off(sequence):
            return super().setup_sequence(sequence)
        plan = plan_scan(sequence, self.microscope)
        for warning in plan.warnings:
            logger.warning(warning)
        instrument.prepare_camera(core, self.microscope)
        summary = super().setup_sequence(sequence)
        if summary is not None:
            summary.setdefault("extra", {})[BLOCK] = describe(plan, self.microscope)
        self._announced = plan
        return summary

    def event_iterator(
        self, events: Iterable[useq.MDAEvent]
    ) -> Iterator[useq.MDAEvent]:
        """Group the events of a sequence into bursts; pass others as they are."""
        if not isinstance(events, useq.MDASequence):
            yield from events
        elif self._announced is None:
            yield from super().event_iterator(events)
        else:
            yield from burst_events(events, self._announced)

    def teardown_sequence(self, sequence: useq.MDASequence) -> None:
        """Make dark once more and restore what the stock engine restores.

        A raise here would leave the runner stuck; the board's errors were raised by
        ``teardown_event`` already.
        """
        try:
            self.make_dark()
            super().teardown_sequence(sequence)
        except Exception:
            logger.exception("Tearing down the sequence failed")

    # ---------------------------------------------------------------- one burst

    def setup_event(self, event: useq.MDAEvent) -> None:
        """Prepare one event; a failed burst is rolled back before the error leaves."""
        refuse_outside_burst(event)
        try:
            super().setup_event(event)
        except BaseException:
            # The runner does not call teardown_event after an error here.
            self.teardown_event(event)
            raise

    def setup_sequenced_event(self, event: SequencedEvent) -> None:
        """Move, set exposure and power, size the buffer, then arm the board."""
        if not isinstance(event, BurstEvent):
            super().setup_sequenced_event(event)
            return
        core, plan, burst = self.mmcore, event.plan, event.burst
        self._raise_if_a_relay_failed()
        channel = plan.channel_of(burst, 0)
        position = plan.positions[burst.index.get("p", 0)]
        instrument.prepare_camera(core, self.microscope)
        focus_um = self._focus_um(position, channel.z_offset_um)
        instrument.move_stages(core, position, focus_um)
        core.setConfig(channel.group, channel.name)
        instrument.set_laser_power(core, self.microscope, plan)
        instrument.set_exposure(core, self.microscope, channel.timing)
        instrument.size_buffer(core, channel.timing, burst.n_frames)
        instrument.open_shutter(core)
        core.waitForSystem()
        self.daq.arm(burst_waveform(plan, burst, self.microscope))

    def exec_sequenced_event(
        self, event: SequencedEvent
    ) -> Generator[Any, str | None, None]:
        """Start the camera, yield its lit frames, close the accounts."""
        if not isinstance(event, BurstEvent):
            yield from super().exec_sequenced_event(event)
            return
        burst = event.burst
        started_s = time.perf_counter()
        common = self._common_metadata(event, started_s)
        popped, number = 0, 0
        self.mmcore.startSequenceAcquisition(burst.n_frames, 0, True)
        self.post_sequence_started(event)
        for popped, frame in enumerate(self._frames(event), start=1):
            if not burst.is_lit(popped - 1):
                continue
            sub_event = event.events[number]
            elapsed_ms = float(frame.tags.get("ElapsedTime-ms", 0))
            common["mda_event"] = sub_event
            meta = frame_metadata(frame, **common)
            meta["runner_time_ms"] += elapsed_ms
            if number == 0 and event.plan is not self._announced:
                meta["extra"] = {BLOCK: describe(event.plan, self.microscope)}
            number += 1
            if (yield frame.image, sub_event, meta) == "cancel":
                return
        if not self._cancelled():
            self._close_accounts(burst, popped)

    def teardown_event(self, event: useq.MDAEvent) -> None:
        """Make dark, then stop the camera. May be called twice."""
        with ExitStack() as last_to_first:
            last_to_first.callback(super().teardown_event, event)
            if isinstance(event, BurstEvent):
                last_to_first.callback(self.mmcore.stopSequenceAcquisition)
                last_to_first.callback(self.make_dark)

    # ---------------------------------------------------------------- frames

    def _frames(self, event: BurstEvent) -> Iterator[Frame]:
        """All frames of a burst, flyback included; fewer if cancelled or stopped."""
        core, source, n_frames = self.mmcore, FrameSource(self.mmcore), 0
        timeout_s, next_check_s = self._initial_timeout(event), 0.0
        latest_s = time.monotonic()
        while n_frames < event.burst.n_frames:
            self._raise_if_a_relay_failed()
            if frame := source.pop():
                n_frames += 1
                timeout_s, latest_s = self._frame_timeout(event), time.monotonic()
                if latest_s > next_check_s and not frame.remaining:
                    next_check_s = latest_s + CHECK_S
                    seen = self.daq.count()
                    self.accounts.check_progress(event.burst, n_frames, seen)
                yield frame
            elif self._cancelled():
                return
            elif core.isBufferOverflowed():
                missing = event.burst.n_frames - n_frames
                msg = f"circular buffer overflowed; {missing} frames were not taken"
                raise MemoryError(msg)
            elif not core.isSequenceRunning() and not core.getRemainingImageCount():
                return
            elif time.monotonic() > latest_s + timeout_s:
                msg = f"no frame for {timeout_s:.1f} s after {n_frames} frames"
                raise TimeoutError(msg)
            else:
                time.sleep(POLL_S)

    def _close_accounts(self, burst: Burst, popped: int) -> None:
        """Count, stop the camera, count again, compare."""
        seen = self.daq.count()
        self.mmcore.stopSequenceAcquisition()
        self.accounts.close_burst(
            burst,
            popped,
            seen,
            stopped=self.daq.count(),
            usual_trailing=self.microscope.camera.trailing_exposures,
        )

    def _common_metadata(self, event: BurstEvent, started_s: float) -> dict[str, Any]:
        run_started_s = event.metadata.get("runner_t0", started_s)
        return {
            "camera_device": self.mmcore.getCameraDevice(),
            "exposure_ms": self.mmcore.getExposure(),
            "pixel_size_um": event.plan.geometry.pixel_size_um,
            "runner_time_ms": (started_s - run_started_s) * 1000,
        }

    # ---------------------------------------------------------------- small things

    def _focus_um(self, position: PositionInfo, z_offset_um: float) -> float | None:
        """Target of the focus stage; without a position's z, where it stood."""
        if self._start_focus_um is None:
            return None
        base_um = self._start_focus_um if position.z_um is None else position.z_um
        return base_um + z_offset_um

    def _cancelled(self) -> bool:
        return self.mmcore.mda.status.cancel_requested

    def _raise_if_a_relay_failed(self) -> None:
        for relay in self._relays:
            relay.raise_if_failed()
