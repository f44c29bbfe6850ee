"""`make era5` from an empty folder to a report, against archives on loopback in the form of the public ones.

    make test ARGS="-m rehearsal tests/rehearsal -n0"

Only addresses, years and the sizes of the trainings differ from a walk on ERA5 itself; a year of a training has a
month (see `short_years`).
"""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dacycle.cycler.archive.branches import open_experiment
from dacycle.forecast_adapter.state import STEP
from dacycle.forecast_adapter.worlds.reference import Reference
from tests.archives import content
from tests.rehearsal import observations, stores
from tests.rehearsal.archive import Public

pytestmark = pytest.mark.rehearsal

ROOT = Path(__file__).resolve().parents[2]
START, END = np.datetime64("2022-01-03T12", "h"), np.datetime64("2022-01-04T18", "h")
KILLS = 10
PAUSES = 20, 100
"""Seconds from a start to its kill."""
MEMORY = 8.0
"""Most memory of a process, GB."""
CHANGES = {
    "era5-mini.yaml": {
        "training_years": [2020], "validation_years": [2021], "network": {"fine": 8, "coarse": 16, "depth": 1},
        "stages": [{"steps": 1, "epochs": 1}], "batch": 8, "warm_up": 10, "precision": "float32", "compile": False,
        "threads": 1,
    },
    "era5-oi.yaml": {"years": [2020], "leads": [24, 48], "members": 16},
    "era5-fnp.yaml": {
        "training_years": [2020], "validation_years": [2021], "network": {"joint": 32, "group": 8, "fine": 16},
        "epochs": 2, "epoch_samples": 400, "rounds": 1, "round_epochs": 1, "validation_days": 4, "average": 0.9,
        "warm_up": 10,
    },
    "era5.yaml": {
        "start": str(START), "end": str(END), "drift": {"starts": [0, 12], "lead": "48h", "free_run": True},
    },
}  # fmt: skip
"""Years and sizes."""


@pytest.fixture(scope="module", autouse=True)
def _stores(public: Public) -> None:
    """Fill the archives' stores."""
    stores.weatherbench2(public.archive.folder / "era5.zarr")
    stores.arco(public.archive.folder / "arco.zarr")


def begin(public: Public, folder: Path, target: str = "era5") -> subprocess.Popen[bytes]:
    """Start `make era5`, with these addresses and years, in a group of processes of its own."""
    url, binaries = public.archive.url, Path(sys.executable).parent
    settings = {
        "ERA5": folder, "VENV": folder / "venv", "BIN": binaries, "ERA5_STORE": f"{url}/era5.zarr",
        "ERA5_BESIDE": f"{url}/arco.zarr", "ERA5_SINCE": "2020-01-01", "ERA5_UNTIL": "2022-12-31",
        "ERA5_TRAINING": "2020", "ERA5_HELD_OUT": "2021", "ERA5_TEST": "2022",
    }  # fmt: skip
    command = ["make", target, *(f"{k}={v}" for k, v in settings.items())]
    path = os.pathsep.join([str(Path(__file__).parent / "short_years"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "DACYCLE_HOME": str(folder / "home"), "DACYCLE_MIRROR": public.observations}
    environment["PYTHONPATH"] = path
    with (folder.parent / "make.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)


def prepare(public: Public, folder: Path) -> None:
    """Write recipes and experiment as `make era5` does, and change years and sizes."""
    (folder / "venv").mkdir(parents=True)
    (folder / "venv/train.stamp").touch()  # the environment of this test is what it stands for
    assert begin(public, folder, f"{folder}/.done/init").wait() == 0, (folder.parent / "make.log").read_text()
    for name, changes in CHANGES.items():
        content = yaml.safe_load((folder / name).read_text())
        (folder / name).write_text(yaml.safe_dump(content | changes, sort_keys=False))


def check(folder: Path) -> None:
    """Check that there is everything that the walk should have made, and that its commands kept to the memory."""
    surface = Reference(folder / "era5").surface(START)
    assert set(surface) == {"tp6h", "olr", "td2m", "ps"}, "the dewpoint is from the store beside"
    assert "period" not in surface["olr"].attrs
    for name in ("era5-laptop", "era5-laptop-fnp"):
        branch = open_experiment(folder / "archive", name)
        cycles = [np.datetime64(record.time, "h") for record in branch.records if record.status == "ok"]
        assert cycles == list(np.arange(START, END + STEP, STEP)), "beside the two frames of the cold start"
        assert list((branch.folder / "report").glob("index.html"))
    costs = pd.read_csv(folder / "costs.csv")
    print(costs.groupby("command", sort=False).max())
    assert costs["peak_gb"].max() < MEMORY


def stage_of(folder: Path) -> str:
    """Return the stage that is due."""
    done = [path.name for path in (folder / ".done").iterdir()]
    stages = re.findall(r"^\$\(ERA5\)/\.done/(\S+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return next(stage for stage in stages if stage not in done)


def test_from_nothing_to_a_report(public: Public, tmp_path: Path) -> None:
    """The file of OLR is not there at first: the walk says so and ends; the same command goes on when it is."""
    folder, log = tmp_path / "walk/era5", tmp_path / "walk/make.log"
    prepare(public, folder)
    late = (public.folder / content.OLR / observations.OLR_FILE).rename(public.folder / "late.nc")
    assert begin(public, folder).wait() != 0
    late.rename(public.folder / content.OLR / observations.OLR_FILE)
    assert "not in the archive: 2022: the archive has no file of this year" in log.read_text()
    assert stage_of(folder) == "fetch"
    assert begin(public, folder).wait() == 0, log.read_text()[-5000:]
    check(folder)
    for said in (
        "observations/isd: 159 files fetched (0.8 MB), 0 unchanged, 1 damaged",
        "ends in the middle of a line: it is cut off",
        "observations/igra: 49 files fetched (0.1 MB), 0 unchanged, 1 damaged",
        "damaged: observations/isd/2022/",
    ):
        assert said in log.read_text()
    of_fields = {name: count for name, count in public.archive.sent.items() if name.split("/")[-1][0].isdigit()}
    axes = ("/time/", "/level/", "/latitude/", "/longitude/", "/geopotential_at_surface/", "/land_sea_mask/")
    counted = {
        count
        for name, count in of_fields.items()
        if name.startswith(("era5", "arco")) and not any(axis in name for axis in axes)
    }
    assert counted == {1}


def test_again_after_being_killed_at_random_moments(public: Public, tmp_path: Path) -> None:
    folder, draw, killed = tmp_path / "walk/era5", random.Random(23), []
    prepare(public, folder)
    for _ in range(KILLS):
        walk = begin(public, folder)
        try:
            walk.wait(timeout=draw.uniform(*PAUSES))
        except subprocess.TimeoutExpired:
            killed.append(stage_of(folder))
            os.killpg(walk.pid, signal.SIGKILL)
            walk.wait()
    assert begin(public, folder).wait() == 0, (folder.parent / "make.log").read_text()[-5000:]
    print(f"killed in the stages {', '.join(killed)}")
    (folder.parent / "killed.txt").write_text("\n".join(killed))
    assert len(killed) == KILLS
    check(folder)
