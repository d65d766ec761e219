"""`deskew` of whole stacks against the formula, written out plainly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oblique import reference
from opm_engine.geometry import volume_shape
from opm_engine.processing import deskew


@st.composite
def scans(draw):
    sizes = draw(st.tuples(st.integers(1, 7), st.integers(1, 16), st.integers(1, 20)))
    angle_deg = draw(st.sampled_from([30, 45, 60]) | st.floats(15, 60))
    pixel_um = draw(st.sampled_from([0.1, 0.115, 1.0]) | st.floats(0.05, 2))
    pitch = draw(st.sampled_from([0.5, 1, 1.5, 2, 3]) | st.floats(0.2, 6))
    size = st.sampled_from([0.5, 1, 2]) | st.floats(0.4, 3)
    voxel_um = tuple(pixel_um * factor for factor in draw(st.tuples(size, size)))
    return sizes, angle_deg, pitch * pixel_um, pixel_um, voxel_um


def _noise(shape, low=0):
    return np.random.default_rng(1).integers(low, 65536, shape, dtype=np.uint16)


@settings(max_examples=150, deadline=None)
@given(scan=scans(), low=st.sampled_from([0, 65000]))
@example(scan=((5, 12, 9), 45, 0.2, 0.1, (0.1, 0.1)), low=0)
@example(scan=((5, 12, 9), 45, math.sqrt(0.5), 1.0, (math.sqrt(0.5),) * 2), low=0)
@example(scan=((6, 15, 33), 30, 0.4, 0.115, (0.115, 0.115)), low=0)
def test_matches_float64_reference(scan, low) -> None:
    sizes, angle_deg, step_um, pixel_um, voxel_um = scan
    stack = _noise(sizes, low)
    expected, valid = reference(stack, angle_deg, step_um, pixel_um, voxel_um)
    arguments = {
        "angle_deg": angle_deg,
        "step_um": step_um,
        "pixel_size_um": pixel_um,
        "voxel_size_um": voxel_um,
    }
    volume = deskew(stack, **arguments)
    assert volume.dtype == np.uint16
    assert volume.shape == expected.shape == volume_shape(sizes, **arguments)
    assert np.abs(volume - expected).max() <= 0.51

    constant = np.full(sizes, 65535, np.uint16)
    np.testing.assert_array_equal(
        deskew(constant, **arguments), np.where(valid, 65535, 0)[..., None] + 0 * volume
    )


@pytest.mark.parametrize("low", [0, 65000])
def test_float32_is_accurate_enough(low: int) -> None:
    stack = _noise((12, 40, 1000), low)
    expected, _ = reference(stack, 30, 0.4, 0.115, (0.115, 0.115))
    volume = deskew(stack, angle_deg=30, step_um=0.4, pixel_size_um=0.115)
    assert np.abs(volume - expected).max() <= 0.506


@pytest.mark.parametrize("counts", [1, 100, 1000, 40001, 65535])
@pytest.mark.parametrize("step_um", [0.115, 0.2, 0.4, 0.8])
def test_gain_is_one(counts: int, step_um: float) -> None:
    stack = np.full((8, 40, 16), counts, np.uint16)
    volume = deskew(stack, angle_deg=30, step_um=step_um, pixel_size_um=0.115)
    assert set(np.unique(volume)) == {0, counts}


@pytest.mark.parametrize(
    ("shape", "arguments", "expected"),
    [
        pytest.param(
            (3, 11, 4), {"angle_deg": 30, "step_um": 1}, (6, 11, 4), id="30-degrees-odd"
        ),
        pytest.param(
            (300, 513, 2),
            {"angle_deg": 30, "step_um": 0.4, "pixel_size_um": 0.115},
            (257, 1484, 2),
            id="field-notes-plus-one-row",
        ),
        pytest.param(
            (3, 11, 4),
            {"angle_deg": 30, "step_um": 1, "voxel_size_um": (2, 0.5)},
            (3, 22, 4),
            id="anisotropic-voxels",
        ),
        pytest.param((1, 1, 1), {"angle_deg": 45, "step_um": 1}, (1, 1, 1), id="one"),
    ],
)
def test_shape(shape, arguments, expected) -> None:
    arguments = {"pixel_size_um": 1, **arguments}
    assert deskew(np.ones(shape, np.uint16), **arguments).shape == expected


def test_edges_survive_at_45_degrees() -> None:
    # Rows and planes fall on voxels exactly: the whole parallelogram is valid.
    edge = math.sqrt(0.5)
    stack = np.ones((4, 6, 3), np.uint16)
    volume = deskew(
        stack, angle_deg=45, step_um=2 * edge, pixel_size_um=1, voxel_size_um=edge
    )
    expected, _ = reference(stack, 45, 2 * edge, 1, (edge, edge))
    np.testing.assert_array_equal(volume, expected.round())
    for plane, row in np.ndindex(4, 6):
        assert (volume[row, 2 * plane + row] == 1).all()


def _read_only(stack):
    stack = stack.copy()
    stack.flags.writeable = False
    return stack


@pytest.mark.parametrize(
    "lay_out",
    [
        pytest.param(lambda stack: stack.copy(order="F"), id="fortran"),
        pytest.param(
            lambda stack: np.repeat(stack, 2, axis=2)[:, :, ::2], id="strided"
        ),
        pytest.param(lambda stack: stack[::-1, ::-1].copy()[::-1, ::-1], id="negative"),
        pytest.param(_read_only, id="read-only"),
    ],
)
def test_memory_layout_does_not_matter(lay_out) -> None:
    stack = _noise((5, 12, 9))
    other = lay_out(stack)
    np.testing.assert_array_equal(other, stack)
    scan = {"angle_deg": 35, "step_um": 0.3, "pixel_size_um": 0.2}
    np.testing.assert_array_equal(deskew(other, **scan), deskew(stack, **scan))


SCAN = {"angle_deg": 30, "step_um": 0.5, "pixel_size_um": 0.25}
STACK = np.ones((4, 9, 5), np.uint16)
SHAPE = volume_shape(STACK.shape, **SCAN)


def test_out_is_written_and_returned() -> None:
    out = np.full(SHAPE, 7, np.uint16)
    volume = deskew(_noise(STACK.shape), **SCAN, out=out)
    assert volume is out
    np.testing.assert_array_equal(out, deskew(_noise(STACK.shape), **SCAN))


@pytest.mark.parametrize("size", [np.float32(0.25), np.full(2, 0.25), [0.25, 0.25]])
def test_numbers_may_be_numpys(size) -> None:
    arguments = SCAN | {"voxel_size_um": size, "angle_deg": np.int16(30)}
    volume = deskew(STACK, **arguments)
    np.testing.assert_array_equal(volume, deskew(STACK, **SCAN))


def _read_only_out():
    return _read_only(np.zeros(SHAPE, np.uint16))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stack", np.ones((4, 9), np.uint16)),
        ("stack", np.ones((1, 4, 9, 5), np.uint16)),
        ("stack", np.ones((0, 9, 5), np.uint16)),
        ("stack", np.ones((4, 9, 0), np.uint16)),
        ("stack", np.ones((4, 9, 5), np.int16)),
        ("stack", np.ones((4, 9, 5), np.float32)),
        ("stack", np.ones((4, 9, 5), ">u2")),
        ("stack", [[[1]]]),
        ("stack", None),
        *[("angle_deg", value) for value in (0, 90, -30, 120, math.nan, "30", None)],
        *[("step_um", value) for value in (0, -0.4, math.nan, math.inf, "1", True)],
        *[("pixel_size_um", value) for value in (0, -1, math.nan, math.inf, None)],
        *[("voxel_size_um", value) for value in (0, -1, math.nan, math.inf, "0.2")],
        *[("voxel_size_um", value) for value in ((0.2, 0), (0.2,), (0.2,) * 3, ())],
        *[("voxel_size_um", value) for value in (("1", "1"), [[1, 2], [1, 2]], {})],
        ("out", np.zeros((1, 2, 3), np.uint16)),
        ("out", np.zeros(SHAPE, np.int16)),
        ("out", np.zeros(SHAPE, ">u2")),
        ("out", np.zeros(SHAPE, np.uint16, order="F")),
        ("out", _read_only_out()),
        ("out", "volume"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_refuses_nonsense_by_name(name: str, value: object) -> None:
    arguments = {"stack": STACK, **SCAN, name: value}
    with pytest.raises(ValueError, match=rf"^{name} "):
        deskew(arguments.pop("stack"), **arguments)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"step_um": 1e300},
        {"step_um": 1.7e308},
        {"pixel_size_um": 1e-300},
        {"pixel_size_um": 1.7e308, "voxel_size_um": 0.1},
        {"voxel_size_um": 1e-9},
        {"voxel_size_um": (0.25, 5e-324)},
    ],
    ids=str,
)
def test_refuses_what_no_memory_holds(nonsense: dict[str, float]) -> None:
    shape = r"volume of \([^,]+, [^,]+, 5\)"
    names = rf"step_um = .*, pixel_size_um = .* and voxel_size_um = .* {shape}"
    with pytest.raises(ValueError, match=names):
        deskew(STACK, **SCAN | nonsense)
    with pytest.raises(ValueError, match=names):
        volume_shape(STACK.shape, **SCAN | nonsense)


def test_refuses_what_this_memory_does_not_hold() -> None:
    with pytest.raises(MemoryError, match=r"the volume needs .* GB of memory, .* GB"):
        deskew(STACK, **SCAN | {"voxel_size_um": (0.25, 2e-10)})


def test_refuses_to_write_over_its_input() -> None:
    memory = np.ones(STACK.size + math.prod(SHAPE), np.uint16)
    stack = memory[: STACK.size].reshape(STACK.shape)
    out = memory[1 : 1 + math.prod(SHAPE)].reshape(SHAPE)
    with pytest.raises(ValueError, match=r"^out must not share memory"):
        deskew(stack, **SCAN, out=out)
