"""The network of the observation operator, its training from a recipe, its export and its scores."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")
pytest.importorskip("lightning", reason="the extra `train` is not installed: lightning is missing")
pytest.importorskip("onnxscript", reason="the extra `train` is not installed: onnxscript is missing")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dacycle.assimilators.exceptions import DataError, RecipeError, TrainingError
from dacycle.assimilators.export.operator import export_operator, operator_parity
from dacycle.assimilators.judging.operator_scores import climatology_of_planes, score_operator
from dacycle.assimilators.networks.observation_operator import (
    OperatorConstants,
    OperatorNetwork,
    OperatorSize,
    likelihood_loss,
)
from dacycle.assimilators.training.operator import ObservedYear, Pairs, fit_operator, load_year, read_operator_run
from dacycle.assimilators.training.recipe import OperatorRecipe, load_recipe
from dacycle.forecast_adapter.models.onnxfile import read_metadata, write_metadata
from dacycle.forecast_adapter.state import to_dataset
from dacycle.forecast_adapter.worlds.reference import Reference, write_times
from dacycle.forecast_adapter.worlds.world import World, annual_basis, load_world
from dacycle.obs_ingest.operators.learned import LearnedOperator, load_operator
from tests.assimilators.training.runs import on_records, write_recipe
from tests.conftest import TinyWorld
from tests.learned import make_operator

ENTRIES: dict[str, Any] = {
    "kind": "operator",
    "name": "small",
    "version": "1",
    "world": "tiny",
    "data": "nowhere",
    "training_years": [2021],
    "validation_years": [2022],
    "epochs": 4,
    "network": {"width": 8, "depth": 1},
    "batch": 4,
    "learning_rate": 1e-2,
    "warm_up": 4,
    "average": 0.5,
    "threads": 1,
    "seed": 3,
}
Data = tuple[World, list[ObservedYear], list[ObservedYear]]


def recipe(**changes: Any) -> OperatorRecipe:
    return OperatorRecipe(**{**ENTRIES, **changes})


@pytest.fixture(scope="module")
def split(world: TinyWorld) -> Data:
    """Return the tiny world, five days to train on, two to validate with."""
    opened = load_world(world.folder)
    times = opened.reference.times
    return opened, [load_year(opened.reference, times[:20], opened)], [load_year(opened.reference, times[20:], opened)]


@pytest.fixture(scope="module")
def run(split: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    fit_operator(recipe(epochs=20), folder, *split)
    return folder


@pytest.fixture(scope="module")
def years(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the years 2021 and 2022, both with the days of the tiny world."""
    folder = tmp_path_factory.mktemp("years")
    for year in (2021, 2022):
        (folder / str(year)).symlink_to(world.folder / "reference")
    return folder


def network(static: np.ndarray | None = None) -> OperatorNetwork:
    """Return a network with fresh weights, in a world of unit statistics."""
    torch.manual_seed(0)
    one = np.ones(69, np.float32)
    static = np.zeros((4, 8, 16), np.float32) if static is None else static
    constants = OperatorConstants(0 * one, one, np.array([1.0, 240.0]), np.array([2.0, 30.0]), static)
    return OperatorNetwork(constants, OperatorSize(width=8, depth=2)).eval()


# The network


@settings(max_examples=20)
@given(st.integers(0, 2**31 - 1), st.integers(0, 15), st.floats(0, 30))
def test_values_are_finite_rain_is_not_negative_and_longitude_is_periodic(seed: int, shift: int, size: float) -> None:
    """Rotating the state and the static fields rotates the output."""
    generator = torch.Generator().manual_seed(seed)
    static = torch.randn((4, 8, 16), generator=generator)
    frames = size * torch.randn((2, 1, 69, 8, 16), generator=generator)
    with torch.no_grad():
        values, errors = network(static.numpy())(*frames)
        turned = network(static.roll(shift, -1).numpy())(*frames.roll(shift, -1))
    assert values.isfinite().all()
    assert (values[:, 0] >= 0).all()
    assert (errors > 0).all()
    torch.testing.assert_close(turned[0], values.roll(shift, -1), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(turned[1], errors.roll(shift, -1), rtol=1e-4, atol=1e-3)


def test_a_cell_is_seen_no_further_than_a_cell_a_layer() -> None:
    """Within this distance its gradient, which variational methods use, is not 0."""
    frame = torch.randn((1, 69, 8, 16), generator=torch.Generator().manual_seed(1)).requires_grad_()
    network()(frame.detach(), frame)[0][0, 1, 4, 8].backward()
    assert frame.grad is not None
    reached = frame.grad[0].abs().sum(0) > 0
    assert reached[2:7, 6:11].all()
    assert reached.sum() == 25


def test_the_loss_is_least_for_the_truth_with_its_own_error() -> None:
    target = 3 + 2 * torch.randn((400, 2, 8, 8), generator=torch.Generator().manual_seed(0))

    def slope(mean: float, error: float) -> list[float]:
        guess = torch.tensor([mean, error], requires_grad=True)
        given = [value.expand(target.shape) for value in guess]
        likelihood_loss(given[0], given[1], target).mean().backward()
        assert guess.grad is not None
        return guess.grad.tolist()

    assert slope(3.0, 2.0) == pytest.approx([0, 0], abs=0.02)
    assert slope(4.0, 2.0)[0] > 0.1
    assert slope(3.0, 1.0)[1] < -0.1 < 0.1 < slope(3.0, 4.0)[1]


# The recipe and the data


def test_the_recipe_in_the_repository_is_sound() -> None:
    read = load_recipe(Path(__file__).resolve().parents[3] / "deploy/recipes/olr-tp-cpu.yaml")
    assert isinstance(read, OperatorRecipe)
    assert (read.world, read.training_years, read.validation_years) == ("demonstration", [2020, 2021], [2023])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: Input should be greater than 0"),
        ({"stages": []}, "stages: unknown key"),
        ({"batch": 0}, "batch: Input should be greater than 0"),
        ({"validation_years": [2021]}, "not in both"),
    ],
)
def test_a_recipe_with_a_mistake_says_which(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"small\.yaml:\d+: .*{message}"):
        load_recipe(write_recipe(tmp_path / "small.yaml", ENTRIES, **changes))


def test_no_pair_reaches_across_two_years(split: Data) -> None:
    _, first, second = split
    pairs = Pairs([*first, *second])
    assert len(pairs) == len(first[0].times) - 1 + len(second[0].times) - 1
    states, planes = pairs[len(first[0].times) - 1]
    torch.testing.assert_close(states, second[0].states[:2].float())
    torch.testing.assert_close(planes, second[0].planes[1])


@pytest.mark.parametrize("damage", ["absent", "not finite"])
def test_years_without_usable_olr_are_refused(world: TinyWorld, tmp_path: Path, damage: str) -> None:
    opened = load_world(world.folder)
    time = opened.reference.times[3]
    surface, state = opened.reference.surface(time), to_dataset(opened.reference.state(time))
    for short, long, factor in (
        ("tp6h", "total_precipitation_6hr", 1e-3),
        ("olr", "outgoing_longwave_radiation", 1.0),
        ("td2m", "2m_dewpoint_temperature", 1.0),
        ("ps", "surface_pressure", 1.0),
    ):
        values = factor * surface[short].values[None]
        if short == "olr" and damage == "not finite":
            values[0, 3, 4] = np.nan
        if not (short == "olr" and damage == "absent"):
            state[long] = (("time", "latitude", "longitude"), values)
    write_times(state, tmp_path / "2024-01-01.nc")
    expected = "no outgoing_longwave_radiation" if damage == "absent" else "2024-01-01T18: olr .* not finite"
    with pytest.raises(DataError, match=expected):
        load_year(Reference(tmp_path), np.array([time]), opened)


# Training


def test_the_loss_falls_and_what_is_left_is_less_than_the_spread(run: Path, split: Data) -> None:
    with (run / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert float(rows[-1]["validation_loss"]) < float(rows[0]["validation_loss"]) - 0.2
    spread = split[2][0].planes.std((0, 2, 3))
    assert float(rows[-1]["olr"]) < 0.8 * spread[1]
    assert float(rows[-1]["tp6h"]) < 0.8 * spread[0]


def test_an_interrupted_run_goes_on_to_the_same_end(split: Data, tmp_path: Path) -> None:
    fit_operator(recipe(epochs=2), tmp_path / "straight", *split)

    def stop(_: str) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError), on_records(stop):
        fit_operator(recipe(epochs=2), tmp_path / "stopped", *split)
    fit_operator(recipe(epochs=2), tmp_path / "stopped", *split)
    straight, resumed = (read_operator_run(tmp_path / name)[2].state_dict() for name in ("straight", "stopped"))
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, msg=name)


def test_an_unknown_size_is_refused(split: Data, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the entries are width, depth, expansion"):
        fit_operator(recipe(network={"fine": 3}), tmp_path, *split)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no recipe\.yaml"):
        read_operator_run(tmp_path)


# Export and scores


def test_the_exported_file_computes_what_the_network_does_and_says_what_it_is(
    run: Path, split: Data, years: Path, tmp_path: Path
) -> None:
    path = export_operator(run, tmp_path / "small.onnx", str(years))
    opened = split[0]
    operator = load_operator(path, opened)
    assert operator is not None
    _, _, trained = read_operator_run(run)
    times = opened.reference.times[3:7]
    frames = np.stack([[opened.reference.array(time - lag) for time in times] for lag in (6, 0)])
    assert operator_parity(trained, path, frames) < 1e-4
    with torch.no_grad():
        values, errors = trained(*torch.from_numpy(frames))
    given = operator(frames[0, 1], frames[1, 1])
    np.testing.assert_allclose(given.values["olr"], values[1, 1], rtol=1e-4)
    np.testing.assert_allclose(given.errors["tp"], errors[1, 0], rtol=1e-3)
    card = path.with_suffix(".md").read_text()
    assert operator.digest in card
    assert "| olr (W m-2) | small |" in card
    assert {score["method"] for score in operator.metadata["scores"]} == {"small", "climatology"}


def test_a_perfect_operator_has_no_error_and_climatology_has_the_spread(years: Path, tmp_path: Path) -> None:
    """The double computes OLR and precipitation exactly as the tiny world does."""
    path = make_operator(tmp_path / "double.onnx")
    write_metadata(path, read_metadata(path) | {"training": {"years": [2021]}})
    scores = {(score.plane, score.method): score for score in score_operator(LearnedOperator(path), years, 2022)}
    reference = Reference(years / "2022")
    area = reference.grid.weights
    coefficients = climatology_of_planes([reference])
    for plane, name, k in (("tp6h", "double", 0), ("olr", "double", 1)):
        exact = scores[plane, name]
        assert (exact.rmse, exact.bias, exact.correlation) == pytest.approx((0, 0, 1), abs=1e-3)
        squared = []
        for time in reference.times[1:]:
            usual = np.tensordot(annual_basis(np.array([time]))[0], coefficients[:, k], 1)
            squared.append((np.square(usual - reference.surface(time)[plane].values) * area).mean())
        assert scores[plane, "climatology"].rmse == pytest.approx(np.sqrt(np.mean(squared)), rel=1e-4)
        assert np.isnan(scores[plane, "climatology"].correlation)
