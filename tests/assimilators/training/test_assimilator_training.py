"""Training an assimilator: samples, a run with a closed-loop round, resuming, export with parity, and the gate."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")
pytest.importorskip("lightning", reason="the extra `train` is not installed: lightning is missing")

import lightning
import torch
from torch import Tensor
from typer.testing import CliRunner

from dacycle.assimilators.base import AssimilatorError, Past, has_window, load_assimilator, removes_model_bias
from dacycle.assimilators.exceptions import DataError, RecipeError, TrainingError
from dacycle.assimilators.export.assimilator import Extent, export_assimilator, file_metadata, write_graph
from dacycle.assimilators.judging.evaluation import evaluate
from dacycle.assimilators.judging.gate import Check, Verdict, judge_assimilator, register_assimilator
from dacycle.assimilators.networks import METHODS
from dacycle.assimilators.networks.blocks.departures import gaussian_loss
from dacycle.assimilators.sampling.backgrounds import (
    CYCLED,
    Backgrounds,
    held_out,
    months_of,
    read_store,
    systematic_error,
    write_backgrounds,
)
from dacycle.assimilators.sampling.cycles import CycledErrors, cycled_errors
from dacycle.assimilators.sampling.observing import Observing, Subset, observing_of
from dacycle.assimilators.trained.network import TrainedAssimilator
from dacycle.assimilators.trained.recent import recent_departures
from dacycle.assimilators.training import assimilator_run
from dacycle.assimilators.training.assimilation import TorchAssimilator
from dacycle.assimilators.training.assimilator_run import (
    accepted_round,
    fit_assimilator,
    load_round,
    read_assimilator_run,
    train_assimilator,
)
from dacycle.assimilators.training.closed_loop import ClosedLoop
from dacycle.assimilators.training.recipe import AssimilatorRecipe, load_recipe, recipe_kind
from dacycle.assimilators.training.samples import ErrorPairs, Samples, idealised
from dacycle.cycler.cli.models.training import app
from dacycle.forecast_adapter.channels import GROUPS, HEADLINE, NAMES
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.models.onnxfile import write_metadata
from dacycle.forecast_adapter.worlds.world import World, load_world
from dacycle.obs_ingest.errors.model import KIND
from tests.assimilators.trained.test_trained import make_file
from tests.assimilators.training.runs import on_records, write_recipe
from tests.conftest import TinyWorld
from tests.worlds import DAMPING, MEMORY, register_doubles

pytestmark = pytest.mark.slow
SOURCES = [{"source": "stations"}, {"source": "sondes"}, {"source": "olr"}]


FEW = 20
"""Updates of the operator of the planes, because nothing here asks how good it is."""


@pytest.fixture(scope="module")
def data(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of years that holds the tiny world's reference as 2024."""
    folder = tmp_path_factory.mktemp("nature")
    (folder / "2024").mkdir()
    for file in (world.folder / "reference").glob("*.nc"):
        (folder / "2024" / file.name).symlink_to(file)
    return folder


@pytest.fixture(scope="module")
def entries(world: TinyWorld, data: Path) -> dict[str, Any]:
    return {
        "kind": "assimilator", "method": "fnp", "name": "small", "version": "1", "world": str(world.folder),
        "model": str(world.model), "data": str(data), "backgrounds": "nowhere", "training_years": [2023],
        "validation_years": [2024], "observations": SOURCES, "epochs": 2, "epoch_samples": 8, "rounds": 1,
        "round_epochs": 1, "validation_days": 4, "batch": 4, "warm_up": 2, "average": 0.5, "threads": 1, "seed": 3,
        "network": {"joint": 16, "group": 8, "fine": 8, "layers": 1, "merged": 1, "modes": 4, "block": 8},
    }  # fmt: skip


@pytest.fixture(scope="module")
def backgrounds(world: TinyWorld, tiny: World) -> Backgrounds:
    return held_out(load_model(world.model), tiny.reference, tiny, 6, leads=(6, 24))


@pytest.fixture(scope="module")
def observing(tiny: World) -> Observing:
    return observing_of(tiny, tiny.reference, SOURCES)


EXACT = np.full(len(NAMES), 0.05, np.float32)


def held(backgrounds: Backgrounds, observing: Observing) -> Samples:
    return Samples(backgrounds, observing, np.arange(4), 1, EXACT, whole=True)


@pytest.fixture(scope="module")
def run(
    entries: dict[str, Any], backgrounds: Backgrounds, observing: Observing, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a finished run of two epochs and one closed-loop round."""
    folder = tmp_path_factory.mktemp("run")
    recipe = recipe_of(entries)
    fit_assimilator(recipe, folder, observing, backgrounds, held(backgrounds, observing), FEW)
    return folder


def recipe_of(entries: dict[str, Any], **changes: Any) -> AssimilatorRecipe:
    return AssimilatorRecipe(**{**entries, **changes})


def rounds(folder: Path) -> list[dict[str, str]]:
    with (folder / "rounds.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# Samples


def test_a_sample_is_background_observations_and_what_is_missing_to_the_truth(
    backgrounds: Backgrounds, observing: Observing, tiny: World
) -> None:
    state, values, errors, target, _ = (part.numpy() for part in held(backgrounds, observing)[1])
    truth = tiny.statistics.normalise(tiny.reference.array(backgrounds.times[1]))
    np.testing.assert_allclose(state + target, truth, atol=1e-5)
    seen = errors[: len(NAMES)] > 0
    observed = tiny.statistics.normalise(np.where(seen, values[: len(NAMES)], 0))
    assert 500 < seen.sum() < 0.5 * seen.size
    assert abs(observed - truth)[seen].mean() < abs(state - truth).mean() + 1
    assert (values[errors == 0] == 0).all()


def test_errors_put_together_anew_stand_on_a_truth_of_the_reference(
    backgrounds: Backgrounds, observing: Observing, tiny: World
) -> None:
    samples = Samples(backgrounds, observing, np.arange(12) % len(backgrounds.times), 5, EXACT, mixed=0.75)
    truths = np.stack([tiny.statistics.normalise(tiny.reference.array(t)) for t in np.unique(backgrounds.times)])
    own = 0
    for item in range(len(samples)):
        state, _, _, target, _ = (part.numpy() for part in samples[item])
        assert np.abs(truths - (state + target)).max(axis=(1, 2, 3)).min() < 1e-4
        assert (tiny.statistics.denormalise(state)[GROUPS["q"]] > -1e-9).all()
        own += np.abs(-target - backgrounds.errors[samples.order[item]]).max() < 0.02
    assert 0 < own < 8  # a quarter of the samples keep the error that they came with


def test_errors_stay_at_their_dates_unless_a_recipe_mixes_them(
    backgrounds: Backgrounds, observing: Observing, tiny: World
) -> None:
    samples = Samples(backgrounds, observing, np.arange(12) % len(backgrounds.times), 5, EXACT)
    for item in range(len(samples)):
        state, _, _, target, _ = (part.numpy() for part in samples[item])
        number = samples.order[item]
        assert np.abs(-target - backgrounds.errors[number])[GROUPS["t"]].max() < 0.02
        truth = tiny.statistics.normalise(tiny.reference.array(backgrounds.times[number]))
        assert np.abs(truth - (state + target)).max() < 1e-4


@pytest.mark.parametrize(("years", "mixed"), [(range(2010, 2012), 0.75), (range(2010, 2020), 0.0)])
def test_errors_are_mixed_by_default_where_years_are_few(years: range, mixed: float, tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "deploy/recipes/diffusion-cpu.yaml").read_text()
    path = tmp_path / "r.yaml"
    path.write_text(text.replace("mixed: 0.0\n", ""))
    assert load_recipe(path, changes={"training_years": list(years)}).mixed == mixed
    assert load_recipe(path, changes={"training_years": list(years), "mixed": 0.3}).mixed == 0.3


def test_a_recipe_is_trained_with_other_values_without_a_copy_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(__file__).parents[3] / "deploy/recipes/fnp-cpu.yaml"
    trained: list[tuple[AssimilatorRecipe, Path]] = []
    monkeypatch.setattr(assimilator_run, "train_assimilator", lambda recipe, folder: trained.append((recipe, folder)))
    command = ["train", str(path), "--set", "seed=2", "--set", "network.joint=64"]
    CliRunner().invoke(app, command, catch_exceptions=False)
    (recipe, folder), written = trained[0], load_recipe(path)
    assert folder == Path("runs/fnp-cpu-seed-2-network.joint-64")
    changed = {"seed": 2, "network": {**written.network, "joint": 64}}
    assert recipe == written.model_copy(update=changed)
    with pytest.raises(RecipeError, match=r"fnp-cpu.yaml:\d+: seed: Input should be a valid integer"):
        load_recipe(path, changes={"seed": "two"})
    with pytest.raises(RecipeError, match=r"fnp-cpu.yaml:1: seeds: unknown key; did you mean seed"):
        load_recipe(path, changes={"seeds": 2})
    with pytest.raises(RecipeError, match=r"seed.first: seed is no mapping, so it has no entry first"):
        load_recipe(path, changes={"seed.first": 2})


def test_samples_of_a_store_are_those_of_its_arrays(
    backgrounds: Backgrounds, observing: Observing, tiny: World, tmp_path: Path
) -> None:
    for month, part in (("2024-01", slice(0, 5)), ("2024-02", slice(5, None))):
        of_part = (each[part] for each in (backgrounds.times, backgrounds.leads, np.asarray(list(backgrounds.errors))))
        write_backgrounds(Backgrounds(*of_part, backgrounds.model), tmp_path / f"{month}.nc", tiny)
    stored = read_store(tmp_path, tiny)
    assert stored.digest() == backgrounds.digest()
    np.testing.assert_array_equal(systematic_error(stored), systematic_error(backgrounds))
    order = np.arange(len(backgrounds.times))
    mapped, held = (Samples(each, observing, order, 1, EXACT) for each in (stored, backgrounds))
    for item in order.tolist():
        for one, other in zip(mapped[item], held[item], strict=True):
            np.testing.assert_array_equal(one, other)


def test_idealised_observations_stand_beside_the_others(observing: Observing, tiny: World) -> None:
    time, error = tiny.reference.times[8], EXACT[:, None, None] * tiny.statistics.std[:, None, None]
    truth = tiny.reference.array(time)
    drawn = observing.draw(time, truth, Subset(), np.random.default_rng(0))
    shares = []
    for seed in range(20):
        values, errors = idealised(drawn.values, drawn.errors, truth, error, np.random.default_rng(seed))
        real, more = drawn.errors > 0, (errors > 0) & (drawn.errors == 0)
        assert (values[real] == drawn.values[real]).all()
        assert (errors[real] == drawn.errors[real]).all()
        assert (values[errors == 0] == 0).all()
        assert not more[len(NAMES) :].any()
        shares.append(more[: len(NAMES)].mean())
        off = ((values[: len(NAMES)] - truth) / error)[more[: len(NAMES)]]
        assert abs(off.std() - 1) < 0.2  # humidity is clipped
    assert min(shares) < 0.03 < 0.2 < max(shares)


def test_every_pass_draws_other_observations(backgrounds: Backgrounds, observing: Observing) -> None:
    passes = [dataclasses.replace(held(backgrounds, observing), seed=seed)[0] for seed in (1, 1, 2)]
    assert (passes[0][1] == passes[1][1]).all()
    assert (passes[0][1] != passes[2][1]).any()


# The closed loop


@pytest.mark.parametrize(("off", "frames"), [(0.0, None), (2.0, None), (2.0, 0.5), (2.0, 1.0)])
def test_a_chain_goes_on_from_its_analyses(
    backgrounds: Backgrounds, observing: Observing, world: TinyWorld, tiny: World, off: float, frames: float | None
) -> None:
    """Backgrounds are forecasts of two analyses, each `off` standard deviations from the truth; at first, of one.

    The older frame has also the share `frames` of the later increment, which is `off` less the background's error.
    """
    first = Samples(backgrounds, observing, np.zeros(12, int), 1, EXACT)
    chains = ClosedLoop(first, str(world.model), 4, frames)  # a ring of four, of which two are chains of three cycles
    truths = np.stack([tiny.statistics.normalise(tiny.reference.array(t)) for t in tiny.reference.times])
    times, errors = [], []
    for item in (3, 7, 11):  # of the last chain in the ring: to index it by the others' -1 would spoil it
        state, _, _, target, slot = chains[item]
        times.append(int(np.abs(truths - (state + target).numpy()).max(axis=(1, 2, 3)).argmin()))
        errors.append(-target[GROUPS["t"]].mean().item())
        chains.analysed(slot[None], (state + target)[None] + off)
        chains.analysed(chains[item - 1][-1][None], torch.full_like(state, np.nan)[None])  # one of the first data
    assert times == [times[0], times[0] + 1, times[0] + 2]
    newer, share = DAMPING * (1 - MEMORY) * off, frames or 0.0
    older = [share * (off - errors[0]), off + share * (off - errors[1])]
    expected = newer + DAMPING * MEMORY * DAMPING * np.array(older)
    np.testing.assert_allclose(errors[1:], expected, atol=0.1)


def test_a_chain_hands_on_the_departures_of_its_last_cycles(
    backgrounds: Backgrounds, observing: Observing, world: TinyWorld, tiny: World
) -> None:
    first = Samples(backgrounds, observing, np.zeros(12, int), 1, EXACT)
    chains = ClosedLoop(first, str(world.model), 4, recent=True)
    cycles = []
    for item in (3, 7, 11):
        state, values, errors, target, slot = chains[item]
        own = tuple(part[:72].numpy() for part in (values, errors))
        departures, their_errors = recent_departures(cycles) if cycles else np.zeros((2, *state.shape))
        np.testing.assert_allclose(values[72:], departures, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(errors[72:], their_errors, rtol=1e-5)
        cycles.append((tiny.statistics.denormalise(state.numpy()[None])[0], *own))
        chains.analysed(slot[None], (state + target)[None])
        _, others, their_own, *_ = chains[item - 1]
        assert others.shape == their_own.shape == values.shape
        assert not their_own[72:].any()


def test_chains_longer_than_the_reference_are_refused(
    backgrounds: Backgrounds, observing: Observing, world: TinyWorld
) -> None:
    first = Samples(backgrounds, observing, np.zeros(4000, int), 1, EXACT)
    with pytest.raises(DataError, match="too short for chains of 48 cycles"):
        ClosedLoop(first, str(world.model), ahead=4)


# A run


@pytest.mark.parametrize("folder", ["deploy/recipes", "deploy/recipes/era5"])
def test_the_recipes_in_the_repository_are_sound(folder: str) -> None:
    paths = sorted((Path(__file__).parents[3] / folder).glob("*.yaml"))
    recipes = [load_recipe(path) for path in paths if recipe_kind(path) == "assimilator"]
    assert {recipe.method for recipe in recipes} == set(METHODS)
    for recipe in recipes:
        assert not set(recipe.training_years) & {*recipe.validation_years, 2024}


def test_the_packaged_methods_have_equal_samples_of_the_full_network_and_of_the_stations() -> None:
    folder = Path(__file__).parents[3] / "deploy/recipes"
    recipes = [load_recipe(folder / f"{method}-cpu.yaml") for method in METHODS]
    apart = (
        "name", "version", "method", "base", "network", "learning_rate", "round_learning_rate", "warm_up", "precision",
        "workers",
    )  # fmt: skip
    first, *others = [recipe.model_dump(exclude=set(apart)) for recipe in recipes]
    assert all(other == first for other in others)
    assert first["mixed"] == 0
    sources = yaml.safe_load((folder.parent / "experiments/demo-full.yaml").read_text())["observations"]
    names = [entry["name"] for entry in sources]
    assert [entry["source"] for entry in first["observations"]] == names
    assert set(names) - set(first["optional"]) == {entry["source"] for entry in SOURCES}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "magic"},
            "method: 'magic' is unknown; the methods are adas, adas-adapter, convcnp, fnp, fnp-adapter",
        ),
        (
            {"network": {"joints": 3}},
            r"network\.joints: unknown entry \(did you mean joint\?\); the entries are reach_km",
        ),
        ({"base": "fnp"}, "base: fnp has none"),
        ({"method": "fnp-adapter"}, "base: fnp-adapter needs one"),
    ],
)
def test_an_unknown_method_or_size_is_refused(
    entries: dict[str, Any], backgrounds: Backgrounds, observing: Observing, tmp_path: Path,
    changes: dict[str, Any], message: str,
) -> None:  # fmt: skip
    recipe = recipe_of(entries, **changes)
    with pytest.raises(RecipeError, match=message):
        fit_assimilator(recipe, tmp_path, observing, backgrounds, held(backgrounds, observing), FEW)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, r":\d+: epochs: Input should be greater than 0"),
        ({"epoch_samples": 3}, r":\d+: epoch_samples: must be at least one batch of 4"),
        ({"observations": []}, r":\d+: observations: List should have at least 1 item"),
        ({"optional": ["ships"]}, r":\d+: optional: ships is no source of the observations; they are stations, sondes"),
        ({"observations": [{"name": "stations"}]}, r":\d+: observations: every entry is a mapping with a source"),
        ({"backgrounds": []}, r":\d+: backgrounds: List should have at least 1 item"),
        ({"backgrounds": ["forecasts", 7]}, r":\d+: backgrounds\.1: Input should be a valid string"),
        ({"mothod": "fnp"}, r":\d+: mothod: unknown key; did you mean method\?"),
        ({"network": {"joint": "wide"}}, r":\d+: network\.joint\S*: Input should be a valid integer"),
    ],
)
def test_a_recipe_with_a_mistake_says_which_and_where(
    entries: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=rf"small\.yaml{message}"):
        load_recipe(write_recipe(tmp_path / "small.yaml", entries, **changes))


def test_one_store_of_backgrounds_may_be_written_without_a_list(entries: dict[str, Any], tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "small.yaml", entries, backgrounds="store"))
    assert isinstance(recipe, AssimilatorRecipe)
    assert recipe.stores == [Path("store")]


@pytest.mark.parametrize("stores", [1, 2])
def test_a_store_that_lacks_months_stops_before_anything_is_written(
    entries: dict[str, Any], tmp_path: Path, stores: int
) -> None:
    whole, lacking = tmp_path / "whole", tmp_path / "lacking"
    for month in months_of([2023]):
        whole.mkdir(exist_ok=True)
        (whole / f"{month}.nc").touch()
    backgrounds = [str(whole), str(lacking)] if stores == 2 else str(lacking)
    with pytest.raises(DataError, match=r"lacking: no backgrounds of 2023-01 \(12 months missing\); see `dacycle back"):
        train_assimilator(recipe_of(entries, backgrounds=backgrounds), tmp_path / "run")
    assert not (tmp_path / "run").exists()


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


# Export and gate


def export_soon(run: Path, out: Path) -> Path:
    """Export with checks that are short enough for the tiny world."""
    return export_assimilator(run, out, extent=Extent(samples=6, cycles=8, starts=2))


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_soon(run, tmp_path_factory.mktemp("exported") / "small.onnx")


def test_the_exported_file_is_the_network(exported: Path, tiny: World) -> None:
    method = load_assimilator(exported, tiny)
    assert method.planes == ("tp6h", "olr", "q2m")  # as the network takes them: no other order gives its analyses
    parity = method.metadata["parity"]
    assert parity["analysis"]["largest"] < 1e-4
    assert parity["cycled"]["rms_difference"] < parity["cycled"]["rms_error"] / 10
    assert method.metadata["training"]["rounds"][0]["round"] == "0"
    assert exported.stat().st_size < 1.5 * 2 * method.metadata["training"]["weights"] + 2e6


def test_the_spread_is_as_much_too_large_in_single_analyses_as_it_is_too_small_in_cycles(
    exported: Path, world: TinyWorld, tiny: World, observing: Observing
) -> None:
    method, model = load_assimilator(exported, tiny), load_model(world.model)
    single = evaluate(method, observing, held_out(model, tiny.reference, tiny, 2), seed=3)
    cycled = cycled_errors(method, model, observing, seed=3, days=4)
    assert single.spread_ratio is not None
    assert cycled.spread_ratio is not None
    np.testing.assert_allclose(single.spread_ratio * cycled.spread_ratio, 1, rtol=0.01)


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


def unjudged(*_: Any) -> CycledErrors:
    """Stand in for the cycles that judge a round, which take longer than the training."""
    return CycledErrors(dict.fromkeys(HEADLINE, 1.0), dict.fromkeys(HEADLINE, 1.0), 1, 0, None)


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
    larger = recipe_of(entries, **changes, network={**entries["network"], **adapter, "joint": 32})
    with pytest.raises(RecipeError, match="of another size than `network` says"):
        fit_assimilator(larger, tmp_path / "other", observing, backgrounds, held(backgrounds, observing), FEW)


def test_pairs_of_errors_are_the_samples_without_observations(backgrounds: Backgrounds, observing: Observing) -> None:
    samples = held(backgrounds, observing)
    state, _, _, target, _ = samples[1]
    pair = ErrorPairs(samples)[1]
    torch.testing.assert_close(pair, (state, target))


def test_the_gate_writes_the_card_of_the_file(exported: Path, entries: dict[str, Any], data: Path) -> None:
    """The network had few updates: its checks of single observations pass by construction, its scores may be poor."""
    register_doubles()
    verdict = judge_assimilator(exported, data, [2024], entries["world"], "nudge", starts=2, days=4)
    met = {check.name: check.passed for check in verdict.checks}
    assert met["increment without observations"]
    assert met["largest difference from torch"]
    card = exported.with_suffix(".md").read_text()
    judged = load_assimilator(exported, load_world(entries["world"]))
    assert judged.digest in card
    assert f"observation errors in training: {KIND}" in card
    assert ("not passed" in card) == (not verdict.passed)
    assert judged.metadata["scores"]["passed"] == verdict.passed


@pytest.mark.parametrize("passed", [True, False])
def test_only_what_has_passed_is_registered(exported: Path, tmp_path: Path, passed: bool) -> None:
    exported.with_suffix(".md").touch()
    verdict = Verdict([Check("reach", "9 %", "5 %", passed)], {}, {})
    if passed:
        assert register_assimilator(exported, verdict, tmp_path).read_bytes() == exported.read_bytes()
        return
    with pytest.raises(AssimilatorError, match="has not passed: reach is 9 %, allowed is 5 %"):
        register_assimilator(exported, verdict, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_not_exported_here_cannot_be_judged(world: TinyWorld, data: Path, tmp_path: Path) -> None:
    path = make_file(tmp_path / "double.onnx")
    with pytest.raises(AssimilatorError, match=r"double\.onnx: its metadata lack training, parity, rounding"):
        judge_assimilator(path, data, [2024], str(world.folder), "nudge")


def test_the_gate_refuses_years_of_the_training(exported: Path, entries: dict[str, Any], data: Path) -> None:
    with pytest.raises(AssimilatorError, match="was trained on 2023"):
        judge_assimilator(exported, data, [2023], entries["world"], "nudge")
