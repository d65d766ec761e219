"""The ``opm-engine`` command.

Separate because only here are errors turned into one line and an exit status, and
only here is anything printed. Knows no device.
"""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

import typer

from opm_engine.cli import data, instrument, talk

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

DEBUG = "--debug"
INTERRUPTED = 130


def main() -> None:
    """Run the command; exit status 0 on success, 130 after Ctrl-C, else 1 or 2."""
    debug = DEBUG in sys.argv
    words = [word for word in sys.argv[1:] if word != DEBUG]
    logging.raiseExceptions = debug  # a full disk is told of once, not by every log
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
    talk.stderr.print(text, markup=False, soft_wrap=True)
    sys.exit(status)


@app.callback(
    epilog="--debug, anywhere, shows the traceback of an error.",
)
def opm_engine() -> None:
    """Acquisition engine for oblique plane microscopes."""


for _command in (
    instrument.demo,
    instrument.init,
    instrument.run,
    instrument.check,
    instrument.calibrate,
    data.deskew,
    data.info,
    data.repair,
    instrument.simulate_daq,
):
    app.command()(_command)
