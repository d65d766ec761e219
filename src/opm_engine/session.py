"""`open_microscope`: the one place where devices, board, engine and pipeline meet.

Separate so that nothing below it constructs anything it uses. Opens what a
`Microscope` describes, real or simulated, and closes it in reverse.
"""

from __future__ import annotations

import atexit
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

import pymmcore
from pymmcore_plus import CMMCorePlus

from opm_engine import autofocus, instrument
from opm_engine.autofocus import RemoteFocusSearch
from opm_engine.base_scope import BaseScope
from opm_engine.config import ConfigError, Microscope
from opm_engine.daq.guardian import Guardian
from opm_engine.daq.nidaq import NIDaq
from opm_engine.engine import OPMEngine
from opm_engine.pipeline import build
from opm_engine.recording import Recording
from opm_engine.replay import ReplayEngine
from opm_engine.simulation.core import pattern_specimen
from opm_engine.simulation.twin import Twin
from opm_engine.snap import snap, snap_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import useq
    from numpy.typing import NDArray

    from opm_engine.replay import Pace
    from opm_engine.simulation.specimen import Specimen

__all__ = ["ReplayScope", "Scope", "build", "open_instrument", "open_microscope"]

DEMO, PATTERN, REPLAY = "demo", "pattern", "replay:"
"""Sources that are no files: the simulated microscope with its specimen or with a test
pattern, and what a stored run begins with."""


@overload
def open_microscope(
    source: Literal["demo", "pattern"] | Path | Microscope = "demo",
    *,
    specimen: Specimen | None = None,
    daq_address: str | None = None,
) -> Scope: ...


@overload
def open_microscope(
    source: str | Path | Microscope,
    *,
    specimen: Specimen | None = None,
    daq_address: str | None = None,
    pace: Pace = "fast",
) -> Scope | ReplayScope: ...


def open_microscope(
    source: str | Path | Microscope = "demo",
    *,
    specimen: Specimen | None = None,
    daq_address: str | None = None,
    pace: Pace = "fast",
) -> Scope | ReplayScope:
    """Open a microscope, or a stored run in its place.

    Parameters
    ----------
    source : str, Path or Microscope
        ``"demo"`` for the simulated microscope, ``"pattern"`` for the same with a test
        pattern on its stage, the path of a microscope TOML, or
        ``"replay:RAW.ome.zarr"`` for a stored run, whose frames then come from there.
    specimen : Specimen, optional
        What a simulated microscope looks at.
    daq_address : str, optional
        ``"host:port"`` of a board's gRPC server, instead of ``daq.address``.
    pace : {"fast", "recorded"}
        Of a replay: as fast as handlers take frames, or as they came.

    Returns
    -------
    Scope or ReplayScope
        Open; use it as a context manager or call ``close``.

    Raises
    ------
    ConfigError
        If the description is wrong.
    DaqError
        If the board cannot be reached or does not fit the description.
    FileNotFoundError
        If there is no such file.
    ValueError
        If a store does not tell what it holds, or there is no such pace.
    """
    if isinstance(source, str) and source.startswith(REPLAY):
        return ReplayScope(source.removeprefix(REPLAY), pace=pace)
    return open_instrument(source, specimen=specimen, daq_address=daq_address)


def open_instrument(
    source: str | Path | Microscope = "demo",
    *,
    specimen: Specimen | None = None,
    daq_address: str | None = None,
) -> Scope:
    """Open a microscope, real or simulated; see `open_microscope`."""
    if isinstance(source, Microscope):
        microscope = source
    elif source in (DEMO, PATTERN):
        microscope = Microscope.demo()
    elif Path(source).is_file():
        microscope = Microscope.load(source)
    else:
        msg = (
            f'no microscope "{source}": give "{DEMO}", "{PATTERN}" or the path of a '
            f'TOML; where no instrument is needed "{REPLAY}" and the path of a store'
        )
        raise FileNotFoundError(msg)
    if daq_address is not None:
        microscope = microscope.on_board(daq_address)
    if source == PATTERN and specimen is None:
        specimen = pattern_specimen(microscope)
    return Scope(microscope, specimen=specimen)


class Scope(BaseScope):
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

    engine: OPMEngine

    def __init__(
        self, microscope: Microscope, *, specimen: Specimen | None = None
    ) -> None:
        self.microscope = microscope
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
            self._opened(opening)
            self.engine.supervisor.attend = self._interrupts.attend

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

    def describe_as(self, microscope: Microscope) -> None:
        """Change what is set anew for each run; the wiring must be the same."""
        try:
            instrument.prepare_camera(self.core, microscope)
        except Exception:
            instrument.prepare_camera(self.core, self.microscope)
            raise
        self.microscope = self.engine.microscope = microscope

    def _make_dark(self) -> None:
        self.engine.make_dark()


class ReplayScope(BaseScope):
    """A stored run in place of a microscope.

    Its sequence runs through the same relays and handlers. Nothing moves or lights.

    Parameters
    ----------
    store : str or Path
        Of raw planes.
    pace : {"fast", "recorded"}

    Attributes
    ----------
    core : CMMCorePlus
        Without devices; with ``ReplayEngine`` as the engine of ``core.mda``.
    engine : ReplayEngine
    microscope : Microscope
        On which the run was acquired.
    """

    engine: ReplayEngine

    def __init__(self, store: str | Path, *, pace: Pace = "fast") -> None:
        recording = Recording(store)
        self.microscope = recording.microscope
        with ExitStack() as opening:
            opening.enter_context(recording.kept())  # from handlers that replace it
            self.core = CMMCorePlus()
            opening.callback(_close_core, self.core)
            self.engine = ReplayEngine(self.core, recording, pace=pace)
            self.core.mda.set_engine(self.engine)
            self.engine.turn.guard(self.core.mda)
            self._opened(opening)
            self.engine.attend = self._interrupts.attend

    @property
    def sequence(self) -> useq.MDASequence:
        """What was run: what a replay can run.

        Raises
        ------
        ValueError
            If the store does not say.
        """
        return self.engine.recording.sequence

    def snap(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: there is no camera.

        Raises
        ------
        RuntimeError
            Always.
        """
        msg = (
            f"a replay has no camera to snap with: run scope.sequence, or read planes "
            f"of {self.engine.recording.store}"
        )
        raise RuntimeError(msg)

    def describe_as(self, microscope: Microscope) -> NoReturn:
        """Refuse: what was acquired cannot be described anew.

        Raises
        ------
        RuntimeError
            Always.
        """
        msg = "a replay's microscope is the one on which the run was acquired"
        raise RuntimeError(msg)


def _close_core(core: CMMCorePlus) -> None:
    core.unloadAllDevices()
    pymmcore.CMMCore.registerCallback(core, None)
