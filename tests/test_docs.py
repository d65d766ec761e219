"""Every code block of README and docs runs, and the commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    code: str


def _blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
            line = text[: match.start()].count("\n") + 1
            found.append(Block(page, line, match[1], match[2]))
    return found


BLOCKS = _blocks()
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language in ("sh", "powershell")]


def _name(block: Block) -> str:
    return f"{block.page.name}:{block.line}"


def test_there_are_blocks() -> None:
    assert len(PYTHON) >= 4
    assert {block.language for block in BLOCKS} <= {"python", "sh", "powershell", ""}


@pytest.mark.parametrize("block", PYTHON, ids=_name)
def test_python(block: Block, tmp_path: Path) -> None:
    # A process of its own: examples must work as a user pastes them, and leave cleanly.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("block", SHELL, ids=_name)
def test_shell(block: Block) -> None:
    """Commands are checked word by word: each file and each subcommand exists."""
    for line in block.code.splitlines():
        for command in re.split(r"&&|;", line.partition("#")[0]):
            words = shlex.split(command.replace("\\", "/"))
            _check_command(words)


def _check_command(words: list[str]) -> None:
    program = Path(words[0]).name
    if program == "opm-engine":
        from opm_engine.cli import app

        names = {info.callback.__name__ for info in app.registered_commands}
        assert words[1] in names
    elif program == "sh":
        assert (ROOT / words[1]).is_file()
    else:
        assert program in {"python3", "python3.11", "py", "pip", "python"}
        if "-c" in words:
            assert (ROOT / words[words.index("-c") + 1]).is_file()


def test_readme_test_command_is_what_ci_runs() -> None:
    command = "sh scripts/test.sh"
    assert f"```sh\n{command}\n```" in (ROOT / "README.md").read_text("utf-8")
    assert f"\n{command}\n" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_importing_the_package_is_light() -> None:
    """No Qt, no compiler, no driver before they are needed."""
    code = (
        "import sys, opm_engine; dir(opm_engine);"
        "heavy = {'numba', 'zarr', 'nidaqmx', 'qtpy', 'PyQt6', 'napari'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
