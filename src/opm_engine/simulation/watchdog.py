"""`Watchdog`: the timer that puts lines into a safe state when software falls silent.

Separate because it is a task of its own kind: it has no channels and no samples. It
knows when it expires and what shall happen then, but moves no pin.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opm_engine.simulation.board_errors import BoardError
from opm_engine.simulation.products import expand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opm_engine.simulation.board import Board

LONGEST_S = (2**32 - 1) * 8e-9
"""X Series User Manual, "Watchdog Timer": about 34 s."""

HIGH, LOW, TRISTATE, NO_CHANGE = 10192, 10214, 10310, 10160
_RESET_TIMER, _CLEAR_EXPIRATION = 0, 1
_TIMEOUT, _HAS_EXPIRED, _LINE_STATE = 0x21A9, 0x21A8, 0x21A7


@dataclass
class Watchdog:
    """What a watchdog task has been told.

    Attributes
    ----------
    timeout_s : float
        -1 never expires.
    states : dict
        Line → NI's number of the state that it goes to.
    due_s : float or None
        When it expires; None while it does not run.
    expired : bool
    """

    timeout_s: float
    states: dict[str, int] = field(default_factory=dict)
    due_s: float | None = None
    expired: bool = False

    def safe_levels(self) -> dict[str, bool]:
        """Levels of the lines that an expiration locks.

        A line in tristate is low: whatever hangs on it is pulled down.
        """
        return {
            line: state == HIGH
            for line, state in self.states.items()
            if state != NO_CHANGE
        }


def refuse_timeout(timeout_s: float) -> None:
    """Raise -200668 if the timer cannot be set to that."""
    if timeout_s != -1 and not 0 < timeout_s <= LONGEST_S:
        raise BoardError(-200668, f"{timeout_s}")


# ---- NI's calls ----------------------------------------------------------------


def create(board: Board, request: Any) -> dict[str, Any]:
    """Create a watchdog task."""
    board.check_device(request.device_name)
    name = board.create_watchdog(request.session_name, request.timeout)
    return {"task": {"name": name}, "new_session_initialized": True}


def set_states(board: Board, request: Any) -> dict[str, Any]:
    """Say what lines shall do; one state for all, or one for each channel."""
    names = expand(request.channel_names)
    states = list(request.expir_state_array)
    if len(states) == 1:
        states *= len(names)
    if len(states) != len(names):
        raise BoardError(-200524)
    board.set_expiration_states(request.task.name, zip(names, states, strict=True))
    return {}


def control(board: Board, request: Any) -> dict[str, Any]:
    """Reset the timer, or unlock the device."""
    actions: dict[int, Callable[[str], None]] = {
        _RESET_TIMER: board.reset_watchdog,
        _CLEAR_EXPIRATION: board.clear_expiration,
    }
    actions[request.action_raw](request.task.name)
    return {}


def get(board: Board, request: Any) -> dict[str, Any]:
    """Read an attribute of a watchdog task."""
    watchdog = board.watchdog(request.task.name)
    if request.attribute_raw == _LINE_STATE:
        line = board.pin(request.lines)
        return {"value": watchdog.states.get(line, NO_CHANGE)}
    values = {_TIMEOUT: watchdog.timeout_s, _HAS_EXPIRED: watchdog.expired}
    if request.attribute_raw not in values:
        raise BoardError(-201086, f"Attribute {request.attribute_raw:#x}")
    return {"value": values[request.attribute_raw]}


def put(board: Board, request: Any) -> dict[str, Any]:
    """Set an attribute of a watchdog task."""
    if request.attribute_raw == _TIMEOUT:
        refuse_timeout(request.value)
        board.idle(request.task.name)
        board.watchdog(request.task.name).timeout_s = request.value
        return {}
    if request.attribute_raw != _LINE_STATE:
        raise BoardError(-201086, f"Attribute {request.attribute_raw:#x}")
    states: Iterable[tuple[str, int]] = [
        (name, request.value_raw) for name in expand(request.lines)
    ]
    board.set_expiration_states(request.task.name, states)
    return {}
