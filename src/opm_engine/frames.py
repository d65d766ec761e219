"""Frames off the circular buffer, with as few calls into the core as possible.

Separate from the engine because it is about speed alone: each call into the core
releases the interpreter lock and, with another thread busy, waits milliseconds to get
it back. One reused ``Metadata`` and one parse of its serialised form take four calls
per frame where the stock engine takes about forty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pymmcore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pymmcore_plus import CMMCorePlus


class Frame(NamedTuple):
    """One popped image (rows, columns) and its camera tags."""

    image: NDArray[np.uint16]
    tags: dict[str, str]
    remaining: int


class FrameSource:
    """Pops frames of one core.

    Parameters
    ----------
    core : CMMCorePlus
        Its camera's sequence acquisition runs or has run.
    """

    def __init__(self, core: CMMCorePlus) -> None:
        self._core = core
        self._metadata = pymmcore.Metadata()

    def pop(self) -> Frame | None:
        """Return the oldest frame, or None if the buffer is empty."""
        waiting = self._core.getRemainingImageCount()
        if not waiting:
            return None
        metadata = self._metadata
        metadata.Clear()
        image = self._core.popNextImageMD(metadata)
        return Frame(image, parse_tags(metadata.Serialize()), waiting - 1)


def parse_tags(serialised: str) -> dict[str, str]:
    r"""Read MMCore's serialised metadata.

    Parameters
    ----------
    serialised : str
        Number of tags, then for each a line ``s`` (single) or ``a`` (array), name,
        device, read-only flag, and the value or the number of values and the values.

    Returns
    -------
    dict
        Tag name to value; arrays joined by spaces.
    """
    lines = iter(serialised.split("\n"))
    tags: dict[str, str] = {}
    for _ in range(int(next(lines))):
        kind, name, _device, _read_only = (next(lines) for _ in range(4))
        count = 1 if kind == "s" else int(next(lines))
        tags[name] = " ".join(next(lines) for _ in range(count))
    return tags


def frame_metadata(frame: Frame, **common: Any) -> dict[str, Any]:
    """Metadata of one frame in pymmcore-plus's ``FrameMetaV1`` form.

    Parameters
    ----------
    frame : Frame
    **common
        Fields that are the same, or cheap to make, for each frame of a burst.
    """
    return {
        "format": "frame-dict",
        "version": "1.0",
        "property_values": (),
        "hardware_triggered": True,
        "images_remaining_in_buffer": frame.remaining,
        "camera_metadata": frame.tags,
        **common,
    }
