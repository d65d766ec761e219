"""`Actions`: what a lab lets its own hardware do between bursts.

Separate from the engine so that fluidics or adaptive optics need no subclass of it. An
action is a name, something to do before, and something to do; knows no hardware.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import useq

from opm_engine.plan import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Step = Callable[[useq.MDAEvent], Any]


class Action(NamedTuple):
    """What the runner's two calls do; either may be missing.

    ``execute`` may return images to hand on, as (image, event, metadata).
    """

    setup: Step | None
    execute: Step | None


class Actions:
    """Actions by the name of their ``useq.CustomAction``."""

    def __init__(self) -> None:
        self._actions: dict[str, Action] = {}

    def register(self, name: str, setup: Step | None, execute: Step | None) -> None:
        """Add an action, or replace one of that name.

        Raises
        ------
        TypeError
            If there is nothing to call.
        """
        for step in (setup, execute):
            if step is not None and not callable(step):
                msg = f'action "{name}": {step!r} cannot be called'
                raise TypeError(msg)
        if setup is None and execute is None:
            msg = f'action "{name}": give setup or execute, or both'
            raise TypeError(msg)
        self._actions[name] = Action(setup, execute)

    def of(self, event: useq.MDAEvent) -> Action | None:
        """Return what an event wants done; None if it acquires an image.

        Raises
        ------
        PlanError
            If nobody has registered it; names what is there.
        """
        if not isinstance(event, useq.MDAEvent):
            msg = (
                f"a list or queue holds events, not {type(event).__name__}; put in "
                "what engine.bursts(sequence) gives"
            )
            raise PlanError(msg)
        if not isinstance(event.action, useq.CustomAction):
            return None
        name = event.action.name
        if name not in self._actions:
            known = ", ".join(sorted(self._actions)) or "none"
            msg = f'no action "{name}"; registered: {known} (engine.register_action)'
            raise PlanError(msg)
        return self._actions[name]

    def execute(self, event: useq.MDAEvent) -> Iterable[Any]:
        """Do what a custom action does; return its images, to be handed on.

        Raises
        ------
        TypeError
            If what it returns are no images; names the action.
        """
        action = self.of(event)
        images = action.execute(event) if action and action.execute else None
        if images is None or isinstance(images, bool | int | float | str):
            return ()  # a status, perhaps
        if not isinstance(images, list | tuple | Iterator):
            name = getattr(event.action, "name", "")
            msg = (
                f'action "{name}" returned {type(images).__name__}: return None, or '
                "images as a list of (image, event, metadata)"
            )
            raise TypeError(msg)
        return images

    def refuse_unknown(self, events: Iterable[useq.MDAEvent]) -> None:
        """Look every event up; see `of`."""
        for event in events:
            self.of(event)
