"""The folder of a training run: what it was asked for, what it found, and the weights that came of it.

recipe.yaml     the recipe, as read
run.json        digests of recipe and data, versions, size of the network
constants.npz   the constants of the network: statistics, static planes
"""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from dacycle.assimilators.exceptions import RecipeError, TrainingError
from dacycle.assimilators.training.recipe import AssimilatorRecipe, NetworkRecipe, Recipe, parse_recipe
from dacycle.forecast_adapter.worlds.world import World

__all__ = ["check_folder", "load_average", "read_constants", "read_record", "write_record"]


def check_folder(recipe: Recipe, folder: Path) -> None:
    """RecipeError where the folder holds a run of another recipe. More rounds than it asked for may still be added."""
    if not (folder / "run.json").exists():
        return
    before, _ = read_record(folder)
    if isinstance(recipe, AssimilatorRecipe) and isinstance(before, AssimilatorRecipe):
        before = replace(before, rounds=max(before.rounds, recipe.rounds))
    if before.digest() != recipe.digest():
        raise RecipeError(
            f"{folder} holds a run of another recipe ({folder}/recipe.yaml); train into another folder with --out"
        )


def write_record(
    recipe: Recipe, folder: Path, world: World, constants: Any, network: nn.Module, data: str, samples: int
) -> None:
    """Record a run at its start. RecipeError where a run that is resumed finds other data.

    Args:
        constants: a dataclass of arrays.
        data, samples: SHA-256 and number of what it is trained on.
    """
    record = {
        "recipe": recipe.digest(),
        "data": data,
        "samples": samples,
        "world": world.name,
        "grid": world.grid.name,
        "statistics": world.statistics.description,
        "weights": sum(p.numel() for p in network.parameters()),
        "versions": {name: metadata.version(name) for name in ("torch", "lightning", "numpy")},
        "machine": _machine(recipe.threads),
    }
    path = folder / "run.json"
    if path.exists():
        before = json.loads(path.read_text())
        if before["data"] != data:
            raise RecipeError(f"{folder}: the training data have changed since this run began; use another folder")
        if before["recipe"] == record["recipe"]:
            return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.as_dict(), sort_keys=False))
    np.savez(folder / "constants.npz", **vars(constants))
    path.write_text(json.dumps(record, indent=2) + "\n")


def _machine(threads: int) -> str:
    """What `training.loop` trains on here."""
    if not torch.cuda.is_available():
        return f"{platform.machine()}, {threads} threads"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"


def read_record(folder: Path) -> tuple[NetworkRecipe, dict[str, Any]]:
    """The recipe and the record of a run. TrainingError where the folder holds none."""
    for name in ("recipe.yaml", "run.json", "constants.npz"):
        if not (folder / name).exists():
            raise TrainingError(f"{folder}: no {name}, so this is not a run; see `dacycle train`")
    recipe = parse_recipe(yaml.safe_load((folder / "recipe.yaml").read_text()), str(folder / "recipe.yaml"))
    return recipe, json.loads((folder / "run.json").read_text())


def read_constants(folder: Path) -> dict[str, Any]:
    """The constants of a run's network by name."""
    with np.load(folder / "constants.npz") as stored:
        return {name: stored[name] for name in stored.files}


def load_average(network: nn.Module, checkpoint: Path) -> int:
    """Give a network the averaged weights of a checkpoint. Returns the number of epochs done.

    Raises TrainingError where there is no checkpoint, because no epoch has been finished.
    """
    if not checkpoint.exists():
        raise TrainingError(f"{checkpoint.parent}: no {checkpoint.name}, so this is not a run with a finished epoch")
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)
    prefix = "average."
    weights = {k.removeprefix(prefix): v for k, v in state["state_dict"].items() if k.startswith(prefix)}
    network.load_state_dict(weights)
    return int(state["epoch"]) + 1
