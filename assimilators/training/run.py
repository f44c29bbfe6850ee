"""One training run in its folder: start, resume, finish.

A run's folder holds
    recipe.yaml     the recipe, as read
    run.json        digests of recipe and data, versions, size of the network
    constants.npz   the constants of the network: statistics, static planes
    curve.csv       one line per epoch: rollout steps, losses, 24-h errors, minutes so far
    last.ckpt       the state after the last whole epoch; running the same command again goes on from it
"""

from __future__ import annotations

import csv
import json
import logging
import platform
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import yaml

from dacycle.assimilators.training.data import (
    Year,
    data_digest,
    load_states,
    season_weights,
    step_deviation,
    year_times,
)
from dacycle.assimilators.training.errors import RecipeError, TrainingError
from dacycle.assimilators.training.forecast import ForecastTraining
from dacycle.assimilators.training.recipe import Recipe, parse_recipe
from dacycle.forecast_adapter.channels import CHANNELS
from dacycle.forecast_adapter.mini import MiniConstants, MiniNetwork, MiniSize, static_planes
from dacycle.forecast_adapter.reference import Reference
from dacycle.forecast_adapter.worlds import World, load_world

__all__ = ["build_network", "fit", "read_run", "train"]


def train(recipe: Recipe, folder: Path, say: Callable[[str], None] = print) -> Path:
    """Train what the recipe says in `folder`; resumes a run of the same recipe. Returns the checkpoint.

    Raises:
        RecipeError: another recipe's run is in the folder, or the network's size has an unknown entry.
        DataError: the data are incomplete, not finite or on another grid; nothing has been written.
        TrainingError: the loss is no longer a number.
    """
    _check_folder(recipe, folder)
    world = load_world(recipe.world)
    training = _load(recipe, recipe.training_years, world, say)
    validation = _load(recipe, recipe.validation_years, world, say)
    return fit(recipe, folder, world, training, validation, say)


def fit(
    recipe: Recipe,
    folder: Path,
    world: World,
    training: list[Year],
    validation: list[Year],
    say: Callable[[str], None] = print,
) -> Path:
    """`train` on data already in memory."""
    _check_folder(recipe, folder)
    torch.set_num_threads(recipe.threads)
    lightning.seed_everything(recipe.seed, verbose=False)
    constants = _constants(recipe, world, training)
    network = build_network(recipe, constants)
    _write_run(recipe, folder, world, constants, training, network)
    module = ForecastTraining(network, recipe, world.grid.weights)
    module.years = (training, validation)
    checkpoint = folder / "last.ckpt"
    # Its hints on other products, and that the averaged weights are in evaluation mode, help nobody here.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    trainer = lightning.Trainer(
        accelerator="auto",
        devices="auto",
        max_epochs=recipe.epochs,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[_EveryEpoch(recipe, folder, say)],
    )
    resumed = str(checkpoint) if checkpoint.exists() else None
    trainer.fit(module, ckpt_path=resumed, weights_only=False if resumed else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    return checkpoint


def build_network(recipe: Recipe, constants: MiniConstants) -> MiniNetwork:
    """The network of a recipe, with fresh weights. RecipeError where its size has unknown entries."""
    try:
        size = MiniSize(**recipe.network)
    except TypeError:
        known = ", ".join(MiniSize().as_dict())
        raise RecipeError(f"network: {recipe.network} has an unknown entry; the entries are {known}") from None
    return MiniNetwork(constants, size)


def read_run(folder: Path) -> tuple[Recipe, dict[str, Any], MiniNetwork]:
    """A run's recipe, record and network, with the averaged weights of its last checkpoint.

    Raises TrainingError where the folder holds no run, or no finished epoch.
    """
    for name in ("recipe.yaml", "run.json", "constants.npz", "last.ckpt"):
        if not (folder / name).exists():
            raise TrainingError(f"{folder}: no {name}, so this is not a run with a finished epoch; see `dacycle train`")
    recipe = parse_recipe(yaml.safe_load((folder / "recipe.yaml").read_text()), str(folder / "recipe.yaml"))
    record = json.loads((folder / "run.json").read_text())
    with np.load(folder / "constants.npz") as stored:
        constants = MiniConstants(**{name: stored[name] for name in stored.files})
    network = build_network(recipe, constants)
    state = torch.load(folder / "last.ckpt", map_location="cpu", weights_only=False)
    prefix = "average."
    weights = {k.removeprefix(prefix): v for k, v in state["state_dict"].items() if k.startswith(prefix)}
    network.load_state_dict(weights)
    record["epochs_done"] = state["epoch"] + 1
    with (folder / "curve.csv").open(newline="") as file:
        record["minutes"] = round(float(list(csv.DictReader(file))[-1]["minutes"]))
    return recipe, record, network.eval()


def _check_folder(recipe: Recipe, folder: Path) -> None:
    record = folder / "run.json"
    if not record.exists():
        return
    if json.loads(record.read_text())["recipe"] != recipe.digest():
        raise RecipeError(
            f"{folder} holds a run of another recipe ({folder}/recipe.yaml); train into another folder with --out"
        )


def _load(recipe: Recipe, years: list[int], world: World, say: Callable[[str], None]) -> list[Year]:
    loaded = []
    for year in years:
        folder = Path(recipe.data) / str(year)
        say(f"reading {folder}")
        loaded.append(load_states(Reference(folder), year_times(year), world.grid, world.statistics))
    return loaded


def _constants(recipe: Recipe, world: World, years: list[Year]) -> MiniConstants:
    statistics = world.statistics
    climate = world.climatology.coefficients.copy()
    climate[0] -= statistics.mean[:, None, None]
    humidity = np.array([channel.variable == "q" for channel in CHANNELS])
    return MiniConstants(
        mean=statistics.mean,
        std=statistics.std,
        step_std=(step_deviation(years, world.grid.weights) * statistics.std).astype(np.float32),
        floor=np.where(humidity, 0.0, -np.inf).astype(np.float32),
        static=static_planes(world.grid.latitude, world.orography, world.land_fraction),
        climate=climate / statistics.std[:, None, None],
        season=season_weights(years),
        relaxation=6 / (24 * recipe.relaxation_days),
    )


def _write_run(
    recipe: Recipe, folder: Path, world: World, constants: MiniConstants, training: list[Year], network: MiniNetwork
) -> None:
    """Record a run at its start; a resumed one must find the same data."""
    record = {
        "recipe": recipe.digest(),
        "data": data_digest(training),
        "samples": sum(len(year.times) for year in training),
        "world": world.name,
        "grid": world.grid.name,
        "statistics": world.statistics.description,
        "weights": sum(p.numel() for p in network.parameters()),
        "versions": {name: metadata.version(name) for name in ("torch", "lightning", "numpy")},
        "machine": f"{platform.machine()}, {recipe.threads} threads",
    }
    path = folder / "run.json"
    if path.exists():
        before = json.loads(path.read_text())
        if before["data"] != record["data"]:
            raise RecipeError(f"{folder}: the training data have changed since this run began; use another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.as_dict(), sort_keys=False))
    np.savez(folder / "constants.npz", **vars(constants))
    path.write_text(json.dumps(record, indent=2) + "\n")


class _EveryEpoch(lightning.Callback):
    """After each epoch: a line of the learning curve, and the checkpoint under its name only when it is whole."""

    def __init__(self, recipe: Recipe, folder: Path, say: Callable[[str], None]) -> None:
        self.recipe, self.folder, self.say = recipe, folder, say
        self.curve = folder / "curve.csv"
        self.minutes_before, self.began = 0.0, time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        rows = [row for row in self._rows() if int(row["epoch"]) < trainer.current_epoch]
        if rows:
            self._write(rows)
            self.minutes_before = float(rows[-1]["minutes"])
        self.began = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        minutes = self.minutes_before + (time.monotonic() - self.began) / 60
        row = {
            "epoch": trainer.current_epoch,
            "steps": self.recipe.steps_at(trainer.current_epoch),
            "loss": f"{values['loss']:.5f}",
            "validation_loss": f"{values['validation_loss']:.5f}",
            **{name.replace("_mse", ""): f"{v**0.5:.3f}" for name, v in values.items() if name.endswith("_mse")},
            "minutes": f"{minutes:.2f}",
        }
        part = self.folder / "last.ckpt.part"
        trainer.save_checkpoint(part)  # every process takes part, one keeps the books
        if trainer.is_global_zero:
            self._write([*self._rows(), row])
            part.replace(self.folder / "last.ckpt")
            self.say(", ".join(f"{name} {value}" for name, value in row.items()))

    def _rows(self) -> list[dict[str, Any]]:
        if not self.curve.exists():
            return []
        with self.curve.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with self.curve.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
