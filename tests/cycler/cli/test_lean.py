"""Commands that answer at once: which libraries they do not import, and that they say the same as those that do."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.archive.progress import Holding, read_holding, read_progress
from dacycle.cycler.cli import app
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler.runs import make_run

FIGURES_AND_NETWORKS = {"matplotlib", "torch", "onnx", "prefect", "jax", "sklearn"}
TABLES = {"pandas", "xarray", "pyarrow", "scipy", "onnxruntime", "titanlib", "eccodes", "netCDF4", "h5py"}
STORES = {"icechunk", "zarr"}


@pytest.fixture
def archive(world, tmp_path):
    make_run(tmp_path, load_world(world.folder), cycles=4)
    return tmp_path


def imported(*arguments: str) -> set[str]:
    """Return the packages that a command has imported when it ends."""
    code = (
        "import sys\n"
        "from dacycle.cycler.cli import app\n"
        f"try: app({list(arguments)!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('imported', *sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return {name.partition(".")[0] for name in ended.stdout.rpartition("imported ")[2].split()}


def test_the_help_and_status_import_no_table_or_store(archive):
    heavy = FIGURES_AND_NETWORKS | TABLES | STORES
    assert not imported("--help") & (heavy | {"numpy", "pydantic"})
    assert not imported("status", str(archive)) & heavy


def test_the_log_imports_no_table(archive):
    assert not imported("log", "run", "--archive", str(archive)) & (FIGURES_AND_NETWORKS | TABLES)


def test_plan_and_models_import_no_figure_and_no_training(world, tmp_path):
    assert not imported("models") & FIGURES_AND_NETWORKS
    assert not imported("plan", "--help") & FIGURES_AND_NETWORKS


def test_a_commit_says_what_its_branch_holds(archive):
    branch = Archive(archive).branch("run")
    counted = Holding().after(record.as_dict() for record in branch.records)
    assert read_holding(archive / "states.icechunk", "run") == counted
    assert counted == Holding({"cold_start": 2, "ok": 4}, branch.records[-1].id)


def test_an_archive_whose_commits_do_not_say_it_is_counted(archive):
    before = read_progress(archive, "run")
    for seal in (archive / "states.icechunk/seals").iterdir():
        seal.unlink()
    experiment = archive / "branches/run/experiment.yaml"
    experiment.write_text(re.sub("# sha256.*", "", experiment.read_text()))
    assert asdict(read_progress(archive, "run")) == asdict(before)


def test_after_a_rewind_status_counts_what_is_left(archive):
    branch = Archive(archive).branch("run")
    Archive(archive).rewind("run", branch.times[-3])
    progress = read_progress(archive, "run")
    assert (progress.cycles, progress.last) == (2, branch.times[-1])


@pytest.mark.parametrize("part", ["snapshots", "manifests"])
def test_status_notices_damage_of_its_commit(archive, part):
    store = archive / "states.icechunk"
    commit = json.loads((store / "refs/branch.run/ref.json").read_text())["snapshot"]
    names = re.findall(rf"{part}/\w+", (store / "seals" / commit).read_text())
    path: Path = store / names[-1]
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    ended = CliRunner().invoke(app, ["status", str(archive)], env={"COLUMNS": "300"})
    assert ended.exit_code == 1
    assert f"{path.name} is damaged" in ended.output
