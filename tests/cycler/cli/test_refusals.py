"""What a user has got wrong is answered in a sentence that names the remedy, with exit status 2."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cli import app
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import load_experiment, write_experiment
from dacycle.cycler.operations.doctor import check_writing
from tests.cycler import replays

SINGLE = "single-observation demo.yaml --variable t --pressure 500hPa --latitude 0 --longitude 0 --departure 1K"


@pytest.fixture(scope="module")
def place(world, tmp_path_factory) -> Path:
    """Return a folder with demo.yaml, and an archive with two of its cycles."""
    folder = tmp_path_factory.mktemp("place")
    content = replays.content(world.folder, world.model, folder, end="2024-01-04T00")
    (folder / "demo.yaml").write_text(write_experiment(content))
    run_due_cycles(load_experiment(folder / "demo.yaml"), Archive(folder / "archive", create=True), limit=2)
    return folder


def refused(place: Path, *arguments: str) -> str:
    """Return what a command says on its way out with status 2; relative paths are in `place`."""
    old = Path.cwd()
    os.chdir(place)
    try:
        ended = CliRunner().invoke(app, arguments, env={"COLUMNS": "1000"})
    finally:
        os.chdir(old)
    assert ended.exit_code == 2, (ended.output, ended.exception)
    assert "Traceback" not in ended.output
    return " ".join(ended.output.split())


# --- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", ["04.01.2024", "01/04/2024", "January 4", "06", "12:00", "2024"])
@pytest.mark.parametrize(
    "command",
    [
        "hindcast demo.yaml --archive new --until TIME",
        "scores demo --since TIME",
        "errors demo --until TIME",
        "write demo --until TIME --out new.nc",
        "write demo@TIME --out new.nc",
        "rewind demo TIME",
        "fork demo@TIME other --out new.yaml",
        f"{SINGLE} --out new --time TIME",
        "forecast demo.yaml --time TIME --out new.nc",
        "analyse --background demo.yaml --observations demo.yaml --out new.grib --time TIME",
        "ingest metar demo.yaml --time TIME --out new.parquet",
        "ingest metar demo.yaml --since TIME --until TIME --out new",
        "dataset states new --since TIME",
        "dataset states new --since 2024-01-01 --until 2024-01-02 --without TIME",
    ],
)
def test_a_time_in_another_form_is_refused_before_anything_is_read_or_made(place, command, time):
    said = refused(place, *(part.replace("TIME", time) for part in command.split()))
    assert f"'{time}' is not a time; write it as 2024-01-04, 2024-01-04T06 or 2024-01-04T06:00, in UTC" in said
    assert not list(place.glob("new*"))


def test_an_experiment_with_another_form_of_time_names_the_line(place, tmp_path):
    text = (place / "demo.yaml").read_text().replace("2024-01-04T00", "04.01.2024")
    line = next(i for i, each in enumerate(text.splitlines(), 1) if "04.01.2024" in each)
    (tmp_path / "other.yaml").write_text(text)
    assert f"other.yaml:{line}: end: '04.01.2024' is not a time" in refused(tmp_path, "plan", "other.yaml")


# --- encodings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "line"), [("latin-1", ":1"), ("cp1252", ":1"), ("utf-16-le", "")])
def test_an_experiment_in_another_encoding_is_named(place, tmp_path, encoding, line):
    text = "# Größe über alles\n" + (place / "demo.yaml").read_text()
    (tmp_path / "other.yaml").write_bytes(text.encode(encoding))
    said = refused(tmp_path, "hindcast", "other.yaml", "--archive", "new")
    assert f"other.yaml{line}" in said
    assert "UTF-8" in said


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_an_experiment_with_a_byte_order_mark_is_read(place, tmp_path, encoding):
    text = "# Größe\n" + (place / "demo.yaml").read_text()
    (tmp_path / "other.yaml").write_bytes(text.encode(encoding))
    assert load_experiment(tmp_path / "other.yaml") == load_experiment(place / "demo.yaml")


# --- places that cannot be written to ---------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["demo.yaml/new", "/proc/new"])
@pytest.mark.parametrize(
    "command",
    [
        "hindcast demo.yaml --archive OUT",
        "serve demo.yaml --archive OUT",
        "write demo --out OUT.nc",
        "write demo --out OUT.grib2",
        "write demo --out OUT.zarr",
        "report demo --out OUT.html",
        "compare demo demo --out OUT.html",
        "scores demo --picture OUT.svg",
        f"{SINGLE} --beyond 3000 --out OUT",
        "dataset WORLD OUT --since 2024-01-01 --until 2024-01-02",
    ],
)
def test_a_place_that_cannot_be_written_to_is_named(place, world, command, out):
    said = refused(place, *command.replace("OUT", out).replace("WORLD", str(world.folder)).split())
    assert "error: " in said
    assert out.split("/")[-2] in said


def test_a_device_or_pipe_is_not_replaced(place, tmp_path):
    os.mkfifo(tmp_path / "pipe.svg")
    assert "is a device or a pipe" in refused(place, "scores", "demo", "--picture", str(tmp_path / "pipe.svg"))
    assert (tmp_path / "pipe.svg").is_fifo()


def test_a_full_disk_is_named(place, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    said = refused(place, "scores", "demo", "--picture", "new.svg")
    assert said.endswith("error: No space left on device; make room, or name a place on another disk")
    assert not list(place.glob("*new*"))


def test_doctor_tries_to_write(place, monkeypatch):
    monkeypatch.chdir(place)
    assert [(f.subject, f.level) for f in check_writing(Path("archive"))] == [
        ("writing to the archive", "ok"),
        ("writing to the working folder", "ok"),
    ]
    assert [f.level for f in check_writing(Path("new/archive"))] == ["ok", "ok"]
    assert not Path("new").exists()
    found = next(check_writing(Path("/proc/archive")))
    assert found.level == "wrong"
    assert "/proc cannot be written to" in found.text


# --- Prefect ----------------------------------------------------------------------------------------------------------


def test_a_prefect_server_that_is_not_there_is_named_at_once(place):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/api"
    environment = {**os.environ, "PREFECT_API_URL": address}
    code = "from dacycle.cycler.cli import main; main()"
    command = [sys.executable, "-c", code, "hindcast", "demo.yaml", "--archive", "other", "--prefect"]
    ended = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert f"is {address}, but no Prefect server answers there" in ended.stderr
    assert "prefect server start" in ended.stderr
