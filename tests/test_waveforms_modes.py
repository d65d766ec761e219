"""Galvo volts, laser bits and powers of every mode, sample by sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from opm_engine.config import Galvo, Microscope
from opm_engine.daq.protocol import Waveform
from opm_engine.daq.waveforms import burst_waveform
from opm_engine.plan import Burst, PlanError, ScanPlan, plan_scan
from scopes import full, powered
from sequences import TWO_CHANNELS, scan
from sequences import settings as metadata

LOOSE = 1e-6


class Played(NamedTuple):
    """What the board puts out in one burst, and when each sample appears."""

    plan: ScanPlan
    burst: Burst
    waveform: Waveform
    starts_ms: NDArray[np.float64]
    digital: NDArray[np.uint32]
    analog: NDArray[np.float64]

    @property
    def middles_ms(self) -> NDArray[np.float64]:
        """Middle of the time for which each sample is held."""
        return (self.starts_ms + np.append(self.starts_ms[1:], self.end_ms)) / 2

    @property
    def end_ms(self) -> float:
        return self.burst.n_frames * self.waveform.period_ms

    @property
    def lit_frames(self) -> list[int]:
        return [f for f in range(self.burst.n_frames) if self.burst.is_lit(f)]

    def frames(self, samples: NDArray[Any]) -> NDArray[Any]:
        """(n_samples,) -> (frames, K)."""
        return samples.reshape(self.burst.n_frames, -1)


def play(sequence, microscope: Microscope, number: int = 0) -> Played:
    plan = plan_scan(sequence, microscope)
    burst = list(plan.bursts())[number]
    waveform = burst_waveform(plan, burst, microscope)
    index = np.arange(waveform.n_samples) % waveform.digital.size
    samples = waveform.samples_per_frame
    starts_ms = np.add.outer(
        np.arange(burst.n_frames) * waveform.period_ms,
        np.arange(samples) * waveform.sample_ms,
    )
    return Played(
        plan,
        burst,
        waveform,
        starts_ms.ravel(),
        waveform.digital[index],
        waveform.analog[:, index],
    )


def assert_shapes(played: Played) -> None:
    waveform, burst = played.waveform, played.burst
    assert waveform.n_samples == waveform.samples_per_frame * burst.n_frames
    assert waveform.analog.shape == (len(waveform.channels), waveform.digital.size)
    assert waveform.initial_v.shape == (len(waveform.channels),)
    assert waveform.digital.size <= waveform.n_samples
    if waveform.samples_per_frame > 2:
        length_ms = waveform.samples_per_frame * waveform.sample_ms
        assert length_ms < waveform.period_ms
        ticks = waveform.sample_ms * 1e5
        assert abs(ticks - round(ticks)) < LOOSE


def assert_light(played: Played) -> None:
    """Each lit frame has its own laser's light, in the window; all else is dark."""
    plan, burst = played.plan, played.burst
    bits = played.frames(played.digital)
    assert not bits[~np.isin(np.arange(burst.n_frames), played.lit_frames)].any()
    for event, frame in enumerate(played.lit_frames):
        channel = plan.channels[plan.index_of(burst, event)["c"]]
        on = np.flatnonzero(bits[frame])
        assert set(bits[frame][on]) == {1 << int(channel.line[-1])}
        assert list(on) == list(range(*channel.light))
        ends_ms = (on[-1] + 1) * played.waveform.sample_ms
        assert ends_ms <= channel.timing.window_ms + LOOSE
        assert on.size * played.waveform.sample_ms == pytest.approx(channel.light_ms)
    assert played.digital[-1] == 0


def assert_range(played: Played, galvos: list[Galvo]) -> None:
    for galvo, volts in zip(galvos, played.analog, strict=False):
        assert volts.min() >= galvo.range_v[0] - LOOSE
        assert volts.max() <= galvo.range_v[1] + LOOSE


def assert_smooth(
    volts: NDArray[np.float64],
    middles_ms: NDArray[np.float64],
    galvo: Galvo,
    rest_v: float,
) -> None:
    """Slew and acceleration of the path on which the stairs lie, from rest to rest."""
    gap_ms = galvo.move_ms(1.0)
    times = np.concatenate([[middles_ms[0] - gap_ms], middles_ms])
    volts = np.concatenate([[rest_v], volts])
    times = np.append(times, times[-1] + gap_ms)
    volts = np.append(volts, volts[-1])
    speeds = np.diff(volts) / np.diff(times)
    assert np.abs(speeds).max() <= galvo.slew_v_per_ms * (1 + LOOSE)
    if galvo.acceleration_v_per_ms2 is not None:
        apart_ms = (times[2:] - times[:-2]) / 2
        gained = np.abs(np.diff(speeds)) / apart_ms
        assert gained.max() <= galvo.acceleration_v_per_ms2 * (1 + LOOSE)


def assert_in_the_middle(played: Played, galvo: Galvo) -> None:
    """Each plane at its offset, its channels c / C of a step on, at mid-window."""
    plan, burst = played.plan, played.burst
    sampling = plan.channels_of(burst)[0].sampling
    frames_ms = np.array(played.lit_frames) * played.waveform.period_ms
    middles_ms = frames_ms + sampling.n_window * sampling.sample_ms / 2
    wanted_um = []
    for event in range(burst.n_events):
        index = plan.index_of(burst, event)
        sign = -1 if plan.is_backward(index["t"]) else 1
        shift = index["c"] / len(plan.channels) if plan.channel_offsets_um else 0
        plane = plan.plane_of(index["t"], index["z"]) + sign * shift
        wanted_um.append(plan.start_um + plane * plan.step_um)
    volts = np.interp(middles_ms, played.middles_ms, played.analog[0])
    wanted_v = [galvo.volts_at(offset_um) for offset_um in wanted_um]
    np.testing.assert_allclose(volts, wanted_v, atol=1e-9)


GALVOS = st.fixed_dictionaries(
    {
        "acceleration_v_per_ms2": st.none() | st.floats(0.3, 100),
        "slew_v_per_ms": st.floats(0.3, 10),
        "settle_ms": st.floats(0, 1),
        "volts_per_um": st.sampled_from([0.05, -0.02]),
    }
)
SCANS = st.fixed_dictionaries(
    {
        "order": st.sampled_from(["tpzc", "tpcz", "ptzc"]),
        "n_times": st.integers(1, 4),
        "n_channels": st.integers(1, 2),
        "n_planes": st.integers(2, 12),
        "step_um": st.floats(0.1, 4),
        "go_up": st.booleans(),
        "exposure_ms": st.sampled_from([2.0, 5.0, 100.0]),
        "bidirectional": st.booleans(),
    }
)

LONG_WAY_BACK = {
    "order": "tpzc",
    "n_times": 3,
    "n_channels": 1,
    "n_planes": 12,
    "step_um": 1.0,
    "go_up": True,
    "exposure_ms": 2.0,
    "bidirectional": False,
}
SLOW = {
    "acceleration_v_per_ms2": None,
    "slew_v_per_ms": 0.3,
    "settle_ms": 0.3,
    "volts_per_um": 0.05,
}
"""Takes more than a frame for it."""


def sequence_of(wishes: dict[str, Any], **chosen: Any):
    n_planes, step_um = wishes["n_planes"], wishes["step_um"]
    channels = [
        {**channel, "exposure": wishes["exposure_ms"]}
        for channel in TWO_CHANNELS[: wishes["n_channels"]]
    ]
    return scan(
        axis_order=wishes["order"],
        time_plan={"interval": 0, "loops": wishes["n_times"]},
        channels=channels,
        z_plan={
            "range": (n_planes - 1) * step_um + step_um * 0.01,
            "step": step_um,
            "go_up": wishes["go_up"],
        },
        metadata=metadata(bidirectional=wishes["bidirectional"], **chosen),
    )


def try_to_play(wishes, limits, **chosen: Any) -> tuple[Played, Galvo]:
    changes = {f"daq__galvo__{name}": value for name, value in limits.items()}
    microscope = full(**changes)
    try:
        played = play(sequence_of(wishes, **chosen), microscope)
    except PlanError:
        assume(False)
        raise
    return played, microscope.daq.galvo


@settings(deadline=None)
@given(wishes=SCANS, limits=GALVOS)
def test_ramps(wishes, limits) -> None:
    played, galvo = try_to_play(wishes, limits, motion="ramp")
    assert_shapes(played)
    assert_light(played)
    assert_range(played, [galvo])
    assert_in_the_middle(played, galvo)
    (volts,), (initial_v,) = played.analog, played.waveform.initial_v
    assert_smooth(volts, played.middles_ms, galvo, initial_v)
    assert_at_speed(played, galvo)
    period = played.waveform.analog[0]
    assert abs(period[0] - initial_v) <= abs(np.diff(period)).max() + LOOSE


def assert_at_speed(played: Played, galvo: Galvo) -> None:
    """In every lit window, and for the settling time before the first of a run."""
    plan, timing = played.plan, played.plan.channels_of(played.burst)[0].timing
    step_v = abs(plan.step_um * galvo.volts_per_um)
    v_per_ms = step_v / (plan.frames_per_plane * timing.period_ms)
    speeds = np.abs(np.diff(played.analog[0]) / np.diff(played.middles_ms))
    sampling = plan.channels_of(played.burst)[0].sampling
    for frame in played.lit_frames:
        begin_ms = frame * timing.period_ms
        end_ms = begin_ms + sampling.n_window * sampling.sample_ms
        if not played.burst.is_lit(frame - 1):
            begin_ms -= galvo.settle_ms
        inside = (played.middles_ms >= begin_ms) & (played.middles_ms <= end_ms)
        both = inside[:-1] & inside[1:]
        np.testing.assert_allclose(speeds[both], v_per_ms, rtol=1e-6, atol=1e-9)


@settings(deadline=None)
@given(wishes=SCANS, limits=GALVOS, pulse_part=st.none() | st.floats(0.02, 1))
@example(wishes=LONG_WAY_BACK, limits=SLOW, pulse_part=0.5)
@example(wishes=LONG_WAY_BACK, limits=SLOW, pulse_part=None)
def test_steps(wishes, limits, pulse_part) -> None:
    window_ms = wishes["exposure_ms"] - 256 * 4.868e-3
    pulses = {"pulse_ms": {"488": window_ms * pulse_part}} if pulse_part else {}
    played, galvo = try_to_play(wishes, limits, **pulses)
    assert_shapes(played)
    assert_light(played)
    assert_range(played, [galvo])
    assert_in_the_middle(played, galvo)
    assert played.waveform.initial_v[0] == played.analog[0, 0]
    assert_settled(played, galvo)


def assert_settled(played: Played, galvo: Galvo) -> None:
    """At rest in each window, having had the time to get there and settle."""
    channel = played.plan.channels_of(played.burst)[0]
    in_windows = played.frames(played.analog[0])[:, : channel.sampling.n_window]
    assert np.ptp(in_windows[played.lit_frames], axis=1).max() == 0
    moved_v = np.diff(played.analog[0])
    moves = np.flatnonzero(np.abs(moved_v) > 1e-9)
    if played.waveform.samples_per_frame == 2:
        edges_ms = np.append(played.starts_ms, played.end_ms)[1:]
        lit = np.array(played.lit_frames)
        for move in moves:
            # done before the next edge, settled before the next light
            move_ms = galvo.move_ms(moved_v[move])
            assert move_ms <= edges_ms[move + 1] - edges_ms[move] + LOOSE
            if (following := lit[2 * lit > move]).size and not (
                (moves > move) & (moves < 2 * following[0])
            ).any():
                left_ms = played.starts_ms[2 * following[0]] - edges_ms[move]
                assert move_ms + galvo.settle_ms <= left_ms + LOOSE
    elif played.burst.n_dark and played.burst.n_runs > 1:
        run = played.burst.frames_per_run * played.waveform.samples_per_frame
        begin = played.burst.n_lit * played.waveform.samples_per_frame
        volts, rest_v = played.analog[0][begin:run], played.analog[0][begin - 1]
        assert_smooth(volts, played.middles_ms[begin:run], galvo, rest_v)
        returning = moves[(moves >= begin - 1) & (moves < run - 1)] + 1
        rests_ms = played.starts_ms[run] - played.starts_ms[returning[-1]]
        assert rests_ms >= galvo.settle_ms - LOOSE


@settings(deadline=None)
@given(
    limits=GALVOS,
    shift=GALVOS,
    range_um=st.floats(1, 60),
    centre_um=st.floats(-30, 30),
    exposure_ms=st.sampled_from([3.0, 5.0, 50.0]),
    n_times=st.integers(1, 3),
)
def test_sweeps(limits, shift, range_um, centre_um, exposure_ms, n_times) -> None:
    changes = {f"daq__galvo__{name}": value for name, value in limits.items()}
    changes |= {f"daq__projection__{name}": value for name, value in shift.items()}
    microscope = full(**changes, daq__projection__offset_v=0.0)
    wishes = {"mode": "projection", "range_um": range_um, "offset_um": centre_um}
    channels = [{**channel, "exposure": exposure_ms} for channel in TWO_CHANNELS]
    sequence = scan(
        channels=channels,
        z_plan=None,
        time_plan={"interval": 0, "loops": n_times},
        metadata=metadata(**wishes),
    )
    try:
        played = play(sequence, microscope)
    except PlanError:
        assume(False)
        raise
    galvo, projection = microscope.daq.galvo, microscope.daq.projection
    assert projection is not None
    assert played.waveform.channels == ("ao0", "ao1")
    assert_shapes(played)
    assert_light(played)
    assert_range(played, [galvo, projection])
    channel = played.plan.channels[0]
    first, stop = channel.light
    sampling = channel.sampling
    lit_ms = (np.arange(first, stop) - first + 0.5) * sampling.sample_ms
    offsets_um = centre_um + range_um * (lit_ms / channel.light_ms - 0.5)
    for mover, ratio, volts, initial_v in zip(
        (galvo, projection),
        (1, projection.shear_ratio),
        played.analog,
        played.waveform.initial_v,
        strict=True,
    ):
        wanted_v = [mover.volts_at(ratio * offset_um) for offset_um in offsets_um]
        for frame in played.frames(volts):
            np.testing.assert_allclose(frame[first:stop], wanted_v, atol=1e-9)
            # back and settled when the next window opens
            resting_ms = (
                played.waveform.period_ms
                - np.arange(frame.size)[
                    np.flatnonzero(np.abs(frame - frame[-1]) > 1e-9)[-1] + 1
                ]
                * played.waveform.sample_ms
            )
            assert resting_ms >= mover.settle_ms - LOOSE
            assert frame[-1] == pytest.approx(initial_v)
        assert_smooth(volts, played.middles_ms, mover, initial_v)


# ------------------------------------------------------------------------- by hand


def test_both_ways() -> None:
    sequence = scan(
        metadata=metadata(bidirectional=True),
        time_plan={"interval": 0, "loops": 3},
        channels=TWO_CHANNELS[:1],
        z_plan={"range": 2, "step": 1},
    )
    played = play(sequence, full())
    there = [-0.05, 0.0, 0.0, 0.05, 0.05, 0.05]
    back = [0.05, 0.0, 0.0, -0.05, -0.05, -0.05]
    np.testing.assert_allclose(played.analog[0], [*there, *back, *there], atol=1e-12)
    assert played.waveform.digital.size == 12


def test_both_ways_with_an_interval() -> None:
    sequence = scan(
        metadata=metadata(bidirectional=True),
        time_plan={"interval": 1, "loops": 3},
        channels=TWO_CHANNELS[:1],
        z_plan={"range": 2, "step": 1},
    )
    for t, first_v in enumerate((-0.05, 0.05, -0.05)):
        played = play(sequence, full(), t)
        assert played.waveform.initial_v == pytest.approx([first_v])
        assert played.analog[0, -1] == pytest.approx(-first_v)


def test_stage_scan_leaves_the_galvo_alone() -> None:
    played = play(scan(metadata=metadata(mode="stage", offset_um=4.0)), full())
    np.testing.assert_allclose(played.analog, 0.2)
    bits = played.frames(played.digital)[:, 0].tolist()
    assert bits == [0, 0, 0] + [1, 2] * 5
    assert_light(played)


def test_single_plane_at_an_offset() -> None:
    played = play(scan(z_plan=None, metadata=metadata(offset_um=4.0)), full())
    np.testing.assert_allclose(played.analog, 0.2)
    assert played.digital.tolist() == [1, 0]


POWER = {"488": 10.0, "561": 40.0}
"""0.5 and 2 V of 5 V."""


def test_powers_follow_interleaved_channels() -> None:
    played = play(scan(metadata=metadata(laser_power=POWER)), powered())
    assert played.waveform.channels == ("ao0", "ao2", "ao3")
    np.testing.assert_array_equal(played.waveform.initial_v[1:], 0)
    blue, green = (played.frames(volts) for volts in played.analog[1:])
    np.testing.assert_allclose(blue, [[0.5, 0.5], [0, 0]] * 5)
    np.testing.assert_allclose(green, [[0, 0], [2, 2]] * 4 + [[0, 0], [2, 0]])
    assert_light(played)


def test_powers_of_channels_one_after_the_other() -> None:
    sequence = scan(axis_order="tpcz", metadata=metadata(laser_power=POWER))
    for number, levels in enumerate(((0.5, 0.0), (0.0, 2.0))):
        played = play(sequence, powered(), number)
        assert played.waveform.channels == ("ao0", "ao2", "ao3")
        for volts, level in zip(played.analog[1:], levels, strict=True):
            np.testing.assert_allclose(volts, [level] * 9 + [0])


@pytest.mark.parametrize(
    "wishes",
    [
        {"motion": "ramp"},
        {"pulse_ms": {"488": 1.0}},
        {"motion": "ramp", "bidirectional": True},
    ],
    ids=lambda wishes: "-".join(wishes),
)
def test_powers_are_0_wherever_a_channel_is_not(wishes) -> None:
    sequence = scan(
        metadata=metadata(laser_power=POWER, **wishes),
        time_plan={"interval": 0, "loops": 3},
    )
    played = play(sequence, powered())
    assert_shapes(played)
    lit = [played.burst.is_lit(frame) for frame in range(played.burst.n_frames)]
    for number, level in enumerate((0.5, 2.0)):
        volts = played.frames(played.analog[1 + number])
        light = played.frames(played.digital) == 1 << number
        assert not volts[~np.array(lit)].any()
        np.testing.assert_allclose(volts[light], level)
        assert not volts[played.frames(played.digital) == 2 >> number].any()
        assert played.analog[1 + number, -1] == 0


def test_a_laser_that_is_not_used_is_not_played() -> None:
    sequence = scan(
        channels=TWO_CHANNELS[:1], metadata=metadata(laser_power={"488": 10.0})
    )
    assert play(sequence, powered()).waveform.channels == ("ao0", "ao2")


def test_blanking_off_on_a_ramp_is_dark_in_lead_in_and_flyback() -> None:
    sequence = scan(
        channels=TWO_CHANNELS[:1],
        metadata=metadata(motion="ramp", blanking=False),
        time_plan={"interval": 0, "loops": 2},
    )
    played = play(sequence, full())
    bits = played.frames(played.digital)
    lit = [played.burst.is_lit(frame) for frame in range(played.burst.n_frames)]
    np.testing.assert_array_equal(bits[:, 0].astype(bool), lit)
    n_window = played.plan.channels[0].sampling.n_window
    for frame in (5, 12):
        assert not bits[frame, n_window:].any()
    assert bits[1:5].all()


def test_a_hundred_thousand_planes_are_quick_to_write() -> None:
    sequence = scan(z_plan={"range": 99, "step": 0.001}, channels=TWO_CHANNELS[:1])
    played = play(sequence, full())
    assert played.waveform.n_samples == 2 * 99_001
