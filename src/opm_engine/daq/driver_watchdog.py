"""`Watchdog`: the board's own timer, which lowers its lines when software is silent.

Separate from ``driver_burst`` because it plays nothing and ends last: what going dark
could not lower is left to it. Knows neither the microscope nor the way to darkness.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from nidaqmx.constants import Level, TaskMode
from nidaqmx.system.watchdog import DOExpirationState, WatchdogTask

from opm_engine.daq.capabilities import WOULD_DO
from opm_engine.daq.protocol import DaqError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opm_engine.daq.driver import Driver

_HAS_EXPIRED = -200644
_WRITE_AFTER_EXPIRY = -200678
_NOT_SUPPORTED = -200662


class _Task(WatchdogTask):  # type: ignore[misc]
    """One that is no warning if it could not be closed: `Driver.free_lost` will."""

    def __del__(self) -> None:
        pass


class Watchdog:
    """A watchdog task, there from `start` to `release`. Not thread-safe.

    Parameters
    ----------
    driver : Driver
    lines : sequence of str
        Go low when it expires, and stay so until `unlock`.
    timeout_s : float or None
        Time without `kick` after which it expires. Without it there is no watchdog,
        and nothing here asks anything of the device.

    Attributes
    ----------
    expired : bool
        Whether it is known to have expired, and the lines to be locked.
    """

    def __init__(
        self, driver: Driver, lines: Sequence[str], timeout_s: float | None
    ) -> None:
        self._driver = driver
        self._lines = lines
        self._timeout_s = timeout_s
        self._named: tuple[str, Any] | None = None
        self._untold = False
        self.expired = False

    @property
    def is_there(self) -> bool:
        """Whether it was started and not released."""
        return self._named is not None

    def check(self) -> None:
        """Raise unless the device has a watchdog for these lines."""
        if self._timeout_s is None:
            return
        try:
            with self._driver.asking("daq.watchdog_s: setting the watchdog up"):
                self._create().control(TaskMode.TASK_VERIFY)
        except DaqError as error:
            if _code_of(error) != _NOT_SUPPORTED:
                raise
            msg = f"daq.watchdog_s: {self._driver.device} has no watchdog; leave it out"
            raise DaqError(f"{msg}, or {WOULD_DO}") from error
        finally:
            self.release()

    def start(self) -> None:
        """Let time run: `kick` often."""
        self._untold = False
        if self._timeout_s is not None:
            with self._driver.asking("starting the watchdog"):
                self._create().start()

    def kick(self) -> None:
        """Set its time back to 0.

        Raises
        ------
        DaqError
            If it has expired.
        """
        if self._named is None:
            return
        try:
            if not self.expired:
                with self._driver.asking("resetting the watchdog"):
                    self._named[1].reset_timer()
        except DaqError as error:
            if _code_of(error) != _HAS_EXPIRED:
                raise
            self.expired = True
        if self.expired:
            raise DaqError(self._reason())

    def look(self) -> bool:
        """Ask whether it has expired; if so, and nobody knows, `tell` will say it."""
        if self._named is not None and not self.expired:
            with self._driver.asking("asking the watchdog"):
                self.expired = self._untold = bool(self._named[1].expired)
        return self.expired

    def tell(self) -> None:
        """Raise, once, if `look` has found it expired."""
        if self._untold:
            self._untold = False
            raise DaqError(self._reason())

    def unlock(self) -> None:
        """Let the lines be written again; they stay low until they are."""
        if self._named is not None:
            with self._driver.asking("unlocking the lines that the watchdog holds"):
                self._named[1].clear_expiration()
        self.expired = False

    def release(self) -> None:
        """Stop and close it."""
        named, self._named = self._named, None
        self.expired = False
        if named is not None:
            with self._driver.asking("closing the watchdog"):
                self._driver.free(*named)

    def forget(self) -> None:
        """Drop it without a word to the device, where it runs on."""
        self._named, self.expired = None, False

    def _create(self) -> Any:
        device = self._driver.device
        make = partial(_Task, device, timeout=self._timeout_s)
        self._named = self._driver.new_task(make)
        low = [DOExpirationState(f"{device}/{line}", Level.LOW) for line in self._lines]
        self._named[1].cfg_watchdog_do_expir_states(low)
        return self._named[1]

    def _reason(self) -> str:
        return (
            f"{self._driver.device}: the board's watchdog has expired: for "
            f"daq.watchdog_s = {self._timeout_s:g} s nobody asked the board anything, "
            "so it has set the laser lines to 0 by itself"
        )


def holds_lines(error: DaqError) -> bool:
    """Whether a write failed because some program's watchdog has expired."""
    return _code_of(error) == _WRITE_AFTER_EXPIRY


def _code_of(error: DaqError) -> int | None:
    return getattr(error.__cause__, "error_code", None)
