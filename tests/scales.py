"""A specimen that says where and for how long it was lit, and runs that show it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import useq

from opm_engine import OMEZarrWriter, Scope, ThreadRelay
from opm_engine.plan import BLOCK
from twins import OFFSET_COUNTS, Collect, opened

COLUMNS, ROWS = 32, 208
LINE_MS = 4.868e-3
RISE_MS = 0.01
"""Light that is lost while a laser rises."""

FAST = {
    "daq__galvo__settle_ms": 0.2,
    "daq__galvo__slew_v_per_ms": 10.0,
}
"""A galvo that every mode can use in a readout of 1 ms."""

STAGE = {
    "label": "XY",
    "axis": "y",
    "range_um": [-1000, 1000],
    "max_speed_um_per_s": 2000.0,
    "ramp_ms": 20.0,
}


def window_ms(exposure_ms: float) -> float:
    """All rows expose together for so long, as the simulated camera rounds it."""
    return round(exposure_ms / LINE_MS) * LINE_MS - (ROWS - 1) * LINE_MS


class Scale:
    """A specimen that encodes laser, position of the sheet and dose in its pixels.

    Each of two lasers has half the columns. One half of these glows always alike, which
    tells the dose, the other as strongly as the sheet lies along Y, galvo and stage
    together.
    """

    PER_MS = 8000.0
    PER_MS_UM = 500.0
    FROM_UM = -12.0
    """It reads up to 20 µm in 4 ms of light."""

    def plane(self, offset_um, laser_index, origin_um, shape):
        plane = np.zeros(shape, np.float32)
        half = shape[1] // 2
        columns = plane[:, laser_index * half : (laser_index + 1) * half]
        columns[:, : half // 2] = self.PER_MS
        y_um = offset_um + origin_um[1]
        columns[:, half // 2 :] = self.PER_MS_UM * (y_um - self.FROM_UM)
        return plane

    @classmethod
    def read(cls, planes) -> tuple[np.ndarray, np.ndarray]:
        """Decode planes (..., S, X): light in ms (..., 2) and Y in µm (...,).

        Y is NaN unless exactly one laser has lit the plane.
        """
        counts = np.asarray(planes, float) - OFFSET_COUNTS
        parts = np.split(counts.mean(axis=-2), 4, axis=-1)
        means = np.stack([part.mean(axis=-1) for part in parts], axis=-1)
        light_ms = means[..., ::2] / cls.PER_MS
        one = (light_ms > 0).sum(axis=-1) == 1
        dose_ms = np.where(one, light_ms.sum(axis=-1), np.nan)
        y_um = means[..., 1::2].sum(axis=-1) / dose_ms / cls.PER_MS_UM + cls.FROM_UM
        return light_ms, y_um


@dataclass
class Shown:
    """What a run has shown.

    Attributes
    ----------
    index : dict of axis -> (frames,) int
    light_ms : (frames, lasers)
    y_um : (frames,)
    every : (exposures, rows, columns)
        All frames that the camera gave, dark ones included.
    collect : Collect
    """

    index: dict[str, np.ndarray]
    light_ms: np.ndarray
    y_um: np.ndarray
    every: np.ndarray
    collect: Collect

    @property
    def block(self) -> dict[str, Any]:
        """Our part of the summary metadata."""
        block: dict[str, Any] = self.collect.summary["extra"][BLOCK]
        return block


def show(scope: Scope, sequence: useq.MDASequence, out: Path | None = None) -> Shown:
    """Run a sequence and read what came, from the pixels that handlers got."""
    collect, core = Collect(), scope.core
    handlers = [collect] if out is None else [collect, OMEZarrWriter(out)]
    relay = ThreadRelay(*handlers)
    with every_frame(scope) as every, relay.connected(core.mda):
        core.mda.run(sequence)
    index = {
        axis: np.array([event.index.get(axis, 0) for event in collect.events])
        for axis in "tpcz"
    }
    light_ms, y_um = Scale.read(np.stack(collect.images))
    return Shown(index, light_ms, y_um, np.stack(every), collect)


@contextmanager
def every_frame(scope: Scope) -> Iterator[list[np.ndarray]]:
    """All frames that are popped meanwhile, whoever gets them."""
    core, every = scope.core, []
    pop = core.popNextImageMD

    def keep(*args):
        every.append(image := pop(*args))
        return image

    core.popNextImageMD = keep
    try:
        yield every
    finally:
        del core.popNextImageMD


def assert_lit_alone(shown: Shown, light_ms: float, atol: float = 2e-3) -> None:
    """Each frame has all the light of its channel's laser and none of another."""
    c = shown.index["c"]
    np.testing.assert_allclose(
        shown.light_ms[np.arange(len(c)), c], light_ms, atol=atol
    )
    np.testing.assert_array_equal(shown.light_ms[np.arange(len(c)), 1 - c], 0)


def assert_dark_between(shown: Shown, n_dark: int) -> None:
    """So many frames beside those that handlers got, without a count of light."""
    dark = [image for image in shown.every if (image == OFFSET_COUNTS).all()]
    assert len(dark) == n_dark
    assert len(shown.every) == n_dark + len(shown.collect.images)


@contextmanager
def scaled(**changes: Any) -> Iterator[Scope]:
    """An open microscope that looks at a `Scale`."""
    with opened(Scale(), **changes) as scope:
        yield scope
