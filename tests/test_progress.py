"""A file that tells how far a run has come."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path

import pytest

from opm_engine.progress import PERIOD_S, ProgressFile

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="no such files there")


def told(path: Path) -> list[int]:
    lines = path.read_text().splitlines()
    return [json.loads(line)["acknowledged"] for line in lines]


def test_first_last_and_in_between(tmp_path: Path) -> None:
    path, count = tmp_path / "progress.jsonl", iter(itertools.count(7))
    with ProgressFile(path, lambda: next(count)):
        assert told(path)[0] == 0
        time.sleep(6 * PERIOD_S)
    lines = told(path)
    assert lines == [0, *range(7, 7 + len(lines) - 1)]
    assert len(lines) >= 4
    assert next(count) == lines[-1] + 1, "the last line is asked for at the end"


def test_it_appends(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    for _ in range(2):
        with ProgressFile(path, lambda: 3):
            pass
    assert told(path) == [0, 3, 0, 3]


def test_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "out" / "progress.jsonl"
    with ProgressFile(path, lambda: 3):
        pass
    assert told(path) == [0, 3]


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        ProgressFile(tmp_path / "file" / "x", lambda: 1).__enter__()


@POSIX
def test_a_file_that_is_full_from_the_start() -> None:
    with pytest.raises(OSError, match="No space"):
        ProgressFile(Path("/dev/full"), lambda: 1).__enter__()


@POSIX
@pytest.mark.parametrize("error", [None, RuntimeError("the run's own")])
def test_a_file_that_ends(error: RuntimeError | None, tmp_path: Path) -> None:
    """The run goes on; the loss is told at its end, unless there is worse."""
    went_on = []

    def run() -> None:
        with ProgressFile(path, lambda: 1):
            os.close(reader)
            time.sleep(2 * PERIOD_S)
            went_on.append(True)
            if error is not None:
                raise error

    os.mkfifo(path := tmp_path / "progress")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(BrokenPipeError if error is None else RuntimeError):
        run()
    assert went_on
