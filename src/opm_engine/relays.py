"""`Relays`: whoever handles frames and has told the engine about itself.

Separate from the engine because it is the whole way back from handlers: errors that
must stop a run, notes that must reach them, and waits that must end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from opm_engine.plan import Flag, Inputs


class Relay(Protocol):
    """Whoever handles frames and may have failed."""

    def raise_if_failed(self) -> None:
        """Raise the handler's own error, if there is one."""

    def note(self, note: Flag | Inputs) -> None:
        """Tell handlers something beside the frames, in order with them."""

    def stop_waiting(self) -> None:
        """Hold the runner's thread no longer, whatever has to be dropped."""


class Relays:
    """The relays of an engine; each call goes to all of them."""

    def __init__(self) -> None:
        self._relays: list[Relay] = []

    def attach(self, relay: Relay) -> None:
        """Add a relay."""
        self._relays.append(relay)

    def detach(self, relay: Relay) -> None:
        """Forget a relay."""
        self._relays.remove(relay)

    def raise_if_failed(self) -> None:
        """Raise the first error of a handler."""
        for relay in self._relays:
            relay.raise_if_failed()

    def note(self, note: Flag | Inputs) -> None:
        """Pass a note on."""
        for relay in self._relays:
            relay.note(note)

    def stop_waiting(self) -> None:
        """Let the runner's thread go."""
        for relay in self._relays:
            relay.stop_waiting()
