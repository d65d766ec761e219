"""One plane per channel, as arrays: the snap that takes the same path as any scan.

Separate from ``acquisition``, which writes files: this keeps nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import useq

from opm_engine.plan import BLOCK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from opm_engine.engine import OPMEngine


def snap_sequence(
    channels: str | Sequence[str | dict[str, Any]],
    *,
    group: str,
    exposure_ms: float,
    settings: dict[str, Any],
) -> useq.MDASequence:
    """Return the sequence of a snap.

    Parameters
    ----------
    channels : str or sequence of str or dict
        Names of lasers, or channels as in a sequence.
    group : str
        Config group of the channels.
    exposure_ms : float
        For channels that do not say.
    settings : dict
        Of the scan.
    """
    if isinstance(channels, str):
        channels = [channels]
    named = [{"config": x} if isinstance(x, str) else x for x in channels]
    defaults = {"group": group, "exposure": exposure_ms}
    return useq.MDASequence(
        channels=[{**defaults, **channel} for channel in named],
        metadata={BLOCK: {"mode": "single", **settings}},
    )


def snap(
    engine: OPMEngine, sequence: useq.MDASequence
) -> dict[str, NDArray[np.uint16]]:
    """Run a sequence of single planes and return them by channel name.

    Returns
    -------
    dict
        (rows, columns) uint16, or (cameras, rows, columns) with several cameras.
    """
    stacks = collect(engine, sequence)
    return {name: x if len(x) > 1 else x[0] for name, x in stacks.items()}


def collect(
    engine: OPMEngine, sequence: useq.MDASequence
) -> dict[str, NDArray[np.uint16]]:
    """Run a sequence and return its planes by channel name, (planes, rows, columns)."""
    engine.turn.refuse_second()
    planes: dict[str, list[NDArray[np.uint16]]] = {}

    def keep(image: NDArray[np.uint16], event: useq.MDAEvent) -> None:
        name = event.channel.config if event.channel else ""
        planes.setdefault(name, []).append(image)

    mda = engine.mmcore.mda
    mda.events.frameReady.connect(keep)
    try:
        mda.run(sequence)
    finally:
        mda.events.frameReady.disconnect(keep)
    return {name: np.stack(images) for name, images in planes.items()}
