"""Each wrong microscope description is refused by one phrase that names the field."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opm_engine.config import ConfigError, Microscope, template

INSTRUMENT = template("instrument")


def load(text: str) -> Microscope:
    return Microscope.from_table(tomllib.loads(text))


def changed(old: str, new: str) -> str:
    assert INSTRUMENT.count(old) == 1, f"{old!r} must be in the template once"
    return INSTRUMENT.replace(old, new)


# (what the template says, what the wrong file says, field, phrase)
WRONG = {
    # units and types
    "a unit in the value": (
        "angle_deg = 30",
        'angle_deg = "30 deg"',
        "geometry.angle_deg",
        "must be a number in degrees, not '30 deg'",
    ),
    "a number in quotes": (
        "line_time_us = 4.868",
        'line_time_us = "4.868"',
        "camera.line_time_us",
        "must be a number in µs, not '4.868'",
    ),
    "a truth value": (
        "settle_ms = 0.4",
        "settle_ms = true",
        "daq.galvo.settle_ms",
        "must be a number in ms, not True",
    ),
    "volts in quotes": (
        "range_v = [-5.0, 5.0]",
        'range_v = ["-5 V", 5.0]',
        "daq.galvo.range_v[0]",
        "must be a number in V, not '-5 V'",
    ),
    "slew in quotes": (
        "slew_v_per_ms = 10.0",
        'slew_v_per_ms = "10"',
        "daq.galvo.slew_v_per_ms",
        "must be a number in V/ms, not '10'",
    ),
    "a true sign": (
        "scan_sign = 1",
        "scan_sign = true",
        "geometry.scan_sign",
        "must be a number",
    ),
    "a flag in quotes": (
        "flip_rows = false",
        'flip_rows = "no"',
        "geometry.flip_rows",
        "must be a valid boolean, not 'no'",
    ),
    "half a pixel": (
        "roi = [0, 896, 2304, 512]",
        "roi = [0, 896, 2304, 512.5]",
        "camera.roi[3]",
        "must be a whole number, not 512.5",
    ),
    "a true property": (
        '"ScanMode" = "3" ',
        '"ScanMode" = true ',
        "camera.properties.ScanMode",
        "not True",
    ),
    "exposures in words": (
        'trailing_exposures = "until_stopped"',
        'trailing_exposures = "one"',
        "camera.trailing_exposures",
        "must be a whole number or must be 'until_stopped', not 'one'",
    ),
    # keys
    "another unit's key": (
        "line_time_us = 4.868",
        "line_time_ms = 0.004868",
        "camera.line_time_ms",
        "unknown key; did you mean line_time_us?",
    ),
    "a misspelt key": (
        "settle_ms = 0.4",
        "settle_ms = 0.4\nparc_v = 0",
        "daq.galvo.parc_v",
        "unknown key; did you mean park_v?",
    ),
    "a key like nothing": (
        'device = "Dev1"',
        'device = "Dev1"\nxyz = 1',
        "daq.xyz",
        "unknown key",
    ),
    "a laser's key": (
        'line = "port0/line3"',
        'line = "port0/line3"\ncolor = "#FF0000"',
        "lasers[3].color",
        "unknown key; did you mean colour?",
    ),
    "an unknown table": ("[geometry]", "[geometri]", "geometri", "did you mean geome"),
    "a missing kind": ('kind = "all_rows"', "", "camera.exposure_out.kind", "required"),
    "no configuration": (
        'mm_config = "opm.cfg"',
        "",
        "mm_config",
        "is required unless",
    ),
    "an empty name": ('name = "my OPM"', 'name = ""', "name", "at least 1 char"),
    # values
    "not a number": ("angle_deg = 30", "angle_deg = nan", "geometry.angle_deg", "must"),
    "endless": (
        "pixel_size_um = 0.115",
        "pixel_size_um = inf",
        "geometry.pixel_size_um",
        "finite",
    ),
    "endless offset": (
        "offset_v = 0.0",
        "offset_v = -inf",
        "daq.galvo.offset_v",
        "fin",
    ),
    "a right angle": (
        "angle_deg = 30",
        "angle_deg = 90",
        "geometry.angle_deg",
        "than 90",
    ),
    "an empty ROI": (
        "roi = [0, 896, 2304, 512]",
        "roi = [0, 896, 2304, 0]",
        "camera.roi[3]",
        "greater than or equal to 1, not 0",
    ),
    "a ROI off the chip": (
        "roi = [0, 896, 2304, 512]",
        "roi = [-4, 896, 2304, 512]",
        "camera.roi[0]",
        "greater than or equal to 0, not -4",
    ),
    "a ROI without height": (
        "roi = [0, 896, 2304, 512]",
        "roi = [0, 896, 2304]",
        "camera.roi[3]",
        "is required",
    ),
    "a negative pixel": (
        "pixel_size_um = 0.115",
        "pixel_size_um = -0.115",
        "geometry.pixel_size_um",
        "greater than 0, not -0.115",
    ),
    "an unknown kind": (
        'kind = "all_rows"',
        'kind = "global"',
        "camera.exposure_out.kind",
        "must be 'all_rows', 'first_row' or 'any_row', not 'global'",
    ),
    "half a sign": ("scan_sign = 1", "scan_sign = 2", "geometry.scan_sign", "1 or -1"),
    "a colour's name": (
        'colour = "#FF0000"',
        'colour = "red"',
        "lasers[3].colour",
        "of the form '#00FF00', not 'red'",
    ),
    "no board": ('device = "Dev1"', 'device = "1"', "daq.device", "of the form 'Dev1'"),
    "half a property": (
        '["Laser638", "PowerSetpoint (%)"]',
        '["Laser638"]',
        "lasers[3].power_property[1]",
        "is required",
    ),
    # volts
    "volts no board has": (
        "range_v = [-5.0, 5.0]",
        "range_v = [-5.0, 12.0]",
        "daq.galvo.range_v[1]",
        "12 V is more than a board puts out, ±10 V",
    ),
    "an upside-down range": (
        "range_v = [-5.0, 5.0]",
        "range_v = [5.0, -5.0]",
        "daq.galvo.range_v",
        "must be [low, high], not [5.0, -5.0]",
    ),
    "parked out of range": (
        "park_v = 0.0",
        "park_v = 6.0",
        "daq.galvo.park_v",
        "6 V lies outside range_v = [-5, 5]",
    ),
    "centred out of range": (
        "offset_v = 0.0",
        "offset_v = -5.1",
        "daq.galvo.offset_v",
        "-5.1 V lies outside range_v",
    ),
    "a galvo that stands": (
        "volts_per_um = 0.0225",
        "volts_per_um = 0",
        "daq.galvo.volts_per_um",
        "must not be 0",
    ),
    # wiring
    "two lasers, one line": (
        'line = "port0/line3"',
        'line = "port0/line0"',
        "lasers[3].line",
        "'port0/line0' is taken by lasers[0].line",
    ),
    "a leading zero": (
        'line = "port0/line3"',
        'line = "port0/line00"',
        "lasers[3].line",
        "of the form 'port0/line3'",
    ),
    "an unbuffered laser": (
        'line = "port0/line3"',
        'line = "port1/line3"',
        "lasers[3].line",
        "of the form 'port0/line3'",
    ),
    "two lasers, one name": (
        'name = "638"',
        'name = "405"',
        "lasers[3].name",
        "'405' is taken by lasers[0].name",
    ),
    "exposure-out on a laser": (
        'terminal = "PFI0"',
        'terminal = "port0/line2"',
        "camera.exposure_out.terminal",
        "taken by lasers[2].line",
    ),
    "one pin, two names": (
        'laser_enable = "port1/line1"',
        'laser_enable = "port1/line0"',
        "daq.laser_enable",
        "'port1/line0' is taken by camera.exposure_out.terminal = 'PFI0'",
    ),
    "a buffered enable": (
        'laser_enable = "port1/line1"',
        'laser_enable = "port0/line7"',
        "daq.laser_enable",
        "must be on a port other than port0",
    ),
}


@pytest.mark.parametrize(("old", "new", "field", "phrase"), WRONG.values(), ids=WRONG)
def test_wrong_is_refused(old, new, field, phrase):
    with pytest.raises(ConfigError) as refusal:
        load(changed(old, new))
    told = f"; {str(refusal.value).removeprefix('microscope: ')}"
    assert f"; {field}: " in told
    assert phrase in told.split(f"; {field}: ")[1]
    assert "\n" not in told


@pytest.mark.parametrize(
    ("exposure_out", "enable", "same"),
    [
        ("PFI7", "port1/line7", True),
        ("PFI8", "port2/line0", True),
        ("PFI15", "port2/line7", True),
        ("PFI8", "port1/line0", False),
        ("PFI16", "port3/line0", False),
        ("port1/line3", "port1/line3", True),
    ],
)
def test_pins_with_two_names(exposure_out, enable, same):
    text = changed('terminal = "PFI0"', f'terminal = "{exposure_out}"')
    text = text.replace('"port1/line1"', f'"{enable}"')
    if same:
        with pytest.raises(ConfigError, match=r"daq\.laser_enable: .* is taken by"):
            load(text)
    else:
        assert load(text).daq.laser_enable == enable


def test_every_fault_is_told_at_once():
    text = changed("angle_deg = 30", "angle_deg = 0").replace('"PFI0"', '"BNC"')
    with pytest.raises(ConfigError, match=r"terminal: .*; geometry\.angle_deg: "):
        load(text)


@pytest.mark.parametrize("name", ["instrument", "demo"])
def test_templates_are_valid_and_survive_json(name):
    microscope = load(template(name))
    again = Microscope.from_table(microscope.model_dump(mode="json"))
    assert again == microscope


def test_demo():
    assert Microscope.demo().simulation is not None
    assert Microscope.demo().laser_names == ("488", "561")


def test_instrument_template_says_what_it_should():
    microscope = load(INSTRUMENT)
    assert microscope.simulation is None
    assert microscope.laser_names == ("405", "488", "561", "638")
    assert microscope.camera.properties["OUTPUT TRIGGER KIND[0]"] == "EXPOSURE"


def test_load_resolves_the_configuration_beside_the_file(tmp_path):
    path = tmp_path / "scope.toml"
    path.write_text(INSTRUMENT, encoding="utf-8-sig")  # as some editors write it
    assert Microscope.load(path).mm_config == str((tmp_path / "opm.cfg").resolve())
    assert Microscope.load(str(path)) == Microscope.load(path)


def test_load_names_the_file_and_the_line(tmp_path):
    path = tmp_path / "scope.toml"
    with pytest.raises(FileNotFoundError, match=r"scope\.toml"):
        Microscope.load(path)
    path.write_text("name = 'x'\n[camera\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"scope\.toml: not a TOML file: .*line 2"):
        Microscope.load(path)
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match=r"scope\.toml: not a TOML file"):
        Microscope.load(path)
    path.write_text("name = 'x'\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"scope\.toml: camera: is required; geom"):
        Microscope.load(path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [*Microscope.model_fields, "x", "roi", "galvo", "line"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_anything_is_refused_in_one_line(table):
    with pytest.raises(ConfigError) as refusal:
        Microscope.from_table(table)
    assert "Traceback" not in str(refusal.value)
