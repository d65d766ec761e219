"""What held a run up, told from what was seen of it.

Separate because it only reads an outcome and finds words for it.
"""

from __future__ import annotations

import os
from typing import Any

BUSY = 0.9
"""Of a core, or of all: beyond, it computes practically all the time."""

DISK_BUSY = 0.8
"""Of what the disk takes without anybody's format."""


def bottleneck(
    outcome: dict[str, Any], frame_mb: float, disk_mb_s: float, n_cores: int = 0
) -> str:
    """Say what a run that was too fast waited for.

    Parameters
    ----------
    outcome : dict
        Of :class:`at_once.trial.Outcome`.
    frame_mb : float
    disk_mb_s : float
        What the disk takes.
    n_cores : int, optional
        By default those of this machine.
    """
    where = _pile(outcome, frame_mb)
    if not where:
        return "; ".join(outcome["why_not"])
    thread = "MainThread" if where == "camera" else f"relay-{where.rpartition('/')[2]}"
    cores = outcome["cpu"].get(thread, outcome["cpu"].get(where, 0.0))
    told = f"up to {outcome['backlog_mb'][where]:.0f} MB waited in front of {where}"
    own, others = outcome["cores_busy"], outcome["cores_others"]
    if cores >= BUSY:
        why = f"its thread computed all the time ({cores:.2f} cores)"
    elif own + others >= BUSY * (n_cores or os.cpu_count() or 1):
        why = f"all cores were busy ({own:.2f} with this run, {others:.2f} with others)"
    elif outcome["disk_mb_s"] >= DISK_BUSY * disk_mb_s:
        why = f"the disk took {outcome['disk_mb_s']:.0f} of {disk_mb_s:.0f} MB/s"
    else:
        why = (
            f"its thread kept {cores:.2f} cores busy, all of them {own:.2f}, the disk "
            f"took {outcome['disk_mb_s']:.0f} of {disk_mb_s:.0f} MB/s: it waited for "
            "other threads or single writes"
        )
    return f"{told}: {why}"


def _pile(outcome: dict[str, Any], frame_mb: float) -> str:
    """Return where more than a quarter of a second of frames waited; "" if nowhere.

    The camera's buffer fills when a branch does, so branches come first.
    """
    much = frame_mb * outcome["rate_hz"] / 4
    piles = {k: v for k, v in outcome["backlog_mb"].items() if v > much}
    branches = {k: v for k, v in piles.items() if k != "camera"} or piles
    return max(branches, key=lambda name: branches[name], default="")
