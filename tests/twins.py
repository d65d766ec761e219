"""Simulated microscopes for tests, and specimens that encode where light came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from opm_engine import Scope, open_microscope
from opm_engine.config import Microscope
from scopes import bare

OFFSET_COUNTS = 100


def microscope(**changes: Any) -> Microscope:
    """The bare demo microscope: small planes, no noise; ``a__b=1`` changes ``a.b``."""
    table = bare().model_dump(mode="json", exclude_none=True)
    fields = {
        "camera__roi": [0, 0, 32, 208],
        "simulation__noise": False,
        **changes,
    }
    for path, value in fields.items():
        *tables, key = path.split("__")
        target = table
        for name in tables:
            target = target[name]
        target[key] = value
    return Microscope.from_table(table)


class Ruler:
    """A specimen that glows as strongly as the scan offset says, from -10 µm on.

    One laser lights the left half of the columns, the other the right half, so that a
    pixel tells which laser made it and where the light sheet was.
    """

    COUNTS_PER_MS_UM = 500.0

    def __init__(self) -> None:
        self.origins_um: set[tuple[float, ...]] = set()

    def plane(self, offset_um, laser_index, origin_um, shape):
        self.origins_um.add(tuple(origin_um))
        plane = np.zeros(shape, np.float32)
        half = (
            slice(0, shape[1] // 2) if laser_index == 0 else slice(shape[1] // 2, None)
        )
        plane[:, half] = self.COUNTS_PER_MS_UM * (offset_um + 10)
        return plane

    @classmethod
    def read(cls, planes, light_ms):
        """Decode planes (..., S, X): laser (0, 1 or -1 for none or both), offset µm."""
        halves = np.split(np.asarray(planes, float) - OFFSET_COUNTS, 2, axis=-1)
        left, right = (half.mean(axis=(-2, -1)) for half in halves)
        lit = np.stack([left, right]) > cls.COUNTS_PER_MS_UM * light_ms
        laser = np.where(lit[0] & ~lit[1], 0, np.where(lit[1] & ~lit[0], 1, -1))
        offset_um = np.maximum(left, right) / (cls.COUNTS_PER_MS_UM * light_ms) - 10
        return laser, offset_um


@contextmanager
def opened(specimen: Any = None, **changes: Any) -> Iterator[Scope]:
    """An open simulated microscope."""
    with open_microscope(microscope(**changes), specimen=specimen) as scope:
        yield scope


def read(store: Path, group: str = "0") -> np.ndarray:
    """All of one image (T, C, Z, Y, X), with zarr-python."""
    array = zarr.open_group(store, mode="r")[group]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[:])


class Collect:
    """A user's handler that keeps what it gets."""

    def __init__(self) -> None:
        self.images: list[np.ndarray] = []
        self.events: list[Any] = []
        self.metas: list[dict[str, Any]] = []
        self.started = 0
        self.finished = 0

    def sequenceStarted(self, sequence, summary):
        self.started += 1
        self.summary = summary

    def frameReady(self, image, event, meta):
        self.images.append(image)
        self.events.append(event)
        self.metas.append(meta)

    def sequenceFinished(self, sequence):
        self.finished += 1


class Broken(Exception):
    pass


class Breaks(Collect):
    """A handler that raises at the start (0) or at its n-th frame."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def sequenceStarted(self, sequence, summary):
        super().sequenceStarted(sequence, summary)
        if self.at == 0:
            raise Broken("at the start")

    def frameReady(self, image, event, meta):
        super().frameReady(image, event, meta)
        if len(self.images) == self.at:
            raise Broken(f"at frame {self.at}")
