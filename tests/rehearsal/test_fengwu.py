"""FengWu at 1.40625 degrees from an empty folder to a report, by the commands that its template names.

    make test ARGS="-m rehearsal tests/rehearsal/test_fengwu.py -n0"

A double with FengWu's tensors stands in for it, and archives on loopback for the public ones. Only its name, addresses,
years and sizes differ from a walk with FengWu itself.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dacycle.cycler.archive.branches import open_experiment
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.models.double import write_double
from dacycle.forecast_adapter.state import STEP
from tests.rehearsal import stores
from tests.rehearsal.archive import Public

pytestmark = pytest.mark.rehearsal

START, END = np.datetime64("2022-01-03T12", "h"), np.datetime64("2022-01-04T18", "h")
FILE = "fengwu-1.40625deg.yaml"
MEMORY = 8.0
"""Most memory of a process, GB."""
CHANGES = {
    "fengwu-oi.yaml": {"model": "double-1.40625deg", "years": [2021], "leads": [24, 48], "members": 16},
    FILE: {
        "model": "double-1.40625deg", "start": str(START), "end": str(END), "guards": {"minimum_observations": 100},
        "drift": {"starts": [0, 12], "lead": "48h", "free_run": True},
    },
}  # fmt: skip
"""Names, years and sizes."""


def documented(template: str) -> list[str]:
    """Return the commands in the head of a template, in their order, each in one line."""
    found: list[str] = []
    for line in template.splitlines():
        text = re.sub(r"\s+#.*", "", line.removeprefix("#"))
        if line.startswith("#   dacycle"):
            found.append(text.strip())
        elif line.startswith("#       "):
            found[-1] += f" {text.strip()}"
    return found


def walk(command: str, folder: Path, mirror: str) -> None:
    """Run a command as a shell would, and append what it prints to a log."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "HOME": str(folder / "home"), "DACYCLE_MIRROR": mirror, "PATH": places}
    environment["DACYCLE_COSTS"] = str(folder / "costs.csv")
    environment.pop("DACYCLE_HOME", None)
    with (folder.parent / "walk.log").open("ab") as log:
        log.write(f"$ {command}\n".encode())
        log.flush()
        ended = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, stdout=log, stderr=log)
    assert ended.returncode == 0, (folder.parent / "walk.log").read_text()[-5000:]


def test_from_nothing_to_a_report(public: Public, tmp_path: Path) -> None:
    stores.weatherbench2_fine(public.archive.folder / "fine.zarr")
    write_double(tmp_path / "double.onnx", get_grid("1.40625deg"))
    folder = tmp_path / "fengwu"
    (folder / "home").mkdir(parents=True)
    walk(f"dacycle init fengwu-1.40625deg {FILE}", folder, public.observations)
    template = (folder / FILE).read_text()
    for name, changes in CHANGES.items():
        content = yaml.safe_load((folder / name).read_text())
        (folder / name).write_text(yaml.safe_dump(content | changes, sort_keys=False))
    stand_ins = {
        r"gs://\S+": f"{public.archive.url}/fine.zarr",
        "--since 2019-01-01": "--since 2021-01-01",
        "--training 2019-2021": "--training 2021",
        "fengwu-128x256 FILE": f"fengwu-128x256 {tmp_path}/double.onnx --for era5",
        "fengwu-128x256": "double-1.40625deg",
    }
    commands = documented(template)
    assert [command.split()[1] for command in commands] == [
        "dataset", "world", "models", "models", "train", "fetch", "fetch", "fetch", "ingest", "doctor", "plan",
        "hindcast", "report",
    ]  # fmt: skip
    for command in commands:
        for real, stand_in in stand_ins.items():
            command = re.sub(real, stand_in, command)
        walk(command, folder, public.observations)
        if command.endswith(" --plan"):
            walk(command.removesuffix(" --plan"), folder, public.observations)
    branch = open_experiment(folder / "archive", "fengwu-2022")
    cycles = [np.datetime64(record.time, "h") for record in branch.records if record.status == "ok"]
    assert cycles == list(np.arange(START, END + STEP, STEP)), "beside the two frames of the cold start"
    assert list(folder.rglob("report/index.html"))
    costs = pd.read_csv(folder / "costs.csv")
    assert len(costs) == len(commands) + 2, "init, and the dataset after its plan"
    assert costs["peak_gb"].max() < MEMORY
