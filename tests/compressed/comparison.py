"""What two archives of the demonstration have to have in common, up to a cycle."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.experiment import STEP, cycle_id
from dacycle.cycler.verification.drift import read_scores

NAMES = ("demo", "demo-free")


def differences(first: Path, second: Path, last: pd.Timestamp) -> list[str]:
    """Return what differs between two archives at the cycles and forecasts up to `last`; empty where nothing does."""
    a, b = published(first, last), published(second, last)
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def published(folder: Path, last: pd.Timestamp) -> dict[str, Any]:
    """Return records, states, departures, forecasts and scores up to a cycle, by name."""
    archive, found = Archive(folder), {}
    for name in NAMES:
        branch = archive.branch(name)
        records = [record for record in branch.records if record.time <= last]
        found |= {f"{name} record {cycle_id(record.time)}": record for record in records}
        for group in ("analysis", "background"):
            states = getattr(branch, group).sel(time=slice(None, last)).load()
            found |= {f"{name} {group} {key}": np.asarray(v).tobytes() for key, v in states.variables.items()}
        for record in records:
            path = branch.folder / f"departures/{cycle_id(record.time)}.parquet"
            if record.departures is not None:
                found[f"{name} departures {record.id}"] = path.read_bytes()
        fields = archive.forecasts.dataset(name, "forecasts").sel(time=slice(None, last)).load()
        found |= {f"{name} forecasts {key}": np.asarray(v).tobytes() for key, v in fields.variables.items()}
        scores = read_scores(branch)
        scores = scores[scores["start"] <= last].reset_index(drop=True)
        found[f"{name} scores"] = scores.to_csv(float_format="%.17g")
    return found


def gaps(folder: Path) -> list[str]:
    """Return the cycles that are missing, doubled or out of order in the runs of an archive."""
    found = []
    for name in NAMES:
        times = [record.time for record in Archive(folder).branch(name).records]
        found += [f"{name} after {cycle_id(a)}" for a, b in pairwise(times) if b - a != STEP]
    return found
