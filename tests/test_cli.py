"""The command, as a process: exit status, one-line errors, files, JSON."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import yaozarrs
from rich.console import Console

from opm_engine import Microscope, cli
from opm_engine.config import template
from opm_engine.demo import run_demo
from sequences import scan
from twins import microscope, read

NEEDS_NO_QT = "import sys; sys.modules.update(qtpy=None, PyQt6=None, PySide6=None); "
MAIN = "from opm_engine.cli import main; main()"


def opm_engine(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", NEEDS_NO_QT + MAIN, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with a small simulated microscope and a sequence for it."""
    table = microscope().model_dump(mode="json", exclude_none=True)
    (tmp_path / "scope.toml").write_text(tomli_w.dumps(table))
    (tmp_path / "scan.yaml").write_text(scan().yaml())
    return tmp_path


def test_demo(tmp_path: Path) -> None:
    done = opm_engine("demo", "--volumes", 1, "--out", "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    out = tmp_path / "out"
    assert report == json.loads((out / "report.json").read_text())
    assert report["frames_asked"] == report["frames_popped"] == 404
    assert report["frames_counted"] == 404
    assert report["frames_lost"] == 0
    assert report["lasers_on_after"] == []
    assert set(report["ncc"]) == {"488", "561"}
    assert all(0.95 <= ncc <= 1 for ncc in report["ncc"].values())
    for store in ("raw", "deskewed", "truth"):
        yaozarrs.validate_zarr_store(str(out / f"{store}.ome.zarr"))
    truth = read(out / "truth.ome.zarr", "1/0")
    deskewed = read(out / "deskewed.ome.zarr", "1/0")
    assert truth.shape == deskewed.shape
    valid = deskewed[0, 0] > 0
    assert np.corrcoef(truth[0, 0][valid], deskewed[0, 0][valid])[0, 1] > 0.95
    with pytest.raises(FileExistsError, match="already holds"):
        run_demo(out)


def test_run(small: Path) -> None:
    done = opm_engine(
        *("run", "scan.yaml", "--microscope", "scope.toml", "--out", "out", "--json"),
        cwd=small,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames_lost"] == 0
    out = small / "out"
    assert {path.name for path in out.iterdir()} == {
        *("raw.ome.zarr", "deskewed.ome.zarr", "projections.png"),
        *("microscope.toml", "sequence.yaml", "acquisition.log"),
    }
    assert Microscope.load(out / "microscope.toml") == microscope()
    assert "acquired" in (out / "acquisition.log").read_text()
    assert read(out / "raw.ome.zarr").shape == (1, 2, 5, 208, 32)
    repeat = opm_engine(
        *("run", "out/sequence.yaml", "--microscope", "out/microscope.toml"),
        *("--out", "out2"),
        cwd=small,
    )
    assert repeat.returncode == 0, repeat.stderr
    assert read(small / "out2" / "raw.ome.zarr").any()


def test_init(tmp_path: Path) -> None:
    assert opm_engine("init", "M.toml", cwd=tmp_path).returncode == 0
    assert (tmp_path / "M.toml").read_text("utf-8") == template("instrument")
    assert Microscope.load(tmp_path / "M.toml").camera.exposure_out.kind == "all_rows"
    again = opm_engine("init", "M.toml", cwd=tmp_path)
    assert again.returncode == 1
    assert "exists" in again.stderr


ERRORS = {
    "no-sequence": ("run", "none.yaml", "--out", "out"),
    "no-microscope": ("run", "scan.yaml", "--microscope", "no.toml", "--out", "out"),
    "not-a-sequence": ("run", "scope.toml", "--out", "out"),
    "bad-toml": ("run", "scan.yaml", "--microscope", "bad.toml", "--out", "out"),
    "impossible": (
        "run",
        "impossible.yaml",
        "--microscope",
        "scope.toml",
        "--out",
        "x",
    ),
    "no-command": ("fly",),
    "no-volumes": ("demo", "--volumes", "0"),
}


@pytest.fixture
def here(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: status, stdout, stderr."""
    monkeypatch.chdir(small)

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["opm-engine", *words])
        monkeypatch.setattr(cli, "stderr", Console(file=sys.stderr))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        done = capsys.readouterr()
        return int(ended.value.code or 0), done.out, done.err

    return command


@pytest.mark.parametrize("case", ERRORS)
def test_errors(
    case: str, small: Path, here: Callable[..., tuple[int, str, str]]
) -> None:
    (small / "bad.toml").write_text("name = 3\nwhat = 1\n")
    impossible = scan(z_plan={"range": 500, "step": 1})
    (small / "impossible.yaml").write_text(impossible.yaml())
    before = set(small.rglob("*"))
    status, stdout, stderr = here(*ERRORS[case])
    assert status in (1, 2)
    assert stdout == ""
    (line,) = stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert set(small.rglob("*")) == before, "something was written"


def test_debug_shows_where(small: Path) -> None:
    command = ("run", "scan.yaml", "--microscope", "no.toml", "--out", "out")
    plain, debug = (
        opm_engine(*command, *more, cwd=small) for more in ([], ["--debug"])
    )
    assert (plain.returncode, debug.returncode) == (1, 1)
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr


def test_help_names_the_commands(tmp_path: Path) -> None:
    done = opm_engine("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("demo", "init", "run"))


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT, which is POSIX")
def test_ctrl_c(small: Path) -> None:
    long = scan(time_plan={"interval": 0, "loops": 1000})
    (small / "long.yaml").write_text(long.yaml())
    # A shell that runs the tests in the background makes its children ignore SIGINT.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    with subprocess.Popen(
        [
            *(sys.executable, "-c", heed + MAIN, "run", "long.yaml"),
            *("--microscope", "scope.toml", "--out", "out"),
        ],
        cwd=small,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        try:
            deadline_s = time.monotonic() + 60
            while not list((small / "out").glob("raw.ome.zarr/0/c/*")):
                assert time.monotonic() < deadline_s
                assert run.poll() is None, run.communicate()
                time.sleep(0.05)
            run.send_signal(signal.SIGINT)
            _, stderr = run.communicate(timeout=30)
        finally:
            run.kill()
    assert run.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "FATAL" not in stderr
    assert read(small / "out" / "raw.ome.zarr")[0].any()


@pytest.mark.slow
def test_ends_quietly_every_time(small: Path) -> None:
    """Some cores abort the interpreter on their way out, now and then."""
    code = (
        "from opm_engine import open_microscope\n"
        "open_microscope('scope.toml')\n"
        "scope = open_microscope('scope.toml'); scope.close()\n"
    )
    for _ in range(8):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=small,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
