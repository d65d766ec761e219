"""Commands on stored data: no instrument is opened.

Separate from those that need one. Each loads what it needs when it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from opm_engine.cli import talk

GB = 1e9


def voxel_size(text: str) -> float | tuple[float, float]:
    """Read ``"DY"`` or ``"DZ,DY"``, in µm.

    Raises
    ------
    typer.BadParameter
        If it is neither.
    """
    try:
        sizes_um = [float(part) for part in text.split(",")]
    except ValueError:
        sizes_um = []
    match sizes_um:
        case [size_um]:
            return size_um
        case [dz_um, dy_um]:
            return dz_um, dy_um
    msg = f"--voxel-size: {text!r} is neither a size in µm nor two, like 0.4,0.2"
    raise typer.BadParameter(msg)


def deskew(
    raw: Annotated[Path, typer.Argument(metavar="RAW.ome.zarr")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="OUT.ome.zarr",
            help="Goes on with a part of it; leaves it alone if it is complete.",
        ),
    ],
    voxel: Annotated[
        str | None,
        typer.Option(
            "--voxel-size", metavar="DY|DZ,DY", help="In µm; pixel size else."
        ),
    ] = None,
    z_bin: Annotated[int, typer.Option(min=1, help="Rows along Z to average.")] = 1,
    interpolation: Literal["orthogonal", "shear"] = "orthogonal",
    missing: Annotated[
        Literal["zero", "interpolate"], typer.Option(help="In place of lost planes.")
    ] = "zero",
    correction: Annotated[
        Literal["none", "camera"], typer.Option(help="Of offset and gain.")
    ] = "none",
    codec: talk.CodecName = "lz4",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; one per core else.")
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="GB",
            help="Of all processes, beyond some 300 MB that each takes idle; "
            "half of what is free else.",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            help="Replace what is there; goes on with what it began the same way and "
            "did not complete."
        ),
    ] = False,
    as_json: talk.AsJson = False,
) -> None:
    """Deskew stored planes; broken off, it goes on when called again the same way."""
    from opm_engine.reprocess import reprocess

    with talk.progress("deskewing", every=1) as (on_progress, _):
        made = reprocess(
            raw,
            out,
            voxel_size_um=None if voxel is None else voxel_size(voxel),
            z_bin=z_bin,
            interpolation=interpolation,
            missing=missing,
            correction=None if correction == "none" else correction,
            codec=codec,
            jobs=jobs,
            memory_bytes=None if memory is None else int(memory * GB),
            overwrite=overwrite,
            on_progress=on_progress,
        )
    talk.show(made.report(), as_json=as_json, title=f"opm-engine deskew -> {out}")


def repair(store: talk.Store, as_json: talk.AsJson = False) -> None:
    """Finish what a crash or a full disk cut off, and say what is missing."""
    from opm_engine.recording import refuse_no_store
    from opm_engine.writers.upkeep.repair import repair as mend

    refuse_no_store(store)
    report = mend(store).as_json()
    talk.show(report, as_json=as_json, title=f"opm-engine repair {store}")


def info(store: talk.Store, as_json: talk.AsJson = False) -> None:
    """Tell what a dataset holds and whether it is whole."""
    from opm_engine.recording import refuse_no_store
    from opm_engine.writers.upkeep.info import describe_store

    refuse_no_store(store)
    report = describe_store(store)
    talk.show(report, as_json=as_json, title=f"opm-engine info {store}")
