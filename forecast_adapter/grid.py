"""Grids on the sphere: cell areas, conservative averaging, bilinear interpolation.

A grid is a value: two sorted coordinate vectors, latitude descending from the north, longitude ascending from 0.
Longitude is periodic everywhere. Where a grid has no row at a pole, bilinear interpolation takes the mean of the last
row as the value at the pole.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dacycle.common.errors import DacycleError
from dacycle.forecast_adapter.physics import EARTH_RADIUS_KM

__all__ = [
    "Grid",
    "GridError",
    "bilinear",
    "cells",
    "conservative_average",
    "get_grid",
    "great_circle_km",
    "grid_of_shape",
    "interpolate_to_points",
    "named",
    "regrid",
    "regridding",
]

Array = NDArray[np.floating]


class GridError(DacycleError, ValueError):
    """A field or coordinate does not fit its grid, or a grid has no name or an unknown one."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular latitude-longitude grid of cell centres.

    Attributes:
        name: its name in experiments, e.g. `5.625deg`.
        latitude: (H,) degrees, descending; may include both poles.
        longitude: (W,) degrees east, ascending in [0, 360).
    """

    name: str
    latitude: Array
    longitude: Array

    def __post_init__(self) -> None:
        if not (np.all(np.diff(self.latitude) < 0) and abs(self.latitude).max() <= 90):
            raise GridError(f"grid {self.name}: latitudes must descend strictly within [-90, 90]")
        if not (np.all(np.diff(self.longitude) > 0) and self.longitude[0] >= 0 and self.longitude[-1] < 360):
            raise GridError(f"grid {self.name}: longitudes must ascend strictly within [0, 360)")

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W): rows and columns."""
        return len(self.latitude), len(self.longitude)

    @property
    def spacing(self) -> float:
        """Degrees between neighbouring rows, the largest where they differ."""
        return float(-np.diff(self.latitude).min())

    @cached_property
    def latitude_bounds(self) -> Array:
        """(H + 1,) degrees: cell edges, half-way between centres, the outermost at the poles."""
        middle = (self.latitude[1:] + self.latitude[:-1]) / 2
        return np.concatenate([[90.0], middle, [-90.0]])

    @cached_property
    def longitude_bounds(self) -> Array:
        """(W + 1,) degrees: cell edges, half-way between centres, across the date line too."""
        wrapped = np.concatenate([[self.longitude[-1] - 360], self.longitude, [self.longitude[0] + 360]])
        return (wrapped[1:] + wrapped[:-1]) / 2

    @cached_property
    def weights(self) -> Array:
        """(H, W) float64: true areas of the cells on the sphere, scaled to a mean of 1."""
        rows = -np.diff(np.sin(np.deg2rad(self.latitude_bounds)))
        area = rows[:, None] * np.diff(self.longitude_bounds)[None, :]
        return area / area.mean()

    def matches(self, other: "Grid") -> bool:
        """Return whether both grids have the same cell centres."""
        return self.shape == other.shape and bool(
            np.allclose(self.latitude, other.latitude, atol=1e-4)
            and np.allclose(self.longitude, other.longitude, atol=1e-4)
        )


_GRIDS: dict[str, Callable[[], tuple[Array, Array]]] = {
    "5.625deg": lambda: (90 - 5.625 * (np.arange(32) + 0.5), 5.625 * np.arange(64)),
    "1.5deg": lambda: (90 - 1.5 * np.arange(121), 1.5 * np.arange(240)),
    "1.40625deg": lambda: (90 - 1.40625 * (np.arange(128) + 0.5), 1.40625 * np.arange(256)),
    "0.25deg": lambda: (90 - 0.25 * np.arange(721), 0.25 * np.arange(1440)),
}


@lru_cache
def get_grid(name: str) -> Grid:
    """Return a grid by name: `5.625deg` 32x64, `1.40625deg` 128x256; with poles `1.5deg` 121x240, `0.25deg` 721x1440.

    The name of any other regular grid is its shape, e.g. `181x360`: evenly spaced from 0 E, with both poles where the
    number of rows is odd, without where it is even.

    Raises:
        GridError: there is no such grid.
    """
    if name in _GRIDS:
        return Grid(name, *_GRIDS[name]())
    shape = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", name)
    if shape is None or min(rows := int(shape[1]), columns := int(shape[2])) < 3:
        raise GridError(f"unknown grid {name!r}; the grids are {', '.join(_GRIDS)}, or ROWSxCOLUMNS such as 181x360")
    latitude = np.linspace(90, -90, rows) if rows % 2 else 90 - 180 / rows * (np.arange(rows) + 0.5)
    return Grid(name, latitude, 360 / columns * np.arange(columns))


def grid_of_shape(shape: tuple[int, int]) -> Grid:
    """Return the named grid with so many rows and columns, or else the regular grid of that shape."""
    fitting = (grid for grid in map(get_grid, _GRIDS) if grid.shape == tuple(shape))
    return next(fitting, None) or get_grid("{}x{}".format(*shape))


def named(grid: Grid) -> Grid:
    """Return the named grid with the same cell centres; raise GridError where there is none."""
    match = grid_of_shape(grid.shape)
    if not match.matches(grid):
        raise GridError(
            f"a grid of {grid.shape[0]} x {grid.shape[1]} cells from {grid.latitude[0]:g} N has no name here"
        )
    return match


def _check(fields: Array, grid: Grid) -> None:
    if fields.shape[-2:] != grid.shape:
        raise GridError(f"fields of shape {fields.shape} are not on the grid {grid.name} {grid.shape}")


def _check_points(latitude: Array, longitude: Array) -> None:
    if np.any(abs(np.asarray(latitude)) > 90) or not np.all(np.isfinite(latitude) & np.isfinite(longitude)):
        raise GridError("points need finite longitudes and latitudes within [-90, 90]")


def _overlap(source: Array, target: Array) -> Array:
    """Return the length (target cells, source cells) that each pair of cells shares, from ascending edges."""
    low = np.maximum(source[None, :-1], target[:-1, None])
    high = np.minimum(source[None, 1:], target[1:, None])
    return np.clip(high - low, 0, None)


@lru_cache(maxsize=8)
def _average_matrices(source: Grid, target: Grid) -> tuple[csr_array, csr_array]:
    """Return row and column weights, (H', H) and (W', W), whose rows sum to 1; sparse, as a cell covers few others."""
    edges = [-np.sin(np.deg2rad(grid.latitude_bounds)) for grid in (source, target)]
    rows = _overlap(edges[0], edges[1])
    shifts = (source.longitude_bounds + shift for shift in (-360.0, 0.0, 360.0))
    columns = sum((_overlap(edges, target.longitude_bounds) for edges in shifts), np.zeros(1))
    return csr_array(rows / rows.sum(1, keepdims=True)), csr_array(columns / columns.sum(1, keepdims=True))


def conservative_average(fields: Array, source: Grid, target: Grid) -> Array:
    """Regrid conservatively, to first order: each target cell is the area-weighted mean of the cells that it covers.

    Global area means are kept (Jones 1999, doi:10.1175/1520-0493(1999)127<2204:FASOCR>2.0.CO;2, first order). The
    weights are overlaps in the sine of latitude and in longitude, as in WeatherBench2 (Rasp et al. 2024,
    doi:10.1029/2023MS004019).

    Args:
        fields: (..., H, W) on `source`.
        source, target: the grids.

    Returns:
        (..., H', W') in the dtype of the fields.
    """
    _check(fields, source)
    rows, columns = _average_matrices(source, target)
    averaged = np.empty((*fields.shape[:-2], *target.shape), fields.dtype)
    for at in np.ndindex(fields.shape[:-2]):  # one field at a time, so that double precision takes little memory
        averaged[at] = (columns @ (rows @ fields[at].astype(np.float64)).T).T
    return averaged


def cells(grid: Grid, latitude: Array, longitude: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return row and column of the cell that holds each point; longitudes are of any convention."""
    _check_points(latitude, longitude)
    rows = np.searchsorted(-grid.latitude_bounds[1:-1], -np.asarray(latitude), side="left")
    start = grid.longitude_bounds[0]
    wrapped = (np.asarray(longitude) - start) % 360 + start
    columns = np.searchsorted(grid.longitude_bounds[1:], wrapped, side="right") % grid.shape[1]
    return rows, columns


def interpolate_to_points(fields: Array, grid: Grid, latitude: Array, longitude: Array) -> Array:
    """Interpolate bilinearly to points, periodic in longitude and continuous across the poles.

    Args:
        fields: (..., H, W) on `grid`.
        grid: the grid of the fields.
        latitude, longitude: (n,) degrees, longitudes of any convention.

    Returns:
        (..., n).
    """
    _check(fields, grid)
    rows, row_weight, columns, column_weight, next_columns = _stencil(grid, latitude, longitude)
    padded, offset = _with_poles(fields, grid)
    flat, width = padded.reshape(*padded.shape[:-2], -1), padded.shape[-1]  # one index is much faster than two

    def along(row: NDArray[np.intp]) -> Array:
        left, right = (flat.take(row * width + column, axis=-1) for column in (columns, next_columns))
        return left * (1 - column_weight) + right * column_weight

    top, bottom = along(rows + offset), along(rows + offset + 1)
    return (top * (1 - row_weight) + bottom * row_weight).astype(fields.dtype)


def bilinear(fields: Array, source: Grid, target: Grid) -> Array:
    """Interpolate bilinearly from one grid to another: (..., H, W) to (..., H', W')."""
    _check(fields, source)
    rows, below = _row_stencil(source, target.latitude)
    left, right_weight, right = _column_stencil(source, target.longitude)
    out = np.empty((*fields.shape[:-2], *target.shape), fields.dtype)
    for at in np.ndindex(fields.shape[:-2]):  # one field at a time: all of a state would take gigabytes
        padded, offset = _with_poles(fields[at], source)
        across = padded[:, left] * (1 - right_weight) + padded[:, right] * right_weight
        upper, weight = rows + offset, below[:, None]
        out[at] = across[upper] * (1 - weight) + across[upper + 1] * weight
    return out


def regridding(source: Grid, target: Grid) -> str:
    """Return the method of `regrid`: `none`, `conservative` to a grid coarser along both axes, else `bilinear`."""
    if source.matches(target):
        return "none"
    coarser = all(to < of for to, of in zip(target.shape, source.shape, strict=True))
    return "conservative" if coarser else "bilinear"


def regrid(fields: Array, source: Grid, target: Grid) -> Array:
    """Regrid fields (..., H, W) by the method that `regridding` names."""
    how = regridding(source, target)
    if how == "none":
        return fields
    return (conservative_average if how == "conservative" else bilinear)(fields, source, target)


def _with_poles(fields: Array, grid: Grid) -> tuple[Array, int]:
    """Add a row at each pole (the mean of the last row) where the grid has none; return the first row's offset too."""
    if grid.latitude[0] == 90 and grid.latitude[-1] == -90:
        return fields, 0
    north, south = fields[..., :1, :].mean(-1, keepdims=True), fields[..., -1:, :].mean(-1, keepdims=True)
    width = (*fields.shape[:-2], 1, fields.shape[-1])
    return np.concatenate([np.broadcast_to(north, width), fields, np.broadcast_to(south, width)], axis=-2), 1


def _stencil(grid: Grid, latitude: Array, longitude: Array) -> tuple[NDArray, Array, NDArray, Array, NDArray]:
    """Return `_row_stencil` and `_column_stencil` of points."""
    _check_points(latitude, longitude)
    return *_row_stencil(grid, latitude), *_column_stencil(grid, longitude)


def _row_stencil(grid: Grid, latitude: Array) -> tuple[NDArray, Array]:
    """Return the upper row (-1 is the added north pole) and the weight of the row below it."""
    lat = np.asarray(latitude, float)
    has_poles = grid.latitude[0] == 90 and grid.latitude[-1] == -90
    centres = grid.latitude if has_poles else np.concatenate([[90.0], grid.latitude, [-90.0]])
    upper = np.clip(np.searchsorted(-centres, -lat, side="right") - 1, 0, len(centres) - 2)
    weight = (centres[upper] - lat) / (centres[upper] - centres[upper + 1])
    return upper - (0 if has_poles else 1), weight


def _column_stencil(grid: Grid, longitude: Array) -> tuple[NDArray, Array, NDArray]:
    """Return the left column, the weight of the right one, and the right column, across the date line too."""
    lon = (np.asarray(longitude, float) - grid.longitude[0]) % 360 + grid.longitude[0]
    left = np.searchsorted(grid.longitude, lon, side="right") - 1
    edges = np.append(grid.longitude, grid.longitude[0] + 360)
    weight = (lon - edges[left]) / (edges[left + 1] - edges[left])
    return left, weight, (left + 1) % grid.shape[1]


def great_circle_km(lat1: Array, lon1: Array, lat2: Array, lon2: Array) -> Array:
    """Return the great-circle distance in km (haversine) between points in degrees, which are broadcast."""
    phi1, phi2 = np.deg2rad(lat1), np.deg2rad(lat2)
    half = np.sin((phi2 - phi1) / 2) ** 2
    half = half + np.cos(phi1) * np.cos(phi2) * np.sin(np.deg2rad(np.asarray(lon2) - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
