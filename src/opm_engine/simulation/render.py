"""Compiled kernels of the simulated optics and sensor.

The one place of the twin that uses numba, kept free of devices and settings: arrays
in, arrays out. All kernels are sequential and release the GIL, so that they are safe
in any thread beside each other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

REACH = 4.0
"""Where a Gaussian is cut off, in sigmas."""

_jit: Any = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit  # type: ignore[untyped-decorator]
def render_plane(
    normal_px: Floats,
    along_px: Floats,
    across_px: Floats,
    brightness: Floats,
    sigma_normal_px: float,
    sigma_px: float,
    image: NDArray[np.float32],
) -> None:
    """Add Gaussian points to one oblique plane.

    Lengths are in camera pixels, counted from the plane's first pixel.

    Parameters
    ----------
    normal_px, along_px, across_px, brightness : (K,) float64
        Distance from the plane, row, column and brightness of each point.
    sigma_normal_px, sigma_px : float
        Of the light sheet, normal to the plane, and of the detection, within it.
    image : (S, X) float32
        Added to in place.
    """
    n_rows, n_columns = image.shape
    reach = REACH * sigma_px
    half = 0.5 / sigma_px**2
    profile = np.empty(2 * math.ceil(reach) + 1, dtype=np.float32)
    for k in range(normal_px.size):
        row, column = along_px[k], across_px[k]
        top = max(0, math.ceil(row - reach))
        bottom = min(n_rows - 1, math.floor(row + reach))
        left = max(0, math.ceil(column - reach))
        right = min(n_columns - 1, math.floor(column + reach))
        if top > bottom or left > right:
            continue
        sheet = brightness[k] * math.exp(-0.5 * (normal_px[k] / sigma_normal_px) ** 2)
        for j in range(right - left + 1):
            profile[j] = math.exp(-half * (left + j - column) ** 2)
        for i in range(top, bottom + 1):
            weight = np.float32(sheet * math.exp(-half * (i - row) ** 2))
            for j in range(right - left + 1):
                image[i, left + j] += weight * profile[j]


@_jit  # type: ignore[untyped-decorator]
def render_volume(
    points_vox: Floats,
    brightness: Floats,
    voxel_um: tuple[float, float, float],
    angle_rad: float,
    sigma_normal_um: float,
    sigma_um: float,
    volume: NDArray[np.float32],
) -> None:
    """Add Gaussian points to a volume, seen by an ideal instrument.

    Each point is blurred by the light sheet along the sheet's normal and by the
    detection along the sheet and along x, both tilted by ``angle_rad``.

    Parameters
    ----------
    points_vox : (K, 3) float64
        (z, y, x) of each point, in voxels.
    brightness : (K,) float64
    voxel_um : (dz, dy, dx)
    angle_rad, sigma_normal_um, sigma_um : float
    volume : (Z, Y, X) float32
        Added to in place.
    """
    nz, ny, nx = volume.shape
    dz, dy, dx = voxel_um
    sin, cos = math.sin(angle_rad), math.cos(angle_rad)
    reach_z = REACH * (sigma_normal_um * cos + sigma_um * sin) / dz
    reach_y = REACH * (sigma_normal_um * sin + sigma_um * cos) / dy
    reach_x = REACH * sigma_um / dx
    profile = np.empty(2 * math.ceil(reach_x) + 1, dtype=np.float32)
    for k in range(brightness.size):
        z, y, x = points_vox[k]
        z_first = max(0, math.ceil(z - reach_z))
        z_last = min(nz - 1, math.floor(z + reach_z))
        y_first = max(0, math.ceil(y - reach_y))
        y_last = min(ny - 1, math.floor(y + reach_y))
        x_first = max(0, math.ceil(x - reach_x))
        x_last = min(nx - 1, math.floor(x + reach_x))
        if z_first > z_last or y_first > y_last or x_first > x_last:
            continue
        for j in range(x_last - x_first + 1):
            away = (x_first + j - x) * dx / sigma_um
            profile[j] = math.exp(-0.5 * away**2)
        for i in range(z_first, z_last + 1):
            up_um = (i - z) * dz
            for n in range(y_first, y_last + 1):
                on_um = (n - y) * dy
                normal = (on_um * sin - up_um * cos) / sigma_normal_um
                along = (on_um * cos + up_um * sin) / sigma_um
                if abs(normal) > REACH or abs(along) > REACH:
                    continue
                weight = np.float32(
                    brightness[k] * math.exp(-0.5 * (normal**2 + along**2))
                )
                for j in range(x_last - x_first + 1):
                    volume[i, n, x_first + j] += weight * profile[j]


def blurred(image: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    """Blur an image by a Gaussian; beyond its borders it goes on as at them.

    Parameters
    ----------
    image : (S, X) float32
    sigma_px : float

    Returns
    -------
    ndarray, (S, X) float32
    """
    reach = math.ceil(REACH * sigma_px)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2)
    kernel = (weights / weights.sum()).astype(np.float32)
    across = np.empty(image.shape[::-1], dtype=np.float32)
    _blur_columns(np.ascontiguousarray(image), kernel, across)
    blurred_image = np.empty(image.shape, dtype=np.float32)
    _blur_columns(across, kernel, blurred_image)
    return blurred_image


@_jit  # type: ignore[untyped-decorator]
def _blur_columns(
    image: NDArray[np.float32],
    kernel: NDArray[np.float32],
    transposed: NDArray[np.float32],
) -> None:
    """Blur along columns; the result is written transposed."""
    n_rows, n_columns = image.shape
    reach = kernel.size // 2
    for i in range(n_rows):
        for j in range(n_columns):
            total = np.float32(0.0)
            for k in range(-reach, reach + 1):
                at = min(max(j + k, 0), n_columns - 1)
                total += kernel[k + reach] * image[i, at]
            transposed[j, i] = total


@_jit  # type: ignore[untyped-decorator]
def digitise(
    light: NDArray[np.float32],
    offset_counts: float,
    gain_e_per_count: float,
    read_noise_e: float,
    noise: NDArray[np.float32],
    first: int,
    counts: NDArray[np.uint16],
) -> None:
    """Turn light into a camera frame: offset, shot and read noise, clipped.

    Parameters
    ----------
    light : (S, X) float32
        Counts without offset.
    offset_counts, gain_e_per_count, read_noise_e : float
    noise : (M,) float32
        Standard normal numbers, read in a ring from ``first`` on; if empty, the
        frame has no noise.
    first : int
    counts : (S, X) uint16
        Written in place.
    """
    n_rows, n_columns = light.shape
    read_variance = (read_noise_e / gain_e_per_count) ** 2
    at = first
    for i in range(n_rows):
        for j in range(n_columns):
            value = light[i, j] + offset_counts
            if noise.size:
                variance = light[i, j] / gain_e_per_count + read_variance
                value += noise[at] * math.sqrt(variance)
                at += 1
                if at == noise.size:
                    at = 0
            counts[i, j] = np.uint16(min(max(value + 0.5, 0.0), 65535.0))


@_jit  # type: ignore[untyped-decorator]
def follow_galvo(
    steps_s: Floats,
    volts: Floats,
    state: tuple[float, float, float],
    decay: float,
    omega: float,
    times_s: Floats,
    positions_v: Floats,
) -> tuple[float, float, float]:
    """Follow a damped galvo through the steps of its drive, exactly.

    In each stretch of constant volts it obeys
    x'' + 2 decay x' + (decay^2 + omega^2) (x - volts) = 0.

    Parameters
    ----------
    steps_s, volts : (K,) float64
        The drive; the first value holds from the state's time on.
    state : (time, position, speed)
    decay, omega : float
        Per second; damped oscillation.
    times_s : (T,) float64
        Ascending.
    positions_v : (T,) float64
        Written in place.

    Returns
    -------
    (time, position, speed)
        The state at the last of ``times_s``.
    """
    now_s, position, speed = state
    squared = decay**2 + omega**2
    step = 0
    for i in range(times_s.size):
        until_s = max(times_s[i], now_s)
        while True:
            more = step + 1 < steps_s.size and steps_s[step + 1] <= until_s
            stop_s = max(steps_s[step + 1], now_s) if more else until_s
            for_s = stop_s - now_s
            away = position - volts[step]
            fading = math.exp(-decay * for_s)
            cos = math.cos(omega * for_s)
            sin = math.sin(omega * for_s) / omega
            pull = decay * speed + squared * away
            position = volts[step] + fading * (
                away * cos + (speed + decay * away) * sin
            )
            speed = fading * (speed * cos - pull * sin)
            now_s = stop_s
            if not more:
                break
            step += 1
        positions_v[i] = position
    return now_s, position, speed
