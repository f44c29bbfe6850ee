"""Read states from netCDF and Zarr: WeatherBench2 in all its layouts, ARCO-ERA5, both Climate Data Store spellings.

Variables are found by name, transposed by the names of their dimensions, and ordered by coordinate, never by position.
Zarr fills chunks that were never written with a value that may look like weather, so absent chunks are searched for
before reading.
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

from dacycle.common.damage import check_hdf5
from dacycle.common.foreign import reading
from dacycle.forecast_adapter.channels import CHANNELS, EXTRA_CHANNELS, NAMES, Channel, index
from dacycle.forecast_adapter.state import StateError, as_hour, check_values
from dacycle.forecast_adapter.states.blosc import use_checked_blosc
from dacycle.forecast_adapter.states.formats import file_kind, refuse_netcdf
from dacycle.forecast_adapter.states.schema import (
    DIMENSIONS,
    EXTRA_FIELD_NAMES,
    HOURLY,
    MEANS_OF_AN_HOUR,
    VARIABLES,
    check_extra_unit,
    check_unit,
    hours_of,
    levels_in_words,
    levels_of,
    standardised,
    validity_of,
    with_dates,
)
from dacycle.forecast_adapter.states.source import StateSource, global_grid, read_files

__all__ = ["NetcdfStates", "ZarrStates", "from_dataset"]

use_checked_blosc()

_HOUR = np.timedelta64(1, "h")


def from_dataset(dataset: xr.Dataset, time: np.datetime64 | str, source: str = "dataset") -> xr.DataArray:
    """Return the validated state (69, H, W), SI, at `time` from an open dataset.

    Its names and the order of its dimensions are any that are known.

    Raises:
        StateError: a variable, level or time is missing, or a field is invalid; names it.
    """
    state = DatasetStates(source, [_OpenDataset(source, dataset)]).state(time)
    return state.drop_attrs()


class _OpenDataset:
    """An open dataset of a product, with its coordinates decoded.

    Attributes:
        source: the file, for messages.
        data: the dataset, read lazily, with the names of `schema.standardised`.
        grid: the grid of its fields.
        times: position by time, None where the dataset has no dimension `time`.
        levels: position by level in hPa, None where the dataset has no dimension `level`.
        preliminary: times of ERA5T.
        arrays: the Zarr arrays of the variables.
    """

    def __init__(self, source: str, dataset: xr.Dataset, arrays: Mapping[str, Any] | None = None) -> None:
        self.source = source
        self.data = standardised(dataset, source)
        missing = [name for name in ("latitude", "longitude") if name not in self.data.coords]
        if missing:
            raise StateError(f"{source}: missing {', '.join(missing)}")
        latitude, longitude = (np.asarray(self.data[name], float) for name in ("latitude", "longitude"))
        self.grid = global_grid(latitude, longitude, source)
        self.rows, self.columns = np.argsort(-latitude), np.argsort(np.round(longitude % 360, 6) % 360)
        self.times: dict[np.datetime64, int | None] = hours_of(self.data, source)
        self.levels: dict[int, int | None] = levels_of(self.data)
        self.first, self.final, self.last = validity_of(dataset.attrs, source)
        self.times = {t: i for t, i in self.times.items() if self.first <= t <= self.last}
        self.preliminary = self._preliminary()
        self.arrays = arrays or {}
        self._dims = {str(name): [str(d) for d in variable.dims] for name, variable in dataset.variables.items()}
        self._written: set[tuple[str, str]] = set()

    def holds(self, channel: Channel) -> bool:
        """Return whether the dataset has the variable, and the level, of a channel."""
        name = self.variable(channel.variable)
        if name is None or channel.level is None:
            return name is not None
        position = self.levels.get(channel.level, -1)
        return position is None or (position >= 0 and "level" in self.data[name].dims)

    def variable(self, short: str) -> str | None:
        """Return the name of a variable in this dataset; None where it has none."""
        return next((name for name in VARIABLES[short] if name in self.data), None)

    def label(self, time: np.datetime64) -> str:
        """Return source and time, for messages."""
        return f"{self.source}, {time}"

    def planes(self, name: str, time: np.datetime64, levels: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Return fields of a variable at a time, (H, W), or (n, H, W) on n levels (hPa), in dacycle's order.

        Raises:
            StateError: the variable has further dimensions, is not floating point, or was never written at that time
                in a Zarr store.
        """
        variable = self.data[name]
        if "time" in variable.dims:
            variable = variable.isel(time=self.times[time])
        order = [d for d in ("expver",) if d in variable.dims]
        if levels is not None and "level" in variable.dims:
            variable = variable.isel(level=[self.levels[level] for level in levels])
            order.append("level")
        extra = [str(d) for d in variable.dims if d not in (*order, "latitude", "longitude")]
        if extra:
            problem = f"{name} has further dimensions ({', '.join(extra)}); select one entry of each first"
            raise StateError(f"{self.label(time)}: {problem}")
        with reading(f"{self.label(time)}: {name}", StateError):
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
        """Return those of the channels whose chunks are not in the Zarr store."""
        absent = []
        for channel in channels:
            name = self.variable(channel.variable)
            if name is not None and name in self.arrays and not self._is_written(name, time, channel.level):
                absent.append(channel.name)
        return absent

    def _is_written(self, name: str, time: np.datetime64, level: int | None) -> bool:
        """Return whether the chunks of a variable at a time and level are in the Zarr store."""
        array = self.arrays[name]
        position = {"time": self.times[time], "level": None if level is None else self.levels[level]}
        ranges: list[Iterable[int]] = []
        for dimension, length, size in zip(self._dims[name], array.shape, array.shards or array.chunks, strict=True):
            at = position.get(DIMENSIONS.get(dimension, dimension))
            ranges.append(range(-(-length // size)) if at is None else [at // size])
        keys = {array.metadata.encode_chunk_key(chunk) for chunk in product(*ranges)}
        unchecked = [key for key in keys if (name, key) not in self._written]
        with reading(f"{self.label(time)}: {name}", StateError):
            exist = sync(_exist(array, unchecked))
        self._written.update((name, key) for key, exists in zip(unchecked, exist, strict=True) if exists)
        return all(exist)

    def _refuse_filling(self, name: str, values: NDArray, time: np.datetime64) -> None:
        """Raise StateError for a field that holds only the fill value: a chunk inside a shard may be absent too."""
        if name not in self.arrays or self.arrays[name].fill_value is None:
            return
        planes = values.reshape(-1, values.shape[-2] * values.shape[-1])
        if (planes == np.asarray(self.arrays[name].fill_value, values.dtype)).all(axis=1).any():
            problem = f"{name} holds nothing but the store's fill value, so it was never written"
            raise StateError(f"{self.label(time)}: {problem}; complete the store")

    def _preliminary(self) -> frozenset[np.datetime64]:
        """Return the times of ERA5T: those after the store's last final time, and those with experiment version 5."""
        late = {time for time in self.times if time > self.final}
        if "expver" in self.data.coords:
            versions = self.data["expver"]
            if versions.dims == ("expver",):  # at each time one of the two is missing everywhere
                mixed = next(v for v in self.data.data_vars.values() if "expver" in v.dims)
                point = mixed.isel({d: 0 for d in mixed.dims if d != "time"}).values
                expver = np.where(np.isnan(np.atleast_1d(point)), "5", "1")
            else:
                expver = versions.values if versions.ndim else np.full(self.data.sizes.get("time", 1), versions.values)
            late |= {time for time, i in self.times.items() if str(expver[i or 0]).lstrip("0") == "5"}
        return frozenset(late)


async def _exist(array: Any, keys: list[str]) -> list[bool]:
    """Return which chunks of a Zarr array exist."""
    return list(await asyncio.gather(*((array.store_path / key).exists() for key in keys)))


def _one_version(values: NDArray) -> NDArray:
    """Return the final version of ERA5 (the first entry), or ERA5T where there is no final version yet."""
    return next((version for version in values if not np.isnan(version).all()), values[0])


class DatasetStates(StateSource):
    """States of one product in one or several datasets, on one grid.

    Variables and times may be spread over the datasets in any way, as long as none is there twice.

    Raises:
        StateError: no dataset holds a field of a state, two hold the same one, or their grids differ.
    """

    def __init__(self, name: str, datasets: Sequence[_OpenDataset], left_out: dict[str, str] | None = None) -> None:
        dated = [dataset for dataset in datasets if dataset.times]
        self._beside = [d for d in dated if any(n in d.data for _, names in EXTRA_FIELD_NAMES.values() for n in names)]
        self._datasets = [d for d in dated if any(d.holds(channel) for channel in CHANNELS)] or self._beside
        if not self._datasets:
            raise StateError(f"{name}: it holds no field of a state ({', '.join(n for n, *_ in VARIABLES.values())})")
        for dataset in [*self._datasets[1:], *self._beside]:
            if not dataset.grid.matches(self._datasets[0].grid):
                other = self._datasets[0].source
                raise StateError(f"{dataset.source} is on another grid than {other}; split them by grid")
        self._by_time: dict[np.datetime64, list[_OpenDataset]] = {}
        for dataset in self._datasets:
            for time in dataset.times:
                self._by_time.setdefault(time, []).append(dataset)
        super().__init__(name, self._datasets[0].grid, self._by_time, left_out or {})
        if len(self._datasets) > 1:
            self._refuse_doubles()

    def gaps(self, time: np.datetime64) -> list[str]:
        """Return the channels that are missing at `time`, or not yet written to a Zarr store."""
        datasets = self._by_time[self._moment(time)]
        absent = {c.name for c in CHANNELS if not any(dataset.holds(c) for dataset in datasets)}
        for dataset in datasets:
            absent.update(dataset.unwritten((c for c in CHANNELS if dataset.holds(c)), time))
        return [name for name in NAMES if name in absent]

    def describe(self, time: np.datetime64) -> str:
        """Return whether a time is ERA5T, in words."""
        hour = self._moment(time)
        late = any(hour in dataset.preliminary for dataset in self._by_time[hour])
        return "preliminary (ERA5T, expver 5)" if late else ""

    def surface(self, time: np.datetime64 | str) -> xr.Dataset:
        """Return those of `tp6h`, `olr`, `td2m`, `ps` that are there; the first two also from six hourly sums."""
        hour = self._moment(time)
        fields: dict[str, Any] = {}
        for short, (unit, names) in EXTRA_FIELD_NAMES.items():
            for name, factor in names.items():
                values = _extra_field(self._beside, name, factor, hour)
                if short not in fields and values is not None:
                    check_values(EXTRA_CHANNELS[short], values, f"{self.name}, {hour}")
                    about = {"units": unit} | ({"period": "1 h"} if name in MEANS_OF_AN_HOUR else {})
                    fields[short] = (("latitude", "longitude"), values.astype(np.float32), about)
        return xr.Dataset(fields, {"latitude": self.grid.latitude, "longitude": self.grid.longitude})

    def _read(self, time: np.datetime64, channels: Sequence[Channel]) -> tuple[NDArray[np.float32], list[str]]:
        planes: dict[str, NDArray[np.float32]] = {}
        notes: dict[str, None] = {}
        for short in dict.fromkeys(channel.variable for channel in channels):
            wanted = [channel for channel in channels if channel.variable == short]
            for dataset in self._by_time[time]:
                here = [channel for channel in wanted if dataset.holds(channel)]
                name = dataset.variable(short)
                if not here or name is None:
                    continue
                levels = [channel.level for channel in here if channel.level is not None]
                values = dataset.planes(name, time, levels or None)
                factor = check_unit(dataset.data[name], short, dataset.label(time))
                if factor != 1:
                    values, notes[f"{short} from {name} times {factor}"] = values * np.float32(factor), None
                planes |= {c.name: plane for c, plane in zip(here, values if levels else [values], strict=True)}
        return np.stack([planes[channel.name] for channel in channels]), list(notes)

    def _moment(self, time: np.datetime64 | str) -> np.datetime64:
        try:
            return super()._moment(time)
        except StateError as error:
            dataset = self._datasets[0]
            if not dataset.first <= as_hour(time) <= dataset.last:
                span = f"valid from {dataset.first} to {dataset.last}; outside of that its arrays hold nothing"
                raise StateError(f"{self.name}: no state at {time}: the store says that it is {span}") from None
            raise error

    def _remedy(self, time: np.datetime64, missing: list[str]) -> str:
        written = any(dataset.arrays for dataset in self._datasets) and any(
            all(dataset.holds(c) for c in CHANNELS if c.name in missing) for dataset in self._by_time[time]
        )
        hint = "; these were never written: complete the store" if written else ""
        if not written and any(CHANNELS[index(name)].level for name in missing):
            hint += "".join(dict.fromkeys(levels_in_words(dataset.data) for dataset in self._by_time[time]))
        return hint + self._spell_left_out()

    def _refuse_doubles(self) -> None:
        """Raise StateError where two datasets hold the same field: there is no rule which to take."""
        seen: dict[tuple[str, np.datetime64], _OpenDataset] = {}
        for dataset in self._datasets:
            for channel in CHANNELS:
                if not dataset.holds(channel):
                    continue
                for time in dataset.times:
                    other = seen.setdefault((channel.name, time), dataset)
                    if other is not dataset:
                        both = f"{other.source} and {dataset.source}"
                        raise StateError(f"{self.name}, {time}: {channel.name} is in {both}; leave one of them")


def _extra_field(
    datasets: Sequence[_OpenDataset], name: str, factor: float, time: np.datetime64
) -> NDArray[np.float64] | None:
    """Return an extra field; None where it, or one of the six hours that it is the sum of, is missing or not finite."""
    hours = [time - k * _HOUR for k in range(6)] if name in HOURLY else [time]
    found = [next((d for d in datasets if name in d.data and hour in d.times), None) for hour in hours]
    holders = [dataset for dataset in found if dataset is not None]
    if len(holders) < len(hours):
        return None
    for dataset in holders:
        check_extra_unit(dataset.data[name], dataset.label(time))
    fields = [dataset.planes(name, hour).astype(float) for dataset, hour in zip(holders, hours, strict=True)]
    values = factor * np.sum(fields, axis=0)
    return values if np.isfinite(values).all() else None


class NetcdfStates(DatasetStates):
    """States of netCDF files of one product.

    Args:
        name: the source, for messages.
        paths: the files by the names that messages have for them; those that cannot be opened are left out if there are
            others.
        left_out: further files that were left out, and the reasons.
    """

    def __init__(self, name: str, paths: Mapping[str, Path], left_out: Mapping[str, str]) -> None:
        super().__init__(name, *read_files(paths, left_out, _opened))


class ZarrStates(DatasetStates):
    """States of a Zarr store (format 2 or 3, with or without consolidated metadata), local or at a URL."""

    def __init__(self, name: str) -> None:
        with reading(f"{name}: as Zarr", StateError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other files beside the arrays; metadata that are not consolidated
            group = zarr.open_group(name, mode="r")
            arrays = dict(group.arrays())
            empty = [array for array, about in arrays.items() if 0 in (about.shards or about.chunks)]
            if empty:
                raise StateError(f"{name}: the metadata of {', '.join(empty)} are damaged: chunks of no size")
            groups = [] if arrays else sorted(group.group_keys())
            if groups:
                raise StateError(f"{name}: is a group of stores ({', '.join(groups)}); name one, as {name}/{groups[0]}")
            dataset = xr.open_zarr(group.store, group=group.path or None, chunks=None, decode_times=False)
            opened = _OpenDataset(name, with_dates(dataset, name), arrays)
        super().__init__(name, [opened])


def _opened(path: Path) -> _OpenDataset:
    """Open a netCDF file lazily."""
    engine = file_kind(path)
    with reading(f"{path}: as netCDF", StateError):
        if engine == "h5netcdf":
            check_hdf5(path, StateError)
            refuse_netcdf(path)
        dataset = xr.open_dataset(path, engine=engine, decode_times=False)
        return _OpenDataset(str(path), with_dates(dataset, str(path)))
