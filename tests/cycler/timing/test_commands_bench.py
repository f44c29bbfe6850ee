"""`dacycle bench commands`: whole commands, measured in processes of their own."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dacycle.cycler.cli import app
from dacycle.cycler.timing.commands import BenchError, CommandTimes, bench_commands, read_bench, this_program
from tests.conftest import TinyWorld
from tests.cycler import replays

NAMES = ["help", "simulate", "hindcast", "hindcast again", "status", "log", "scores", "drift", "report"]


@pytest.mark.slow
def test_every_command_is_measured_with_both_programs(world: TinyWorld, tmp_path: Path) -> None:
    stations = {"source": "synop_bufr", "path": "observations/stations", "cutoff": "3h"}
    content = replays.content(world.folder, world.model, tmp_path, observations=[stations], assimilator="none")
    mine, other = bench_commands(replays.experiment(content), 2, 1, [this_program(), this_program()])
    assert list(mine.commands) == list(other.commands) == NAMES
    assert all(times.processor > 0 and times.wall > 0 and times.memory > 10 for times in mine.commands.values())


def test_a_failing_command_shows_its_output(world: TinyWorld, tmp_path: Path) -> None:
    content = replays.content(world.folder, world.model, tmp_path)
    with pytest.raises(BenchError, match=r"ended with 1:\n.*no such thing"):
        bench_commands(replays.experiment(content), 2, 1, [["sh", "-c", "echo no such thing; exit 1"]])


def test_an_older_result_is_read(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    times = {"help": {"wall": 1.0, "processor": 0.5, "memory": 60.0}}
    file.write_text(json.dumps({"machine": "m", "runs": 3, "cycles": 12, "commands": times}))
    assert read_bench(file).commands == {"help": CommandTimes(1.0, 0.5, 60.0)}
    for wrong in ("", "[]", "{}", '{"commands": {"help": {}}}'):
        file.write_text(wrong)
        ended = CliRunner().invoke(app, ["bench", "commands", "--compare", str(file)])
        assert ended.exit_code == 2
        assert "not a file of `dacycle bench commands --json`" in ended.output
