"""States from GRIB: a real GFS file checked against independent readers, and copies of it with every known defect."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import eccodes
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

from dacycle.forecast_adapter.channels import CHANNELS, LEVELS, index
from dacycle.forecast_adapter.grid import Grid, get_grid, regrid
from dacycle.forecast_adapter.models.fengwu import published_statistics
from dacycle.forecast_adapter.physics import humidity_from_relative_humidity
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.files import read_state
from dacycle.forecast_adapter.states.grib import (
    HumidityWarning,
)

NATIVE = Grid("2.5deg", 90 - 2.5 * np.arange(73), 2.5 * np.arange(144))
VALID = np.datetime64("2011-01-15T12", "h")
FIELDS = ["10u", "10v", "2t", "prmsl", "gh", "r", "u", "v", "t"]

Change = Callable[[int], bool | None]  # edits a message; False leaves it out


@pytest.fixture(scope="module")
def gfs(shared: Path) -> Path:
    """Return a 120-hour GFS forecast at 2.5 degrees, cut to 84 fields, u and v packed together."""
    return shared / "grid/gfs_2p5_2011011012_f120.grib2"


@pytest.fixture(scope="module")
def native(gfs: Path) -> xr.DataArray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HumidityWarning)
        return read_state(gfs, NATIVE)


@pytest.fixture(scope="module")
def needed(gfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write only the fields that a state needs, one a message, which is quicker to copy."""

    def wanted(message: int) -> bool:
        kind, level = eccodes.codes_get(message, "typeOfLevel"), eccodes.codes_get(message, "level")
        upper = kind == "isobaricInhPa" and level in LEVELS
        surface = kind in ("heightAboveGround", "meanSea")
        return eccodes.codes_get(message, "shortName") in FIELDS and (upper or surface)

    return rewrite(gfs, tmp_path_factory.mktemp("grib") / "needed.grib2", wanted)


def messages(path: Path) -> Iterator[int]:
    """Return every field of a file with plain ecCodes, u and v separately."""
    eccodes.codes_grib_multi_support_on()
    try:
        with path.open("rb") as file:
            while (message := eccodes.codes_grib_new_from_file(file)) is not None:
                yield message
                eccodes.codes_release(message)
    finally:
        eccodes.codes_grib_multi_support_off()


def rewrite(source: Path, target: Path, change: Change) -> Path:
    """Copy a file message by message, each through `change`."""
    with target.open("wb") as out:
        for message in messages(source):
            copy = eccodes.codes_clone(message)
            if change(copy) is not False:
                eccodes.codes_write(copy, out)
            eccodes.codes_release(copy)
    return target


def called(message: int, name: str, level: int) -> bool:
    return (eccodes.codes_get(message, "shortName"), eccodes.codes_get(message, "level")) == (name, level)


def read_quietly(path: Path, grid: Grid = NATIVE, time: str | None = None) -> xr.DataArray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HumidityWarning)
        return read_state(path, grid, time)


class TestRealFile:
    def test_time_and_attributes(self, native: xr.DataArray) -> None:
        assert native.time.values == VALID
        assert native.attrs["source"] == "gfs_2p5_2011011012_f120.grib2"
        assert native.attrs["regridding"] == "none"

    def test_values_are_those_that_eccodes_finds_at_places(self, gfs: Path, native: xr.DataArray) -> None:
        """`codes_grib_find_nearest` reads the grid independently of our ordering."""
        places = [(90, 0), (52.5, 12.5), (0, 357.5), (-35, 180), (-90, 90)]
        found: dict[str, list[float]] = {}
        for message in messages(gfs):
            name, kind = eccodes.codes_get(message, "shortName"), eccodes.codes_get(message, "typeOfLevel")
            level = eccodes.codes_get(message, "level")
            upper = kind == "isobaricInhPa" and level in LEVELS
            if name in FIELDS and (upper or kind in ("heightAboveGround", "meanSea")):
                nearest = [eccodes.codes_grib_find_nearest(message, *place)[0] for place in places]
                assert [(point.lat, point.lon) for point in nearest] == places
                found[f"{name}{level}" if upper else name] = [point.value for point in nearest]
        for i, (lat, lon) in enumerate(places):
            ours = native.sel(latitude=lat, longitude=lon)
            for channel in CHANNELS:
                if channel.variable == "q":
                    continue
                theirs = {"u10": "10u", "v10": "10v", "t2m": "2t", "msl": "prmsl"}.get(channel.name, channel.name)
                factor = 1.0
                if channel.variable == "z":
                    theirs, factor = f"gh{channel.level}", 9.80665
                expected = factor * found[theirs][i]
                assert_allclose(ours.sel(channel=channel.name), expected, rtol=2e-7, err_msg=channel.name)

    def test_wind_is_what_cfgrib_reads(self, gfs: Path, native: xr.DataArray) -> None:
        """An independent reader gives the second field of each multi-field message, at every level."""
        options = {"filter_by_keys": {"shortName": "v", "typeOfLevel": "isobaricInhPa"}, "indexpath": ""}
        with xr.open_dataset(gfs, engine="cfgrib", backend_kwargs=options) as dataset:
            theirs = dataset["v"].sel(isobaricInhPa=list(LEVELS)).values
        assert_array_equal(native.values[index("v50") : index("v1000") + 1], theirs)

    def test_coinciding_points_survive_interpolation(self, gfs: Path, native: xr.DataArray) -> None:
        """Points of the 2.5- and the 1.5-degree grid coincide every 7.5 degrees."""
        fine = read_quietly(gfs, get_grid("1.5deg"))
        assert fine.attrs["regridding"] == "bilinear"
        places = {"latitude": np.arange(82.5, -90, -7.5), "longitude": np.arange(0, 360, 7.5)}
        assert_allclose(fine.sel(places), native.sel(places), rtol=1e-5, atol=1e-7)

    def test_averaging_down_keeps_global_means(self, gfs: Path, native: xr.DataArray) -> None:
        coarse, grid = read_quietly(gfs, get_grid("5.625deg")), get_grid("5.625deg")
        assert coarse.attrs["regridding"] == "conservative"
        before = (native.values.astype(float) * NATIVE.weights).mean((1, 2))
        after = (coarse.values.astype(float) * grid.weights).mean((1, 2))
        spread = native.values.std((1, 2))
        assert_allclose((after - before) / spread, 0, atol=1e-4)

    def test_normalised_with_fengwus_statistics_it_looks_like_era5(self, gfs: Path) -> None:
        """A channel in another order, unit or sign leaves these ranges by far."""
        mean, std = (field[:, None, None] for field in (published_statistics().mean, published_statistics().std))
        normalised = (read_quietly(gfs, get_grid("1.5deg")).values - mean) / std
        for i, channel in enumerate(CHANNELS):
            if channel.variable in "zuvt":
                assert abs(normalised[i].mean()) < 0.65, channel.name
                assert 0.73 < normalised[i].std() < 1.84, channel.name
            elif channel.variable == "q" and channel.level and channel.level >= 300:
                assert abs(normalised[i].mean()) < 0.3, channel.name
                assert 0.85 < normalised[i].std() < 1.35, channel.name

    def test_doubtful_humidity_is_said(self, gfs: Path) -> None:
        with pytest.warns(HumidityWarning, match=r"gfs_2p5.*2011-01-15T12.*150 hPa"):
            state = read_state(gfs, NATIVE)
        for words in ("150 hPa is doubtful", "relative humidity", "height times 9.80665", "prmsl"):
            assert words in state.attrs["notes"]

    def test_it_is_doubtful_indeed(self, native: xr.DataArray) -> None:
        """Why: at 50 hPa the humidity is many of ERA5's standard deviations away from ERA5's."""
        mean, std = (field[index("q50")] for field in (published_statistics().mean, published_statistics().std))
        assert native.sel(channel="q50").std() > 5 * std
        assert abs(native.sel(channel="q50") - mean).max() > 10 * std


class TestHumidity:
    def test_two_metre_humidity_of_the_same_file(self, gfs: Path) -> None:
        """The file states both humidities at 2 m, so NCEP's own definition can be checked from polar night to tropics.

        They agree to what their rounding (to 1 %, to 1e-5 kg/kg) explains; saturation over water alone
        would be 30 % off in the cold.
        """
        two: dict[str, np.ndarray] = {}
        for message in messages(gfs):
            name, kind = eccodes.codes_get(message, "shortName"), eccodes.codes_get(message, "typeOfLevel")
            if name in ("2t", "2r", "2sh") or (name == "sp" and kind == "surface"):
                two[name] = eccodes.codes_get_values(message)
        derived = humidity_from_relative_humidity(two["2r"], two["2t"], two["sp"], "kwbc")
        rounding = 0.5 / np.maximum(two["2r"], 1) + 0.5e-5 / two["2sh"] + 0.01
        assert (abs(derived / two["2sh"] - 1) < rounding).mean() > 0.99  # the rest is supersaturated, stated as 100 %
        for low, high in [(200, 253), (253, 273), (273, 320)]:
            here = (two["2t"] >= low) & (two["2t"] < high)
            assert here.sum() > 1000
            assert abs(derived[here].mean() / two["2sh"][here].mean() - 1) < 0.005

    def test_specific_humidity_is_preferred(self, needed: Path, tmp_path: Path) -> None:
        def to_specific(message: int) -> None:
            if eccodes.codes_get(message, "shortName") == "r":
                level = eccodes.codes_get(message, "level")
                eccodes.codes_set(message, "shortName", "q")
                eccodes.codes_set(message, "bitsPerValue", 24)
                eccodes.codes_set_values(message, np.full(73 * 144, level * 1e-6))

        path = rewrite(needed, tmp_path / "specific.grib2", to_specific)
        with warnings.catch_warnings():
            warnings.simplefilter("error", HumidityWarning)
            state = read_state(path, NATIVE)
        for level in LEVELS:
            assert_allclose(state.sel(channel=f"q{level}"), level * 1e-6, rtol=1e-5)
        assert "humidity" not in state.attrs["notes"]

    def test_an_unknown_centres_relative_humidity_is_refused(self, needed: Path, tmp_path: Path) -> None:
        path = rewrite(needed, tmp_path / "dwd.grib2", lambda m: eccodes.codes_set(m, "centre", "edzw"))
        refused(path, "q (specific_humidity)", "edzw", "q is needed")


def assert_same(got: xr.DataArray, expected: xr.DataArray) -> None:
    """Check that states agree within the error of packing, far below each channel's standard deviation."""
    assert_array_equal(got.longitude, expected.longitude)
    assert_array_equal(got.latitude, expected.latitude)
    worst = abs(got - expected).max(("latitude", "longitude")) / expected.std(("latitude", "longitude"))
    assert worst.max() < 2e-3, str(worst.channel[worst.argmax()].values)


class TestOtherLayouts:
    def test_first_longitude_of_180(self, needed: Path, native: xr.DataArray, tmp_path: Path) -> None:
        """ECMWF's open data are like this."""

        def turn(message: int) -> None:
            values = eccodes.codes_get_values(message).reshape(73, 144)
            eccodes.codes_set(message, "longitudeOfFirstGridPointInDegrees", 180.0)
            eccodes.codes_set(message, "longitudeOfLastGridPointInDegrees", 177.5)
            eccodes.codes_set(message, "bitsPerValue", 24)
            eccodes.codes_set_values(message, np.roll(values, 72, axis=1).ravel())

        turned = read_quietly(rewrite(needed, tmp_path / "turned.grib2", turn))
        assert turned.longitude.values[0] == 0
        assert_same(turned, native)

    def test_rows_from_the_south(self, needed: Path, native: xr.DataArray, tmp_path: Path) -> None:
        def flip(message: int) -> None:
            values = eccodes.codes_get_values(message).reshape(73, 144)
            eccodes.codes_set(message, "jScansPositively", 1)
            eccodes.codes_set(message, "latitudeOfFirstGridPointInDegrees", -90.0)
            eccodes.codes_set(message, "latitudeOfLastGridPointInDegrees", 90.0)
            eccodes.codes_set(message, "bitsPerValue", 24)
            eccodes.codes_set_values(message, values[::-1].ravel())

        flipped = read_quietly(rewrite(needed, tmp_path / "flipped.grib2", flip))
        assert flipped.latitude.values[0] == 90
        assert_same(flipped, native)

    def test_fields_in_another_order(self, needed: Path, native: xr.DataArray, tmp_path: Path) -> None:
        whole = [eccodes.codes_get_message(message) for message in messages(needed)]
        path = tmp_path / "shuffled.grib2"
        path.write_bytes(b"".join(whole[i] for i in np.random.default_rng(0).permutation(len(whole))))
        assert_array_equal(read_quietly(path), native)

    def test_two_times(self, needed: Path, native: xr.DataArray, tmp_path: Path) -> None:
        """One time is never taken for another: it must be named, and be there."""

        def later(message: int) -> None:
            eccodes.codes_set(message, "forecastTime", 126)
            if called(message, "2t", 2):
                eccodes.codes_set_values(message, np.full(73 * 144, 300.0))

        second = rewrite(needed, tmp_path / "later.grib2", later)
        both = tmp_path / "both.grib2"
        both.write_bytes(needed.read_bytes() + second.read_bytes())
        refused(both, "2 times", "2011-01-15T12", "2011-01-15T18")
        assert_array_equal(read_quietly(both, time="2011-01-15T12"), native)
        assert (read_quietly(both, time="2011-01-15T18").sel(channel="t2m") == 300).all()
        with pytest.raises(StateError, match=r"2011-01-16T00.*2011-01-15T12"):
            read_state(both, NATIVE, "2011-01-16T00")

    def test_time_means_are_not_taken_for_instants(self, needed: Path, tmp_path: Path) -> None:
        """In edition 1 a mean has the name of the instantaneous field."""
        mean = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib1")
        for key, value in {"shortName": "2t", "timeRangeIndicator": 3, "dataDate": 20110115}.items():
            eccodes.codes_set(mean, key, value)
        assert eccodes.codes_get(mean, "shortName") == "2t"
        assert eccodes.codes_get(mean, "stepType") == "avg"
        path = rewrite(needed, tmp_path / "mean.grib", lambda m: not called(m, "2t", 2))
        path.write_bytes(path.read_bytes() + eccodes.codes_get_message(mean))
        eccodes.codes_release(mean)
        refused(path, "missing t2m")


def refused(path: Path, *words: str) -> None:
    """Check that reading raises an error that names the file and has all `words`."""
    with pytest.raises(StateError) as caught:
        read_quietly(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


class TestSpoilt:
    @pytest.mark.parametrize(
        ("name", "level", "channel"),
        [("prmsl", 0, "msl"), ("2t", 2, "t2m"), ("gh", 500, "z500"), ("v", 250, "v250"), ("r", 700, "q700")],
    )
    def test_missing_field(self, needed: Path, tmp_path: Path, name: str, level: int, channel: str) -> None:
        path = rewrite(needed, tmp_path / "less.grib2", lambda m: not called(m, name, level))
        variable = f"{channel[0]} (" if level > 2 else channel
        where = [f"on levels {level} hPa"] if level > 2 else []
        refused(path, "2011-01-15T12", f"missing {variable}", name, *where)

    def test_real_file_with_three_levels(self, shared: Path) -> None:
        refused(
            shared / "grid/gfs_2p5_3lev_2008021312_f000.grib2",
            "2008-02-13T12",
            "missing u10 (10m_u_component_of_wind); v10",
        )

    def test_real_file_on_a_reduced_grid(self, shared: Path) -> None:
        refused(shared / "grid/ecmwf_fc48_2t_N160_valid_2018112012.grib", "2018-11-20T12", "reduced_gg")

    def test_real_file_with_members(self, shared: Path) -> None:
        path = shared / "grid/era5_eda10_zt_500_850_3deg_20170101-02_12h.grib"
        with pytest.raises(StateError, match=r"z at 500 hPa is there twice"):
            read_state(path, NATIVE, "2017-01-01T00")

    def test_truncated(self, needed: Path, tmp_path: Path) -> None:
        path = tmp_path / "cut.grib2"
        path.write_bytes(needed.read_bytes()[:-1000])
        refused(path, "truncated", "fetch it again")

    @pytest.mark.parametrize("content", [b"", b"this is not GRIB\n" * 50])
    def test_not_grib(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "some.grib2"
        path.write_bytes(content)
        refused(path, "not a GRIB file")

    def test_no_file(self, tmp_path: Path) -> None:
        refused(tmp_path / "nowhere.grib2", "no such file")

    def test_grib_without_any_field_of_a_state(self, shared: Path) -> None:
        refused(shared / "grid/gdas_0p25_2023011112_msg12.grib2", "no field of a state")

    def test_missing_values(self, needed: Path, tmp_path: Path) -> None:
        def hole(message: int) -> None:
            if called(message, "t", 500):
                values = eccodes.codes_get_values(message)
                values[:7] = -9999
                eccodes.codes_set(message, "bitmapPresent", 1)
                eccodes.codes_set(message, "missingValue", -9999)
                eccodes.codes_set_values(message, values)

        refused(rewrite(needed, tmp_path / "holes.grib2", hole), "t at 500 hPa", "7 missing values")

    @pytest.mark.parametrize(
        ("name", "level", "convert", "words"),
        [
            ("t", 500, lambda x: x - 273.15, ["t500", "Celsius", "273.15"]),
            ("2t", 2, lambda x: x - 273.15, ["t2m", "Celsius", "273.15"]),
            ("prmsl", 0, lambda x: x / 100, ["msl", "hPa", "multiply by 100"]),
            ("gh", 500, lambda x: x * 9.80665, ["z500", "outside the plausible"]),
        ],
    )
    def test_values_in_another_unit_than_declared(
        self, needed: Path, tmp_path: Path, name: str, level: int, convert: Callable, words: list[str]
    ) -> None:
        def spoil(message: int) -> None:
            if called(message, name, level):
                eccodes.codes_set_values(message, convert(eccodes.codes_get_values(message)))

        refused(rewrite(needed, tmp_path / "unit.grib2", spoil), "2011-01-15T12", *words)

    def test_heights_declared_as_geopotential(self, needed: Path, tmp_path: Path) -> None:
        def rename(message: int) -> None:
            if eccodes.codes_get(message, "shortName") == "gh":
                eccodes.codes_set(message, "shortName", "z")

        refused(rewrite(needed, tmp_path / "z.grib2", rename), "z50", "metres", "9.80665")

    def test_the_same_field_twice(self, needed: Path, tmp_path: Path) -> None:
        path = tmp_path / "twice.grib2"
        path.write_bytes(needed.read_bytes() * 2)
        refused(path, "2011-01-15T12", "twice")

    def test_part_of_the_globe(self, tmp_path: Path) -> None:
        message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
        for key, value in {
            "shortName": "2t",
            "Ni": 20,
            "Nj": 10,
            "latitudeOfFirstGridPointInDegrees": 60.0,
            "latitudeOfLastGridPointInDegrees": 42.0,
            "longitudeOfFirstGridPointInDegrees": 0.0,
            "longitudeOfLastGridPointInDegrees": 38.0,
            "iDirectionIncrementInDegrees": 2.0,
            "jDirectionIncrementInDegrees": 2.0,
        }.items():
            eccodes.codes_set(message, key, value)
        eccodes.codes_set_values(message, np.full(200, 280.0))
        path = tmp_path / "europe.grib2"
        with path.open("wb") as out:
            eccodes.codes_write(message, out)
        eccodes.codes_release(message)
        refused(path, "2t", "part of the globe")

    def test_one_field_on_another_grid(self, needed: Path, tmp_path: Path) -> None:
        def shift(message: int) -> None:
            if called(message, "t", 500):
                eccodes.codes_set(message, "longitudeOfFirstGridPointInDegrees", 1.25)
                eccodes.codes_set(message, "longitudeOfLastGridPointInDegrees", 358.75)

        refused(rewrite(needed, tmp_path / "mixed.grib2", shift), "t at 500 hPa", "another grid")


def test_reading_leaves_eccodes_as_it_was(gfs: Path, tmp_path: Path) -> None:
    """Multi-field support is a global switch, which reading must restore also after an error."""

    def count() -> int:
        with gfs.open("rb") as file:
            n = 0
            while (message := eccodes.codes_grib_new_from_file(file)) is not None:
                eccodes.codes_release(message)
                n += 1
        return n

    eccodes.codes_grib_multi_support_off()
    before = count()
    read_quietly(gfs)
    assert count() == before
    broken = tmp_path / "cut.grib2"
    broken.write_bytes(gfs.read_bytes()[:100_000])
    refused(broken, "truncated")
    assert count() == before


class TestRegrid:
    def test_direction_decides_the_method(self) -> None:
        coarse, fine = get_grid("5.625deg"), get_grid("1.5deg")
        noise = np.random.default_rng(0).normal(size=(2, *fine.shape))
        down = regrid(noise, fine, coarse)
        assert_allclose((down * coarse.weights).mean((1, 2)), (noise * fine.weights).mean((1, 2)), atol=1e-12)
        up = regrid(down, coarse, fine)
        assert up.shape == noise.shape
        assert up.max() <= down.max() + 1e-12
        assert regrid(noise, fine, fine) is noise
