"""Trainings of other kinds of methods: without a spread, with recent departures, priors, adapters."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")
pytest.importorskip("lightning", reason="the extra `train` is not installed: lightning is missing")

import torch
from typer.testing import CliRunner

from dacycle.assimilators.base import Past, has_window, load_assimilator, removes_model_bias
from dacycle.assimilators.exceptions import RecipeError
from dacycle.assimilators.export.assimilator import file_metadata, write_graph
from dacycle.assimilators.judging.gate import judge_assimilator
from dacycle.assimilators.sampling.backgrounds import (
    CYCLED,
    Backgrounds,
    read_store,
)
from dacycle.assimilators.sampling.observing import Observing, Subset
from dacycle.assimilators.trained.network import TrainedAssimilator
from dacycle.assimilators.training import assimilator_run
from dacycle.assimilators.training.assimilation import TorchAssimilator
from dacycle.assimilators.training.assimilator_run import (
    accepted_round,
    fit_assimilator,
    load_round,
    read_assimilator_run,
)
from dacycle.assimilators.training.samples import Samples
from dacycle.cycler.cli.models.training import app
from dacycle.forecast_adapter.models.onnxfile import write_metadata
from dacycle.forecast_adapter.worlds.world import World
from tests.assimilators.training.small import FEW, export_soon, held, recipe_of, rounds, unjudged

pytestmark = pytest.mark.slow


def test_a_method_without_a_spread_is_trained_exported_and_judged(
    entries: dict[str, Any], backgrounds: Backgrounds, observing: Observing, data: Path, tiny: World, tmp_path: Path
) -> None:
    recipe = recipe_of(entries, method="adas", network={"width": 16, "heads": 2, "fine": 8}, rounds=0)
    fit_assimilator(recipe, tmp_path / "run", observing, backgrounds, held(backgrounds, observing), FEW)
    file = export_soon(tmp_path / "run", tmp_path / "adas.onnx")
    method = load_assimilator(file, tiny)
    assert "spread" not in method.metadata["parity"]
    verdict = judge_assimilator(file, data, [2024], entries["world"], baseline="none", starts=2, days=4)
    assert "no spread" in [check.found for check in verdict.checks]


def test_a_method_that_takes_recent_departures_is_trained_in_its_cycles_and_written(
    entries: dict[str, Any], backgrounds: Backgrounds, observing: Observing, tiny: World, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(assimilator_run, "cycled_errors", unjudged)
    network = {"width": 16, "fine": 8, "layers": 1, "merged": 1, "recent": 1}
    recipe = recipe_of(entries, method="convcnp", network={**network, "bias": "kept"}, epochs=1)
    fit_assimilator(recipe, tmp_path, observing, backgrounds, held(backgrounds, observing), FEW)
    ours = TorchAssimilator(load_round(tmp_path, 1), tiny.grid, tiny.name)
    write_graph(ours.network, tmp_path / "recent.onnx")
    recipe, record, _ = read_assimilator_run(tmp_path)
    write_metadata(tmp_path / "recent.onnx", file_metadata(recipe, record, tiny, ours.network, 1))
    exported = load_assimilator(tmp_path / "recent.onnx", tiny)
    assert has_window(exported)
    assert not removes_model_bias(exported)
    time, std = tiny.reference.times[8], tiny.statistics.std[:, None, None]
    background = tiny.reference.array(time) + 0.3 * std
    drawn = observing.draw(time, background, Subset(), np.random.default_rng(0))
    past = Past(background, background, [(drawn.values, drawn.errors)], backgrounds=[background - 20 * std])
    given = background[None], drawn.values[None], drawn.errors[None]
    analyses = []
    for method in (ours, exported):
        analyses += [each.analyse(*given).state for each in (method, method.with_past(past))]
    np.testing.assert_allclose(analyses[2] / std, analyses[0] / std, atol=1e-4, rtol=1e-6)
    np.testing.assert_allclose(analyses[3] / std, analyses[1] / std, atol=1e-4, rtol=1e-6)
    assert np.abs((analyses[3] - analyses[2]) / std).max() > 1e-3


PRIORS = {
    "latent-diffusion": {
        "context": 8, "width": 16, "coarse": 16, "depth": 1, "steps": 5, "pairs": 1, "latent": 16, "auto": 16,
    },
    "vae-var": {"width": 16, "latent": 4, "wide": 4, "broad": 4, "layers": 1, "iterations": 4},
}  # fmt: skip


@pytest.mark.parametrize("method", PRIORS)
def test_a_prior_is_trained_without_observations_and_exported_as_a_step(
    entries: dict[str, Any], backgrounds: Backgrounds, observing: Observing, tmp_path: Path, method: str
) -> None:
    recipe = recipe_of(entries, method=method, network=PRIORS[method], rounds=0, epoch_samples=24)
    fit_assimilator(recipe, tmp_path / "run", observing, backgrounds, held(backgrounds, observing), FEW)
    with (tmp_path / "run/round-0/curve.csv").open(newline="") as file:
        assert [np.isfinite(float(row["validation_loss"])) for row in csv.DictReader(file)] == [True, True]
    exported = export_soon(tmp_path / "run", tmp_path / "prior.onnx")
    metadata = TrainedAssimilator(exported).metadata
    assert metadata["parity"]["analysis"]["largest"] < 1e-4
    assert metadata["stepping"]["steps"] == 5


def test_a_round_of_a_prior_learns_from_the_errors_of_its_own_cycles(
    entries: dict[str, Any], backgrounds: Backgrounds, observing: Observing, tiny: World, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    changes = {"method": "vae-var", "network": PRIORS["vae-var"], "epochs": 1}
    recipe, given = recipe_of(entries, **changes), (observing, backgrounds, held(backgrounds, observing), FEW)
    drawn: list[Samples] = []

    def samples(*arguments: Any, **options: Any) -> Samples:
        drawn.append(Samples(*arguments, **options))
        return drawn[-1]

    monkeypatch.setattr(assimilator_run, "Samples", samples)
    monkeypatch.setattr(assimilator_run, "cycled_errors", unjudged)
    fit_assimilator(recipe, tmp_path, *given)
    paths = sorted((tmp_path / "round-1/cycles").iterdir())
    assert [path.name for path in paths] == ["0000.nc"]  # of four cycles, after the first three days
    own = read_store(tmp_path / "round-1/cycles", tiny)
    first, second = drawn
    assert first.backgrounds is backgrounds
    assert (second.order[1::2] >= len(backgrounds.times)).all()
    assert (second.order[::2] < len(backgrounds.times)).all()
    number = second.order[1]
    np.testing.assert_array_equal(second.backgrounds.errors[number], own.errors[number - len(backgrounds.times)])
    assert second.backgrounds.leads[number] == CYCLED
    assert [row["round"] for row in rounds(tmp_path)] == ["0", "1"]
    made = [path.stat().st_mtime_ns for path in paths]
    fit_assimilator(recipe, tmp_path, *given)
    assert [path.stat().st_mtime_ns for path in paths] == made


def test_a_run_is_evaluated_before_its_export_with_more_or_fewer_iterations(
    entries: dict[str, Any], backgrounds: Backgrounds, observing: Observing, data: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(entries, method="vae-var", network=PRIORS["vae-var"], rounds=0)
    run = tmp_path / "run"
    fit_assimilator(recipe, run, observing, backgrounds, held(backgrounds, observing), FEW)
    arguments = ["evaluate", str(run), "--data", str(data), "--year", "2024", "--against", "none", "--starts", "2"]
    arguments += ["--world", entries["world"], "--model", entries["model"]]

    def share(*options: str) -> float:
        shown = CliRunner().invoke(app, [*arguments, *options], catch_exceptions=False).stdout.replace("\n", " ")
        share_shown = re.search(r"run: ([0-9.]+) of the background's error", shown)
        assert share_shown, shown
        return float(share_shown[1])

    assert share() == share("--set", "iterations=4") < share("--set", "iterations=1") < 1
    with pytest.raises(RecipeError, match="its weights are not those of its recipe's network with"):
        share("--set", "width=32")
    with pytest.raises(RecipeError, match=r"network\.iterations: 'few' is not a whole number"):
        share("--set", "iterations=few")
    arguments[1] = "none"
    with pytest.raises(RecipeError, match="none is no run's folder"):
        share("--set", "iterations=1")


def test_an_adapter_learns_beside_its_base_which_stays_as_it_is(
    entries: dict[str, Any], run: Path, backgrounds: Backgrounds, observing: Observing, tmp_path: Path
) -> None:
    adapter = {"tokens": 8, "token_heads": 2, "token_layers": 1}
    changes = {"method": "fnp-adapter", "base": str(run), "rounds": 0}
    recipe = recipe_of(entries, **changes, network={**entries["network"], **adapter})
    fit_assimilator(recipe, tmp_path / "run", observing, backgrounds, held(backgrounds, observing), FEW)
    network, base = load_round(tmp_path / "run", 0), load_round(run, accepted_round(run))
    for (name, weights), expected in zip(network.base.named_parameters(), base.parameters(), strict=True):
        assert torch.equal(weights, expected), name
    assert network.adapter.project.weight.abs().max() > 0
    kept = recipe_of(entries, **changes, network={**entries["network"], **adapter, "bias": "kept"})
    with pytest.raises(RecipeError, match=r"was trained with network\.bias 'removed', and this recipe has 'kept'"):
        fit_assimilator(kept, tmp_path / "other", observing, backgrounds, held(backgrounds, observing), FEW)
    larger = recipe_of(entries, **changes, network={**entries["network"], **adapter, "joint": 32})
    with pytest.raises(RecipeError, match="of another size than `network` says"):
        fit_assimilator(larger, tmp_path / "larger", observing, backgrounds, held(backgrounds, observing), FEW)
    prior = recipe_of(entries, **changes | {"method": "vae-var-adapter"}, network=PRIORS["vae-var"] | adapter)
    with pytest.raises(RecipeError, match="is of another method"):
        fit_assimilator(prior, tmp_path / "prior", observing, backgrounds, held(backgrounds, observing), FEW)
