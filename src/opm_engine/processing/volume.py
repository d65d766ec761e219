"""`OpenVolume`: one volume of a run while its planes come, gaps and all.

Separate from the handler, which sorts planes by volume, and from the deskewer, which
takes every plane in its turn. Keeps metadata, but does not look into them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from opm_engine.processing.options import Missing
from opm_engine.processing.streaming import Deskewer
from opm_engine.processing.window import Slab

if TYPE_CHECKING:
    import useq


@dataclass(frozen=True)
class Gap:
    """Planes that never came.

    Attributes
    ----------
    index : dict
        Of the volume, like ``{"t": 1, "p": 0, "c": 0}``.
    planes : tuple of int
    """

    index: dict[str, int]
    planes: tuple[int, ...]


class OpenVolume:
    """A volume and what is missing in it.

    Parameters
    ----------
    index : dict
        Of its events, without z.
    deskewer : Deskewer
    missing : {"zero", "interpolate"}
        See :class:`~opm_engine.processing.options.Options`.

    Attributes
    ----------
    missing_planes : list of int
        Those that a later one has overtaken, or that were given up.
    latest : (event, meta), optional
        Of the last plane that came.
    latency_ms : float, optional
        From the arrival of the last plane to the volume being complete; none if
        planes were given up.
    """

    def __init__(
        self, index: dict[str, int], deskewer: Deskewer, missing: Missing
    ) -> None:
        self.index = index
        self.deskewer = deskewer
        self.missing_planes: list[int] = []
        self.latest: tuple[useq.MDAEvent, dict[str, Any]] | None = None
        self.latency_ms: float | None = None
        self._interpolates = missing == "interpolate"
        self._last: NDArray[np.uint16] | None = None

    def add(self, plane: NDArray[Any], number: int) -> list[Slab]:
        """Add a plane (S, X) uint16 that nobody will write into again.

        Planes between it and the one before are missing.

        Returns
        -------
        list of Slab
            Those that are complete now.

        Raises
        ------
        ValueError
            If it is not of the volume's shape, or comes too late.
        """
        self.deskewer.check(plane)
        n_before = self.deskewer.n_added
        if number < n_before:
            late = "after a later one" if number in self.missing_planes else "twice"
            msg = f"plane {number} of {self.index} came {late}"
            raise ValueError(msg)
        slabs: list[Slab] = []
        for lost in range(n_before, number):
            slabs += self._stand_in(plane, lost, n_before - 1, number)
        slabs += self.deskewer.add(plane, lasting=True)
        if self._interpolates:
            self._last = plane
        return slabs

    def skip(self) -> list[Slab]:
        """Give the next plane up; return the slabs that are complete now."""
        self.missing_planes.append(self.deskewer.n_added)
        return self.deskewer.skip()

    def _stand_in(
        self, plane: NDArray[np.uint16], lost: int, before: int, after: int
    ) -> list[Slab]:
        if self._last is None:  # zero wanted, or the first planes are missing
            return self.skip()
        self.missing_planes.append(lost)
        share = (lost - before) / (after - before)
        return self.deskewer.add(mixed(self._last, plane, share), lasting=True)


def mixed(
    before: NDArray[np.uint16], after: NDArray[np.uint16], share: float
) -> NDArray[np.uint16]:
    """Return what stands in for a missing plane: ``share`` of ``after``, rounded."""
    total = (1 - share) * before.astype(np.float64) + share * after
    return np.rint(total).astype(np.uint16)


class Finished:
    """Which volumes are finished: those of each place count up in t, mostly."""

    def __init__(self) -> None:
        self._next: dict[tuple[int, int], int] = {}
        self._beyond: dict[tuple[int, int], set[int]] = {}

    def add(self, place: tuple[int, int], t: int) -> None:
        """Note a volume."""
        beyond = self._beyond.setdefault(place, set())
        beyond.add(t)
        while (next_t := self._next.get(place, 0)) in beyond:
            beyond.remove(next_t)
            self._next[place] = next_t + 1

    def has(self, place: tuple[int, int], t: int) -> bool:
        """Whether a volume is finished."""
        is_before = t < self._next.get(place, 0)
        return is_before or t in self._beyond.get(place, ())
