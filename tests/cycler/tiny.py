"""Experiments over the tiny world, as files, for tests of what runs them."""

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from dacycle.cycler.archive.branches import open_experiment
from dacycle.cycler.archive.record import CycleRecord

START, END = pd.Timestamp("2024-01-02T12"), pd.Timestamp("2024-01-03T12")
CYCLES = 5


def write_experiment(folder: Path, world: Any, name: str = "tiny", **changes: object) -> Path:
    """The file of a run of five cycles without assimilation; `changes` replace or (None) remove keys."""
    content = {
        "name": name,
        "world": str(world.folder),
        "grid": "5.625deg",
        "start": f"{START:%Y-%m-%dT%H}",
        "end": f"{END:%Y-%m-%dT%H}",
        "cold_start": {"lagged": "12h"},
        "model": str(world.model),
        "assimilator": "none",
        "observations": [{"source": "stations", "cutoff": "3h"}],
        "drift": {"starts": [0], "lead": "24h", "free_run": False},
        "seed": 1,
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def cutoff_passed_until(time: pd.Timestamp) -> list[dict[str, str]]:
    """Sources whose cutoff is so long that `time` is the last cycle for which it has passed by now."""
    now = pd.Timestamp.now("UTC").tz_localize(None)
    minutes = int((now - time) / pd.Timedelta(minutes=1)) - 60
    return [{"source": "stations", "cutoff": f"{minutes}min"}]


def records(archive: Path, name: str = "tiny") -> list[CycleRecord]:
    """What the archive holds of each cycle."""
    return open_experiment(archive, name).records
