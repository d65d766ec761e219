"""Pipelines described by plain data."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opm_engine.pipeline import STAGES, build, plain
from opm_engine.processing import Deskew, Projections
from opm_engine.relay import ThreadRelay
from opm_engine.writers import OMEZarrWriter
from relaying import (
    N_FRAMES,
    PATIENCE_S,
    Recorder,
    Stage,
    connected_run,
    make_runner,
    relay_threads,
)
from sequences import scan
from twins import Ruler, opened, read

ISSUED: list[Any] = [
    ("writer", {"path": "raw.ome.zarr"}),
    (
        "deskew",
        {
            "outputs": [
                ("writer", {"path": Path("deskewed.ome.zarr"), "name": "volumes"}),
                ("projections", {}),
                ("fork", ["projections", ("projections", {"policy": "latest"})]),
            ],
            "voxel_size_um": (0.3, 0.2),
            "max_bytes": 1000,
        },
    ),
]

PATHS = [
    "writer",
    "deskew",
    "deskew/volumes",
    "deskew/projections",
    "deskew/fork",
    "deskew/fork/projections",
    "deskew/fork/projections 2",
]


def through_json(description: list[Any]) -> list[Any]:
    return json.loads(json.dumps(plain(description)))


@pytest.mark.parametrize("way", [list, through_json], ids=["python", "json"])
def test_description_becomes_a_tree(way):
    relay = build(way(ISSUED), max_bytes=5000)
    assert [stats.name for stats in relay.stats] == PATHS
    deskew = relay.stage("deskew")
    assert isinstance(deskew, Deskew)
    assert [type(output) for output in deskew.outputs] == [ThreadRelay]
    assert [branch.max_bytes for branch in relay.branches] == [None, 1000]
    assert relay.stats[-1].policy == "latest"
    assert isinstance(relay.stage("deskew/fork/projections 2"), Projections)
    volumes = relay.stage("volumes")
    assert isinstance(volumes, OMEZarrWriter)
    assert volumes.path == Path("deskewed.ome.zarr")


def test_plain_is_settled():
    once = through_json(ISSUED)
    assert plain(once) == once
    assert once[0] == ["writer", {"path": "raw.ome.zarr"}]
    assert once[1][1]["voxel_size_um"] == [0.3, 0.2]


def test_own_stages_run():
    made: list[Recorder] = []

    def recorder(fail_at: int = 0) -> Recorder:
        made.append(Recorder(fail_at=fail_at))
        return made[-1]

    stages = {**STAGES, "record": recorder, "chain": Stage, "any": lambda **_: Stage()}
    description = [
        "record",
        ("chain", {"outputs": [["record", {"fail_at": 3}], ("any", {"what": 1})]}),
    ]
    relay = build(description, stages=stages)
    connected_run(make_runner(), relay)
    assert [handler.numbers for handler in made] == [list(range(N_FRAMES))] * 2
    assert relay.stage("chain/record").fail_at == 3


def test_limits_count_for_forks_and_outputs():
    gate = threading.Event()
    stages = {
        "chain": Stage,
        "hang": lambda: Recorder(gate=gate, gate_in="frameReady"),
    }
    description = [("chain", [("fork", [("chain", ["hang"])])])]
    relay = build(description, stages=stages, drain_timeout_s=0.2)
    began_s = time.monotonic()
    try:
        with pytest.raises(TimeoutError, match="'hang' hangs: frameReady"):
            connected_run(make_runner(), relay)
        assert time.monotonic() - began_s < PATIENCE_S / 2
    finally:
        gate.set()
        for thread in relay_threads():
            thread.join(PATIENCE_S)


@pytest.mark.parametrize(
    ("description", "error", "phrases"),
    [
        pytest.param(
            [("wrtier", {})],
            ValueError,
            ["pipeline[0] 'wrtier'", "deskew, fork, projections, writer"],
            id="no such stage",
        ),
        pytest.param(
            [("deskew", {"outputs": [("writer", {"file": "x"})]})],
            ValueError,
            ["pipeline[0] 'deskew'.outputs[0] 'writer'", "'file'", "path", "policy"],
            id="no such option below",
        ),
        pytest.param(
            [("projections", {"outputs": []})],
            ValueError,
            ["'outputs'", "there are policy, name, max_bytes"],
            id="no outputs",
        ),
        pytest.param(
            [("fork", {"angle": 1})], ValueError, ["'angle'"], id="fork's option"
        ),
        pytest.param("writer", TypeError, ["list of stages"], id="a name"),
        pytest.param([7], TypeError, ["pipeline[0]", "(name, options)"], id="number"),
        pytest.param([("writer", 7)], TypeError, ["(name, options)"], id="options"),
        pytest.param(
            [("deskew", {"outputs": "writer"})],
            TypeError,
            ["'deskew'.outputs", "list of stages"],
            id="outputs are a name",
        ),
        pytest.param([("writer", {})], TypeError, ["path"], id="without a path"),
        pytest.param(
            [("writer", {"path": "x", "codec": "zip"})],
            ValueError,
            ["codec", "lz4"],
            id="stage refuses",
        ),
        pytest.param(
            [("projections", {"policy": "sometimes"})],
            ValueError,
            ["policy", "sometimes"],
            id="branch refuses",
        ),
        pytest.param(
            [("projections", {"name": "a"}), ("projections", {"name": "a"})],
            ValueError,
            ["two branches are called 'a'"],
            id="name twice",
        ),
    ],
)
def test_refuses(description, error, phrases):
    with pytest.raises(error) as refusal:
        build(description)
    notes = getattr(refusal.value, "__notes__", [])
    message = " ".join([str(refusal.value), *notes])
    for phrase in phrases:
        assert phrase in message


def test_what_is_not_plain_is_named():
    with pytest.raises(TypeError, match=r"\[0\] 'deskew', option 'geometry'"):
        plain([("deskew", {"geometry": object()})])


def test_described_tree_saves_the_same_voxels_as_a_chain(tmp_path):
    chain = ThreadRelay(
        Deskew(outputs=[OMEZarrWriter(tmp_path / "chain.ome.zarr")]),
    )
    tree = build(
        through_json(
            [
                ("writer", {"path": tmp_path / "raw.ome.zarr"}),
                (
                    "deskew",
                    [
                        ("writer", {"path": tmp_path / "tree.ome.zarr"}),
                        ("projections", {"policy": "latest", "max_bytes": 2**20}),
                    ],
                ),
            ]
        )
    )
    volumes = tree.outlet("deskew")
    with opened(Ruler()) as scope, chain.connected(scope.core.mda):
        with tree.connected(scope.core.mda):
            scope.core.mda.run(scan(time_plan={"interval": 0, "loops": 2}))
        items = list(volumes.items())
    saved = [read(tmp_path / f"{name}.ome.zarr") for name in ("chain", "tree")]
    assert saved[0].any()
    np.testing.assert_array_equal(*saved)
    assert len(items) == saved[0].shape[0] * saved[0].shape[1]
    for image, event, _ in items:
        index = event.index
        np.testing.assert_array_equal(image, saved[0][index["t"], index["c"]])
    assert {stats.dropped for stats in tree.stats} == {0}
    n_projected = len(tree.stage("projections").latest)
    assert n_projected == saved[0].shape[1]
