"""Open datasets of a product of states, netCDF or Zarr, with their coordinates decoded.

Variables are found by name, transposed by the names of their dimensions, and ordered by coordinate, never by position.
Zarr fills chunks that were never written with a value that may look like weather, so absent chunks are searched for
before reading.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.common.foreign import reading
from dacycle.forecast_adapter.channels import Channel
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.schema import (
    DIMENSIONS,
    VARIABLES,
    hours_of,
    levels_of,
    standardised,
    validity_of,
)
from dacycle.forecast_adapter.states.source import global_grid
from dacycle.forecast_adapter.zarr_store import Arrays

__all__ = ["OpenDataset"]

_LARGEST_BLOCK = 1 << 28
"""Bytes of one variable that stay in memory between times: those of a chunk of many times."""


class OpenDataset:
    """An open dataset of a product, with its coordinates decoded.

    Attributes:
        source: the file, for messages.
        data: the dataset, read lazily, with the names of `schema.standardised`.
        grid: the grid of its fields.
        times: position by time, None where the dataset has no dimension `time`.
        levels: position by level in hPa, None where the dataset has no dimension `level`.
        preliminary: times of ERA5T.
        arrays: the Zarr arrays of the variables.
        blocks: whether all times of a chunk are read at once, as is right where times are asked for in order.
    """

    def __init__(
        self, source: str, dataset: xr.Dataset, arrays: Mapping[str, Any] | None = None, blocks: bool = False
    ) -> None:
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
        dims = {str(name): [DIMENSIONS.get(str(d), str(d)) for d in v.dims] for name, v in dataset.variables.items()}
        self.arrays = Arrays(arrays or {}, dims)
        self._blocks: dict[str, tuple[object, xr.DataArray]] | None = {} if blocks else None

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
        order = [d for d in ("expver",) if d in variable.dims]
        if levels is not None and "level" in variable.dims:
            variable = variable.isel(level=[self.levels[level] for level in levels])
            order.append("level")
        if "time" in variable.dims:
            with reading(f"{self.label(time)}: {name}", StateError):
                variable = self._at(variable, time)
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

    def _at(self, variable: xr.DataArray, time: np.datetime64) -> xr.DataArray:
        """Return a variable at a time, from the block in memory where blocks are read."""
        position, name = self.times[time], str(variable.name)
        if self._blocks is None or position is None or name not in self.arrays:
            return variable.isel(time=position)
        count = self.arrays.length(name, "time")
        if count == 1 or variable.nbytes // variable.sizes["time"] * count > _LARGEST_BLOCK:
            return variable.isel(time=position)
        first = position - position % count
        block = (first, variable.sizes)
        if self._blocks.get(name, (None,))[0] != block:
            self._blocks[name] = block, variable.isel(time=slice(first, first + count)).load()
        return self._blocks[name][1].isel(time=position - first)

    def keys(self, name: str, time: np.datetime64, levels: Iterable[int | None] = ()) -> set[str]:
        """Return the keys of the objects of a Zarr store that hold a variable at a time, on these or all levels."""
        at = {"time": [self.times[time]], "level": [self.levels[level] for level in levels if level is not None]}
        chosen = {dim: [i for i in positions if i is not None] for dim, positions in at.items()}
        return self.arrays.keys(name, {dim: positions for dim, positions in chosen.items() if positions})

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
        with reading(f"{self.label(time)}: {name}", StateError):
            return self.arrays.are_written(name, self.keys(name, time, [level]))

    def _refuse_filling(self, name: str, values: NDArray, time: np.datetime64) -> None:
        """Raise StateError for a field that holds only the fill value: a chunk inside a shard may be absent too."""
        fill_value = self.arrays.fill_value(name) if name in self.arrays else None
        if fill_value is None:
            return
        planes = values.reshape(-1, values.shape[-2] * values.shape[-1])
        if (planes == np.asarray(fill_value, values.dtype)).all(axis=1).any():
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


def _one_version(values: NDArray) -> NDArray:
    """Return the final version of ERA5 (the first entry), or ERA5T where there is no final version yet."""
    return next((version for version in values if not np.isnan(version).all()), values[0])
