"""The commands that run experiments: what a user types, sees, and is told when it cannot be done."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from dacycle.cycler.archive.branches import Archive, open_experiment
from dacycle.cycler.cli import app
from dacycle.cycler.experiment import load_experiment, write_experiment
from dacycle.cycler.verification.drift import read_scores
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler import replays
from tests.cycler.commands import dacycle
from tests.cycler.runs import make_run


@pytest.fixture
def place(world, tmp_path, monkeypatch) -> Path:
    """Return a working directory with demo.yaml in it, and an archive to come."""
    content = replays.content(world.folder, world.model, tmp_path, end="2024-01-04T00")
    (tmp_path / "demo.yaml").write_text(write_experiment(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_from_plan_to_status(place):
    assert "3 cycles, 20240103T12 to 20240104T00" in dacycle("plan", "demo.yaml")
    assert not (place / "archive").exists()
    assert "demo: 2 ok; it stands at 20240103T18" in dacycle("hindcast", "demo.yaml", "--limit", "2")
    assert "1 cycles, 20240104T00 to 20240104T00" in dacycle("plan", "demo.yaml")
    assert "demo 20240104T00: ok" in dacycle("cycle", "demo.yaml")
    assert "nothing is due yet; next is 20240104T06" in dacycle("cycle", "demo.yaml")
    assert "nothing: all 3 cycles are in the archive" in dacycle("plan", "demo.yaml")
    assert "demo 3 of 3 20240104T00" in dacycle("status", "--check")
    log = dacycle("log", "demo", "--last", "2")
    assert "20240104T00 ok" in log
    assert "20240103T12" not in log


def test_status_and_log_name_what_a_source_could_not_read(world, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    make_run(tmp_path, load_world(world.folder), cycles=3)
    problem = "20240102T12, source sondes: temp.bufr, message 3: <truncated>"
    for arguments in (["status"], ["log", "run"]):
        said = dacycle(*arguments, "--archive", str(tmp_path))
        assert problem in said
        assert "source stations" not in said
    make_run(tmp_path, load_world(world.folder), cycles=4)
    assert problem not in dacycle("status", "--archive", str(tmp_path)), "the last cycle had none"


def test_a_hindcast_keeps_its_free_run_beside_it(place):
    text = (place / "demo.yaml").read_text().replace("free_run: false", "free_run: true")
    (place / "demo.yaml").write_text(text)
    dacycle("hindcast", "demo.yaml", "--limit", "1")
    assert Archive("archive").branches() == ["demo", "demo-free"]
    assert open_experiment("archive", "demo-free").experiment.assimilator == "none"


def test_a_hindcast_makes_its_forecasts_where_it_is_asked_to(place):
    dacycle("hindcast", "demo.yaml", "--limit", "1")
    assert open_experiment("archive", "demo").archive.forecasts.branches() == []
    dacycle("hindcast", "demo.yaml", "--forecasts")
    starts = read_scores(open_experiment("archive", "demo"))["start"].unique()
    assert list(starts) == [pd.Timestamp("2024-01-03T12"), pd.Timestamp("2024-01-04T00")]


def test_log_records_in_json_name_experiment_and_cycle(place, monkeypatch):
    text = (place / "demo.yaml").read_text().replace("free_run: false", "free_run: true")
    (place / "demo.yaml").write_text(text)
    monkeypatch.setenv("DACYCLE_LOG", "json")
    ended = CliRunner().invoke(app, ["hindcast", "demo.yaml", "--limit", "2"])
    assert ended.exit_code == 0, ended.output
    records = [json.loads(line) for line in ended.stderr.splitlines()]
    cycles = [record for record in records if record["logger"] == "dacycle.cycler.cycle.replay"]
    assert [(record["experiment"], record["cycle"]) for record in cycles] == [
        ("demo", "20240103T12"), ("demo", "20240103T18"), ("demo-free", "20240103T12"), ("demo-free", "20240103T18"),
    ]  # fmt: skip
    assert all(record["level"] == "info" and record["message"].startswith("ok; ") for record in cycles)
    assert {record["experiment"] for record in records} == {"demo", "demo-free"}
    assert "demo: 2 ok" in ended.stdout


def test_for_people_a_hindcast_shows_its_progress_alone(place):
    text = (place / "demo.yaml").read_text().replace("minimum_observations: 10", "minimum_observations: 100000")
    (place / "demo.yaml").write_text(text)
    ended = CliRunner().invoke(app, ["hindcast", "demo.yaml", "--limit", "1"])
    assert "1 degraded" in ended.stdout
    assert ended.stderr == ""


def test_a_setting_that_means_nothing_is_refused(place, monkeypatch):
    monkeypatch.setenv("DACYCLE_ARCHIV", "elsewhere")
    assert "DACYCLE_ARCHIV: unknown setting; did you mean DACYCLE_ARCHIVE?" in dacycle("status", status=2)


def test_the_environment_names_the_archive(place, monkeypatch):
    monkeypatch.setenv("DACYCLE_ARCHIVE", "elsewhere")
    dacycle("hindcast", "demo.yaml", "--limit", "1")
    assert Archive("elsewhere").branches() == ["demo"]
    assert "elsewhere" in dacycle("status")


def test_fork_and_rewind(place):
    dacycle("hindcast", "demo.yaml")
    told = dacycle("fork", "demo@20240103T18", "dry", "--set", "deny=[td2m, 'stations:tp']", "--set", "drift.lead=48h")
    assert "go on with `dacycle hindcast dry.yaml --archive archive`" in told
    assert "dry: 1 ok; it stands at 20240104T00" in dacycle("hindcast", "dry.yaml")
    dry = open_experiment("archive", "dry")
    assert dry.experiment.deny == ("td2m", "stations:tp")
    assert len(dry.times) == 5
    assert "demo stands at 20240103T12; 2 cycles were dropped" in dacycle("rewind", "demo", "20240103T12", "--yes")
    assert len(open_experiment("archive", "demo").times) == 3
    assert len(open_experiment("archive", "dry").times) == 5


def test_a_fork_from_the_start_shares_the_cold_start(place):
    dacycle("hindcast", "demo.yaml", "--limit", "2")
    assert "none begins after demo@20240103T06" in dacycle("fork", "demo", "none", "--set", "assimilator=none")
    assert "none: 3 ok; it stands at 20240104T00" in dacycle("hindcast", "none.yaml")
    demo, none = open_experiment("archive", "demo"), open_experiment("archive", "none")
    assert none.records[:2] == demo.records[:2]
    assert none.records[2].id == demo.records[2].id
    assert "none begins after demo@20240103T06" in dacycle("fork", "demo", "none", "--set", "assimilator=none")


def test_what_a_command_took_is_kept_where_it_is_asked_for(place):
    environment = {**os.environ, "DACYCLE_COSTS": "costs.csv"}
    command = [sys.executable, "-c", "from dacycle.cycler.cli import main; main()"]
    for arguments, status in ((["models", "mini"], 0), (["hindcast", "x://me:s/e@cret@host/no.yaml"], 2)):
        assert subprocess.run([*command, *arguments], env=environment, cwd=place).returncode == status
    one, other = pd.read_csv(place / "costs.csv").itertuples()
    assert (one.command, other.command) == ("models mini", "hindcast x://me:***@host/no.yaml")
    assert one.seconds > 0 < one.processor_seconds
    assert 0.05 < one.peak_gb < 8
    assert 0.05 < other.peak_gb < 8


def test_a_fork_is_compared_with_the_free_run_of_its_donor(place):
    text = (place / "demo.yaml").read_text().replace("free_run: false", "free_run: true")
    (place / "demo.yaml").write_text(text)
    dacycle("hindcast", "demo.yaml")
    dacycle("fork", "demo@20240103T18", "dry", "--set", "deny=[td2m]")
    dacycle("hindcast", "dry.yaml")
    assert Archive("archive").branches() == ["demo", "demo-free", "dry"]
    (of_fork,) = (row for row in scores("dry")["rmse"] if row["channel"] == "t850")
    (of_donor,) = (row for row in scores("demo")["rmse"] if row["channel"] == "t850")
    assert of_fork["runs"]["free run"] == of_donor["runs"]["free run"]
    dacycle("report", "dry", "--out", "dry.html")
    assert "beside those of the free run, demo-free" in (place / "dry.html").read_text()


def test_a_fork_with_another_model_has_a_free_run_of_its_own(place):
    text = (place / "demo.yaml").read_text().replace("free_run: false", "free_run: true")
    (place / "demo.yaml").write_text(text)
    model = load_experiment(place / "demo.yaml").model
    (place / "other.onnx").write_bytes(Path(model).read_bytes())
    dacycle("hindcast", "demo.yaml", "--limit", "2")
    dacycle("fork", "demo@20240103T18", "other", "--set", "model=other.onnx")
    assert load_experiment(place / "other.yaml").drift.free_run
    assert "rmse" in scores("other")
    assert all("free run" not in row["runs"] for row in scores("other")["rmse"])


@pytest.mark.parametrize("name", ["dry.yaml", "main", "a b", "-dry", "../dry", "x" * 101])
def test_a_name_that_is_none_is_refused_with_the_rule(place, name):
    dacycle("hindcast", "demo.yaml", "--limit", "1")
    said = dacycle("fork", "demo@20240103T12", "--", name, status=2)
    assert f"{name!r} is no name of an experiment: " in said
    assert [path.name for path in place.glob("*.yaml")] == ["demo.yaml"]


def scores(name: str) -> dict[str, Any]:
    return json.loads(dacycle("scores", name, "--json"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["hindcast", "nothing.yaml"], "nothing.yaml: there is no such file (an experiment is expected)"),
        (["status", "--archive", "nowhere"], "no archive at nowhere; give --archive or set DACYCLE_ARCHIVE"),
        (["log", "dome"], "no experiment 'dome' here (there are: demo)"),
        (["fork", "@20240103T12", "other"], "'@20240103T12' is not EXPERIMENT@TIME"),
        (["fork", "demo@20240103T12", "demo"], "demo.yaml exists"),
        (["fork", "demo@20240103T12", "x", "--set", "sede=2"], "sede: unknown key; did you mean seed?"),
        (["fork", "demo@20240103T12", "x", "--set", "deny=[a"], "is not a YAML value"),
        (["fork", "demo@20240103T12", "x", "--set", "deny=olr"], "deny: a list is expected, such as [olr]"),
        (["rewind", "demo", "yesterday-ish", "--yes"], "is not a time; write it as 2024-01-04"),
        (["hindcast", "demo.yaml", "--until", "20240104T01"], "cycles are at 00, 06, 12 and 18 UTC"),
    ],
)
def test_errors_are_sentences_and_the_status_is_2(place, arguments, expected):
    dacycle("hindcast", "demo.yaml", "--limit", "1")
    assert expected in dacycle(*arguments, status=2)
    assert not (place / "x.yaml").exists()


def test_a_run_that_stops_says_so_with_status_1(place):
    text = (place / "demo.yaml").read_text().replace("assimilator: nudge", "assimilator: wild")
    (place / "demo.yaml").write_text(text)
    assert "3 cycles in a row fell back" in dacycle("hindcast", "demo.yaml", status=1)


def test_damage_is_reported_with_status_1(place):
    dacycle("hindcast", "demo.yaml", "--limit", "1")
    (place / "archive/branches/demo/departures/20240103T12.parquet").write_bytes(b"")
    assert "20240103T12.parquet is missing" in dacycle("status", "--check", status=1)


def test_an_interrupted_hindcast_leaves_the_archive_whole(place):
    text = (place / "demo.yaml").read_text().replace("assimilator: nudge", "assimilator: none")
    assert "2024-01-04T00" in text
    (place / "demo.yaml").write_text(text.replace("2024-01-04T00", "2024-01-07T00"))  # long enough to be interrupted
    command = [sys.executable, "-c", "from dacycle.cycler.cli import main; main()", "hindcast", "demo.yaml"]
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # Tests started in a shell's background inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    first = place / "archive/branches/demo/departures/20240103T12.parquet"
    while run.poll() is None and not first.exists():
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGINT)
    said, _ = run.communicate(timeout=120)
    assert "Traceback" not in said
    assert run.returncode == 130, said
    assert "the archive is whole" in " ".join(said.split())
    assert "it stands at 20240107T00" in dacycle("hindcast", "demo.yaml")
    assert "15" in dacycle("status", "--check")


@pytest.mark.parametrize("command", ["plan", "hindcast", "cycle", "status", "log", "fork", "rewind"])
def test_every_command_has_help_with_an_example(command):
    assert f"Example: dacycle {command} " in dacycle(command, "--help")
