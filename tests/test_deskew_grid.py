"""One grid for all volumes: channels apart, both directions, lengths of their own."""

from __future__ import annotations

import numpy as np
import pytest
import useq
from hypothesis import given, settings
from hypothesis import strategies as st

from deskewing import GEOMETRY, Recorder, noise, summary_with
from oblique import reference
from opm_engine.plan import BLOCK, ChannelInfo, Flag, PositionInfo
from opm_engine.processing import Deskew, Deskewer, Projections
from opm_engine.writers import OMEZarrWriter
from opm_engine.writers.reading import open_image, read_flags

SEQUENCE = useq.MDASequence(channels=["488", "561"])
SHAPE = GEOMETRY.volume_shape()


def expected(stack: np.ndarray, shift_um: float = 0.0, ny: int = SHAPE[1]):
    """Float64 volume of a stack whose planes are sorted along +Y."""
    voxel_um = GEOMETRY.pixel_size_um, GEOMETRY.pixel_size_um
    return reference(stack, 30, 0.4, 0.2, voxel_um, shift_um, ny)


def played(deskew: Deskew, summary: dict, stacks: dict[tuple, np.ndarray]) -> None:
    """Run a deskew on stacks, planes in order of arrival; keys are (axis, index)."""
    deskew.sequenceStarted(SEQUENCE, summary)
    for key, stack in stacks.items():
        for z, plane in enumerate(stack):
            deskew.frameReady(plane, useq.MDAEvent(index={**dict(key), "z": z}), {})
    deskew.sequenceFinished(SEQUENCE)


def index_of(**index: int) -> tuple[tuple[str, int], ...]:
    return tuple(index.items())


class Keeper(Recorder):
    """Keeps volumes by the whole of their index."""

    def frameReady(self, volume, event, meta) -> None:
        super().frameReady(volume, event, meta)
        self.volumes[tuple((str(a), i) for a, i in event.index.items())] = volume


# --- Planes that lie elsewhere


@settings(max_examples=60, deadline=None)
@given(
    pitch=st.sampled_from([0.5, 1, 2]) | st.floats(0.3, 4),
    steps=st.sampled_from([-7.0, -1.0, 0.5, 1.0, 2.0]) | st.floats(-3, 3),
    longer=st.integers(0, 5),
    direction=st.sampled_from([1, -1]),
)
def test_shifted_planes_match_the_float64_reference(pitch, steps, longer, direction):
    step_um, shift_um = pitch * 0.2, steps * pitch * 0.2
    geometry = GEOMETRY.model_copy(
        update={"step_um": step_um, "scan_direction": direction, "n_planes": 6}
    )
    stack = noise(4, geometry)
    n_y = geometry.volume_shape()[1] + longer
    truth, valid = reference(stack, 30, step_um, 0.2, (0.2, 0.2), shift_um, n_y)
    deskewer = Deskewer(geometry, shift_um=shift_um, n_y=n_y, project=True)
    for plane in stack[::direction]:
        deskewer.add(plane)
        written = deskewer.volume != 0  # early rows are right from the start
        assert np.abs(deskewer.volume - truth)[written].max(initial=0) <= 0.51
    assert np.abs(deskewer.volume - truth).max() <= 0.51
    assert not deskewer.volume[~valid].any()
    np.testing.assert_array_equal(deskewer.projections.xy, deskewer.volume.max(axis=0))


def test_shift_of_a_whole_step_moves_the_volume() -> None:
    """The tap table may not differ from that of planes numbered from another one."""
    geometry = GEOMETRY.model_copy(update={"n_planes": 12})
    volumes = []
    for shift_um in (0, 0.4):
        deskewer = Deskewer(geometry, shift_um=shift_um)
        for plane in noise(5, geometry):
            deskewer.add(plane)
        volumes.append(deskewer.volume)
    still, moved = volumes  # a step is two voxels
    np.testing.assert_array_equal(moved[:, 2:], still[:, :-2])
    assert not moved[:, :2].any()


# --- Channels that lie apart


BEAD_UM = np.array([1.4, 5.0, 2.6])
BEADS = GEOMETRY.model_copy(
    update={"n_planes": 30, "n_rows": 40, "n_columns": 26, "step_um": 0.3}
)


def bead_stack(direction: int, offset_um: float) -> np.ndarray:
    """A bead off the centre, as planes see it that lie further along the scan."""
    geometry = BEADS.model_copy(update={"scan_direction": direction})
    shape = geometry.n_planes, geometry.n_rows, geometry.n_columns
    affine = np.array(geometry.affine())
    place_um = affine[:, :3] @ np.indices(shape).reshape(3, -1) + affine[:, 3:]
    place_um[1] += direction * offset_um
    distance_um = place_um - BEAD_UM[:, None]
    bead = 20000 * np.exp(-((distance_um / 0.5) ** 2).sum(axis=0) / 2)
    return bead.reshape(shape).round().astype(np.uint16)


def centroid_um(volume: np.ndarray) -> np.ndarray:
    grid = np.indices(volume.shape).reshape(3, -1)
    weights = volume.astype(float).ravel()
    origin_um = np.array([0, BEADS.origin_um, 0])
    return grid @ weights / weights.sum() * 0.2 + origin_um


@pytest.mark.parametrize("direction", [1, -1])
def test_channels_and_directions_register(direction: int) -> None:
    """One bead in three channels, there and back: all see it in the same place."""
    offsets_um = (0.0, 0.1, 0.2)
    output = Recorder()
    geometry = BEADS.model_copy(update={"scan_direction": direction})
    summary = summary_with(
        geometry,
        shape=(BEADS.n_rows, BEADS.n_columns),
        n_planes=BEADS.n_planes,
        channels=tuple(ChannelInfo(name=name) for name in "abc"),
        channel_offsets_um=offsets_um,
        bidirectional=True,
    )
    stacks = {
        index_of(t=t, c=c): bead_stack(direction * (-1) ** t, offset_um)
        for t in range(2)
        for c, offset_um in enumerate(offsets_um)
    }
    played(Deskew([output]), summary, stacks)
    found_um = {key: centroid_um(volume) for key, volume in output.volumes.items()}
    assert len(found_um) == 6
    first_um = found_um[0, 0, 0]
    np.testing.assert_allclose(first_um, BEAD_UM, atol=0.01)
    for place_um in found_um.values():  # a hundredth of a voxel
        np.testing.assert_allclose(place_um, first_um, atol=0.002)


# --- There and back


def test_both_directions_make_the_same_volume_bit_for_bit() -> None:
    output = Recorder()
    there, back = index_of(t=0, c=0), index_of(t=1, c=0)
    stack = noise(6)
    played(
        Deskew([output]),
        summary_with(bidirectional=True),
        {there: stack, back: stack[::-1]},
    )
    np.testing.assert_array_equal(output.volumes[0, 0, 0], output.volumes[1, 0, 0])
    truth, _ = expected(stack)
    assert np.abs(output.volumes[0, 0, 0] - truth).max() <= 0.51


@pytest.mark.parametrize("direction", [1, -1])
def test_offsets_turn_with_the_scan(direction: int) -> None:
    """Planes lie further along the way the scan goes, whichever way that is."""
    output, offset_um = Recorder(), 0.15
    geometry = GEOMETRY.model_copy(update={"scan_direction": direction})
    stacks = {index_of(t=t, c=c): noise(10 + 2 * t + c) for t, c in np.ndindex(2, 2)}
    summary = summary_with(
        geometry, bidirectional=True, channel_offsets_um=(0.0, offset_um)
    )
    played(Deskew([output]), summary, stacks)
    for key, stack in stacks.items():
        t, c = dict(key).values()
        towards = direction * (-1) ** t
        truth, _ = expected(stack[::towards], towards * c * offset_um)
        assert np.abs(output.volumes[t, 0, c] - truth).max() <= 0.51


def test_volumes_say_nothing_of_offsets_and_directions() -> None:
    output = Recorder()
    summary = summary_with(bidirectional=True, channel_offsets_um=(0.0, 0.2))
    played(Deskew([output]), summary, {})
    assert output.stream.channel_offsets_um == ()
    assert not output.stream.bidirectional
    told = output.summary["extra"][BLOCK]["deskew"]
    assert (told["channel_offsets_um"], told["bidirectional"]) == ([0.0, 0.2], True)


# --- Tiles, cameras and lengths


TILES = tuple(
    PositionInfo(name=f"tile {p} {g}", p=p, g=g, n_planes=n_planes)
    for p, g, n_planes in [(0, 0, None), (1, 0, 7), (1, 1, 2), (2, 0, 4)]
)


def test_tiles_and_cameras_with_lengths_of_their_own(tmp_path) -> None:
    output, writer = Keeper(), OMEZarrWriter(tmp_path / "x.zarr")
    projections = Projections()
    deskew = Deskew([output, writer, projections])
    summary = summary_with(positions=TILES, n_cameras=2, bidirectional=True)
    longest = GEOMETRY.model_copy(update={"n_planes": 7})
    stacks, truths = {}, {}
    for t, number, cam in np.ndindex(2, len(TILES), 2):
        tile = TILES[number]
        stack = noise(30 + 8 * t + 2 * number + cam, longest)[: tile.n_planes or 4]
        key = index_of(t=t, p=tile.p, g=tile.g, c=0, cam=cam)
        stacks[key] = stack[:: (-1) ** t]
        truths[key] = expected(stack, ny=longest.volume_shape()[1])[0]
    played(deskew, summary, stacks)
    assert output.stream.shape == longest.volume_shape()
    assert all(position.n_planes is None for position in output.stream.positions)
    assert deskew.incomplete == ()
    for number, (key, truth) in enumerate(truths.items()):
        volume = output.volumes[key]
        assert volume.shape == output.stream.shape
        assert np.abs(volume - truth).max() <= 0.51
        t, position, cam = np.unravel_index(number, (2, len(TILES), 2))
        stored = open_image(writer.path, int(position))[t, cam]
        np.testing.assert_array_equal(stored, volume)
        if t == 1:
            xy = projections.latest[int(position), int(cam)].xy
            np.testing.assert_array_equal(xy, volume.max(axis=0))
    assert len(projections.latest) == 8


def test_a_plane_beyond_its_tiles_end_is_refused() -> None:
    deskew = Deskew()
    summary = summary_with(positions=TILES)
    stack = noise(1)[:2]
    with pytest.raises(ValueError, match=r"plane 2 of .* volumes have 2 planes"):
        played(deskew, summary, {index_of(p=1, g=1): [*stack, stack[0]]})
    with pytest.raises(IndexError, match="no position p=3"):
        played(deskew, summary, {index_of(p=3): stack})


# --- Flags


def test_flags_reach_outputs_and_volumes(tmp_path) -> None:
    output, writer = Recorder(), OMEZarrWriter(tmp_path / "{run}.zarr")
    deskew = Deskew([output, writer])
    deskew.noteReady(Flag({"t": 0}, "of no run"))
    deskew.sequenceStarted(SEQUENCE, summary_with())
    flag = Flag({"t": 1, "p": 1, "c": 1, "z": 2}, "an edge too many")
    for t, p in [(0, 1), (1, 0), (1, 1), (0, 0)]:
        for z, plane in enumerate(noise(7)):
            if (t, p, z) == (1, 1, 2):
                deskew.noteReady(flag)
            event = useq.MDAEvent(index={"t": t, "p": p, "c": 0, "z": z})
            deskew.frameReady(plane, event, {})
    deskew.noteReady("something else")
    assert deskew.flags == (flag,)
    flags = [meta["extra"]["deskew"].get("flags") for meta in output.metas]
    assert flags == [None, None, ["an edge too many"], None]
    assert read_flags(writer.path, 1) == (flag,)
    deskew.sequenceFinished(SEQUENCE)
    assert deskew.flags == (flag,)
    deskew.sequenceStarted(SEQUENCE, summary_with())
    assert deskew.flags == ()
