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
from opm_engine.bursts import (
    BurstEvent,
    burst_events,
    is_off,
    refuse_foreign_burst,
    refuse_outside_burst,
)
from opm_engine.daq.waveforms import burst_waveform
from opm_engine.frames import FrameSource, frame_metadata
from opm_engine.plan import BLOCK, describe, plan_scan
from opm_engine.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from pymmcore_plus import CMMCorePlus
    from pymmcore_plus.metadata import SummaryMetaV1

    from opm_engine.config import Microscope
    from opm_engine.daq.protocol import Daq
    from opm_engine.frames import Frame
    from opm_engine.plan import ScanPlan

logger = logging.getLogger(__name__)

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

    Attributes
    ----------
    accounts : Accounts
        Frames of the run, or of the last one.
    turn : Turn
        Which thread runs.
    """

    def __init__(
        self, mmc: CMMCorePlus, microscope: Microscope, daq: Daq, **kwargs: Any
    ) -> None:
        super().__init__(mmc, **kwargs)
        self.microscope = microscope
        self.daq = daq
        self.accounts = Accounts()
        self._relays: list[Relay] = []
        self.turn = Turn()
        self._announced: ScanPlan | None = None
        self._before = instrument.Before()
        self._open_burst: tuple[BurstEvent, FrameSource] | None = None

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
        self.turn.take()
        self.accounts, self._announced = Accounts(), None
        core, microscope = self.mmcore, self.microscope
        self._before = instrument.remember(core, microscope)
        loose = isinstance(sequence, GeneratorMDASequence)
        if loose or is_off(sequence):
            if loose:
                instrument.prepare_camera(core, microscope)
            return super().setup_sequence(sequence)
        plan = plan_scan(sequence, microscope)
        for warning in plan.warnings:
            logger.warning(warning)
        instrument.prepare_camera(core, microscope)
        instrument.set_laser_power(core, microscope, plan)
        summary = super().setup_sequence(sequence)
        if summary is not None:
            summary.setdefault("extra", {})[BLOCK] = self._describe(plan)
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
        """Make dark once more and restore what was changed.

        A raise here would leave the runner stuck; the board's errors were raised by
        ``teardown_event`` already.
        """
        if not self.turn.is_mine:
            return  # the end of a second run, which was refused
        try:
            with ExitStack() as last_to_first:
                last_to_first.callback(super().teardown_sequence, sequence)
                last_to_first.callback(self._before.restore, self.mmcore)
                last_to_first.callback(self.make_dark)
        except Exception:
            logger.exception("Tearing down the sequence failed")
        self.turn.release()

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
        self._raise_if_a_relay_failed()
        refuse_foreign_burst(event, self.microscope)
        instrument.prepare_burst(
            self.mmcore, self.microscope, event.plan, event.burst, self._before
        )
        self._open_burst = event, FrameSource(self.mmcore, event.burst.n_frames)
        self.daq.arm(burst_waveform(event.plan, event.burst, self.microscope))

    def exec_sequenced_event(
        self, event: SequencedEvent
    ) -> Generator[Any, str | None, None]:
        """Start the camera, yield its lit frames, close the accounts."""
        if self._open_burst is None or not isinstance(event, BurstEvent):
            yield from super().exec_sequenced_event(event)
            return
        _, source = self._open_burst
        common = self._common_metadata(event)
        self.mmcore.startSequenceAcquisition(event.burst.n_frames, 0, True)
        self.post_sequence_started(event)
        number = 0
        for frame in self._frames(event, source):
            if not event.burst.is_lit(source.popped - 1):
                continue
            common["mda_event"] = sub_event = event.events[number]
            meta = frame_metadata(frame, **common)
            if number == 0 and event.plan is not self._announced:
                meta["extra"] = {BLOCK: self._describe(event.plan)}
            number += 1
            signal = yield frame.image, sub_event, meta
            # A second run that was refused makes the runner say so to the first one.
            if signal == "cancel" and self._cancelled():
                return
        if not self._cancelled():
            self._close_accounts(event, source)

    def teardown_event(self, event: useq.MDAEvent) -> None:
        """Make dark, then stop the camera. May be called twice."""
        with ExitStack() as last_to_first:
            last_to_first.callback(super().teardown_event, event)
            if isinstance(event, BurstEvent):
                last_to_first.callback(self._abandon_accounts)
                last_to_first.callback(self.mmcore.stopSequenceAcquisition)
                last_to_first.callback(self.make_dark)

    # ---------------------------------------------------------------- frames

    def _frames(self, event: BurstEvent, source: FrameSource) -> Iterator[Frame]:
        """All frames of a burst, flyback included; fewer if cancelled or stopped."""
        next_check_s = 0.0
        timeouts_s = self._initial_timeout(event), self._frame_timeout(event)
        for frame in source.frames(self._stop_requested, *timeouts_s):
            now_s = time.monotonic()
            if now_s > next_check_s and not frame.remaining and not self._cancelled():
                next_check_s = now_s + CHECK_S
                seen = self.daq.count()
                self.accounts.check_progress(event.burst, source.popped, seen)
            yield frame

    def _close_accounts(self, event: BurstEvent, source: FrameSource) -> None:
        """Count, stop the camera, count again, compare."""
        seen = self.daq.count()
        self.mmcore.stopSequenceAcquisition()
        self._open_burst = None
        self.accounts.close_burst(
            event.burst,
            source.popped,
            seen,
            stopped=self.daq.count(),
            usual_trailing=self.microscope.camera.trailing_exposures,
        )

    def _abandon_accounts(self) -> None:
        if self._open_burst is not None:
            event, source = self._open_burst
            self._open_burst = None
            self.accounts.abandon_burst(event.burst, source.popped, self.daq.count())

    def _common_metadata(self, event: BurstEvent) -> dict[str, Any]:
        now_s = time.perf_counter()
        return {
            "camera_device": self.mmcore.getCameraDevice(),
            "exposure_ms": self.mmcore.getExposure(),
            "pixel_size_um": event.plan.geometry.pixel_size_um,
            "started_ms": (now_s - event.metadata.get("runner_t0", now_s)) * 1000,
        }

    def _describe(self, plan: ScanPlan) -> dict[str, Any]:
        block = describe(plan, self.microscope)
        block["laser_power"] = instrument.laser_power(self.mmcore, self.microscope)
        return block

    # ---------------------------------------------------------------- small things

    def _cancelled(self) -> bool:
        return self.mmcore.mda.status.cancel_requested

    def _stop_requested(self) -> bool:
        self._raise_if_a_relay_failed()
        return self._cancelled()

    def _raise_if_a_relay_failed(self) -> None:
        for relay in self._relays:
            relay.raise_if_failed()
