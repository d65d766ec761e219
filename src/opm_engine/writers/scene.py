"""A store as NGFF 0.6 tells it, whose readers can shear raw images by themselves.

Separate from writing, which speaks 0.5, as most readers do: 0.5 knows scale and
translation alone, 0.6 also the affine from camera pixels to the sample. Rewrites
metadata; the pixels are never touched. Knows no pixels.

Each image gets two coordinate systems: ``physical``, that of 0.5, and ``coverslip``,
µm along the coverslip (y, x) and above it (z), from the stage position on. Several
images also become a Scene: ``sample`` is where they lie together, which is right if the
stage moves along the axes of the image. One affine cannot say that channels are shifted
against each other, nor that every second volume was scanned backwards; our own block
does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from opm_engine.writers.lock import StoreLock
from opm_engine.writers.metadata import AXES, VERSION, collection
from opm_engine.writers.node import read_attributes, read_node, write_node
from opm_engine.writers.reading import image_folders, read_block

SCENE_VERSION = "0.6"

PHYSICAL, COVERSLIP, SAMPLE = "physical", "coverslip", "sample"

Attributes = dict[str, Any]


def rewrite_as_scene(store: str | Path) -> None:
    """Let a store tell where its images lie in the words of NGFF 0.6.

    Does nothing where it does already. Interrupted, it can be called again; `repair`
    lets images speak as their root does, which is rewritten last.

    Parameters
    ----------
    store : str or Path
        As ``OMEZarrWriter`` writes it; nobody writes it now.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    OSError
        If it cannot be written.
    """
    _rewrite_all(Path(store), _image_06, _collection_06)


def rewrite_as_05(store: str | Path) -> None:
    """Let a store speak NGFF 0.5 again, as it was written.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    OSError
        If it cannot be written.
    """
    _rewrite_all(Path(store), _image_05, _collection_05)


def is_scene(store: Path) -> bool:
    """Whether the root of a store speaks NGFF 0.6."""
    return "scene" in read_attributes(store)["ome"]


def is_half_rewritten(store: Path) -> bool:
    """Whether images or series speak another version than the root, the last."""
    folders = image_folders(store)
    if len(folders) < 2:
        return False
    version = SCENE_VERSION if is_scene(store) else VERSION
    said = (read_attributes(x)["ome"]["version"] for x in (*folders, store / "OME"))
    return any(each != version for each in said)


def _rewrite_all(
    store: Path,
    image: Callable[[Path], Attributes],
    collection_of: Callable[[Path, list[Path]], tuple[Attributes, Attributes]],
) -> None:
    """Replace ``ome`` of each image and then, of several, that of root and series."""
    folders = image_folders(store)
    with StoreLock(store):
        for folder in folders:
            _rewrite(folder, image(folder))
        if len(folders) > 1:
            root, series = collection_of(store, folders)
            _rewrite(store / "OME", series)
            _rewrite(store, root)


def _rewrite(folder: Path, ome: Attributes) -> None:
    document = read_node(folder)
    if document["attributes"]["ome"] != ome:
        document["attributes"]["ome"] = ome
        write_node(folder, document)


def _collection_05(store: Path, folders: list[Path]) -> tuple[Attributes, Attributes]:
    return collection(len(folders))


def _collection_06(store: Path, folders: list[Path]) -> tuple[Attributes, Attributes]:
    """Return ``ome`` of the root and of the group ``OME``; images speak 0.6 already."""
    version = {"version": SCENE_VERSION}
    series: Attributes = read_attributes(store / "OME")["ome"]
    scene = {
        "coordinateSystems": [_system(SAMPLE)],
        "coordinateTransformations": [_in_sample(folder) for folder in folders],
    }
    return version | {"scene": scene}, series | version


def _image_06(folder: Path) -> Attributes:
    ome: Attributes = read_attributes(folder)["ome"]
    if ome["version"] != VERSION:
        return ome
    (multiscale,) = ome["multiscales"]
    first = multiscale["datasets"][0]["coordinateTransformations"]
    shear = _to_coverslip(
        read_block(folder), first[0]["scale"], first[1]["translation"]
    )
    between = {"input": {"name": PHYSICAL}, "output": {"name": COVERSLIP}}
    datasets = [
        {
            "path": level["path"],
            "coordinateTransformations": [
                {
                    "type": "sequence",
                    "input": {"path": level["path"]},
                    "output": {"name": PHYSICAL},
                    "transformations": level["coordinateTransformations"],
                }
            ],
        }
        for level in multiscale["datasets"]
    ]
    new = {name: multiscale[name] for name in multiscale if name != "axes"}
    new |= {
        "coordinateSystems": [_system(PHYSICAL), _system(COVERSLIP)],
        "datasets": datasets,
        "coordinateTransformations": [shear | between],
    }
    return ome | {"version": SCENE_VERSION, "multiscales": [new]}


def _image_05(folder: Path) -> Attributes:
    ome: Attributes = read_attributes(folder)["ome"]
    if ome["version"] == VERSION:
        return ome
    (multiscale,) = ome["multiscales"]
    old = {
        "name": multiscale["name"],
        "axes": multiscale["coordinateSystems"][0]["axes"],
    }
    new = ("coordinateSystems", "coordinateTransformations")
    old |= {name: multiscale[name] for name in multiscale if name not in new}
    old["datasets"] = [
        {
            "path": level["path"],
            "coordinateTransformations": level["coordinateTransformations"][0][
                "transformations"
            ],
        }
        for level in multiscale["datasets"]
    ]
    return ome | {"version": VERSION, "multiscales": [old]}


def _to_coverslip(
    block: Attributes, scale: list[float], translation: list[float]
) -> Attributes:
    """Return the transformation from ``physical`` to ``coverslip``.

    Volumes are there already. The affine of planes, which begins with the indices
    (n, s, x), is freed of the dataset's own scale and translation.
    """
    from_indices = block.get("position", {}).get("affine", block.get("affine"))
    if block.get("stream", {}).get("kind") != "planes" or from_indices is None:
        return {"type": "identity"}
    linear = np.array(from_indices)[:, :3] / scale[2:]
    whole = np.eye(5, 6)
    whole[2:, 2:5] = linear
    whole[2:, 5] = np.array(from_indices)[:, 3] - linear @ translation[2:]
    return {"type": "affine", "affine": whole.tolist()}


def _in_sample(folder: Path) -> Attributes:
    """Return the transformation from ``physical`` of an image to ``sample``."""
    (multiscale,) = read_attributes(folder)["ome"]["multiscales"]
    (shear,) = multiscale["coordinateTransformations"]
    site = read_block(folder).get("position", {})
    shift = [0.0, 0.0, *(site.get(f"{axis}_um") or 0.0 for axis in "zyx")]
    between = {
        "input": {"path": folder.name, "name": PHYSICAL},
        "output": {"name": SAMPLE},
    }
    if shear["type"] == "identity":
        return {"type": "translation", "translation": shift} | between
    whole = np.array(shear["affine"])
    whole[:, 5] += shift
    return {"type": "affine", "affine": whole.tolist()} | between


def _system(name: str) -> Attributes:
    return {"name": name, "axes": AXES}
