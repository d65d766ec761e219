"""Beads, filaments and shells of the demo specimen, and a test pattern, as points.

Separate from `Specimen` because it is only a recipe: random numbers in, points in
µm out. Knows no optics.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

LOW_UM = np.array([-1.0, -30.0, -30.0])
HIGH_UM = np.array([18.0, 190.0, 190.0])
"""Corners (z, y, x) of the box that the demo specimen fills."""

SPACING_UM = 0.12
"""Distance of neighbouring points of a filament or a shell; well under any blur."""


def beads(rng: np.random.Generator, count: int) -> Points:
    """Scatter ``count`` beads; (count, 3) as z, y, x."""
    return rng.uniform(LOW_UM, HIGH_UM, (count, 3))


def filament(rng: np.random.Generator, length_um: float) -> Points:
    """A gently bent filament from a random point on; (K, 3) as z, y, x."""
    count = math.ceil(length_um / SPACING_UM)
    along = np.linspace(-0.5, 0.5, count) * length_um
    heading = rng.uniform(0, 2 * math.pi)
    tilt = rng.uniform(-0.25, 0.25)
    bend_um = rng.uniform(0, 0.08) * length_um
    sideways = bend_um * np.cos(along / length_um * rng.uniform(2, 6))
    z = along * math.sin(tilt)
    y = along * math.sin(heading) + sideways * math.cos(heading)
    x = along * math.cos(heading) - sideways * math.sin(heading)
    return np.stack([z, y, x], axis=1) + rng.uniform(LOW_UM, HIGH_UM)


def shell(rng: np.random.Generator, radius_um: float) -> Points:
    """A hollow sphere, evenly covered by a Fibonacci spiral; (K, 3) as z, y, x."""
    count = math.ceil(4 * math.pi * (radius_um / (2 * SPACING_UM)) ** 2)
    k = np.arange(count) + 0.5
    polar = np.arccos(1 - 2 * k / count)
    turn = math.pi * (1 + math.sqrt(5)) * k
    unit = np.stack(
        [np.cos(polar), np.sin(polar) * np.sin(turn), np.sin(polar) * np.cos(turn)],
        axis=1,
    )
    return radius_um * unit + rng.uniform(LOW_UM, HIGH_UM)


def demo_points(n_lasers: int, seed: int) -> tuple[Points, NDArray[np.float64]]:
    """Return the points (K, 3) and their counts per ms for each laser (K, n_lasers).

    Beads glow in every laser, a third of filaments and shells in two neighbouring
    lasers, the others in one.
    """
    rng = np.random.default_rng(seed)
    bright = rng.uniform(0.6, 1.2, (1500, n_lasers)) * 400
    points, amplitude = [beads(rng, 1500)], [bright]
    lengths_um = rng.uniform(15, 60, 220 * n_lasers)
    radii_um = rng.uniform(2.5, 5, 36 * n_lasers)
    shapes = [(filament(rng, length), 60.0) for length in lengths_um]
    shapes += [(shell(rng, radius), 40.0) for radius in radii_um]
    for index, (cloud, counts_per_ms) in enumerate(shapes):
        glow = np.zeros(n_lasers)
        glow[index % n_lasers] = 1.0
        if index % 3 == 0:
            glow[(index + 1) % n_lasers] = 0.6
        points.append(cloud)
        amplitude.append(np.tile(glow * counts_per_ms, (len(cloud), 1)))
    return np.concatenate(points), np.concatenate(amplitude)


PITCH_UM = np.array([5.0, 10.0, 10.0])
"""Between neighbouring beads of the test pattern, along z, y and x."""

ARMS_UM = (2.0, 4.0, 6.0)
"""Length of the test pattern's arms, towards +z, +y and +x."""


def pattern_points(n_lasers: int) -> tuple[Points, NDArray[np.float64]]:
    """Return a lattice of beads and their counts per ms for each laser, all the same.

    A bead lies at every multiple of `PITCH_UM`. From each at multiples of 40 µm in x
    and y grow arms, all of different lengths: an image that is turned, flipped or
    stretched shows it.
    """
    steps = [
        np.arange(np.ceil(low / pitch), np.floor(high / pitch) + 1) * pitch
        for low, high, pitch in zip(LOW_UM, HIGH_UM, PITCH_UM, strict=True)
    ]
    beads = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    rooted = beads[(beads[:, 1:] % 40 == 0).all(axis=1)]
    arms = [
        rooted + along_um * axis
        for axis, length_um in zip(np.eye(3), ARMS_UM, strict=True)
        for along_um in np.arange(SPACING_UM, length_um, SPACING_UM)
    ]
    bright = [np.full(len(beads), 400.0), np.full(len(arms) * len(rooted), 60.0)]
    amplitude = np.tile(np.concatenate(bright)[:, None], (1, n_lasers))
    return np.concatenate([beads, *arms]), amplitude
