"""Fields of OLR and precipitation in netCDF."""

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dacycle.forecast_adapter.grid import get_grid
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.netcdf_fields import OlrNetcdf, PrecipitationNetcdf
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.helpers import checked

CDR = "olr/noaa_olr_cdr_daily_2000-2005_5x7pts.nc"
INTERPOLATED = "olr/noaa_olr_2p5deg_20080125_with_uvh.nc"
DAILY = {"stamp": "start", "period": "24h"}
DAY = np.timedelta64(24, "h")
LATITUDE, LONGITUDE = np.array([60.0, 20.0, -20.0]), np.array([5.0, 95.0, 185.0, 275.0])


def window(time):
    return Window(np.datetime64(time))


def olr(path, time, **options):
    return OlrNetcdf(path, **options).read(window(time))


def rain(path, time, **options):
    return PrecipitationNetcdf(path, "rain", **options).read(window(time))


def dataset(values=None, *, name="olr", units="W m-2", start="2024-01-01", hours=24, bounds=True, **attrs):
    """Fields one after the other, (k, 3, 4), stamped at the start of their periods."""
    if values is None:
        values = np.arange(200.0, 224.0)
    values = np.asarray(values, np.float32).reshape(-1, 3, 4)
    times = np.datetime64(start, "ns") + np.arange(len(values)) * np.timedelta64(hours, "h")
    units = {} if units is None else {"units": units}
    data = xr.Dataset(
        {name: (("time", "lat", "lon"), values, units | attrs)},
        {"time": times, "lat": ("lat", LATITUDE), "lon": ("lon", LONGITUDE)},
    )
    data["time"].encoding["units"] = "hours since 1800-01-01"
    if bounds:
        data["time"].attrs["bounds"] = "time_bnds"
        data["time_bnds"] = ("time", "nv"), np.stack([times, times + np.timedelta64(hours, "h")], axis=1)
    return data


@pytest.fixture
def save(tmp_path):
    def write(data, file="f.nc", engine="h5netcdf", **encoding):
        data.to_netcdf(tmp_path / file, engine=engine, encoding=encoding)
        return tmp_path / file

    return write


def by_place(table):
    """Values by position, longitudes from 0."""
    return {
        (round(a, 4), round(b % 360, 4)): v
        for a, b, v in zip(table["latitude"], table["longitude"], table["value"], strict=True)
    }


def test_the_climate_data_record_agrees_with_another_reader(shared):
    table, inventory = olr(shared / CDR, "2000-04-11T00", **DAILY)
    check_table(table, "cdr")
    with h5py.File(shared / CDR) as file:
        hours = (np.datetime64("2000-04-10T00") - np.datetime64("1800-01-01T00")).astype(int)
        (day,) = np.nonzero(file["time"][:] == hours)[0]
        expected = file["olr"][day]
        places = [(a, b) for a in file["lat"][:] for b in file["lon"][:]]
    assert by_place(table) == pytest.approx(dict(zip(places, expected.ravel(), strict=True)), rel=1e-6)
    assert by_place(table)[15.0, 92.5] == pytest.approx(235.2027, abs=1e-4)
    assert set(table["time"]) == {pd.Timestamp("2000-04-11")}
    assert set(table["period"]) == {24.0}
    assert (inventory.found, inventory.decoded, inventory.missing) == (35, 35, 0)
    assert inventory.files == [str(shared / CDR)]


def test_a_day_belongs_to_one_cycle(shared):
    counts = {h: len(olr(shared / CDR, f"2000-01-{h}", **DAILY)[0]) for h in ("01T18", "02T00", "02T06", "02T12")}
    assert counts == {"01T18": 0, "02T00": 35, "02T06": 0, "02T12": 0}


def test_without_bounds_the_record_is_refused_until_its_stamp_and_period_are_stated(shared):
    for options in ({}, {"stamp": "start"}, {"period": "24h"}):
        with pytest.raises(ObservationError, match=r"5x7pts\.nc: nothing says which hours olr .*`stamp`.*`period`"):
            olr(shared / CDR, "2000-01-02T00", **options)


@pytest.mark.parametrize(
    ("stamp", "end"), [("start", "2000-01-02T00"), ("middle", "2000-01-01T12"), ("end", "2000-01-01T00")]
)
def test_the_stamp_says_where_the_period_ends(shared, stamp, end):
    table, _ = olr(shared / CDR, end, stamp=stamp, period="24h")
    with h5py.File(shared / CDR) as file:
        assert table["value"].to_numpy() == pytest.approx(file["olr"][0].ravel(), rel=1e-6)
    assert set(table["time"]) == {pd.Timestamp(end)}


def test_the_real_global_day_averages_to_228_watts(shared):
    table, inventory = olr(shared / INTERPOLATED, "2008-01-26T00", variable="o", units="W m-2", **DAILY)
    weight = np.cos(np.deg2rad(table["latitude"]))
    assert (table["value"] * weight).sum() / weight.sum() == pytest.approx(228.2, abs=0.05)
    assert table["value"].min() == pytest.approx(101.5, abs=0.01)
    assert table["value"].max() == pytest.approx(328.4, abs=0.06)
    assert inventory.decoded == 73 * 144
    with h5py.File(shared / INTERPOLATED) as file:
        expected = file["o"][list(file["lat"][:]).index(-10.0), list(file["lon"][:]).index(120.0)]
    assert by_place(table)[-10.0, 120.0] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:variable.*multiple fill values")
def test_what_a_real_file_does_not_say_is_asked_for(shared):
    path = shared / INTERPOLATED
    with pytest.raises(ObservationError, match=r"uvh\.nc: no variable olr .*`variable`.* o, pres"):
        olr(path, "2008-01-26T00", **DAILY)
    with pytest.raises(ObservationError, match=r"uvh\.nc: o has no units.*`units`"):
        olr(path, "2008-01-26T00", variable="o", **DAILY)
    climatology = shared / "olr/ncep_june_climo_T42_FLUT_TZUVq.nc"
    with pytest.raises(ObservationError, match=r"climo.*time of FLUT does not hold dates"):
        olr(climatology, "2008-01-26T00", variable="FLUT", **DAILY)


def test_time_bounds_are_enough(save):
    path = save(dataset())
    source = build_source({"source": "olr_netcdf", "path": str(path), "cutoff": "none"}, None, 0)
    table, _ = source.read(window("2024-01-03T00"))
    assert table["value"].tolist() == list(range(212, 224))
    assert set(table["time"]) == {pd.Timestamp("2024-01-03")}
    assert set(table["source"]) == {"olr_netcdf"}


@pytest.mark.parametrize("hours", [1, 3, 6, 12])
def test_means_over_parts_of_a_day_have_their_own_period_and_cycle(save, hours):
    path = save(dataset(np.full((48 // hours, 12), 230.0), hours=hours))
    tables = [olr(path, f"2024-01-02T{h:02}")[0] for h in (0, 6, 12, 18)]
    for table, end in zip(tables, ("02T00", "02T06", "02T12", "02T18"), strict=True):
        assert set(table["period"]) <= {float(hours)}
        assert all(abs(table["time"] - pd.Timestamp(f"2024-01-{end}")) <= pd.Timedelta("3h"))
    assert sum(map(len, tables)) == 12 * 24 // hours


def test_the_attributes_of_the_physical_sciences_laboratory_say_what_a_time_is(save):
    data = dataset(name="precip", units="mm", bounds=False, cell_methods="time: sum")
    data["time"].attrs.update(coordinate_defines="start", avg_period="0000-00-01 00:00:00")
    table, _ = rain(save(data), "2024-01-02T00")
    assert table["value"].tolist() == list(range(200, 212))
    assert set(table["period"]) == {24.0}
    shifted, _ = rain(save(data), "2024-01-01T12", stamp="middle", period="24h")  # the experiment knows better
    assert shifted["value"].tolist() == table["value"].tolist()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dims=st.permutations(["time", "lat", "lon"]),
    names=st.sampled_from([("lat", "lon"), ("latitude", "longitude"), ("y", "x")]),
    south_first=st.booleans(),
    from_west=st.booleans(),
    packed=st.booleans(),
    engine=st.sampled_from(["h5netcdf", "scipy"]),
    level=st.booleans(),
)
def test_the_same_values_whatever_the_layout(tmp_path, dims, names, south_first, from_west, packed, engine, level):
    data = dataset(np.arange(200.0, 212.0))
    if from_west:
        data = data.assign_coords(lon=(LONGITUDE + 180) % 360 - 180).sortby("lon")
    if south_first:
        data = data.sortby("lat")
    data["lat"].attrs["standard_name"], data["lon"].attrs["standard_name"] = "latitude", "longitude"
    data["olr"] = data["olr"].transpose(*dims)
    if level:
        data["olr"] = data["olr"].expand_dims(level=[0.0])
    packing = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 327.65, "missing_value": np.int16(32766)}
    data = data.rename(lat=names[0], lon=names[1])
    path = tmp_path / "layout.nc"
    path.unlink(missing_ok=True)
    data.to_netcdf(path, engine=engine, encoding={"olr": packing} if packed else None)
    table, _ = olr(path, "2024-01-02T00")
    places = [(a, b) for a in LATITUDE for b in LONGITUDE]
    assert by_place(table) == pytest.approx(dict(zip(places, np.arange(200.0, 212.0), strict=True)), abs=0.01)


def test_missing_values_are_counted_and_never_become_rows(save):
    values = np.arange(200.0, 212.0)
    values[[3, 7]] = np.nan
    packing = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 327.65, "_FillValue": None}
    data = dataset(values)
    data["olr"].attrs["missing_value"] = np.int16(32766)
    data["olr"].values = np.where(np.isnan(values), 32766 * 0.01 + 327.65, values).reshape(1, 3, 4)
    table, inventory = olr(save(data, olr=packing), "2024-01-02T00")
    with h5py.File(save(data, olr=packing)) as file:
        assert (file["olr"][:] == 32766).sum() == 2
    assert (inventory.found, inventory.decoded, inventory.missing) == (12, 10, 2)
    assert table["value"].max() == pytest.approx(211.0, abs=0.01)
    empty, inventory = olr(save(dataset(np.full(12, np.nan)), "empty.nc"), "2024-01-02T00")
    assert empty.empty
    assert inventory.missing == 12


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dataset(units=None), r"olr has no units"),
        (dataset(units="K"), r"olr is in 'K', not in W m-2"),
        (
            dataset(name="ttr", units="J m**-2", standard_name="toa_outgoing_longwave_flux"),
            r"ttr .*divide .* -ttr / 36",
        ),
        (dataset(-np.arange(200.0, 212.0)), r"olr has a median of -205\.5 .* multiply it by -1"),
        (dataset(name="brightness"), r"no variable olr or toa_.*brightness"),
        (dataset().assign(OLR=dataset()["olr"]), r"2 variables olr .*`variable`"),
        (dataset(cell_methods="time: maximum"), r"olr is a maximum over time"),
        (dataset(np.full(12, 230.0), hours=744), r"olr covers 744 hours"),
        (dataset().rename(lat="row"), r"olr has no dimension latitude or lat"),
        (dataset().assign_coords(lat=LATITUDE * 2), r"latitude or longitude of olr"),
        (dataset().isel(time=slice(0)), r"time holds no time"),
        (dataset().drop_vars(["time", "time_bnds"]), r"olr has no time"),
        (dataset().assign(olr=dataset()["olr"].expand_dims(member=2)), r"olr has a dimension member"),
    ],
)
def test_what_is_not_olr_on_known_points_and_hours_is_refused(save, data, message):
    with pytest.raises(ObservationError, match=rf"f\.nc: {message}"):
        olr(save(data), "2024-01-02T00")


def test_reversed_bounds_are_refused(save):
    data = dataset()
    data["time_bnds"] = data["time_bnds"][:, ::-1]
    with pytest.raises(ObservationError, match=r"time bounds of olr end before they start"):
        olr(save(data), "2024-01-02T00")


def test_damaged_files_are_refused_by_name(shared, save, tmp_path):
    page = tmp_path / "page.nc"
    page.write_text("<!DOCTYPE html><html>503 Service Unavailable</html>")
    with pytest.raises(ObservationError, match=r"page\.nc: is not a netCDF file"):
        olr(page, "2024-01-02T00")
    (tmp_path / "none.nc").write_bytes(b"")
    with pytest.raises(ObservationError, match=r"none\.nc: is not a netCDF file"):
        olr(tmp_path / "none.nc", "2024-01-02T00")
    classic = save(dataset(np.full((50, 12), 230.0)), "classic.nc", "scipy").read_bytes()
    for whole in ((shared / CDR).read_bytes(), classic):
        cut = tmp_path / "cut.nc"
        for share in (0.05, 0.5, 0.95):
            cut.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(ObservationError, match=r"cut\.nc: "):
                olr(cut, "2000-01-02T00", **DAILY)
    with pytest.raises(ObservationError, match=r"no file .* at .*nowhere"):
        olr(tmp_path / "nowhere", "2024-01-02T00")


def test_damage_within_a_field_names_variable_and_time(save):
    rng = np.random.default_rng(0)
    path = save(dataset(rng.normal(230, 20, (4, 12))), olr={"chunksizes": (1, 3, 4), "zlib": True})
    with h5py.File(path) as file:
        chunk = file["olr"].id.get_chunk_info(2)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(bytes(data))
    assert len(olr(path, "2024-01-02T00")[0]) == 12
    with pytest.raises(ObservationError, match=r"f\.nc: olr of 2024-01-03T00.* cannot be read"):
        olr(path, "2024-01-04T00")


def test_a_file_that_was_replaced_is_read_anew(save):
    path = save(dataset(np.full(12, 200.0)))
    assert olr(path, "2024-01-03T00")[0].empty
    path = save(dataset(np.full(24, 250.0)))
    assert set(olr(path, "2024-01-03T00")[0]["value"]) == {250.0}


def test_the_final_file_goes_before_the_preliminary_one(save, tmp_path):
    save(dataset(np.full(12, 200.0)), "olr-daily_v01r02-preliminary_20240101_latest.nc")
    save(dataset(np.full(12, 250.0)), "olr-daily_v01r02_20240101_20241231.nc")
    for path in (tmp_path, tmp_path / "*.nc"):
        table, inventory = olr(path, "2024-01-02T00")
        assert len(inventory.files) == 2
        result = judged(table, "2024-01-02T00")
        assert set(result.loc[result["use"] == "assimilated", "value"]) == {250.0}
        assert set(result.loc[result["reason"] == "duplicate", "value"]) == {200.0}


def judged(table, time, cutoff=None):
    """After quality control, nothing withheld."""
    grid = get_grid("5.625deg")
    nowhere = np.full(len(table), np.nan)
    return checked(
        table, Window(np.datetime64(time), cutoff), nowhere, np.ones(69), grid, np.zeros(grid.shape), share=0
    )


def test_a_centred_day_counts_at_noon_and_needs_a_cutoff_that_allows_it(save):
    path = save(dataset(np.full(12, 230.0)))
    assert olr(path, "2024-01-02T00", centred=True)[0].empty
    table, _ = olr(path, "2024-01-01T12", centred=True, latency="48h")
    assert set(judged(table, "2024-01-01T12")["use"]) == {"assimilated"}
    assert set(judged(table, "2024-01-01T12", pd.Timedelta("59h"))["use"]) == {"late"}
    assert set(judged(table, "2024-01-01T12", pd.Timedelta("60h"))["use"]) == {"assimilated"}
    with pytest.raises(ObservationError, match="cutoff: none"):
        olr(path, "2024-01-01T12", centred=True, cutoff=pd.Timedelta("3h"))


def test_a_stated_latency_counts_from_the_end_of_the_day(save):
    path = save(dataset(np.full(12, 230.0)))
    table, inventory = olr(path, "2024-01-02T00", latency="48h")
    assert set(table["received"]) == {pd.Timestamp("2024-01-04")}
    assert inventory.latency == 2880
    assert np.isnat(olr(path, "2024-01-02T00")[0]["received"].to_numpy()).all()


def test_implausible_values_are_left_to_quality_control(save):
    values = np.full(12, 230.0)
    values[:2] = 20.0, 450.0
    result = judged(olr(save(dataset(values)), "2024-01-02T00")[0], "2024-01-02T00")
    assert result["reason"].tolist() == ["gross_limits"] * 2 + [""] * 10


@pytest.mark.parametrize(
    ("units", "hours", "factor"),
    [("mm", 24, 1), ("mm/day", 24, 1), ("mm/day", 6, 0.25), ("mm h-1", 6, 6), ("kg m**-2 s**-1", 6, 21600)],
)
def test_rates_become_amounts(save, units, hours, factor):
    values = np.linspace(0.001, 0.01, 24)
    table, _ = rain(
        save(dataset(values, name="precip", units=units, hours=hours)), f"2024-01-{1 + hours // 24:02}T{hours % 24:02}"
    )
    assert table["value"].to_numpy() == pytest.approx(values[:12] * factor, rel=1e-5)
    assert set(table["variable"]) == {"tp"}


def test_only_six_hour_sums_are_assimilated_and_daily_ones_say_why_not(save):
    for hours, end, reason in (
        (6, "2024-01-01T06", ""),
        (24, "2024-01-02T00", "no_operator"),
        (3, "2024-01-01T06", "no_operator"),
    ):
        table, _ = rain(save(dataset(np.full(36, 2.0), name="precip", units="mm", hours=hours)), end)
        assert set(judged(table, end)["reason"]) <= {reason, "duplicate"}
        assert reason in set(judged(table, end)["reason"])


def test_land_without_gauges_and_the_sea_are_missing_not_dry(save):
    values = np.full(12, 1.0, np.float32)
    values[5:] = -9.96921e36
    data = dataset(values, name="precip", units="mm/day")
    data["precip"].attrs["missing_value"] = np.float32(-9.96921e36)
    table, inventory = rain(save(data, precip={"_FillValue": None}), "2024-01-02T00")
    assert table["value"].tolist() == [1.0] * 5
    assert (inventory.found, inventory.missing) == (12, 7)
    with pytest.raises(ObservationError, match=r"f\.nc: tp is in 'm', not mm"):
        rain(save(dataset(name="tp", units="m")), "2024-01-02T00")


def test_an_unknown_stamp_is_refused():
    with pytest.raises(ObservationError, match=r"stamp is 'noon'; it is start, middle, end"):
        OlrNetcdf("x.nc", stamp="noon")
