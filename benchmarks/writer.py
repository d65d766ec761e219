"""How fast pixels get to the disk: our sinks beside the disk itself and ome-writers.

Run ``python benchmarks/writer.py``; ``--json`` prints one JSON object instead of a
table. Frames carry camera-like noise: constant ones would flatter every codec. Each
round measures every way once; figures are medians over rounds, ratios are medians of
the rounds' own ratios, so that whatever else the machine does meanwhile falls on all.

``throughput``  frames as fast as they are taken, until all is written. ``raw`` is
                nothing but pwrite of the same bytes, past the page cache where that
                works (``direct``), else through it.
``paced``       frames at 0.7 of ``raw``: how long an append keeps its caller, and how
                many frames the disk is behind.
``memory``      a disk ten times slower than it is: memory over the budget.
``small``       very small frames: what each costs, and how long closing takes.

Says on stderr how much disk it needs, and removes its files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from noise_camera import noise
from writer_ways import (
    LINE,
    OME_CODECS,
    SIZE,
    WAYS,
    Scene,
    Way,
    place_of,
    sink_for,
)

from opm_engine.buffers import BufferPool
from opm_engine.writers.shards import file as shard_file
from opm_engine.writers.shards.sink import Codec

SMALL = 32, 32
PACE = 0.7
SLOWDOWN = 10
BUDGET_BYTES = 2**27
"""Where memory is measured."""

PACED: tuple[Codec, ...] = ("none", "lz4")


# ---------------------------------------------------------------- what is measured


@contextmanager
def new_folder(scene: Scene) -> Iterator[Path]:
    """A folder that is removed afterwards, with all that is in it."""
    with tempfile.TemporaryDirectory(dir=scene.folder, prefix="writer-") as name:
        yield Path(name)


def cost(way: Way, scene: Scene) -> tuple[float, float]:
    """Seconds and processor seconds from the first frame to the closed files."""
    with new_folder(scene) as folder:
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        way(scene, folder)
        return time.perf_counter() - began_s, time.process_time() - began_cpu_s


def throughput(scene: Scene, repeats: int) -> dict[str, Any]:
    """Every way in every round."""
    few = replace(scene, n_frames=8)
    for way in WAYS.values():
        cost(way, few)  # libraries load, memory is touched
    rounds = [
        {name: cost(way, scene) for name, way in WAYS.items()} for _ in range(repeats)
    ]

    def over(name: str, other: str) -> float:
        return median(costs[other][0] / costs[name][0] for costs in rounds)

    found: dict[str, Any] = {
        name: {
            "gb_per_s": median(scene.gigabytes / costs[name][0] for costs in rounds),
            "cpu_s_per_gb": median(
                costs[name][1] / scene.gigabytes for costs in rounds
            ),
            "over_raw": over(name, "raw"),
        }
        for name in WAYS
    }
    for codec in OME_CODECS:
        found[codec]["over_ome_writers"] = over(codec, f"ome_writers_{codec}")
    return found


def paced(scene: Scene, codec: Codec, gb_per_s: float) -> dict[str, float]:
    """How long an append takes at a steady rate, and how far the disk is behind."""
    interval_s = scene.frames[0].nbytes / 1e9 / gb_per_s
    taken_ms, behind = [], []
    with new_folder(scene) as folder:
        sink = sink_for(folder, scene.n_frames, SIZE, codec)
        due_s = time.perf_counter()
        for i in range(scene.n_frames):
            time.sleep(max(0.0, due_s - time.perf_counter()))
            began_s = time.perf_counter()
            sink.put(place_of(i), scene.frame(i), LINE)
            taken_ms.append((time.perf_counter() - began_s) * 1000)
            behind.append(i + 1 - sink.acknowledged)
            due_s += interval_s
        sink.close()
    return {
        "gb_per_s": gb_per_s,
        "p50_ms": float(np.percentile(taken_ms, 50)),
        "p99_ms": float(np.percentile(taken_ms, 99)),
        "max_ms": max(taken_ms),
        "behind_p50_frames": float(np.percentile(behind, 50)),
        "behind_p99_frames": float(np.percentile(behind, 99)),
    }


def memory(scene: Scene, codec: Codec) -> dict[str, float]:
    """Growth of the process while a disk that is too slow holds everything up."""
    pool = BufferPool()
    process = psutil.Process()
    with new_folder(scene) as folder, slow_disk():
        sink = sink_for(folder, scene.n_frames, SIZE, codec, budget_bytes=BUDGET_BYTES)
        before = most = process.memory_info().rss
        for i in range(scene.n_frames):
            frame = pool.take(scene.frames[0].shape, "uint16")
            frame[:] = scene.frame(i)
            sink.put(place_of(i), frame, LINE)
            del frame
            most = max(most, process.memory_info().rss)
        sink.close()
    return {
        "budget_mb": BUDGET_BYTES / 1e6,
        "input_mb": scene.gigabytes * 1000,
        "growth_mb": (most - before) / 1e6,
        "over_budget": (most - before) / BUDGET_BYTES,
    }


@contextmanager
def slow_disk() -> Iterator[None]:
    """Every write takes ten times as long."""
    pwrite = shard_file.pwrite
    assert pwrite is not None

    def slow(fd: int, data: Any, offset: int) -> int:
        began_s = time.perf_counter()
        n_bytes = pwrite(fd, data, offset)
        time.sleep((SLOWDOWN - 1) * (time.perf_counter() - began_s))
        return n_bytes

    shard_file.pwrite = slow
    try:
        yield
    finally:
        shard_file.pwrite = pwrite


def small(scene: Scene, codec: Codec, n_frames: int) -> dict[str, Any]:
    """What very small frames cost."""
    frames = noise(SMALL)
    with new_folder(scene) as folder:
        sink = sink_for(folder, n_frames, SMALL, codec)
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        for i in range(n_frames):
            sink.put(place_of(i), frames[i % len(frames)], LINE)
        closing_s = time.perf_counter()
        sink.close()
        ended_s, ended_cpu_s = time.perf_counter(), time.process_time()
    return {
        "size": SMALL,
        "frames": n_frames,
        "us_per_frame": (ended_s - began_s) / n_frames * 1e6,
        "cpu_us_per_frame": (ended_cpu_s - began_cpu_s) / n_frames * 1e6,
        "close_s": ended_s - closing_s,
    }


# ---------------------------------------------------------------- command line


def measure(scene: Scene, repeats: int, n_small: int) -> dict[str, Any]:
    """Everything, as it is printed by ``--json``."""
    rates = throughput(scene, repeats)
    pace = PACE * rates["raw"]["gb_per_s"]
    return {
        "machine": {
            "python": platform.python_version(),
            "tensorstore": version("tensorstore"),
            "ome_writers": version("ome-writers"),
            "cpus": os.cpu_count(),
        },
        "size": SIZE,
        "frames": scene.n_frames,
        "repeats": repeats,
        "direct": scene.direct,
        "throughput": rates,
        "paced": {codec: paced(scene, codec, pace) for codec in PACED},
        "memory": {codec: memory(scene, codec) for codec in PACED},
        "small": small(scene, "lz4", n_small),
    }


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    way_there = "past the page cache" if found["direct"] else "through the page cache"
    size = "x".join(map(str, found["size"]))
    lines = [
        f"{found['frames']} frames of {size}, {way_there}",
        f"  {'':18}{'GB/s':>8}{'of raw':>8}{'cpu-s/GB':>10}{'of ome-writers':>16}",
    ]
    for name, figures in found["throughput"].items():
        peer = figures.get("over_ome_writers")
        lines.append(
            f"  {name:18}{figures['gb_per_s']:8.2f}{figures['over_raw']:8.2f}"
            f"{figures['cpu_s_per_gb']:10.2f}" + (f"{peer:16.1f}" if peer else "")
        )
    for codec, figures in found["paced"].items():
        lines.append(
            f"append at {figures['gb_per_s']:.2f} GB/s, {codec}: median "
            f"{figures['p50_ms']:.3f} ms, p99 {figures['p99_ms']:.3f} ms, longest "
            f"{figures['max_ms']:.3f} ms; behind {figures['behind_p50_frames']:.0f} "
            f"frames, p99 {figures['behind_p99_frames']:.0f}"
        )
    for codec, figures in found["memory"].items():
        lines.append(
            f"disk {SLOWDOWN} times slower, {codec}: {figures['input_mb']:.0f} MB in, "
            f"{figures['growth_mb']:.0f} MB of {figures['budget_mb']:.0f} MB held"
        )
    figures = found["small"]
    lines.append(
        f"{figures['frames']} frames of {'x'.join(map(str, figures['size']))}: "
        f"{figures['us_per_frame']:.1f} us each, closed within "
        f"{figures['close_s']:.3f} s"
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (5)")
    parser.add_argument("--frames", type=int, default=300, help="of each run (300)")
    parser.add_argument("--small", type=int, default=100_000, help="frames (100000)")
    parser.add_argument("--million", action="store_true", help="a million small frames")
    parser.add_argument("--quick", action="store_true", help="see that it runs")
    parser.add_argument("--dir", type=Path, default=Path(), help="where to write")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats, options.frames, options.small = 1, 16, 2000
    n_small = 10**6 if options.million else options.small
    images = noise(SIZE, 4 if options.quick else 16)
    frames = BufferPool().take(images.shape, images.dtype)
    frames[:] = images
    direct = shard_file.probe(options.dir) == shard_file.DIRECT_BLOCK
    scene = Scene(frames, options.frames, options.dir, direct)
    needed = max(scene.gigabytes, n_small * 2 * noise(SMALL, 1).nbytes / 1e9)
    sys.stderr.write(
        f"needs {needed:.1f} GB in {options.dir.resolve()} while it runs\n"
    )
    found = measure(scene, max(1, options.repeats), n_small)
    print(json.dumps(found) if options.json else table(found))


if __name__ == "__main__":
    main()
