"""Reading back what the writer wrote: images, and what was noted beside them.

Separate from the writer because it serves stores of any origin with our layout: one
image at the root, or images in groups ``0``, ``1``, ….
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zarr

from opm_engine.plan import BLOCK, Flag, Inputs, Stream
from opm_engine.writers.journal import FRAMES as FRAMES
from opm_engine.writers.journal import frames_of
from opm_engine.writers.metadata import ARRAY
from opm_engine.writers.node import read_attributes, read_node
from opm_engine.writers.notes import FLAGS, INPUTS
from opm_engine.writers.shards.layout import Layout
from opm_engine.writers.shards.sink import Codec


def open_image(store: str | Path, position: int = 0) -> zarr.Array[Any]:
    """Open the image of one stage position.

    Parameters
    ----------
    store : str or Path
        An OME-Zarr store.
    position : int
        Stage position, from 0.

    Returns
    -------
    zarr.Array
        (T, C, Z, Y, X), read-only.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    KeyError
        If the store holds no such position.
    """
    folder = _image_folder(Path(store), position)
    image = zarr.open_group(folder, mode="r").get(ARRAY)
    if not isinstance(image, zarr.Array):
        raise _no_image(store, position)
    return image


def image_folders(store: str | Path) -> list[Path]:
    """Return the folder of the image of each stage position.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    """
    store = Path(store)
    if not _is_collection(read_attributes(store)):
        return [store]
    series: list[str] = read_attributes(store / "OME")["ome"]["series"]
    return [store / name for name in series]


def array_folders(store: str | Path) -> list[Path]:
    """Return the folder of the full-size array of each stage position.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    """
    return [folder / ARRAY for folder in image_folders(store)]


def read_block(store: str | Path, position: int | None = None) -> dict[str, Any]:
    """Return our metadata block.

    Parameters
    ----------
    store : str or Path
        An OME-Zarr store.
    position : int, optional
        Stage position, from 0: what its image says goes before what the run says, and
        is all there is of ``stream``: one position. By default the run's own block.

    Returns
    -------
    dict
        Plain JSON; see :func:`opm_engine.plan.describe`. Empty if the store has none.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    KeyError
        If the store holds no such position.
    """
    store = Path(store)
    block: dict[str, Any] = read_attributes(store).get(BLOCK, {})
    if position is None:
        # The images of older collections hold all, their root nothing.
        return block or read_attributes(_image_folder(store, 0)).get(BLOCK, {})
    return {**block, **read_attributes(_image_folder(store, position)).get(BLOCK, {})}


def stream_of_store(store: str | Path) -> Stream:
    """Describe what a store holds: all positions, and as many times as it has room for.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    ValueError
        If it does not say.
    """
    block = read_block(store)
    if "stream" not in block:
        msg = f"{store} does not say what it holds: it has no {BLOCK!r} block"
        raise ValueError(msg)
    stream = Stream.model_validate(block["stream"])
    n_times = max(layout.shape[0] for layout in layouts_of_store(store))
    return stream.model_copy(update={"n_times": n_times})


def layouts_of_store(store: str | Path) -> list[Layout]:
    """Return how the array of each stage position is cut into shards and chunks.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    ValueError
        If an array has no shards.
    """
    return [layout_of(folder) for folder in array_folders(store)]


def codec_of(array: Path) -> Codec:
    """Return the codec of the array in a folder.

    Raises
    ------
    FileNotFoundError
        If there is no array.
    ValueError
        If an array has no shards, or was compressed by something else.
    """
    inner = _sharding(array)["codecs"]
    names = [c["configuration"]["cname"] for c in inner if c["name"] == "blosc"]
    if len(inner) - len(names) > 1:
        msg = f"{array} was compressed with {[codec['name'] for codec in inner]}"
        raise ValueError(msg)
    return names[0] if names else "none"


def read_frames(store: str | Path, position: int = 0) -> Iterator[dict[str, Any]]:
    """Yield what is known of each plane or volume of one stage position.

    In the order in which they reached the disk. A line that was cut off by a crash is
    passed over.

    Parameters
    ----------
    store : str or Path
        An OME-Zarr store.
    position : int
        Stage position, from 0.

    Yields
    ------
    dict
        ``index`` (the event's), ``runner_time_ms``, ``exposure_ms``, ``x_um``,
        ``y_um``, ``z_um``, ``camera_metadata`` and ``extra``, as far as known.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    KeyError
        If the store holds no such position.
    """
    path = _image_folder(Path(store), position) / ARRAY / FRAMES
    if path.exists():
        yield from frames_of(path)


def read_flags(store: str | Path, position: int = 0) -> tuple[Flag, ...]:
    """Return the flags of one stage position: its volumes that must not be trusted.

    Parameters
    ----------
    store : str or Path
        An OME-Zarr store.
    position : int
        Stage position, from 0.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    KeyError
        If the store holds no such position.
    """
    attributes = read_attributes(_image_folder(Path(store), position))
    entries = [dict(entry) for entry in attributes.get(BLOCK, {}).get(FLAGS, [])]
    return tuple(Flag(message=entry.pop("message"), index=entry) for entry in entries)


def read_inputs(store: str | Path) -> Inputs | None:
    """Return the analog inputs of all frames, or None if none were recorded.

    Those of frames that never came are NaN.

    Parameters
    ----------
    store : str or Path
        An OME-Zarr store.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    """
    array: Any = zarr.open_group(store, mode="r").get(INPUTS)
    if array is None:
        return None
    return Inputs(0, tuple(array.attrs["names"]), array[:])


def _is_collection(attributes: dict[str, Any]) -> bool:
    return bool({"bioformats2raw.layout", "scene"} & attributes.get("ome", {}).keys())


def _image_folder(store: Path, position: int) -> Path:
    is_one = not _is_collection(read_attributes(store))
    folder = store if is_one and not position else store / str(position)
    if (is_one and position) or not (folder / "zarr.json").exists():
        raise _no_image(store, position)
    return folder


def layout_of(array: Path) -> Layout:
    """Return how the array in a folder is cut into shards and chunks.

    Raises
    ------
    FileNotFoundError
        If there is no array.
    ValueError
        If it has no shards.
    """
    document = read_node(array)
    return Layout(
        shape=tuple(document["shape"]),
        shard=tuple(document["chunk_grid"]["configuration"]["chunk_shape"]),
        chunk=tuple(_sharding(array)["chunk_shape"]),
        dtype=document["data_type"],
    )


def _sharding(array: Path) -> dict[str, Any]:
    for codec in read_node(array)["codecs"]:
        if codec["name"] == "sharding_indexed":
            configuration: dict[str, Any] = codec["configuration"]
            return configuration
    msg = f"{array} has no shards"
    raise ValueError(msg)


def _no_image(store: str | Path, position: int) -> KeyError:
    return KeyError(f"{store} holds no image of position {position}")
