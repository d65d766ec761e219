"""What the commands say, and the words that they take in common.

Separate so that each command is only what it does: progress and errors go to stderr,
results to stdout, with ``--json`` as exactly one object.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)

REDRAW_EVERY = 20
"""Frames per update of the progress bar."""

EMPTY: tuple[Any, ...] = (None, [], {})
"""What people need not be told."""

AsJson = Annotated[
    bool, typer.Option("--json", help="On success, print one JSON object.")
]
Overwrite = Annotated[bool, typer.Option(help="Replace files of an earlier run.")]
CodecName = Annotated[
    Literal["lz4", "zstd", "none"], typer.Option("--codec", help="Of the data.")
]
Store = Annotated[Path, typer.Argument(metavar="X.ome.zarr")]


@contextmanager
def progress(
    what: str, every: int = REDRAW_EVERY
) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """A bar on stderr; gives a callback for what is done and one for the step."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    seen = stderr.is_terminal
    with Progress(*columns, console=stderr, transient=True, disable=not seen) as bar:
        task = bar.add_task(what, total=None)

        def on_progress(n_done: int, total: int) -> None:
            if n_done % every == 0 or n_done == total:
                bar.update(task, completed=n_done, total=total or None)

        def on_step(step: str) -> None:
            bar.update(task, description=step)

        yield on_progress, on_step


def end(wrong: list[str]) -> None:
    """Leave the command; with status 1 and the reasons, if there are some."""
    for line in wrong:
        stderr.print(f"error: {line}", markup=False, soft_wrap=True)
    raise typer.Exit(1 if wrong else 0)


def show(report: dict[str, Any], *, as_json: bool, title: str) -> None:
    """Print a report, for a program or for people."""
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
        return
    from rich.table import Table

    table = Table("", "", title=title, show_header=False)
    for key, value in report.items():
        if value not in EMPTY:
            table.add_row(key, escape(_in_words(value)))
    stdout.print(table)


def _in_words(value: Any) -> str:
    """Put what a report holds into one cell."""
    if isinstance(value, dict):
        words = (f"{k} {_in_words(x)}" for k, x in value.items() if x not in EMPTY)
        parts = "; " if any(isinstance(x, dict) for x in value.values()) else ", "
        return parts.join(words)
    if isinstance(value, list):
        return "; ".join(map(_in_words, value))
    return str(value)
