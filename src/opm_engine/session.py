"""`open_microscope`: the one place where devices, board, engine and pipeline meet.

Separate so that nothing below it constructs anything it uses. Opens what a
`Microscope` describes, real or simulated, and closes it in reverse.
"""

from __future__ import annotations

import atexit
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pymmcore
from pymmcore_plus import CMMCorePlus
from pymmcore_plus.mda import RunState

from opm_engine import autofocus, instrument
from opm_engine.acquisition import Acquisition, acquire
from opm_engine.autofocus import RemoteFocusSearch
from opm_engine.config import ConfigError, Microscope
from opm_engine.daq.guardian import Guardian
from opm_engine.daq.nidaq import NIDaq
from opm_engine.daq.protocol import DaqError
from opm_engine.engine import OPMEngine
from opm_engine.interrupts import Interrupts
from opm_engine.simulation.twin import Twin
from opm_engine.snap import snap, snap_sequence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import useq
    from numpy.typing import NDArray

    from opm_engine.simulation.specimen import Specimen


CANCEL_S = 2.0
"""How long closing waits for a cancelled run."""


def open_microscope(
    source: str | Path | Microscope = "demo",
    *,
    specimen: Specimen | None = None,
    daq_address: str | None = None,
) -> Scope:
    """Open a microscope.

    Parameters
    ----------
    source : str, Path or Microscope
        ``"demo"`` for the simulated microscope, or the path of a microscope TOML.
    specimen : Specimen, optional
        What a simulated microscope looks at.
    daq_address : str, optional
        ``"host:port"`` of a board's gRPC server, instead of ``daq.address``.

    Returns
    -------
    Scope
        Open; use it as a context manager or call ``close``.

    Raises
    ------
    ConfigError
        If the description is wrong.
    DaqError
        If the board cannot be reached or does not fit the description.
    FileNotFoundError
        If there is no such file.
    """
    if isinstance(source, Microscope):
        microscope = source
    elif source == "demo":
        microscope = Microscope.demo()
    elif Path(source).is_file():
        microscope = Microscope.load(source)
    else:
        msg = f'no microscope "{source}": give "demo" or the path of a TOML'
        raise FileNotFoundError(msg)
    if daq_address is not None:
        microscope = microscope.on_board(daq_address)
    return Scope(microscope, specimen=specimen)


class Scope:
    """An open microscope.

    Parameters
    ----------
    microscope : Microscope
    specimen : Specimen, optional
        For a simulated one.

    Attributes
    ----------
    core : CMMCorePlus
        With ``OPMEngine`` as the engine of ``core.mda``.
    engine : OPMEngine
    daq : NIDaq
    twin : Twin or None
        The simulated board and camera, if simulated.
    """

    def __init__(
        self, microscope: Microscope, *, specimen: Specimen | None = None
    ) -> None:
        self.microscope = microscope
        self._closing = ExitStack()
        with ExitStack() as opening:
            self.twin = self._open_twin(opening, specimen)
            self.core = self.twin.core if self.twin else self._open_core(opening)
            address = self.twin.address if self.twin else microscope.daq.address
            self.daq = NIDaq(microscope, address=address)
            guardian = self._start_guardian(opening, address)
            opening.callback(self.daq.close)
            self.daq.open()
            self.engine = OPMEngine(
                self.core,
                microscope,
                self.daq,
                guardian=guardian,
                clock_s=self.twin.seen_until_s if self.twin else time.monotonic,
            )
            self.core.mda.set_engine(self.engine)
            self.engine.turn.guard(self.core.mda)
            if microscope.remote_focus is not None:
                search = RemoteFocusSearch(self.engine, microscope.remote_focus)
                self.engine.register_action(autofocus.ACTION, execute=search.execute)
            instrument.prepare_camera(self.core, microscope)
            self._interrupts = self._prepare_interrupts(opening)
            self.take_interrupts()
            atexit.register(self.close)
            opening.callback(atexit.unregister, self.close)
            self._closing = opening.pop_all()
            self._is_open = True

    def _open_twin(self, opening: ExitStack, specimen: Specimen | None) -> Twin | None:
        if self.microscope.simulation is None:
            return None
        twin = Twin(self.microscope, specimen, address=self.microscope.daq.address)
        opening.callback(twin.close)
        return twin

    def _start_guardian(
        self, opening: ExitStack, address: str | None
    ) -> Guardian | None:
        """Start the guardian, unless the board dies with this process."""
        if self.twin is not None and self.twin.board is not None:
            return None
        guardian = Guardian(self.microscope, address=address)
        opening.callback(self._dismiss, guardian)
        guardian.start()
        return guardian

    def _dismiss(self, guardian: Guardian) -> None:
        """Let the guardian go, unless the board has not obeyed: it tries for longer."""
        if not self.daq.light_possible:
            guardian.stop()

    def _prepare_interrupts(self, opening: ExitStack) -> Interrupts:
        mda, turn = self.core.mda, self.engine.turn
        interrupts = Interrupts(
            run=lambda: turn.running,
            cancel=mda.cancel,
            is_idle=lambda: mda.status.phase is RunState.IDLE,
        )
        opening.callback(interrupts.restore)
        self.engine.supervisor.attend = interrupts.attend
        return interrupts

    def _open_core(self, opening: ExitStack) -> CMMCorePlus:
        core = CMMCorePlus()
        opening.callback(_close_core, core)
        # A registered callback at interpreter exit aborts the process now and then.
        atexit.register(pymmcore.CMMCore.registerCallback, core, None)
        config = Path(self.microscope.mm_config or "")
        if not config.is_file():
            msg = f"mm_config: there is no file {config}"
            raise ConfigError(msg)
        core.loadSystemConfiguration(config)
        return core

    def acquire(
        self,
        sequence: useq.MDASequence,
        out: str | Path,
        *,
        overwrite: bool = False,
        on_frame: Callable[[int, int], None] | None = None,
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

        Returns
        -------
        Acquisition
            What was measured, and where the files are.

        Raises
        ------
        FileExistsError
            If a dataset or report would be overwritten.
        PlanError
            If the microscope cannot play the sequence.
        RuntimeError
            If a run is in progress, or the microscope was closed.
        """
        self._refuse_closed()
        acquisition = acquire(
            self.engine, sequence, Path(out), overwrite=overwrite, on_frame=on_frame
        )
        self.raise_if_interrupted()
        return acquisition

    def raise_if_interrupted(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C has cancelled the last run."""
        if self._interrupts.what_ended(self.engine.turn.number) == signal.SIGINT:
            raise KeyboardInterrupt

    def snap(
        self,
        channels: Sequence[str | dict[str, Any]] | None = None,
        *,
        exposure_ms: float | None = None,
        offset_um: float = 0.0,
        laser_power: dict[str, float] | None = None,
    ) -> dict[str, NDArray[np.uint16]]:
        """Take one plane per channel, through the same path as any scan.

        Parameters
        ----------
        channels : sequence of str or dict, optional
            Names of lasers, or channels as in a sequence; all lasers without it.
        exposure_ms : float, optional
            For channels that do not say; the camera's present one without it.
        offset_um : float
            Scan offset of the plane.
        laser_power : dict, optional
            Laser name to percent.

        Returns
        -------
        dict
            Channel name to plane, (rows, columns) uint16; with several cameras to
            planes, (cameras, rows, columns).

        Raises
        ------
        PlanError
            If the microscope cannot do it.
        RuntimeError
            If a run is in progress, or the microscope was closed.
        """
        self._refuse_closed()
        sequence = snap_sequence(
            self.microscope.laser_names if channels is None else channels,
            group=self.microscope.channel_group,
            exposure_ms=self.core.getExposure() if exposure_ms is None else exposure_ms,
            settings={"offset_um": offset_um, "laser_power": laser_power or {}},
        )
        planes = snap(self.engine, sequence)
        self.raise_if_interrupted()
        return planes

    def _refuse_closed(self) -> None:
        if not self._is_open:
            msg = "this microscope was closed; open it again"
            raise RuntimeError(msg)

    def take_interrupts(self) -> None:
        """Let Ctrl-C and SIGTERM cancel runs; only the main thread can.

        Opening does it; again, if it was another thread that opened.
        """
        self._interrupts.install()

    def describe_as(self, microscope: Microscope) -> None:
        """Change what is set anew for each run; the wiring must be the same."""
        try:
            instrument.prepare_camera(self.core, microscope)
        except Exception:
            instrument.prepare_camera(self.core, self.microscope)
            raise
        self.microscope = self.engine.microscope = microscope

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
            self.engine.make_dark()

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


def _close_core(core: CMMCorePlus) -> None:
    core.unloadAllDevices()
    pymmcore.CMMCore.registerCallback(core, None)
