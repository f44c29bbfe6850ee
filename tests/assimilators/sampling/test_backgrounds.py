"""Stores of backgrounds hold the errors of the model; a damaged or incomplete store raises an error."""

from dataclasses import replace
from pathlib import Path

import h5netcdf
import numpy as np
import pytest
from numpy.typing import NDArray

from dacycle.assimilators.exceptions import DataError
from dacycle.assimilators.sampling.backgrounds import (
    CYCLED,
    Backgrounds,
    forecast_errors,
    make_forecasts,
    month_of_forecasts,
    read_store,
    systematic_error,
    write_backgrounds,
    year_times,
)
from dacycle.assimilators.sampling.cycled_backgrounds import Cycling, cycled_errors_between, make_chains, make_cycles
from dacycle.assimilators.sampling.cycles import CycledModel, run_chain
from dacycle.assimilators.sampling.observing import observing_of
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import conservative_average, get_grid
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World, annual_basis
from tests.conftest import TinyWorld
from tests.worlds import Nudge


@pytest.fixture
def store(world: TinyWorld, tiny: World, tmp_path: Path) -> Path:
    """Write the errors of one forecast as a month."""
    model = load_model(world.model)
    start = tiny.reference.times[4]
    errors_by_lead = list(forecast_errors(model, tiny.reference, tiny, start, (6, 24)))
    times = np.array([start + np.timedelta64(lead, "h") for lead, _ in errors_by_lead])
    backgrounds = Backgrounds(times, np.array([6, 24]), np.stack([e for _, e in errors_by_lead]), model.digest)
    write_backgrounds(backgrounds, tmp_path / "2024-01.nc", tiny)
    return tmp_path


def test_errors_are_forecast_minus_truth_in_standard_deviations(world: TinyWorld, tiny: World, store: Path) -> None:
    read = read_store(store, tiny)
    reference, times = tiny.reference, tiny.reference.times
    model = load_model(world.model)
    states = list(model.forecast(reference.array(times[3])[None], reference.array(times[4])[None], 4))
    for row, step in ((0, 1), (1, 4)):
        assert read.times[row] == times[4 + step]
        expected = (states[step - 1][0] - reference.array(times[4 + step])) / tiny.statistics.std[:, None, None]
        np.testing.assert_allclose(read.errors[row], expected, atol=2e-3, rtol=1e-3)


def test_errors_of_a_finer_model_are_averaged_to_the_grid_of_the_world(world: TinyWorld, tiny: World) -> None:
    """An assimilator of increments on a coarse grid learns from the errors of the model that it corrects."""
    model, coarse = load_model(world.model), replace(tiny, grid=get_grid("16x32"))
    fine = forecast_errors(model, tiny.reference, tiny, tiny.reference.times[4], (6, 24))
    for (lead, error), (same, averaged) in zip(
        fine, forecast_errors(model, tiny.reference, coarse, tiny.reference.times[4], (6, 24)), strict=True
    ):
        assert (lead, averaged.shape) == (same, (69, 16, 32))
        expected = conservative_average(error.astype(np.float32), tiny.grid, coarse.grid)
        np.testing.assert_allclose(averaged, expected, atol=2e-3, rtol=2e-3)


def test_a_value_that_is_not_finite_is_named(tiny: World, store: Path) -> None:
    with h5netcdf.File(store / "2024-01.nc", "a") as file:
        file["error"][1, NAMES.index("t850"), 3, 4] = np.nan
    with pytest.raises(DataError, match=r"2024-01\.nc: t850 at 2024-01-03T00 is not finite"):
        read_store(store, tiny)


def test_a_damaged_file_is_named(tiny: World, store: Path) -> None:
    whole = (store / "2024-01.nc").read_bytes()
    (store / "2024-01.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"2024-01\.nc: not a whole file"):
        read_store(store, tiny)


def test_another_world_is_refused(tiny: World, store: Path) -> None:
    with h5netcdf.File(store / "2024-01.nc", "a") as file:
        file.attrs["world"] = "elsewhere"
    with pytest.raises(DataError, match="its world are not those of the world tiny"):
        read_store(store, tiny)


def test_an_empty_store_says_what_makes_one(tiny: World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dacycle backgrounds"):
        read_store(tmp_path, tiny)


def test_a_year_with_a_gap_stops_before_anything_is_written(world: TinyWorld, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1435 times of 2024 are missing, first 2024-01-08T06"):
        make_forecasts(world.folder / "reference", tmp_path / "store", [2024], str(world.folder), str(world.model))
    assert not (tmp_path / "store").exists()


def test_forecasts_do_not_leave_their_year(world: TinyWorld, tiny: World) -> None:
    """Only the lead that ends within the year is used; the next year of a nature run would begin with a jump."""
    model = load_model(world.model)
    last = np.datetime64("2024-12-31T12", "h")
    assert len(list(forecast_errors(model, _Endless(tiny.reference), tiny, last, (6, 12, 24)))) == 1


@pytest.mark.parametrize("month", ["2024-01", "2024-03"])
def test_a_month_holds_each_lead_of_each_of_its_times_once(world: TinyWorld, tiny: World, month: str) -> None:
    """In January the first forecast starts at 06 UTC of the first day, because it needs a frame of the same year."""
    reference = _Endless(tiny.reference)
    backgrounds = month_of_forecasts(load_model(world.model), reference, tiny, np.datetime64(month, "M"), (6, 12))
    every = np.arange(np.datetime64(f"{month}-01T00", "h"), np.datetime64(f"{month}-31T18", "h") + 6, 6)
    for lead, missing in ((6, 2), (12, 3)):
        times = every[missing:] if month == "2024-01" else every
        np.testing.assert_array_equal(np.sort(backgrounds.times[backgrounds.leads == lead]), times)
    assert len(backgrounds.errors) == len(backgrounds.times)


class _Endless(Reference):
    """Return the first state of a reference at every time."""

    def __init__(self, reference: Reference) -> None:
        self.first = reference.array(reference.times[0])

    def array(self, time: np.datetime64) -> NDArray[np.float32]:
        return self.first


def test_backgrounds_of_cycles_are_what_those_cycles_were_wrong_by(world: TinyWorld, tiny: World) -> None:
    times, observing = tiny.reference.times, observing_of(tiny, tiny.reference, [{"source": "stations"}])
    cycled = CycledModel(load_model(world.model))
    backgrounds = cycled_errors_between(Nudge("tiny"), cycled, observing, times[23], times[27], seed=1)
    assert set(backgrounds.leads) == {CYCLED}
    np.testing.assert_array_equal(backgrounds.times, [*times[23:27], *times[23:27]])
    usual = list(run_chain(Nudge("tiny"), cycled, observing, times[11], 16, seed=1))[12:]
    std = tiny.statistics.std[:, None, None]
    expected = np.stack([(cycle.background - cycle.truth) / std for cycle in usual])
    np.testing.assert_allclose(backgrounds.errors[:4], expected, atol=2e-3, rtol=1e-3)
    assert (backgrounds.errors[4:] != backgrounds.errors[:4]).any()  # the other chain has another selection
    size = np.sqrt(np.square(backgrounds.errors.astype(float)).mean((0, 2, 3)))
    t2m, z50 = (size[NAMES.index(name)] for name in ("t2m", "z50"))
    assert 0.05 < t2m < 0.95 * z50  # stations see the one and not the other


def test_cycles_need_whole_years(world: TinyWorld, tmp_path: Path) -> None:
    given = (str(world.folder), str(world.model), "nudge", [{"source": "stations"}])
    with pytest.raises(DataError, match=r"1435 times of 2024 are missing, first 2024-01-08T06"):
        make_cycles(world.folder / "reference", tmp_path / "store", [2024], *given)
    assert not (tmp_path / "store").exists()


def test_the_systematic_error_is_that_of_forecasts() -> None:
    times = year_times(2020)
    of_forecasts = backgrounds_of(times, np.ones((len(times), 1, 2, 2)))
    with_cycles = Backgrounds(
        np.concatenate([of_forecasts.times, times]), np.concatenate([of_forecasts.leads, np.full(len(times), CYCLED)]),
        np.concatenate([of_forecasts.errors, np.full((len(times), 1, 2, 2), 7, np.float16)]), "model",
    )  # fmt: skip
    np.testing.assert_array_equal(systematic_error(with_cycles), systematic_error(of_forecasts))


def test_without_short_forecasts_the_systematic_error_is_that_of_the_shortest() -> None:
    """48 h are 8 steps, and backgrounds of cycles have no lead."""
    times = year_times(2020)
    leads = np.repeat([48, 72, CYCLED], len(times))
    errors = np.repeat([0.8, 30, 30], len(times))[:, None, None, None].astype(np.float16)
    coefficients = systematic_error(Backgrounds(np.tile(times, 3), leads, errors, "model"))
    step = np.einsum("ns,schw->nchw", annual_basis(times), coefficients)
    np.testing.assert_allclose(step, 0.1, atol=0.02)


def test_the_systematic_error_is_found_by_place_and_season() -> None:
    """It is found in noise five times as large, from two years of forecasts of 24 h, without the errors of 48 h."""
    generator = np.random.default_rng(0)
    times = np.concatenate([year_times(year) for year in (2020, 2021)])
    season = annual_basis(times)[:, 1]
    errors = 0.25 * generator.standard_normal((len(times), 3, 4, 6))
    errors[:, 1, 2, 3] += 4 * (0.01 + 0.02 * season)
    coefficients = systematic_error(backgrounds_of(times, errors))
    assert coefficients.shape == (5, 3, 4, 6)
    assert coefficients[0, 1, 2, 3] == pytest.approx(0.01, abs=0.004)
    assert coefficients[1, 1, 2, 3] == pytest.approx(0.02, abs=0.006)
    assert np.sqrt(np.square(coefficients[:, 0]).mean()) < 0.003


def test_few_forecasts_say_little_of_a_systematic_error() -> None:
    times = year_times(2020)[:20]
    coefficients = systematic_error(backgrounds_of(times, np.ones((len(times), 1, 2, 2))))
    step = np.einsum("ns,schw->nchw", annual_basis(times), coefficients)
    assert step.min() > 0
    assert step.max() < 0.08  # of 0.25


def backgrounds_of(times: np.ndarray, errors: np.ndarray) -> Backgrounds:
    """Return errors of 24 h, each with an error of 48 h that is 100."""
    both = np.concatenate([errors, np.full_like(errors, 100)]).astype(np.float16)
    return Backgrounds(np.tile(times, 2), np.repeat([24, 48], len(times)), both, "model")


def test_half_of_the_chains_that_are_observed_as_usual_are_without_optional_sources(world, tiny, tmp_path, monkeypatch):
    observing = observing_of(tiny, tiny.reference, [{"source": "stations"}, {"source": "sondes"}], optional=["sondes"])
    cycling = Cycling(Nudge("tiny"), CycledModel(load_model(world.model)), observing)
    denied = []
    module = "dacycle.assimilators.sampling.cycled_backgrounds"
    monkeypatch.setattr(f"{module}.run_chain", lambda *arguments: denied.append(arguments[6].deny))
    monkeypatch.setattr(f"{module}._errors_of_chains", lambda *_: None)
    monkeypatch.setattr(f"{module}.write_backgrounds", lambda *_: None)
    make_chains(lambda: cycling, tmp_path / "chains", tiny.reference.times[:4], 1, seed=1, workers=1)
    assert [tuple(denied[number]) for number in (0, 2)] == [(), ("sondes",)]
