"""States: which are valid, the messages for those that are not, and the layouts of files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from dacycle.forecast_adapter.channels import LEVELS, NAMES, WB2_NAMES, index
from dacycle.forecast_adapter.grid import Grid, get_grid
from dacycle.forecast_adapter.state import StateError, make_state, to_dataset, validate
from dacycle.forecast_adapter.states.netcdf_zarr import from_dataset
from tests.worlds import profile

GRID = Grid("small", np.array([67.5, 22.5, -22.5, -67.5]), 45.0 * np.arange(8))
TIME = np.datetime64("2024-03-01T06", "h")


def state(seed: int = 0) -> xr.DataArray:
    mean, std = profile()
    noise = np.random.default_rng(seed).uniform(-1, 1, (69, *GRID.shape))
    return make_state((mean[:, None, None] + std[:, None, None] * noise).astype(np.float32), GRID, TIME)


def refused(bad: xr.DataArray, *words: str, grid: Grid | None = None) -> None:
    """Check that `validate` raises an error whose message has the source and all `words`."""
    with pytest.raises(StateError) as caught:
        validate(bad, "somewhere/file.nc", grid)
    for word in ("somewhere/file.nc", *words):
        assert word in str(caught.value)


def test_a_good_state_passes_untouched() -> None:
    good = state()
    checked = validate(good.copy(deep=True), "file", GRID)
    assert checked.dims == ("channel", "latitude", "longitude")
    assert checked.dtype == np.float32
    assert checked.time.values == TIME
    xr.testing.assert_identical(checked, good)


class TestValidate:
    def test_missing_channel(self) -> None:
        refused(state().drop_sel(channel="q700"), "2024-03-01T06", "missing", "q700")

    def test_channels_in_another_order(self) -> None:
        refused(state().isel(channel=slice(None, None, -1)), "2024-03-01T06", "order")

    @pytest.mark.parametrize("level", LEVELS[:-2])
    def test_geopotential_height_in_metres(self, level: int) -> None:
        """The range catches heights at every level down to 850 hPa; below, metres are possible geopotentials."""
        bad = state()
        bad[index(f"z{level}")] /= 9.80665
        refused(bad, f"z{level}", "metres", "9.80665")

    def test_all_geopotential_heights_in_metres(self) -> None:
        bad = state()
        bad[index("z50") : index("z1000") + 1] /= 9.80665
        refused(bad, "z50", "metres", "9.80665")

    def test_pressure_in_hectopascals(self) -> None:
        bad = state()
        bad[index("msl")] /= 100
        refused(bad, "msl", "hPa", "multiply by 100")

    @pytest.mark.parametrize("channel", ["t2m", "t50", "t850", "t1000"])
    def test_celsius(self, channel: str) -> None:
        bad = state()
        bad[index(channel)] -= 273.15
        refused(bad, channel, "Celsius", "273.15")

    def test_humidity_in_grams(self) -> None:
        bad = state()
        bad[index("q1000")] *= 1000
        refused(bad, "q1000", "g/kg", "1000")

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("channel", ["u10", "q50", "t1000"])
    def test_one_value_that_is_not_finite(self, channel: str, value: float) -> None:
        bad = state()
        bad[index(channel), 2, 3] = value
        refused(bad, "2024-03-01T06", channel, "finite")

    def test_zeros_are_no_state(self) -> None:
        refused(xr.zeros_like(state()), "t2m")

    def test_wrong_grid(self) -> None:
        refused(state(), "(4, 8)", "1.5deg", grid=get_grid("1.5deg"))
        moved = Grid("moved", GRID.latitude, GRID.longitude + 1)
        refused(state(), "moved", grid=moved)

    def test_latitude_from_the_south(self) -> None:
        refused(state().isel(latitude=slice(None, None, -1)), "2024-03-01T06", "latitude", "sort")

    def test_longitudes_from_minus_180(self) -> None:
        bad = state().assign_coords(longitude=np.linspace(-180, 135, 8))
        refused(bad, "2024-03-01T06", "longitude", "0, 360")

    def test_no_time(self) -> None:
        refused(state().drop_vars("time"), "time")

    def test_dimensions_in_another_order(self) -> None:
        refused(state().transpose("channel", "longitude", "latitude"), "dimensions")

    def test_array_of_another_shape(self) -> None:
        with pytest.raises(StateError, match=r"\(69, 4, 8\).*\(69, 8, 4\)"):
            make_state(np.zeros((69, 8, 4), np.float32), GRID, TIME)


class TestFiles:
    """`to_dataset` and `from_dataset`: the WeatherBench2 schema, and how real files differ from it."""

    def test_schema(self) -> None:
        dataset = to_dataset(state())
        assert dataset["geopotential"].dims == ("time", "level", "latitude", "longitude")
        assert dataset["2m_temperature"].dims == ("time", "latitude", "longitude")
        assert set(dataset.data_vars) == set(WB2_NAMES.values())
        assert tuple(dataset.level.values) == LEVELS
        assert np.issubdtype(dataset.level.dtype, np.integer)
        assert dataset.sizes["time"] == 1
        assert_array_equal(dataset["geopotential"].sel(level=500).values[0], state().sel(channel="z500").values)
        assert_array_equal(dataset["10m_u_component_of_wind"].values[0], state().sel(channel="u10").values)

    @settings(max_examples=30)
    @given(
        st.permutations(["time", "level", "latitude", "longitude"]),
        st.permutations(LEVELS),
        st.booleans(),
        st.integers(0, 7),
        st.sampled_from([0, 180]),
        st.permutations(list(WB2_NAMES.values())),
    )
    def test_any_order_reads_as_the_same_state(
        self, dims: list[str], levels: list[int], south_first: bool, roll: int, wrap: int, names: list[str]
    ) -> None:
        """Dimensions, levels, latitude, first longitude and variables may come in any order."""
        dataset = to_dataset(state())[names].sel(level=levels).roll(longitude=roll, roll_coords=True)
        dataset = dataset.assign_coords(longitude=(dataset.longitude + wrap) % 360 - wrap)
        if south_first:
            dataset = dataset.sortby("latitude")
        xr.testing.assert_identical(from_dataset(dataset.transpose(*dims), TIME, "file"), state())

    @pytest.mark.parametrize(
        "names",
        [
            {"level": "isobaricInhPa"},
            {"level": "pressure_level", "time": "valid_time"},
            {"latitude": "lat", "longitude": "lon"},
        ],
    )
    def test_other_tools_names(self, names: dict[str, str]) -> None:
        xr.testing.assert_identical(from_dataset(to_dataset(state()).rename(names), TIME), state())

    def test_survives_a_file(self, tmp_path: Path) -> None:
        to_dataset(state()).to_netcdf(tmp_path / "state.nc", engine="h5netcdf")
        with xr.open_dataset(tmp_path / "state.nc", engine="h5netcdf") as dataset:
            xr.testing.assert_identical(from_dataset(dataset, TIME), state())

    @pytest.mark.parametrize(
        ("spoil", "words"),
        [
            (lambda d: d.drop_vars("specific_humidity"), ["specific_humidity"]),
            (lambda d: d.drop_vars("2m_temperature"), ["2m_temperature"]),
            (lambda d: d.drop_sel(level=700), ["level", "700"]),
            (lambda d: d.drop_vars("latitude"), ["latitude"]),
            (lambda d: d.assign_coords(time=d.time + np.timedelta64(6, "h")), ["2024-03-01T06"]),
            (
                lambda d: d.isel(time=0, drop=False).assign_coords(time=np.datetime64("2023-01-01T00", "ns")),
                ["2023-01-01"],
            ),
            (lambda d: xr.concat([d, d], "time"), ["2", "2024-03-01T06"]),
            (lambda d: xr.concat([d, d], "number"), ["number"]),
            (
                lambda d: d.assign(geopotential=d["geopotential"].assign_attrs(units="m")),
                ["geopotential", "'m'", "m2 s-2"],
            ),
            (
                lambda d: d.assign(temperature=(d["temperature"] - 273.15).assign_attrs(units="degC")),
                ["temperature", "degC", "K"],
            ),
            (
                lambda d: d.assign(mean_sea_level_pressure=d["mean_sea_level_pressure"].assign_attrs(units="hPa")),
                ["mean_sea_level_pressure", "hPa", "Pa"],
            ),
            (lambda d: d.assign(geopotential=d["geopotential"] / 9.80665).map(_unstated), ["z50", "9.80665"]),
            (lambda d: d.where(d.latitude < 60), ["u10", "finite"]),
            (lambda d: d.assign(temperature=d["temperature"].astype(int)), ["temperature", "floating"]),
        ],
    )
    def test_refusals_name_file_and_field(self, spoil: Callable, words: list[str]) -> None:
        with pytest.raises(StateError) as caught:
            from_dataset(spoil(to_dataset(state())), TIME, "somewhere/file.nc")
        for word in ("somewhere/file.nc", *words):
            assert word in str(caught.value)


def _unstated(variable: xr.DataArray) -> xr.DataArray:
    return variable.drop_attrs()


def test_real_low_resolution_weatherbench2_layout(shared: Path) -> None:
    """Return ERA5 as in the low-resolution stores: (level, longitude, latitude), latitude from the south, 37 levels."""
    real = xr.load_dataset(shared / "grid/era5_64x32_37lev_19590102T00.nc", engine="scipy")
    assert real["temperature"].dims == ("level", "longitude", "latitude")
    ground = {"10m_u_component_of_wind": "u", "10m_v_component_of_wind": "v", "2m_temperature": "t"}
    # The sample has no surface fields: the lowest level's stand in, with the same layout.
    surface = {name: real[WB2_NAMES[of]].sel(level=1000, drop=True) for name, of in ground.items()}
    pressure = xr.full_like(surface["2m_temperature"], 101325).assign_attrs(units="Pa")
    dataset = real.assign(surface | {"mean_sea_level_pressure": pressure}).isel(level=slice(None, None, -1))
    got = from_dataset(dataset, "1959-01-02T00", "era5")
    assert got.shape == (69, 32, 64)
    assert got.latitude.values[0] > 0 > got.latitude.values[-1]
    for name in ("z500", "t850", "q700", "u250", "v1000"):
        level = int(name[1:])
        for lat, lon in [(-85.76, 0.0), (51.5, 90.0), (2.9, 354.4)]:
            direct = real[WB2_NAMES[name[0]]].sel(level=level).sel(latitude=lat, longitude=lon, method="nearest")
            ours = got.sel(channel=name).sel(latitude=lat, longitude=lon, method="nearest")
            assert_allclose(ours, direct, rtol=1e-6)
    # The tropics are warmer than both poles, and the southern summer pole is warmer than the northern winter one.
    means = got.sel(channel="t850").mean("longitude")
    assert means.values[16] > means.values[-1] > means.values[0]


def test_state_of_every_channel_keeps_its_own_values() -> None:
    """Each channel holds its own number, so that a channel written under another's name shows."""
    mean, _ = profile()
    tagged = make_state(np.broadcast_to(mean[:, None, None], (69, *GRID.shape)).copy(), GRID, TIME)
    back = from_dataset(to_dataset(tagged), TIME)
    for name, value in zip(NAMES, mean, strict=True):
        assert (back.sel(channel=name) == value).all()
