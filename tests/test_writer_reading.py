"""`open_image` on stores that the writer made, and on what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from opm_engine.writers import OMEZarrWriter
from opm_engine.writers.reading import open_image
from writing import item, record, stream_for


@pytest.mark.parametrize("as_text", [False, True], ids=["Path", "str"])
@pytest.mark.parametrize("n_positions", [1, 3])
def test_every_position_opens(tmp_path: Path, n_positions: int, as_text: bool) -> None:
    stream = stream_for(p=n_positions, z=2)
    writer = OMEZarrWriter(tmp_path / "x.ome.zarr")
    record(writer, stream)
    store = str(writer.path) if as_text else writer.path
    for p in range(n_positions):
        image = open_image(store, p)
        assert image.shape == (1, 1, 2, 4, 5)
        for z in range(2):
            plane = item(stream, {"t": 0, "p": p, "c": 0, "z": z})
            np.testing.assert_array_equal(image[0, 0, z], plane)
        with pytest.raises(ValueError, match="read-only"):
            image[0, 0, 0] = 1
    for missing in (n_positions, -1):
        with pytest.raises(KeyError, match=f"no image of position {missing}"):
            open_image(store, missing)


def test_not_an_image(tmp_path: Path) -> None:
    for store in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError):
            open_image(store)
    zarr.create_group(tmp_path / "x.zarr").create_group("0")
    with pytest.raises(KeyError, match="no image of position 0"):
        open_image(tmp_path / "x.zarr")
