"""Commands that are killed at a file operation, and run again, end as if undisturbed and leave nothing of theirs.

A few operations of each command are tried here. All of them are tried, in an hour, by

    SWEEP_EVERY=1 make test ARGS="-m trial tests/cycler/reliability -n0 -rP"

which prints how many they were. Kills at random, and power cuts, are counted by KILLS.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def killer(tmp_path_factory) -> Path:
    """Return the library that stands before the C library's file operations, compiled."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler, to stand before the C library's file operations")
    library = tmp_path_factory.mktemp("killer") / "killer.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-pthread", "-o", library, HERE / "killer.c", "-ldl"], check=True
    )
    return library


def killed(killer: Path, world, folder: Path, every: int | str, *commands: str) -> list[dict]:
    """Return what `sweep.py` says of each kill."""
    script = [sys.executable, HERE / "sweep.py", world.folder, world.model, folder, str(every), *commands]
    ended = subprocess.run(
        script, capture_output=True, text=True, check=False, env={**os.environ, "LD_PRELOAD": str(killer)}
    )
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    return [line for line in lines if "operations" not in line]


def test_a_fork_that_is_killed_is_finished_by_the_same_command(killer, world, tmp_path):
    check(killed(killer, world, tmp_path / "sweep", 9, "fork"))


@pytest.mark.trial
@pytest.mark.parametrize("command", ["hindcast", "drift", "fork", "rewind", "report", "simulate", "report past"])
def test_a_command_that_is_killed_anywhere_ends_as_if_undisturbed(killer, world, tmp_path, command):
    check(killed(killer, world, tmp_path / "sweep", int(os.environ.get("SWEEP_EVERY", "40")), command))


RANDOM = ["hindcast", "drift", "fork", "rewind", "report", "simulate", "long", "tidy", "backup", "restore",
          "rewind past", "fork past", "longer", "report past"]  # fmt: skip


@pytest.mark.trial
@pytest.mark.parametrize("mode", ["random", "power"])
def test_commands_that_are_killed_at_random_end_as_if_undisturbed(killer, world, tmp_path, mode):
    """`random`: by an operation or by time, up to three times in a row. `power`: what was not flushed is lost."""
    kills, seed = os.environ.get("KILLS", "12"), os.environ.get("SEED", "7")
    found = killed(killer, world, tmp_path / "sweep", f"{mode}:{kills}:{seed}", *RANDOM)
    print(f"{sum(len(one['killed']) for one in found)} kills of {len(found)} commands")
    assert sum(len(one["killed"]) for one in found) >= int(kills)
    assert [one for one in found if one["again"] or one["other"]] == []


def check(kills: list[dict]) -> None:
    print(f"{len(kills)} kills")
    assert kills
    assert all(kill["killed"] for kill in kills)
    assert [kill for kill in kills if kill["again"] or kill["other"]] == []
