"""Surface fields as values at points, whatever grid they are on: read from a file, interpolated, written back.

A single analysis needs no rows and columns: reduced Gaussian, regional and regular grids are all a list of points.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import eccodes
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from dacycle.common.files import whole
from dacycle.forecast_adapter.channels import CHANNELS, index
from dacycle.forecast_adapter.physics import EARTH_RADIUS_KM, GRAVITY
from dacycle.forecast_adapter.state import StateError, as_hour, check_values
from dacycle.forecast_adapter.states.files import write_states
from dacycle.forecast_adapter.states.grib import SURFACE_FIELDS, messages, valid_time, values_of
from dacycle.forecast_adapter.states.products import is_grib, open_states

__all__ = ["PointFields", "Stencil", "positions", "read_orography", "read_points", "stencil", "write_points"]

NEIGHBOURS = 4
BITS = 16
"""Least bits per value of a written field: increments survive in it where the background was packed coarsely."""

_UNITS = {name: unit for names in SURFACE_FIELDS.values() for name, unit in names.items()}
_HEIGHTS = {"orog": ("m", 1.0), "z": ("m**2 s**-2", 1 / GRAVITY)}


@dataclass(frozen=True, eq=False)
class PointFields:
    """Surface channels of a file at one time, in the file's order of points.

    Attributes:
        path: the file.
        time: valid time, datetime64[h].
        latitude, longitude: (n,) degrees.
        values: (n,) float64 by channel (`t2m`, `msl`, `u10`, `v10`), SI.
        names: the name in a GRIB file that each channel was found under.
    """

    path: Path
    time: np.datetime64
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    values: dict[str, NDArray[np.float64]]
    names: dict[str, str] = field(default_factory=dict)

    def only(self, channels: Collection[str]) -> "PointFields":
        """The same without the other channels."""
        return replace(self, values={name: values for name, values in self.values.items() if name in channels})


@dataclass(frozen=True, eq=False)
class Stencil:
    """What interpolates fields to m places: the nearest points and their weights.

    Attributes:
        points: (m, 4) positions in the list of points.
        weights: (m, 4), each row with the sum 1; NaN for a place that the points do not surround.
        spacing_km: the points' distance from one another where they lie widest apart.
    """

    points: NDArray[np.intp]
    weights: NDArray[np.float64]
    spacing_km: float

    def __call__(self, values: NDArray) -> NDArray[np.float64]:
        """(m,) values (n,) of the points at the places, NaN outside them."""
        return (values[self.points] * self.weights).sum(axis=1)


def positions(latitude: ArrayLike, longitude: ArrayLike) -> NDArray[np.float64]:
    """(n, 3) km: points on the sphere, for distances straight through it (0.1 % below the arc at 1000 km)."""
    lat, lon = np.deg2rad(np.asarray(latitude, float)), np.deg2rad(np.asarray(longitude, float))
    return EARTH_RADIUS_KM * np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def stencil(fields: PointFields, latitude: NDArray, longitude: NDArray) -> Stencil:
    """Interpolation from the four nearest points, weighted by 1 / distance^2: exact at a point.

    A place farther from every point than 1.5 times the widest spacing is outside (a regional field ends somewhere).
    """
    points = positions(fields.latitude, fields.longitude)
    tree = cKDTree(points)
    spacing = float(tree.query(points, k=2)[0][:, 1].max())
    distance, nearest = tree.query(positions(latitude, longitude), k=NEIGHBOURS)
    weights = 1 / np.maximum(distance, 1e-6) ** 2  # a millimetre is at the point
    weights /= weights.sum(axis=1, keepdims=True)
    weights[distance[:, 0] > 1.5 * spacing] = np.nan
    return Stencil(nearest, weights, spacing)


def read_points(path: Path, time: np.datetime64 | None = None) -> PointFields:
    """The surface channels of a GRIB file, on whatever grid, or of a netCDF file or Zarr store.

    Args:
        path: the file; fields that are none of the surface channels are passed over.
        time: the valid time (UTC) to take; needed only where the file holds several.

    Raises:
        StateError: the file cannot be read, holds no surface channel at that time, one twice, on several grids, or with
            missing or implausible values or another unit; names file, field and time.
    """
    if is_grib(path):
        return _read_grib(path, time)
    source = open_states(path)
    time = source.only_time() if time is None else as_hour(time)
    absent = source.gaps(time)
    there = [name for name in SURFACE_FIELDS if name not in absent]
    if not there:
        raise StateError(f"{path}, {time}: it holds no surface channel ({', '.join(SURFACE_FIELDS)})")
    state = source.fields(time, there)
    values = {name: plane.ravel().astype(float) for name, plane in zip(there, state.values, strict=True)}
    return PointFields(path, as_hour(state.time.values), *_mesh(state), values)


def read_orography(path: Path) -> PointFields:
    """The ground's height in m, as the one field `orography`, on any grid.

    Args:
        path: GRIB with `orog`, or geopotential `z`, at the surface; or netCDF with WeatherBench2's
            `geopotential_at_surface`.

    Raises:
        StateError: the file cannot be read or holds no such field; names it.
    """
    if is_grib(path):
        for message in messages(path):
            name = eccodes.codes_get(message, "shortName")
            if name in _HEIGHTS and eccodes.codes_get(message, "typeOfLevel") == "surface":
                unit, factor = _HEIGHTS[name]
                height = values_of(message, f"{path}: {name}", unit).astype(float) * factor
                return PointFields(path, as_hour(valid_time(message)), *_coordinates(message), {"orography": height})
        raise StateError(f"{path}: it holds no orography ({' or '.join(_HEIGHTS)} at the surface)")
    try:
        with xr.open_dataset(path) as dataset:
            ground = dataset["geopotential_at_surface"].transpose("latitude", "longitude").load()
            points = _mesh(ground)
    except (AttributeError, KeyError, ValueError, OSError) as error:
        raise StateError(f"{path}: geopotential_at_surface(latitude, longitude) cannot be read: {error}") from None
    return PointFields(path, np.datetime64("NaT"), *points, {"orography": ground.values.ravel() / GRAVITY})


def write_points(path: Path, like: PointFields, values: Mapping[str, NDArray], *, rest: bool) -> None:
    """Write fields into copies of the messages (or the state) they belong to, marked as an analysis at its valid time.

    GRIB keeps everything else of a message: grid, level, parameter, packing (with 16 bits or more). The file appears
    under its name only when it is whole.

    Args:
        path: the file to write, of the kind of `like`.
        like: what was read.
        values: (n,) by channel.
        rest: whether the file's other fields of that time are copied unchanged, or (in a state) are 0 otherwise.
    """
    if not is_grib(like.path):
        state = open_states(like.path).state(like.time)
        written = state.copy(data=state.values if rest else np.zeros_like(state.values))
        for name, field_values in values.items():
            written.values[index(name)] = field_values.reshape(written.shape[1:])
        write_states(path, [written], {"title": "Analysis", "source": like.path.name})
        return
    channels = {like.names[channel]: channel for channel in values}
    with whole(path) as temporary, temporary.open("wb") as file:
        for message in messages(like.path):
            if valid_time(message) != like.time:
                continue
            channel = channels.get(eccodes.codes_get(message, "shortName")) if _is_surface(message) else None
            if channel is not None:
                _write_analysis(file, message, values[channel])
            elif rest:
                eccodes.codes_write(message, file)


def _write_analysis(file: IO[bytes], message: int, values: NDArray) -> None:
    """Write a copy of a message with these values; it says that it is an analysis, wherever it has a key for that."""
    keys = {
        "typeOfGeneratingProcess": 0,
        "marsType": "an",
        "dataDate": eccodes.codes_get(message, "validityDate"),
        "dataTime": eccodes.codes_get(message, "validityTime"),
        "stepRange": "0",
        "bitsPerValue": max(BITS, eccodes.codes_get(message, "bitsPerValue")),
    }
    copy = eccodes.codes_clone(message)
    try:
        for key, value in keys.items():
            if eccodes.codes_is_defined(copy, key):
                eccodes.codes_set(copy, key, value)
        eccodes.codes_set_values(copy, values)
        eccodes.codes_write(copy, file)
    finally:
        eccodes.codes_release(copy)


def _read_grib(path: Path, time: np.datetime64 | None) -> PointFields:
    times = sorted({valid_time(message) for message in messages(path) if _is_surface(message)})
    held = ", ".join(np.datetime_as_string(t, "m") for t in times)
    if not times:
        raise StateError(f"{path}: it holds no surface channel ({', '.join(_UNITS)})")
    if time is None and len(times) > 1:
        raise StateError(f"{path}: holds {len(times)} times ({held}); say which one to take")
    time = as_hour(times[0] if time is None else time)
    if time not in times:
        raise StateError(f"{path}: nothing is valid at {time}; it holds {held}")
    found: dict[str, NDArray] = {}
    coordinates: tuple[NDArray, NDArray] | None = None
    section = ""
    for message in messages(path):
        if not _is_surface(message) or valid_time(message) != time:
            continue
        name = eccodes.codes_get(message, "shortName")
        label = f"{path}, {time}: {name}"
        if name in found:
            raise StateError(f"{label} is there twice (ensemble members, or two runs); leave one in the file")
        if coordinates is None:
            coordinates, section = _coordinates(message), eccodes.codes_get(message, "md5GridSection")
        if eccodes.codes_get(message, "md5GridSection") != section:
            raise StateError(f"{label} is on another grid than the fields before it; split the file by grid")
        found[name] = values_of(message, label, _UNITS[name]).astype(float)
    names = {c: next(n for n in known if n in found) for c, known in SURFACE_FIELDS.items() if found.keys() & known}
    assert coordinates is not None
    for channel, name in names.items():
        check_values(CHANNELS[index(channel)], found[name], f"{path}, {time}")
    return PointFields(path, time, *coordinates, {channel: found[name] for channel, name in names.items()}, names)


def _is_surface(message: int) -> bool:
    return eccodes.codes_get(message, "shortName") in _UNITS and eccodes.codes_get(message, "stepType") == "instant"


def _coordinates(message: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return eccodes.codes_get_array(message, "latitudes"), eccodes.codes_get_array(message, "longitudes")


def _mesh(array: xr.DataArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitude and longitude of every point of a regular grid."""
    latitude, longitude = np.meshgrid(array.latitude.values, array.longitude.values, indexing="ij")
    return latitude.ravel().astype(float), longitude.ravel().astype(float)
