"""Bursts that the board's own pulses play: trains after each exposure's start."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nidaqs import LASERS, WAVEFORM, assert_dark, changed, opened
from opm_engine.daq.protocol import DaqError, Waveform
from opm_engine.simulation.board import Board
from opm_engine.simulation.products import PRODUCTS

if TYPE_CHECKING:
    from opm_engine.config import Microscope

START_S = 1e3
PERIOD_S = 0.01

RAMP = Waveform(
    digital=np.array([1, 1, 0, 0, 2, 0, 2, 0], np.uint32),
    lines=LASERS,
    analog=np.array([[0.0, 0.1, 0.2, 0.3, 1.0, 0.9, 0.8, 0.7]]),
    channels=("ao0",),
    initial_v=np.array([-0.1]),
    settle_ms=0.5,
    period_ms=10.0,
    n_samples=24,
    max_rate_hz=1000.0,
    sample_ms=1.5,
    samples_per_frame=4,
)
TWO = replace(WAVEFORM, n_samples=12)
"""6 frames, two samples each: on for 6 of 10 ms."""


def expose(
    board: Board, n: int, *, active: bool = True, first_s: float = START_S
) -> None:
    """Exposures of 6 ms every 10 ms; time goes on until the next would begin."""
    for k in range(n):
        begin_s = first_s + PERIOD_S * k
        board.drive("PFI0", active, begin_s)
        board.drive("PFI0", not active, begin_s + 0.006)
    board.advance(first_s + PERIOD_S * n - 1e-6)


def levels_at(board: Board, times_s: np.ndarray) -> list[int]:
    """Port value at each time."""
    words = np.zeros(times_s.size, int)
    for bit, line in enumerate(LASERS):
        changes_s, levels = board.digital_trace(line, START_S - 1, times_s[-1])
        held = levels[np.searchsorted(changes_s, times_s, side="right") - 1]
        words += held.astype(int) << bit
    return words.tolist()


def volts_at(board: Board, channel: str, times_s: np.ndarray) -> list[float]:
    changes_s, volts = board.analog_trace(channel, START_S - 1, times_s[-1])
    return volts[np.searchsorted(changes_s, times_s, side="right") - 1].tolist()


def without_enable(microscope: Microscope) -> Microscope:
    """The PCI-6733 has lines on port0 alone."""
    return changed(microscope, "daq.laser_enable", None)


@pytest.fixture
def old_board(monkeypatch: pytest.MonkeyPatch) -> Board:
    """A board that detects no changes, but whose counters can be retriggered."""
    product = replace(PRODUCTS["PCIe-6738"], change_detection=False)
    monkeypatch.setitem(PRODUCTS, product.name, product)
    return Board(product=product.name)


class TestTrains:
    @pytest.mark.parametrize("polarity", ["active_high", "active_low"])
    def test_play_the_samples_of_each_frame_after_its_start(
        self, demo: Microscope, polarity: str
    ) -> None:
        active = polarity == "active_high"
        board = Board()
        board.drive("PFI0", not active, 0.0)
        microscope = changed(demo, "camera.exposure_out.polarity", polarity)
        with opened(microscope, board) as (daq, _):
            daq.arm(RAMP)
            assert board.volts("ao0") == -0.1
            expose(board, 9, active=active)  # three more than planned
            middles_s = START_S + 1.5e-3 * (np.arange(4) + 0.5)
            times_s = (middles_s + PERIOD_S * np.arange(9)[:, np.newaxis]).ravel()
            played = [*RAMP.digital.tolist() * 3, *[0] * 12]
            assert levels_at(board, times_s) == played
            volts = [*RAMP.analog[0].tolist() * 3, *[0.7] * 12]
            assert volts_at(board, "ao0", times_s) == volts
            assert daq.count() == (6, 9, None)
            daq.make_dark()
            assert daq.count() == (6, 9, None)
            assert_dark(board)

    def test_every_frame_is_synchronised_anew(self) -> None:
        with opened() as (daq, board):
            daq.arm(RAMP)
            jitter_s = 1e-4 * np.array([0, 1, -2, 3, 0, 2])
            begins_s = START_S + PERIOD_S * np.arange(6) + jitter_s
            for begin_s in begins_s:
                board.drive("PFI0", True, begin_s)
                board.drive("PFI0", False, begin_s + 0.006)
            board.advance(START_S + 1)
            rises_s, levels = board.digital_trace("port0/line0", START_S - 1, 2e3)
            assert rises_s[1:][levels[1:]] == pytest.approx(begins_s[::2], abs=1e-7)
            assert daq.count() == (6, 6, None)

    @pytest.mark.parametrize(
        ("seen", "planned", "irregular"),
        [(0, 5, (3, 20)), (2, 6, (3, 4))],
        ids=["missed", "doubled"],
    )
    def test_a_slip_is_found(
        self, seen: int, planned: int, irregular: tuple[int, float]
    ) -> None:
        with opened() as (daq, board):
            daq.arm(RAMP)
            # edges of the fourth exposure; a second start during a train starts none
            edges = iter([1] * 6 + [seen] * 2 + [1] * 4)
            board.edge_filter = lambda level, time_s: next(edges)
            expose(board, 6)
            count = daq.count()
            assert count.planned == planned
            assert count.irregular is not None
            exposure, interval_ms = irregular
            near_ms = pytest.approx(interval_ms, abs=0.011)
            assert count.irregular == (exposure, near_ms, 10, False)

    def test_darkness_in_the_middle_of_a_train(self) -> None:
        with opened() as (daq, board):
            daq.arm(RAMP)
            board.drive("PFI0", True, START_S)
            assert board.line("port0/line0")
            daq.make_dark()
            board.advance(START_S + 1)
            assert_dark(board)
            assert board.rises("port0/line0") == 1
            board.drive("PFI0", False, START_S + 2)
            for _ in range(2):
                daq.arm(RAMP)
                daq.make_dark()

    def test_starts_the_trigger_last(self) -> None:
        with opened() as (daq, board):
            board.calls.clear()
            daq.arm(RAMP)
            calls = list(board.calls)
            starts = [k for k, call in enumerate(calls) if call == "StartTask"]
            assert len(starts) == 5
            trigger = calls.index("CfgDigEdgeStartTrig")
            assert starts[3] < trigger < starts[4] < calls.index("WriteDigitalLines")

    @pytest.mark.parametrize("waveform", [RAMP, WAVEFORM], ids=["pulses", "edges"])
    def test_glitches_are_filtered(self, demo: Microscope, waveform: Waveform) -> None:
        path = "camera.exposure_out.debounce_us"
        with opened(changed(demo, path, 20)) as (daq, board):
            daq.arm(waveform)
            board.drive("PFI0", True, START_S)
            board.drive("PFI0", False, START_S + 10e-6)
            board.advance(START_S + 0.1)
            assert daq.count() == (0, 0, None)
            expose(board, 3, first_s=START_S + 1)
            assert daq.count() == (3, 3, None)
        with opened() as (daq, board):
            daq.arm(waveform)
            board.drive("PFI0", True, START_S)
            board.drive("PFI0", False, START_S + 10e-6)
            board.advance(START_S + 0.1)
            assert daq.count().total == 1


class TestWithoutChangeDetection:
    def test_two_samples_are_played_by_a_train(
        self, demo: Microscope, old_board: Board
    ) -> None:
        with opened(demo, old_board) as (daq, board):
            daq.arm(TWO)
            expose(board, 7)
            # on for the window of 6 ms, as far as the camera's frames go
            times_s, levels = board.digital_trace("port0/line0", START_S - 1, 2e3)
            on_s = START_S + PERIOD_S * np.array([0, 2, 4])
            assert times_s[1:][levels[1:]] == pytest.approx(on_s, abs=1e-6)
            assert times_s[1:][~levels[1:]] == pytest.approx(on_s + 0.006, abs=1e-6)
            times_s = START_S + 0.005 * np.arange(12) + 2e-3
            assert volts_at(board, "ao0", times_s) == [
                *TWO.analog[0].tolist(),
                *TWO.analog[0, :4].tolist(),
            ]
            assert daq.count() == (6, 7, None)

    def test_a_slip_is_found_by_the_starts_alone(
        self, demo: Microscope, old_board: Board
    ) -> None:
        with opened(demo, old_board) as (daq, board):
            daq.arm(TWO)
            edges = iter([1] * 6 + [0] * 2 + [1] * 4)
            board.edge_filter = lambda level, time_s: next(edges)
            expose(board, 6)
            near_ms = pytest.approx(20, abs=0.011)
            assert daq.count() == (5, 5, (3, near_ms, 10, False))

    @pytest.mark.parametrize("waveform", [TWO, RAMP], ids=["two", "four"])
    def test_old_counters_take_two_for_a_train(
        self, demo: Microscope, waveform: Waveform
    ) -> None:
        """All frames in phase, however many; 10 µs late, as the gate needs."""
        board = Board(product="PCI-6733")
        with opened(without_enable(demo), board) as (daq, _):
            k, n = waveform.samples_per_frame, 800
            daq.arm(replace(waveform, n_samples=n * k))
            expose(board, n + 1)
            starts_s = START_S + PERIOD_S * np.arange(n) + 1e-5
            offsets_s = waveform.sample_ms / 1e3 * np.arange(k)
            samples_s = (starts_s[:, np.newaxis] + offsets_s).ravel()
            words = np.resize(waveform.digital, n * k).tolist()
            volts = np.resize(waveform.analog[0], n * k).tolist()
            for late_s in (1e-6, 3e-4):
                assert levels_at(board, samples_s + late_s) == words
                assert volts_at(board, "ao0", samples_s + late_s) == volts
            assert daq.count() == (n, n, None)
            daq.make_dark()
            assert not board.reserved()
            # a reset leaves its outputs, so the last value must be written
            assert not any(board.lines().values())

    def test_a_long_window_is_divided(self, demo: Microscope, old_board: Board) -> None:
        """A train of two pulses of 9.5 ms would outlast a frame of 10 ms."""
        with opened(demo, old_board) as (daq, board):
            daq.arm(replace(TWO, sample_ms=9.5))
            expose(board, 6)
            times_s, _ = board.digital_trace("port0/line0", START_S - 1, 2e3)
            lit_s = np.diff(times_s[1:])[::2]
            assert lit_s == pytest.approx([0.0095] * 3, abs=1e-6)
            assert daq.count() == (6, 6, None)


class TestInputs:
    RECORD: tuple[dict[str, Any], ...] = (
        {"name": "galvo", "channel": "ai0"},
        {"name": "ramp", "channel": "ai5", "range_v": [-5, 5]},
    )

    @pytest.fixture
    def recording(self, demo: Microscope) -> Microscope:
        return changed(demo, "daq.record", self.RECORD)

    def test_at_the_end_of_each_window(self, recording: Microscope) -> None:
        with opened(recording) as (daq, board):
            board.inputs["ai5"] = lambda time_s: (time_s - START_S) / PERIOD_S
            assert daq.inputs().shape == (0, 2)
            daq.arm(WAVEFORM)
            assert daq.inputs().shape == (0, 2)
            expose(board, 5)
            rows = daq.inputs()
            # ai0 sees ao0, before it leaves for the next plane
            assert rows[:, 0].tolist() == [0.5, 0.5, 0.75, 0.25, 0.5]
            # clipped at the end of its range
            assert rows[:, 1] == pytest.approx([0.6, 1.6, 2.6, 3.6, 4.6], abs=1e-6)
            assert daq.inputs().shape == (0, 2)
            expose(board, 9, first_s=START_S + 0.05)  # two more than planned
            daq.make_dark()
            assert len(daq.inputs()) == 7
            assert daq.inputs().shape == (0, 2)
            daq.arm(WAVEFORM)
            assert daq.inputs().shape == (0, 2)

    def test_in_the_middle_of_the_light(self, recording: Microscope) -> None:
        with opened(recording) as (daq, board):
            daq.arm(RAMP)
            board.drive("PFI0", True, START_S)
            board.advance(START_S + 0.004)
            assert daq.inputs().shape == (0, 2)  # not a whole frame
            board.drive("PFI0", False, START_S + 0.006)
            board.advance(START_S + 0.009)
            expose(board, 6, first_s=START_S + PERIOD_S)
            rows = daq.inputs()
            # lit and lit before: sample 1, which sees what sample 0 has put out; then
            # lit before: samples 1 and 3
            even = [0.0, (1.0 + 0.8) / 2]
            assert rows[:, 0] == pytest.approx(even * 3, abs=1e-9)

    def test_too_rarely_read_is_an_error(
        self, recording: Microscope, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("opm_engine.daq.driver_burst.SPARE_INPUTS", 1)
        with opened(recording) as (daq, board):
            daq.arm(replace(WAVEFORM, n_samples=40_000))
            expose(board, 6000)
            with pytest.raises(DaqError, match="read too rarely, some are lost"):
                daq.inputs()
            assert daq.count() == (6000, 6000, None)
            with pytest.raises(DaqError, match="some are lost"):
                daq.make_dark()
            assert_dark(board)

    def test_one_that_the_board_has_not(self, demo: Microscope) -> None:
        record = [{"name": "power", "channel": "ai40"}]
        with (
            pytest.raises(DaqError, match=r"daq.record.power: Dev1 .* has no ai40"),
            opened(changed(demo, "daq.record", record)),
        ):
            pass


class TestMeasuring:
    @pytest.mark.parametrize("polarity", ["active_high", "active_low"])
    def test_times_of_each_level(self, demo: Microscope, polarity: str) -> None:
        active = polarity == "active_high"
        board = Board()
        board.drive("PFI0", not active, 0.0)
        microscope = changed(demo, "camera.exposure_out.polarity", polarity)
        with opened(microscope, board) as (daq, _):
            with daq.measure_exposures(5) as meter:
                assert meter.read().active_ms.size == 0
                for k in range(7):
                    begin_s = START_S + k * (PERIOD_S + 1e-6)
                    board.drive("PFI0", active, begin_s)
                    board.drive("PFI0", not active, begin_s + 0.0025001)
                    meter.read()
                times = meter.read()
                assert times.active_ms == pytest.approx([2.5001] * 7, abs=2e-5)
                idle_ms = times.low_ms if active else times.high_ms
                assert idle_ms == pytest.approx([7.5009] * 6, abs=2e-5)
                assert times.period_ms == pytest.approx([10.001] * 6, abs=2e-5)
                assert not any(board.lines()[line] for line in LASERS)
                assert len(board.open_tasks()) == 2
            assert not board.open_tasks()
            daq.arm(WAVEFORM)

    def test_refused_without_change_detection(
        self, demo: Microscope, old_board: Board
    ) -> None:
        with (
            opened(demo, old_board) as (daq, board),
            pytest.raises(DaqError, match="detects no changes of PFI0; an X-series"),
            daq.measure_exposures(5),
        ):
            pass
        assert not board.open_tasks()

    def test_refused_while_the_camera_exposes(self) -> None:
        with opened() as (daq, board):
            board.drive("PFI0", True, 0.0)
            with (
                pytest.raises(DaqError, match="PFI0 is high"),
                daq.measure_exposures(5),
            ):
                pass
            assert not board.open_tasks()

    def test_lets_go_if_the_board_fails(self) -> None:
        with opened() as (daq, board):
            board.fail("CfgChangeDetectionTiming", -50405)
            with pytest.raises(DaqError, match="NI -50405"), daq.measure_exposures(5):
                pass
            assert not board.open_tasks()
