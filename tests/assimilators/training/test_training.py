"""Training from recipes: mistakes are named, the loss falls, a run resumes, a diverging one stops."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")
pytest.importorskip("lightning", reason="the extra `train` is not installed: lightning is missing")

import torch

from dacycle.assimilators.exceptions import DataError, RecipeError, TrainingError
from dacycle.assimilators.networks.weights import stored_tensors
from dacycle.assimilators.sampling.backgrounds import year_times
from dacycle.assimilators.training.data import Windows, Year, load_states, season_weights, step_deviation
from dacycle.assimilators.training.forecast import ForecastTraining
from dacycle.assimilators.training.forecast_run import (
    build_forecast_network,
    fit_forecast,
    forecast_constants,
    read_forecast_run,
    train_forecast,
)
from dacycle.assimilators.training.module import MATRIX_RATE, channel_weights
from dacycle.assimilators.training.recipe import AssimilatorRecipe, ForecastRecipe, load_recipe, recipe_kind
from dacycle.forecast_adapter.channels import GROUPS, index
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.models.model import ModelFileError, load_model
from dacycle.forecast_adapter.state import to_dataset
from dacycle.forecast_adapter.worlds.reference import Reference, ReferenceDataError, write_times
from dacycle.forecast_adapter.worlds.world import World, load_world
from tests.assimilators.training.runs import on_records, write_recipe
from tests.conftest import TinyWorld

ENTRIES: dict[str, Any] = {
    "kind": "forecast",
    "name": "small",
    "version": "1",
    "world": "tiny",
    "data": "nowhere",
    "training_years": [2021],
    "validation_years": [2022],
    "stages": [{"steps": 1, "epochs": 2}, {"steps": 2, "epochs": 1}],
    "network": {"fine": 8, "coarse": 16, "depth": 1},
    "batch": 4,
    "warm_up": 4,
    "average": 0.5,
    "threads": 1,
    "seed": 3,
}


DIGESTS = {
    "mini-cpu": "61403e40a7061947",
    "fnp-cpu": "d9aa518718645390",
    "olr-tp-cpu": "16ad6c7b8cca335b",
}


def recipe(**changes: Any) -> ForecastRecipe:
    return ForecastRecipe(**{**ENTRIES, **changes})


@pytest.fixture(scope="module")
def split(world: TinyWorld) -> tuple[World, list[Year], list[Year]]:
    """Return the tiny world, five days to train on, two to validate with."""
    opened = load_world(world.folder)
    times = opened.reference.times
    parts = (times[:20], times[20:])
    return (opened, *([load_states(opened.reference, t, opened.grid, opened.statistics)] for t in parts))


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# Recipes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "forcast"}, r":1: kind: Input should be 'forecast', 'assimilator', .*, 'oi', '3dvar' or 'bias'"),
        ({"kind": None}, r":1: kind: this key is required \(what is trained: .*, oi, 3dvar or bias\)"),
        ({"kind": "oi"}, r"its kind is 'oi', which trains no network; here it is forecast or assimilator or operator"),
        ({"learning_rat": 1e-3}, r":\d+: learning_rat: unknown key; did you mean learning_rate\?"),
        ({"learning_rate": "fast"}, r":\d+: learning_rate: Input should be a valid number"),
        ({"learning_rate": 0}, r"learning_rate: Input should be greater than 0"),
        ({"seed": "one"}, r":\d+: seed: Input should be a valid integer"),
        ({"seed": True}, r"seed: Input should be a valid integer"),
        ({"compile": 1}, r"compile: Input should be a valid boolean"),
        ({"training_years": [2021, 2022]}, r"validation_years: a year may be .* once, not in both"),
        ({"training_years": [2021, 2021]}, r":6: training_years: a year may be .* once"),
        ({"training_years": []}, r":6: training_years: List should have at least 1 item"),
        ({"stages": [{"steps": 1}]}, r":\d+: stages\.0\.epochs: this key is required"),
        ({"stages": [{"steps": 0, "epochs": 3}]}, r"stages\.0\.steps: Input should be greater than 0"),
        ({"stages": [{"steps": 1, "epoch": 3}]}, r"stages\.0\.epoch: unknown key; did you mean epochs\?"),
        ({"stages": []}, r"stages: List should have at least 1 item"),
        ({"precision": "float16"}, r"precision: Input should be 'float32' or 'bfloat16'"),
        ({"average": 1.0}, r"average: Input should be less than 1"),
        ({"seed": None}, r":1: seed: this key is required"),
    ],
)
def test_a_recipe_with_a_mistake_says_which_and_where(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_recipe(tmp_path / "small.yaml", ENTRIES, **changes)
    with pytest.raises(RecipeError, match=rf"small\.yaml.*{message}"):
        load_recipe(path)


def test_every_mistake_of_a_recipe_is_named(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "small.yaml", ENTRIES, seed=None, batch=0, widths={})
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    keys = [line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert sorted(keys) == ["batch", "seed", "widths"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- kind\n", r"torn\.yaml:1: a recipe is a mapping of keys to values"),
        ("kind: [\n", r"torn\.yaml:\d: not valid YAML"),
        ("kind: forecast\nkind: oi\n", r"torn\.yaml:2: a key is there twice"),
    ],
)
def test_a_file_that_is_no_recipe_says_so(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "torn.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        recipe_kind(path)


def test_a_recipe_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: there is no such file"):
        load_recipe(tmp_path / "none.yaml")


def test_the_data_of_a_recipe_may_lie_elsewhere(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "small.yaml", ENTRIES)
    assert load_recipe(path) == recipe()
    assert load_recipe(path, "elsewhere") == recipe(data="elsewhere")


def test_the_recipes_in_the_repository_are_sound() -> None:
    folder = Path(__file__).resolve().parents[3] / "deploy/recipes"
    read = [load_recipe(path) for path in sorted(folder.glob("mini*.yaml"))]
    assert {r.name for r in read} == {"mini", "mini-2", "mini-seamless", "mini-forgiving"}
    assert all(r.world == "demonstration" for r in read)


def test_the_recipes_for_era5_at_5_degrees_share_their_data() -> None:
    folder = Path(__file__).resolve().parents[3] / "deploy/recipes"
    read = {path.stem.removesuffix("-5.625deg"): path for path in (folder / "era5").glob("*-5.625deg.yaml")}
    assert {name for name in read if (folder / f"{name}-cpu.yaml").exists()} == set(read) - {"oi"}
    recipes = {name: load_recipe(path) for name, path in read.items() if name != "oi"}
    assert len({str((r.world, r.data, r.training_years, r.validation_years)) for r in recipes.values()}) == 1
    for name, made in recipes.items():
        assert made.name == f"era5-{name}"
        packaged = load_recipe(folder / f"{name}-cpu.yaml")
        assert made.network == packaged.network
        if isinstance(made, AssimilatorRecipe):
            assert made.model == f"runs/era5-mini/{recipes['mini'].name}.onnx"
            assert not made.in_memory
            assert made.base in ("", f"runs/{made.method.removesuffix('-adapter')}-5.625deg")


def test_stages_follow_one_another() -> None:
    read = recipe(stages=[{"steps": 1, "epochs": 2}, {"steps": 4, "epochs": 1}])
    assert [read.steps_at(epoch) for epoch in range(4)] == [1, 1, 4, 4]
    assert read.epochs == 3


def test_where_the_data_lie_is_no_part_of_the_recipes_digest() -> None:
    assert recipe(data="here").digest() == recipe(data="there").digest()
    assert recipe(seed=4).digest() != recipe().digest()


def test_the_digest_of_a_recipe_is_that_of_runs_made_before() -> None:
    """Whole numbers stay whole; otherwise runs could not be resumed, and files would name another recipe."""
    folder = Path(__file__).resolve().parents[3] / "deploy/recipes"
    digests = {
        name: load_recipe(folder / f"{name}.yaml").digest()[:16] for name in ("mini-cpu", "fnp-cpu", "olr-tp-cpu")
    }
    assert digests == DIGESTS


# Data


def test_missing_times_are_counted_and_the_first_is_named(world: TinyWorld) -> None:
    opened = load_world(world.folder)
    times = np.arange(np.datetime64("2024-01-07T00", "h"), np.datetime64("2024-01-10T00", "h"), 6)
    with pytest.raises(DataError, match=r"7 of the 12 times .* first 2024-01-08T06"):
        load_states(opened.reference, times, opened.grid, opened.statistics)


def test_a_store_with_a_gap_stops_before_anything_is_written(world: TinyWorld, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/2021").symlink_to(world.folder / "reference")
    with pytest.raises(DataError, match=r"1460 of the 1460 times .* nature-run"):
        train_forecast(recipe(world=str(world.folder), data=str(tmp_path / "data")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_values_that_are_not_finite_name_channel_and_time(world: TinyWorld, tmp_path: Path) -> None:
    opened = load_world(world.folder)
    time = opened.reference.times[3]
    state = to_dataset(opened.reference.state(time))
    temperature = state["temperature"].values.copy()
    temperature[0, 5, 6, 7] = np.nan  # 300 hPa
    state["temperature"] = state["temperature"].copy(data=temperature)
    write_times(state, tmp_path / "2024-01-01.nc")
    with pytest.raises(ReferenceDataError, match=r"2024-01-01T18: t300 has values that are not finite"):
        load_states(Reference(tmp_path), np.array([time]), opened.grid, opened.statistics)


def test_another_grid_is_refused(world: TinyWorld) -> None:
    opened = load_world(world.folder)
    with pytest.raises(DataError, match=r"1\.5deg"):
        load_states(opened.reference, opened.reference.times, get_grid("1.5deg"), opened.statistics)


def test_no_window_reaches_across_two_years(split: tuple[World, list[Year], list[Year]]) -> None:
    _, first, second = split
    windows = Windows([*first, *second], frames=4)
    sizes = [len(part[0].times) for part in (first, second)]
    assert len(windows) == sum(size - 3 for size in sizes)
    torch.testing.assert_close(windows[sizes[0] - 4], first[0].states[-4:].float())
    torch.testing.assert_close(windows[sizes[0] - 3], second[0].states[:4].float())


def test_the_change_over_six_hours_is_measured_per_channel(split: tuple[World, list[Year], list[Year]]) -> None:
    opened, first, _ = split
    states = first[0].states.clone()
    states[1::2, index("t850")] = states[0, index("t850")]
    states[0::2, index("t850")] = states[0, index("t850")] + 2
    deviation = step_deviation([Year(first[0].times, states)], opened.grid.weights)
    assert deviation[index("t850")] == pytest.approx(2, rel=1e-3)
    assert deviation[index("z500")] < 1


def test_a_channel_that_never_changes_is_named(split: tuple[World, list[Year], list[Year]]) -> None:
    opened, first, _ = split
    states = first[0].states.clone()
    states[:, index("q50")] = 0
    with pytest.raises(DataError, match="q50"):
        step_deviation([Year(first[0].times, states)], opened.grid.weights)


def test_the_season_is_read_off_zonal_mean_temperatures() -> None:
    """Temperatures vary with the season, differently at every latitude, and with noise."""
    rng = np.random.default_rng(0)
    times = year_times(2021)[::4]
    angle = 2 * np.pi * np.arange(len(times)) / 365.2425
    swing = rng.standard_normal((2, 8, 1))
    states = 0.3 * rng.standard_normal((len(times), 69, 8, 4))
    for wave, size in zip((np.cos(angle), np.sin(angle)), swing, strict=True):
        states += wave[:, None, None, None] * size
    halves = [Year(times[k::2], torch.from_numpy(states[k::2].astype(np.float32))) for k in (0, 1)]
    weights = season_weights(halves[:1])
    zonal = halves[1].states[:, GROUPS["t"]].float().mean(-1).flatten(1).numpy()
    annual = zonal @ weights[:, :-1].T + weights[:, -1]
    days = np.angle(np.exp(1j * (np.arctan2(annual[:, 1], annual[:, 0]) - angle[1::2]))) * 365.2425 / (2 * np.pi)
    assert np.abs(days).max() < 10


def test_levels_above_200_hpa_weigh_less_and_are_relaxed_faster(split: tuple[World, list[Year], list[Year]]) -> None:
    opened, first, _ = split
    weights = channel_weights(0.1)
    relaxation = forecast_constants(recipe(relaxation_days=50, top_relaxation_days=10), opened, first).relaxation
    names = ("z50", "q150", "z200", "t2m")
    assert [weights[index(name)] for name in names] == pytest.approx([0.1, 0.1, 1, 1])
    assert [relaxation[index(name)] for name in names] == pytest.approx([0.025, 0.025, 0.005, 0.005])


def test_a_forecast_keeps_within_the_range_of_the_training_years_and_a_tenth(
    split: tuple[World, list[Year], list[Year]],
) -> None:
    opened, first, second = split
    constants = forecast_constants(recipe(), opened, [*first, *second])
    states = np.concatenate([year.states.numpy() for year in (*first, *second)]).astype(np.float32)
    flat = states.swapaxes(0, 1).reshape(69, -1) * constants.std[:, None] + constants.mean[:, None]
    lowest, highest = flat.min(1), flat.max(1)
    margin = 0.1 * (highest - lowest)
    np.testing.assert_allclose(constants.ceiling, highest + margin, rtol=1e-3)
    humid = np.arange(69)[GROUPS["q"]]
    np.testing.assert_allclose(
        np.delete(constants.floor, humid), np.delete(lowest - margin, humid), rtol=1e-3, atol=1e-2
    )
    assert (constants.floor[humid] == 0).all()


# Training


def moving(year: Year) -> Year:
    """Return a year with one pattern in every channel, which moves one column eastward every 6 h."""
    pattern = year.states[0, index("z500")].float()
    states = torch.stack([pattern.roll(k, dims=-1).expand(69, -1, -1) for k in range(len(year.times))])
    return Year(year.times, states.contiguous())


NEWER = {**ENTRIES["network"], "joined": 4, "squared": 1, "advection": 1}


@pytest.mark.parametrize("changes", [{}, {"optimiser": "muon", "network": NEWER}])
def test_the_loss_falls(split: tuple[World, list[Year], list[Year]], tmp_path: Path, changes: dict[str, Any]) -> None:
    opened, first, second = split
    quick = recipe(stages=[{"steps": 1, "epochs": 12}], learning_rate=1e-2, noise=0.0, **changes)
    fit_forecast(quick, tmp_path, opened, [moving(first[0])], [moving(second[0])])
    rows = curve(tmp_path)
    assert len(rows) == 12
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    assert float(rows[-1]["validation_loss"]) < 0.8 * float(rows[0]["validation_loss"])


def test_muon_moves_matrices_by_equal_amounts_in_all_directions(split: tuple[World, list[Year], list[Year]]) -> None:
    """Other weights learn as with AdamW, whose first update is the learning rate in each of them."""
    opened, first, _ = split
    chosen = recipe(optimiser="muon", weight_decay=0.0, network={"fine": 8, "coarse": 16, "depth": 1, "joined": 4})
    network = build_forecast_network(chosen, forecast_constants(chosen, opened, first))
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimiser = ForecastTraining(network, chosen, opened.grid.weights).optimiser()
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight)
    optimiser.step()
    moved = {name: weight.detach() - before[name] for name, weight in network.named_parameters()}
    rate = chosen.learning_rate
    for name, parts in {"down.weight": 1, "coarse.0.widen.weight": 1, "coarse.0.mix.weight": 4}.items():
        matrices = moved[name].reshape(parts, -1, moved[name][0].numel())
        scale = MATRIX_RATE * rate * max(1, matrices.shape[1] / matrices.shape[2]) ** 0.5
        values = torch.linalg.svdvals(matrices) / scale
        assert 0.5 < values.min() < values.max() < 1.5, name
    for name in ("stem.weight", "head.weight", "fine_in.mix.weight", "coarse.0.mix.bias"):
        torch.testing.assert_close(moved[name].abs(), torch.full_like(moved[name], rate), rtol=1e-3, atol=0)


def test_an_interrupted_run_goes_on_to_the_same_end(
    split: tuple[World, list[Year], list[Year]], tmp_path: Path
) -> None:
    """After a stop in the second epoch and another run, weights and curve are those of a run without the stop."""
    chosen = recipe(optimiser="muon")
    fit_forecast(chosen, tmp_path / "straight", *split)

    class StopError(Exception):
        pass

    def stop(_: str) -> None:
        raise StopError

    with pytest.raises(StopError), on_records(stop):
        fit_forecast(chosen, tmp_path / "stopped", *split)
    assert len(curve(tmp_path / "stopped")) == 1
    fit_forecast(chosen, tmp_path / "stopped", *split)
    straight, resumed = (read_forecast_run(tmp_path / name)[2].state_dict() for name in ("straight", "stopped"))
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, msg=name)
    rows = [[row["loss"] for row in curve(tmp_path / name)] for name in ("straight", "stopped")]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 3


def test_a_finished_run_is_left_as_it_is(split: tuple[World, list[Year], list[Year]], tmp_path: Path) -> None:
    fit_forecast(recipe(), tmp_path, *split)
    before = (tmp_path / "last.ckpt").read_bytes()
    fit_forecast(recipe(), tmp_path, *split)
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(
    split: tuple[World, list[Year], list[Year]], tmp_path: Path
) -> None:
    """Data that turn bad after the first epoch, as a failing disk or memory would make them."""
    opened, first, second = split
    spoiled = [Year(year.times, year.states.clone()) for year in first]

    def spoil(_: str) -> None:
        spoiled[0].states[:] = torch.nan

    with pytest.raises(TrainingError, match="the loss is nan in epoch 1"), on_records(spoil):
        fit_forecast(recipe(), tmp_path, opened, spoiled, second)
    assert len(curve(tmp_path)) == 1
    weights = read_forecast_run(tmp_path)[2].state_dict()
    assert all(value.isfinite().all() for value in weights.values())


def test_another_recipe_does_not_go_on_with_a_run(split: tuple[World, list[Year], list[Year]], tmp_path: Path) -> None:
    fit_forecast(recipe(stages=[{"steps": 1, "epochs": 1}]), tmp_path, *split)
    with pytest.raises(RecipeError, match="another recipe"):
        fit_forecast(recipe(stages=[{"steps": 1, "epochs": 1}], seed=4), tmp_path, *split)


def test_a_run_is_not_resumed_with_other_data(split: tuple[World, list[Year], list[Year]], tmp_path: Path) -> None:
    opened, first, second = split
    short = recipe(stages=[{"steps": 1, "epochs": 1}])
    fit_forecast(short, tmp_path, *split)
    other = [Year(first[0].times[:-1], first[0].states[:-1])]
    with pytest.raises(RecipeError, match="data have changed"):
        fit_forecast(short, tmp_path, opened, other, second)


def test_an_unknown_size_is_refused(split: tuple[World, list[Year], list[Year]], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the entries are fine, coarse, depth, expansion"):
        fit_forecast(recipe(network={"width": 3}), tmp_path, *split)


def test_a_run_says_what_made_it(split: tuple[World, list[Year], list[Year]], tmp_path: Path) -> None:
    short = recipe(stages=[{"steps": 1, "epochs": 1}])
    fit_forecast(short, tmp_path, *split)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["recipe"] == short.digest()
    assert (record["world"], record["grid"], record["samples"]) == ("tiny", "5.625deg", 20)
    assert len(record["data"]) == 64
    assert load_recipe(tmp_path / "recipe.yaml") == short


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no recipe\.yaml"):
        read_forecast_run(tmp_path)


def test_noise_changes_the_inputs_but_not_the_targets(split: tuple[World, list[Year], list[Year]]) -> None:
    opened, first, _ = split
    noisy = recipe(noise=0.2)
    network = build_forecast_network(noisy, forecast_constants(noisy, opened, first))
    module = ForecastTraining(network, noisy, opened.grid.weights)
    batch = torch.stack([Windows(first, 4)[k] for k in range(4)])
    frames = module.perturbed(batch)
    changes = (batch[:, 1] - batch[:, 0]).square().mean().sqrt()
    moved = [(frames[k] - batch[:, k]).square().mean().sqrt() for k in (0, 1)]
    assert 0 < moved[1] < 0.5 * changes
    assert moved[0] > moved[1], "the older frame must be moved by itself, as it is after an analysis"
    for k in (2, 3):
        torch.testing.assert_close(frames[k], batch[:, k])


def test_a_network_for_increments_in_both_frames_is_trained_on_seamless_pairs(
    split: tuple[World, list[Year], list[Year]],
) -> None:
    """The older frame alone is disturbed by what it lacks of the newer frame's increment."""
    world, training, _ = split
    batch = torch.stack([training[0].some(slice(k, k + 3)) for k in range(4)])
    off = {}
    for share in (None, 0.5, 1.0):
        chosen = recipe(noise=0.1, frames=share)
        network = build_forecast_network(chosen, forecast_constants(chosen, world, training))
        older, newer, _ = ForecastTraining(network, chosen, world.grid.weights).perturbed(batch)
        off[share] = ((older - batch[:, 0]) - (newer - batch[:, 1])).square().mean().sqrt().item()
    assert off[None] > 1.5 * off[0.5] > 1.5 * off[1.0]


def test_a_training_begins_with_the_weights_of_a_run(
    split: tuple[World, list[Year], list[Year]], tmp_path: Path
) -> None:
    world, training, validation = split
    fit_forecast(recipe(), tmp_path / "first", world, training, validation)
    further = recipe(weights=str(tmp_path / "first"), learning_rate=1e-9, weight_decay=0.0)
    fit_forecast(further, tmp_path / "second", world, training, validation)
    first, second = (read_forecast_run(tmp_path / name)[2] for name in ("first", "second"))
    for name, weights in first.named_parameters():
        torch.testing.assert_close(second.get_parameter(name), weights, atol=1e-5, rtol=0)
    other = recipe(weights=str(tmp_path / "first"), network={"fine": 16, "coarse": 16, "depth": 1})
    with pytest.raises(RecipeError, match=r"first holds 'stem.weight' as .*, `network` asks for"):
        fit_forecast(other, tmp_path / "third", world, training, validation)
    with pytest.raises(TrainingError, match="not a run"):
        fit_forecast(recipe(weights=str(tmp_path)), tmp_path / "fourth", world, training, validation)


def test_a_training_begins_with_the_weights_of_a_packaged_model(
    split: tuple[World, list[Year], list[Year]], tmp_path: Path
) -> None:
    world, training, validation = split
    size = load_recipe(Path(__file__).parents[3] / "deploy/recipes/mini-2.yaml").network
    further = recipe(weights="mini-2", network=size, learning_rate=1e-9, weight_decay=0.0)
    fit_forecast(further, tmp_path / "further", world, training, validation)
    stored = stored_tensors(load_model("mini-2").path)
    for name, weights in read_forecast_run(tmp_path / "further")[2].named_parameters():
        torch.testing.assert_close(weights, torch.from_numpy(stored[name].copy()), atol=1e-5, rtol=0)


def test_a_deeper_network_begins_as_the_shallower_one(
    split: tuple[World, list[Year], list[Year]], tmp_path: Path
) -> None:
    world, training, validation = split
    size = {"fine": 8, "coarse": 16}
    fit_forecast(recipe(network={**size, "depth": 1}), tmp_path / "first", world, training, validation)
    deeper = recipe(weights=str(tmp_path / "first"), network={**size, "depth": 3}, learning_rate=1e-9, weight_decay=0.0)
    fit_forecast(deeper, tmp_path / "deeper", world, training, validation)
    frames = [training[0].some(slice(k, k + 1)) for k in (0, 1)]
    with torch.no_grad():
        first, second = (read_forecast_run(tmp_path / name)[2].increment(*frames) for name in ("first", "deeper"))
    torch.testing.assert_close(second, first, atol=1e-4, rtol=0)
    shallow = recipe(weights=str(tmp_path / "deeper"), network={**size, "depth": 1})
    with pytest.raises(RecipeError, match="2 blocks more than `network`; its `depth` is 3"):
        fit_forecast(shallow, tmp_path / "shallow", world, training, validation)


def test_a_model_that_is_not_there_is_noticed_before_the_data(tmp_path: Path) -> None:
    chosen = recipe(weights="mini-1", world="demonstration", data=str(tmp_path / "no-data"))
    with pytest.raises(ModelFileError, match="no model 'mini-1'"):
        train_forecast(chosen, tmp_path / "run")
