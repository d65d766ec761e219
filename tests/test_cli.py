"""The command, as a process: exit status, one-line errors, files, JSON."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import yaozarrs
from rich.console import Console

from opm_engine import Microscope, cli, open_microscope
from opm_engine.config import template
from opm_engine.demo import run_demo
from opm_engine.simulation.board_status import board_status
from opm_engine.writers.lock import StoreLock
from sequences import scan
from twins import microscope, read

EXPOSURE_MS, READOUT_MS = 5.0, 208 * 4.868e-3
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


def reported(*arguments: object, cwd: Path, status: int = 0) -> dict[str, Any]:
    """What a command prints with ``--json``: one object and nothing else."""
    done = opm_engine(*arguments, "--json", cwd=cwd)
    assert done.returncode == status, done.stderr
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    assert isinstance(report, dict)
    return report


def describe(path: Path, **changes: Any) -> None:
    """Write a small simulated microscope."""
    table = microscope(**changes).model_dump(mode="json", exclude_none=True)
    path.write_text(tomli_w.dumps(table))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with a small simulated microscope and a sequence for it."""
    describe(tmp_path / "scope.toml")
    (tmp_path / "scan.yaml").write_text(scan().yaml())
    return tmp_path


@contextmanager
def process(*words: str, cwd: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The command as a process that heeds Ctrl-C, and is gone afterwards."""
    # A shell that runs the tests in the background makes its children ignore SIGINT.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    with subprocess.Popen(
        [sys.executable, "-c", heed + MAIN, *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a simulated board that is a process of its own."""
    words = "simulate-daq", "--address", "127.0.0.1:0", "--json"
    with process(*words, cwd=tmp_path_factory.mktemp("board")) as running:
        assert running.stdout is not None
        yield json.loads(running.stdout.readline())["address"]
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=20) == 0


@pytest.mark.slow
def test_demo(tmp_path: Path, board: str) -> None:
    words = "--volumes", 1, "--out", "out", "--progress-file", "progress.jsonl"
    report = reported("demo", *words, "--daq-address", board, cwd=tmp_path)
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
    told = [
        json.loads(line)["acknowledged"]
        for line in (tmp_path / "progress.jsonl").read_text().splitlines()
    ]
    assert (told[0], told[-1]) == (0, 404)
    assert told == sorted(told)
    assert len(set(told)) > 5
    assert report["frames_acknowledged"] == 404
    assert set(report["branches"]) == {
        *("meter", "raw", "deskew", "deskew/deskewed", "deskew/projections"),
    }
    with pytest.raises(FileExistsError, match="already holds"):
        run_demo(out)


def test_run(small: Path) -> None:
    done = opm_engine(
        *("run", "scan.yaml", "--microscope", "scope.toml", "--out", "out", "--json"),
        *("--progress-file", "out/progress.jsonl"),
        cwd=small,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames_lost"] == 0
    out = small / "out"
    assert {path.name for path in out.iterdir()} == {
        *("raw.ome.zarr", "deskewed.ome.zarr", "projections.png"),
        *("microscope.toml", "sequence.yaml", "acquisition.log", "progress.jsonl"),
    }
    assert Microscope.load(out / "microscope.toml") == microscope()
    assert "acquired" in (out / "acquisition.log").read_text()
    assert read(out / "raw.ome.zarr").shape == (1, 2, 5, 208, 32)


MICROSCOPES = {
    "run": ("demo", "pattern", "replay:STORE"),
    "check": ("demo", "pattern"),
    "calibrate": ("demo", "pattern"),
}


@pytest.mark.parametrize("command", MICROSCOPES)
def test_help_names_all_microscopes(
    command: str, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, stdout, _ = here(command, "--help")
    assert [name for name in MICROSCOPES[command] if f'"{name}"' not in stdout] == []


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
    "check-nothing": ("check", "no.toml"),
    "check-impossible": ("check", "scope.toml", "--sequence", "impossible.yaml"),
    "no-such-laser": ("calibrate", "scope.toml", "--laser", "640"),
    "no-board": ("run", "scan.yaml", "--out", "x", "--daq-address", "127.0.0.1:9"),
    "no-address": ("simulate-daq",),
    "not-an-address": ("simulate-daq", "--address", "here"),
    "no-such-product": (
        *("simulate-daq", "--address", "127.0.0.1:0"),
        *("--product", "PCIe-9999"),
    ),
    "no-progress-file": (
        *("run", "scan.yaml", "--microscope", "scope.toml", "--out", "out"),
        *("--progress-file", "scan.yaml/progress.jsonl"),
    ),
    "no-such-codec": (
        *("run", "scan.yaml", "--microscope", "scope.toml", "--out", "out"),
        *("--codec", "gzip"),
    ),
    "info-on-nothing": ("info", "none.ome.zarr"),
    "info-on-no-store": ("info", "."),
    "repair-nothing": ("repair", "none.ome.zarr"),
    "repair-no-store": ("repair", "scan.yaml"),
    "deskew-nothing": ("deskew", "none.ome.zarr", "--out", "out.ome.zarr"),
    "deskew-no-size": (
        *("deskew", "none.ome.zarr", "--out", "out.ome.zarr"),
        *("--voxel-size", "1,2,3"),
    ),
    "nobody-there": ("simulate-daq", "--address", "127.0.0.1:9", "--status"),
}


Here = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """Run the command in this process: status, stdout, stderr."""
    monkeypatch.chdir(small)

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["opm-engine", *words])
        monkeypatch.setattr(cli.talk, "stderr", Console(file=sys.stderr))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        done = capsys.readouterr()
        return int(ended.value.code or 0), done.out, done.err

    return command


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case: str, small: Path, here: Here) -> None:
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
    done = opm_engine(*command, "--debug", cwd=small)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


HELP = {
    "": (
        *("demo", "init", "run", "check", "calibrate", "simulate-daq", "--debug"),
        *("deskew", "info", "repair"),
    ),
    "demo": ("--out", "--volumes", "--json", "--daq-address", "--progress-file"),
    "run": (
        *("SEQUENCE.yaml", "--microscope", "--out", "--daq-address"),
        *("--progress-file", "--codec"),
    ),
    "deskew": (
        *("RAW.ome.zarr", "--out", "--voxel-size", "--z-bin", "--interpolation"),
        *("--missing", "--correction", "--jobs", "--memory", "--codec", "--json"),
    ),
    "info": ("X.ome.zarr", "--json"),
    "repair": ("X.ome.zarr", "--json"),
    "init": ("M.toml", "--overwrite"),
    "check": ("M.toml", "--sequence", "--run-camera", "--json", "--daq-address"),
    "calibrate": ("M.toml", "--laser", "Lights the", "--daq-address"),
    "simulate-daq": ("--address", "--device", "--product", "--status", "--json"),
}


@pytest.mark.parametrize("command", HELP)
def test_help(
    command: str,
    here: Here,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    status, stdout, _ = here(*command.split(), "--help")
    assert status == 0
    assert [word for word in HELP[command] if word not in stdout] == []


ENDS = {"ctrl-c": (signal.SIGINT, 130), "sigterm": (signal.SIGTERM, 143)}


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals, which are POSIX")
@pytest.mark.parametrize(
    "how", ["ctrl-c", pytest.param("sigterm", marks=pytest.mark.slow)]
)
def test_signals(how: str, small: Path) -> None:
    number, status = ENDS[how]
    long = scan(time_plan={"interval": 0, "loops": 1000})
    (small / "long.yaml").write_text(long.yaml())
    words = "run", "long.yaml", "--microscope", "scope.toml", "--out", "out"
    with process(*words, cwd=small) as running:
        deadline_s = time.monotonic() + 60
        while not list((small / "out").glob("raw.ome.zarr/0/c/*")):
            assert time.monotonic() < deadline_s
            assert running.poll() is None, running.communicate()
            time.sleep(0.05)
        running.send_signal(number)
        _, stderr = running.communicate(timeout=30)
    assert running.returncode == status, stderr
    assert "Traceback" not in stderr
    assert "FATAL" not in stderr
    assert read(small / "out" / "raw.ome.zarr")[0].any()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a small run left."""
    folder = tmp_path_factory.mktemp("recorded")
    with open_microscope(microscope()) as scope:
        scope.acquire(scan(), folder / "out")
    return folder / "out"


@pytest.mark.slow
def test_a_run_again_from_its_own_files(recorded: Path, tmp_path: Path) -> None:
    words = "run", recorded / "sequence.yaml", "--microscope"
    report = reported(*words, recorded / "microscope.toml", "--out", "o", cwd=tmp_path)
    assert report["frames_lost"] == 0
    again, before = (read(x / "raw.ome.zarr") for x in (tmp_path / "o", recorded))
    assert again.shape == before.shape
    assert again.any()


@pytest.fixture
def torn(recorded: Path, small: Path) -> Path:
    """The raw store of a run that was cut off in its last shard."""
    store = shutil.copytree(recorded / "raw.ome.zarr", small / "raw.ome.zarr")
    last = max(p for p in store.rglob("c/*/*/*/*/*") if p.is_file())
    os.truncate(last, last.stat().st_size - 100)
    return store


def test_info(here: Here, recorded: Path) -> None:
    status, stdout, _ = here("info", str(recorded / "raw.ome.zarr"), "--json")
    assert status == 0
    found = json.loads(stdout)
    assert found["kind"] == "planes"
    assert found["channels"] == ["488", "561"]
    assert found["shape"] == {"t": 1, "c": 2, "z": 5, "y": 208, "x": 32}
    assert found["scale_um"] == {"z": 0.5, "y": 0.115, "x": 0.115}
    assert (found["codec"], found["dtype"]) == ("lz4", "uint16")
    assert found["scan"]["mode"] == "galvo"
    assert (found["frames_present"], found["frames_missing"]) == (10, 0)
    assert (found["is_whole"], found["missing"], found["flags"]) == (True, [], [])
    assert found["n_bytes"] > 10_000
    assert found["levels"] == 1
    status, stdout, _ = here("info", str(recorded / "deskewed.ome.zarr"))
    assert status == 0
    assert "volumes" in stdout
    assert "is_whole" in stdout


def test_repair(here: Here, torn: Path) -> None:
    _, stdout, _ = here("info", str(torn), "--json")
    before = json.loads(stdout)
    assert (before["is_whole"], before["needs_repair"]) == (False, True)
    status, stdout, _ = here("repair", str(torn), "--json")
    report = json.loads(stdout)
    assert status == 0, "frames are missing, but the store is readable"
    assert report["frames_present"] == 10 - report["frames_missing"] < 10
    assert report["repaired"]
    status, stdout, _ = here("repair", str(torn), "--json")
    assert (status, json.loads(stdout)) == (0, {**report, "repaired": []})
    _, stdout, _ = here("info", str(torn), "--json")
    after = json.loads(stdout)
    assert (after["is_whole"], after["needs_repair"]) == (False, False)
    assert len(after["missing"]) == report["frames_missing"]
    assert read(torn).any()


def test_repair_leaves_a_run_alone(here: Here, recorded: Path) -> None:
    with StoreLock(recorded / "raw.ome.zarr"):
        status, _, stderr = here("repair", str(recorded / "raw.ome.zarr"))
    assert status == 1
    assert "is being written" in stderr


@pytest.mark.slow
def test_deskew(recorded: Path, tmp_path: Path) -> None:
    """The same voxels as live, from a process as users start it."""
    live = read(recorded / "deskewed.ome.zarr")
    words = "deskew", recorded / "raw.ome.zarr", "--out", "d.ome.zarr"
    report = reported(*words, "--jobs", 2, "--memory", 1, cwd=tmp_path)
    assert (report["volumes"], report["shards_found"]) == (2, 0)
    np.testing.assert_array_equal(read(tmp_path / "d.ome.zarr"), live)
    again = reported(*words, cwd=tmp_path)
    assert again["shards_found"] == again["shards"] == report["shards"]
    binned = reported(
        *(*words[:3], "b.ome.zarr", "--voxel-size", "0.2,0.3", "--z-bin", 2),
        *("--interpolation", "orthogonal", "--missing", "interpolate"),
        *("--correction", "camera", "--codec", "zstd"),
        cwd=tmp_path,
    )
    assert binned["volumes"] == 2
    found = reported("info", "b.ome.zarr", cwd=tmp_path)
    assert found["codec"] == "zstd"
    assert found["scale_um"] == {"z": 0.4, "y": 0.3, "x": 0.115}


LASER_LINES = "port0/line0", "port0/line1"


def outputs(board: str, cwd: Path) -> dict[str, Any]:
    return reported("simulate-daq", "--address", board, "--status", cwd=cwd)


def test_board_of_its_own(small: Path, board: str) -> None:
    """It tells its outputs; a run plays on it and leaves it dark."""
    before = outputs(board, small)
    assert list(before) == ["lines", "rises", "ao"]
    assert list(before["ao"]) == ["ao0", "ao1", "ao2", "ao3"]
    assert {type(volts) for volts in before["ao"].values()} == {float}
    for table in ("lines", "rises"):
        assert {type(value) for value in before[table].values()} == {int}
    report = reported(
        *("run", "scan.yaml", "--microscope", "scope.toml", "--out", "out"),
        *("--daq-address", board),
        cwd=small,
    )
    assert report["frames_lost"] == 0
    after = outputs(board, small)
    assert set(after["lines"].values()) == {0}
    risen = [after["rises"][x] - before["rises"][x] for x in LASER_LINES]
    assert risen == [5, 5]
    assert after["lines"].keys() == after["rises"].keys()
    assert "port1/line0" not in after["lines"], "what the camera drives is no output"


def test_check_gives_no_light(here: Here, board: str) -> None:
    before = board_status(board)
    words = "check", "scope.toml", "--sequence", "scan.yaml", "--daq-address", board
    status, stdout, stderr = here(*words, "--json")
    assert (status, stderr) == (0, "")
    report = json.loads(stdout)
    assert report["programmed"] is True
    assert report["board"] == "PCIe-6363"
    assert report["channels"] == ["488", "561"]
    # 2 x 5 planes and a frame back, 5 ms each
    assert report["volume_rate_hz"] == pytest.approx(1000 / 55, rel=1e-3)
    duty = 5 * (EXPOSURE_MS - READOUT_MS) / 55
    assert report["light_duty"] == {
        name: pytest.approx(duty, rel=0.01) for name in ("488", "561")
    }
    # a step of 0.5 µm is 0.025 V at 1 V/ms
    margin_ms = READOUT_MS - 0.025 - 0.8
    assert report["galvo_margin_ms"] == pytest.approx(margin_ms, abs=1e-3)
    after = board_status(board)
    assert [after["rises"][x] - before["rises"][x] for x in LASER_LINES] == [0, 0]


def test_check_times_the_camera(here: Here) -> None:
    status, stdout, _ = here("check", "scope.toml", "--run-camera", "--json")
    assert status == 0
    times = json.loads(stdout)["exposure_out"]
    assert times["wrong"] == []
    assert times["period_ms"] == pytest.approx(times["planned_period_ms"], abs=0.01)
    assert times["high_ms"] == pytest.approx(times["planned_active_ms"], abs=0.01)


def test_check_finds_what_does_not_agree(small: Path, here: Here) -> None:
    describe(small / "scope.toml", camera__properties={"ExposureOutKind": "AnyRow"})
    status, _, stderr = here("check", "scope.toml", "--run-camera")
    assert status == 1
    assert "error: camera.exposure_out: active for" in stderr


@pytest.mark.slow
def test_calibrate(tmp_path: Path) -> None:
    report = reported("calibrate", "demo", cwd=tmp_path)
    assert report["volts_per_um"] == pytest.approx(0.05, rel=0.01)
    assert report["sign"] == 1
    assert report["settle_ms"] == pytest.approx(0.8, abs=0.15)
    assert report["configured"] == {"volts_per_um": 0.05, "settle_ms": 0.8}


@pytest.mark.slow
def test_ends_quietly_every_time(small: Path) -> None:
    """Some cores abort the interpreter on their way out, now and then."""
    code = (
        "from opm_engine import open_microscope\n"
        "open_microscope('scope.toml')\n"
        "scope = open_microscope('scope.toml'); scope.close()\n"
    )

    def ending(_: int) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=small,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stderr

    with ThreadPoolExecutor(2) as two_at_a_time:
        assert set(two_at_a_time.map(ending, range(8))) == {(0, "")}
