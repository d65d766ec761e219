"""The ``opm-engine`` command.

Separate because only here are errors turned into one line and an exit status, and
only here is anything printed. Knows no device.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)

DEBUG = "--debug"
INTERRUPTED = 130
REDRAW_EVERY = 20
"""Frames per update of the progress bar."""

Out = Annotated[Path, typer.Option(help="Folder for data and reports.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="On success, print one JSON object.")
]
Overwrite = Annotated[bool, typer.Option(help="Replace files of an earlier run.")]
DaqAddress = Annotated[
    str | None,
    typer.Option(
        "--daq-address", metavar="HOST:PORT", help="Board's gRPC server to play on."
    ),
]


def main() -> None:
    """Run the command; exit status 0 on success, 130 after Ctrl-C, else 1 or 2."""
    debug = DEBUG in sys.argv
    words = [word for word in sys.argv[1:] if word != DEBUG]
    try:
        status = app(args=words, standalone_mode=False)
        if status != INTERRUPTED:
            sys.exit(status)
        _fail("interrupted", INTERRUPTED)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        _fail(*_explain(error))


def _explain(error: Exception) -> tuple[str, int]:
    """Return one line and an exit status."""
    if isinstance(error, typer.Abort):
        return "interrupted", INTERRUPTED
    if "pydantic" in sys.modules:
        from pydantic import ValidationError

        if isinstance(error, ValidationError):
            found = error.errors()
            lines = [".".join(map(str, e["loc"])) + f": {e['msg']}" for e in found]
            return "error: " + "; ".join(lines), 1
    # Errors of usage carry their own words and status, whichever click raises them.
    words = getattr(error, "format_message", lambda: str(error))()
    text = " ".join(words.split()) or type(error).__name__
    return f"error: {text}", getattr(error, "exit_code", 1)


def _fail(text: str, status: int) -> NoReturn:
    stderr.print(text, markup=False, soft_wrap=True)
    sys.exit(status)


@app.callback(
    epilog="--debug, anywhere, shows the traceback of an error.",
)
def opm_engine() -> None:
    """Acquisition engine for oblique plane microscopes."""


@app.command()
def demo(
    out: Out = Path("demo-out"),
    volumes: Annotated[int, typer.Option(min=1, help="Time points.")] = 3,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    daq_address: DaqAddress = None,
) -> None:
    """Run the whole system on the simulated microscope and score it."""
    from opm_engine.demo import failures, run_demo

    with _progress("acquiring") as (on_frame, on_step):
        report = run_demo(
            out,
            volumes,
            overwrite=overwrite,
            daq_address=daq_address,
            on_frame=on_frame,
            on_step=on_step,
        )
    _show(report, as_json=as_json, title=f"opm-engine demo -> {out}")
    _exit(failures(report))


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="M.toml")],
    overwrite: Overwrite = False,
) -> None:
    """Write a commented microscope description to start from."""
    from opm_engine.config import template

    if path.exists() and not overwrite:
        msg = f"{path} exists; choose another name, or --overwrite"
        raise FileExistsError(msg)
    path.write_text(template("instrument"), encoding="utf-8")
    stdout.print(f"wrote {path}; fill in what your instrument has")


@app.command()
def run(
    sequence: Annotated[Path, typer.Argument(metavar="SEQUENCE.yaml")],
    out: Out,
    microscope: Annotated[
        str, typer.Option(metavar="M.toml", help='Or "demo".')
    ] = "demo",
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    daq_address: DaqAddress = None,
) -> None:
    """Acquire a sequence: raw, deskewed, projections, log."""
    import useq

    from opm_engine.session import open_microscope

    planned = useq.MDASequence.from_file(sequence)
    with (
        open_microscope(microscope, daq_address=daq_address) as scope,
        _progress("acquiring") as (on_frame, _),
    ):
        acquisition = scope.acquire(
            planned, out, overwrite=overwrite, on_frame=on_frame
        )
    report = acquisition.report()
    _show(report, as_json=as_json, title=f"opm-engine run -> {out}")
    wrong = ["the run was cancelled"] if acquisition.cancelled else []
    if report["frames_lost"]:
        wrong.append(f"{report['frames_lost']} frames lost")
    _exit(wrong)


@app.command()
def check(
    microscope: Annotated[str, typer.Argument(metavar="M.toml", help='Or "demo".')],
    sequence: Annotated[
        Path | None, typer.Option(help="To check for; all lasers over 40 µm else.")
    ] = None,
    run_camera: Annotated[
        bool, typer.Option("--run-camera", help="Time the free-running camera too.")
    ] = False,
    as_json: AsJson = False,
    daq_address: DaqAddress = None,
) -> None:
    """Program and verify everything, with all lines dark."""
    import useq

    from opm_engine.checkup import check as check_scope
    from opm_engine.session import open_microscope

    planned = useq.MDASequence.from_file(sequence) if sequence else None
    with open_microscope(microscope, daq_address=daq_address) as scope:
        report = check_scope(scope, planned, run_camera=run_camera)
    _show(report, as_json=as_json, title=f"opm-engine check {microscope}")
    _exit(report.get("exposure_out", {}).get("wrong", []))


@app.command()
def calibrate(
    microscope: Annotated[str, typer.Argument(metavar="M.toml", help='Or "demo".')],
    laser: Annotated[str | None, typer.Option(help="The first one else.")] = None,
    as_json: AsJson = False,
    daq_address: DaqAddress = None,
) -> None:
    """Measure the scan galvo's V/µm, sign and settle time. Lights the sample."""
    from opm_engine.calibrate import calibrate as calibrate_scope
    from opm_engine.session import open_microscope

    with open_microscope(microscope, daq_address=daq_address) as scope:
        report = calibrate_scope(scope, laser).report(scope)
    _show(report, as_json=as_json, title=f"opm-engine calibrate {microscope}")


@app.command()
def simulate_daq(
    address: Annotated[
        str, typer.Option(metavar="127.0.0.1:PORT", help="Port 0 takes a free one.")
    ],
    device: Annotated[str, typer.Option(help="Name of the board.")] = "Dev1",
    product: Annotated[str, typer.Option(help="Its type.")] = "PCIe-6363",
    status: Annotated[
        bool, typer.Option("--status", help="Print what a running one puts out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the simulated board, with its cables, as a process of its own."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # errors are told in our words
    if status:
        from opm_engine.simulation.board_status import board_status

        report = board_status(address)
        _show(report, as_json=as_json, title=f"board at {address}")
        return
    from opm_engine.simulation.board_process import serve_board

    def bound(address: str) -> None:
        if as_json:
            sys.stdout.write(json.dumps({"address": address}) + "\n")
            sys.stdout.flush()
        else:
            stdout.print(f"{product} {device} at {address}; Ctrl-C ends it")

    serve_board(address, device=device, product=product, on_bound=bound)


@contextmanager
def _progress(
    what: str,
) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """A bar on stderr; gives a callback for frames and one for the current step."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    seen = stderr.is_terminal
    with Progress(*columns, console=stderr, transient=True, disable=not seen) as bar:
        task = bar.add_task(what, total=None)

        def on_frame(n_frames: int, total: int) -> None:
            if n_frames % REDRAW_EVERY == 0 or n_frames == total:
                bar.update(task, completed=n_frames, total=total or None)

        def on_step(step: str) -> None:
            bar.update(task, description=step)

        yield on_frame, on_step


def _exit(wrong: list[str]) -> None:
    for line in wrong:
        stderr.print(f"error: {line}")
    raise typer.Exit(1 if wrong else 0)


def _show(report: dict[str, Any], *, as_json: bool, title: str) -> None:
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
        return
    from rich.table import Table

    table = Table("", "", title=title, show_header=False)
    for key, value in report.items():
        table.add_row(key, str(value))
    stdout.print(table)
