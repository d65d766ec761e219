"""Stored runs, raw and as deskewed live, for tests of what is made of them later."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import useq
import zarr

from opm_engine import Deskew, OMEZarrWriter
from opm_engine.bursts import burst_events
from opm_engine.config import Microscope
from opm_engine.plan import BLOCK, describe, plan_scan, set_field_of_view
from sequences import scan, settings
from twins import microscope

RAW, DESKEWED = "raw.ome.zarr", "deskewed.ome.zarr"

# as many line times of the bare microscope: the camera need not round it
CHANNELS = [{"config": name, "exposure": 1.9472} for name in ("488", "561")]

SEQUENCE = scan(
    channels=CHANNELS,
    stage_positions=[(0, 0), (50, 20)],
    z_plan={"range": 3.2, "step": 0.4},
    time_plan={"interval": 0, "loops": 2},
    axis_order="ptzc",
)

CASES = {
    "interleaved": SEQUENCE,
    "one-position": scan(channels=CHANNELS[:1], z_plan={"range": 3.2, "step": 0.4}),
    "sequential": SEQUENCE.replace(axis_order="tpcz"),
    "bidirectional": SEQUENCE.replace(metadata=settings(bidirectional=True)),
    "channel-offsets": SEQUENCE.replace(
        metadata=settings(motion="ramp", bidirectional=True)
    ),
    "downwards": SEQUENCE.replace(z_plan={"range": 3.2, "step": 0.4, "go_up": False}),
    "grid": scan(
        channels=CHANNELS,
        z_plan={"range": 3.2, "step": 0.4},
        grid_plan={"rows": 1, "columns": 2},
        axis_order="tpgzc",
    ),
    "other-lengths": scan(
        channels=CHANNELS,
        z_plan={"range": 2, "step": 0.4},
        stage_positions=[
            (0, 0),
            {"x": 5, "y": 5, "sequence": {"z_plan": {"range": 4, "step": 0.4}}},
        ],
    ),
}

Keep = Callable[[dict[str, int]], bool]


@cache
def small() -> Microscope:
    return microscope(camera__roi=[0, 0, 16, 208])


@cache
def two_cameras() -> Microscope:
    return microscope(camera__roi=[0, 0, 16, 208], camera__sensors=["CamA", "CamB"])


def frames_of(
    sequence: useq.MDASequence, scope: Microscope | None = None
) -> Iterator[tuple[np.ndarray, useq.MDAEvent, dict[str, Any]]]:
    """What a run hands to its handlers: noise that differs from plane to plane."""
    scope = scope or small()
    plan = plan_scan(sequence, scope)
    shape = plan.geometry.n_rows, plan.geometry.n_columns
    number = 0
    for burst in burst_events(sequence, plan, scope):
        events = getattr(burst, "events", ())
        for event, camera in itertools.product(events, range(plan.n_cameras)):
            if plan.n_cameras > 1:
                index = {**event.index, "cam": camera}
                event = event.model_copy(update={"index": index})
            rng = np.random.default_rng(number)
            image = rng.integers(0, 65536, shape, dtype=np.uint16)
            meta = {
                "mda_event": event,
                "runner_time_ms": 2.5 * number,
                "exposure_ms": event.exposure,
                "camera_metadata": {"ImageNumber": str(number), "Camera": "Camera"},
            }
            yield image, event, meta
            number += 1


def summary_of(
    sequence: useq.MDASequence, scope: Microscope | None = None
) -> dict[str, Any]:
    scope = scope or small()
    block = describe(plan_scan(sequence, scope), scope)
    return {"format": "summary-dict", "extra": {BLOCK: json.loads(json.dumps(block))}}


def store_run(
    folder: Path,
    sequence: useq.MDASequence = SEQUENCE,
    *,
    keep: Keep = lambda index: True,
    live: bool = True,
    scope: Microscope | None = None,
    shard_bytes: int | None = None,
    **options: Any,
) -> tuple[Path, Path]:
    """Store a run's planes and, live, its volumes; return both stores."""
    handlers: list[Any] = [OMEZarrWriter(folder / RAW)]
    if live:
        volumes = OMEZarrWriter(folder / DESKEWED, shard_bytes=shard_bytes)
        handlers.append(Deskew(outputs=[volumes], **options))
    set_field_of_view(sequence, scope or small())
    for handler in handlers:
        handler.sequenceStarted(sequence, summary_of(sequence, scope))
    for image, event, meta in frames_of(sequence, scope):
        if keep(dict(event.index)):
            for handler in handlers:
                handler.frameReady(image, event, meta)
    for handler in handlers:
        handler.sequenceFinished(sequence)
    return folder / RAW, folder / DESKEWED


def voxels(store: Path) -> dict[str, np.ndarray]:
    """All arrays of a store, by name, as zarr-python reads them."""
    root = zarr.open_group(store, mode="r")
    arrays = dict(root.members(max_depth=None))
    return {
        n: np.asarray(x[...]) for n, x in arrays.items() if isinstance(x, zarr.Array)
    }


def assert_same_voxels(store: Path, expected: Path) -> None:
    found, wanted = voxels(store), voxels(expected)
    assert found.keys() == wanted.keys()
    assert any(array.any() for array in wanted.values())
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def documents(store: Path) -> dict[str, Any]:
    """Every zarr.json of a store."""
    return {
        str(path.relative_to(store)): json.loads(path.read_text("utf-8"))
        for path in sorted(store.rglob("zarr.json"))
    }
