"""`PlayedBurst`: a waveform on its way: what is armed, what was seen, what stands.

Separate from ``nidaq``, which decides what happens in which order on the way out, and
from ``driver_burst``, which talks to NI's library. Lives from arming to darkness.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from opm_engine.daq import driver_burst as tasks
from opm_engine.daq.clocking import GATE_DELAY_MS, rate_of, streams_over_usb
from opm_engine.daq.driver_burst import INPUTS, LASERS, VOLTS, Clock
from opm_engine.daq.exposures import TIMEBASE, ExposureLog
from opm_engine.daq.outputs import outputs_of
from opm_engine.daq.protocol import ExposureCount
from opm_engine.daq.recording import Recorder, frame_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from opm_engine.config import Microscope
    from opm_engine.daq.capabilities import Capabilities
    from opm_engine.daq.clocking import Clocking
    from opm_engine.daq.driver import Driver
    from opm_engine.daq.protocol import Waveform

logger = logging.getLogger(__name__)


class PlayedBurst:
    """One burst on the board. Not thread-safe.

    Parameters
    ----------
    driver : Driver
    microscope : Microscope
    waveform : Waveform
    clocking : Clocking
        Of this waveform.
    device : Capabilities

    Attributes
    ----------
    count : ExposureCount
        When it was last looked at.
    """

    def __init__(
        self,
        driver: Driver,
        microscope: Microscope,
        waveform: Waveform,
        clocking: Clocking,
        device: Capabilities,
    ) -> None:
        self.count = ExposureCount(0, 0)
        self.tasks = tasks.BurstTasks(driver)
        self._daq = microscope.daq
        self._exposure_out = microscope.camera.exposure_out
        self._laser_lines = [laser.line for laser in microscope.lasers]
        outputs = outputs_of(microscope)
        self._outputs = [outputs[channel] for channel in waveform.channels]
        self._waveform = waveform
        self._clocking = clocking
        self._device = device
        self._detects = device.detects_changes(self._exposure_out.terminal)
        n_frames, n_edges = waveform.n_frames, 2 if self._detects else 1
        self._log = ExposureLog(
            n_frames * n_edges,
            waveform.period_ms,
            n_edges,
            device.counter_bits,
            waveform.window_ms,
        )
        self._recorder = Recorder(
            frame_weights(waveform, clocking), n_frames, len(self._daq.record)
        )
        self._rows: list[NDArray[np.float64]] = []
        n_samples = n_frames * clocking.per_frame
        self._volts = clocking.expand(waveform.analog)[:, :n_samples]
        self._words = clocking.expand(waveform.digital)[:n_samples]
        counter = tasks.internal_output(self._daq.pulse_counter)
        source = tasks.CHANGES if clocking.by_edges else counter
        self._clock = Clock(source, n_samples, rate_of(waveform, clocking))
        rising = self._exposure_out.polarity == "active_high"
        terminal, edge_hz = self._exposure_out.terminal, waveform.max_rate_hz
        self._begin = Clock(terminal, n_frames, edge_hz, rising)

    def starts(self) -> list[Callable[[], None]]:
        """What arms it, in this order: no edge meets half an arrangement."""
        clocking = self._clocking
        steps = [] if clocking.gated else [self._stamp]
        if self._daq.record:
            steps.append(partial(self.tasks.record, self._daq.record, self._clock))
        steps += [self._play_lines, self._play_voltages]
        if self._device.on_usb:
            steps.append(self._check_fifo)
        if self._detects and not clocking.gated:
            steps.append(self._detect)
        if clocking.gated:
            steps += [self._make_gated_pulses, self._make_gates]
        elif not clocking.by_edges:
            steps.append(self._make_trains)
        return steps

    def look(self) -> ExposureCount:
        """Count once more."""
        generated = self.tasks.generated
        return self.take_stock(min(generated(LASERS), generated(VOLTS)))

    def take_stock(self, n_played: int) -> ExposureCount:
        """Count, knowing how many samples were played.

        Where a gate has taken the counter that stamps exposures, those after the last
        planned one are not seen, and none is ever irregular.
        """
        planned = n_played // self._clocking.per_frame
        if self._clocking.gated:
            self.count = ExposureCount(planned, planned)
            return self.count
        self._log.add(self.tasks.new_stamps())
        self.count = ExposureCount(planned, self._log.exposures, self._log.irregular)
        return self.count

    def read_inputs(self) -> None:
        """Take what the inputs have recorded, for `take_rows`."""
        if self.tasks.has(INPUTS):
            samples = self.tasks.new_inputs(len(self._daq.record))
            self._rows.append(self._recorder.add(samples))

    def take_rows(self) -> NDArray[np.float64]:
        """Rows (frames, inputs) in volts that were not taken before."""
        rows, self._rows = self._rows, []
        return np.concatenate([np.empty((0, len(self._daq.record))), *rows])

    @property
    def may_move(self) -> bool:
        """Whether edges can play samples: what was armed last is there."""
        last = tasks.GATES if self._clocking.gated else tasks.PULSES
        return self.tasks.has(tasks.EDGES if self._clocking.by_edges else last)

    def standing_v(self, n_played: int) -> dict[str, float]:
        """Analog output → volts after so many samples."""
        volts = self._waveform.initial_v
        if n_played:
            volts = self._volts[:, (n_played - 1) % self._volts.shape[1]]
        return dict(zip(self._waveform.channels, volts.tolist(), strict=True))

    # --------------------------------------------------------------- steps of arming

    def _stamp(self) -> None:
        edges, debounce_us = self._begin, self._exposure_out.debounce_us
        if self._detects:  # and filtered there
            n_edges = 2 * edges.n_samples
            edges, debounce_us = Clock(tasks.CHANGES, n_edges, edges.max_rate_hz), 0.0
        self.tasks.stamp_edges(self._daq.counter, TIMEBASE, edges, debounce_us)

    def _play_lines(self) -> None:
        self.tasks.play_lines(self._laser_lines, self._words, self._clock)

    def _play_voltages(self) -> None:
        self.tasks.play_voltages(self._outputs, self._volts, self._clock)

    def _detect(self) -> None:
        exposure_out = self._exposure_out
        self.tasks.detect_edges(exposure_out.terminal, exposure_out.debounce_us)

    def _make_trains(self) -> None:
        self.tasks.make_trains(
            self._daq.pulse_counter,
            self._begin,
            self._clocking.per_frame,
            self._clocking.sample_ms,
            self._exposure_out.debounce_us,
        )

    def _make_gated_pulses(self) -> None:
        sample_ms = self._clocking.sample_ms
        delay_ms = min(GATE_DELAY_MS, sample_ms / 4)
        gate = tasks.internal_output(self._daq.counter)
        self.tasks.make_gated_pulses(self._daq.pulse_counter, gate, sample_ms, delay_ms)

    def _make_gates(self) -> None:
        width_ms = self._clocking.per_frame * self._clocking.sample_ms
        self.tasks.make_gates(self._daq.counter, self._begin, width_ms)

    def _check_fifo(self) -> None:
        """Warn of samples that must come through USB all the time."""
        fifo = self.tasks.output_fifo()
        why = streams_over_usb(self._waveform, self._clocking, self._device, fifo)
        if why is not None:
            logger.warning(why)
