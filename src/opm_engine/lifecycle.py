"""`Device`: a microscope that is idle until opened, and says how that went.

Separate from ``session``, which opens: this is what a widget or a live loop holds on
to while microscopes come and go. Draws its states::

    idle --open--> opening --ok--> open --close--> idle
                      |              |
                      | error, late  | apply: in place, or close and open once
                      v              v
                    idle (everything rolled back)

Each way out of ``opening`` and each ``close`` publishes a `DeviceStatus`, after it has
happened.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from psygnal import Signal

from opm_engine.session import open_microscope

if TYPE_CHECKING:
    from pathlib import Path

    from opm_engine.config import Microscope
    from opm_engine.session import ReplayScope, Scope

    Opened = Scope | ReplayScope

OPEN_S = 60.0

WIRED = ("mm_config", "daq", "simulation", "scan_stage", "remote_focus")
"""Tables of a description that cannot change under an open device."""

WIRED_CAMERA = ("label", "profile", "sensors", "exposure_out", "line_time_us")
WIRED_LASER = ("name", "line", "power_output", "shutter")


@dataclass(frozen=True)
class DeviceStatus:
    """Outcome of opening, changing or closing.

    Attributes
    ----------
    success : bool
    error : str or None
        What went wrong, in words.
    """

    success: bool
    error: str | None = None


class Device:
    """At most one open microscope. Thread-safe.

    Attributes
    ----------
    status_changed : Signal
        Emits the `DeviceStatus`, in the thread that asked.
    """

    status_changed = Signal(DeviceStatus)

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._scope: Opened | None = None
        self._how: dict[str, Any] = {}
        self.status = DeviceStatus(success=False, error="not opened yet")

    @property
    def scope(self) -> Opened | None:
        """The open microscope, if there is one."""
        return self._scope

    def open(
        self,
        source: str | Path | Microscope = "demo",
        *,
        deadline_s: float = OPEN_S,
        **how: Any,
    ) -> Opened:
        """Close what is open, then open a microscope.

        Parameters
        ----------
        source, **how
            Of `open_microscope`; `apply` opens in the same way.
        deadline_s : float
            Opening that takes longer is given up; whatever opens late is closed.

        Raises
        ------
        TimeoutError
            If the deadline has passed.
        Exception
            What `open_microscope` raises.
        """
        with self._lock:
            self._close()
            self._how = how
            try:
                self._scope = _opened(source, deadline_s, how)
            except Exception as error:
                self._publish(DeviceStatus(success=False, error=str(error)))
                raise
            self._scope.take_interrupts()
            self._publish(DeviceStatus(success=True))
            return self._scope

    def apply(self, microscope: Microscope) -> Literal["in place", "reopened"]:
        """Change the description of the open microscope.

        What is set anew for each run (region, camera properties, geometry, colours) is
        changed in place; what is wired makes it close and open, once.

        Raises
        ------
        RuntimeError
            If nothing is open, or a run is in progress.
        Exception
            What `open` raises, nothing is open then; or what the camera said to a
            change in place, it is as it was then.
        """
        with self._lock:
            if self._scope is None:
                msg = "no microscope is open"
                raise RuntimeError(msg)
            self._scope.engine.turn.refuse_second()
            if address := self._how.get("daq_address"):
                microscope = microscope.on_board(address)
            if wiring(microscope) == wiring(self._scope.microscope):
                try:
                    self._scope.describe_as(microscope)
                except Exception as error:
                    self._publish(DeviceStatus(success=False, error=str(error)))
                    raise
                self._publish(DeviceStatus(success=True))
                return "in place"
            self.open(microscope, **self._how)
            return "reopened"

    def close(self) -> None:
        """Make dark and let all devices go. May be called twice."""
        with self._lock:
            if self._scope is not None:
                self._close()
                self._publish(DeviceStatus(success=False, error="closed"))

    def _close(self) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.close()

    def _publish(self, status: DeviceStatus) -> None:
        self.status = status
        self.status_changed.emit(status)


def wiring(microscope: Microscope) -> dict[str, Any]:
    """Return the part of a description that cannot change under an open device."""
    table = microscope.model_dump(mode="json")
    wired = {name: table[name] for name in WIRED}
    wired["camera"] = {name: table["camera"][name] for name in WIRED_CAMERA}
    wired["lasers"] = [
        {name: laser[name] for name in WIRED_LASER} for laser in table["lasers"]
    ]
    return wired


def _opened(
    source: str | Path | Microscope, deadline_s: float, how: dict[str, Any]
) -> Opened:
    """Open in a thread; close what comes after the deadline."""
    future: Future[Opened] = Future()

    def work() -> None:
        try:
            scope = open_microscope(source, **how)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            if not future.cancelled():
                future.set_exception(error)
            return
        # running or cancelled from here on, never both
        if future.set_running_or_notify_cancel():
            future.set_result(scope)
        else:
            scope.close()

    threading.Thread(target=work, name="opening", daemon=True).start()
    wait([future], timeout=deadline_s)
    if future.cancel():
        msg = f"the microscope did not open within {deadline_s:g} s"
        raise TimeoutError(msg)
    return future.result()
