"""How fast frames get through: this engine, the stock one, and a bare loop of pops.

Run ``python benchmarks/engine.py``; ``--json`` prints one JSON object instead of a
table. Everything runs side by side on DemoCamera: its circular buffer is MMCore's own,
which a camera written in Python could not load. Each round measures every loop once;
figures are medians over rounds, ratios are medians of the rounds' own ratios, so that
whatever else the machine does meanwhile falls on all of them.

``idle``     nothing else runs; frames as large as a light-sheet camera's.
``busy``     one Python thread beside it computes all the time. The bare loop and
             ``stock_quick`` get the switch interval that this engine sets itself,
             ``stock`` keeps Python's own, as it does for its users.
``handler``  a handler computes 2 ms per frame in Python, and the circular buffer holds
             200 frames. Ours has it behind its relay, ``stock`` behind its own,
             ``stock_direct`` in the runner's thread. Who loses frames?
``start_ms`` from the sequence to the armed board, for 100 000 planes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pymmcore_plus
import useq
from demo_camera import AgreeingDaq, Core, demo_core, microscope, time_lapse
from pymmcore_plus.mda import MDAEngine, mda_listeners_connected

from opm_engine import ThreadRelay
from opm_engine.engine import OPMEngine
from opm_engine.switching import SWITCH_S

LARGE, SMALL, TINY = (2304, 512), (512, 512), (64, 64)
BUFFER_FRAMES = 200
PLANES, LOOPS = 500, 200
HANDLER_MS = 2.0
FREE_RUNNING_MS = 1.0
"""Exposure at which DemoCamera is at its limit."""

BUDGET_S = 3.0
"""Of one run; a loop that is slower than that is cancelled and judged by what came."""

Times = list[float]


# ---------------------------------------------------------------- what is compared


def bare(core: Core, n_frames: int, exposure_ms: float) -> Times:
    """When each frame was popped, with nothing done to it."""
    core.setExposure(exposure_ms)
    times: Times = []
    core.startSequenceAcquisition(n_frames, 0, True)
    while len(times) < n_frames:
        if core.getRemainingImageCount():
            _image, _tags = core.popNextImageAndMD()
            times.append(time.perf_counter())
        else:
            time.sleep(5e-4)
    core.stopSequenceAcquisition()
    return times


def run(core: Core, engine: Any, n_frames: int, exposure_ms: float) -> Times:
    """When each frame was handed to a directly connected handler."""
    times: Times = []

    def note_time(image: Any, event: Any, meta: Any) -> None:
        times.append(time.perf_counter())
        if times[-1] > times[0] + BUDGET_S:
            core.mda.cancel()

    core.mda.set_engine(engine)
    core.mda.events.frameReady.connect(note_time)
    try:
        core.mda.run(time_lapse(n_frames, exposure_ms))
    finally:
        core.mda.events.frameReady.disconnect(note_time)
    return times


def frames_per_s(times: Times) -> float:
    """From the first frame to the last."""
    return (len(times) - 1) / (times[-1] - times[0])


@contextmanager
def switching(interval_s: float) -> Iterator[None]:
    """Another switch interval for a while."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(interval_s)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


@contextmanager
def busy_thread() -> Iterator[None]:
    """One thread that computes in Python and never waits for anything."""
    ending = threading.Event()

    def compute() -> None:
        number = 0
        while not ending.is_set():
            number += 1

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


# ---------------------------------------------------------------- what is measured

Loops = dict[str, Callable[[], Times]]


def compare(loops: Loops, repeats: int) -> dict[str, Any]:
    """Median frame rates of interleaved rounds, and of our ratios to the others."""
    rounds = [
        {name: frames_per_s(loop()) for name, loop in loops.items()}
        for _ in range(repeats)
    ]
    found: dict[str, Any] = {
        f"{name}_fps": statistics.median(rates[name] for rates in rounds)
        for name in loops
    }
    for name in loops:
        if name != "ours":
            ratios = [rates["ours"] / rates[name] for rates in rounds]
            found[f"ours_over_{name}"] = statistics.median(ratios)
    return found


def idle(repeats: int, n_frames: int) -> dict[str, Any]:
    """Nothing else runs."""
    with demo_core(LARGE, n_frames + 2) as core:
        ours = OPMEngine(core, microscope(LARGE), AgreeingDaq())
        stock = MDAEngine(core)
        bare(core, n_frames, FREE_RUNNING_MS)  # touches the buffer's pages
        loops: Loops = {
            "ours": lambda: run(core, ours, n_frames, FREE_RUNNING_MS),
            "stock": lambda: run(core, stock, n_frames, FREE_RUNNING_MS),
            "bare": lambda: bare(core, n_frames, FREE_RUNNING_MS),
        }
        return {"size": LARGE, "frames": n_frames, **compare(loops, repeats)}


def busy(repeats: int, n_frames: int) -> dict[str, Any]:
    """A thread beside it keeps Python busy."""
    with demo_core(SMALL, n_frames + 2) as core, busy_thread():
        ours = OPMEngine(core, microscope(SMALL), AgreeingDaq())
        stock = MDAEngine(core)
        usual_s = sys.getswitchinterval()

        def at(interval_s: float, loop: Callable[..., Times], *args: Any) -> Times:
            with switching(interval_s):
                return loop(core, *args, FREE_RUNNING_MS)

        at(SWITCH_S, bare, n_frames)  # touches the buffer's pages
        loops: Loops = {
            "ours": lambda: at(usual_s, run, ours, n_frames),
            "stock": lambda: at(usual_s, run, stock, n_frames),
            "stock_quick": lambda: at(SWITCH_S, run, stock, n_frames),
            "bare": lambda: at(SWITCH_S, bare, n_frames),
        }
        return {
            "size": SMALL,
            "frames": n_frames,
            "switch_s": SWITCH_S,
            **compare(loops, repeats),
        }


class Slow:
    """A handler that computes in Python."""

    def __init__(self) -> None:
        self.n_frames = 0

    def frameReady(self, image: Any, event: Any, meta: Any) -> None:
        """Keep the interpreter lock for a while."""
        end_s = time.perf_counter() + HANDLER_MS / 1000
        while time.perf_counter() < end_s:
            pass
        self.n_frames += 1


def slow_handler(n_frames: int) -> dict[str, Any]:
    """Which loop loses frames when the buffer is small and a handler slow."""
    results: dict[str, Any] = {}
    with demo_core(SMALL, BUFFER_FRAMES) as core:
        core.is_fixed = True
        engines = {
            "ours": OPMEngine(core, microscope(SMALL), AgreeingDaq()),
            "stock": MDAEngine(core),
            "stock_direct": MDAEngine(core),
        }
        for name, engine in engines.items():
            slow = Slow()
            core.mda.set_engine(engine)
            overflowed = False
            try:
                with connected(name, slow, core):
                    core.mda.run(time_lapse(n_frames, FREE_RUNNING_MS))
            except MemoryError:
                overflowed = True
            results[name] = {"overflowed": overflowed, "frames_got": slow.n_frames}
    return {
        "size": SMALL,
        "frames": n_frames,
        "buffer_frames": BUFFER_FRAMES,
        "handler_ms": HANDLER_MS,
        "frame_ms": FREE_RUNNING_MS,
        **results,
    }


def connected(name: str, handler: Slow, core: Core) -> Any:
    """Connect ours behind our relay, the stock engine's behind its own or directly."""
    if name == "ours":
        return ThreadRelay(handler).connected(core.mda)
    asynchronous = name == "stock"
    return mda_listeners_connected(
        handler, mda_events=core.mda.events, asynchronous=asynchronous
    )


def start_ms(repeats: int) -> float:
    """From the sequence to the armed board, at frames too small to take time."""
    sequence = useq.MDASequence(
        channels=[{"config": "488", "exposure": 5.0}],
        z_plan={"range": (PLANES - 1) * 0.1, "step": 0.1},
        time_plan={"interval": 0, "loops": LOOPS},
    )
    taken_ms = []
    with demo_core(TINY, BUFFER_FRAMES) as core:
        engine = OPMEngine(core, microscope(TINY), AgreeingDaq())
        for _ in range(repeats + 1):
            began_s = time.perf_counter()
            engine.setup_sequence(sequence)
            event = next(iter(engine.event_iterator(sequence)))
            engine.setup_event(event)
            taken_ms.append((time.perf_counter() - began_s) * 1000)
            engine.teardown_event(event)
            engine.teardown_sequence(sequence)
    return statistics.median(taken_ms[1:])  # the first one fills caches


# ---------------------------------------------------------------- command line


def measure(repeats: int, n_frames: int) -> dict[str, Any]:
    """Everything, as it is printed by ``--json``."""
    return {
        "machine": {
            "python": platform.python_version(),
            "pymmcore_plus": pymmcore_plus.__version__,
            "cpus": os.cpu_count(),
        },
        "repeats": repeats,
        "idle": idle(repeats, n_frames),
        "busy": busy(repeats, 2 * n_frames),
        "handler": slow_handler(5 * n_frames),
        "start_planes": PLANES * LOOPS,
        "start_ms": start_ms(repeats),
    }


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = []
    for part in ("idle", "busy"):
        figures = found[part]
        size = "x".join(map(str, figures["size"]))
        lines.append(f"{part}, {size}, {figures['frames']} frames")
        for key, value in figures.items():
            if key.endswith("_fps"):
                lines.append(f"  {key.removesuffix('_fps'):12} {value:8.1f} frames/s")
        for key, value in figures.items():
            if key.startswith("ours_over"):
                lines.append(f"  {key.replace('_', ' '):24} {value:8.2f}")
    figures = found["handler"]
    lines.append(
        f"handler of {figures['handler_ms']:g} ms, a frame every "
        f"{figures['frame_ms']:g} ms, buffer of {figures['buffer_frames']} frames"
    )
    for name in ("ours", "stock", "stock_direct"):
        fate = "overflowed" if figures[name]["overflowed"] else "complete"
        got, asked = figures[name]["frames_got"], figures["frames"]
        lines.append(f"  {name:12} {fate}: {got} of {asked} frames")
    lines.append(f"start of {found['start_planes']} planes: {found['start_ms']:.1f} ms")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (5)")
    parser.add_argument("--frames", type=int, default=200, help="of each run (200)")
    options = parser.parse_args()
    found = measure(max(1, options.repeats), max(10, options.frames))
    print(json.dumps(found) if options.json else table(found))


if __name__ == "__main__":
    main()
