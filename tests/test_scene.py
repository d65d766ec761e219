"""NGFF 0.6 for stores: metadata alone, right on points that were worked out by hand."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs

from opm_engine.geometry import Geometry
from opm_engine.plan import BLOCK, PositionInfo, Stream
from opm_engine.writers import OMEZarrWriter
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.node import read_attributes
from opm_engine.writers.pyramid import build_pyramid
from opm_engine.writers.reading import (
    array_folders,
    image_folders,
    open_image,
    read_block,
    stream_of_store,
)
from opm_engine.writers.scene import rewrite_as_05, rewrite_as_scene
from writing import SEQUENCE, assert_holds, carrier, indices, send, stream_for

GEOMETRY = Geometry(
    angle_deg=30,
    step_um=0.4,
    pixel_size_um=0.1,
    n_planes=3,
    n_rows=4,
    n_columns=5,
    origin_um=-7,
)
SIN, COS = 0.5, math.sqrt(3) / 2


def raw_store(
    path: Path, stream: Stream, geometry: Geometry = GEOMETRY, **more: Any
) -> Path:
    meta = carrier(stream)
    meta["extra"][BLOCK] |= {
        "geometry": geometry.model_dump(mode="json"),
        "affine": geometry.affine(),
        **more,
    }
    writer = OMEZarrWriter(path)
    writer.sequenceStarted(SEQUENCE, meta)
    for at in indices(stream, "tpzc"):
        send(writer, stream, at)
    writer.sequenceFinished(SEQUENCE)
    return path


def raw(p: int = 1, **update: Any) -> Stream:
    stream = stream_for(t=2, p=p)
    scale = {"scale_um": (0.4, 0.1, 0.1), "translation_um": (0.0, 0.0, 0.0)}
    return stream.model_copy(update=scale | update)


def everything_but_metadata(store: Path) -> dict[str, str]:
    return {
        str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in store.rglob("*")
        if file.is_file() and file.name != "zarr.json"
    }


def apply(step: dict[str, Any], point: np.ndarray) -> np.ndarray:
    """Apply a transformation as the specification words it."""
    match step["type"]:
        case "sequence":
            for part in step["transformations"]:
                point = apply(part, point)
            return point
        case "identity":
            return point
        case "scale":
            return point * step["scale"]
        case "translation":
            return point + step["translation"]
        case "affine":
            return np.array(step["affine"]) @ [*point, 1]
        case other:
            pytest.fail(other)


def coverslip_um(image: Path, index: tuple[float, ...], level: int = 0) -> Any:
    """Where a pixel lies, following the coordinate systems by their names."""
    (multiscale,) = read_attributes(image)["ome"]["multiscales"]
    dataset = multiscale["datasets"][level]
    (to_physical,) = dataset["coordinateTransformations"]
    (shear,) = multiscale["coordinateTransformations"]
    names = [system["name"] for system in multiscale["coordinateSystems"]]
    assert to_physical["input"] == {"path": dataset["path"]}
    assert to_physical["output"] == shear["input"] == {"name": names[0]}
    assert shear["output"] == {"name": names[1]}
    return apply(shear, apply(to_physical, np.array(index, float)))


# t, c, n, s, x -> s, -, Z, Y, X. Z = s·px·sin, Y = origin + n·step + s·px·cos, X = x·px
BY_HAND = [
    ((0, 0, 0, 0, 0), (0, 0, 0, -7, 0)),
    ((1, 0, 2, 3, 4), (2, 0, 0.3 * SIN, -7 + 0.8 + 0.3 * COS, 0.4)),
]


@pytest.mark.parametrize("translation_um", [(0.0, 0.0, 0.0), (1.0, -12.5, 3.0)])
@pytest.mark.parametrize(("index", "where"), BY_HAND, ids=["first", "last"])
def test_the_affine_by_hand(
    tmp_path: Path, index: Any, where: Any, translation_um: Any
) -> None:
    """What ``physical`` is shifted by, the affine takes back."""
    stream = raw(translation_um=translation_um)
    store = raw_store(tmp_path / "x", stream)
    rewrite_as_scene(store)
    np.testing.assert_allclose(coverslip_um(store, index), where, atol=1e-12)


def test_scanned_and_read_out_the_other_way(tmp_path: Path) -> None:
    turned = GEOMETRY.model_copy(update={"scan_direction": -1, "flip_rows": True})
    store = raw_store(tmp_path / "x", raw(), turned)
    rewrite_as_scene(store)
    # plane 2 is the lowest in Y, row 3 the lowest in Z
    first, last = (coverslip_um(store, (0, 0, n, s, 0)) for n, s in [(2, 3), (0, 0)])
    np.testing.assert_allclose(first, (0, 0, 0, -7, 0), atol=1e-12)
    where = (0, 0, 0.3 * SIN, -7 + 0.8 + 0.3 * COS, 0)
    np.testing.assert_allclose(last, where, atol=1e-12)


@pytest.mark.parametrize("p", [1, 3])
def test_not_a_byte_of_the_pixels_changes(tmp_path: Path, p: int) -> None:
    stream = raw(p)
    store = raw_store(tmp_path / "x", stream)
    before = everything_but_metadata(store)
    documents = {file: file.read_text() for file in store.rglob("zarr.json")}
    arrays = {folder / "zarr.json" for folder in array_folders(store)}
    assert len(before) >= 2 * p
    rewrite_as_scene(store)
    assert everything_but_metadata(store) == before
    changed = {file for file, text in documents.items() if file.read_text() != text}
    assert changed == documents.keys() - arrays
    again = {file: file.stat().st_mtime_ns for file in store.rglob("*")}
    rewrite_as_scene(store)
    assert {file: file.stat().st_mtime_ns for file in store.rglob("*")} == again

    rewrite_as_05(store)
    assert everything_but_metadata(store) == before
    for file, text in documents.items():
        assert json.loads(file.read_text()) == json.loads(text)
    yaozarrs.validate_zarr_store(str(store))


@pytest.mark.parametrize("p", [1, 3])
def test_our_own_readers_read_it_still(tmp_path: Path, p: int) -> None:
    stream = raw(p)
    store = raw_store(tmp_path / "x", stream)
    block = read_block(store)
    rewrite_as_scene(store)
    assert read_block(store) == block
    assert stream_of_store(store) == stream
    assert [open_image(store, n).shape for n in range(p)] == [(2, 1, 3, 4, 5)] * p
    assert_holds(store, stream, indices(stream, "tpzc"))


SITES = (
    PositionInfo(name="a", x_um=100.0, y_um=-50.0, z_um=7.0),
    PositionInfo(name="b", p=1, n_planes=2, origin_um=11.0),
)


def test_a_scene_of_positions(tmp_path: Path) -> None:
    """Each by its own affine, at its stage position."""
    store = tmp_path / "x"
    stream = raw(positions=SITES)
    meta = carrier(stream)
    meta["extra"][BLOCK] |= {
        "geometry": GEOMETRY.model_dump(mode="json"),
        "affine": GEOMETRY.affine(),
    }
    writer = OMEZarrWriter(store)
    writer.sequenceStarted(SEQUENCE, meta)
    writer.sequenceFinished(SEQUENCE)
    rewrite_as_scene(store)
    root = read_attributes(store)["ome"]
    assert root.keys() == {"version", "scene"}
    assert read_attributes(store / "OME")["ome"]["version"] == root["version"] == "0.6"
    (sample,) = root["scene"]["coordinateSystems"]
    first, second = root["scene"]["coordinateTransformations"]
    for number, step in enumerate([first, second]):
        assert step["input"] == {"path": str(number), "name": "physical"}
        assert step["output"] == {"name": sample["name"]}
    (at_a, at_b) = (
        apply(step, np.array([0, 0, 0.4, 0.3, 0.2]))  # plane 1, row 3, column 2
        for step in (first, second)
    )
    z, y = 0.3 * SIN, 0.4 + 0.3 * COS
    np.testing.assert_allclose(at_a[2:], [7 + z, -50 - 7 + y, 100.2])
    np.testing.assert_allclose(at_b[2:], [z, 11 + y, 0.2])


def test_volumes_lie_there_already(tmp_path: Path) -> None:
    stream = stream_for(p=2, shape=(3, 4, 5))
    store = raw_store(tmp_path / "x", stream)
    rewrite_as_scene(store)
    for image in image_folders(store):
        where = coverslip_um(image, (0, 0, 1, 2, 3))
        np.testing.assert_allclose(where, (0, 0, 0.4, 0.23 - 12.5, 0.345))
    first, second = read_attributes(store)["ome"]["scene"]["coordinateTransformations"]
    assert first["type"] == second["type"] == "translation"
    assert second["translation"] == [0, 0, 0, 0, 1.0]


def test_every_level_lies_at_one_place(tmp_path: Path) -> None:
    geometry = GEOMETRY.model_copy(update={"n_rows": 300})
    stream = raw(shape=(300, 5))
    store = raw_store(tmp_path / "x", stream, geometry)
    assert build_pyramid(store) == 2
    rewrite_as_scene(store)
    fine = [coverslip_um(store, (0, 0, 1, s, x)) for s in (6, 7) for x in (2, 3)]
    coarse = coverslip_um(store, (0, 0, 1, 3, 1), level=1)
    np.testing.assert_allclose(coarse, np.mean(fine, axis=0))
    rewrite_as_05(store)
    yaozarrs.validate_zarr_store(str(store))


def test_a_store_that_is_being_written(tmp_path: Path) -> None:
    store = raw_store(tmp_path / "x", raw())
    for rewrite in (rewrite_as_scene, rewrite_as_05):
        with StoreLock(store), pytest.raises(BlockingIOError):
            rewrite(store)
        with pytest.raises(FileNotFoundError):
            rewrite(tmp_path / "nowhere")
