"""The estimated cost of a training against the memory that a real pass allocates."""

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")
pytest.importorskip("lightning", reason="the extra `train` is not installed: lightning is missing")

import torch
from torch.profiler import ProfilerActivity, profile

from dacycle.assimilators.exceptions import RecipeError
from dacycle.assimilators.training.assimilator_run import build_network
from dacycle.assimilators.training.cost import estimate_cost, loss_of, measure_cost, placeholders
from dacycle.assimilators.training.recipe import AssimilatorRecipe
from dacycle.forecast_adapter.grid import get_grid

GRID = get_grid("16x32")
SIZES = {
    "fnp": {"joint": 16, "group": 8, "fine": 8, "layers": 1, "merged": 1, "modes": 4, "block": 8},
    "diffusion": {"context": 8, "width": 16, "coarse": 16, "depth": 1},
}


def recipe_of(method: str, **changes: object) -> AssimilatorRecipe:
    content = {
        "kind": "assimilator", "method": method, "name": "small", "version": "1", "world": "nowhere", "model": "none",
        "data": "none", "backgrounds": "none", "training_years": [2023], "validation_years": [2024], "seed": 3,
        "observations": [{"source": "stations"}], "epochs": 2, "epoch_samples": 100, "rounds": 0,
        "network": SIZES[method],
    }  # fmt: skip
    return AssimilatorRecipe.model_validate({**content, **changes})


@pytest.mark.parametrize("method", SIZES)
def test_the_memory_kept_for_the_gradients_is_what_a_real_pass_leaves_allocated(method: str) -> None:
    recipe = recipe_of(method)
    network = build_network(recipe, GRID, placeholders(GRID))
    left = []
    for batch in (1, 2):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            loss = loss_of(recipe, network, GRID, batch)
        left.append(sum(event.self_cpu_memory_usage for event in profiled.key_averages()))
        del loss
    assert (left[1] - left[0]) / 1e9 == pytest.approx(estimate_cost(recipe, GRID).sample_gb, rel=0.1)


@pytest.mark.parametrize("method", SIZES)
def test_four_times_as_many_cells_take_four_times_as_much(method: str) -> None:
    small, large = (estimate_cost(recipe_of(method), get_grid(name)) for name in ("16x32", "32x64"))
    assert large.sample_gb == pytest.approx(4 * small.sample_gb, rel=0.1)
    assert 3.9 < large.teraflops / small.teraflops < 8  # transforms along rows and columns grow faster
    assert large.states_gb == pytest.approx(4 * small.states_gb)


def test_mixed_precision_takes_less_and_rounds_count_as_samples() -> None:
    plain = estimate_cost(recipe_of("fnp"), GRID)
    assert estimate_cost(recipe_of("fnp", precision="bfloat16"), GRID).sample_gb < plain.sample_gb
    more = estimate_cost(recipe_of("fnp", rounds=3, round_epochs=1), GRID)
    assert (plain.samples, more.samples) == (200, 500)
    assert more.hours(8, 10) == pytest.approx(2.5 * plain.hours(8, 10))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to measure on")
def test_on_a_gpu_updates_take_about_the_memory_that_was_worked_out() -> None:
    recipe, grid = recipe_of("diffusion", precision="bfloat16"), get_grid("64x128")
    measured = measure_cost(recipe, grid)
    assert measured is not None
    assert 0.5 < measured.memory_gb / estimate_cost(recipe, grid).memory_gb(recipe.batch) < 1.5
    assert measured.seconds > 0


def test_a_grid_with_rows_at_the_poles_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"grid is 1\.5deg, but networks need .* none at a pole: .* 120x240"):
        estimate_cost(recipe_of("fnp"), get_grid("1.5deg"))
