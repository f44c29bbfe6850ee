"""States from netCDF and Zarr: WeatherBench2 in all its layouts, ARCO-ERA5, both spellings of the Climate Data Store.

Variables are found by name, transposed by the names of their dimensions, and ordered by coordinate, never by position.
Zarr fills chunks that were never written with a value that may look like weather: they are looked for before reading.
"""

import asyncio
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from dacycle.forecast_adapter.channels import CHANNELS, NAMES, Channel
from dacycle.forecast_adapter.state import StateError, as_hour
from dacycle.forecast_adapter.states.schema import (
    BESIDE,
    DIMENSIONS,
    HOURLY,
    VARIABLES,
    check_unit,
    hours_of,
    levels_of,
    standardised,
    validity_of,
)
from dacycle.forecast_adapter.states.source import StateSource, global_grid

__all__ = ["NETCDF", "NetcdfStates", "ZarrStates", "from_dataset"]

NETCDF = {b"CDF": "scipy", b"\x89HD": "h5netcdf"}
"""xarray's engines for netCDF-3 and netCDF-4, by a file's first three bytes."""

_HOUR = np.timedelta64(1, "h")


def from_dataset(dataset: xr.Dataset, time: np.datetime64 | str, source: str = "dataset") -> xr.DataArray:
    """A validated state at `time` from an open dataset, whatever its names and the order of its dimensions.

    Raises:
        StateError: naming the missing variable, level or time, or what `validate` finds.
    """
    state = DatasetStates(source, [_Part(source, dataset)]).state(time)
    return state.drop_attrs()


class _Part:
    """One dataset of a product, its coordinates looked at once.

    Attributes:
        source: the file, for messages.
        dataset: lazily read, with the names of `schema.standardised`.
        grid: of its fields.
        times: position of each time; of None where the dataset has no dimension `time`.
        levels: position of each level in hPa; None likewise.
        preliminary: times of ERA5T.
        arrays: the Zarr arrays behind the variables.
    """

    def __init__(self, source: str, dataset: xr.Dataset, arrays: Mapping[str, Any] | None = None) -> None:
        self.source = source
        self.dataset = standardised(dataset, source)
        missing = [name for name in ("latitude", "longitude") if name not in self.dataset.coords]
        if missing:
            raise StateError(f"{source}: missing {', '.join(missing)}")
        latitude, longitude = (np.asarray(self.dataset[name], float) for name in ("latitude", "longitude"))
        self.grid = global_grid(latitude, longitude, source)
        self.rows, self.columns = np.argsort(-latitude), np.argsort(np.round(longitude % 360, 6) % 360)
        self.times: dict[np.datetime64, int | None] = hours_of(self.dataset, source)
        self.levels: dict[int, int | None] = levels_of(self.dataset)
        self.first, self.final, self.last = validity_of(dataset.attrs, source)
        self.times = {t: i for t, i in self.times.items() if self.first <= t <= self.last}
        self.preliminary = self._preliminary()
        self.arrays = arrays or {}
        self._dims = {str(name): [str(d) for d in variable.dims] for name, variable in dataset.variables.items()}
        self._written: set[tuple[str, str]] = set()

    def holds(self, channel: Channel) -> bool:
        """Whether the dataset has the variable, and the level, of a channel."""
        name = self.variable(channel.variable)
        if name is None or channel.level is None:
            return name is not None
        position = self.levels.get(channel.level, -1)
        return position is None or (position >= 0 and "level" in self.dataset[name].dims)

    def variable(self, short: str) -> str | None:
        """The name under which a variable is here."""
        return next((name for name in VARIABLES[short] if name in self.dataset), None)

    def label(self, time: np.datetime64) -> str:
        return f"{self.source}, {time}"

    def planes(self, name: str, time: np.datetime64, levels: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Fields of a variable at a time, (H, W), or (n, H, W) of n levels (hPa), in dacycle's order.

        Raises:
            StateError: it has further dimensions, another unit, is not floating point, or its place in a Zarr store
                was never written.
        """
        variable = self.dataset[name]
        if "time" in variable.dims:
            variable = variable.isel(time=self.times[time])
        order = [d for d in ("expver",) if d in variable.dims]
        if levels is not None and "level" in variable.dims:
            variable = variable.isel(level=[self.levels[level] for level in levels])
            order.append("level")
        extra = [str(d) for d in variable.dims if d not in (*order, "latitude", "longitude")]
        if extra:
            said = f"{name} has further dimensions ({', '.join(extra)}); select one entry of each first"
            raise StateError(f"{self.label(time)}: {said}")
        values = variable.transpose(*order, "latitude", "longitude").values
        if "expver" in variable.dims:
            values = _one_version(values)
        if not np.issubdtype(values.dtype, np.floating):
            raise StateError(f"{self.label(time)}: {name} is {values.dtype}, not floating point")
        self._refuse_filling(name, values, time)
        if levels is not None and values.ndim == 2:
            values = values[None]
        return values[..., self.rows, :][..., self.columns].astype(np.float32)

    def unwritten(self, channels: Iterable[Channel], time: np.datetime64) -> list[str]:
        """Those of the channels whose chunks are not in the Zarr store."""
        absent = []
        for channel in channels:
            name = self.variable(channel.variable)
            if name is not None and name in self.arrays and not self._is_written(name, time, channel.level):
                absent.append(channel.name)
        return absent

    def _is_written(self, name: str, time: np.datetime64, level: int | None) -> bool:
        array = self.arrays[name]
        position = {"time": self.times[time], "level": None if level is None else self.levels[level]}
        ranges: list[Iterable[int]] = []
        for dimension, length, size in zip(self._dims[name], array.shape, array.shards or array.chunks, strict=True):
            at = position.get(DIMENSIONS.get(dimension, dimension))
            ranges.append(range(-(-length // size)) if at is None else [at // size])
        keys = {array.metadata.encode_chunk_key(place) for place in product(*ranges)}
        due = [key for key in keys if (name, key) not in self._written]
        there = sync(_exist(array, due))
        self._written.update((name, key) for key, found in zip(due, there, strict=True) if found)
        return all(there)

    def _refuse_filling(self, name: str, values: NDArray, time: np.datetime64) -> None:
        """Chunks inside a shard may be absent too: a field of nothing but the filling gives it away."""
        if name not in self.arrays or self.arrays[name].fill_value is None:
            return
        planes = values.reshape(-1, values.shape[-2] * values.shape[-1])
        if (planes == np.asarray(self.arrays[name].fill_value, values.dtype)).all(axis=1).any():
            said = f"{name} holds nothing but the store's fill value, so it was never written"
            raise StateError(f"{self.label(time)}: {said}; complete the store")

    def _preliminary(self) -> frozenset[np.datetime64]:
        """Times of ERA5T: after the last final one of a store, or with version 5 along the axis of time."""
        late = {time for time in self.times if time > self.final}
        if "expver" in self.dataset.coords:
            versions = self.dataset["expver"]
            if versions.dims == ("expver",):  # one of them is missing at each time, everywhere
                mixed = next(v for v in self.dataset.data_vars.values() if "expver" in v.dims)
                point = mixed.isel({d: 0 for d in mixed.dims if d != "time"}).values
                each = np.where(np.isnan(np.atleast_1d(point)), "5", "1")
            else:
                each = versions.values if versions.ndim else np.full(self.dataset.sizes.get("time", 1), versions.values)
            late |= {time for time, i in self.times.items() if str(each[i or 0]).lstrip("0") == "5"}
        return frozenset(late)


async def _exist(array: Any, keys: list[str]) -> list[bool]:
    return list(await asyncio.gather(*((array.store_path / key).exists() for key in keys)))


def _one_version(values: NDArray) -> NDArray:
    """The final version of ERA5 (the first entry), or ERA5T where that is not there yet."""
    return next((version for version in values if not np.isnan(version).all()), values[0])


class DatasetStates(StateSource):
    """States of one product in one or several datasets, on one grid.

    Variables and times may be spread over the datasets in any way, as long as none is there twice.

    Raises:
        StateError: no dataset holds a field of a state, two hold the same one, or their grids differ.
    """

    def __init__(self, name: str, parts: Sequence[_Part], unreadable: dict[str, str] | None = None) -> None:
        self._parts = [part for part in parts if any(part.holds(channel) for channel in CHANNELS) and part.times]
        if not self._parts:
            raise StateError(f"{name}: it holds no field of a state ({', '.join(n for n, *_ in VARIABLES.values())})")
        for part in self._parts[1:]:
            if not part.grid.matches(self._parts[0].grid):
                raise StateError(f"{part.source} is on another grid than {self._parts[0].source}; split them by grid")
        self._by_time: dict[np.datetime64, list[_Part]] = {}
        for part in self._parts:
            for time in part.times:
                self._by_time.setdefault(time, []).append(part)
        super().__init__(name, self._parts[0].grid, self._by_time, unreadable or {})
        if len(self._parts) > 1:
            self._refuse_doubles()

    def gaps(self, time: np.datetime64) -> list[str]:
        """Names of the channels that are not there at `time`, or in a Zarr store not yet written."""
        parts = self._by_time[self._moment(time)]
        absent = {c.name for c in CHANNELS if not any(part.holds(c) for part in parts)}
        for part in parts:
            absent.update(part.unwritten((c for c in CHANNELS if part.holds(c)), time))
        return [name for name in NAMES if name in absent]

    def describe(self, time: np.datetime64) -> str:
        """That a time is ERA5T."""
        hour = self._moment(time)
        late = any(hour in part.preliminary for part in self._by_time[hour])
        return "preliminary (ERA5T, expver 5)" if late else ""

    def surface(self, time: np.datetime64 | str) -> xr.Dataset:
        """Those of `tp6h`, `olr`, `td2m`, `ps` that are there, the first two also as sums of six hours that are."""
        hour = self._moment(time)
        found: dict[str, Any] = {}
        for short, (unit, names) in BESIDE.items():
            for part in self._by_time[hour]:
                values = _beside(part, short, names, hour)
                if values is not None:
                    found[short] = (("latitude", "longitude"), values.astype(np.float32), {"units": unit})
        return xr.Dataset(found, {"latitude": self.grid.latitude, "longitude": self.grid.longitude})

    def _read(self, time: np.datetime64, channels: Sequence[Channel]) -> tuple[NDArray[np.float32], list[str]]:
        planes: dict[str, NDArray[np.float32]] = {}
        notes: dict[str, None] = {}
        for short in dict.fromkeys(channel.variable for channel in channels):
            wanted = [channel for channel in channels if channel.variable == short]
            for part in self._by_time[time]:
                here = [channel for channel in wanted if part.holds(channel)]
                name = part.variable(short)
                if not here or name is None:
                    continue
                levels = [channel.level for channel in here if channel.level is not None]
                values = part.planes(name, time, levels or None)
                factor = check_unit(part.dataset[name], short, part.label(time))
                if factor != 1:
                    values, notes[f"{short} from {name} times {factor}"] = values * np.float32(factor), None
                planes |= {c.name: plane for c, plane in zip(here, values if levels else [values], strict=True)}
        return np.stack([planes[channel.name] for channel in channels]), list(notes)

    def _moment(self, time: np.datetime64 | str) -> np.datetime64:
        try:
            return super()._moment(time)
        except StateError as error:
            part = self._parts[0]
            if not part.first <= as_hour(time) <= part.last:
                span = f"valid from {part.first} to {part.last}; outside of that its arrays hold nothing"
                raise StateError(f"{self.name}: no state at {time}: the store says that it is {span}") from None
            raise error

    def _remedy(self, time: np.datetime64, missing: list[str]) -> str:
        written = any(part.arrays for part in self._parts) and any(
            all(part.holds(c) for c in CHANNELS if c.name in missing) for part in self._by_time[time]
        )
        return ("; these were never written: complete the store" if written else "") + self._left_out()

    def _refuse_doubles(self) -> None:
        """Two datasets with one field: which is meant cannot be known."""
        seen: dict[tuple[str, np.datetime64], _Part] = {}
        for part in self._parts:
            for channel in CHANNELS:
                if not part.holds(channel):
                    continue
                for time in part.times:
                    other = seen.setdefault((channel.name, time), part)
                    if other is not part:
                        both = f"{other.source} and {part.source}"
                        raise StateError(f"{self.name}, {time}: {channel.name} is in {both}; leave one of them")


def _beside(part: _Part, short: str, names: Mapping[str, float], time: np.datetime64) -> NDArray | None:
    """A surface field beside the state; None where it, or one of the six hours it is a sum of, is not there."""
    for name, factor in names.items():
        hours = [time - k * _HOUR for k in range(6)] if name in HOURLY else [time]
        if name in part.dataset and all(hour in part.times for hour in hours):
            values = factor * np.sum([part.planes(name, hour).astype(float) for hour in hours], axis=0)
            if np.isfinite(values).all():
                return values
    return None


class NetcdfStates(DatasetStates):
    """States of netCDF files of one product.

    Args:
        name: of the source, for messages.
        paths: the files; those that cannot be opened are left out if there are others.
    """

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        parts: list[_Part] = []
        unreadable: dict[str, str] = {}
        for path in paths:
            try:
                parts.append(_Part(str(path), _opened(path)))
            except StateError as error:
                if len(paths) == 1:
                    raise
                unreadable[path.name] = str(error).removeprefix(f"{path}: ")
        super().__init__(name, parts, unreadable)


class ZarrStates(DatasetStates):
    """States of a Zarr store (format 2 or 3, with or without consolidated metadata), local or at a URL."""

    def __init__(self, name: str) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what lies beside the arrays; metadata that are not consolidated
                group = zarr.open_group(name, mode="r")
                dataset = xr.open_zarr(group.store, group=group.path or None, chunks=None)
                arrays = dict(group.arrays())
                groups = sorted(group.group_keys()) if not arrays else []
        except (ImportError, OSError, ValueError, TypeError, KeyError) as error:
            raise StateError(f"{name}: cannot be opened as Zarr: {error}") from error
        if groups:
            raise StateError(f"{name}: is a group of stores ({', '.join(groups)}); name one, as {name}/{groups[0]}")
        super().__init__(name, [_Part(name, dataset, arrays)])


def _opened(path: Path) -> xr.Dataset:
    with path.open("rb") as file:
        engine = NETCDF.get(file.read(3))
    try:
        return xr.open_dataset(path, engine=engine)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StateError(f"{path}: cannot be opened as netCDF: {error}") from error
