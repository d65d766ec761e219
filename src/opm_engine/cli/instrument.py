"""Commands that need an instrument, real or simulated.

Separate from those on data, which need none. Each loads what it needs when it is
called: the others start at once.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from opm_engine.cli import talk

Out = Annotated[Path, typer.Option(help="Folder for data and reports.")]
Instrument = Annotated[
    str, typer.Argument(metavar="M.toml", help='Or "demo", or "pattern".')
]
DaqAddress = Annotated[
    str | None,
    typer.Option(
        "--daq-address", metavar="HOST:PORT", help="Board's gRPC server to play on."
    ),
]
ProgressTo = Annotated[
    Path | None,
    typer.Option(
        "--progress-file",
        metavar="FILE",
        help='Append {"acknowledged": N} every 100 ms: raw frames that are safe.',
    ),
]


def demo(
    out: Out = Path("demo-out"),
    volumes: Annotated[int, typer.Option(min=1, help="Time points.")] = 3,
    as_json: talk.AsJson = False,
    overwrite: talk.Overwrite = False,
    daq_address: DaqAddress = None,
    progress_file: ProgressTo = None,
) -> None:
    """Run the whole system on the simulated microscope and score it."""
    from opm_engine.demo import failures, run_demo

    with talk.progress("acquiring") as (on_frame, on_step):
        report = run_demo(
            out,
            volumes,
            overwrite=overwrite,
            daq_address=daq_address,
            progress_file=progress_file,
            on_frame=on_frame,
            on_step=on_step,
        )
    talk.show(report, as_json=as_json, title=f"opm-engine demo -> {out}")
    talk.end(failures(report))


def init(
    path: Annotated[Path, typer.Argument(metavar="M.toml")],
    overwrite: talk.Overwrite = False,
) -> None:
    """Write a commented microscope description to start from."""
    from opm_engine.config import template

    if path.exists() and not overwrite:
        msg = f"{path} exists; choose another name, or --overwrite"
        raise FileExistsError(msg)
    path.write_text(template("instrument"), encoding="utf-8")
    talk.stdout.print(f"wrote {path}; fill in what your instrument has")


def run(
    sequence: Annotated[Path, typer.Argument(metavar="SEQUENCE.yaml")],
    out: Out,
    microscope: Annotated[
        str,
        typer.Option(
            metavar="M.toml",
            help='Or "demo", "pattern", or "replay:STORE" for a stored run.',
        ),
    ] = "demo",
    as_json: talk.AsJson = False,
    overwrite: talk.Overwrite = False,
    daq_address: DaqAddress = None,
    progress_file: ProgressTo = None,
    codec: talk.CodecName = "lz4",
) -> None:
    """Acquire a sequence: raw, deskewed, projections, log."""
    import useq

    from opm_engine.session import open_microscope

    planned = useq.MDASequence.from_file(sequence)
    with (
        open_microscope(microscope, daq_address=daq_address) as scope,
        talk.progress("acquiring") as (on_frame, _),
    ):
        acquisition = scope.acquire(
            planned,
            out,
            overwrite=overwrite,
            on_frame=on_frame,
            progress_file=progress_file,
            codec=codec,
        )
    report = acquisition.report()
    talk.show(report, as_json=as_json, title=f"opm-engine run -> {out}")
    wrong = ["the run was cancelled"] if acquisition.cancelled else []
    if report["frames_lost"]:
        wrong.append(f"{report['frames_lost']} frames lost")
    talk.end(wrong)


def check(
    microscope: Instrument,
    sequence: Annotated[
        Path | None, typer.Option(help="To check for; all lasers over 40 µm else.")
    ] = None,
    run_camera: Annotated[
        bool, typer.Option("--run-camera", help="Time the free-running camera too.")
    ] = False,
    as_json: talk.AsJson = False,
    daq_address: DaqAddress = None,
) -> None:
    """Program and verify everything, with all lines dark."""
    import useq

    from opm_engine.checkup import check as check_scope
    from opm_engine.session import open_instrument

    planned = useq.MDASequence.from_file(sequence) if sequence else None
    with open_instrument(microscope, daq_address=daq_address) as scope:
        report = check_scope(scope, planned, run_camera=run_camera)
    talk.show(report, as_json=as_json, title=f"opm-engine check {microscope}")
    talk.end(report.get("exposure_out", {}).get("wrong", []))


def calibrate(
    microscope: Instrument,
    laser: Annotated[str | None, typer.Option(help="The first one else.")] = None,
    as_json: talk.AsJson = False,
    daq_address: DaqAddress = None,
) -> None:
    """Measure the scan galvo's V/µm, sign and settle time. Lights the sample."""
    from opm_engine.calibrate import calibrate as calibrate_scope
    from opm_engine.session import open_instrument

    with open_instrument(microscope, daq_address=daq_address) as scope:
        report = calibrate_scope(scope, laser).report(scope)
    talk.show(report, as_json=as_json, title=f"opm-engine calibrate {microscope}")


def simulate_daq(
    address: Annotated[
        str, typer.Option(metavar="127.0.0.1:PORT", help="Port 0 takes a free one.")
    ],
    device: Annotated[str, typer.Option(help="Name of the board.")] = "Dev1",
    product: Annotated[str, typer.Option(help="Its type.")] = "PCIe-6363",
    status: Annotated[
        bool, typer.Option("--status", help="Print what a running one puts out.")
    ] = False,
    as_json: talk.AsJson = False,
) -> None:
    """Run the simulated board, with its cables, as a process of its own."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # errors are told in our words
    if status:
        from opm_engine.simulation.board_status import board_status

        report = board_status(address)
        talk.show(report, as_json=as_json, title=f"board at {address}")
        return
    from opm_engine.simulation.board_process import serve_board

    def bound(address: str) -> None:
        if as_json:
            sys.stdout.write(json.dumps({"address": address}) + "\n")
            sys.stdout.flush()
        else:
            talk.stdout.print(f"{product} {device} at {address}; Ctrl-C ends it")

    serve_board(address, device=device, product=product, on_bound=bound)
