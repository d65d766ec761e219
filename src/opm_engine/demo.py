"""`opm-engine demo`: the whole system on the simulated microscope, scored.

Separate from the command line so that it can be run from a script. Compares what came
out of the deskew, as read back from disk, with the specimen itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import useq

from opm_engine.geometry import Geometry
from opm_engine.pictures import save_projections
from opm_engine.plan import BLOCK, Stream, describe, plan_scan
from opm_engine.processing import deskew, max_projections
from opm_engine.run_folder import DESKEWED, PICTURE
from opm_engine.session import open_microscope
from opm_engine.writers import OMEZarrWriter
from opm_engine.writers.reading import open_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from opm_engine.plan import ScanPlan
    from opm_engine.processing import Projections
    from opm_engine.session import Scope

TRUTH, REPORT = "truth.ome.zarr", "report.json"
MIN_NCC = 0.95
"""Normalised cross-correlation with the truth below which the demo fails."""

POSITIONS_UM = ((0.0, 0.0), (60.0, 40.0))


def demo_sequence(n_volumes: int = 3) -> useq.MDASequence:
    """Two channels, two positions, ``n_volumes`` gapless time points."""
    return useq.MDASequence(
        stage_positions=list(POSITIONS_UM),
        channels=[{"config": "488", "exposure": 5}, {"config": "561", "exposure": 5}],
        z_plan={"range": 40, "step": 0.4},
        time_plan={"interval": 0, "loops": n_volumes},
        axis_order="ptzc",
    )


def run_demo(
    out: Path,
    n_volumes: int = 3,
    *,
    overwrite: bool = False,
    daq_address: str | None = None,
    progress_file: Path | None = None,
    on_frame: Callable[[int, int], None] | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Acquire, deskew, score; write everything into ``out``.

    Parameters
    ----------
    out : Path
        Folder for the data and the report.
    n_volumes : int
        Time points.
    overwrite : bool
        Replace the files of an earlier demo.
    daq_address : str, optional
        ``"host:port"`` of a simulated board that is a process of its own.
    progress_file : Path, optional
        Gets ``{"acknowledged": N}`` at least every 100 ms, see ``Scope.acquire``.
    on_frame : callable, optional
        Called with the number of frames so far and of all.
    on_step : callable, optional
        Called with what is being done now.

    Returns
    -------
    dict
        The report, as in ``report.json``.
    """
    for name in (TRUTH, REPORT):
        if (out / name).exists() and not overwrite:
            msg = f"{out} already holds {name}; choose another folder"
            raise FileExistsError(msg)
    sequence = demo_sequence(n_volumes)
    with open_microscope("demo", daq_address=daq_address) as scope:
        plan = plan_scan(sequence, scope.microscope)
        on_step("acquiring")
        acquisition = scope.acquire(
            sequence,
            out,
            overwrite=overwrite,
            on_frame=on_frame,
            progress_file=progress_file,
        )
        lasers_on = _lasers_on(scope)
        on_step("computing the truth")
        truth = _truth(scope, plan)
        block = describe(plan, scope.microscope)
    _write_truth(truth, sequence, plan, block, out / TRUTH, overwrite=overwrite)
    on_step("scoring")
    names = [channel.name for channel in plan.channels]
    where = valid_voxels(plan.geometry)
    scores = _scores(out / DESKEWED, truth, where, n_volumes)
    _draw(acquisition.projections, truth, where, out / PICTURE)
    report = {
        **acquisition.report(),
        "ncc": {n: round(s, 4) for n, s in zip(names, scores, strict=True)},
        "lasers_on_after": lasers_on,
    }
    (out / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def failures(report: dict[str, Any]) -> list[str]:
    """Say what is wrong with a report; empty if nothing is."""
    wrong = []
    if report["frames_lost"]:
        wrong.append(f"{report['frames_lost']} frames lost")
    if report["lasers_on_after"]:
        wrong.append(f"lasers on after the run: {', '.join(report['lasers_on_after'])}")
    wrong += [
        f"channel {name}: NCC with the truth is {ncc:.3f}, below {MIN_NCC}"
        for name, ncc in report["ncc"].items()
        if not ncc >= MIN_NCC
    ]
    return wrong


def ncc(image: NDArray[Any], truth: NDArray[Any], where: NDArray[np.bool_]) -> float:
    """Normalised cross-correlation of two volumes in the voxels ``where``."""
    a, b = image[where].astype(np.float64), truth[where].astype(np.float64)
    a -= a.mean()
    b -= b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def valid_voxels(geometry: Geometry) -> NDArray[np.bool_]:
    """Voxels (Z, Y, X) of a deskewed volume that lie inside the stack."""
    ones = np.ones((geometry.n_planes, geometry.n_rows, 1), np.uint16)
    column = deskew(
        ones,
        angle_deg=geometry.angle_deg,
        step_um=geometry.step_um,
        pixel_size_um=geometry.pixel_size_um,
    )
    return np.broadcast_to(column > 0, (*column.shape[:2], geometry.n_columns))


def _lasers_on(scope: Scope) -> list[str]:
    if scope.twin is None:
        msg = "the demo needs a simulated microscope"
        raise ValueError(msg)
    lines = scope.twin.status()["lines"]
    return [laser.name for laser in scope.microscope.lasers if lines[laser.line]]


def _truth(scope: Scope, plan: ScanPlan) -> NDArray[np.float32]:
    """Specimen on the deskewed grid: (positions, channels, Z, Y, X)."""
    if scope.twin is None:
        msg = "the demo needs a simulated microscope"
        raise ValueError(msg)
    specimen, geometry = scope.twin.specimen, plan.geometry
    names = scope.microscope.laser_names
    volumes = [
        specimen.truth(
            geometry.volume_shape(),
            (geometry.pixel_size_um,) * 3,
            (
                position.z_um or 0.0,
                (position.y_um or 0.0) + geometry.origin_um,
                position.x_um or 0.0,
            ),
            names.index(channel.name),
        )
        for position in plan.positions
        for channel in plan.channels
    ]
    shape = (len(plan.positions), len(plan.channels), *geometry.volume_shape())
    return np.reshape(volumes, shape)


def _scores(
    store: Path,
    truth: NDArray[np.float32],
    where: NDArray[np.bool_],
    n_volumes: int,
) -> list[float]:
    """Lowest NCC of each channel over positions and time points."""
    n_positions, n_channels = truth.shape[:2]
    images = [open_image(store, position) for position in range(n_positions)]
    return [
        min(
            ncc(np.asarray(images[p][t, c]), truth[p, c], where)
            for p in range(n_positions)
            for t in range(n_volumes)
        )
        for c in range(n_channels)
    ]


def _write_truth(
    truth: NDArray[np.float32],
    sequence: useq.MDASequence,
    plan: ScanPlan,
    block: dict[str, Any],
    path: Path,
    *,
    overwrite: bool,
) -> None:
    """Store the truth like one time point of the deskewed store."""
    pixel_um = plan.geometry.pixel_size_um
    stream = Stream(
        kind="volumes",
        shape=truth.shape[2:],
        dtype="float32",
        scale_um=(pixel_um, pixel_um, pixel_um),
        translation_um=(0.0, plan.geometry.origin_um, 0.0),
        channels=plan.stream().channels,
        positions=plan.positions,
    )
    block = {**block, "stream": stream.model_dump(mode="json")}
    writer = OMEZarrWriter(path, overwrite=overwrite)
    writer.sequenceStarted(sequence, {"extra": {BLOCK: block}})
    try:
        for p, c in np.ndindex(truth.shape[:2]):
            event = useq.MDAEvent(index={"t": 0, "p": p, "c": c})
            writer.frameReady(truth[p, c], event, {})
    finally:
        writer.sequenceFinished(sequence)


def _draw(
    projections: Projections | None,
    truth: NDArray[np.float32],
    where: NDArray[np.bool_],
    path: Path,
) -> None:
    """One row per channel of the first position: what was deskewed, then the truth.

    The truth is shown where the scan could see it.
    """
    latest = projections.latest if projections else {}
    rows = [
        [latest[p, c], max_projections(np.where(where, truth[p, c], 0))]
        for p, c in sorted(latest)
        if p == 0
    ]
    if rows:
        save_projections(rows, path)
