"""The run of a training with a closed-loop round: what it keeps, how it goes on, and what ends it."""

import csv
import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")
pytest.importorskip("lightning", reason="the extra `train` is not installed: lightning is missing")

import lightning
import torch
from torch import Tensor

from dacycle.assimilators.exceptions import RecipeError, TrainingError
from dacycle.assimilators.networks import METHODS
from dacycle.assimilators.networks.blocks.departures import gaussian_loss
from dacycle.assimilators.sampling.backgrounds import (
    Backgrounds,
)
from dacycle.assimilators.sampling.observing import Observing
from dacycle.assimilators.training.assimilator_run import (
    accepted_round,
    fit_assimilator,
    read_assimilator_run,
)
from dacycle.assimilators.training.samples import Samples
from tests.assimilators.training.runs import on_records
from tests.assimilators.training.small import FEW, held, recipe_of, rounds

pytestmark = pytest.mark.slow


def test_a_run_keeps_both_cycled_errors_and_goes_on_with_the_better(run: Path) -> None:
    rows = rounds(run)
    assert [row["round"] for row in rows] == ["0", "1"]
    assert rows[0]["accepted"] == "yes"
    better = float(rows[1]["cycled_error"]) < float(rows[0]["cycled_error"])
    assert rows[1]["accepted"] == ("yes" if better else "no")
    assert accepted_round(run) == int(better)
    record = json.loads((run / "run.json").read_text())
    assert record["samples"] == 3 * 8


def test_a_finished_run_is_left_as_it_is(
    run: Path, entries: dict[str, Any], backgrounds: Backgrounds, observing: Observing
) -> None:
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.suffix in (".csv", ".ckpt")}
    fit_assimilator(recipe_of(entries), run, observing, backgrounds, held(backgrounds, observing), FEW)
    assert {path: path.read_bytes() for path in before} == before


def test_a_finished_run_goes_on_with_one_more_round_and_with_nothing_else_changed(
    run: Path, entries: dict[str, Any], backgrounds: Backgrounds, observing: Observing, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    given = (observing, backgrounds, held(backgrounds, observing), FEW)
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        fit_assimilator(recipe_of(entries, rounds=2, seed=4), folder, *given)
    fit_assimilator(recipe_of(entries, rounds=2, least_gain=0.99), folder, *given)
    assert rounds(folder) == rounds(run)  # no round lowers the error by 99 %, so the first is the last
    assert read_assimilator_run(folder)[1]["samples"] == 3 * 8
    fit_assimilator(recipe_of(entries, rounds=2), folder, *given)
    assert rounds(folder)[:2] == rounds(run)
    assert len(rounds(folder)) == 3
    assert json.loads((folder / "run.json").read_text())["samples"] == 4 * 8
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        fit_assimilator(recipe_of(entries), folder, *given)


def test_an_interrupted_run_goes_on_to_the_same_end(
    entries: dict[str, Any], backgrounds: Backgrounds, observing: Observing, tmp_path: Path
) -> None:
    recipe = recipe_of(entries, rounds=0)
    given = (observing, backgrounds, held(backgrounds, observing), FEW)
    fit_assimilator(recipe, tmp_path / "straight", *given)

    def stop(line: str) -> None:
        if line.startswith("epoch 0"):
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)), on_records(stop):
        fit_assimilator(recipe, tmp_path / "stopped", *given)
    fit_assimilator(recipe, tmp_path / "stopped", *given)
    straight, stopped = (rounds(tmp_path / name)[0]["cycled_error"] for name in ("straight", "stopped"))
    assert straight == stopped


def test_a_killed_worker_is_an_error_that_says_what_to_do(
    entries: dict[str, Any], backgrounds: Backgrounds, observing: Observing, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    trainer = os.getpid()

    def killed(self: Samples, item: int) -> Any:
        if os.getpid() != trainer:
            os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("samples are drawn in a process of their own")

    monkeypatch.setattr(Samples, "__getitem__", killed)
    given = (observing, backgrounds, held(backgrounds, observing), FEW)
    with pytest.raises(TrainingError, match=r"round-0: a process that draws samples has ended .*in_memory: false"):
        fit_assimilator(recipe_of(entries), tmp_path, *given)


def test_two_processes_share_the_samples_and_the_weights(
    entries: dict[str, Any], backgrounds: Backgrounds, observing: Observing, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As on several GPUs, with one process on each: half the updates, and one process writes the files."""
    together = {"accelerator": "cpu", "devices": 2, "strategy": "ddp_fork"}
    alone = lightning.Trainer
    monkeypatch.setattr(lightning, "Trainer", lambda **given: alone(**given | together))
    recipe = recipe_of(entries, batch=2)
    fit_assimilator(recipe, tmp_path, observing, backgrounds, held(backgrounds, observing), FEW)
    with (tmp_path / "round-0/curve.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]
    state = torch.load(tmp_path / "round-0/last.ckpt", weights_only=False)
    assert state["global_step"] == recipe.epochs * recipe.epoch_samples // (2 * recipe.batch)
    assert [row["round"] for row in rounds(tmp_path)] == ["0", "1"]


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(
    entries: dict[str, Any],
    backgrounds: Backgrounds,
    observing: Observing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    updates = []

    def spoiled(increment: Tensor, spread: Tensor, target: Tensor) -> Tensor:
        updates.append(increment.requires_grad)
        return gaussian_loss(increment, spread, target) * (np.nan if sum(updates) > 2 else 1)

    monkeypatch.setitem(METHODS, "fnp", dataclasses.replace(METHODS["fnp"], loss=spoiled))
    given = (observing, backgrounds, held(backgrounds, observing), FEW)
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1"):
        fit_assimilator(recipe_of(entries, rounds=0), tmp_path, *given)
    assert (tmp_path / "round-0/last.ckpt").exists()
    assert not (tmp_path / "rounds.csv").exists()
