"""Precipitation and radiation in GRIB: sums over hours, of several lengths, which together are six hours."""

from pathlib import Path

import eccodes
import numpy as np
import pytest
from numpy.testing import assert_allclose

from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.worlds.dataset import build_dataset
from dacycle.forecast_adapter.worlds.manifest import DatasetError
from dacycle.forecast_adapter.worlds.reference import Reference
from tests.forecast_adapter.made import GRID, START, made_state, write_grib

TIME = START + 6
HOUR = np.timedelta64(1, "h")


def write_sum(
    path: Path, name: str, end: np.datetime64, hours: int, value: float, lead: int = 12, edition: int = 1
) -> None:
    """Append the sum of a field over the hours before `end`, of a forecast that is `lead` hours old then, as ERA5's."""
    start = end - lead * HOUR
    message = eccodes.codes_grib_new_from_samples(f"regular_ll_sfc_grib{edition}")
    keys = {
        "Ni": 24, "Nj": 13, "latitudeOfFirstGridPointInDegrees": 90.0, "latitudeOfLastGridPointInDegrees": -90.0,
        "longitudeOfFirstGridPointInDegrees": 0.0, "longitudeOfLastGridPointInDegrees": 345.0,
        "iDirectionIncrementInDegrees": 15.0, "jDirectionIncrementInDegrees": 15.0, "centre": "ecmf",
        "dataDate": int(str(start)[:10].replace("-", "")), "dataTime": 100 * int(str(start)[11:13]),
        "stepType": "accum", "stepRange": f"{lead - hours}-{lead}", "shortName": name,
    }  # fmt: skip
    for key, setting in keys.items():
        eccodes.codes_set(message, key, setting)
    eccodes.codes_set_values(message, np.full(GRID.shape, value).ravel())
    with path.open("ab") as file:
        eccodes.codes_write(message, file)
    eccodes.codes_release(message)


@pytest.mark.parametrize("edition", [1, 2])
@pytest.mark.parametrize("hours", [1, 2, 3, 6])
def test_sums_of_one_to_six_hours(tmp_path: Path, hours: int, edition: int) -> None:
    path = write_grib(tmp_path / "era5.grib", made_state(6), edition=edition)
    for number, end in enumerate(np.arange(TIME - 6 * HOUR + hours * HOUR, TIME + HOUR, hours * HOUR)):
        write_sum(path, "tp", end, hours, 1e-3 * (number + 1), edition=edition)
        write_sum(path, "ttr", end, hours, -3600 * hours * (200 + number), edition=edition)
    surface = open_states(path).surface(TIME)
    count = 6 // hours
    assert_allclose(surface["tp6h"], count * (count + 1) / 2, rtol=1e-4)
    assert_allclose(surface["olr"], 200 + (count - 1) / 2, rtol=1e-4)


def test_of_two_forecasts_the_later_counts_once(tmp_path: Path) -> None:
    path = write_grib(tmp_path / "era5.grib", made_state(6))
    write_sum(path, "tp", TIME, 6, 2e-3, lead=18)
    write_sum(path, "tp", TIME, 6, 1e-3, lead=6)
    assert_allclose(open_states(path).surface(TIME)["tp6h"], 1, rtol=1e-4)


@pytest.mark.parametrize(("hours", "ends"), [(12, [0]), (1, [0, 1, 2, 3, 4]), (4, [0, 4])])
def test_sums_that_are_not_six_hours_give_nothing(tmp_path: Path, hours: int, ends: list[int]) -> None:
    path = write_grib(tmp_path / "era5.grib", made_state(6))
    for end in ends:
        write_sum(path, "tp", TIME - end * HOUR, hours, 1e-3)
    source = open_states(path)
    assert "tp6h" not in source.surface(TIME)
    assert source.periods() == {"tp": [hours]}


def test_grib_beside_another_product(tmp_path: Path) -> None:
    product = write_grib(tmp_path / "states.grib", made_state(6))
    for hour in range(6):
        write_sum(tmp_path / "sums.grib", "ttr", TIME - hour * HOUR, 1, -3600 * 240)
    grid = get_grid("5.625deg")
    build_dataset(str(product), tmp_path / "out", grid, np.array([TIME]), beside=[str(tmp_path / "sums.grib")])
    assert_allclose(Reference(tmp_path / "out").surface(TIME)["olr"], 240, rtol=1e-4)
    write_sum(tmp_path / "long.grib", "ttr", TIME, 12, -3600 * 240 * 12)
    with pytest.raises(DatasetError, match=r"ttr is there over 12 h; .*accumulations of one hour \(in GRIB also"):
        build_dataset(str(product), tmp_path / "no", grid, np.array([TIME]), beside=[str(tmp_path / "long.grib")])
