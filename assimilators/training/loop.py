"""The loop of a training in its folder: start, resume, a line of the learning curve and a checkpoint after each epoch.

curve.csv       one line per epoch: losses, errors, minutes so far
last.ckpt       the state after the last whole epoch; running the same command again goes on from it
"""

from __future__ import annotations

import csv
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning

from dacycle.assimilators.training.module import Training, has_bfloat16

__all__ = ["checkpoint_of", "minutes_of", "run_epochs"]


def checkpoint_of(folder: Path) -> Path:
    """The checkpoint of the last whole epoch, there or not."""
    return folder / "last.ckpt"


def minutes_of(folder: Path) -> float:
    """How long the training in a folder has taken, over all of its parts."""
    with (folder / "curve.csv").open(newline="") as file:
        return float(list(csv.DictReader(file))[-1]["minutes"])


def run_epochs(module: Training, folder: Path, epochs: int, say: Callable[[str], None]) -> Path:
    """Train up to `epochs`, from the checkpoint in the folder if there is one. Returns the checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = checkpoint_of(folder)
    # Its hints on other products, and that the averaged weights are in evaluation mode, help nobody here.
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
        callbacks=[_EveryEpoch(folder, say)],
    )
    if module.recipe.precision == "bfloat16" and not has_bfloat16(trainer.strategy.root_device):
        say("this processor has no instructions for bfloat16: training in float32")
    resumed = str(checkpoint) if checkpoint.exists() else None
    trainer.fit(module, ckpt_path=resumed, weights_only=False if resumed else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    return checkpoint


class _EveryEpoch(lightning.Callback):
    """After each epoch: a line of the learning curve, and the checkpoint under its name only when it is whole."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
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
            **cast(Training, pl_module).describe(trainer.current_epoch),
            "loss": f"{values['loss']:.5f}",
            "validation_loss": f"{values['validation_loss']:.5f}",
            **{name.replace("_mse", ""): f"{v**0.5:.4g}" for name, v in values.items() if name.endswith("_mse")},
            "minutes": f"{minutes:.2f}",
        }
        part = self.folder / "last.ckpt.part"
        trainer.save_checkpoint(part)  # every process takes part, one keeps the books
        if trainer.is_global_zero:
            self._write([*self._rows(), row])
            part.replace(checkpoint_of(self.folder))
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
