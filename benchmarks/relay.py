"""How long a frame takes to reach a handler, and what handing it on costs.

Run ``python benchmarks/relay.py``; ``--json`` prints one JSON object instead of a
table. This project's relay (``ours``), a fork below a stage of it (``tree``) and the
relay that comes with pymmcore-plus (``stock``) are connected to the same kind of
signals, which emit frames of 2304x512. Each round measures every relay once; figures
are medians over rounds, ratios are medians of the rounds' own ratios.

``wake``   frames come one at a time, 3 ms apart, and nothing else runs: from the
           emission to the handler's call.
``flood``  frames come as fast as they can be emitted, to handlers that do nothing:
           what an emission costs the thread that emits (``emit_us``), and how many
           frames per second one and three handlers have taken at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pymmcore_plus
import useq
from pymmcore_plus.mda import mda_listeners_connected
from pymmcore_plus.mda.events import MDASignaler

from opm_engine import ThreadRelay

SHAPE = (512, 2304)
APART_S = 0.003
SEQUENCE = useq.MDASequence(time_plan={"interval": 0, "loops": 1})
EVENT = useq.MDAEvent(index={"t": 0})
IMAGE = np.zeros(SHAPE, np.uint16)


class Handler:
    """Notes when it was called."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def frameReady(self, image: Any, event: Any, meta: Any) -> None:
        """Note the time."""
        self.times_s.append(time.perf_counter())


class Stage:
    """Hands each frame on."""

    def __init__(self, output: Any) -> None:
        self.outputs = (output,)

    def sequenceStarted(self, sequence: Any, summary: Any) -> None:
        """Hand on."""
        self.outputs[0].sequenceStarted(sequence, summary)

    def frameReady(self, image: Any, event: Any, meta: Any) -> None:
        """Hand on."""
        self.outputs[0].frameReady(image, event, meta)

    def sequenceFinished(self, sequence: Any) -> None:
        """Hand on."""
        self.outputs[0].sequenceFinished(sequence)


@contextmanager
def ours(*handlers: Handler) -> Iterator[MDASignaler]:
    """Signals connected to our relay, as ``ThreadRelay.connected`` does."""
    events, relay = MDASignaler(), ThreadRelay(*handlers)
    for name in ("sequenceStarted", "frameReady", "sequenceFinished"):
        getattr(events, name).connect(getattr(relay, name))
    yield events


@contextmanager
def tree(*handlers: Handler) -> Iterator[MDASignaler]:
    """The same with the handlers in a fork below a stage."""
    with ours(Stage(ThreadRelay(*handlers))) as events:  # type: ignore[arg-type]
        yield events


@contextmanager
def stock(*handlers: Handler) -> Iterator[MDASignaler]:
    """Signals connected to pymmcore-plus's relay."""
    events = MDASignaler()
    with mda_listeners_connected(*handlers, mda_events=events):
        yield events


RELAYS: dict[str, Callable[..., Any]] = {"ours": ours, "tree": tree, "stock": stock}


def wake_ms(relay: Callable[..., Any], n_frames: int) -> dict[str, float]:
    """From emission to call."""
    handler = Handler()
    emitted_s = []
    with relay(handler) as events:
        events.sequenceStarted.emit(SEQUENCE, {})
        for _ in range(n_frames):
            time.sleep(APART_S)
            emitted_s.append(time.perf_counter())
            events.frameReady.emit(IMAGE, EVENT, {})
        events.sequenceFinished.emit(SEQUENCE)
    pairs = zip(emitted_s, handler.times_s, strict=True)
    waited_ms = sorted((called_s - sent_s) * 1e3 for sent_s, called_s in pairs)
    return {
        "p50_ms": waited_ms[len(waited_ms) // 2],
        "p99_ms": waited_ms[int(len(waited_ms) * 0.99)],
    }


def flood(
    relay: Callable[..., Any], n_frames: int, n_handlers: int
) -> dict[str, float]:
    """Emit as fast as possible."""
    handlers = [Handler() for _ in range(n_handlers)]
    with relay(*handlers) as events:
        events.sequenceStarted.emit(SEQUENCE, {})
        began_s = time.perf_counter()
        for _ in range(n_frames):
            events.frameReady.emit(IMAGE, EVENT, {})
        emitted_s = time.perf_counter() - began_s
        events.sequenceFinished.emit(SEQUENCE)
    ended_s = max(handler.times_s[-1] for handler in handlers)
    assert all(len(handler.times_s) == n_frames for handler in handlers)
    return {
        "emit_us": emitted_s / n_frames * 1e6,
        "frames_per_s": n_frames / (ended_s - began_s),
    }


def compare(
    measured: Callable[[Callable[..., Any]], dict[str, float]], repeats: int
) -> dict[str, Any]:
    """Medians of interleaved rounds, and of the stock relay's ratios to ours."""
    rounds = [
        {name: measured(relay) for name, relay in RELAYS.items()}
        for _ in range(repeats)
    ]
    found: dict[str, Any] = {
        name: {
            figure: statistics.median(each[name][figure] for each in rounds)
            for figure in rounds[0][name]
        }
        for name in RELAYS
    }
    found["stock_over_ours"] = {
        figure: statistics.median(
            each["stock"][figure] / each["ours"][figure] for each in rounds
        )
        for figure in rounds[0]["ours"]
    }
    return found


def measure(repeats: int, n_frames: int) -> dict[str, Any]:
    """Everything, as it is printed by ``--json``."""
    return {
        "machine": {
            "python": platform.python_version(),
            "pymmcore_plus": pymmcore_plus.__version__,
            "cpus": os.cpu_count(),
        },
        "repeats": repeats,
        "frames": n_frames,
        "wake": compare(lambda relay: wake_ms(relay, n_frames), repeats),
        "flood_1": compare(lambda relay: flood(relay, 10 * n_frames, 1), repeats),
        "flood_3": compare(lambda relay: flood(relay, 10 * n_frames, 3), repeats),
    }


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = []
    for part in ("wake", "flood_1", "flood_3"):
        figures = found[part]
        lines.append(f"{part:16}" + "".join(f"{key:>14}" for key in figures["ours"]))
        for name in (*RELAYS, "stock_over_ours"):
            values = figures[name].values()
            lines.append(f"  {name:14}" + "".join(f"{x:14.3f}" for x in values))
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (5)")
    parser.add_argument("--frames", type=int, default=300, help="of each run (300)")
    options = parser.parse_args()
    found = measure(max(1, options.repeats), max(10, options.frames))
    print(json.dumps(found) if options.json else table(found))


if __name__ == "__main__":
    main()
