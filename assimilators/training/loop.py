"""The loop of a training in its folder: start, resume, a row of the learning curve and a checkpoint after each epoch.

curve.csv       one row per epoch: losses, errors, minutes so far
last.ckpt       the state after the last whole epoch; running the same command again goes on from it
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import lightning

from dacycle.assimilators.exceptions import TrainingError
from dacycle.assimilators.training.folder import load_average, read_constants, read_record_of, read_rows, write_rows
from dacycle.assimilators.training.module import Training, has_bfloat16
from dacycle.assimilators.training.recipe import Recipe
from dacycle.common.files import whole

__all__ = ["checkpoint_of", "minutes_of", "read_trained", "run_epochs"]

logger = logging.getLogger(__name__)

SomeRecipe = TypeVar("SomeRecipe", bound=Recipe)
Network = TypeVar("Network", bound=Any)


def checkpoint_of(folder: Path) -> Path:
    """Return the path of the checkpoint of the last whole epoch, whether it exists or not."""
    return folder / "last.ckpt"


def minutes_of(folder: Path) -> float:
    """Return how long the training in a folder has taken, over all of its parts."""
    return float(read_rows(folder / "curve.csv")[-1]["minutes"])


def read_trained(
    kind: type[SomeRecipe], folder: Path, build: Callable[[SomeRecipe, dict[str, Any]], Network]
) -> tuple[SomeRecipe, dict[str, Any], Network]:
    """Return recipe, record and network of a run, with the averaged weights of its last checkpoint.

    Args:
        kind: class of the recipe.
        folder: of the run.
        build: makes the network of a recipe and its constants.

    Raises:
        TrainingError: the folder holds no such run, or no finished epoch.
    """
    recipe, record = read_record_of(kind, folder)
    network = build(recipe, read_constants(folder))
    record["epochs_done"] = load_average(network, checkpoint_of(folder))
    record["minutes"] = round(minutes_of(folder))
    return recipe, record, network.eval()


def run_epochs(module: Training, folder: Path, epochs: int) -> Path:
    """Train up to `epochs`, from the checkpoint in the folder if there is one. Returns the checkpoint.

    Raises:
        TrainingError: a process that draws samples was killed, as the system does where memory runs out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = checkpoint_of(folder)
    # Lightning advertises other products, and warns that the averaged weights are in evaluation mode.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    trainer = lightning.Trainer(
        accelerator="auto",
        devices="auto",
        max_epochs=epochs,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[_EveryEpoch(folder)],
    )
    if module.recipe.precision == "bfloat16" and not has_bfloat16(trainer.strategy.root_device):
        logger.info("this processor has no instructions for bfloat16: training in float32")
    resumed = str(checkpoint) if checkpoint.exists() else None
    try:
        trainer.fit(module, ckpt_path=resumed, weights_only=False if resumed else None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"{folder}: a process that draws samples has ended ({error}); `workers: 1` and `in_memory: false` need "
            "less memory, and the same command goes on after the last whole epoch"
        ) from error
    if trainer.interrupted:
        raise KeyboardInterrupt
    return checkpoint


class _EveryEpoch(lightning.Callback):
    """Write a row of the learning curve and the checkpoint after each epoch."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint, self.curve = checkpoint_of(folder), folder / "curve.csv"
        self.minutes_before, self.began = 0.0, time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        rows = [row for row in read_rows(self.curve) if int(row["epoch"]) < trainer.current_epoch]
        if rows:
            if trainer.is_global_zero:
                write_rows(self.curve, rows)
            self.minutes_before = float(rows[-1]["minutes"])
        self.began = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.checkpoint)  # every process takes part, the first alone writes
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        minutes = self.minutes_before + (time.monotonic() - self.began) / 60
        row = {
            "epoch": trainer.current_epoch,
            **cast(Training, pl_module).describe(trainer.current_epoch),
            "loss": f"{values['loss']:.5f}",
            "validation_loss": f"{values['validation_loss']:.5f}",
            **{name.replace("_mse", ""): f"{v**0.5:.4g}" for name, v in values.items() if name.endswith("_mse")},
            "minutes": f"{minutes:.2f}",
        }
        with whole(self.checkpoint) as temporary:
            trainer.save_checkpoint(temporary)
            # Before the checkpoint has its name: a row too many is dropped when the training is resumed.
            write_rows(self.curve, [*read_rows(self.curve), row])
        logger.info("%s", ", ".join(f"{name} {value}" for name, value in row.items()))
