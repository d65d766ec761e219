"""`NIDaq`: the board of a real microscope, through NI-DAQmx.

Separate from ``driver`` and ``burst``, which know how, because this is about what must
happen in which order: the camera is master, the lines are idle before anything is
armed, and light goes off first, on every way out. Knows no sequence: it plays a
`Waveform`, counts and goes dark.

How long darkness may take: a thread that hangs in a call holds the lock for a deadline
at most, `arm` gives up at its next step once `make_dark` has been called, and a server
that was silent for a deadline is not waited for again (`deadline.Patience`). The local
driver has no deadlines; there the guardian helps, and the board's own watchdog if
``daq.watchdog_s`` is set: it runs from before light can come until the lines are low.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.daq.burst import PlayedBurst
from opm_engine.daq.capabilities import refuse_device
from opm_engine.daq.checks import refuse_waveform
from opm_engine.daq.clocking import clocking_of
from opm_engine.daq.driver import Driver
from opm_engine.daq.driver_burst import LASERS, VOLTS
from opm_engine.daq.driver_watchdog import Watchdog, holds_lines
from opm_engine.daq.measuring import ExposureMeter
from opm_engine.daq.ondemand import OnDemand
from opm_engine.daq.protocol import DaqError, ExposureCount
from opm_engine.daq.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from opm_engine.config import Microscope
    from opm_engine.daq.capabilities import Capabilities
    from opm_engine.daq.clocking import Clocking
    from opm_engine.daq.protocol import Waveform

_PERSIST = 2
"""How often a step to darkness is tried."""


class NIDaq:
    """A `Daq` on NI-DAQmx. Thread-safe.

    Parameters
    ----------
    microscope : Microscope
    address : str, optional
        ``"host:port"`` of an NI gRPC device server, instead of the microscope's own.
    deadline_s : float, optional
        How long that server may take to answer a call, instead of the microscope's.
    """

    def __init__(
        self,
        microscope: Microscope,
        *,
        address: str | None = None,
        deadline_s: float | None = None,
    ) -> None:
        daq = microscope.daq
        self._microscope = microscope
        self._driver = Driver(
            daq.device,
            daq.address if address is None else address,
            daq.deadline_s if deadline_s is None else deadline_s,
        )
        self._pins = OnDemand(self._driver, microscope)
        lines = dict.fromkeys(laser.line for laser in microscope.lasers)
        if daq.laser_enable is not None:
            lines[daq.laser_enable] = None
        self._watchdog = Watchdog(self._driver, list(lines), daq.watchdog_s)
        self._lock = threading.RLock()
        self._gate = threading.Lock()
        self._asked_dark = self._made_dark = 0
        self._capabilities: Capabilities | None = None
        self._burst: PlayedBurst | None = None
        self._last: PlayedBurst | None = None
        self._lit = False

    # ------------------------------------------------------------------ the device

    def open(self) -> None:
        """Reach the device, check it against the microscope and make it dark.

        Raises
        ------
        DaqError
            If there is no driver, server or device, or the device lacks something
            that the microscope names.
        """
        with self._lock:
            if self._capabilities is not None:
                return
            self._driver.connect()
            try:
                capabilities = self._driver.capabilities()
                refuse_device(self._microscope, capabilities)
                self._watchdog.check()
                self._capabilities = capabilities
                self._make_dark_first()
            except BaseException:
                self._disconnect()
                raise

    def close(self) -> None:
        """Make dark and let the device go. May be called twice."""
        with self._lock:
            try:
                self.make_dark()
            finally:
                self._disconnect()

    @property
    def capabilities(self) -> Capabilities:
        """What the device can do.

        Raises
        ------
        DaqError
            If it is not open.
        """
        if self._capabilities is None:
            raise DaqError(f"{self._driver.device}: not open")
        return self._capabilities

    def refuse(self, waveform: Waveform) -> None:
        """Raise unless the microscope and its open device can play ``waveform``.

        Asks nothing of the device: at planning time this is free.

        Raises
        ------
        DaqError
        """
        self._clocking(waveform)

    def _disconnect(self) -> None:
        self._capabilities = None
        self._burst = None
        self._watchdog.forget()
        self._driver.disconnect()

    def _clocking(self, waveform: Waveform) -> Clocking:
        refuse_waveform(waveform, self._microscope)
        return clocking_of(waveform, self._microscope, self.capabilities)

    # ------------------------------------------------------------------- one burst

    def arm(self, waveform: Waveform) -> None:
        """Play ``waveform`` on the coming edges; ready when this returns.

        ``laser_enable`` rises last, and not at all for a waveform without light.

        Raises
        ------
        DaqError
            If the waveform leaves an output's range or the microscope's lines, the
            exposure-out line is not idle, the board refuses, or `make_dark` was called
            meanwhile. Everything is dark and released then.
        """
        with self._lock:
            self._driver.begin()
            clocking = self._clocking(waveform)
            if self._burst is not None or self._watchdog.is_there:
                self.make_dark()
            asked = self._asked_dark
            self._refuse_if_overtaken(self._made_dark)
            burst = PlayedBurst(
                self._driver, self._microscope, waveform, clocking, self.capabilities
            )
            self._last = burst
            try:
                self._refuse_busy_line()
                self._prepare(waveform, asked)
                self._burst, self._lit = burst, True
                for start in (self._watchdog.start, *burst.starts()):
                    self._refuse_if_overtaken(asked)
                    start()
                    self._watchdog.kick()
                self._refuse_if_overtaken(asked)
                if waveform.digital.any():  # a check in the dark needs no light path
                    self._pins.enable(True)
                self._refuse_if_overtaken(asked)
            except BaseException as error:
                try:
                    self.make_dark()
                except DaqError as second:
                    error.add_note(f"and then: {second}")
                raise

    def count(self) -> ExposureCount:
        """Exposures seen since ``arm``; after ``make_dark`` those of the last burst.

        Kicks the board's watchdog, if it runs.

        Raises
        ------
        DaqError
            If the board fails, or its watchdog has expired.
        """
        with self._lock:
            if self._burst is not None:
                self._driver.begin()
                self._watchdog.kick()
                return self._burst.look()
            self._watchdog.tell()
            return ExposureCount(0, 0) if self._last is None else self._last.count

    def inputs(self) -> NDArray[np.float64]:
        """Rows (frames, inputs) in volts that were recorded since the last call.

        Up to the next `arm`, those of the last burst.

        Raises
        ------
        DaqError
            If this was called so rarely that samples are lost.
        """
        with self._lock:
            if self._last is None:
                return np.empty((0, len(self._microscope.daq.record)))
            if self._burst is not None:
                self._driver.begin()
                self._burst.read_inputs()
            return self._last.take_rows()

    @contextmanager
    def measure_exposures(self, n_exposures: int) -> Iterator[ExposureMeter]:
        """Time both edges of the camera's exposures, all dark and nothing armed.

        Start the camera within; `ExposureMeter.read` says how far it is.

        Parameters
        ----------
        n_exposures : int
            Expected; many more are taken as well.

        Raises
        ------
        DaqError
            If exposure-out is not idle, or the board detects no changes.
        """
        with self._lock:
            self.make_dark()
            self._refuse_busy_line()
            meter = ExposureMeter(
                self._driver, self._lock, self._microscope, self.capabilities
            )
            meter.start(n_exposures)
        try:
            yield meter
        finally:
            meter.stop()

    # --------------------------------------------------------------------- darkness

    @property
    def light_possible(self) -> bool:
        """Whether light may come: from `arm` until the lasers' lines were set to 0.

        Asks nothing of the device and waits for nobody.
        """
        return self._lit

    def make_dark(self, once_dark: Callable[[], object] | None = None) -> None:
        """Light off, then the galvos ramped to park. May be called at any time, twice.

        Every step is tried, whatever happened to those before; what failed once is
        tried again. `arm` in another thread fails. For ``once_dark`` see `Daq`.

        Raises
        ------
        DaqError
            The first that went wrong, once all has been tried.
        """
        with self._gate:
            self._asked_dark += 1
        with self._lock:
            try:
                if self._capabilities is not None:
                    self._driver.begin()
                    self._go_dark(once_dark)
            finally:
                with self._gate:
                    self._made_dark += 1

    def _go_dark(self, once_dark: Callable[[], object] | None) -> None:
        """Light, then power, then galvos, and only then the books."""
        trial, burst = Trial(), self._burst
        n_played = self._light_off(burst, trial)
        if once_dark is not None and not self._lit:
            once_dark()
        if burst is not None:
            n_played += [self._stop_volts(burst, trial)]
            self._driver.free_lost()
        trial(self._pins.drop_powers, _PERSIST)
        trial(self._pins.park, _PERSIST)
        if burst is not None:
            self._close(burst, n_played, trial)
        trial.finish()

    def _light_off(self, burst: PlayedBurst | None, trial: Trial) -> list[int | None]:
        """Drop ``laser_enable``, then the lasers; return how many samples they played.

        A watchdog that has expired has done so already, and lets nobody write: it is
        unlocked when nothing plays any more. One that has not stays until all is low.
        """
        drop_enable = partial(self._pins.enable, False)
        expired = trial(self._watchdog.look)
        if not expired:
            trial(drop_enable, _PERSIST)
        n_played: list[int | None] = []
        if burst is not None:
            n_played += [trial(partial(burst.tasks.generated, LASERS), _PERSIST)]
            trial(partial(burst.tasks.release, LASERS))
        self._driver.free_lost()
        if expired:
            trial(self._watchdog.unlock, _PERSIST)
            trial(drop_enable, _PERSIST)
        blanked = trial.succeeds(self._pins.blank_lasers, _PERSIST)
        if not blanked:
            # the last resort: a reset takes every task of the device with it
            trial(self._reset)
            blanked = trial.succeeds(self._pins.blank_lasers)
        self._lit = not blanked
        if blanked:
            trial(self._watchdog.release)
        return n_played

    def _stop_volts(self, burst: PlayedBurst, trial: Trial) -> int | None:
        """Let the analog outputs go; return how many samples they have played."""
        n_moved: int | None = 0
        if burst.may_move:
            n_moved = trial(partial(burst.tasks.generated, VOLTS), _PERSIST)
            if n_moved is None:
                self._pins.forget()
            else:
                self._pins.stand_at(burst.standing_v(n_moved))
        trial(partial(burst.tasks.release, VOLTS))
        return n_moved

    def _close(
        self, burst: PlayedBurst, n_played: list[int | None], trial: Trial
    ) -> None:
        """Keep what the burst has seen, and let the rest of its tasks go."""
        self._burst = None
        try:
            if burst.may_move:
                n_known = min((n for n in n_played if n is not None), default=0)
                trial(lambda: burst.take_stock(n_known), _PERSIST)
                trial(burst.read_inputs)
        finally:
            for role in burst.tasks.roles:
                trial(partial(burst.tasks.release, role))

    # ---------------------------------------------------------------- small things

    def _make_dark_first(self) -> None:
        """Twice if a former program's watchdog locks lines: a reset unlocks them."""
        try:
            self.make_dark()
        except DaqError as error:
            if not holds_lines(error):
                raise
            self.make_dark()

    def _refuse_if_overtaken(self, asked: int) -> None:
        if self._asked_dark != asked:
            msg = f"{self._driver.device}: made dark while it was being armed"
            raise DaqError(msg)

    def _refuse_busy_line(self) -> None:
        """Raise if the camera exposes; where PFIs cannot be read, nobody knows."""
        if self.capabilities.reads(self._microscope.camera.exposure_out.terminal):
            self._pins.refuse_busy_line()

    def _prepare(self, waveform: Waveform, asked: int) -> None:
        """Bring all outputs to their first volts, and wait."""
        first_v = zip(waveform.channels, waveform.initial_v.tolist(), strict=True)
        self._pins.bring(dict(first_v), lambda: self._refuse_if_overtaken(asked))
        end_s = time.monotonic() + waveform.settle_ms / 1e3
        while (left_s := end_s - time.monotonic()) > 0:
            self._refuse_if_overtaken(asked)
            time.sleep(min(left_s, 0.01))

    def _reset(self) -> None:
        # the outputs stand where the product's reset puts them, wherever that is
        self._pins.forget()
        self._driver.reset()
