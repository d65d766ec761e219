"""Irregular sequences, and a specimen that says where it was looked at."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import useq

from sequences import TWO_CHANNELS, scan, settings
from twins import OFFSET_COUNTS

GRID = {"rows": 1, "columns": 2}
ONCE = {"interval": 0, "loops": 2}
SLOW = {"interval": 0.2, "loops": 2}
SHORT = {"range": 1, "step": 0.5}


def at(x: float, y: float, z: float | None = None, **own: Any) -> useq.Position:
    """A position; what is left over is its sub-sequence."""
    names = {k: own.pop(k) for k in ("name", "properties") if k in own}
    return useq.Position(x=x, y=y, z=z, sequence=own or None, **names)


def channels(**second: Any) -> list[dict[str, Any]]:
    """Two channels, with fields of the second replaced."""
    return [TWO_CHANNELS[0], {**TWO_CHANNELS[1], **second}]


class Case(NamedTuple):
    """A sequence.

    Attributes
    ----------
    n_frames : int
    n_bursts : int
    in_order : bool
        Whether frames come as useq's events do.
    """

    id: str
    sequence: useq.MDASequence
    n_frames: int
    n_bursts: int
    in_order: bool = True


CASES = [
    Case("grid", scan(grid_plan={"rows": 2, "columns": 2}, axis_order="tpgzc"), 40, 4),
    Case(
        "grid-and-positions",
        scan(
            grid_plan=GRID,
            stage_positions=[(0, 0, 1), (9, 0, 2)],
            axis_order="tpgcz",
        ),
        40,
        8,
    ),
    Case(
        "grids-of-positions",
        scan(
            stage_positions=[at(0, 0, 1, grid_plan=GRID), at(9, 5, 2, grid_plan=GRID)]
        ),
        40,
        4,
        in_order=False,
    ),
    Case(
        "grid-at-one-position",
        scan(stage_positions=[at(0, 0), at(9, 0, grid_plan=GRID)], time_plan=ONCE),
        60,
        6,
        in_order=False,
    ),
    Case(
        "short-scan-first",
        scan(stage_positions=[at(0, 0, 1, z_plan=SHORT), at(5, 0, 2)]),
        16,
        2,
        in_order=False,
    ),
    Case(
        "own-channels-and-scan",
        scan(
            stage_positions=[
                at(0, 0, 1),
                at(5, 0, 2, z_plan=SHORT, channels=TWO_CHANNELS[:1]),
            ],
            axis_order="tpcz",
        ),
        13,
        3,
    ),
    Case(
        "own-grid-and-scan",
        scan(stage_positions=[at(0, 0, 1), at(5, 0, 2, z_plan=SHORT, grid_plan=GRID)]),
        22,
        3,
        in_order=False,
    ),
    Case("phases", scan(time_plan=[ONCE, {"interval": 0.1, "loops": 2}]), 30, 3),
    Case(
        "every-second-time",
        scan(channels=channels(acquire_every=2), time_plan={**ONCE, "loops": 3}),
        25,
        3,
    ),
    Case(
        "every-second-time-in-a-grid",
        scan(
            channels=channels(acquire_every=2),
            time_plan=ONCE,
            stage_positions=[at(0, 0, grid_plan=GRID)],
        ),
        30,
        4,
        in_order=False,
    ),
    Case(
        "shutter-over-times",
        scan(keep_shutter_open_across="tzc", time_plan=SLOW),
        20,
        2,
    ),
    Case(
        "shutter-over-channels",
        scan(
            keep_shutter_open_across="cz",
            axis_order="tpcz",
            stage_positions=[(0, 0), (5, 0)],
        ),
        20,
        4,
    ),
    Case(
        "shutter-and-grid",
        scan(keep_shutter_open_across="gz", grid_plan=GRID, axis_order="tpgcz"),
        20,
        4,
    ),
    Case(
        "autofocus-of-positions",
        scan(
            autofocus_plan={"axes": ("p",)},
            stage_positions=[(0, 0, 1), (5, 0, 2)],
            time_plan=ONCE,
        ),
        40,
        4,
    ),
    Case(
        "autofocus-of-times",
        scan(
            autofocus_plan={"axes": ("t", "p"), "autofocus_motor_offset": 2.0},
            stage_positions=[(0, 0, 1), (5, 0, 2)],
            time_plan=ONCE,
        ),
        40,
        4,
    ),
    Case(
        "autofocus-of-one-position",
        scan(
            stage_positions=[at(0, 0, 1), at(5, 0, 2, autofocus_plan={"axes": ("p",)})]
        ),
        20,
        2,
    ),
    Case("interval", scan(stage_positions=[(0, 0, 1), (5, 0)], time_plan=SLOW), 40, 4),
    Case(
        "interval-no-z", scan(stage_positions=[(0, 0), (5, 0)], time_plan=SLOW), 40, 4
    ),
    Case(
        "z-offset",
        scan(
            channels=channels(z_offset=1.5),
            axis_order="tpgcz",
            stage_positions=[(0, 0, 1), (5, 0)],
            grid_plan=GRID,
        ),
        40,
        8,
    ),
    Case(
        "properties-and-names",
        scan(
            stage_positions=[
                at(0, 0, name="here", properties=[("Lasers", "Power-488", 50.0)]),
                at(5, 0, name="there", properties=[("Lasers", "Power-488", 100.0)]),
            ]
        ),
        20,
        2,
    ),
    Case("single", scan(z_plan=None, grid_plan=GRID, axis_order="tpgc"), 4, 4),
    Case(
        "ramp",
        scan(
            grid_plan=GRID,
            axis_order="tpgzc",
            z_plan={"range": 4, "step": 0.5},
            metadata=settings(motion="ramp"),
        ),
        36,
        2,
    ),
]


class Refusal(NamedTuple):
    """A sequence, and words of its refusal."""

    id: str
    sequence: useq.MDASequence
    says: tuple[str, ...]


REFUSALS = [
    Refusal(
        "steps",
        scan(stage_positions=[at(0, 0), at(5, 0, z_plan={"range": 2, "step": 1})]),
        ("stage_positions", "0.5, 1 µm", "same"),
    ),
    Refusal(
        "directions",
        scan(stage_positions=[at(0, 0), at(5, 0, z_plan={**SHORT, "go_up": False})]),
        ("stage_positions", "go_up"),
    ),
    Refusal(
        "channels",
        scan(stage_positions=[at(0, 0), at(5, 0, channels=TWO_CHANNELS[1:])]),
        ("stage_positions[1].sequence.channels", '"561"', '"488"', "begin"),
    ),
    Refusal(
        "autofocus-within-scans",
        scan(autofocus_plan={"axes": ("c",)}),
        ("autofocus_plan.axes", 'axes=("p",)'),
    ),
    Refusal(
        "autofocus-at-every-plane",
        scan(
            stage_positions=[at(0, 0, autofocus_plan={"axes": ("z",)})],
            axis_order="tpcz",
        ),
        ("autofocus_plan.axes", "no complete scan"),
    ),
    Refusal(
        "grid-within-scans",
        scan(grid_plan=GRID, axis_order="tpzcg"),
        ("axis_order", '"tpzcg"', '"zc" or "cz"'),
    ),
    Refusal(
        "middle-plane",
        scan(
            stage_positions=[at(0, 0, channels=[{"config": "488", "do_stack": False}])]
        ),
        ('stage_positions[0].sequence.channels["488"].do_stack', "stock engine"),
    ),
    Refusal("roi", scan(setup={"roi": (0, 0, 8, 8)}), ("setup.roi", "camera.roi")),
    Refusal(
        "own-times",
        scan(stage_positions=[at(0, 0, time_plan=ONCE)]),
        ("stage_positions[0].sequence", "times"),
    ),
    Refusal(
        "own-settings",
        scan(stage_positions=[at(0, 0, z_plan=SHORT, metadata=settings(mode="stage"))]),
        ('stage_positions[0].sequence.metadata["opm_engine"]', "whole sequence"),
    ),
    Refusal(
        "bidirectional",
        scan(grid_plan=GRID, axis_order="tpgzc", metadata=settings(bidirectional=True)),
        ("bidirectional", "grid_plan", "leave it out"),
    ),
    Refusal(
        "random",
        scan(grid_plan={"num_points": 2, "max_width": 9, "max_height": 9}),
        ("grid_plan", "random_seed"),
    ),
    Refusal(
        "absolute",
        scan(stage_positions=[at(0, 0, z_plan={"top": 2, "bottom": 0, "step": 0.5})]),
        ("z_plan", "absolute"),
    ),
    Refusal(
        "too-many",
        scan(
            grid_plan={"rows": 3000, "columns": 3000},
            axis_order="tpgzc",
        ),
        ("grid_plan", "10000000"),
    ),
    Refusal("no-channel", scan(channels=None, grid_plan=GRID), ("channels",)),
]


class Where:
    """A specimen that encodes scan offset, x, y and focus in four bands of rows.

    A fifth glows always alike, which tells the dose. Each of two lasers lights half the
    columns.
    """

    PER_MS = 8000.0
    PER_MS_UM = 200.0
    FROM_UM = -30.0

    def plane(self, offset_um, laser_index, origin_um, shape):
        plane = np.zeros(shape, np.float32)
        half = shape[1] // 2
        columns = plane[:, laser_index * half : (laser_index + 1) * half]
        values = np.array((offset_um, *origin_um)) - self.FROM_UM
        values = [self.PER_MS, *self.PER_MS_UM * values]
        for band, value in zip(np.array_split(columns, 5), values, strict=True):
            band[:] = value
        return plane

    @classmethod
    def read(cls, planes):
        """Decode planes (..., S, X): laser (...,); offset, x, y, focus (..., 4)."""
        counts = np.asarray(planes, float) - OFFSET_COUNTS
        halves = np.stack(np.split(counts, 2, axis=-1))
        laser = halves.mean(axis=(-2, -1)).argmax(axis=0)
        bands = np.array_split(halves.max(axis=0), 5, axis=-2)
        means = np.stack([band.mean(axis=(-2, -1)) for band in bands], axis=-1)
        light_ms = means[..., :1] / cls.PER_MS
        return laser, means[..., 1:] / light_ms / cls.PER_MS_UM + cls.FROM_UM
