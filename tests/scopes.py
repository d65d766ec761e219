"""Microscopes that can do every mode, for tests of plans and waveforms."""

from __future__ import annotations

from copy import deepcopy
from functools import reduce
from operator import getitem
from typing import Any

from opm_engine.config import Microscope

STAGE = {
    "label": "XY",
    "axis": "y",
    "range_um": [-1000, 1000],
    "max_speed_um_per_s": 500,
    "ramp_ms": 12.0,
}

GALVO = {
    "channel": "ao0",
    "volts_per_um": 0.05,
    "range_v": [-5, 5],
    "slew_v_per_ms": 5.0,
    "settle_ms": 0.1,
    "acceleration_v_per_ms2": 20.0,
}

SHIFT = {
    **GALVO,
    "channel": "ao1",
    "volts_per_um": -0.02,
    "offset_v": 1.0,
    "shear_ratio": 1.1547,
}


def bare() -> Microscope:
    """The demo's microscope without what only some modes need: no stage takes time."""
    microscope = Microscope.demo()
    daq = microscope.daq.model_copy(update={"projection": None})
    without = {"daq": daq, "scan_stage": None, "remote_focus": None}
    return microscope.model_copy(update=without)


def full(**changes: Any) -> Microscope:
    """A microscope with second galvo and stage; ``a__b=1`` changes ``a.b``."""
    table = Microscope.demo().model_dump(mode="json", exclude_none=True)
    fields = {
        "camera__roi": [0, 0, 32, 256],
        "scan_stage": STAGE,
        "daq__galvo": GALVO,
        "daq__projection": SHIFT,
        **changes,
    }
    for path, value in deepcopy(fields).items():
        *tables, key = path.split("__")
        reduce(getitem, tables, table)[key] = value
    return Microscope.from_table(table)


def powered() -> Microscope:
    """Two lasers whose power two analog outputs set."""
    lasers = [
        {
            "name": name,
            "line": f"port0/line{number}",
            "power_output": {"channel": f"ao{2 + number}", "full_v": 5.0},
        }
        for number, name in enumerate(("488", "561"))
    ]
    return full(lasers=lasers)
