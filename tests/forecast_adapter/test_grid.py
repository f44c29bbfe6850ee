"""Grid geometry and regridding on random global grids, with and without poles, regular and not."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from dacycle.forecast_adapter.grid import (
    Grid,
    GridError,
    bilinear,
    cells,
    conservative_average,
    get_grid,
    great_circle_km,
    interpolate_to_points,
    regrid,
    regridding,
)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Draw a global grid: rows with poles, without them, or unevenly spaced, and any first longitude."""
    rows, columns = draw(st.integers(3, 14)), draw(st.integers(3, 18))
    kind = draw(st.sampled_from(["poles", "centres", "uneven"]))
    if kind == "poles":
        latitude = np.linspace(90, -90, rows)
    elif kind == "centres":
        latitude = 90 - 180 / rows * (np.arange(rows) + 0.5)
    else:
        latitude = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(rows)[0]))[::-1]
    start = draw(st.floats(0, 0.999)) * 360 / columns
    return Grid(kind, latitude, start + 360 / columns * np.arange(columns))


def for_all(*strategies: st.SearchStrategy) -> Callable:
    """Return `given` with fewer examples, because arithmetic on fields is slow."""
    return lambda test: settings(max_examples=50)(given(*strategies)(test))


longitudes = st.floats(-360, 720)
latitudes = st.floats(-90, 90)
seeds = st.integers(0, 2**32 - 1)


def noise(grid: Grid, seed: int, lead: tuple[int, ...] = ()) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*lead, *grid.shape))


def weatherbench2_average(field: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Return cell means by WeatherBench2's method, cell by cell and without matrices, in double precision.

    A cell ends half-way between centres, at the poles in the outermost rows. Its value is the mean of the cells that it
    overlaps, weighted by the difference of the sines of the latitudes between which they do, times the longitudes
    that they share on the circle.
    """

    def edges(centres: np.ndarray) -> np.ndarray:
        ascending = np.deg2rad(centres[::-1])
        return np.r_[-np.pi / 2, (ascending[1:] + ascending[:-1]) / 2, np.pi / 2]

    def arcs(longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gaps = np.diff(longitude, append=longitude[0] + 360)
        return longitude - np.roll(gaps, 1) / 2, gaps / 2 + np.roll(gaps, 1) / 2

    old, new = edges(source.latitude), edges(target.latitude)
    upward = field[::-1].astype(np.float64)
    bands = []
    for south, north in pairwise(new):
        low, high = np.clip(old[:-1], south, north), np.clip(old[1:], south, north)
        weight = np.sin(high) - np.sin(low)
        bands.append(weight @ upward / weight.sum())
    zonal, (west, width), columns = np.array(bands)[::-1], arcs(source.longitude), []
    for start, length in zip(*arcs(target.longitude), strict=True):
        first = (west - start) % 360  # where the old cell begins, counted from the new one's western edge
        shared = np.clip(length - first, 0, width) + np.clip(first + width - 360, 0, length)
        columns.append(zonal @ shared / shared.sum())
    return np.array(columns).T


def area_mean(field: np.ndarray, grid: Grid) -> np.ndarray:
    return (field * grid.weights).mean((-2, -1))


class TestNamedGrids:
    @pytest.mark.parametrize(
        ("name", "shape", "first", "last"),
        [
            ("5.625deg", (32, 64), 87.1875, -87.1875),
            ("1.5deg", (121, 240), 90, -90),
            ("0.25deg", (721, 1440), 90, -90),
            ("1.40625deg", (128, 256), 89.296875, -89.296875),
            ("181x360", (181, 360), 90, -90),
            ("180x360", (180, 360), 89.5, -89.5),
        ],
    )
    def test_shape_and_rows(self, name: str, shape: tuple[int, int], first: float, last: float) -> None:
        grid = get_grid(name)
        assert grid.shape == shape
        assert (grid.latitude[0], grid.latitude[-1]) == (first, last)
        assert grid.longitude[0] == 0
        assert_allclose(np.diff(grid.longitude), 360 / shape[1])

    def test_unknown_name_lists_the_known_ones(self) -> None:
        with pytest.raises(GridError, match=r"7deg.*5\.625deg.*1\.5deg"):
            get_grid("7deg")

    @pytest.mark.parametrize(
        ("latitude", "longitude", "word"),
        [
            ([-45.0, 45.0], [0.0, 180.0], "descend"),
            ([95.0, 45.0], [0.0, 180.0], "latitudes"),
            ([45.0, -45.0], [-180.0, 0.0], "longitudes"),
            ([45.0, -45.0], [180.0, 0.0], "longitudes"),
            ([45.0, -45.0], [0.0, 360.0], "longitudes"),
        ],
    )
    def test_unordered_coordinates_are_refused(self, latitude: list, longitude: list, word: str) -> None:
        with pytest.raises(GridError, match=word):
            Grid("wrong", np.array(latitude), np.array(longitude))

    def test_grids_match_by_their_coordinates(self) -> None:
        grid = get_grid("5.625deg")
        shifted = Grid("shifted", grid.latitude, grid.longitude + 1)
        assert grid.matches(Grid("other name", grid.latitude.copy(), grid.longitude.copy()))
        assert not grid.matches(shifted)
        assert not grid.matches(get_grid("1.5deg"))


class TestWeights:
    @for_all(grids())
    def test_caps_have_the_area_of_spherical_caps(self, grid: Grid) -> None:
        """The rows north of any cell edge cover (1 - sin edge) / 2 of the sphere, and all rows the whole."""
        share = np.cumsum(grid.weights.sum(1)) / grid.weights.size
        assert_allclose(share, (1 - np.sin(np.deg2rad(grid.latitude_bounds[1:]))) / 2, atol=1e-12)
        assert (grid.weights > 0).all()

    @pytest.mark.parametrize("name", ["5.625deg", "1.5deg", "0.25deg"])
    def test_area_means_of_known_functions(self, name: str) -> None:
        grid = get_grid(name)
        sine = np.sin(np.deg2rad(grid.latitude))[:, None] * np.ones(grid.shape[1])
        assert area_mean(np.ones(grid.shape), grid) == pytest.approx(1)
        assert area_mean(sine, grid) == pytest.approx(0, abs=1e-12)
        assert area_mean(sine**2, grid) == pytest.approx(1 / 3, rel=3e-3)


class TestConservativeAverage:
    @for_all(grids(), grids(), seeds)
    def test_area_means_are_kept(self, source: Grid, target: Grid, seed: int) -> None:
        fields = noise(source, seed, (2,))
        averaged = conservative_average(fields, source, target)
        assert averaged.shape == (2, *target.shape)
        assert_allclose(area_mean(averaged, target), area_mean(fields, source), atol=1e-10)

    @for_all(grids(), grids(), st.floats(-1e6, 1e6))
    def test_constants_are_kept(self, source: Grid, target: Grid, value: float) -> None:
        averaged = conservative_average(np.full(source.shape, value), source, target)
        assert_allclose(averaged, value, rtol=1e-12, atol=1e-9)

    @for_all(grids(), grids(), seeds)
    def test_no_new_extremes(self, source: Grid, target: Grid, seed: int) -> None:
        fields = noise(source, seed)
        averaged = conservative_average(fields, source, target)
        assert averaged.min() >= fields.min() - 1e-12
        assert averaged.max() <= fields.max() + 1e-12

    @for_all(grids(), seeds)
    def test_the_same_grid_changes_nothing(self, grid: Grid, seed: int) -> None:
        fields = noise(grid, seed)
        assert_allclose(conservative_average(fields, grid, grid), fields, atol=1e-12)

    @for_all(st.integers(2, 4), st.integers(2, 4), seeds)
    def test_nested_cells_are_plain_area_means(self, down: int, across: int, seed: int) -> None:
        fine = Grid("fine", 90 - 180 / (4 * down) * (np.arange(4 * down) + 0.5), 90 / across * np.arange(4 * across))
        start = fine.longitude[:across].mean()
        coarse = Grid("coarse", np.array([67.5, 22.5, -22.5, -67.5]), start + 90 * np.arange(4))
        fields = noise(fine, seed)
        blocks = (fields * fine.weights).reshape(4, down, 4, across).sum((1, 3))
        areas = fine.weights.reshape(4, down, 4, across).sum((1, 3))
        assert_allclose(conservative_average(fields, fine, coarse), blocks / areas, atol=1e-12)

    def test_agrees_with_xarray_regrid(self) -> None:
        """Only nested cells are compared: for others, and in polar rows, that package's areas are approximate."""
        pytest.importorskip("xarray_regrid")
        old = get_grid("1.5deg")
        new = Grid("4.5deg", np.linspace(90, -90, 41), 4.5 * np.arange(80))
        array = xr.DataArray(
            noise(old, 1), {"latitude": old.latitude, "longitude": old.longitude}, ("latitude", "longitude")
        )
        asked = xr.Dataset(coords={"latitude": new.latitude, "longitude": new.longitude})
        independent = array.regrid.conservative(asked, latitude_coord="latitude")
        ours = conservative_average(array.values, old, new)
        theirs = independent.sortby("latitude", ascending=False).transpose("latitude", "longitude").values
        assert_allclose(ours[1:-1], theirs[1:-1], atol=1e-6)

    @pytest.mark.parametrize(
        ("fine", "coarse"), [("0.25deg", "1.5deg"), ("0.25deg", "5.625deg"), ("1.5deg", "5.625deg")]
    )
    def test_agrees_with_weatherbench2(self, fine: str, coarse: str) -> None:
        """The comparison is with WeatherBench2's method as described, also at poles and for cells cut in half."""
        source, target = get_grid(fine), get_grid(coarse)
        state = 250 + 40 * noise(source, 1).astype(np.float32)
        expected = weatherbench2_average(state, source, target)
        ours = conservative_average(state, source, target)
        assert_allclose(ours, expected, rtol=3e-7)
        constant = np.full(source.shape, 101325, np.float32)
        assert_array_equal(conservative_average(constant, source, target), np.float32(101325))

    @for_all(grids(), grids(), seeds)
    def test_agrees_with_weatherbench2_on_any_grid(self, source: Grid, target: Grid, seed: int) -> None:
        field = noise(source, seed)
        expected = weatherbench2_average(field, source, target)
        assert_allclose(conservative_average(field, source, target), expected, atol=1e-9)

    def test_single_precision_stays_single(self) -> None:
        fields = np.ones((3, *get_grid("1.5deg").shape), np.float32)
        assert conservative_average(fields, get_grid("1.5deg"), get_grid("5.625deg")).dtype == np.float32

    def test_fields_on_another_grid_are_refused(self) -> None:
        with pytest.raises(GridError, match=r"\(32, 64\).*1\.5deg"):
            conservative_average(np.ones((32, 64)), get_grid("1.5deg"), get_grid("5.625deg"))


class TestRegrid:
    @pytest.mark.parametrize(
        ("target", "how"),
        [("18x36", "conservative"), ("18x144", "bilinear"), ("72x36", "bilinear"), ("36x72", "none")],
    )
    def test_only_a_grid_coarser_along_both_axes_is_averaged_to(self, target: str, how: str) -> None:
        source, fields = get_grid("36x72"), noise(get_grid("36x72"), 1)
        assert regridding(source, get_grid(target)) == how
        method = {"conservative": conservative_average, "bilinear": bilinear}.get(how, lambda fields, *_: fields)
        assert_array_equal(regrid(fields, source, get_grid(target)), method(fields, source, get_grid(target)))


class TestBilinear:
    @for_all(grids(), latitudes, longitudes)
    def test_fields_linear_in_latitude_are_reproduced(self, grid: Grid, lat: float, lon: float) -> None:
        field = (3 - 0.5 * grid.latitude)[:, None] * np.ones(grid.shape[1])
        inside = np.clip(lat, grid.latitude[-1], grid.latitude[0])  # beyond, the polar row's mean holds
        value = interpolate_to_points(field, grid, np.array([lat]), np.array([lon]))
        assert_allclose(value, 3 - 0.5 * inside, atol=1e-9)

    @for_all(grids(), seeds)
    def test_cell_centres_are_reproduced(self, grid: Grid, seed: int) -> None:
        fields = noise(grid, seed)
        fields[[0, -1]] = fields[[0, -1]].mean(1, keepdims=True)  # a pole has one value
        assert_allclose(bilinear(fields, grid, grid), fields, atol=1e-9)

    @for_all(grids(), seeds, latitudes, st.floats(0, 360, exclude_max=True), st.integers(-3, 3))
    def test_longitude_is_periodic(self, grid: Grid, seed: int, lat: float, lon: float, turns: int) -> None:
        fields = noise(grid, seed, (2,))
        here = interpolate_to_points(fields, grid, np.array([lat]), np.array([lon]))
        there = interpolate_to_points(fields, grid, np.array([lat]), np.array([lon + 360.0 * turns]))
        assert here.shape == (2, 1)
        assert_allclose(here, there, atol=1e-8)

    @for_all(grids(), seeds)
    def test_the_date_line_has_no_seam(self, grid: Grid, seed: int) -> None:
        """The value half-way between the last and the first column is their mean."""
        fields = noise(grid, seed)
        row = grid.shape[0] // 2
        between = (grid.longitude[-1] + grid.longitude[0] + 360) / 2
        value = interpolate_to_points(fields, grid, grid.latitude[[row]], np.array([between]))
        assert_allclose(value, (fields[row, 0] + fields[row, -1]) / 2, atol=1e-9)

    @for_all(grids(), seeds, st.integers(1, 20))
    def test_turning_the_globe_turns_the_result(self, grid: Grid, seed: int, columns: int) -> None:
        fields = noise(grid, seed)
        lat, lon = np.linspace(-90, 90, 37), np.linspace(-170, 190, 37)
        turned = interpolate_to_points(np.roll(fields, columns, -1), grid, lat, lon + 360 / grid.shape[1] * columns)
        assert_allclose(turned, interpolate_to_points(fields, grid, lat, lon), atol=1e-8)

    @for_all(grids(), seeds, st.sampled_from([90.0, -90.0]), st.lists(longitudes, min_size=2, max_size=5))
    def test_a_pole_has_one_value(self, grid: Grid, seed: int, pole: float, lons: list[float]) -> None:
        """The value is the same along every meridian, if the polar row has one value or no row is at the pole."""
        fields = noise(grid, seed)
        row = 0 if pole > 0 else -1
        if abs(grid.latitude[row]) == 90:
            fields[row] = fields[row].mean()
        values = interpolate_to_points(fields, grid, np.full(len(lons), pole), np.array(lons))
        assert_allclose(values, fields[row].mean(), atol=1e-9)

    @for_all(grids(), seeds, latitudes, longitudes)
    def test_no_new_extremes(self, grid: Grid, seed: int, lat: float, lon: float) -> None:
        fields = noise(grid, seed)
        value = interpolate_to_points(fields, grid, np.array([lat]), np.array([lon]))
        assert fields.min() - 1e-12 <= value[0] <= fields.max() + 1e-12

    @for_all(grids(), grids(), seeds)
    def test_grid_to_grid_is_point_by_point(self, source: Grid, target: Grid, seed: int) -> None:
        fields = noise(source, seed)
        whole = bilinear(fields, source, target)
        for i, j in [(0, 0), (-1, -1), (target.shape[0] // 2, 1)]:
            at = interpolate_to_points(fields, source, target.latitude[[i]], target.longitude[[j]])
            assert_allclose(whole[i, j], at[0], atol=1e-12)

    @pytest.mark.parametrize(("lat", "lon"), [(91.0, 0.0), (np.nan, 0.0), (0.0, np.inf)])
    def test_points_off_the_sphere_are_refused(self, lat: float, lon: float) -> None:
        grid = get_grid("5.625deg")
        with pytest.raises(GridError, match="finite"):
            interpolate_to_points(np.zeros(grid.shape), grid, np.array([lat]), np.array([lon]))


class TestCells:
    @for_all(grids(), latitudes, longitudes)
    def test_the_cell_holds_the_point(self, grid: Grid, lat: float, lon: float) -> None:
        (row,), (column,) = cells(grid, np.array([lat]), np.array([lon]))
        assert grid.latitude_bounds[row + 1] - 1e-9 <= lat <= grid.latitude_bounds[row] + 1e-9
        west, east = grid.longitude_bounds[column : column + 2]
        offset = (lon - west) % 360
        assert offset <= east - west + 1e-9 or offset > 360 - 1e-9

    @for_all(grids())
    def test_centres_lie_in_their_own_cells(self, grid: Grid) -> None:
        lat, lon = np.meshgrid(grid.latitude, grid.longitude, indexing="ij")
        rows, columns = cells(grid, lat.ravel(), lon.ravel())
        assert_array_equal(rows * grid.shape[1] + columns, np.arange(lat.size))

    @pytest.mark.parametrize(("lat", "lon"), [(90.5, 0.0), (np.nan, 0.0), (0.0, np.nan)])
    def test_points_off_the_sphere_are_refused(self, lat: float, lon: float) -> None:
        with pytest.raises(GridError, match="finite"):
            cells(get_grid("5.625deg"), np.array([lat]), np.array([lon]))


class TestGreatCircle:
    def test_known_distances(self) -> None:
        quarter = np.pi / 2 * 6371.0
        assert great_circle_km(np.array(0), np.array(0), np.array(0), np.array(90)) == pytest.approx(quarter)
        assert great_circle_km(np.array(90), np.array(7), np.array(0), np.array(211)) == pytest.approx(quarter)
        assert great_circle_km(np.array(35), np.array(20), np.array(-35), np.array(200)) == pytest.approx(2 * quarter)
        # London to Paris, 343.6 km on a sphere of this radius (spherical law of cosines).
        assert great_circle_km(
            np.array(51.5074), np.array(-0.1278), np.array(48.8566), np.array(2.3522)
        ) == pytest.approx(343.6, abs=0.2)

    @for_all(latitudes, longitudes, latitudes, longitudes)
    def test_symmetric_periodic_and_bounded(self, lat1: float, lon1: float, lat2: float, lon2: float) -> None:
        there = great_circle_km(np.array(lat1), np.array(lon1), np.array(lat2), np.array(lon2))
        back = great_circle_km(np.array(lat2), np.array(lon2 + 360), np.array(lat1), np.array(lon1))
        assert 0 <= there <= np.pi * 6371.0 + 1e-6
        assert_allclose(there, back, atol=1e-3)
