"""Sequences that several tests run."""

from __future__ import annotations

from typing import Any

import useq

TWO_CHANNELS = (
    {"config": "488", "exposure": 5.0},
    {"config": "561", "exposure": 5.0},
)


def scan(**changes: Any) -> useq.MDASequence:
    """A small two-channel scan, with fields replaced; None leaves one out."""
    fields: dict[str, Any] = {
        "channels": TWO_CHANNELS,
        "z_plan": {"range": 2, "step": 0.5},
        "axis_order": "tpzc",
        **changes,
    }
    return useq.MDASequence(**{k: v for k, v in fields.items() if v is not None})


def settings(**values: Any) -> dict[str, Any]:
    """Metadata of a sequence with these scan settings."""
    return {"opm_engine": values}
