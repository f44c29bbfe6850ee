"""Run the trials; see the package's docstring."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import pandas as pd
from onnx import numpy_helper

from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP, Experiment, cycle_id
from dacycle.cycler.verification import usual
from dacycle.cycler.verification.attention import conditions
from dacycle.cycler.verification.cycles import verify
from dacycle.forecast_adapter.models.onnxfile import read_metadata, write_metadata
from dacycle.forecast_adapter.worlds.world import load_world
from dacycle.obs_ingest.simulation.drawing import Simulated
from dacycle.obs_ingest.sources.base import Inventory, take_inventory
from dacycle.obs_ingest.window import Window
from tests.golden.make import experiment

DAYS = 20
AFTER = 8
"""Cycles with a change."""

Change = Callable[[str, pd.DataFrame, Inventory], pd.DataFrame]


def halved(source: str, table: pd.DataFrame, inventory: Inventory) -> pd.DataFrame:
    """Leave out every second station."""
    if source != "stations":
        return table
    stations = table["station"].astype(str)
    kept = stations.isin(sorted(stations.unique())[::2])
    inventory.decoded = int(stations[kept].nunique())
    inventory.missing = inventory.found - inventory.decoded
    return table[kept].reset_index(drop=True)


def scaled(variables: tuple[str, ...], factor: float = 1.0, shift: float = 0.0, source: str = "stations") -> Change:
    """Return the change of some variables' values."""

    def change(name: str, table: pd.DataFrame, inventory: Inventory) -> pd.DataFrame:
        chosen = table["variable"].isin(variables) & (name == source)
        return table.assign(value=table["value"].where(~chosen, factor * table["value"] + shift).astype("float32"))

    return change


def late(source: str, table: pd.DataFrame, inventory: Inventory) -> pd.DataFrame:
    """Let the reports of stations be received an hour later."""
    wait = pd.Timedelta(hours=1 if source == "stations" else 0)
    return table.assign(received=table["received"] + wait)


CHANGES: dict[str, Change] = {
    "half of the stations missing": halved,
    "wind of stations in knots": scaled(("u10", "v10"), factor=1 / 0.514444),
    "pressure of stations 1 hPa too high": scaled(("msl", "ps"), shift=100.0),
    "temperature of soundings 0.5 K too high": scaled(("t",), shift=0.5, source="sondes"),
    "OLR 2 % too high": scaled(("olr",), factor=1.02, source="olr"),
    "reports of stations an hour later": late,
}


@contextmanager
def changed(change: Change) -> Iterator[None]:
    """Change what simulated sources bring, inside the block."""
    read = Simulated.read

    def other(self: Simulated, window: Window) -> tuple[pd.DataFrame, Inventory]:
        table, inventory = read(self, window)
        if len(table):
            table = change(self.name, table, inventory)
            inventory = take_inventory(inventory, table, window)
        return table, inventory

    with patch.object(Simulated, "read", other):
        yield


def other_model(path: Path) -> Path:
    """Write another version of the demonstration's model: the weights of its convolutions are changed by 10 %."""
    packaged = Path(str(files("dacycle.forecast_adapter") / "weights/mini.onnx"))
    model = onnx.load(packaged)
    random = np.random.default_rng(1)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type == onnx.TensorProto.FLOAT and values.ndim == 4 and tensor.name.endswith("mix.weight"):
            noisy = values * (1 + 0.1 * random.standard_normal(values.shape))
            tensor.CopyFrom(numpy_helper.from_array(noisy.astype(np.float32), tensor.name))
    onnx.save(model, path)
    write_metadata(path, read_metadata(packaged))
    return path


def run(archive: Archive, described: Experiment) -> Branch:
    """Run an experiment to its end."""
    run_due_cycles(described, archive)
    return archive.branch(described.name)


def fork(described: Experiment, name: str, **changes: str) -> Experiment:
    """Return the experiment that goes on where another ended."""
    content = described.as_dict() | {"name": name, "start": cycle_id(described.end + STEP), **changes}
    content["end"] = cycle_id(described.end + AFTER * STEP)
    content["cold_start"] = {"from": f"{described.name}@{cycle_id(described.end)}"}
    return Experiment.model_validate(content)


def noticed(branch: Branch, since: pd.Timestamp) -> tuple[str, str]:
    """Return after how many hours of changed cycles an alert would have been opened, and its text."""
    fits = verify(branch, load_world(branch.experiment.world)).fits
    records = [record for record in branch.records if record.status != "cold_start"]
    for i, record in enumerate(records):
        if record.time < since:
            continue
        found = conditions(branch.experiment, records[: i + 1], fits[fits["time"] <= record.time], record.time)
        if found:
            return f"{(record.time - since) / pd.Timedelta('1h'):.0f} h", found[0].text
    return "not noticed", ""


def inject(folder: Path) -> None:
    """Print after which time each change is noticed."""
    archive = Archive(folder, create=True)
    base = experiment("fnp").model_copy(update={"name": "unchanged"})
    base = base.model_copy(update={"end": base.start + pd.Timedelta(days=DAYS) - STEP})
    unchanged = run(archive, base)
    print("| change | noticed after | the alert |\n|---|---|---|")
    for number, (what, change) in enumerate(CHANGES.items()):
        with changed(change):
            branch = run(archive, fork(base, f"change-{number}"))
        print(f"| {what} | {' | '.join(noticed(branch, base.end + STEP))} |", flush=True)
    model = other_model(folder / "other.onnx")
    branch = run(archive, fork(base, "other-model", model=str(model)))
    print(f"| another model | {' | '.join(noticed(branch, base.end + STEP))} |\n")
    count(archive, [unchanged.name])


def count(archive: Archive, names: list[str]) -> None:
    """Print how many alerts of runs were opened in which nothing was changed."""
    print("| run | cycles | alerts | in 30 days | largest strength |\n|---|---|---|---|---|")
    for name in names:
        branch = archive.branch(name)
        records = [record for record in branch.records if record.status != "cold_start"]
        fits = verify(branch, load_world(branch.experiment.world)).fits
        strengths = usual.strengths(usual.quantities(records, fits))
        subjects = strengths.columns.get_level_values("source")
        beyond = (strengths > usual.LIMIT).T.groupby(np.asarray(subjects)).any().T
        opened = int((beyond & ~beyond.shift(fill_value=False)).to_numpy().sum())
        month = opened * 120 / len(records)
        print(f"| {name} | {len(records)} | {opened} | {month:.1f} | {np.nanmax(strengths.to_numpy()):.2f} |")


def main() -> None:
    """Run the command line."""
    if len(sys.argv) > 1:
        archive = Archive(Path(sys.argv[1]))
        count(archive, archive.branches())
        return
    with tempfile.TemporaryDirectory() as folder:
        inject(Path(folder))


if __name__ == "__main__":
    main()
