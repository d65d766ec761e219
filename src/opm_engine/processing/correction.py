"""`Correction`: camera counts made comparable, before anything is interpolated.

Separate because it is a choice about values, not about places. Knows no geometry
beyond the shape of a plane.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opm_engine.geometry import positive


@dataclass(frozen=True)
class Correction:
    """corrected = (counts - offset_counts) * gain / flat_field, in float32.

    Parameters
    ----------
    offset_counts : float
        What the camera shows in the dark.
    gain : float
        Factor for the counts above it.
    flat_field : (rows, columns) array, optional
        Relative brightness of each pixel, as the camera delivers them; positive, and
        no smaller than float32 can divide ``gain`` by.

    Attributes
    ----------
    digest : str, optional
        SHA-256 of the flat field as float32.

    Raises
    ------
    ValueError
        Naming the argument that makes no sense.
    """

    offset_counts: float = 0.0
    gain: float = 1.0
    flat_field: NDArray[Any] | None = field(default=None, compare=False, repr=False)
    digest: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        offset: Any = self.offset_counts
        if not isinstance(offset, Real) or not math.isfinite(offset):
            msg = f"offset_counts must be a finite number, not {offset!r}"
            raise ValueError(msg)
        object.__setattr__(self, "offset_counts", float(offset))
        object.__setattr__(self, "gain", positive("gain", self.gain))
        if self.flat_field is None:
            return
        with np.errstate(over="ignore"):  # to infinity, which is refused below
            flat = np.array(self.flat_field, np.float32, order="C")  # ours alone
        if flat.ndim != 2 or not flat.size:
            msg = f"flat_field must be (rows, columns), not {flat.shape}"
            raise ValueError(msg)
        self._refuse_bad_pixels(flat)
        object.__setattr__(self, "flat_field", flat)
        object.__setattr__(self, "digest", hashlib.sha256(flat.tobytes()).hexdigest())

    def _refuse_bad_pixels(self, flat: NDArray[np.float32]) -> None:
        with np.errstate(all="ignore"):
            is_fine = (
                (flat > 0) & np.isfinite(flat) & np.isfinite(self._per_pixel(flat))
            )
        if not is_fine.all():
            row, column = np.argwhere(~is_fine)[0].tolist()
            msg = (
                f"flat_field[{row}, {column}] = {flat[row, column]:g}: it must be "
                "positive and finite, and so must gain / flat_field, in float32; give "
                "dead pixels the value of their neighbours"
            )
            raise ValueError(msg)

    @classmethod
    def of_camera(cls, block: Mapping[str, Any] | None) -> Correction:
        """Return offset and gain of the camera, as a run's metadata say them.

        The values are electrons then.

        Raises
        ------
        ValueError
            If the metadata say nothing about them.
        """
        names = "camera_offset", "camera_gain_e_per_count"
        if block is None or any(name not in block for name in names):
            msg = (
                "correction 'camera': the run's metadata say neither offset nor gain "
                "of the camera; use Correction(offset_counts=..., gain=...)"
            )
            raise ValueError(msg)
        offset_counts, gain = (block[name] for name in names)
        return cls(offset_counts, gain)

    def check(self, shape: tuple[int, int]) -> None:
        """Refuse planes of another shape than the flat field.

        Raises
        ------
        ValueError
        """
        if self.flat_field is not None and self.flat_field.shape != shape:
            msg = (
                f"flat_field must be {shape}, as the planes are, "
                f"not {self.flat_field.shape}"
            )
            raise ValueError(msg)

    @cached_property
    def factor(self) -> Any:
        """What counts above the offset are multiplied by: float32, or one per pixel."""
        if self.flat_field is None:
            return np.float32(self.gain)
        return self._per_pixel(self.flat_field)

    def _per_pixel(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        return (self.gain / flat.astype(np.float64)).astype(np.float32)

    def apply(
        self, plane: NDArray[np.uint16], out: NDArray[np.float32], flipped: slice
    ) -> None:
        """Correct a plane (S, X) into another array; ``flipped`` turns its columns."""
        factor = self.factor
        if self.flat_field is not None:
            factor = factor[:, flipped]
        offset = np.float32(self.offset_counts)
        np.subtract(plane[:, flipped], offset, out=out, dtype=np.float32)
        np.multiply(out, factor, out=out)

    def described(self) -> dict[str, Any]:
        """Return it as plain JSON; of a flat field shape and digest."""
        flat = self.flat_field
        return {
            "offset_counts": self.offset_counts,
            "gain": self.gain,
            "flat_field": None
            if flat is None
            else {"shape": list(flat.shape), "sha256": self.digest},
        }
