"""Laser bits and galvo volts per camera edge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opm_engine.config import Microscope
from opm_engine.daq.waveforms import burst_waveform
from opm_engine.plan import plan_scan
from sequences import TWO_CHANNELS, scan, settings

# Offsets -1, -0.5, 0, 0.5, 1 µm at 0.05 V/µm.
V = [-0.05, -0.025, 0.0, 0.025, 0.05]


def play(sequence, microscope, burst_number=0):
    """The samples as they appear: (n_samples,) port values and volts."""
    plan = plan_scan(sequence, microscope)
    burst = list(plan.bursts())[burst_number]
    waveform = burst_waveform(plan, burst, microscope)
    index = np.arange(waveform.n_samples) % waveform.digital.size
    return plan, burst, waveform.digital[index], waveform.analog[0][index]


def test_interleaved(demo: Microscope) -> None:
    _, _, digital, volts = play(scan(), demo)
    assert digital.tolist() == [1, 0, 2, 0] * 5
    v0, v1, v2, v3, v4 = V
    expected = [v0] * 3 + [v1] * 4 + [v2] * 4 + [v3] * 4 + [v4] * 5
    np.testing.assert_allclose(volts, expected, atol=1e-12)


def test_sequential(demo: Microscope) -> None:
    for number, mask in enumerate((1, 2)):
        _, _, digital, volts = play(scan(axis_order="tpcz"), demo, number)
        assert digital.tolist() == [mask, 0] * 5
        rise = [V[0], V[1], V[1], V[2], V[2], V[3], V[3], V[4], V[4], V[4]]
        np.testing.assert_allclose(volts, rise, atol=1e-12)


def test_gapless_sequential_with_flyback(demo: Microscope) -> None:
    sequence = scan(axis_order="tpcz", time_plan={"interval": 0, "loops": 2})
    _, _, digital, volts = play(sequence, demo)
    first, second, dark = [1, 0] * 5, [2, 0] * 5, [0, 0]
    both = [*first, *dark, *second]
    assert digital.tolist() == [*both, *dark, *both]
    run = [V[0], V[1], V[1], V[2], V[2], V[3], V[3], V[4], V[4]]
    flyback = [0.0, V[0], V[0]]
    expected = [*run, *flyback] * 3 + [*run, 0.0]
    np.testing.assert_allclose(volts, expected, atol=1e-12)


def test_blanking_off_is_dark_in_the_end(demo: Microscope) -> None:
    sequence = scan(
        channels=TWO_CHANNELS[:1],
        metadata=settings(blanking=False),
        time_plan={"interval": 0, "loops": 2},
    )
    _, _, digital, _ = play(sequence, demo)
    run = [1] * 9 + [0]
    assert digital.tolist() == [*run, 0, 0, *run]


@given(
    order=st.sampled_from(["tpzc", "tpcz", "ptzc", "ptcz"]),
    n_times=st.integers(1, 3),
    n_channels=st.integers(1, 2),
    n_places=st.integers(1, 2),
    n_planes=st.integers(2, 9),
    step_um=st.floats(0.1, 8),
    go_up=st.booleans(),
)
def test_what_every_waveform_keeps(
    order, n_times, n_channels, n_places, n_planes, step_um, go_up
) -> None:
    microscope = Microscope.demo()
    galvo = microscope.daq.galvo
    sequence = scan(
        axis_order=order,
        time_plan={"interval": 0, "loops": n_times},
        stage_positions=[(0, 0)] * n_places,
        channels=TWO_CHANNELS[:n_channels],
        z_plan={
            "range": (n_planes - 1) * step_um + step_um * 0.01,
            "step": step_um,
            "go_up": go_up,
        },
    )
    plan, burst, digital, volts = play(sequence, microscope)
    lit = np.array([burst.is_lit(frame) for frame in range(burst.n_frames)])
    at_start, at_end = digital[0::2], digital[1::2]
    assert digital.size == volts.size == 2 * burst.n_frames
    # One laser in lit frames, none in flyback or during any readout.
    assert all(value.bit_count() == 1 for value in at_start[lit].tolist())
    assert not at_start[~lit].any()
    assert not at_end.any()
    # Each lit frame's plane is reached at the edge before and held to its end.
    events = [plan.index_of(burst, event) for event in range(burst.n_events)]
    wanted = [galvo.volts_at(plan.offset_um(index["z"])) for index in events]
    frames = np.flatnonzero(lit)
    np.testing.assert_allclose(volts[2 * frames], wanted, atol=1e-12)
    reached = volts[2 * frames[1:] - 1]
    np.testing.assert_allclose(reached, wanted[1:], atol=1e-12)
    # No edge asks for more than the galvo can ramp before the next.
    timing = plan.channels[0].timing
    shortest_ms = min(timing.window_ms, timing.readout_ms)
    assert np.abs(np.diff(volts)).max() <= galvo.slew_v_per_ms * shortest_ms + 1e-9
    assert volts.min() >= galvo.range_v[0]
    assert volts.max() <= galvo.range_v[1]


def test_first_voltage_is_the_first_plane(demo: Microscope) -> None:
    plan = plan_scan(scan(), demo)
    waveform = burst_waveform(plan, next(plan.bursts()), demo)
    assert waveform.initial_v == pytest.approx([V[0]])
    assert waveform.lines == ("port0/line0", "port0/line1")
    assert waveform.settle_ms == demo.daq.galvo.settle_ms
    assert waveform.period_ms == 5
    shortest_ms = 256 * 4.868e-3
    assert waveform.max_rate_hz == pytest.approx(1000 / shortest_ms)
