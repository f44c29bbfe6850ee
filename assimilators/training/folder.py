"""The folder of a training run: its recipe, its data, and the weights that it made.

recipe.yaml     the recipe
run.json        digests of recipe and data, versions, size of the network
constants.npz   the constants of the network: statistics, static planes
"""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import lightning
import numpy as np
import torch
from torch import nn

from dacycle.assimilators.exceptions import RecipeError, TrainingError
from dacycle.assimilators.training.recipe import AssimilatorRecipe, NetworkRecipe, Recipe, load_recipe
from dacycle.common.configuration import write_yaml
from dacycle.common.files import whole, write_whole
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.errors.model import KIND

__all__ = [
    "begin_run",
    "check_folder",
    "load_average",
    "read_constants",
    "read_record",
    "read_record_of",
    "read_rows",
    "write_record",
    "write_rows",
]

SomeRecipe = TypeVar("SomeRecipe", bound=Recipe)


def check_folder(recipe: Recipe, folder: Path) -> None:
    """Raise RecipeError where the folder holds a run of another recipe; rounds and their end may change."""
    if not (folder / "run.json").exists():
        return
    before, _ = read_record(folder)
    if isinstance(recipe, AssimilatorRecipe) and isinstance(before, AssimilatorRecipe):
        further = {"rounds": max(before.rounds, recipe.rounds), "least_gain": recipe.least_gain}
        before = before.model_copy(update=further)
    if before.digest() != recipe.digest():
        raise RecipeError(
            f"{folder} holds a run of another recipe ({folder}/recipe.yaml); train into another folder with --out"
        )


def begin_run(recipe: Recipe, folder: Path) -> None:
    """Check the folder, and set the threads and the seed of a training."""
    check_folder(recipe, folder)
    torch.set_num_threads(recipe.threads)
    lightning.seed_everything(recipe.seed, verbose=False)


def write_record(
    recipe: Recipe, folder: Path, world: World, constants: Any, network: nn.Module, data: str, samples: int,
    planes: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Record a run at its start.

    Args:
        constants: a dataclass of arrays.
        data, samples: SHA-256 and number of the training samples.
        planes: observation planes of the network, if it takes any.

    Raises:
        RecipeError: the run is resumed with other data.
    """
    record = {
        "recipe": recipe.digest(),
        "data": data,
        "samples": samples,
        **({} if planes is None else {"planes": list(planes)}),
        "world": world.name,
        "grid": world.grid.name,
        "statistics": world.statistics.description,
        "weights": sum(p.numel() for p in network.parameters()),
        "versions": {name: metadata.version(name) for name in ("torch", "lightning", "numpy")},
        "machine": _machine(recipe.threads),
        "errors": KIND,
    }
    path = folder / "run.json"
    if path.exists():
        before = json.loads(path.read_text())
        if before["data"] != data or record.get("planes") != before.get("planes", record.get("planes")):
            raise RecipeError(f"{folder}: the training data have changed since this run began; use another folder")
        if before["recipe"] == record["recipe"]:
            return
    write_whole(folder / "recipe.yaml", write_yaml(recipe.model_dump()).encode())
    with whole(folder / "constants.npz") as temporary:
        np.savez(temporary, **{name: value for name, value in vars(constants).items() if value is not None})
    write_whole(path, (json.dumps(record, indent=2) + "\n").encode())


def _machine(threads: int) -> str:
    """Describe the processors that `training.loop` trains on here."""
    if not torch.cuda.is_available():
        return f"{platform.machine()}, {threads} threads"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"


def read_record(folder: Path) -> tuple[NetworkRecipe, dict[str, Any]]:
    """Return the recipe and the record of a run. Raises TrainingError where the folder holds none."""
    for name in ("recipe.yaml", "run.json", "constants.npz"):
        if not (folder / name).exists():
            raise TrainingError(f"{folder}: no {name}, so this is not a run; see `dacycle train`")
    return load_recipe(folder / "recipe.yaml"), json.loads((folder / "run.json").read_text())


def read_record_of(kind: type[SomeRecipe], folder: Path) -> tuple[SomeRecipe, dict[str, Any]]:
    """Return the recipe and the record of a run of one kind. Raises TrainingError where it is of another kind."""
    recipe, record = read_record(folder)
    if not isinstance(recipe, kind):
        raise TrainingError(f"{folder}: a run of kind {recipe.kind}, not of {kind.product}")
    return recipe, record


def read_constants(folder: Path) -> dict[str, Any]:
    """Return the constants of a run's network by name."""
    with np.load(folder / "constants.npz") as stored:
        return {name: stored[name] for name in stored.files}


def load_average(network: nn.Module, checkpoint: Path) -> int:
    """Give a network the averaged weights of a checkpoint, and return the number of finished epochs.

    Raises:
        TrainingError: there is no checkpoint, because no epoch has been finished.
    """
    if not checkpoint.exists():
        raise TrainingError(f"{checkpoint.parent}: no {checkpoint.name}, so this is not a run with a finished epoch")
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)
    prefix = "average."
    weights = {k.removeprefix(prefix): v for k, v in state["state_dict"].items() if k.startswith(prefix)}
    network.load_state_dict(weights)
    return int(state["epoch"]) + 1


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV table; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV table whose columns are the keys of its last row."""
    with whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
