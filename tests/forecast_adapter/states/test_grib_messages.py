"""Values of GRIB fields at their places in every scanning mode, and fields that are not the quantity itself."""

from pathlib import Path

import eccodes
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.points import read_orography, read_points, write_points
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.worlds.static import write_static
from tests.forecast_adapter.made import GRID, START, made_state, write_grib

ROWS, COLUMNS = 13, 24
MODES = [(1, mode) for mode in range(0, 256, 32)] + [(2, mode) for mode in range(0, 256, 16)]


def places_in_file(mode: int, rows: int = ROWS, columns: int = COLUMNS) -> list[tuple[int, int]]:
    """Return row from the north and column from the west of each value, as WMO's flag table 3.4 orders them."""
    across = list(range(columns))[:: -1 if mode & 128 else 1]
    down = list(range(rows))[:: -1 if mode & 64 else 1]
    by_row, by_column = [[(j, i) for i in across] for j in down], [[(j, i) for j in down] for i in across]
    lines = by_column if mode & 32 else by_row
    return [place for k, line in enumerate(lines) for place in (line[::-1] if mode & 16 and k % 2 else line)]


def scanned(mode: int, values: NDArray) -> NDArray:
    return np.array([values[place] for place in places_in_file(mode, *values.shape)])


def rescan(source: Path, target: Path, mode: int) -> Path:
    """Copy a file of mode 0 and write its fields in another scanning mode."""
    with source.open("rb") as file, target.open("wb") as out:
        while (message := eccodes.codes_grib_new_from_file(file)) is not None:
            values = eccodes.codes_get_values(message).reshape(ROWS, COLUMNS)
            for axis, bit in (("longitude", 128), ("latitude", 64)):
                ends = [f"{axis}Of{end}GridPointInDegrees" for end in ("First", "Last")]
                first, last = (eccodes.codes_get(message, end) for end in ends)
                for end, value in zip(ends, (last, first) if mode & bit else (first, last), strict=True):
                    eccodes.codes_set(message, end, value)
            eccodes.codes_set(message, "scanningMode", mode)
            eccodes.codes_set_values(message, scanned(mode, values))
            eccodes.codes_write(message, out)
            eccodes.codes_release(message)
    return target


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("scan")
    names = ["u10", "t2m", "t500"]
    return {e: write_grib(folder / f"{e}.grib", made_state(), names, edition=e) for e in (1, 2)}


def table(path: Path) -> dict[tuple[float, float], float]:
    """Return the 2-m temperatures of a file by place."""
    points = read_points(path)
    places = zip(points.latitude.round(3), points.longitude.round(3) % 360, strict=True)
    return dict(zip(places, points.values["t2m"], strict=True))


@pytest.mark.parametrize(("edition", "mode"), MODES)
def test_every_scanning_mode(surface: dict[int, Path], edition: int, mode: int, tmp_path: Path) -> None:
    """States and points are the same, and an analysis goes back to the places that it is for."""
    path = rescan(surface[edition], tmp_path / "scanned.grib", mode)
    expected = open_states(surface[edition]).fields(START, ["u10", "t500"])
    assert_allclose(open_states(path).fields(START, ["u10", "t500"]), expected, rtol=1e-6)
    assert table(path) == pytest.approx(table(surface[edition]), rel=1e-6)
    points = read_points(path)
    wanted = 280 + points.latitude / 10 + points.longitude / 100
    write_points(tmp_path / "analysis.grib", points, {"t2m": wanted}, rest=False)
    written = eccodes_by_row(tmp_path / "analysis.grib", mode)
    assert_allclose(written, 280 + GRID.latitude[:, None] / 10 + GRID.longitude / 100, atol=2e-4)


def eccodes_by_row(path: Path, mode: int) -> NDArray:
    """Return the values of a file's only field by row and column, put there by the order of the flag table."""
    with path.open("rb") as file:
        message = eccodes.codes_grib_new_from_file(file)
        values = eccodes.codes_get_values(message)
        eccodes.codes_release(message)
    out = np.empty((ROWS, COLUMNS))
    for place, value in zip(places_in_file(mode), values, strict=True):
        out[place] = value
    return out


@given(mode=st.sampled_from(range(0, 256, 16)), rows=st.integers(2, 7), columns=st.integers(2, 7))
def test_places_of_regional_grids(mode: int, rows: int, columns: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each value is what its place says, on regular and rotated grids and on projected ones, or is refused."""
    path = tmp_path_factory.mktemp("region") / "region.grib2"
    for kind in ("regular_ll", "rotated_ll", "lambert", "polar_stereographic", "mercator"):
        latitude, longitude = projected(kind, path, 64, rows, columns)
        if kind in ("lambert", "polar_stereographic", "mercator") and mode & 192 != 64:
            projected(kind, path, mode, rows, columns)
            with pytest.raises(StateError, match=f"{kind} grid in scanning mode {mode}"):
                read_points(path)
            continue
        projected(kind, path, mode, rows, columns)
        points = read_points(path)
        # The value of a place is its number by row from the north.
        number = np.round((points.values["t2m"] - 280) * 10).astype(int)
        assert_allclose(points.latitude, latitude.ravel()[number], atol=1e-4)
        assert_allclose(points.longitude % 360, longitude.ravel()[number] % 360, atol=1e-4)


def projected(kind: str, path: Path, mode: int, rows: int, columns: int) -> tuple[NDArray, NDArray]:
    """Write a field whose values number the places, and return ecCodes' places by row where its mode is 64."""
    message = eccodes.codes_grib_new_from_samples("GRIB2")
    keys: dict[str, object] = {"gridType": kind, "scanningMode": mode, "Ni": columns, "Nj": rows}
    if kind in ("lambert", "polar_stereographic", "mercator"):
        lengths = "DiInMetres", "DjInMetres"
        keys |= dict(zip(lengths if kind == "mercator" else ("DxInMetres", "DyInMetres"), (1e5, 1.2e5), strict=True))
        keys |= {"LaDInDegrees": 50}
        keys |= {"orientationOfTheGridInDegrees": 10} if kind == "polar_stereographic" else {}
        keys |= {"Latin1InDegrees": 50, "Latin2InDegrees": 50, "LoVInDegrees": 10} if kind == "lambert" else {}
        keys |= {"latitudeOfFirstGridPointInDegrees": 45, "longitudeOfFirstGridPointInDegrees": 5}
    else:
        north, east = 40 + 3 * (rows - 1), 10 + 2 * (columns - 1)
        lat, lon = (40, north) if mode & 64 else (north, 40), (east, 10) if mode & 128 else (10, east)
        for i, end in enumerate(("First", "Last")):
            keys |= {f"latitudeOf{end}GridPointInDegrees": lat[i], f"longitudeOf{end}GridPointInDegrees": lon[i]}
        keys |= {"iDirectionIncrementInDegrees": 2, "jDirectionIncrementInDegrees": 3}
        keys |= {"latitudeOfSouthernPoleInDegrees": -40} if kind == "rotated_ll" else {}
    keys |= {"shortName": "2t", "bitsPerValue": 24}
    for key, value in keys.items():
        eccodes.codes_set(message, key, value)
    values = 280 + np.arange(rows * columns).reshape(rows, columns) / 10
    eccodes.codes_set_values(message, scanned(mode, values))
    with path.open("wb") as file:
        eccodes.codes_write(message, file)
    axes = [eccodes.codes_get_array(message, name).reshape(rows, columns) for name in ("latitudes", "longitudes")]
    eccodes.codes_release(message)
    return axes[0][::-1], axes[1][::-1]


def test_genuine_rows_that_alternate(full_samples: Path) -> None:
    """Against cfgrib, which corrects ecCodes' order."""
    path = full_samples / "cases/grib/alternate-scanning.grib"
    points = read_points(path)
    with xr.open_dataset(path, engine="cfgrib", backend_kwargs={"indexpath": ""}) as dataset:
        theirs = dataset["t2m"].load()
    theirs = theirs.assign_coords(longitude=theirs.longitude.round(6), latitude=theirs.latitude.round(6))
    row, column = (
        np.searchsorted(np.sort(theirs[axis].values), values.round(6))
        for axis, values in (("latitude", points.latitude), ("longitude", points.longitude))
    )
    assert_allclose(points.values["t2m"], theirs.sortby(["latitude", "longitude"]).values[row, column], rtol=1e-6)


def test_the_ground_with_rows_that_alternate(tmp_path: Path) -> None:
    ground = {"t2m": ("z", 100.0), "msl": ("lsm", 1.0)}
    plain = tmp_path / "plain.grib2"
    with plain.open("wb") as file:
        for short, scale in ground.values():
            message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
            keys = {
                "Ni": COLUMNS, "Nj": ROWS,
                "latitudeOfFirstGridPointInDegrees": 90, "latitudeOfLastGridPointInDegrees": -90,
                "longitudeOfFirstGridPointInDegrees": 0, "longitudeOfLastGridPointInDegrees": 345,
                "iDirectionIncrementInDegrees": 15, "jDirectionIncrementInDegrees": 15,
                "shortName": short, "typeOfLevel": "surface", "bitsPerValue": 24,
            }  # fmt: skip
            for key, value in keys.items():
                eccodes.codes_set(message, key, value)
            field = np.linspace(0, scale, ROWS * COLUMNS)
            eccodes.codes_set_values(message, field)
            eccodes.codes_write(message, file)
    turned = rescan(plain, tmp_path / "turned.grib2", 16)
    for path in (plain, turned):
        write_static(str(path), tmp_path / f"{path.stem}.nc", get_grid("5.625deg"), START)
    with xr.open_dataset(tmp_path / "plain.nc") as one, xr.open_dataset(tmp_path / "turned.nc") as other:
        for name in one.data_vars:
            assert_allclose(other[name], one[name], rtol=1e-5, atol=1e-5)
    heights = read_orography(turned)
    order = np.lexsort((heights.longitude, -heights.latitude))
    assert_allclose(heights.values["orography"][order] * 9.80665, np.linspace(0, 100, ROWS * COLUMNS), atol=1e-3)


PRODUCTS = {
    "spread": (2, {"productDefinitionTemplateNumber": 2, "derivedForecast": 4}, "statistic of an ensemble"),
    "mean": (2, {"productDefinitionTemplateNumber": 2, "derivedForecast": 0}, "statistic of an ensemble"),
    "probability": (2, {"productDefinitionTemplateNumber": 5}, "a probability"),
    "percentile": (2, {"productDefinitionTemplateNumber": 6}, "a percentile"),
    "mean over time": (2, {"productDefinitionTemplateNumber": 8}, "over time"),
    "analysis error": (2, {"productDefinitionTemplateNumber": 7}, "an error"),
    "category": (2, {"productDefinitionTemplateNumber": 51}, "a category"),
    "increment": (2, {"typeOfGeneratingProcess": 20}, "a difference or increment"),
    "climatology": (2, {"typeOfGeneratingProcess": 9}, "a climatology"),
    "event probability": (2, {"typeOfProcessedData": 8}, "type ep"),
    "monthly mean of a season": (1, {"marsType": "fcmean"}, "type fcmean"),
    "spread in edition 1": (1, {"marsType": "es"}, "type es"),
    "monthly mean": (1, {"marsStream": "moda"}, "stream moda"),
    "average": (1, {"timeRangeIndicator": 123}, "over time"),
    "climatological mean": (1, {"timeRangeIndicator": 51}, "over time"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PRODUCTS)
def test_what_is_not_the_quantity_itself_is_left_out(kind: str, tmp_path: Path) -> None:
    """Alone it is refused with its reason; beside the quantity it is counted, and never taken for it."""
    edition, keys, reason = PRODUCTS[kind]
    names = ["u10", "v10", "t500"]
    product = write_grib(tmp_path / "product.grib", made_state(6), names, edition=edition, keys=keys)
    with pytest.raises(StateError, match=rf"product\.grib.*{reason}.*3 fields: 10u, 10v, t"):
        open_states(product)
    with pytest.raises(StateError, match=rf"no surface channel.*{reason}.*2 fields: 10u, 10v"):
        read_points(product)
    state = write_grib(tmp_path / "state.grib", made_state(6), names, edition=edition)
    with state.open("ab") as file:
        file.write(product.read_bytes())
    source = open_states(state)
    assert_allclose(source.fields(START + 6, names), made_state(6).sel(channel=names), rtol=1e-5, atol=1e-5)
    assert any(reason in what and "3 fields" in count for what, count in source.left_out.items())
    points = read_points(state)
    assert any(reason in note for note in points.notes)
    write_points(tmp_path / "analysis.grib", points, {"u10": points.values["u10"] + 1}, rest=True)
    assert_allclose(read_points(tmp_path / "analysis.grib").values["u10"], points.values["u10"] + 1, atol=1e-3)


def test_wind_along_a_rotated_grid_is_left_out(tmp_path: Path) -> None:
    keys = {"gridType": "rotated_ll", "uvRelativeToGrid": 1}
    path = write_grib(tmp_path / "rotated.grib2", made_state(), ["u10", "t2m"], keys=keys)
    points = read_points(path)
    assert list(points.values) == ["t2m"]
    assert points.notes == ("left out: wind along the axes of the grid, not to the east and north (1 field: 10u)",)
