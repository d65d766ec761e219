"""Smaller levels of images: their pixels, where they lie, and when they are there."""

import errno
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from opm_engine.plan import Stream
from opm_engine.writers import OMEZarrWriter, pyramid
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.node import read_attributes
from opm_engine.writers.pyramid import build_pyramid, level_factors, levels_share
from opm_engine.writers.pyramid_thread import PyramidThread
from opm_engine.writers.reading import image_folders, open_image
from opm_engine.writers.scene import rewrite_as_scene
from opm_engine.writers.shards.layout import n_bytes
from writing import SEQUENCE, carrier, indices, item, record, send, stream_for

PLANES, VOLUMES = (530, 301), (9, 530, 301)
ISOTROPIC_UM, FLAT_UM = (0.115, 0.115, 0.115), (0.4, 0.115, 0.115)

FACTORS: dict[str, tuple[Any, ...]] = {
    "small": ((5, 256, 256), ISOTROPIC_UM, []),
    "one row too many": ((5, 257, 3), ISOTROPIC_UM, [(2, 2, 2)]),
    "isotropic": ((8, 1024, 1024), ISOTROPIC_UM, [(2, 2, 2), (2, 2, 2)]),
    "z runs out": ((3, 2048, 9), ISOTROPIC_UM, [(2, 2, 2), (1, 2, 2), (1, 2, 2)]),
    "thick planes": ((99, 1024, 1024), FLAT_UM, [(1, 2, 2), (2, 2, 2)]),
    "wide rows": ((9, 600, 600), (0.1, 0.25, 0.1), [(2, 1, 2), (2, 2, 2), (2, 2, 2)]),
    "never along z": ((9, 1024, 9), (float("inf"), 0.1, 0.1), [(1, 2, 2), (1, 2, 2)]),
}


@pytest.mark.parametrize(("shape", "scale", "expected"), FACTORS.values(), ids=FACTORS)
def test_what_is_halved(shape: Any, scale: Any, expected: Any) -> None:
    assert level_factors(shape, scale) == expected


def halved(image: np.ndarray, factor: tuple[int, ...]) -> np.ndarray:
    """Mean over blocks, an odd last pixel left out, in float64."""
    for axis, f in enumerate(factor, image.ndim - 3):
        n = image.shape[axis] // f
        blocks = np.take(image, range(n * f), axis)
        parts = (*image.shape[:axis], n, f, *image.shape[axis + 1 :])
        image = blocks.reshape(parts).mean(axis + 1)
    return image


def assert_pyramid(store: Path, factors: list[tuple[int, int, int]]) -> None:
    """All levels are means of the one before, and lie where those pixels lie."""
    yaozarrs.validate_zarr_store(str(store))
    for folder in image_folders(store):
        (multiscale,) = read_attributes(folder)["ome"]["multiscales"]
        datasets = multiscale["datasets"]
        assert [level["path"] for level in datasets] == [
            *map(str, range(len(datasets)))
        ]
        levels = [zarr.open_array(folder / level["path"])[:] for level in datasets]
        assert len(levels) == len(factors) + 1
        for before, after, factor in zip(levels, levels[1:], factors, strict=False):
            expected = halved(before.astype(float), factor)
            assert after.shape == expected.shape
            assert np.abs(after - expected).max() <= 0.5
        assert_centred(datasets, factors)
        (node,) = Reader(parse_url(folder))()
        assert [level.shape for level in node.data] == [x.shape for x in levels]


def n_listed(store: Path) -> int:
    image = image_folders(store)[0]
    return len(read_attributes(image)["ome"]["multiscales"][0]["datasets"])


def assert_centred(datasets: list[dict[str, Any]], factors: list[Any]) -> None:
    """The first pixel of a level is where the middle of its pixels is."""
    full = datasets[0]["coordinateTransformations"]
    scale, translation = np.array(full[0]["scale"]), np.array(full[1]["translation"])
    whole = np.ones(3, int)
    for level, factor in zip(datasets[1:], factors, strict=True):
        whole *= factor
        first, second = level["coordinateTransformations"]
        middle = [np.mean(np.arange(n)) for n in whole]  # in pixels of the full size
        np.testing.assert_allclose(first["scale"], scale * [1, 1, *whole])
        shift = np.array([0, 0, *(middle * scale[2:])])
        np.testing.assert_allclose(second["translation"], translation + shift)


def big(shape: tuple[int, ...], scale_um: Any = FLAT_UM, **sizes: int) -> Stream:
    return stream_for(shape=shape, **sizes).model_copy(update={"scale_um": scale_um})


CASES = {
    "planes": (big(PLANES, t=2, c=2), [(1, 2, 2), (1, 2, 2)]),
    "volumes": (big(VOLUMES, ISOTROPIC_UM, t=2), [(2, 2, 2), (2, 2, 2)]),
    "thick volumes": (big(VOLUMES, p=2), [(1, 2, 2), (2, 2, 2)]),
}


@pytest.mark.parametrize("when", ["live", "close", "later"])
@pytest.mark.parametrize(("stream", "factors"), CASES.values(), ids=CASES)
def test_levels(tmp_path: Path, stream: Stream, factors: Any, when: Any) -> None:
    way = "off" if when == "later" else when
    writer = OMEZarrWriter(tmp_path / "x", pyramid=way)
    assert writer.wait_pyramid()
    record(writer, stream)
    assert writer.wait_pyramid(60)
    if when == "later":
        assert n_listed(writer.path) == 1
        assert build_pyramid(writer.path) == len(factors) + 1
    assert_pyramid(writer.path, factors)


@pytest.mark.parametrize("batch_bytes", [1, 2**20])
def test_any_batch_makes_the_same(
    tmp_path: Path, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, factors = CASES["volumes"]
    monkeypatch.setattr(pyramid, "BATCH_BYTES", batch_bytes)
    writer = OMEZarrWriter(tmp_path / "x")
    record(writer, stream)
    build_pyramid(writer.path)
    assert_pyramid(writer.path, factors)


def test_levels_are_listed_when_they_are_there(tmp_path: Path) -> None:
    """While the run lasts every reader sees the full size alone."""
    stream = big(PLANES, t=3)
    writer = OMEZarrWriter(tmp_path / "x", pyramid="live")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    for at in indices(stream, "tpzc")[:-1]:
        send(writer, stream, at)
    level = writer.path / "2" / "c"
    wait_until(lambda: len(list(level.glob("*"))) == 2)  # t = 0, 1
    assert n_listed(writer.path) == 1
    writer.sequenceFinished(SEQUENCE)  # cancelled: the last volume lacks a plane
    assert writer.wait_pyramid(60)
    assert_pyramid(writer.path, [(1, 2, 2), (1, 2, 2)])


def wait_until(done: Any) -> None:
    for _ in range(3000):
        if done():
            return
        threading.Event().wait(0.01)
    pytest.fail("waited in vain")


def test_time_grows_in_all_levels(tmp_path: Path) -> None:
    stream = big(PLANES, z=1).model_copy(update={"unbounded": True})
    writer = OMEZarrWriter(tmp_path / "x", pyramid="live")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    for at in indices(stream.model_copy(update={"n_times": 5}), "tpzc"):
        send(writer, stream, at)
    writer.sequenceFinished(SEQUENCE)
    assert writer.wait_pyramid(60)
    assert open_image(writer.path).shape[0] == 5
    assert_pyramid(writer.path, [(1, 2, 2), (1, 2, 2)])


def test_built_once_or_anew(tmp_path: Path) -> None:
    stream, factors = CASES["planes"]
    writer = OMEZarrWriter(tmp_path / "x")
    record(writer, stream)
    build_pyramid(writer.path)
    level = zarr.open_array(writer.path / "1")
    level[:] = 7
    build_pyramid(writer.path)
    assert (level[:] == 7).all()
    build_pyramid(writer.path, overwrite=True)
    assert_pyramid(writer.path, factors)


def test_what_an_interrupted_build_left_is_replaced(tmp_path: Path) -> None:
    stream, factors = CASES["planes"]
    writer = OMEZarrWriter(tmp_path / "x")
    record(writer, stream)
    (writer.path / "1").mkdir()
    (writer.path / "1" / "zarr.json").write_text("{")
    build_pyramid(writer.path)
    assert_pyramid(writer.path, factors)


@pytest.mark.parametrize("when", ["live", "close"])
def test_a_failed_run_gets_no_pyramid(tmp_path: Path, when: Any) -> None:
    stream, _ = CASES["planes"]
    writer = OMEZarrWriter(tmp_path / "x", pyramid=when)
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    sent = [at for at in indices(stream, "tpzc") if at["t"] == 0]
    for at in sent:
        send(writer, stream, at)
    if when == "live":
        wait_until((writer.path / "2" / "c").exists)
    with pytest.raises(ValueError, match="came twice"):
        send(writer, stream, sent[0])
    writer.sequenceFinished(SEQUENCE)
    assert not writer.wait_pyramid(60)
    yaozarrs.validate_zarr_store(str(writer.path))
    assert n_listed(writer.path) == 1
    assert levels_of(writer.path) == []


def levels_of(store: Path) -> list[str]:
    """Names of levels, listed or not."""
    return sorted(path.name for path in store.glob("[1-9]*"))


def test_a_failed_pyramid_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream, _ = CASES["planes"]
    writer = OMEZarrWriter(tmp_path / "x", pyramid="live")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    (writer.path / "1").write_text("in the way")
    sent = indices(stream, "tpzc")
    for at in sent:
        send(writer, stream, at)
    writer.sequenceFinished(SEQUENCE)
    with pytest.raises(OSError, match="1"):
        writer.wait_pyramid(60)
    assert "gets no pyramid" in caplog.text
    assert writer.error is None
    assert writer.frames_written == len(sent)
    np.testing.assert_array_equal(
        open_image(writer.path)[0, 0, 0], item(stream, sent[0])
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("when", ["live", "close"])
@pytest.mark.parametrize("error", [MemoryError, RuntimeError, TypeError])
def test_whatever_a_pyramid_meets_is_told(
    tmp_path: Path, error: type[Exception], when: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def downsample(*_: Any) -> None:
        raise error("no levels today")

    stream, _ = CASES["planes"]
    monkeypatch.setattr(pyramid.tensorstore, "downsample", downsample)
    writer = OMEZarrWriter(tmp_path / "x", pyramid=when)
    sent = record(writer, stream)
    with pytest.raises(error, match="no levels today"):
        writer.wait_pyramid(60)
    assert writer.error is None
    assert writer.frames_written == len(sent)
    assert levels_of(writer.path) == []


@pytest.mark.parametrize(("stream", "factors"), CASES.values(), ids=CASES)
def test_levels_are_part_of_what_must_fit(
    tmp_path: Path, stream: Stream, factors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No less than what they take, and not much more."""
    way: dict[str, Any] = {"codec": "none", "overwrite": True}
    writer = OMEZarrWriter(tmp_path / "x", pyramid="close", **way)
    record(writer, stream)
    assert writer.wait_pyramid(60)
    extra = sum(
        zarr.open_array(folder / str(number)).nbytes
        for folder in image_folders(writer.path)
        for number in range(1, len(factors) + 1)
    )
    full = n_bytes(stream)
    assert extra <= full * levels_share(stream) <= 1.2 * extra
    free = full + extra - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    OMEZarrWriter(tmp_path / "y", **way).checkSequence(SEQUENCE, carrier(stream))
    for when in ("live", "close"):
        writer = OMEZarrWriter(tmp_path / "y", pyramid=when, **way)
        with pytest.raises(OSError, match="smaller levels included") as refused:
            writer.checkSequence(SEQUENCE, carrier(stream))
        assert refused.value.errno == errno.ENOSPC


def test_frames_get_the_room_of_a_pyramid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up before they find the disk full, and what it took is free at once."""
    disk = SimpleNamespace(total=10**12, free=10**11)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    stream = big(PLANES, t=3)
    writer = OMEZarrWriter(tmp_path / "x", pyramid="live")
    writer.sequenceStarted(SEQUENCE, carrier(stream))
    sent = indices(stream, "tpzc")
    for at in sent:
        if at == {"t": 1, "p": 0, "z": 0, "c": 0}:
            wait_until(lambda: list((writer.path / "2" / "c").glob("*/*")))
            disk.free = 10**9
        send(writer, stream, at)
    wait_until(lambda: not levels_of(writer.path))
    writer.sequenceFinished(SEQUENCE)
    with pytest.raises(OSError, match=r"nearly full: .* left for frames") as full:
        writer.wait_pyramid(60)
    assert full.value.errno == errno.ENOSPC
    assert writer.error is None
    assert writer.frames_written == len(sent)
    assert n_listed(writer.path) == 1


def test_a_store_that_is_replaced_while_its_pyramid_is_built(tmp_path: Path) -> None:
    stream, factors = CASES["volumes"]
    writer = OMEZarrWriter(tmp_path / "x", pyramid="close", overwrite=True)
    for _ in range(3):
        record(writer, stream)
    assert writer.wait_pyramid(60)
    assert_pyramid(writer.path, factors)


def test_an_abandoned_pyramid_is_never_listed(tmp_path: Path) -> None:
    stream, factors = CASES["planes"]
    writer = OMEZarrWriter(tmp_path / "x")
    record(writer, stream)
    thread = PyramidThread(writer.path, [stream.n_planes])
    thread.abandon()
    thread.finish()
    assert not thread.wait(60)
    assert n_listed(writer.path) == 1
    build_pyramid(writer.path)
    assert_pyramid(writer.path, factors)


def test_stores_that_get_no_pyramid(tmp_path: Path) -> None:
    stream, _ = CASES["planes"]
    writer = OMEZarrWriter(tmp_path / "x")
    record(writer, stream)
    with (
        StoreLock(writer.path),
        pytest.raises(BlockingIOError, match="is being written"),
    ):
        build_pyramid(writer.path)
    rewrite_as_scene(writer.path)
    with pytest.raises(ValueError, match=r"NGFF 0\.6: rewrite it as 0\.5 first"):
        build_pyramid(writer.path)
    with pytest.raises(FileNotFoundError):
        build_pyramid(tmp_path / "nowhere")
