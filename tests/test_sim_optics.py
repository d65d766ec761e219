"""Projection, laser power, shutters and O3 in the pixels of the simulated camera."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bench import (
    BOTH_OFF,
    FIRST,
    OFFSET,
    RISE_MS,
    WINDOW_MS,
    Ruler,
    described,
    on_bench,
)
from opm_engine.config import Microscope
from opm_engine.simulation.clock import SimClock
from opm_engine.simulation.devices import (
    SimulatedFocus,
    SimulatedLasers,
    SimulatedO3,
    SimulatedShutter,
)
from opm_engine.simulation.imaging import Imaging
from opm_engine.simulation.render import blurred
from opm_engine.simulation.scan_stage import SimulatedXYStage
from opm_engine.simulation.scene import Scene
from opm_engine.simulation.shutter import RollingShutter
from opm_engine.simulation.specimen import Optics, Specimen, Visible
from opm_engine.simulation.trigger import TriggerLine

PX, THETA = 0.115, np.deg2rad(30)
SHUTTER = RollingShutter(n_rows=200, line_time_s=4.868e-6, exposure_lines=1027)
START_S = 0.1
LIT_S = START_S + 199 * SHUTTER.line_time_s, START_S + SHUTTER.exposure_s
ROI = (0, 0, 24, 200)


class Wires:
    """Cables on which everything is known beforehand.

    The first laser is on from the start to the end of the common window; ``volts``
    maps channels to functions of the time since then.
    """

    def __init__(self, volts: dict[str, Callable[[np.ndarray], np.ndarray]]) -> None:
        self._volts = volts

    def drive(self, terminal: str, level: bool, time_s: float) -> None: ...

    def digital_trace(
        self, line: str, start_s: float, end_s: float
    ) -> tuple[np.ndarray, np.ndarray]:
        times = np.array([start_s, *(t for t in LIT_S if start_s < t <= end_s)])
        lit = (times >= LIT_S[0]) & (times < LIT_S[1])
        return times, lit & (line == "port0/line0") | (line == "port1/line1")

    def analog_trace(
        self, channel: str, start_s: float, end_s: float
    ) -> tuple[np.ndarray, np.ndarray]:
        times = np.append(start_s, np.arange(start_s, end_s, 5e-6)[1:])
        return times, self._volts.get(channel, np.zeros_like)(times - LIT_S[0])


def constant(volts: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda times_s: np.full(times_s.shape, volts)


def image(
    microscope: Microscope,
    specimen: Visible,
    volts: dict[str, Callable[[np.ndarray], np.ndarray]] | None = None,
    o3: SimulatedO3 | None = None,
) -> np.ndarray:
    """One exposure, offset subtracted; (rows, columns) float64."""
    clock = SimClock()
    stage = SimulatedXYStage(clock, TriggerLine(), microscope.scan_stage)
    lasers = SimulatedLasers(microscope.laser_names)
    scene = Scene(microscope, stage, SimulatedFocus(), lasers, {}, o3)
    imaging = Imaging(microscope, Wires(volts or {}), specimen, scene)
    imaging.begin(START_S)
    return imaging.frame(SHUTTER, START_S, ROI)[0].astype(float) - OFFSET


def tilted(demo: Microscope, **changes: dict[str, object]) -> Microscope:
    return described(demo, camera={"roi": ROI}, **changes)


def bead(y_um: float, z_um: float, counts_per_ms: float = 2000) -> Specimen:
    return Specimen([(z_um, y_um, 12 * PX)], [[counts_per_ms, 0]], Optics(30, PX))


def centre_row(frame: np.ndarray) -> float:
    rows = np.arange(len(frame))
    return float((frame.sum(axis=1) * rows).sum() / frame.sum())


# ------------------------------------------------------------- projection

PROJECTION = {
    "channel": "ao1",
    "volts_per_um": 0.04,
    "offset_v": 0.3,
    "range_v": (-5.0, 5.0),
    "slew_v_per_ms": 10.0,
    "settle_ms": 0.8,  # like the scan galvo, or one would lag behind the other
    "shear_ratio": float(1 / np.cos(THETA)),
}


def projecting(demo: Microscope, **geometry: object) -> Microscope:
    galvo = demo.daq.galvo.model_dump()
    daq = {"projection": galvo | PROJECTION}
    return tilted(demo, daq=daq, geometry=geometry)


def sweep(microscope: Microscope, range_um: float) -> dict[str, Callable[..., object]]:
    """Volts that sweep the sheet up from scan offset 0, and shift the image along."""
    galvo, shifter = microscope.daq.galvo, microscope.daq.projection
    assert shifter is not None
    sign = microscope.geometry.scan_sign

    def offset_um(times_s: np.ndarray) -> np.ndarray:
        share = times_s / (LIT_S[1] - LIT_S[0])
        return range_um * np.clip(share, 0, 1)

    def scan_v(times_s: np.ndarray) -> np.ndarray:
        return galvo.offset_v + galvo.volts_per_um * sign * offset_um(times_s)

    def shift_v(times_s: np.ndarray) -> np.ndarray:
        shift_um = shifter.shear_ratio * offset_um(times_s)
        return shifter.offset_v + shifter.volts_per_um * shift_um

    return {galvo.channel: scan_v, shifter.channel: shift_v}


@pytest.mark.parametrize("shift_px", [0, 7, -4.5])
@pytest.mark.parametrize("flip", [False, True], ids=["plain", "rows flipped"])
def test_projection_galvo_shifts_the_image_towards_larger_z(
    demo: Microscope, shift_px: float, flip: bool
) -> None:
    microscope = projecting(demo, flip_rows=flip)
    along_um = 60 * PX
    specimen = bead(along_um * np.cos(THETA), along_um * np.sin(THETA))
    volts = {"ao1": constant(0.3 + 0.04 * shift_px * PX)}
    row = 60 + shift_px
    expected = 199 - row if flip else row
    assert centre_row(image(microscope, specimen, volts)) == pytest.approx(
        expected, abs=0.05
    )


@pytest.mark.parametrize("scan_sign", [1, -1])
@pytest.mark.parametrize(
    ("y_um", "z_um"), [(5.0, 0.5), (10.0, 0.5), (10.0, 3.0), (15.0, 4.0)]
)
def test_sheared_sweep_projects_along_the_coverslip_normal(
    demo: Microscope, y_um: float, z_um: float, scan_sign: int
) -> None:
    microscope = projecting(demo, scan_sign=scan_sign)
    frame = image(microscope, bead(y_um, z_um), sweep(microscope, 25.0))
    expected = y_um / (PX * np.cos(THETA))
    assert frame.sum() > 1000
    assert centre_row(frame) == pytest.approx(expected, abs=0.3)


def test_a_sweep_gives_every_bead_its_light_once(demo: Microscope) -> None:
    microscope = projecting(demo)
    frame = image(microscope, bead(10.0, 2.0), sweep(microscope, 25.0))
    # The sheet passes at 25 µm per window; along its normal half as fast.
    speed_um_ms = 25.0 * np.sin(THETA) / (1e3 * (LIT_S[1] - LIT_S[0]))
    passing_ms = np.sqrt(2 * np.pi) * 0.5 / speed_um_ms
    whole = 2000 * 2 * np.pi * (0.22 / PX) ** 2 * passing_ms
    assert frame.sum() == pytest.approx(whole, rel=0.02)


def test_a_moving_sheet_is_split_finely_enough(
    demo: Microscope, monkeypatch: pytest.MonkeyPatch
) -> None:
    microscope = tilted(demo)
    volts = {"ao0": lambda times_s: 0.05 * (10 + 400 * np.clip(times_s, 0, None))}
    specimen = bead(10 + 60 * PX * np.cos(THETA), 60 * PX * np.sin(THETA), 4000)
    coarse = image(microscope, specimen, volts)
    for name in ("STILL_UM", "SHEET_STILL_UM"):
        monkeypatch.setattr(f"opm_engine.simulation.imaging.{name}", 1e-3)
    fine = image(microscope, specimen, volts)
    assert fine.max() > 3000
    assert coarse == pytest.approx(fine, abs=0.004 * fine.max())


# ------------------------------------------------------------------ light


def powered(demo: Microscope) -> Microscope:
    lasers = [laser.model_dump() for laser in demo.lasers]
    lasers[0] |= {"power_output": {"channel": "ao2", "full_v": 5.0}}
    table = tilted(demo).model_dump() | {"lasers": lasers}
    return Microscope.from_table(table)


@pytest.mark.parametrize(
    ("volts", "share"),
    [(0.0, 0.0), (2.5, 0.5), (5.0, 1.0), (9.0, 1.0), (-1.0, 0.0)],
)
def test_power_output_scales_the_light(
    demo: Microscope, volts: float, share: float
) -> None:
    frame = image(powered(demo), Ruler(), {"ao2": constant(volts)})
    window_ms = 1e3 * (LIT_S[1] - LIT_S[0])
    assert frame[50, 5] == pytest.approx(1000 * share * (window_ms - RISE_MS), abs=1)


def test_power_output_counts_when_the_light_shines(demo: Microscope) -> None:
    frame = image(
        powered(demo), Ruler(), {"ao2": lambda t: np.where(t < 2e-3, 5.0, 1.0)}
    )
    rest_ms = 1e3 * (LIT_S[1] - LIT_S[0]) - 2
    expected = 1000 * (2 - RISE_MS + 0.2 * rest_ms)
    assert frame[50, 5] == pytest.approx(expected, abs=8)


def test_light_passes_only_an_open_shutter(demo: Microscope) -> None:
    lasers = [laser.model_dump() | {"shutter": "488 shutter"} for laser in demo.lasers]
    lasers[1] |= {"shutter": None}
    microscope = Microscope.from_table(
        described(demo).model_dump() | {"lasers": lasers}
    )
    with on_bench(microscope, Ruler()) as bench:
        bench.play([FIRST, BOTH_OFF])
        assert (bench.acquire(2) == OFFSET).all()
        bench.core.setShutterOpen("488 shutter", True)
        counts = OFFSET + 1000 * (WINDOW_MS - RISE_MS)
        assert bench.acquire(2)[1] == pytest.approx(counts, abs=0.51)
        bench.core.setShutterOpen("488 shutter", False)
        assert (bench.acquire(2) == OFFSET).all()


def test_a_shutter_remembers_when_it_was_open() -> None:
    clock = SimClock()
    shutter = SimulatedShutter(clock)
    before_s = clock.now()
    shutter.set_open(True)
    times, levels = shutter.trace(before_s - 1, clock.now())
    assert levels.tolist() == [0, 1]
    assert times[1] >= before_s


# --------------------------------------------------------------------- O3


def focusing(demo: Microscope) -> Microscope:
    focus = {"stage": "O3", "limits_um": (-20.0, 20.0), "laser": "488"}
    return tilted(demo, remote_focus=focus)


def test_o3_at_its_focus_changes_no_pixel(demo: Microscope) -> None:
    specimen = Specimen.demo(2)
    plain = image(tilted(demo), specimen, {"ao0": constant(1.0)})
    o3 = SimulatedO3(focus_um=3.2)
    o3.set_position_um(3.2)
    assert plain.max() > 50
    assert (image(focusing(demo), specimen, {"ao0": constant(1.0)}, o3) == plain).all()


def test_sharpness_peaks_at_the_focus_of_o3(demo: Microscope) -> None:
    specimen = Specimen.demo(2)
    o3 = SimulatedO3(focus_um=-4.0)
    sharpness = {}
    for position_um in (-12.0, -8.0, -5.0, -4.5, -4.0, -3.5, -3.0, 0.0, 4.0):
        o3.set_position_um(position_um)
        frame = image(focusing(demo), specimen, {"ao0": constant(1.0)}, o3)
        sharpness[position_um] = frame.var()
    values = list(sharpness.values())
    peak = values.index(max(values))
    assert list(sharpness)[peak] == -4.0
    assert values == sorted(values[: peak + 1]) + sorted(values[peak + 1 :])[::-1]
    assert sharpness[-5.0] < 0.9 * sharpness[-4.0], "one depth of field is seen"
    assert o3.reached_um == (-12.0, 4.0)


def test_the_core_has_the_o3_stage_that_is_described(demo: Microscope) -> None:
    with on_bench(focusing(demo), Ruler()) as bench:
        assert bench.core.simulated_o3 is not None
        bench.core.simulated_o3.focus_um = 2.0
        bench.core.setPosition("O3", 5.0)
        assert bench.core.getPosition("O3") == 5.0
        assert bench.core.simulated_o3.defocus_um == 3.0
        assert bench.core.getFocusDevice() == "Z"
    with on_bench(tilted(demo), Ruler()) as bench:
        assert bench.core.simulated_o3 is None


def test_blur_keeps_light_and_flat_images() -> None:
    spot = np.zeros((41, 61), np.float32)
    spot[20, 30] = 1000
    wide = blurred(spot, 2.5)
    assert wide.sum() == pytest.approx(1000, rel=1e-4)
    rows, columns = np.indices(wide.shape)
    for places, centre in [(rows, 20), (columns, 30)]:
        variance = (wide * (places - centre) ** 2).sum() / wide.sum()
        assert variance == pytest.approx(2.5**2, rel=0.01)
    flat = np.full((5, 7), 3, np.float32)
    assert blurred(flat, 4.0) == pytest.approx(flat)
