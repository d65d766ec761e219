"""`open_microscope`: the one place where devices, board, engine and pipeline meet.

Separate so that nothing below it constructs anything it uses. Opens what a
`Microscope` describes, real or simulated, and closes it in reverse.
"""

from __future__ import annotations

import atexit
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pymmcore
from pymmcore_plus import CMMCorePlus

from opm_engine import instrument
from opm_engine.acquisition import Acquisition, acquire
from opm_engine.config import ConfigError, Microscope
from opm_engine.daq.nidaq import NIDaq
from opm_engine.engine import OPMEngine
from opm_engine.simulation.twin import Twin

if TYPE_CHECKING:
    from collections.abc import Callable

    import useq

    from opm_engine.simulation.specimen import Specimen


CANCEL_S = 2.0
"""How long closing waits for a cancelled run."""


def open_microscope(
    source: str | Path | Microscope = "demo", *, specimen: Specimen | None = None
) -> Scope:
    """Open a microscope.

    Parameters
    ----------
    source : str, Path or Microscope
        ``"demo"`` for the simulated microscope, or the path of a microscope TOML.
    specimen : Specimen, optional
        What a simulated microscope looks at.

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
            address = self.twin.address if self.twin else None
            self.daq = NIDaq(microscope, address=address)
            opening.callback(self.daq.close)
            self.daq.open()
            self.engine = OPMEngine(self.core, microscope, self.daq)
            self.core.mda.set_engine(self.engine)
            instrument.prepare_camera(self.core, microscope)
            self._closing = opening.pop_all()
            self._is_open = True

    def _open_twin(self, opening: ExitStack, specimen: Specimen | None) -> Twin | None:
        if self.microscope.simulation is None:
            return None
        twin = Twin(self.microscope, specimen)
        opening.callback(twin.close)
        return twin

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
        if not self._is_open:
            msg = "this microscope was closed; open it again"
            raise RuntimeError(msg)
        return acquire(
            self.engine, sequence, Path(out), overwrite=overwrite, on_frame=on_frame
        )

    def close(self) -> None:
        """Make dark, cancel what runs, let all devices go. May be called twice.

        A run that goes on in another thread is given a moment to end; after an
        interrupt in its own thread the runner says for ever that it is running.
        """
        self._is_open = False
        with self._closing as last_to_first:
            last_to_first.callback(self._await_end)
            self.core.mda.cancel()
            self.engine.make_dark()

    def _await_end(self) -> None:
        deadline_s = time.monotonic() + CANCEL_S
        while self.core.mda.is_running() and time.monotonic() < deadline_s:
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()


def _close_core(core: CMMCorePlus) -> None:
    core.unloadAllDevices()
    pymmcore.CMMCore.registerCallback(core, None)
