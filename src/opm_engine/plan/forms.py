"""Forms in which a volume can be handed to a handler.

Separate because whoever makes volumes and whoever passes them on must judge alike.
Knows no pixels.
"""

from __future__ import annotations

FORMS = "projectionsReady", "slabReady", "frameReady"
"""Methods of a handler; one that can take several forms gets the first of them."""


def wants_of(handler: object) -> frozenset[str]:
    """Return in which forms, named by their methods, a handler wants volumes.

    What its attribute ``wants`` says, else the first of `FORMS` that it has.
    """
    wants: frozenset[str] | None = getattr(handler, "wants", None)
    if wants is not None:
        return wants
    had = (form for form in FORMS if callable(getattr(handler, form, None)))
    return frozenset(list(had)[:1])
