"""Surface fields as values at points of any grid: read from a file, interpolated, written back.

A single analysis needs no rows and columns, so reduced Gaussian, regional and regular grids are all a list of points.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import eccodes
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from dacycle.common.foreign import reading
from dacycle.forecast_adapter.channels import CHANNELS, index
from dacycle.forecast_adapter.physics import EARTH_RADIUS_KM, GRAVITY
from dacycle.forecast_adapter.state import StateError, as_hour, check_ground, check_values
from dacycle.forecast_adapter.states.files import file_format, write_states
from dacycle.forecast_adapter.states.grib import SURFACE_CHANNELS
from dacycle.forecast_adapter.states.grib_messages import key_of, messages, on_points, start_time, valid_time
from dacycle.forecast_adapter.states.grib_products import why_unfit
from dacycle.forecast_adapter.states.grib_writer import new_grib, pack
from dacycle.forecast_adapter.states.products import is_grib, open_states
from dacycle.forecast_adapter.states.source import spell_fields

__all__ = [
    "PointFields",
    "Stencil",
    "check_writable",
    "holds_orography",
    "positions",
    "read_orography",
    "read_points",
    "stencil",
    "write_points",
]

NEIGHBOURS = 4
BITS = 16
"""Least bits per value of a written field, so that increments survive where the background was packed coarsely."""

_REPACK = "pack the background anew: grib_set -r -s packingType=grid_simple IN OUT"

_UNITS = {name: unit for names in SURFACE_CHANNELS.values() for name, unit in names.items()}
_HEIGHTS = {"orog": ("m", 1.0), "z": ("m**2 s**-2", 1 / GRAVITY)}


@dataclass(frozen=True, eq=False)
class PointFields:
    """Surface channels of a file at one time, in the file's order of points.

    Attributes:
        path: the file.
        time: valid time, datetime64[h].
        latitude, longitude: (n,) degrees.
        values: (n,) float64 by channel (`t2m`, `msl`, `u10`, `v10`), SI.
        names: by channel, its name in the GRIB file.
        notes: which fields of these names were left out, and why.
    """

    path: Path
    time: np.datetime64
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    values: dict[str, NDArray[np.float64]]
    names: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def only(self, channels: Collection[str]) -> "PointFields":
        """Return these fields without the other channels."""
        return replace(self, values={name: values for name, values in self.values.items() if name in channels})


@dataclass(frozen=True, eq=False)
class Stencil:
    """The interpolation of fields to m places: the nearest points and their weights.

    Attributes:
        points: (m, 4) positions in the list of points.
        weights: (m, 4), each row with the sum 1; NaN for a place outside the points' area.
        spacing_km: the largest distance of a point from its nearest neighbour.
    """

    points: NDArray[np.intp]
    weights: NDArray[np.float64]
    spacing_km: float

    def __call__(self, values: NDArray) -> NDArray[np.float64]:
        """Interpolate values (n,) of the points to the places, (m,); NaN outside the points' area."""
        return (values[self.points] * self.weights).sum(axis=1)


def positions(latitude: ArrayLike, longitude: ArrayLike) -> NDArray[np.float64]:
    """Return positions (n, 3) on the sphere, km; their distances are chords, at 1000 km 0.1 % shorter than the arc."""
    lat, lon = np.deg2rad(np.asarray(latitude, float)), np.deg2rad(np.asarray(longitude, float))
    return EARTH_RADIUS_KM * np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def stencil(fields: PointFields, latitude: NDArray, longitude: NDArray) -> Stencil:
    """Return the interpolation from the four nearest points, weighted by 1 / distance^2, which is exact at a point.

    A place farther from every point than 1.5 times the largest spacing is outside the area of a regional field.
    """
    points = positions(fields.latitude, fields.longitude)
    tree = cKDTree(points)
    spacing = float(tree.query(points, k=2)[0][:, 1].max())
    distance, nearest = tree.query(positions(latitude, longitude), k=NEIGHBOURS)
    weights = 1 / np.maximum(distance, 1e-6) ** 2  # places within a millimetre are at the point
    weights /= weights.sum(axis=1, keepdims=True)
    weights[distance[:, 0] > 1.5 * spacing] = np.nan
    return Stencil(nearest, weights, spacing)


def read_points(path: Path, time: np.datetime64 | None = None) -> PointFields:
    """Read the surface channels of a GRIB file on any grid, or of a netCDF file or Zarr store.

    Args:
        path: the file; fields other than the surface channels are ignored.
        time: the valid time (UTC) to take; needed only where the file holds several.

    Raises:
        StateError: the file cannot be read, or holds no surface channel at that time, or one twice, on several grids,
            with missing or implausible values, or in another unit; names file, field and time.
    """
    if is_grib(path):
        return _read_grib(path, time)
    source = open_states(path)
    time = source.only_time() if time is None else as_hour(time)
    absent = source.gaps(time)
    there = [name for name in SURFACE_CHANNELS if name not in absent]
    if not there:
        raise StateError(f"{path}, {time}: it holds no surface channel ({', '.join(SURFACE_CHANNELS)})")
    state = source.fields(time, there)
    values = {name: plane.ravel().astype(float) for name, plane in zip(there, state.values, strict=True)}
    return PointFields(path, as_hour(state.time.values), *_mesh(state), values)


def read_orography(path: Path) -> PointFields:
    """Read the height of the ground in m, as the one field `orography`, on any grid.

    Args:
        path: GRIB with `orog`, or geopotential `z`, at the surface; or netCDF with WeatherBench2's
            `geopotential_at_surface`.

    Raises:
        StateError: the file cannot be read or holds no such field; names it.
    """
    ground = _grib_orography(path) if is_grib(path) else _netcdf_orography(path)
    check_ground(ground.values["orography"], path)
    return ground


def holds_orography(path: Path) -> bool:
    """Return whether a file of fields also holds the height of the ground, which `read_orography` then reads.

    Raises:
        StateError: the file cannot be read.
    """
    if is_grib(path):
        return any(_is_orography(message, path) for message in messages(path))
    with reading(path, StateError), xr.open_dataset(path) as dataset:
        return "geopotential_at_surface" in dataset


def _is_orography(message: int, path: Path) -> bool:
    with reading(path, StateError):
        return key_of(message, "shortName") in _HEIGHTS and key_of(message, "typeOfLevel") == "surface"


def _netcdf_orography(path: Path) -> PointFields:
    with reading(f"{path}: geopotential_at_surface(latitude, longitude)", StateError), xr.open_dataset(path) as dataset:
        ground = dataset["geopotential_at_surface"].transpose("latitude", "longitude").load()
        points = _mesh(ground)
    return PointFields(path, np.datetime64("NaT"), *points, {"orography": ground.values.ravel() / GRAVITY})


def _grib_orography(path: Path) -> PointFields:
    unfit: list[str] = []
    for message in messages(path):
        if not _is_orography(message, path):
            continue
        with reading(path, StateError):
            name, reason, time = key_of(message, "shortName"), why_unfit(message), valid_time(message)
        if reason:
            unfit.append(f"{name}, {reason}")
            continue
        unit, factor = _HEIGHTS[name]
        latitude, longitude, values = on_points(message, f"{path}: {name}", unit)
        return PointFields(path, as_hour(time), latitude, longitude, {"orography": values.astype(float) * factor})
    left = f"; left out: {'; '.join(unfit)}" if unfit else ""
    raise StateError(f"{path}: it holds no orography ({' or '.join(_HEIGHTS)} at the surface){left}")


def write_points(path: Path, like: PointFields, values: Mapping[str, NDArray], *, rest: bool) -> None:
    """Write fields into copies of the messages (or the state) that they belong to, marked as an analysis.

    The time of the analysis is the valid time. GRIB messages keep grid, level, parameter and packing (with 16 bits or
    more). The file appears under its name only when it is whole and readers find in it what was written.

    Args:
        path: the file to write, of the same kind as that of `like`.
        like: the fields that were read.
        values: (n,) by channel.
        rest: whether the file's other fields of that time are copied. If not, GRIB lacks them and a state has 0 there.

    Raises:
        StateError: the packing of the background cannot hold the values, or readers find others.
    """
    if not is_grib(like.path):
        state = open_states(like.path).state(like.time)
        written = state.copy(data=state.values if rest else np.zeros_like(state.values))
        for name, field_values in values.items():
            written.values[index(name)] = field_values.reshape(written.shape[1:])
        write_states(path, [written], {"title": "Analysis", "source": like.path.name})
        return
    channels = {like.names[channel]: channel for channel in values}
    with new_grib(path) as file:
        for message in messages(like.path):
            if not _is_valid_at(message, like.time):
                continue
            channel = channels.get(_name(message)) if not why_unfit(message) else None
            if channel is not None:
                with _analysis(message, values[channel], f"{path}: {channel}, {like.time}") as analysis:
                    file.add(analysis)
            elif rest:
                file.copy(message)


def check_writable(path: Path, like: PointFields) -> None:
    """Raise StateError where `write_points` could not write an analysis of these fields, before there is one.

    Args:
        path: the file to write; its ending must be one of the background's format.
        like: the fields that were read.
    """
    if not is_grib(like.path):
        file_format(path)
        open_states(like.path).state(like.time)
        return
    channels = {name: channel for channel, name in like.names.items() if channel in like.values}
    noise = np.random.default_rng(0).uniform(-0.01, 0.01, len(like.latitude))
    for message in messages(like.path):
        channel = channels.get(_name(message)) if _is_valid_at(message, like.time) else None
        if channel is None or why_unfit(message):
            continue
        edition = eccodes.codes_get(message, "edition")
        endings = (".grib", ".grb", f".grib{edition}", f".grb{edition}")
        if path.suffix.lower() not in endings:
            raise StateError(
                f"{path}: the background is GRIB{edition}, and its analysis is written so too: end the name in "
                f"{', '.join(endings)}; for another format, convert the background first"
            )
        values = like.values[channel]
        trial = values + noise * max(np.ptp(values), 1.0)
        with _analysis(message, trial, f"{like.path}: {channel}, {like.time}"):
            pass


@contextmanager
def _analysis(message: int, values: NDArray, label: str) -> Iterator[int]:
    """Yield a copy of a message with these values, marked as an analysis by each key that it has for that."""
    keys = {
        "typeOfGeneratingProcess": 0,
        "marsType": "an",
        "dataDate": eccodes.codes_get(message, "validityDate"),
        "dataTime": eccodes.codes_get(message, "validityTime"),
        "stepRange": "0",
        "decimalScaleFactor": 0,  # else values are rounded to its decimals, as NCEP's are
    }
    copy = eccodes.codes_clone(message)
    try:
        for key, value in keys.items():
            # Some producers' messages, TIGGE's for one, have no analyses under this key.
            with suppress(eccodes.CodesInternalError):
                if eccodes.codes_is_defined(copy, key):
                    eccodes.codes_set(copy, key, value)
        time = valid_time(message)
        if (start_time(copy), valid_time(copy)) != (time, time):
            raise StateError(f"{label}: its message cannot be given the time of an analysis; convert the background")
        pack(copy, values, max(BITS, eccodes.codes_get(copy, "bitsPerValue")), label, _REPACK)
        yield copy
    finally:
        eccodes.codes_release(copy)


def _read_grib(path: Path, time: np.datetime64 | None) -> PointFields:
    """Read the surface channels of a GRIB file, see `read_points`."""
    times, notes = _times(path)
    spelt = ", ".join(np.datetime_as_string(t, "m") for t in times)
    if not times:
        left = "".join(f"; {note}" for note in notes)
        raise StateError(f"{path}: it holds no surface channel ({', '.join(_UNITS)}){left}")
    if time is None and len(times) > 1:
        raise StateError(f"{path}: holds {len(times)} times ({spelt}); say which one to take")
    time = as_hour(times[0] if time is None else time)
    if time not in times:
        raise StateError(f"{path}: nothing is valid at {time}; it holds {spelt}")
    fields: dict[str, NDArray] = {}
    latitude = longitude = np.array([])
    section = ""
    for message in messages(path):
        with reading(path, StateError):
            name = _name(message)
            if name not in _UNITS or why_unfit(message) or valid_time(message) != time:
                continue
            its_section = key_of(message, "md5GridSection")
        label = f"{path}, {time}: {name}"
        if name in fields:
            raise StateError(f"{label} is there twice (ensemble members, or two runs); leave one in the file")
        if fields and its_section != section:
            raise StateError(f"{label} is on another grid than the fields before it; split the file by grid")
        latitude, longitude, values = on_points(message, label, _UNITS[name])
        fields[name], section = values.astype(float), its_section
    names = {
        channel: next(name for name in its_names if name in fields)
        for channel, its_names in SURFACE_CHANNELS.items()
        if fields.keys() & its_names
    }
    for channel, name in names.items():
        check_values(CHANNELS[index(channel)], fields[name], f"{path}, {time}")
    by_channel = {channel: fields[name] for channel, name in names.items()}
    return PointFields(path, time, latitude, longitude, by_channel, names, notes)


def _times(path: Path) -> tuple[list[np.datetime64], tuple[str, ...]]:
    """Return the times of a file's surface channels, and notes on fields that have their names and are none."""
    times: set[np.datetime64] = set()
    unfit: dict[str, list[str]] = {}
    for count, message in enumerate(messages(path), 1):
        with reading(f"{path}: field {count}", StateError):
            name = _name(message)
            if name not in _UNITS:
                continue
            reason = why_unfit(message)
            if not reason:
                times.add(valid_time(message))
                continue
        unfit.setdefault(reason, []).append(name)
    return sorted(times), tuple(f"left out: {reason} ({spell_fields(names)})" for reason, names in unfit.items())


def _is_valid_at(message: int, time: np.datetime64) -> bool:
    """Return whether a field is valid at a time; one of which ecCodes cannot tell the time is not."""
    with suppress(StateError), reading("valid time", StateError):
        return bool(valid_time(message) == time)
    return False


def _name(message: int) -> str:
    return str(key_of(message, "shortName"))


def _mesh(array: xr.DataArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return latitude and longitude of every point of a regular grid."""
    latitude, longitude = np.meshgrid(array.latitude.values, array.longitude.values, indexing="ij")
    return latitude.ravel().astype(float), longitude.ravel().astype(float)
