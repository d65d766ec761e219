"""`Recording`: a stored run as a source of planes, with all that was known of it.

Separate from what is made of it, replay or reprocessing: both begin here. Knows no
runner and no deskew.
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import useq

from opm_engine.config import Microscope
from opm_engine.plan import PlanError, ScanPlan, plan_scan
from opm_engine.writers.lock import StoreLock
from opm_engine.writers.node import NAME
from opm_engine.writers.planes import StoredPlanes
from opm_engine.writers.reading import read_block, read_flags, read_frames, read_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opm_engine.plan import Flag, Inputs, Place, Stream

OF_IMAGES = {"position", "flags", "frames"}
"""Keys in the block that are about one image, not the run."""

SEQUENCE = "sequence"
"""Key in the block of the sequence that was run."""

RAW = "raw.ome.zarr"
"""What is meant by the folder of a run."""

N_NAMED = 5
"""Differences that are named; more tell no more."""

_TOLERANCE = 1e-6
"""Relative, between a number that was stored and the same one worked out again."""


class Recording:
    """A stored run.

    Parameters
    ----------
    store : str or Path
        Of raw planes, as ``OMEZarrWriter`` has written it; no longer written.

    Attributes
    ----------
    planes : StoredPlanes
    block : dict
        What the run's summary said under ``opm_engine``.

    Raises
    ------
    BlockingIOError
        If it is being written.
    FileNotFoundError
        If there is no such store.
    ValueError
        If it does not hold raw planes, or does not say which.
    """

    def __init__(self, store: str | Path) -> None:
        refuse_no_store(Path(store))
        self.planes = StoredPlanes(store)
        self.kept().release()  # refuses while somebody writes it
        block = read_block(store)
        self.block = {key: block[key] for key in block.keys() - OF_IMAGES}

    @property
    def store(self) -> Path:
        """Where it lies."""
        return self.planes.store

    def kept(self) -> StoreLock:
        """Let nobody write it or replace it, until the lock is released.

        Raises
        ------
        BlockingIOError
            If it is being written.
        """
        return StoreLock(self.store, shared=True)

    @property
    def stream(self) -> Stream:
        """What the store was made for."""
        return self.planes.stream

    @cached_property
    def microscope(self) -> Microscope:
        """What it was acquired on.

        Raises
        ------
        ValueError
            If the store does not say.
        """
        return Microscope.model_validate(self._said("microscope"))

    @cached_property
    def plan(self) -> ScanPlan:
        """As it was played, with what was measured.

        Raises
        ------
        ValueError
            If the store does not say.
        """
        return ScanPlan.model_validate(self._said("plan"))

    @property
    def sequence(self) -> useq.MDASequence:
        """What was run; a new object each time.

        Raises
        ------
        ValueError
            If the store does not say.
        """
        return useq.MDASequence.model_validate(self._said(SEQUENCE))

    def refuse_other(self, sequence: useq.MDASequence) -> None:
        """Check that a sequence asks for what was acquired.

        Raises
        ------
        PlanError
            Names what differs, or what the microscope cannot play.
        ValueError
            If the store does not say what was acquired.
        """
        asked, stored = plan_scan(sequence, self.microscope), self.plan
        if asked.stage is not None and stored.stage is not None:
            asked = _measured_alike(asked, stored)
        differing = list(_differences(_of(asked), _of(stored)))
        if differing:
            named = "; ".join(differing[:N_NAMED])
            more = f"; and {len(differing) - N_NAMED} more" * (len(differing) > N_NAMED)
            msg = (
                f"{self.store} holds another scan: {named}{more}; "
                "scope.sequence is what it holds"
            )
            raise PlanError(msg)

    @cached_property
    def inputs(self) -> Inputs | None:
        """The board's analog inputs of all frames, if they were recorded."""
        return read_inputs(self.store)

    @cached_property
    def flags(self) -> tuple[Flag, ...]:
        """The flags of all positions."""
        n_positions = len(self.stream.positions)
        return tuple(f for p in range(n_positions) for f in read_flags(self.store, p))

    def frames(self) -> FrameTable:
        """Return what was told of each plane."""
        return FrameTable(self)

    def _said(self, name: str) -> Any:
        if self.block.get(name) is None:
            msg = f"{self.store} does not tell its {name}: this engine did not plan it"
            raise ValueError(msg)
        return self.block[name]


class FrameTable:
    """What was told of each plane, looked up roughly in the order of acquisition.

    Lines are read as far as needed, and forgotten once they were asked for, so a long
    run needs no memory for them.
    """

    def __init__(self, recording: Recording) -> None:
        self._stream = recording.stream
        n_positions = len(self._stream.positions)
        self._lines = [read_frames(recording.store, p) for p in range(n_positions)]
        self._passed: dict[Place, dict[str, Any]] = {}

    def take(self, place: Place) -> dict[str, Any]:
        """Return what was told of a plane, each once; empty if nothing was."""
        if place in self._passed:
            return self._passed.pop(place)
        for entry in self._lines[place.position]:
            here = self._stream.place(entry["index"])
            if here == place:
                return entry
            self._passed[here] = entry
        return {}


def refuse_no_store(store: Path) -> None:
    """Check that there is a store, and not the folder of a run around it.

    Raises
    ------
    FileNotFoundError
        Names the store that may have been meant.
    """
    if (store / NAME).is_file():
        return
    msg = f"no store at {store}"
    if (store / RAW / NAME).is_file():
        msg += f"; did you mean {store / RAW}?"
    raise FileNotFoundError(msg)


def _measured_alike(asked: ScanPlan, stored: ScanPlan) -> ScanPlan:
    """Return a plan with what was measured for the stored one."""
    assert stored.stage is not None
    period_ms = stored.channels[0].timing.period_ms
    asked = asked.measured(period_ms=period_ms)
    speed = stored.stage.speed_um_per_s
    return asked.measured(period_ms=period_ms, stage_speed_um_per_s=speed)


def _of(plan: ScanPlan) -> dict[str, Any]:
    return plan.model_dump(mode="json", exclude={"warnings"})


def _differences(asked: Any, stored: Any, name: str = "") -> Iterator[str]:
    """Name the fields that differ, and how."""
    if isinstance(asked, dict) and isinstance(stored, dict):
        for key in {**stored, **asked}:
            inner = f"{name}.{key}" if name else key
            yield from _differences(asked.get(key), stored.get(key), inner)
    elif isinstance(asked, list) and isinstance(stored, list):
        if len(asked) != len(stored):
            yield f"{name}: {len(asked)} asked for, {len(stored)} stored"
            return
        for number, pair in enumerate(zip(asked, stored, strict=True)):
            yield from _differences(*pair, f"{name}[{number}]")
    elif not _alike(asked, stored):
        yield f"{name}: {asked} asked for, {stored} stored"


def _alike(asked: Any, stored: Any) -> bool:
    numbers = isinstance(asked, float | int) and isinstance(stored, float | int)
    if numbers and not isinstance(asked, bool):
        return math.isclose(asked, stored, rel_tol=_TOLERANCE, abs_tol=1e-9)
    return bool(asked == stored)
