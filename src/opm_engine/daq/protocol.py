"""What the engine asks of a board, and nothing else.

Separate from ``nidaq`` so that the engine can be read, typed and imported without
NI's library. Knows no sequence and no camera: a board plays samples per camera edge,
counts exposures and goes dark.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from opm_engine.daq.measuring import ExposureMeter


class DaqError(RuntimeError):
    """The board refused, failed or did not answer; the message names the call."""


@dataclass(frozen=True, eq=False)
class Waveform:
    """Samples that one burst plays, a fixed number per camera frame.

    With two samples per frame, sample ``2 f`` appears at the rising edge of frame
    ``f``'s exposure-out, sample ``2 f + 1`` at its falling edge. With K more, or on a
    board that detects no changes, the rising edge starts K pulses of the board's own
    clock: sample ``K f + i`` appears ``i * sample_ms`` after it, whatever the falling
    edge does. The arrays hold one period; the board repeats them until ``n_samples``
    have been played and then holds the last one.

    Attributes
    ----------
    digital : ndarray, (P,) uint32
        Port values, bit *i* is line *i* of the port.
    lines : tuple of str
        Lines the port value may raise, like ``"port0/line0"``.
    analog : ndarray, (len(channels), P) float64
        Volts.
    channels : tuple of str
        Analog output channels, like ``"ao0"``, in the order of ``analog``: galvo,
        projection galvo if there is one, power outputs.
    initial_v : ndarray, (len(channels),) float64
        Volts written and settled before the first edge.
    settle_ms : float
        Time to wait after ``initial_v`` was reached.
    period_ms : float
        From frame to frame: each edge follows the one before the last after this.
    n_samples : int
        Samples to play in all: frames times ``samples_per_frame``.
    max_rate_hz : float
        Upper bound of the edge rate, for the board's own timing checks.
    samples_per_frame : int
        K; 2 or more.
    window_ms : float, optional
        For how long exposure-out is active in each frame, if it shall be judged.
    sample_ms : float
        With K = 2 the window in which all rows expose, less than period_ms. With K
        more the time between the samples of a frame; K * sample_ms is then less than
        period_ms.
    """

    digital: NDArray[np.uint32]
    lines: tuple[str, ...]
    analog: NDArray[np.float64]
    channels: tuple[str, ...]
    initial_v: NDArray[np.float64]
    settle_ms: float
    period_ms: float
    n_samples: int
    max_rate_hz: float
    sample_ms: float
    samples_per_frame: int = 2
    window_ms: float | None = None

    @property
    def n_frames(self) -> int:
        """Camera frames that the samples answer."""
        return self.n_samples // self.samples_per_frame


class Irregularity(NamedTuple):
    """An exposure that came too early or too late, or lasted too long or too short."""

    exposure: int
    """Counted from 0, as the board saw them."""
    interval_ms: float
    """After the one before."""
    planned_ms: float
    is_width: bool = False
    """Whether ``interval_ms`` is how long it lasted."""


class ExposureCount(NamedTuple):
    """What the board saw of the camera since it was armed."""

    planned: int
    """Exposures that were answered with planned samples."""
    total: int
    """All exposures, those after the last planned one included."""
    irregular: Irregularity | None = None
    """The first of the planned exposures that came too early or too late.

    From there on light and galvo may be out of phase with the camera, even if the
    numbers agree: a camera that exposes on makes up for what the board has missed.
    Whole exposures missed before the first one seen cannot show here.
    """


class Daq(Protocol):
    """A board that plays waveforms on the camera's edges.

    ``open`` once; per burst ``arm``, then (while and after the camera runs) ``count``
    and ``inputs``, then ``make_dark``; ``close`` once. All of it from any thread.
    """

    def open(self) -> None:
        """Reach the device, check it against the microscope and make it dark."""

    def refuse(self, waveform: Waveform) -> None:
        """Raise if this board cannot play ``waveform``; asks nothing of the device."""

    def arm(self, waveform: Waveform) -> None:
        """Play ``waveform`` on the coming edges; ready when this returns.

        On any failure everything is dark and released before the error is raised.
        """

    def count(self) -> ExposureCount:
        """Exposures seen since ``arm``. The board may go dark if nobody asks."""

    def inputs(self) -> NDArray[np.float64]:
        """Rows (frames, inputs) in volts that were recorded since the last call."""

    def measure_exposures(
        self, n_exposures: int
    ) -> AbstractContextManager[ExposureMeter]:
        """Within, time the edges of exposures, all dark and nothing armed."""

    def make_dark(self, once_dark: Callable[[], object] | None = None) -> None:
        """Lasers off, power outputs 0 V, then the galvos ramped to park.

        May be called twice. ``once_dark`` is called when the light is off, before the
        galvos move; not, if it does not go off. It must return at once.
        """

    def close(self) -> None:
        """Make dark and let the device go. May be called twice."""
