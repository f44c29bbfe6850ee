"""Experiments over the tiny world, as files, for tests of what runs them."""

from pathlib import Path
from typing import Any

import pandas as pd

from dacycle.common.configuration import write_yaml
from dacycle.cycler.archive.branches import open_experiment
from dacycle.cycler.archive.record import CycleRecord
from tests.cycler.experiments import base

START, END = pd.Timestamp("2024-01-02T12"), pd.Timestamp("2024-01-03T12")
CYCLES = 5


def write_experiment(folder: Path, world: Any, name: str = "tiny", **changes: object) -> Path:
    """Write the file of a run of five cycles without assimilation; `changes` replace or (None) remove keys."""
    usual = {"drift": {"starts": [0], "lead": "24h", "free_run": False}}
    content = base(name, world.folder, world.model, START, END, **(usual | changes))
    path = folder / f"{name}.yaml"
    path.write_text(write_yaml(content))
    return path


def cutoff_passed_until(time: pd.Timestamp) -> list[dict[str, str]]:
    """Return sources whose cutoff is so long that `time` is the last cycle for which it has passed by now."""
    now = pd.Timestamp.now("UTC").tz_localize(None)
    minutes = int((now - time) / pd.Timedelta(minutes=1)) - 60
    return [{"source": "stations", "cutoff": f"{minutes}min"}]


def records(archive: Path, name: str = "tiny") -> list[CycleRecord]:
    """Return the records of all cycles."""
    return open_experiment(archive, name).records
