"""`ReplayEngine`: an engine whose camera is a stored run.

Separate from `OPMEngine`, with which it shares bursts, relays, accounts and the turn,
because it moves nothing and lights nothing. Frames come from the disk, with what was
told of them, and go the same way as those of a camera: everything behind
``frameReady`` cannot tell the difference. Knows no handler.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from copy import deepcopy
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from pymmcore_plus import GeneratorMDASequence
from pymmcore_plus.metadata import summary_metadata

from opm_engine.accounts import Accounts
from opm_engine.bursts import BurstEvent, burst_events
from opm_engine.plan import BLOCK, Inputs, PlanError, set_field_of_view
from opm_engine.relays import Relays
from opm_engine.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    import numpy as np
    import useq
    from numpy.typing import NDArray
    from pymmcore_plus import CMMCorePlus
    from pymmcore_plus.metadata import FrameMetaV1, SummaryMetaV1

    from opm_engine.plan import Burst, Place
    from opm_engine.recording import FrameTable, Recording
    from opm_engine.relays import Relay

    Payload = tuple[NDArray[np.uint16], useq.MDAEvent, FrameMetaV1]

logger = logging.getLogger(__name__)

Pace = Literal["fast", "recorded"]
"""As fast as handlers take frames, or as far apart as they came."""

TICK_S = 0.02
"""Between two looks whether the run was asked to end."""


class ReplayEngine:
    """Plays a stored run.

    Parameters
    ----------
    mmc : CMMCorePlus
        Its runner is used, no device.
    recording : Recording
    pace : {"fast", "recorded"}

    Attributes
    ----------
    accounts, turn
        Frames of this or the last run; which thread runs. Frames that are not in the
        store count as lost.
    attend : callable
        Called every few milliseconds while a run is in progress.

    Raises
    ------
    ValueError
        If the store does not tell microscope and plan, or there is no such pace.
    """

    def __init__(
        self, mmc: CMMCorePlus, recording: Recording, *, pace: Pace = "fast"
    ) -> None:
        if pace not in get_args(Pace):
            msg = f"pace must be one of {', '.join(get_args(Pace))}, not {pace!r}"
            raise ValueError(msg)
        self.mmcore = mmc
        self.recording = recording
        self.pace = pace
        self.microscope = recording.microscope
        self.accounts = Accounts()
        self.turn = Turn()
        self.attend: Callable[[], None] = lambda: None
        self._plan = recording.plan
        self._relays = Relays()
        self._watch: _Watch | None = None
        self._table: FrameTable = recording.frames()
        self._playing: Generator[Payload | None, object, None] | None = None
        self._clock = _Clock(pace)

    def attach_relay(self, relay: Relay) -> None:
        """Stop runs, before they begin or between frames, when ``relay`` has failed."""
        self._relays.attach(relay)

    def detach_relay(self, relay: Relay) -> None:
        """Forget a relay."""
        self._relays.detach(relay)

    def shift_position(self, p: int, **shifts_um: float) -> None:
        """Do nothing: what was acquired stays where it was."""

    # ---------------------------------------------------------------- whole sequence

    def setup_sequence(self, sequence: useq.MDASequence) -> SummaryMetaV1:
        """Compare with what is stored, and tell handlers what is coming.

        Raises
        ------
        PlanError
            If the store holds another scan; names what differs.
        RuntimeError
            If a run is in progress.
        """
        self.turn.take(allowed=1)
        if isinstance(sequence, GeneratorMDASequence):
            msg = (
                "a replay plays whole sequences: run the MDASequence itself, "
                "scope.sequence, instead of a list or iterator of events"
            )
            raise PlanError(msg)
        self.accounts = Accounts()
        self.recording.refuse_other(sequence)
        set_field_of_view(sequence, self.microscope)
        self._table = self.recording.frames()
        self._clock = _Clock(self.pace)
        self._watch = _Watch(self._look)
        return self._summary(sequence)

    def event_iterator(
        self, events: Iterable[useq.MDAEvent]
    ) -> Iterator[useq.MDAEvent]:
        """Yield the bursts of the sequence, which need not wait for their time."""
        for event in burst_events(events, self._plan, self.microscope):  # type: ignore[arg-type]
            yield event.model_copy(update={"min_start_time": None})

    def teardown_sequence(self, sequence: useq.MDASequence) -> None:
        """End the run."""
        if not self.turn.is_mine:
            return  # the end of a second run, which was refused
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        self.turn.release()

    # ---------------------------------------------------------------- one burst

    def setup_event(self, event: useq.MDAEvent) -> None:
        """Raise what a handler has raised."""
        self._relays.raise_if_failed()

    def exec_event(self, event: useq.MDAEvent) -> Iterable[Payload | None]:
        """Yield the frames of a burst; an autofocus has nothing to do."""
        if not isinstance(event, BurstEvent):
            return ()
        self._playing = self._play(event)
        return self._playing

    def teardown_event(self, event: useq.MDAEvent) -> None:
        """Close the accounts of a burst that was cut short."""
        if self._playing is not None:
            self._playing.close()
            self._playing = None

    def _play(self, event: BurstEvent) -> Generator[Payload | None, object, None]:
        """Yield what handlers get, None for what is not there; close the accounts."""
        tally = _Tally(event.plan.n_cameras)
        try:
            for sub_event, place, image in self._stored(event):
                told = self._table.take(place) if image is not None else {}
                self._relays.raise_if_failed()
                if not self._clock.wait(told.get("runner_time_ms"), self._cancelled):
                    return
                tally.add(is_there=image is not None)
                if image is None:
                    yield None
                else:
                    yield image, sub_event, self._metadata(told, sub_event)
            self._note(event)
        finally:
            tally.close(self.accounts, event.burst)

    def _stored(
        self, event: BurstEvent
    ) -> Iterator[tuple[useq.MDAEvent, Place, NDArray[np.uint16] | None]]:
        """Yield each frame's event, its place, and its pixels if they are there."""
        ahead: deque[tuple[useq.MDAEvent, Place]] = deque()
        stream, cameras = self.recording.stream, range(event.plan.n_cameras)

        def places() -> Iterator[Place]:
            for sub_event, camera in product(event.events, cameras):
                if len(cameras) > 1:
                    index = {**sub_event.index, "cam": camera}
                    sub_event = sub_event.model_copy(update={"index": index})
                ahead.append((sub_event, stream.place(sub_event.index)))
                yield ahead[-1][1]

        for image in self.recording.planes.read(places()):
            yield *ahead.popleft(), image

    def _metadata(self, told: dict[str, Any], sub_event: useq.MDAEvent) -> FrameMetaV1:
        """Return a frame's metadata in pymmcore-plus's ``FrameMetaV1`` form."""
        where = {axis: told[f"{axis}_um"] for axis in "xyz" if f"{axis}_um" in told}
        camera = self.microscope.camera.label
        meta: Any = {
            "format": "frame-dict",
            "version": "1.0",
            "property_values": (),
            "hardware_triggered": True,
            "images_remaining_in_buffer": 0,
            "camera_metadata": told.get("camera_metadata", {}),
            "camera_device": camera,
            "exposure_ms": told.get("exposure_ms", sub_event.exposure),
            "pixel_size_um": self._plan.geometry.pixel_size_um,
            "mda_event": sub_event,
        }
        if where:
            meta["position"] = where
        for name in ("runner_time_ms", "extra"):
            if name in told:
                meta[name] = told[name]
        return cast("FrameMetaV1", meta)

    def _note(self, event: BurstEvent) -> None:
        """Pass on what was noted of a burst."""
        burst, inputs = event.burst, self.recording.inputs
        if inputs is not None:
            rows = slice(burst.first_event, burst.first_event + burst.n_events)
            note = Inputs(burst.first_event, inputs.names, inputs.volts[rows])
            self._relays.note(note)
        for flag in self.recording.flags:
            if all(flag.index.get(axis, 0) == n for axis, n in burst.index.items()):
                self._relays.note(flag)

    # ---------------------------------------------------------------- shared

    def _summary(self, sequence: useq.MDASequence) -> SummaryMetaV1:
        """Say what the recorded run said, of a camera like the recorded one."""
        summary = summary_metadata(self.mmcore, mda_sequence=sequence)
        stream, camera = self.recording.stream, self.microscope.camera
        n_rows, n_columns = stream.shape
        image: Any = {
            "camera_label": camera.label,
            "plane_shape": stream.shape,
            "dtype": stream.dtype,
            "height": n_rows,
            "width": n_columns,
            "pixel_format": "Mono16",
            "pixel_size_config_name": "",
            "pixel_size_um": self._plan.geometry.pixel_size_um,
            "num_camera_adapter_channels": stream.n_cameras,
        }
        summary["image_infos"] = (image,)
        summary.setdefault("extra", {})[BLOCK] = deepcopy(self.recording.block)
        return summary

    def _cancelled(self) -> bool:
        return self.mmcore.mda.status.cancel_requested

    def _look(self) -> None:
        """Whether the run was asked to end: then nobody holds the runner's thread."""
        self.attend()
        if self._cancelled():
            self._relays.stop_waiting()


class _Tally:
    """Counts the frames of a burst; an exposure is there if all its frames are."""

    def __init__(self, n_cameras: int) -> None:
        self._n_cameras = n_cameras
        self._n_frames = self._n_missing = self._n_whole = 0
        self._is_whole = True

    def add(self, *, is_there: bool) -> None:
        """Count a frame; those of one exposure come one after the other."""
        first = self._n_frames % self._n_cameras == 0
        self._is_whole = is_there and (first or self._is_whole)
        self._n_frames += 1
        self._n_missing += not is_there
        self._n_whole += self._is_whole and self._n_frames % self._n_cameras == 0

    def close(self, accounts: Accounts, burst: Burst) -> None:
        """Add it to a run's accounts; exposures that nobody asked for are abandoned."""
        accounts.asked += burst.n_events
        accounts.popped += self._n_whole
        accounts.counted += self._n_whole
        accounts.abandoned += burst.n_events - self._n_frames // self._n_cameras
        if self._n_missing:
            where = dict(burst.index)
            logger.warning("burst %s: %d frames are not stored", where, self._n_missing)


class _Clock:
    """Hands frames out when they are due."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._start_s: float | None = None

    def wait(self, recorded_ms: float | None, cancelled: Callable[[], bool]) -> bool:
        """Return when a frame is due, or False as soon as the run is to end."""
        if self._pace == "fast" or recorded_ms is None:
            return not cancelled()
        now_s = time.perf_counter()
        if self._start_s is None:
            self._start_s = now_s - recorded_ms / 1000
        due_s = self._start_s + recorded_ms / 1000
        while not cancelled():
            left_s = due_s - time.perf_counter()
            if left_s <= 0:
                return True
            time.sleep(min(left_s, TICK_S))
        return False


class _Watch:
    """Calls a function every few milliseconds, in a thread of its own."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._ending = threading.Event()
        self._look = look
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when it is called no more."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(TICK_S):
            self._look()
