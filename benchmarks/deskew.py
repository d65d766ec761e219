"""How fast a stack is deskewed: this package, others, and a plain copy of the bytes.

Run ``python benchmarks/deskew.py``; ``--json`` prints one JSON object instead of a
table, ``--quick`` deskews a small stack, which only shows that everything runs. All
on one thread, in one process: each round measures everything once, one after the
other, what is much slower in the first two alone. Figures are medians over rounds;
ratios are medians of the rounds' own, so that whatever else the machine does meanwhile
falls on both.

``streaming``    plane by plane through `Deskewer`, which gives slabs away as they are
                 complete, as it does in a run without a handler of whole volumes.
``projections``  the same with XY, XZ and YZ maximum projections on the way.
``volume``, ``volume_projections``: the same into a whole volume.
``copy``         one copy of as many bytes: the stack read and the volume written.
``scipy``        ``scipy.ndimage.affine_transform``, order 1, of the same stack.
Others           public packages that deskew on the processor, if they are installed;
                 else they are named in ``absent``.
``latency``      from the last plane to the finished volume and its projections.
``stall``        longest time that another Python thread did not get to run, beside
                 the longest while nothing is deskewed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from opm_engine.buffers import BufferPool
from opm_engine.geometry import Geometry, voxel_size
from opm_engine.processing import Deskewer

PLANES = 300, 512, 1024
QUICK_PLANES = 24, 64, 100
ANGLE_DEG, STEP_UM, PIXEL_UM = 30.0, 0.4, 0.115

Stack = NDArray[np.uint16]


def geometry_of(shape: tuple[int, int, int]) -> Geometry:
    """A scan of as many planes, rows and columns."""
    n_planes, n_rows, n_columns = shape
    return Geometry(
        angle_deg=ANGLE_DEG,
        step_um=STEP_UM,
        pixel_size_um=PIXEL_UM,
        n_planes=n_planes,
        n_rows=n_rows,
        n_columns=n_columns,
    )


# ---------------------------------------------------------------- what is compared


class Ours:
    """The deskew of this package, with memory that goes round as in a run."""

    def __init__(self, stack: Stack, *, project: bool, whole: bool) -> None:
        self.stack = stack
        self._geometry = geometry_of(stack.shape)
        self._options = {"project": project, "whole": whole}
        self._pool = BufferPool(2**32)
        self.latency_ms: list[float] = []

    def __call__(self) -> None:
        """Deskew one stack; the output of a run would take the slabs."""
        deskewer = Deskewer(self._geometry, pool=self._pool, **self._options)
        for plane in self.stack[:-1]:
            deskewer.add(plane, lasting=True)
        began_s = time.perf_counter()
        deskewer.add(self.stack[-1], lasting=True)
        self.latency_ms.append((time.perf_counter() - began_s) * 1000)


def copy_of(n_bytes: int) -> Callable[[], None]:
    """A plain copy that moves so many bytes: half of them read, half written."""
    source = np.ones(n_bytes // 2, np.uint8)
    target = np.zeros_like(source)
    return lambda: np.copyto(target, source)


def scipy_affine(stack: Stack) -> Callable[[], None]:
    """The same grid by trilinear interpolation in the stack."""
    geometry = geometry_of(stack.shape)
    shape = geometry.volume_shape(voxel_size(PIXEL_UM, None))
    theta, pitch = math.radians(ANGLE_DEG), STEP_UM / PIXEL_UM
    # (z, y, x) of the volume to (plane, row, column) of the stack, in pixels.
    matrix = np.array(
        [
            [-1 / math.tan(theta) / pitch, 1 / pitch, 0],
            [1 / math.sin(theta), 0, 0],
            [0, 0, 1],
        ]
    )
    volume = np.zeros(shape, np.uint16)
    return lambda: ndimage.affine_transform(
        stack, matrix, output_shape=shape, output=volume, order=1, prefilter=False
    )


def pyclesperanto(stack: Stack) -> Callable[[], Any]:
    """``deskew_y`` on OpenCL's device; without a GPU the processor, all its threads."""
    import pyclesperanto_prototype as cle

    return lambda: cle.pull(
        cle.deskew_y(
            cle.push(stack),
            angle_in_degrees=ANGLE_DEG,
            voxel_size_x=PIXEL_UM,
            voxel_size_y=PIXEL_UM,
            voxel_size_z=STEP_UM,
        )
    )


PEERS = {"pyclesperanto_prototype": pyclesperanto}


def peers_for(stack: Stack) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Return the peers that are installed and run, and why others do not."""
    present, absent = {}, {}
    for name, make in PEERS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call = make(stack)
                call()
        except Exception as error:  # noqa: BLE001 whatever another package raises
            absent[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            present[name] = call
    return present, absent


# ---------------------------------------------------------------- what is measured


def timed_ms(call: Callable[[], Any]) -> float:
    began_s = time.perf_counter()
    call()
    return (time.perf_counter() - began_s) * 1000


@contextmanager
def watched() -> Iterator[list[float]]:
    """Another Python thread that notes how long it did not get to run, in ms."""
    ending = threading.Event()
    stalls_ms: list[float] = []

    def watch() -> None:
        before_s = time.perf_counter()
        while not ending.is_set():
            time.sleep(2e-4)  # asks for the interpreter lock anew each time
            now_s = time.perf_counter()
            stalls_ms.append((now_s - before_s) * 1000)
            before_s = now_s

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield stalls_ms
    finally:
        ending.set()
        thread.join()


def stalls(ours: Ours, repeats: int) -> dict[str, float]:
    """Longest stalls of the other thread while a stack is deskewed, and while not."""
    during, idle = [], []
    for _ in range(repeats):
        with watched() as found_ms:
            taken_ms = timed_ms(ours)
        during.append(max(found_ms))
        with watched() as found_ms:
            time.sleep(taken_ms / 1000)
        idle.append(max(found_ms))
    return {
        "max_ms": max(during),
        "median_of_max_ms": statistics.median(during),
        "idle_max_ms": max(idle),
        "idle_median_of_max_ms": statistics.median(idle),
    }


def rounds_of(
    calls: dict[str, Callable[[], Any]], rarely: set[str], repeats: int
) -> dict[str, list[float]]:
    """Milliseconds of interleaved rounds; what is slow is called in the first two."""
    for name, call in calls.items():
        if name not in rarely:
            call()  # compiles, and touches the pages
    taken_ms: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repeats):
        for name, call in calls.items():
            if number < 2 or name not in rarely:
                taken_ms[name].append(timed_ms(call))
    return taken_ms


def measure(repeats: int, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Everything, as it is printed by ``--json``."""
    stack = np.random.default_rng(0).integers(0, 65536, shape, np.uint16)
    volume_shape = geometry_of(shape).volume_shape(voxel_size(PIXEL_UM, None))
    n_bytes = stack.nbytes + 2 * math.prod(volume_shape)
    ours = {
        "streaming": Ours(stack, project=False, whole=False),
        "projections": Ours(stack, project=True, whole=False),
        "volume": Ours(stack, project=False, whole=True),
        "volume_projections": Ours(stack, project=True, whole=True),
    }
    peers, absent = peers_for(stack)
    calls = {
        **ours,
        "copy": copy_of(n_bytes),
        "scipy": scipy_affine(stack),
        **peers,
    }
    taken_ms = rounds_of(calls, {"scipy", *peers}, repeats)
    return {
        "machine": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "cpus": os.cpu_count(),
        },
        "repeats": repeats,
        "stack": shape,
        "volume": volume_shape,
        "input_mb": stack.nbytes / 1e6,
        "moved_mb": n_bytes / 1e6,
        "absent": absent,
        "median_ms": {name: statistics.median(each) for name, each in taken_ms.items()},
        "best_ms": {name: min(each) for name, each in taken_ms.items()},
        "ratios": {name: ratios(name, taken_ms, stack.nbytes) for name in ours},
        "latency": {name: latency(ours[name]) for name in ours},
        "stall": stalls(ours["volume_projections"], repeats),
    }


def ratios(name: str, taken_ms: dict[str, list[float]], n_bytes: int) -> dict[str, Any]:
    """How one of ours compares: medians of the rounds' own ratios."""
    mine = taken_ms[name]
    found = {"input_gb_per_s": n_bytes / statistics.median(mine) / 1e6}
    for other, theirs in taken_ms.items():
        if other not in OUR_NAMES:
            pairs = zip(theirs, mine, strict=False)
            speed_up = statistics.median(their / my for their, my in pairs)
            found["of_copy_bound" if other == "copy" else f"over_{other}"] = speed_up
    return found


OUR_NAMES = {"streaming", "projections", "volume", "volume_projections"}


def latency(ours: Ours) -> dict[str, float]:
    """From the last plane to the finished volume; the first call compiles."""
    taken_ms = ours.latency_ms[1:]
    return {"median_ms": statistics.median(taken_ms), "max_ms": max(taken_ms)}


# ---------------------------------------------------------------- command line


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    stack, volume = ("x".join(map(str, found[key])) for key in ("stack", "volume"))
    lines = [f"{stack} to {volume}, {found['moved_mb']:.0f} MB read and written"]
    for name, taken_ms in found["median_ms"].items():
        lines.append(f"  {name:24} {taken_ms:10.1f} ms")
    for name, figures in found["ratios"].items():
        lines.append(name)
        lines += [f"  {key:30} {value:8.2f}" for key, value in figures.items()]
        after = found["latency"][name]
        lines.append(
            f"  ready {after['median_ms']:.2f} ms after the last plane, "
            f"at most {after['max_ms']:.2f} ms"
        )
    stall = found["stall"]
    lines.append(
        f"another thread stood still for {stall['max_ms']:.2f} ms at most, "
        f"for {stall['idle_max_ms']:.2f} ms while nothing was deskewed"
    )
    lines += [f"absent: {name} ({why})" for name, why in found["absent"].items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--repeats", type=int, default=9, help="rounds (9)")
    parser.add_argument("--quick", action="store_true", help="a small stack")
    options = parser.parse_args(arguments)
    shape = QUICK_PLANES if options.quick else PLANES
    found = measure(max(2, options.repeats), shape)
    sys.stdout.write((json.dumps(found) if options.json else table(found)) + "\n")


if __name__ == "__main__":
    main()
