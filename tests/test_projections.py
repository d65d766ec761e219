"""Maximum projections, of a volume and of a run."""

from __future__ import annotations

import numpy as np
import pytest
import useq

from opm_engine.geometry import Geometry
from opm_engine.processing import Deskew, Projections, deskew, max_projections


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_marked_voxels_appear_in_each_projection(dtype) -> None:
    volume = np.zeros((3, 4, 5), dtype)
    volume[0, 1, 2] = 7
    volume[2, 1, 4] = 9
    xy, xz, yz = projections = max_projections(volume)
    assert projections.xy is xy
    assert (xy.shape, xz.shape, yz.shape) == ((4, 5), (3, 5), (3, 4))
    assert {projection.dtype for projection in projections} == {np.dtype(dtype)}
    assert (xy[1, 2], xy[1, 4], np.count_nonzero(xy)) == (7, 9, 2)
    assert (xz[0, 2], xz[2, 4], np.count_nonzero(xz)) == (7, 9, 2)
    assert (yz[0, 1], yz[2, 1], np.count_nonzero(yz)) == (7, 9, 2)


@pytest.mark.parametrize("shape", [(3, 4), (1, 3, 4, 5), (0, 4, 5)])
def test_only_volumes_are_projected(shape) -> None:
    with pytest.raises(ValueError, match=r"^volume must be"):
        max_projections(np.zeros(shape, np.uint16))


def test_latest_of_each_position_and_channel_is_kept() -> None:
    projections = Projections()
    projections.sequenceStarted(useq.MDASequence(), {})
    snapshot = projections.latest
    for t, p, c in np.ndindex(2, 1, 2):
        volume = np.full((2, 3, 4), 100 * t + 10 * p + c + 1, np.uint16)
        event = useq.MDAEvent(index={"t": t, "p": p, "c": c})
        projections.frameReady(volume, event, {})
    assert set(projections.latest) == {(0, 0), (0, 1)}
    assert projections.latest[0, 1].xz.tolist() == [[102] * 4] * 2
    assert snapshot == {}  # what a reader holds never changes under it
    projections.sequenceStarted(useq.MDASequence(), {})
    assert projections.latest == {}


def test_as_output_of_a_deskew() -> None:
    scan = {"angle_deg": 40, "step_um": 0.5, "pixel_size_um": 0.3}
    stack = np.random.default_rng(5).integers(0, 65536, (6, 8, 7), dtype=np.uint16)
    sequence = useq.MDASequence(channels=["488"], z_plan={"range": 2.5, "step": 0.5})
    projections = Projections()
    geometry = Geometry(**scan, n_planes=6, n_rows=8, n_columns=7)
    handler = Deskew([projections], geometry=geometry)
    handler.sequenceStarted(sequence, {})
    for event, plane in zip(sequence, stack, strict=True):
        handler.frameReady(plane, event, {})
    handler.sequenceFinished(sequence)
    volume = deskew(stack, **scan)
    for made, expected in zip(
        projections.latest[0, 0], max_projections(volume), strict=True
    ):
        np.testing.assert_array_equal(made, expected)
