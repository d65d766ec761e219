"""The ``opm-engine`` command.

Separate because only here are errors turned into one line and an exit status, and
only here is anything printed. Knows no device.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import useq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)

DEBUG = "--debug"
INTERRUPTED = 130
REDRAW_EVERY = 20
"""Frames per update of the progress bar."""

Out = Annotated[Path, typer.Option(help="Folder for data and reports.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Overwrite = Annotated[bool, typer.Option(help="Replace files of an earlier run.")]


def main() -> None:
    """Run the command; exit status 0 on success, 130 after Ctrl-C, else 1 or 2."""
    app(args=[word for word in sys.argv[1:] if word != DEBUG])


@contextmanager
def _reported() -> Iterator[None]:
    """Turn an error into one line and an exit status."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        stderr.print("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if DEBUG in sys.argv:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        stderr.print(f"error: {text}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error


@app.callback(
    epilog="--debug, anywhere, shows the traceback of an error.",
)
def opm_engine() -> None:
    """Acquisition engine for oblique plane microscopes."""


@app.command()
@_reported()
def demo(
    out: Out = Path("demo-out"),
    volumes: Annotated[int, typer.Option(min=1, help="Time points.")] = 3,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Run the whole system on the simulated microscope and score it."""
    from opm_engine.demo import demo_sequence, failures, run_demo

    n_frames = len(list(demo_sequence(volumes)))
    with _progress("acquiring", n_frames) as (on_frame, on_step):
        report = run_demo(
            out, volumes, overwrite=overwrite, on_frame=on_frame, on_step=on_step
        )
    _show(report, as_json=as_json, title=f"opm-engine demo -> {out}")
    wrong = failures(report)
    for line in wrong:
        stderr.print(f"error: {line}")
    raise typer.Exit(1 if wrong else 0)


@app.command()
@_reported()
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
@_reported()
def run(
    sequence: Annotated[Path, typer.Argument(metavar="SEQUENCE.yaml")],
    out: Out,
    microscope: Annotated[
        str, typer.Option(metavar="M.toml", help='Or "demo".')
    ] = "demo",
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Acquire a sequence: raw, deskewed, projections, log."""
    from opm_engine.session import open_microscope

    planned = useq.MDASequence.from_file(sequence)
    with (
        open_microscope(microscope) as scope,
        _progress("acquiring", len(list(planned))) as (on_frame, _),
    ):
        acquisition = scope.acquire(
            planned, out, overwrite=overwrite, on_frame=on_frame
        )
    report = acquisition.report()
    _show(report, as_json=as_json, title=f"opm-engine run -> {out}")
    raise typer.Exit(1 if acquisition.cancelled or report["frames_lost"] else 0)


@contextmanager
def _progress(
    what: str, total: int
) -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """A bar on stderr; gives a callback for frames and one for the current step."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        task = progress.add_task(what, total=total)

        def on_frame(n_frames: int) -> None:
            if n_frames % REDRAW_EVERY == 0 or n_frames == total:
                progress.update(task, completed=n_frames)

        def on_step(step: str) -> None:
            progress.update(task, description=step)

        yield on_frame, on_step


def _show(report: dict[str, Any], *, as_json: bool, title: str) -> None:
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
        return
    table = Table("", "", title=title, show_header=False)
    for key, value in report.items():
        table.add_row(key, str(value))
    stdout.print(table)
