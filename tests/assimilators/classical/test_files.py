"""Assimilators are found by name and file; background error files are estimated, written and read."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from dacycle.assimilators import AssimilatorError, known_assimilators, load_assimilator
from dacycle.assimilators.classical.background_error import (
    BackgroundError,
    Tuning,
    draw_forecast_errors,
    estimate_background_error,
)
from dacycle.assimilators.classical.ensemble_recipe import estimate_from_recipe, read_ensemble_recipe
from dacycle.assimilators.classical.olr import OlrOperator, OlrSamples
from dacycle.forecast_adapter.channels import GROUPS, NAMES, index
from dacycle.forecast_adapter.grid import Grid, conservative_average, get_grid
from dacycle.forecast_adapter.state import make_state, to_dataset
from dacycle.forecast_adapter.worlds.reference import Reference, write_times
from tests.worlds import profile

GRID = get_grid("5.625deg")
MEAN, UNIT = (values[:, None, None] * np.float32(factor) for values, factor in zip(profile(), (1, 0.05), strict=True))
"""State of number 0, and what is added from one to the next, (69, 1, 1), SI."""
ROOT = Path(__file__).resolve().parents[3]


@dataclass
class SomeWorld:
    name: str = "somewhere"
    grid: Grid = GRID
    reference_kind: str = ""

    def takes(self, made_for: str) -> bool:
        return made_for in (self.name, self.reference_kind)


@pytest.fixture(scope="module")
def error() -> BackgroundError:
    samples = np.random.default_rng(0).normal(0, 3, (4, len(NAMES), *GRID.shape)).astype(np.float32)
    samples[:, GROUPS["q"]] *= 1e-4
    tuned = Tuning({**dict.fromkeys(GROUPS, 0.8), "q": 0.5}, 1800.0)
    return BackgroundError.from_samples(samples, GRID, "somewhere", tuned, model="mini", seed=5)


@pytest.fixture(scope="module")
def file(error: BackgroundError, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("error") / "oi.nc"
    error.save(path)
    return path


def test_file_keeps_members_to_8_bits_and_everything_else_exactly(error: BackgroundError, file: Path) -> None:
    read = BackgroundError.load(file)
    step = np.abs(error.members).max(axis=(0, 2, 3)) / 100
    assert np.all(np.abs(read.members - error.members).max(axis=(0, 2, 3)) <= step)
    np.testing.assert_array_equal(read.std, error.std)
    assert (read.world, read.grid, read.tuning) == ("somewhere", GRID, error.tuning)
    assert read.provenance == {"model": "mini", "seed": 5}
    assert len(read.digest) == 64


def test_file_keeps_the_operator_of_olr(error: BackgroundError, tmp_path: Path) -> None:
    members = np.random.default_rng(1).normal(0, 20, (4, *GRID.shape)).astype(np.float32)
    members -= members.mean(axis=0)
    olr = OlrSamples(OlrOperator(np.linspace(-1, 1, 43), 250.0, 8.5), members)
    replace(error, olr=olr).save(tmp_path / "oi.nc")
    read = BackgroundError.load(tmp_path / "oi.nc").olr
    assert read is not None
    np.testing.assert_array_equal(read.operator.weights, olr.operator.weights)
    assert (read.operator.constant, read.operator.error) == (250.0, 8.5)
    assert np.abs(read.members - members).max() <= np.abs(members).max() / 100
    assert load_assimilator(tmp_path / "oi.nc", SomeWorld()).planes == ("olr",)


def test_a_file_is_loaded_by_its_path_with_its_tuned_settings(error: BackgroundError, file: Path) -> None:
    oi = load_assimilator(file, SomeWorld())
    assert (oi.name, oi.world, oi.planes) == ("oi", "somewhere", ())
    assert oi.digest == BackgroundError.load(file).digest
    expected = error.std * error.tuning.inflation_by_channel()
    np.testing.assert_allclose(oi.background_error_std, expected)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AssimilatorError, match=r"no assimilator 'magic'.*none"):
        load_assimilator("magic", SomeWorld())
    assert "none" in known_assimilators()


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (SomeWorld(grid=get_grid("1.5deg")), r"its grid is 5\.625deg, the world's 1\.5deg"),
        (SomeWorld(name="elsewhere"), "made for the world 'somewhere', this is 'elsewhere'"),
    ],
)
def test_a_file_for_another_grid_or_world_is_refused(file: Path, world: SomeWorld, message: str) -> None:
    with pytest.raises(AssimilatorError, match=message):
        load_assimilator(file, world)


def test_other_channels_other_kinds_and_damaged_files_are_refused(file: Path, tmp_path: Path) -> None:
    with xr.open_dataset(file, mask_and_scale=False) as dataset:
        dataset.isel(channel=slice(68)).to_netcdf(tmp_path / "fewer.nc", engine="h5netcdf")
        dataset.drop_attrs().to_netcdf(tmp_path / "unmarked.nc", engine="h5netcdf")
    (tmp_path / "damaged.nc").write_bytes(file.read_bytes()[:1000])
    (tmp_path / "model.pkl").write_bytes(b"")
    for name, message in {
        "fewer.nc": "channels",
        "unmarked.nc": "not a background error file",
        "damaged.nc": "damaged.nc: cannot be read",
        "model.pkl": "ends in one of",
    }.items():
        with pytest.raises(AssimilatorError, match=message) as caught:
            load_assimilator(tmp_path / name, SomeWorld())
        assert name in str(caught.value)


# A linear world: every field grows by 1 in 6 h, the model's by 1 + `bias`, so that errors are known exactly.


@dataclass
class Drifting:
    bias: float = 0.1
    name: str = "drifting"
    world: str = "somewhere"
    digest: str = "0" * 64
    grid: Grid = GRID
    starts: list[int] = field(default_factory=list)

    def forecast(self, previous: NDArray, current: NDArray, steps: int) -> Iterator[NDArray]:
        np.testing.assert_allclose((current - previous) / UNIT, 1.0, atol=0.02)
        self.starts.append(number_of(current))
        for step in range(1, steps + 1):
            yield current + step * (1 + self.bias) * UNIT


def number_of(states: NDArray) -> int:
    """Return which state of its year, from 0, the first of states (B, 69, H, W) is."""
    return round(float((states[0, 0, 0, 0] - profile()[0][0]) / UNIT[0, 0, 0]))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    for first in ("2001-12-29T00", "2003-01-01T00"):
        times = np.datetime64(first, "h") + 6 * np.arange(20)
        states = [
            to_dataset(make_state(np.float32(i) * UNIT + np.broadcast_to(MEAN, (len(NAMES), *GRID.shape)), GRID, time))
            for i, time in enumerate(times)
        ]
        write_times(xr.concat(states, "time"), folder / f"{first[:7]}.nc")
    return Reference(folder)


def test_errors_are_forecast_minus_reference_at_every_lead(reference: Reference) -> None:
    errors, leads = draw_forecast_errors(
        Drifting(), reference, GRID, [6, 12, 24], members=9, seed=1, years=[2001, 2003]
    )
    assert sorted(leads) == [6, 6, 6, 12, 12, 12, 24, 24, 24]
    for error, lead in zip(errors, leads, strict=True):
        np.testing.assert_allclose(error / UNIT, 0.1 * lead / 6, atol=0.02)


def test_drawing_is_repeatable_spread_over_the_years_and_never_leaves_one(reference: Reference) -> None:
    draws = []
    for seed in (1, 1, 2):
        model = Drifting()
        draw_forecast_errors(model, reference, GRID, [6, 48], members=12, seed=seed, years=[2001])
        draws.append(model.starts)
    assert draws[0] == draws[1] != draws[2]
    # 2001 has 12 states here, numbered from 0; the next year's would follow on without a gap.
    assert min(draws[0]) >= 1
    assert max(draws[0]) <= 10
    with pytest.raises(AssimilatorError, match=r"no forecast of 72 h.*2001"):
        draw_forecast_errors(Drifting(), reference, GRID, [72], members=2, seed=1, years=[2001])


def test_estimated_ensemble_is_centred_and_long_leads_do_not_dominate(reference: Reference) -> None:
    @dataclass
    class Noisy(Drifting):
        def forecast(self, previous: NDArray, current: NDArray, steps: int) -> Iterator[NDArray]:
            generator = np.random.default_rng(number_of(current) * 100 + steps)
            for step in range(1, steps + 1):
                yield current + (step + generator.normal(0, step, current.shape).astype(np.float32)) * UNIT

    error = estimate_background_error(
        Noisy(), reference, SomeWorld(), leads=[6, 24], members=10, seed=1, years=[2001], tuning=Tuning()
    )
    members = error.members / UNIT
    np.testing.assert_allclose(members.mean(axis=0), 0, atol=1e-4)
    sizes = members.std(axis=(1, 2, 3))
    assert sizes.max() < 1.2 * sizes.min()
    expected = np.sqrt((1 + 16) / 2)  # both leads' mean square
    assert error.std[index("z500")] / UNIT[index("z500"), 0, 0] == pytest.approx(expected, rel=0.1)
    assert error.provenance["leads"] == [6, 24]


def test_a_model_of_the_kind_of_reference_serves_a_world_on_a_coarser_grid(reference: Reference) -> None:
    """As FengWu, made for ERA5, serves a world of another name; its errors are averaged to the grid of increments."""
    coarse = Grid("coarse", GRID.latitude.reshape(-1, 2).mean(1), GRID.longitude.reshape(-1, 2).mean(1))
    settings = {"leads": [6, 24], "members": 6, "seed": 1, "years": [2001], "tuning": Tuning()}
    model = replace(Drifting(), world="era5")
    fine = estimate_background_error(model, reference, SomeWorld(reference_kind="era5"), **settings)
    error = estimate_background_error(model, reference, SomeWorld(grid=coarse, reference_kind="era5"), **settings)
    assert error.members.shape == (6, len(NAMES), *coarse.shape)
    expected = conservative_average(fine.members, GRID, coarse)
    assert np.abs(error.members - expected).max() < 1e-3 * np.abs(fine.members).max()
    assert (error.grid, error.world) == (coarse, "somewhere")


def test_a_model_on_another_grid_than_the_data_is_refused(reference: Reference) -> None:
    with pytest.raises(AssimilatorError, match=r"the data are on a \(32, 64\) grid, drifting runs on 1\.5deg"):
        estimate_background_error(
            replace(Drifting(), grid=get_grid("1.5deg")), reference, SomeWorld(),
            leads=[6], members=2, seed=1, years=[2001], tuning=Tuning(),
        )  # fmt: skip


def test_a_model_of_another_world_is_refused(reference: Reference) -> None:
    with pytest.raises(AssimilatorError, match="belongs to the world 'elsewhere'"):
        estimate_background_error(
            replace(Drifting(), world="elsewhere"), reference, SomeWorld(),
            leads=[6], members=2, seed=1, years=[2001], tuning=Tuning(),
        )  # fmt: skip


def test_the_packaged_ensemble_is_the_one_of_its_card() -> None:
    path = ROOT / "assimilators/weights/oi.nc"
    assert BackgroundError.load(path).digest in path.with_suffix(".md").read_text()
    assert path.stat().st_size < 10e6


def test_the_packaged_recipe_is_readable() -> None:
    packaged = ROOT / "deploy/recipes/oi.yaml"
    recipe = read_ensemble_recipe(packaged)
    assert (recipe.world, recipe.model) == ("demonstration", "mini")


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("seed: 1", "sead: 1", r"wrong\.yaml:\d+: sead: unknown key; did you mean seed\?"),
        ("seed: 1", "sead: 1", r"wrong\.yaml:1: seed: this key is required"),
        ("seed: 1", "seed: one", r"wrong\.yaml:\d+: seed: Input should be a valid integer"),
        ("kind: oi", "kind: fnp", r"wrong\.yaml:\d+: kind: Input should be 'oi'"),
        ("leads: [144,", "leads: [143,", r"wrong\.yaml:\d+: leads: leads are multiples of 6 h"),
        ("seed: 1", "seed: 1\ngrid: 5.625", r"wrong\.yaml:\d+: grid: "),
        ("seed: 1", "seed: 1\ngrid: 5deg", r"wrong\.yaml:\d+: grid: .*5\.625deg"),
        ("members: 96", "members: 1", r"wrong\.yaml:\d+: members: Input should be greater than or equal to 2"),
        ("inflation: 0.25", "inflation: {humidity: 1}", r"\d+: inflation: .* surface, z, q, u, v, t"),
        ("inflation: 0.25", "inflation: much", r"\d+: inflation: is one number or one for each of"),
        ("inflation: 0.25", "inflation: -1", r"\d+: inflation: .* must be positive"),
        ("distance_km: 3000", "distance_km: 0", r"\d+: distance_km: Input should be greater than 0"),
        ("distance_km: 3000", "distance_km: 30000", r"\d+: distance_km: .* less than or equal to 20015"),
    ],
)
def test_a_recipe_with_a_mistake_says_which_and_where(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    text = (ROOT / "deploy/recipes/oi.yaml").read_text()
    assert right in text
    (tmp_path / "wrong.yaml").write_text(text.replace(right, wrong))
    with pytest.raises(AssimilatorError, match=message):
        read_ensemble_recipe(tmp_path / "wrong.yaml")


def test_a_recipe_for_a_finer_grid_than_its_worlds_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "deploy/recipes/oi.yaml").read_text()
    (tmp_path / "fine.yaml").write_text(f"{text}grid: 1.5deg\n")
    with pytest.raises(AssimilatorError, match=r"fine\.yaml: grid: 1\.5deg is finer than 5\.625deg"):
        estimate_from_recipe(tmp_path / "fine.yaml", tmp_path / "oi.nc")
