"""Every code block of README and docs runs, and the commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from conftest import ROOT
from opm_engine import cli
from opm_engine.config import Microscope, template

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]


ADVICE = ('mode "stage": the scan moves on', 'motion "ramp": the scan moves on')
"""Warnings of plans that the pages explain."""


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    code: str


COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


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


def _marked(block: Block) -> object:
    """The guides and the README's scans run with the slow tests."""
    is_long = block.page.parent.name == "docs" or "z_plan" in block.code
    marks = [pytest.mark.slow] if is_long else []
    return pytest.param(block, marks=marks, id=_name(block))


def _name(block: Block) -> str:
    return f"{block.page.name}:{block.line}"


def test_there_are_blocks() -> None:
    assert len(PYTHON) >= 4
    assert {block.language for block in BLOCKS} <= {"python", "sh", "powershell", ""}


@pytest.mark.parametrize("block", [_marked(block) for block in PYTHON])
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
    assert [x for x in done.stderr.splitlines() if not x.startswith(ADVICE)] == []


@pytest.mark.parametrize("block", SHELL, ids=_name)
def test_shell(block: Block) -> None:
    """Commands are checked word by word: files, subcommands and options exist."""
    for line in block.code.splitlines():
        for command in re.split(r"&&|;", line.partition("#")[0]):
            words = shlex.split(command.replace("\\", "/"))
            _check_command(words)


def _check_command(words: list[str]) -> None:
    program = Path(words[0]).name
    if program == "opm-engine":
        command = COMMANDS[words[1]]
        options = {name for param in command.params for name in param.opts}
        assert {word for word in words if word.startswith("--")} <= options
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


def test_what_the_template_leaves_out_is_right_too() -> None:
    """Every commented line that is TOML, put in."""
    line = re.compile(r'^# (\[+[\w.]+\]+$|"?[\w ]+"? = \S.*)', re.M)
    text, n_lines = line.subn(r"\1", template("instrument"))
    assert n_lines > 30
    microscope = Microscope.from_table(tomllib.loads(text))
    tables = microscope.scan_stage, microscope.remote_focus, microscope.daq.projection
    assert all(tables)
    assert microscope.daq.record
    assert microscope.daq.address


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
