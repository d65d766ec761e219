"""Notes: what handlers are told of a run beside its frames.

Separate from the stream because they are rare and optional: a handler takes them if
it has a method ``noteReady(note)``. They reach it in order with the frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Flag:
    """A volume that must not be trusted.

    Attributes
    ----------
    index : dict
        Of the frame at which it was found out, like ``{"t": 1, "p": 0}``.
    message : str
        What is wrong, in words.
    """

    index: dict[str, int]
    message: str


@dataclass(frozen=True, eq=False)
class Inputs:
    """Analog inputs of consecutive frames.

    Attributes
    ----------
    first_frame : int
        Number in the run of the first frame, flyback not counted.
    names : tuple of str
    volts : ndarray, (frames, len(names)) float64
    """

    first_frame: int
    names: tuple[str, ...] = field(repr=False)
    volts: NDArray[np.float64] = field(repr=False)
