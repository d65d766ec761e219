"""Options of a deskew: z-binning, shear alone, correction of the counts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deskewing import GEOMETRY, Recorder, noise, play, sequence_of, summary_with, whole
from oblique import binned, reference, sheared
from opm_engine.geometry import Geometry
from opm_engine.plan import BLOCK
from opm_engine.processing import Correction, Deskew, Deskewer, deskew

ROW_UM = 0.2 * math.sin(math.radians(30))


def oracle(stack, angle_deg, step_um, pixel_um, interpolation, voxel_um):
    """Float64 volume and valid mask before z-binning."""
    if interpolation == "shear":
        return sheared(stack, angle_deg, step_um, pixel_um, voxel_um[1])
    return reference(stack, angle_deg, step_um, pixel_um, voxel_um)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 16), st.integers(1, 12)),
    angle_deg=st.sampled_from([30, 45]) | st.floats(15, 60),
    pitch=st.sampled_from([0.5, 1, 2, 3]) | st.floats(0.2, 6),
    factors=st.tuples(*[st.sampled_from([0.5, 1, 2]) | st.floats(0.4, 3)] * 2),
    interpolation=st.sampled_from(["orthogonal", "shear"]),
    z_bin=st.integers(1, 6),
    low=st.sampled_from([0, 65000]),
)
def test_matches_the_float64_mean(
    sizes, angle_deg, pitch, factors, interpolation, z_bin, low
) -> None:
    stack = np.random.default_rng(1).integers(low, 65536, sizes, dtype=np.uint16)
    voxel_um = tuple(0.2 * factor for factor in factors)
    fine, valid = oracle(stack, angle_deg, pitch * 0.2, 0.2, interpolation, voxel_um)
    z_bin = min(z_bin, len(fine))
    expected, valid = binned(fine, valid, z_bin)
    arguments = {
        "angle_deg": angle_deg,
        "step_um": pitch * 0.2,
        "pixel_size_um": 0.2,
        "voxel_size_um": voxel_um[1] if interpolation == "shear" else voxel_um,
        "interpolation": interpolation,
        "z_bin": z_bin,
    }
    volume = deskew(stack, **arguments)
    assert volume.shape == expected.shape
    assert np.abs(volume - expected).max() <= 0.51
    bright = deskew(np.full(sizes, 65535, np.uint16), **arguments)
    np.testing.assert_array_equal(
        bright, np.where(valid, 65535, 0)[..., None] + 0 * bright
    )


@pytest.mark.parametrize("z_bin", [4, 16])
def test_binned_rows_are_accurate_enough(z_bin: int) -> None:
    stack = np.random.default_rng(1).integers(65000, 65536, (30, 64, 500), np.uint16)
    fine, valid = reference(stack, 30, 0.4, 0.115, (0.115, 0.115))
    expected, _ = binned(fine, valid, z_bin)
    volume = deskew(stack, angle_deg=30, step_um=0.4, pixel_size_um=0.115, z_bin=z_bin)
    assert np.count_nonzero(volume)
    assert np.abs(volume - expected).max() <= 0.51


BEAD_UM = np.array([1.4, 5.0, 2.6])


@pytest.mark.parametrize("options", [
    pytest.param({"z_bin": 2, "voxel_size_um": (0.125, 0.15)}, id="z-bin"),
    pytest.param({"interpolation": "shear"}, id="shear"),
    pytest.param({"interpolation": "shear", "voxel_size_um": 0.13}, id="shear-dy"),
    pytest.param({"interpolation": "shear", "z_bin": 3}, id="shear-z-bin"),
])  # fmt: skip
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("flip_rows", [False, True])
@pytest.mark.parametrize("flip_columns", [False, True])
def test_bead_lands_where_the_metadata_say(
    direction, flip_rows, flip_columns, options
) -> None:
    """Off the centre of all axes, found with scale and translation of the stream."""
    geometry = GEOMETRY.model_copy(
        update={
            "scan_direction": direction,
            "flip_rows": flip_rows,
            "flip_columns": flip_columns,
            "n_planes": 30,
            "n_rows": 40,
            "n_columns": 20,
            "step_um": 0.3,
        }
    )
    index = np.indices((30, 40, 20)).reshape(3, -1)
    affine = np.array(geometry.affine())
    distance_um = affine[:, :3] @ index + affine[:, 3:] - BEAD_UM[:, None]
    bead = 20000 * np.exp(-((distance_um / 0.5) ** 2).sum(axis=0) / 2)
    stack = bead.reshape(30, 40, 20).round().astype(np.uint16)
    output = Recorder()
    handler = Deskew([output], **options)
    summary = summary_with(geometry, shape=(40, 20), n_planes=30)
    handler.sequenceStarted(sequence_of(), summary)
    event = next(iter(sequence_of()))
    for z, plane in enumerate(stack):
        handler.frameReady(plane, event.replace(index={"t": 0, "z": z}), {})
    (volume,) = output.volumes.values()
    assert volume.shape == output.stream.shape
    grid = np.indices(volume.shape).reshape(3, -1)
    centre = grid @ volume.astype(float).ravel() / volume.sum(dtype=float)
    stream = output.stream
    found_um = centre * stream.scale_um + np.array(stream.translation_of(0))
    np.testing.assert_allclose(found_um, BEAD_UM, atol=0.02)


# --- Metadata


def test_options_are_told(tmp_path) -> None:
    output = Recorder()
    flat = np.linspace(0.5, 2, 45).reshape(9, 5)
    correction = Correction(100, 0.5, flat)
    handler = Deskew(
        [output],
        voxel_size_um=(0.1, 0.25),
        z_bin=3,
        correction=correction,
        missing="interpolate",
    )
    play(handler, sequence_of(), summary_with())
    block = output.summary["extra"][BLOCK]
    assert json.loads(json.dumps(block)) == block
    told = block["deskew"]
    assert told["correction"].pop("flat_field") == {
        "shape": [9, 5],
        "sha256": correction.digest,
    }
    assert {name: told[name] for name in told if name != "channel_offsets_um"} == {
        "interpolation": "orthogonal",
        "voxel_size_um": [pytest.approx(0.3), 0.25],
        "z_bin": 3,
        "correction": {"offset_counts": 100.0, "gain": 0.5},
        "missing": "interpolate",
        "bidirectional": False,
    }
    assert output.stream.scale_um == (pytest.approx(0.3), 0.25, 0.2)
    assert output.stream.translation_um == (pytest.approx(0.1), -0.6, 0.0)
    assert output.stream.slab_rows == 32
    assert block["camera_offset"] == 0  # black, of what is handed out


# --- Correction


def corrected(stack: np.ndarray, offset: float, gain: float, flat=1.0) -> np.ndarray:
    return (stack.astype(np.float64) - offset) * gain / flat


@pytest.mark.parametrize("flip_rows", [False, True])
@pytest.mark.parametrize("flip_columns", [False, True])
@pytest.mark.parametrize(
    ("offset", "gain", "is_flat"),
    [
        (100, 1, True),
        (99.7, 0.46, False),
        (0, 3, False),
        (400, 1, True),
        (-50, 1, True),
    ],
)
@pytest.mark.parametrize("z_bin", [1, 2])
def test_correction_matches_float64(
    offset, gain, is_flat, z_bin, flip_rows, flip_columns
) -> None:
    geometry = GEOMETRY.model_copy(
        update={"flip_rows": flip_rows, "flip_columns": flip_columns}
    )
    turned = np.s_[:, :: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
    generator = np.random.default_rng(3)
    stack = generator.integers(0, 65536, (4, 9, 5), dtype=np.uint16)
    stack[::2] = generator.integers(0, 500, (2, 9, 5), dtype=np.uint16)
    flat = generator.uniform(0.5, 1.5, (9, 5)) if is_flat else None
    values = corrected(stack, offset, gain, 1.0 if flat is None else flat)
    fine, valid = reference(values[turned], 30, 0.4, 0.2, (0.2, 0.2))
    expected = binned(fine, valid, z_bin)[0].clip(0, 65535)
    deskewer = Deskewer(
        geometry, z_bin=z_bin, correction=Correction(offset, gain, flat), project=True
    )
    for plane in stack:
        deskewer.add(plane)
    assert np.abs(deskewer.volume - expected).max() <= 0.51
    for axis, projection in enumerate(deskewer.projections):
        np.testing.assert_array_equal(projection, deskewer.volume.max(axis=axis))


def test_values_are_clipped_once_after_the_interpolation() -> None:
    """Counts below the offset weigh against those above it."""
    stack = np.full((4, 9, 5), 90, np.uint16)
    stack[1::2] = 120
    scan = {"angle_deg": 30, "step_um": 0.4, "pixel_size_um": 0.2}
    volume = deskew(stack, **scan, correction=Correction(100))
    values, _ = reference(corrected(stack, 100, 1), 30, 0.4, 0.2, (0.2, 0.2))
    too_early, _ = reference(corrected(stack, 100, 1).clip(0), 30, 0.4, 0.2, (0.2, 0.2))
    assert np.abs(volume - values.clip(0)).max() <= 0.51
    assert np.abs(volume - too_early).max() > 2


def test_camera_says_its_offset_and_gain() -> None:
    output = Recorder()
    summary = summary_with()
    summary["extra"][BLOCK]["camera_gain_e_per_count"] = 0.25
    play(Deskew([output], correction="camera"), sequence_of(), summary)
    told = output.summary["extra"][BLOCK]
    assert told["deskew"]["correction"] == {
        "offset_counts": 100.0,
        "gain": 0.25,
        "flat_field": None,
    }
    assert (told["camera_offset"], told["camera_gain_e_per_count"]) == (0, 1)
    stack = noise(100)
    expected, _ = reference(corrected(stack, 100, 0.25), 30, 0.4, 0.2, (0.2, 0.2))
    assert np.abs(output.volumes[0, 0, 0] - expected.clip(0)).max() <= 0.51


def test_off_by_default() -> None:
    output = Recorder()
    play(Deskew([output]), sequence_of(), summary_with())
    assert output.summary["extra"][BLOCK]["deskew"]["correction"] is None
    assert output.summary["extra"][BLOCK]["camera_offset"] == 100
    np.testing.assert_array_equal(output.volumes[0, 0, 0], whole(noise(100)))


# --- Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"z_bin": 0}, "^z_bin "),
        ({"z_bin": 1.5}, "^z_bin "),
        ({"z_bin": True}, "^z_bin "),
        ({"interpolation": "cubic"}, "^interpolation "),
        ({"missing": "guess"}, "^missing "),
        ({"correction": "other"}, "^correction "),
        ({"correction": 100}, "^correction "),
    ],
    ids=str,
)
def test_nonsense_is_refused_at_once(options, message) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Deskew(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"z_bin": 99}, "^z_bin must be at most 5"),
        (
            {"interpolation": "shear", "voxel_size_um": (0.2, 0.2)},
            "^voxel_size_um: interpolation 'shear' keeps",
        ),
        ({"correction": Correction(flat_field=np.ones((9, 6)))}, "^flat_field must be"),
        ({"correction": "camera"}, "say neither offset nor gain"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_run_is_refused_before_it(options, message) -> None:
    output = Recorder()
    handler = Deskew([output], **options)
    for method in (handler.checkSequence, handler.sequenceStarted):
        with pytest.raises(ValueError, match=message):
            method(sequence_of(), summary_with())
    assert output.calls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"offset_counts": math.nan}, "^offset_counts "),
        ({"offset_counts": "1"}, "^offset_counts "),
        ({"gain": 0}, "^gain "),
        ({"gain": math.inf}, "^gain "),
        ({"flat_field": np.ones(5)}, "^flat_field "),
        ({"flat_field": [[1, 1], [1, 0]]}, r"^flat_field\[1, 1\] = 0: "),
        ({"flat_field": [[1, -2], [1, 0]]}, r"^flat_field\[0, 1\] = -2: "),
        ({"flat_field": [[1, 1], [math.inf, 1]]}, r"^flat_field\[1, 0\] = inf: "),
        ({"flat_field": [[1, math.nan]]}, r"^flat_field\[0, 1\] = nan: "),
        (
            {"flat_field": [[1, 1e-40]]},
            r"^flat_field\[0, 1\] = 9.99.*e-41: .* gain / flat",
        ),
        ({"flat_field": [[1e-38]], "gain": 10}, r"^flat_field\[0, 0\] = 1e-38: "),
        ({"flat_field": [[1, 1e39]]}, r"^flat_field\[0, 1\] = inf: "),
    ],
    ids=str,
)
def test_corrections_that_make_no_sense(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        Correction(**arguments)


def test_shear_takes_its_own_dz() -> None:
    geometry = Geometry(**{**GEOMETRY.model_dump(), "n_planes": 8})
    pair = Deskewer(geometry, interpolation="shear", voxel_size_um=(ROW_UM, 0.3))
    one = Deskewer(geometry, interpolation="shear", voxel_size_um=0.3)
    assert pair.sampling.shape == one.sampling.shape
    assert one.sampling.voxel_um == (pytest.approx(ROW_UM), 0.3)
    assert one.sampling.shape[0] == geometry.n_rows
