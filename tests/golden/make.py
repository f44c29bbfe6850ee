"""Eight cycles of the demonstration with each packaged method, and the errors of their analyses.

`python -m tests.golden.make` writes demonstration.csv anew. Do so in the commit that changes the numbers, and say
there and in the changelog why they change.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from dacycle.assimilators.base import packaged_assimilators
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP, Experiment, parse_experiment, write_experiment
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.models.onnxfile import read_metadata
from dacycle.forecast_adapter.worlds.world import load_world

TABLE = Path(__file__).with_name("demonstration.csv")
DEMO = Path(__file__).resolve().parents[2] / "deploy/experiments/demo.yaml"
CYCLES = 8
OBSERVATIONS = [
    {"source": "stations", "cutoff": "3h"},
    {"source": "sondes", "cutoff": "3h"},
    {"source": "olr", "cutoff": "none"},
]
"""The network of the demonstration, drawn in memory instead of from files."""


def methods() -> list[str]:
    """Return the names of the packaged methods."""
    return sorted(packaged_assimilators())


def experiment(method: str) -> Experiment:
    """Return the first cycles of the demonstration with a method, and the model and relaxation it was trained with."""
    content = YAML(typ="safe").load(DEMO.read_text()) | _trained_with(packaged_assimilators()[method])
    end = pd.Timestamp(content["start"]) + (CYCLES - 1) * STEP
    changes = {"assimilator": method, "end": f"{end:%Y-%m-%dT%H}", "observations": OBSERVATIONS}
    return parse_experiment(write_experiment(content | changes | {"drift": {"free_run": False}}), str(DEMO))


def _trained_with(path: Path) -> dict[str, Any]:
    if path.suffix != ".onnx":
        return {}
    training = read_metadata(path)["training"]
    return {key: training[key] for key in ("model", "relaxation") if key in training}


def errors(method: str, folder: Path) -> pd.DataFrame:
    """Run the cycles in an archive; return the global RMSE (SI) of each analysis against the reference, by channel."""
    archive, asked = Archive(folder, create=True), experiment(method)
    world, rows = load_world(asked.world), []
    channels = [index(name) for name in HEADLINE]
    for cycle in run_due_cycles(asked, archive):
        state = archive.branch(asked.name).state("analysis", cycle.time).values[channels]
        truth = world.reference.array(np.datetime64(cycle.time, "h"))[channels]
        rmse = np.sqrt(scores.mse(state, truth, world.grid)[:, list(scores.REGIONS).index("globe")])
        rows.append({"method": method, "time": f"{cycle.time:%Y-%m-%dT%H}", **dict(zip(HEADLINE, rmse, strict=True))})
    return pd.DataFrame(rows)


def main() -> None:
    """Write the table of all packaged methods."""
    with tempfile.TemporaryDirectory() as folder:
        tables = [errors(method, Path(folder) / method) for method in methods()]
    pd.concat(tables).to_csv(TABLE, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
