"""What a store says about itself, checked without files."""

import json

import pytest
import useq
from yaozarrs import v05

from opm_engine.plan import BLOCK, ChannelInfo, PositionInfo, Stream
from opm_engine.writers import announced, metadata

PLANES = Stream(
    kind="planes",
    shape=(4, 6),
    scale_um=(0.4, 0.115, 0.115),
    translation_um=(1.0, 2.0, 3.0),
    n_planes=5,
    n_times=2,
    interval_s=1.5,
    channels=(
        ChannelInfo(name="488", colour="#00ff00", exposure_ms=5),
        ChannelInfo(name="561"),
    ),
    positions=(
        PositionInfo(name="left", x_um=-10, y_um=5, z_um=1),
        PositionInfo(name="right", x_um=10, p=1),
    ),
)
SUMMARY = {
    "image_infos": ({"height": 4, "width": 6, "dtype": "uint16", "pixel_size_um": 0.2},)
}


def image_model(stream: Stream) -> v05.Image:
    return v05.Image.model_validate(metadata.image_attributes({}, stream, 0)["ome"])


@pytest.mark.parametrize(
    ("interval_s", "t_scale"), [(1.5, 1.5), (0.0, 1.0)], ids=["interval", "gapless"]
)
def test_scales_are_physical(interval_s: float, t_scale: float) -> None:
    image = image_model(PLANES.model_copy(update={"interval_s": interval_s}))
    (multiscale,) = image.multiscales
    (dataset,) = multiscale.datasets
    scale, translation = dataset.coordinateTransformations
    assert [axis.name for axis in multiscale.axes] == list("tczyx")
    units = [getattr(axis, "unit", None) for axis in multiscale.axes]
    assert units == ["second", None, *["micrometer"] * 3]
    assert scale.scale == [t_scale, 1.0, 0.4, 0.115, 0.115]
    assert translation.translation == [0.0, 0.0, 1.0, 2.0, 3.0]


def test_channels_keep_names_and_colours() -> None:
    channels = image_model(PLANES).omero.channels
    assert [(c.label, c.color) for c in channels] == [
        ("488", "00FF00"),
        ("561", "FFFFFF"),
    ]


@pytest.mark.parametrize(
    ("dtype", "camera_offset", "window"),
    [
        ("uint16", 0.0, (0, 0, 4095, 65535)),
        ("uint16", 100.4, (0, 100, 4195, 65535)),
        ("uint8", 0.0, (0, 0, 255, 255)),
        ("uint8", 300.0, (0, 254, 255, 255)),
        ("float32", 0.0, (0, 0, 1, 1)),
    ],
)
def test_window_fits_the_dtype(
    dtype: str, camera_offset: float, window: tuple[int, ...]
) -> None:
    stream = PLANES.model_copy(update={"dtype": dtype})
    shown = metadata.omero(stream, camera_offset)["channels"][0]["window"]
    assert tuple(shown[key] for key in ("min", "start", "end", "max")) == window


def test_block_adds_the_position() -> None:
    block = {"angle_deg": 30.0, "stream": PLANES.model_dump(mode="json"), "plan": {}}
    image = metadata.image_attributes(block, PLANES, 1)[BLOCK]
    alone = PLANES.model_copy(update={"positions": PLANES.positions[1:]})
    assert json.loads(json.dumps(image)) == {
        "angle_deg": 30.0,
        "stream": alone.model_dump(mode="json"),
        "frames": "0/frames.jsonl",
        "position": {
            "index": 1,
            "name": "right",
            "x_um": 10.0,
            "y_um": None,
            "z_um": None,
            "p": 1,
            "g": 0,
            "n_planes": None,
            "origin_um": None,
        },
    }
    assert "position" not in block


def test_block_without_a_run_block_has_the_stream() -> None:
    one = PLANES.model_copy(update={"positions": PLANES.positions[:1]})
    image = metadata.image_attributes({"plan": {"is": "told"}}, one, 0)[BLOCK]
    assert Stream.model_validate(image["stream"]) == one
    assert image["plan"] == {"is": "told"}
    run = metadata.run_block({}, PLANES)
    assert Stream.model_validate(run["stream"]) == PLANES


def test_collection_is_bioformats2raw() -> None:
    root, series = metadata.collection(3)
    assert v05.Bf2Raw.model_validate(root).bioformats2raw_layout == 3
    assert v05.Series.model_validate(series).series == ["0", "1", "2"]


FULL = useq.MDASequence(
    channels=[{"config": "488", "exposure": 5}, "561"],
    z_plan={"range": 2, "step": 0.5},
    time_plan={"interval": 2, "loops": 3},
    stage_positions=[{"x": 1, "y": 2, "z": 3, "name": "here"}, (4, 5)],
)


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        pytest.param(
            FULL,
            {
                "n_planes": 5,
                "n_times": 3,
                "interval_s": 2.0,
                "scale_um": (0.5, 0.2, 0.2),
                "channels": (
                    ChannelInfo(name="488", exposure_ms=5),
                    ChannelInfo(name="561"),
                ),
                "positions": (
                    PositionInfo(name="here", x_um=1, y_um=2, z_um=3),
                    PositionInfo(name="1", x_um=4, y_um=5, p=1),
                ),
            },
            id="all axes",
        ),
        pytest.param(
            useq.MDASequence(channels=["DAPI"]),
            {
                "n_planes": 1,
                "n_times": 1,
                "interval_s": 0.0,
                "scale_um": (1.0, 0.2, 0.2),
                "positions": (PositionInfo(name="0"),),
            },
            id="one channel",
        ),
        pytest.param(
            useq.MDASequence(z_plan={"relative": [3.0, 1.0, -1.0]}),
            {"n_planes": 3, "scale_um": (2.0, 0.2, 0.2)},
            id="downward list, no channel",
        ),
        pytest.param(
            useq.MDASequence(
                time_plan=[{"interval": 1, "loops": 2}, {"interval": 5, "loops": 2}]
            ),
            {"n_times": 3, "interval_s": 0.0},
            id="uneven intervals",
        ),
    ],
)
def test_stream_of_a_foreign_run(
    sequence: useq.MDASequence, expected: dict[str, object]
) -> None:
    stream = announced.planes_of(sequence, SUMMARY)
    assert (stream.kind, stream.shape, stream.dtype) == ("planes", (4, 6), "uint16")
    assert {name: getattr(stream, name) for name in expected} == expected


def test_unknown_pixel_size_counts_as_1() -> None:
    summary = {"image_infos": ({**SUMMARY["image_infos"][0], "pixel_size_um": 0.0},)}
    assert announced.planes_of(FULL, summary).scale_um == (0.5, 1.0, 1.0)


@pytest.mark.parametrize(
    ("sequence", "summary", "names"),
    [
        (
            useq.MDASequence(grid_plan={"rows": 2, "columns": 2}),
            SUMMARY,
            "stage_positions",
        ),
        (FULL, {}, "image_infos"),
    ],
    ids=["grid", "no image"],
)
def test_what_cannot_be_described(
    sequence: useq.MDASequence, summary: dict[str, object], names: str
) -> None:
    with pytest.raises(ValueError, match=names):
        announced.planes_of(sequence, summary)
