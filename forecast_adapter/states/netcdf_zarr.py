"""Read states from netCDF and Zarr: WeatherBench2 in all its layouts, ARCO-ERA5, both Climate Data Store spellings.

`open_dataset` describes how their variables are found and read.
"""

import warnings
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from dacycle.common.damage import check_hdf5
from dacycle.common.foreign import plain_attributes, reading
from dacycle.forecast_adapter.blosc import use_checked_blosc
from dacycle.forecast_adapter.channels import CHANNELS, EXTRA_CHANNELS, NAMES, Channel, index
from dacycle.forecast_adapter.remote import is_url
from dacycle.forecast_adapter.state import StateError, as_hour, check_values
from dacycle.forecast_adapter.states.formats import file_kind, refuse_netcdf
from dacycle.forecast_adapter.states.open_dataset import OpenDataset
from dacycle.forecast_adapter.states.schema import (
    EXTRA_FIELD_NAMES,
    HOURLY,
    MEANS_OF_AN_HOUR,
    VARIABLES,
    check_extra_unit,
    check_unit,
    levels_in_words,
    with_dates,
)
from dacycle.forecast_adapter.states.source import StateSource, read_files
from dacycle.forecast_adapter.zarr_store import KeptStore, RemoteStore

__all__ = ["NetcdfStates", "ZarrStates", "from_dataset"]

use_checked_blosc()

_HOUR = np.timedelta64(1, "h")


def from_dataset(dataset: xr.Dataset, time: np.datetime64 | str, source: str = "dataset") -> xr.DataArray:
    """Return the validated state (69, H, W), SI, at `time` from an open dataset.

    Its names and the order of its dimensions are any that are known.

    Raises:
        StateError: a variable, level or time is missing, or a field is invalid; names it.
    """
    state = DatasetStates(source, [OpenDataset(source, dataset)]).state(time)
    return state.drop_attrs()


class DatasetStates(StateSource):
    """States of one product in one or several datasets, on one grid.

    Variables and times may be spread over the datasets in any way, as long as none is there twice.

    Raises:
        StateError: no dataset holds a field of a state, two hold the same one, or their grids differ.
    """

    def __init__(self, name: str, datasets: Sequence[OpenDataset], left_out: dict[str, str] | None = None) -> None:
        dated = [dataset for dataset in datasets if dataset.times]
        self._beside = [d for d in dated if any(n in d.data for _, names in EXTRA_FIELD_NAMES.values() for n in names)]
        self._datasets = [d for d in dated if any(d.holds(channel) for channel in CHANNELS)] or self._beside
        if not self._datasets:
            raise StateError(f"{name}: it holds no field of a state ({', '.join(n for n, *_ in VARIABLES.values())})")
        for dataset in [*self._datasets[1:], *self._beside]:
            if not dataset.grid.matches(self._datasets[0].grid):
                other = self._datasets[0].source
                raise StateError(f"{dataset.source} is on another grid than {other}; split them by grid")
        self._by_time: dict[np.datetime64, list[OpenDataset]] = {}
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

    def surface(self, time: np.datetime64 | str, wanted: Collection[str] = tuple(EXTRA_CHANNELS)) -> xr.Dataset:
        """Return those of `tp6h`, `olr`, `td2m`, `ps` that are there; the first two also from six hourly sums."""
        hour = self._moment(time)
        fields: dict[str, Any] = {}
        for short, (unit, names) in EXTRA_FIELD_NAMES.items():
            for name, factor in names.items() if short in wanted else ():
                values = None if short in fields else _extra_field(self._beside, name, factor, hour)
                if values is not None:
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
        written = any(len(dataset.arrays) for dataset in self._datasets) and any(
            all(dataset.holds(c) for c in CHANNELS if c.name in missing) for dataset in self._by_time[time]
        )
        hint = "; these were never written: complete the store" if written else ""
        if not written and any(CHANNELS[index(name)].level for name in missing):
            hint += "".join(dict.fromkeys(levels_in_words(dataset.data) for dataset in self._by_time[time]))
        return hint + self._spell_left_out()

    def _refuse_doubles(self) -> None:
        """Raise StateError where two datasets hold the same field: there is no rule which to take."""
        seen: dict[tuple[str, np.datetime64], OpenDataset] = {}
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
    datasets: Sequence[OpenDataset], name: str, factor: float, time: np.datetime64
) -> NDArray[np.float64] | None:
    """Return an extra field; None where it, or one of the six hours that it is the sum of, is missing or not finite."""
    hours = _hours(name, time)
    found = [next((d for d in datasets if name in d.data and hour in d.times), None) for hour in hours]
    holders = [dataset for dataset in found if dataset is not None]
    if len(holders) < len(hours):
        return None
    for dataset in holders:
        check_extra_unit(dataset.data[name], dataset.label(time))
    fields = [dataset.planes(name, hour).astype(float) for dataset, hour in zip(holders, hours, strict=True)]
    values = factor * np.sum(fields, axis=0)
    return values if np.isfinite(values).all() else None


def _hours(name: str, time: np.datetime64) -> list[np.datetime64]:
    """Return the hours whose values of an extra field are needed for its value at a time."""
    return [time - k * _HOUR for k in range(6)] if name in HOURLY else [time]


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
    """States of a Zarr store (format 2 or 3, with or without consolidated metadata), local or at a URL.

    Args:
        name: the store.
        kept: a folder that keeps what is fetched of a store at a URL, see `zarr_store.KeptStore`; times are then read
            in order. None: nothing is kept.
        fresh: whether kept metadata are asked for again.
    """

    def __init__(self, name: str, kept: Path | None = None, fresh: bool = True) -> None:
        with reading(f"{name}: as Zarr", StateError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other files beside the arrays; metadata that are not consolidated
            self.store = KeptStore(name, kept, fresh) if kept is not None and is_url(name) else None
            group = zarr.open_group(self.store or (RemoteStore(name) if is_url(name) else name), mode="r")
            arrays = dict(group.arrays())
            empty = [array for array, about in arrays.items() if 0 in (about.shards or about.chunks)]
            if empty:
                raise StateError(f"{name}: the metadata of {', '.join(empty)} are damaged: chunks of no size")
            groups = [] if arrays else sorted(group.group_keys())
            if groups:
                raise StateError(f"{name}: is a group of stores ({', '.join(groups)}); name one, as {name}/{groups[0]}")
            dataset = xr.open_zarr(group.store, group=group.path or None, chunks=None, decode_times=False)
            opened = OpenDataset(name, with_dates(plain_attributes(dataset), name), arrays, blocks=kept is not None)
        if self.store is not None:
            self.store.fresh = False
        self._opened = opened
        super().__init__(name, [opened])

    def objects(self, time: np.datetime64, channels: Collection[Channel], extra: Collection[str]) -> set[str]:
        """Return the keys of the objects that hold channels and extra fields at a time."""
        keys: set[str] = set()
        for short in dict.fromkeys(channel.variable for channel in channels):
            here = [c for c in channels if c.variable == short and self._opened.holds(c)]
            name = self._opened.variable(short)
            if here and name is not None:
                keys |= self._opened.keys(name, time, [channel.level for channel in here])
        for short in extra:
            for name in EXTRA_FIELD_NAMES[short][1]:
                hours = _hours(name, time)
                if name in self._opened.arrays and all(hour in self._opened.times for hour in hours):
                    keys.update(*(self._opened.keys(name, hour) for hour in hours))
                    break
        return keys

    def size(self, keys: Sequence[str]) -> float:
        """Return the bytes of objects of the store, estimated from three of each array, spread over the times."""
        total = 0.0
        for name, several in groupby(sorted(keys), self._opened.arrays.name_of):
            its_keys = list(several)
            some = [its_keys[i] for i in sorted({0, len(its_keys) // 2, len(its_keys) - 1})]
            if self.store is not None and name:
                total += len(its_keys) * float(np.mean(self.store.sizes(some)))
        return total

    def declared(self) -> list[str]:
        """Return which extra fields the metadata list, those of another period than six hours left out."""
        return [
            short
            for short, (_, names) in EXTRA_FIELD_NAMES.items()
            if any(name in self._opened.arrays and name not in MEANS_OF_AN_HOUR for name in names)
        ]


def _opened(path: Path) -> OpenDataset:
    """Open a netCDF file lazily."""
    engine = file_kind(path)
    with reading(f"{path}: as netCDF", StateError):
        if engine == "h5netcdf":
            check_hdf5(path, StateError)
            refuse_netcdf(path)
        dataset = xr.open_dataset(path, engine=engine, decode_times=False)
        return OpenDataset(str(path), with_dates(plain_attributes(dataset), str(path)))
