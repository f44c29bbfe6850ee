"""The experiment over the tiny world that all makers of experiments begin with."""

from pathlib import Path
from typing import Any

import pandas as pd

from tests.worlds import GRID


def base(
    name: str, world: Path, model: Path | str, start: pd.Timestamp, end: pd.Timestamp, /, **changes: Any
) -> dict[str, Any]:
    """Return the content of an experiment's file; `changes` replace keys, add them or, where None, remove them."""
    content = {
        "name": name,
        "world": str(world),
        "grid": GRID.name,
        "start": f"{start:%Y-%m-%dT%H}",
        "end": f"{end:%Y-%m-%dT%H}",
        "cold_start": {"lagged": "12h"},
        "model": str(model),
        "assimilator": "none",
        "observations": [{"source": "stations", "cutoff": "3h"}],
        "drift": {"free_run": False},
        "seed": 1,
        **changes,
    }
    return {key: value for key, value in content.items() if value is not None}
