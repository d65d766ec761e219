"""`BaseScope`: what can be done with an open microscope, whatever its frames come from.

Separate from ``session``, which opens it and knows what that takes. Knows runs and
folders, no device.
"""

from __future__ import annotations

import atexit
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pymmcore_plus.mda import RunState

from opm_engine.acquisition import Acquisition, acquire
from opm_engine.daq.protocol import DaqError
from opm_engine.interrupts import Interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import useq
    from pymmcore_plus import CMMCorePlus

    from opm_engine.config import Microscope
    from opm_engine.engine import OPMEngine
    from opm_engine.replay import ReplayEngine
    from opm_engine.writers.shards.sink import Codec

CANCEL_S = 2.0
"""How long closing waits for a cancelled run."""


class BaseScope:
    """An open microscope; subclasses open it, and then call `_opened`.

    Attributes
    ----------
    core : CMMCorePlus
        With ``engine`` as the engine of ``core.mda``.
    engine : OPMEngine or ReplayEngine
    microscope : Microscope
    """

    core: CMMCorePlus
    engine: OPMEngine | ReplayEngine
    microscope: Microscope
    _interrupts: Interrupts
    _closing: ExitStack
    _is_open: bool = False

    def _opened(self, opening: ExitStack) -> None:
        """Keep what has to be closed; let Ctrl-C and the end of the process do it."""
        self._interrupts = self._prepare_interrupts(opening)
        self.take_interrupts()
        atexit.register(self.close)
        opening.callback(atexit.unregister, self.close)
        self._closing = opening.pop_all()
        self._is_open = True

    def _prepare_interrupts(self, opening: ExitStack) -> Interrupts:
        mda, turn = self.core.mda, self.engine.turn
        interrupts = Interrupts(
            run=lambda: turn.running,
            cancel=mda.cancel,
            is_idle=lambda: mda.status.phase is RunState.IDLE,
        )
        opening.callback(interrupts.restore)
        return interrupts

    def acquire(
        self,
        sequence: useq.MDASequence,
        out: str | Path,
        *,
        overwrite: bool = False,
        on_frame: Callable[[int, int], None] | None = None,
        progress_file: str | Path | None = None,
        codec: Codec = "lz4",
        pipeline: Sequence[Any] | None = None,
    ) -> Acquisition:
        """Acquire a sequence into a folder: raw, deskewed, projections, log, TOML.

        Parameters
        ----------
        sequence : useq.MDASequence
        out : path
            Made if missing; may hold other files. ``{run:03d}`` in it becomes the
            first free number, from 0.
        overwrite : bool
            Replace datasets and reports of an earlier acquisition.
        on_frame : callable, optional
            Called with the number of frames so far and of all (0 if mode is off);
            must be quick.
        progress_file : path, optional
            Gets a line ``{"acknowledged": N}`` at least every 100 ms: raw frames that
            nothing can take any more.
        codec : {"lz4", "zstd", "none"}
            Of raw and deskewed data.
        pipeline : list of stages, optional
            What is done with the frames, see `opm_engine.pipeline`, instead of
            `opm_engine.acquisition.PIPELINE`. Writers' paths count from ``out``.

        Returns
        -------
        Acquisition
            What was measured, and where the files are.

        Raises
        ------
        FileExistsError
            If a dataset or report would be overwritten.
        OSError
            If the data cannot fit on the disk, or ``progress_file`` not be written.
        PlanError
            If the microscope cannot play the sequence.
        RuntimeError
            If a run is in progress, or the microscope was closed.
        """
        self._refuse_closed()
        acquisition = acquire(
            self.engine,
            sequence,
            Path(out),
            overwrite=overwrite,
            on_frame=on_frame,
            progress_file=None if progress_file is None else Path(progress_file),
            codec=codec,
            pipeline=pipeline,
        )
        self.raise_if_interrupted()
        return acquisition

    def raise_if_interrupted(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C has cancelled the last run."""
        if self._interrupts.what_ended(self.engine.turn.number) == signal.SIGINT:
            raise KeyboardInterrupt

    def _refuse_closed(self) -> None:
        if not self._is_open:
            msg = "this microscope was closed; open it again"
            raise RuntimeError(msg)

    def take_interrupts(self) -> None:
        """Let Ctrl-C and SIGTERM cancel runs; only the main thread can.

        Opening does it; again, if it was another thread that opened.
        """
        self._interrupts.install()

    def close(self) -> None:
        """Make dark, cancel what runs, let all devices go. May be called twice.

        A run that goes on in another thread is given a moment to end; after an
        interrupt in its own thread the runner says for ever that it is running.
        """
        was_open, self._is_open = self._is_open, False
        if not was_open:
            return
        with self._closing as backwards:
            backwards.callback(self._await_end)
            self.core.mda.cancel()
            self._make_dark()

    def _make_dark(self) -> None:
        """Switch off whatever may light; with no device there is nothing."""

    def _await_end(self) -> None:
        deadline_s = time.monotonic() + CANCEL_S
        while self.core.mda.is_running() and time.monotonic() < deadline_s:
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.close()
        except DaqError as second:
            if error is None:
                raise
            error.add_note(f"and then: {second}")  # what came first is the reason
