"""`OPMEngine`: pymmcore-plus's engine, playing bursts clocked by the camera.

Hooks, no arithmetic: what is played comes from ``plan`` and ``daq.waveforms``, devices
are set in ``instrument``, frames come through ``burst_run``, light is watched by
``supervisor``. Per burst the runner calls::

    setup_event     stages, exposure, buffer; the board armed     (rolls back itself)
    exec_event      camera started, frames popped and yielded, accounts closed
    teardown_event  dark, camera stopped                          (also after errors)
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import useq
from pymmcore_plus import GeneratorMDASequence
from pymmcore_plus.core import SequencedEvent
from pymmcore_plus.mda import MDAEngine

from opm_engine import instrument
from opm_engine.accounts import Accounts
from opm_engine.actions import Actions
from opm_engine.burst_run import BurstRun
from opm_engine.bursts import (
    BurstEvent,
    burst_events,
    is_off,
    placed,
    refuse_foreign_burst,
    refuse_outside_burst,
)
from opm_engine.daq.protocol import DaqError
from opm_engine.daq.waveforms import burst_waveform
from opm_engine.measured import Measurements
from opm_engine.plan import plan_scan, set_field_of_view
from opm_engine.relays import Relays
from opm_engine.supervisor import Supervisor
from opm_engine.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from pymmcore_plus import CMMCorePlus
    from pymmcore_plus.metadata import SummaryMetaV1

    from opm_engine.actions import Step
    from opm_engine.config import Microscope
    from opm_engine.daq.protocol import Daq
    from opm_engine.plan import ScanPlan
    from opm_engine.relays import Relay
    from opm_engine.supervisor import Guardian

logger = logging.getLogger(__name__)


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
    guardian : Guardian, optional
        Started; makes dark when this process cannot.
    clock_s : callable
        Seconds in the microscope's time; a simulated one has its own.
    **kwargs
        Of ``MDAEngine``.

    Attributes
    ----------
    accounts, supervisor, turn
        Frames of this or the last run; who owns darkness; which thread runs.
    """

    def __init__(
        self,
        mmc: CMMCorePlus,
        microscope: Microscope,
        daq: Daq,
        *,
        guardian: Guardian | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__(mmc, **kwargs)
        self.microscope = microscope
        self.daq = daq
        self.accounts = Accounts()
        self.turn = Turn()
        self._relays = Relays()
        self._actions = Actions()
        self.supervisor = Supervisor(
            daq,
            make_dark=self.make_dark,
            stop_camera=lambda: self.mmcore.stopSequenceAcquisition(),
            cancelled=lambda: self.mmcore.mda.status.cancel_requested,
            let_go=self._relays.stop_waiting,
            guardian=guardian,
            clock_s=clock_s,
        )
        self._announced: ScanPlan | None = None
        self._before = instrument.Before()
        self._measured = Measurements(mmc, daq, microscope)
        self._burst: BurstRun | None = None
        self._lamp_stays_on = False
        self._new: dict[str, Any] = {}

    # ---------------------------------------------------------------- for callers

    def bursts(self, sequence: useq.MDASequence) -> Iterator[useq.MDAEvent]:
        """Return the ready bursts of a sequence, for a list or a queue of events."""
        plan = plan_scan(sequence, self.microscope)
        return burst_events(sequence, plan, self.microscope)

    def register_action(
        self, name: str, *, setup: Step | None = None, execute: Step | None = None
    ) -> None:
        """Let events with ``useq.CustomAction(name=name)`` call the lab's own code.

        Both are called with the event, in the runner's thread and in the dark; images
        that ``execute`` returns, as (image, event, metadata), are handed on.
        """
        self._actions.register(name, setup, execute)

    def shift_position(
        self, p: int, *, x_um: float = 0.0, y_um: float = 0.0, z_um: float = 0.0
    ) -> None:
        """Move this run's coming visits of a position; handlers may call it."""
        self._before.shift(p, x_um, y_um, z_um)

    def attach_relay(self, relay: Relay) -> None:
        """Stop runs, before arming or between frames, when ``relay`` has failed."""
        self._relays.attach(relay)

    def detach_relay(self, relay: Relay) -> None:
        """Forget a relay."""
        self._relays.detach(relay)

    def make_dark(self, once_dark: Callable[[], object] | None = None) -> None:
        """Lasers off, galvo parked, shutters closed, stages halted; all is tried.

        From any thread. Raises `DaqError` if the board did not obey. For ``once_dark``
        see `Daq.make_dark`.
        """
        bench, lamp = (self.mmcore, self.microscope), not self._lamp_stays_on
        with ExitStack() as backwards:
            backwards.callback(instrument.halt_stages, *bench)
            backwards.callback(instrument.close_shutters, *bench, lamp=lamp)
            backwards.callback(self.daq.make_dark, once_dark)

    # ---------------------------------------------------------------- whole sequence

    def setup_sequence(self, sequence: useq.MDASequence) -> SummaryMetaV1 | None:
        """Plan, prepare the camera, and tell handlers what is coming."""
        self.turn.take(allowed=1)
        self.supervisor.begin()
        self.accounts, self._announced = Accounts(), None
        core, microscope = self.mmcore, self.microscope
        self._before = instrument.remember(core, microscope)
        self._measured = Measurements(core, self.daq, microscope)
        if is_off(sequence):
            return super().setup_sequence(sequence)
        if isinstance(sequence, GeneratorMDASequence):
            instrument.prepare_camera(core, microscope)
            return super().setup_sequence(sequence)
        plan = plan_scan(sequence, microscope)
        for warning in plan.warnings:
            logger.warning(warning)
        instrument.prepare_camera(core, microscope)
        plan = self._measured.refine(plan)
        self.daq.refuse(burst_waveform(plan, next(plan.bursts()), microscope))
        instrument.set_laser_power(core, microscope, plan)
        summary = super().setup_sequence(sequence)
        set_field_of_view(sequence, microscope)  # the stock engine has put in its own
        if summary is not None:
            block = instrument.describe_run(core, plan, microscope)
            summary.setdefault("extra", {}).update(block)
        self._announced = plan
        return summary

    def event_iterator(
        self, events: Iterable[useq.MDAEvent]
    ) -> Iterator[useq.MDAEvent]:
        """Group the events of a sequence into bursts; pass others as they are."""
        if not isinstance(events, useq.MDASequence):
            self._actions.refuse_unknown(events)
            yield from events
        elif self._announced is None:
            yield from super().event_iterator(events)
        else:
            yield from burst_events(events, self._announced, self.microscope)

    def teardown_sequence(self, sequence: useq.MDASequence) -> None:
        """Make dark once more and restore; a raise would leave the runner stuck."""
        if not self.turn.is_mine:
            return  # the end of a second run, which was refused
        if self._lamp_stays_on and self._autoshutter_was_set:
            self.mmcore.setAutoShutter(True)
        self._lamp_stays_on = False
        try:
            with ExitStack() as backwards:
                backwards.callback(super().teardown_sequence, sequence)
                backwards.callback(self._before.restore, self.mmcore, self.microscope)
                backwards.callback(self.supervisor.make_dark)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            logger.error("Tearing down the sequence failed: %s", error)
        self.supervisor.end()
        self.turn.release()

    # ---------------------------------------------------------------- one burst

    def setup_event(self, event: useq.MDAEvent) -> None:
        """Prepare one event; a failed burst is rolled back before the error leaves."""
        refuse_outside_burst(event, self.microscope)
        try:
            if action := self._actions.of(event):
                if action.setup is not None:
                    action.setup(event)
            else:
                super().setup_event(placed(event, self._before))
        except BaseException as error:
            # The runner does not call teardown_event after an error here.
            self.teardown_event(event)
            if isinstance(error, DaqError):
                self.supervisor.raise_if_overtaken()
            raise

    def setup_sequenced_event(self, event: SequencedEvent) -> None:
        """Move, set exposure and power, size the buffer, then arm the board."""
        if not isinstance(event, BurstEvent):
            super().setup_sequenced_event(event)
            return
        self._relays.raise_if_failed()
        core, microscope = self.mmcore, self.microscope
        refuse_foreign_burst(event, microscope)
        plan = self._measured.refine(event.plan)
        self._before.focus_corrections_um = self._z_correction
        instrument.prepare_burst(core, microscope, plan, event.burst, self._before)
        self._set_event_properties(event.properties or ())
        self._lamp_stays_on = False  # light that goes off unasked takes it along
        if event.keep_shutter_open and self._autoshutter_was_set:
            core.setAutoShutter(False)  # the camera's end would close it
        self._burst = BurstRun(
            event,
            core,
            self.daq,
            microscope,
            accounts=self.accounts,
            supervisor=self.supervisor,
            relays=self._relays,
        )
        known = event.plan.is_of(self._announced)
        self._new = {} if known else instrument.describe_run(core, plan, microscope)
        waveform = burst_waveform(plan, event.burst, microscope)
        self.supervisor.light_may_come(waveform.period_ms, event.burst.n_frames)
        self.daq.arm(waveform)

    def exec_event(self, event: useq.MDAEvent) -> Iterable[Any]:
        """Play a burst, or do what a custom action does."""
        if self._actions.of(event):
            return self._actions.execute(event)
        return super().exec_event(event)

    def exec_sequenced_event(
        self, event: SequencedEvent
    ) -> Generator[Any, str | None, None]:
        """Start the camera, yield its lit frames, close the accounts."""
        if self._burst is None or not isinstance(event, BurstEvent):
            yield from super().exec_sequenced_event(event)
            return
        timeouts_s = self._initial_timeout(event), self._frame_timeout(event)
        yield from self._burst.play(self.post_sequence_started, self._new, timeouts_s)

    def post_sequence_started(self, event: SequencedEvent) -> None:
        """Start the scanning stage: its pulse lets the camera expose."""
        if isinstance(event, BurstEvent):
            instrument.start_stage(self.mmcore, self.microscope, event.plan)

    def teardown_event(self, event: useq.MDAEvent) -> None:
        """Make dark, then stop the camera. May be called twice."""
        self._lamp_stays_on = event.keep_shutter_open
        with ExitStack() as backwards:
            backwards.callback(super().teardown_event, event)
            if isinstance(event, BurstEvent):
                backwards.callback(self.supervisor.rest)
                if self._burst is not None:
                    backwards.callback(self._burst.abandon)
                    self._burst = None
                backwards.callback(self.mmcore.stopSequenceAcquisition)
                backwards.callback(self.supervisor.make_dark)
