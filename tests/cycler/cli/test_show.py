"""What commands print: JSON with the same content as the table, and tables that fit 80 columns."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from dacycle.cycler.archive.progress import Progress
from dacycle.cycler.cli import app
from dacycle.cycler.cli.cycles.status import USES, _print_log, _print_status
from dacycle.cycler.cli.cycles.verify import _print_comparison
from dacycle.cycler.cli.show import print_json
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler.runs import make_run

LONG, CONTROL, METHOD = "hindcast-2024-no-olr", "hindcast-2024-control", "vae-var-adapter"


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def fits(said: str, *whole: str) -> None:
    """Check that no line is wider than 80 columns, and that nothing is cut."""
    assert max(len(line) for line in said.splitlines()) <= 80
    assert "…" not in said
    for name in whole:
        assert name in said


def test_status_fits_80_columns(narrow, capsys):
    time = pd.Timestamp("2024-12-31T18")
    _print_status("archive", [Progress(LONG, METHOD, 1464, 1464, time, time, time, 120, 12, {})])
    fits(capsys.readouterr().out, LONG, METHOD, "1464 of 1464", "20241231T18")


def test_the_log_fits_80_columns_and_has_the_year(narrow, capsys):
    values = dict.fromkeys(USES, 27647)
    times = {"cycle": pd.Timestamp("2024-12-31T18"), "written": pd.Timestamp("2026-11-28T12:31:38")}
    reason = "increment of q700 is beyond its limit"
    _print_log(
        LONG,
        [
            times
            | {
                "status": "fallback",
                "values": values,
                "seconds": 12.34,
                "reason": reason,
                "problems": {},
                "start": None,
            }
        ],
    )
    fits(capsys.readouterr().out, "20241231T18", "2026-11-28 12:31", f"20241231T18: {reason}")


def test_a_comparison_fits_80_columns_and_names_its_units(narrow, capsys):
    row = {"of": "withheld O-B", "source": "stations", "channel": "msl", "unit": "hPa", "region": "", "rmse_a": 1.304,
           "rmse_b": 1.222, "change": -0.057, "low": -0.102, "high": -0.011, "effective": 120.0,
           "excludes_zero": True}  # fmt: skip
    _print_comparison({"runs": [CONTROL, LONG], "cycles": 1464, "rows": [row]})
    fits(capsys.readouterr().out, "stations msl (hPa)", "-10.2% to -1.1%", "1.30", LONG, CONTROL)


def test_nothing_is_wrapped_where_the_output_is_no_terminal(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    name = "a-name-of-an-experiment-" * 10
    _print_status("archive", [Progress(name, METHOD, 1, None, pd.Timestamp("2024-12-31"), None, None, 0, 0, {})])
    assert name in capsys.readouterr().out


def test_json_has_times_in_iso_and_no_number_that_is_not_finite(capsys):
    content = {
        "time": np.datetime64("2024-01-04T06"),
        "of": [np.float32(0.5), np.nan, np.int64(3), pd.NaT],
        "path": Path("a"),
    }
    print_json(content)
    assert json.loads(capsys.readouterr().out) == {
        "time": "2024-01-04T06:00:00Z", "of": [0.5, None, 3, None], "path": "a",
    }  # fmt: skip


def test_commands_on_an_archive_print_json_alone(world, tmp_path):
    run = make_run(tmp_path, load_world(world.folder), cycles=3)
    commands = (["status", "--check"], ["log", "run"], ["scores", "run"], ["compare", "run", "run"], ["errors", "run"])
    said = {}
    for command in commands:
        ended = CliRunner().invoke(app, [*command, "--archive", str(tmp_path), "--json"])
        assert ended.exit_code == 0, ended.output
        said[command[0]] = json.loads(ended.stdout)
    assert said["status"]["experiments"][0]["cycles"] == 3
    assert [cycle["cycle"] for cycle in said["log"]["cycles"]][-1] == f"{run.times[-1]:%Y-%m-%dT%H:%M:%SZ}"
    units = {row["channel"]: row["unit"] for row in said["scores"]["rmse"]}
    assert units.items() <= {
        (row["channel"], row["unit"]) for row in said["compare"]["rows"] if row["of"] == "analysis"
    }
    assert {"hPa", "g/kg"} <= set(units.values())


def test_the_exit_status_is_that_of_the_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (["status"], ["log", "demo"]):
        ended = CliRunner().invoke(app, [*arguments, "--json"])
        assert ended.exit_code == 2
        assert ended.stdout == ""
        assert "no archive at archive" in ended.stderr


def test_the_archive_may_be_an_argument_of_status(world, tmp_path):
    make_run(tmp_path, load_world(world.folder), cycles=3)
    assert "run" in CliRunner().invoke(app, ["status", str(tmp_path)]).stdout


def test_former_names_of_options_are_understood(world, tmp_path):
    make_run(tmp_path, load_world(world.folder), cycles=6)
    command = ["errors", "run", "--archive", str(tmp_path), "--json", "--from=20240102T12", "--to", "20240102T18"]
    said = json.loads(CliRunner().invoke(app, command).stdout)
    assert (said["since"], said["until"]) == ("2024-01-02T12:00:00Z", "2024-01-02T18:00:00Z")
    help_text = CliRunner().invoke(app, ["errors", "--help"]).stdout
    assert "--since" in help_text
    assert "--from" not in help_text
    assert "<bool>" not in help_text


def test_help_fills_its_lines():
    """Paragraphs are not broken where the source breaks them, which is wider than a terminal."""
    help_text = CliRunner().invoke(app, ["errors", "--help"]).stdout
    text = "\n".join(line.strip() for line in help_text.partition("Arguments")[0].splitlines()[3:])
    paragraphs = [paragraph.splitlines() for paragraph in text.split("\n\n")]
    assert len(paragraphs) > 2
    assert all(len(line) > 60 for lines in paragraphs for line in lines[:-1])
    assert "<bool>" not in CliRunner().invoke(app, ["--help"]).stdout
