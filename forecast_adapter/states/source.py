"""Sources of states: one product in a file, folder or store, as validated states by time.

All kinds share this: which times there are, which channels a time lacks, and errors that name source, field and time.
`products.open_states` opens a source; `grib` and `netcdf_zarr` read them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dacycle.forecast_adapter.channels import CHANNELS, EXTRA_CHANNELS, LEVELS, WB2_NAMES, Channel, index
from dacycle.forecast_adapter.grid import Grid, regrid, regridding
from dacycle.forecast_adapter.state import StateError, as_hour, check_values, make_state, validate
from dacycle.forecast_adapter.zarr_store import KeptStore

__all__ = ["StateSource", "global_grid", "read_files", "spell_channels", "spell_fields", "spell_times"]

T = TypeVar("T")

_LEAST_LINES = 3
"""Rows and columns that a global grid has at least; a single point is no globe."""


class StateSource(ABC):
    """States by time.

    Attributes:
        name: the file, folder or URL, as it was given.
        grid: the product's grid, latitude descending, longitude from 0.
        times: (n,) datetime64[h], ascending: all times with at least one field of a state.
        left_out: files and kinds of fields that were left out: for a file why, for a kind how many fields, and which.
        store: the remote store that keeps what is fetched of it; None where there is none.
    """

    store: KeptStore | None = None

    def __init__(self, name: str, grid: Grid, times: Iterable[np.datetime64], left_out: dict[str, str]) -> None:
        self.name = name
        self.grid = grid
        self.times: NDArray[np.datetime64] = np.array(sorted(times), "datetime64[h]")
        self.left_out = left_out
        self._times = frozenset(self.times)

    @abstractmethod
    def gaps(self, time: np.datetime64) -> list[str]:
        """Return the channels that are missing at `time`; raise StateError where there is no such time."""

    @abstractmethod
    def describe(self, time: np.datetime64) -> str:
        """Return whether the fields of a time are a forecast's or preliminary, in words; empty where neither."""

    @abstractmethod
    def _read(self, time: np.datetime64, channels: Sequence[Channel]) -> tuple[NDArray[np.float32], list[str]]:
        """Return fields (n, H, W) on the product's grid in SI units, and notes on derived fields."""

    def __contains__(self, time: object) -> bool:
        """Return whether there is a whole state at `time`."""
        hour = as_hour(time)
        return hour in self._times and not self.gaps(hour)

    def state(self, time: np.datetime64 | str, grid: Grid | None = None) -> xr.DataArray:
        """Return the validated state at `time`.

        Args:
            time: UTC.
            grid: the grid to regrid to, conservatively if it is coarser, else bilinearly; None: the product's grid.

        Returns:
            (69, H, W) in SI units, with the attributes `source`, `regridding` and `notes` (what was derived or is
            preliminary).

        Raises:
            StateError: there is no state at that time, or channels are missing (all of them are named), there twice,
                in another unit, not finite or implausible; names source, field and time.
        """
        hour = self._moment(time)
        missing = self.gaps(hour)
        if missing:
            raise StateError(f"{self.name}, {hour}: missing {spell_channels(missing)}{self._remedy(hour, missing)}")
        array, notes = self._read(hour, CHANNELS)
        state = validate(make_state(array, self.grid, hour), self.name)
        target = self.grid if grid is None else grid
        return self._labelled(make_state(regrid(state.values, self.grid, target), target, hour), notes)

    def fields(self, time: np.datetime64 | str, channels: Iterable[str]) -> xr.DataArray:
        """Return some channels at `time` on the product's grid, checked like a whole state.

        Returns:
            (channel, latitude, longitude).

        Raises:
            StateError: as for `state`, but only for these channels.
            KeyError: there is no such channel.
        """
        names = list(channels)
        wanted = [CHANNELS[index(name)] for name in names]
        hour = self._moment(time)
        missing = [name for name in self.gaps(hour) if name in names]
        if missing:
            raise StateError(f"{self.name}, {hour}: missing {spell_channels(missing)}{self._remedy(hour, missing)}")
        array, notes = self._read(hour, wanted)
        for channel, values in zip(wanted, array, strict=True):
            check_values(channel, values, f"{self.name}, {hour}")
        coordinates = {"channel": names, "latitude": self.grid.latitude, "longitude": self.grid.longitude}
        fields = xr.DataArray(array, coordinates, ("channel", "latitude", "longitude"), name="state")
        return self._labelled(fields.assign_coords(time=hour.astype("datetime64[ns]")), notes)

    def surface(self, time: np.datetime64 | str, wanted: Collection[str] = tuple(EXTRA_CHANNELS)) -> xr.Dataset:
        """Return those of the wanted extra fields that are there at `time`, in SI units."""
        self._moment(time)
        return xr.Dataset()

    def periods(self) -> dict[str, list[int]]:
        """Return the lengths (h) of the sums of precipitation and radiation that are there, by their names."""
        return {}

    def objects(self, time: np.datetime64, channels: Collection[Channel], extra: Collection[str]) -> set[str]:
        """Return the keys of the objects of `store` that hold channels and extra fields at a time."""
        return set()

    def size(self, keys: Sequence[str]) -> float:
        """Return the bytes of objects of `store`, estimated from a few of each array."""
        return 0.0

    def declared(self) -> list[str]:
        """Return which extra fields the metadata of `store` list, those of another period than six hours left out."""
        return []

    def trouble(self, time: np.datetime64) -> str:
        """Read the state at `time`, and return why it cannot be used; empty where it can."""
        try:
            self.state(time)
        except StateError as error:
            return str(error).removeprefix(f"{self.name}, {time}: ")
        return ""

    def newest(self) -> np.datetime64 | None:
        """Return the newest time with a whole state; None where there is none."""
        return next((time for time in self.times[::-1] if not self.gaps(time)), None)

    def only_time(self) -> np.datetime64:
        """Return the time of a source that holds one; raise StateError where it holds several."""
        if len(self.times) > 1:
            raise StateError(f"{self.name}: holds {spell_times(self.times)}; say which one to take")
        return self.times[0]

    def _labelled(self, state: xr.DataArray, notes: list[str]) -> xr.DataArray:
        """Return the state with its attributes."""
        how = regridding(self.grid, Grid("", state.latitude.values, state.longitude.values))
        all_notes = [self.describe(state.time.values.astype("datetime64[h]")), *notes]
        if how != "none":
            shape = " x ".join(map(str, self.grid.shape))
            all_notes.append(f"brought from a {shape} grid to {' x '.join(map(str, state.shape[1:]))}")
        source = self.name.rstrip("/").rpartition("/")[2]
        return state.assign_attrs(source=source, regridding=how, notes="; ".join(note for note in all_notes if note))

    def _moment(self, time: np.datetime64 | str) -> np.datetime64:
        """Return a time as datetime64[h]; raise StateError where the source has none such."""
        hour = as_hour(time)
        if hour not in self._times:
            raise StateError(
                f"{self.name}: no state at {hour}; it holds {spell_times(self.times)}{self._spell_left_out()}"
            )
        return hour

    def _remedy(self, time: np.datetime64, missing: list[str]) -> str:
        """Return the end of a message on missing channels: a hint on what mends the gap."""
        return self._spell_left_out()

    def _spell_left_out(self) -> str:
        spelt = "; ".join(f"{what} ({why})" for what, why in self.left_out.items())
        return f"; left out: {spelt}" if spelt else ""


def read_files(
    paths: Mapping[str, Path], left_out: Mapping[str, str], read: Callable[[Path], T]
) -> tuple[list[T], dict[str, str]]:
    """Read the files of a product one by one, and leave out those that cannot be read.

    Args:
        paths: the files by the names that messages have for them.
        left_out: other files of the product that were left out before, and the reasons.
        read: returns what is read of a file, or raises StateError.

    Returns:
        What was read, and `left_out` with what was left out here.

    Raises:
        StateError: the product's only file cannot be read.
    """
    results, out = [], dict(left_out)
    for name, path in paths.items():
        try:
            results.append(read(path))
        except StateError as error:
            if len(paths) == 1 and not left_out:
                raise
            out[name] = str(error).removeprefix(f"{path}: ")
    return results, out


def spell_fields(names: Sequence[str]) -> str:
    """Spell fields that were left out: `12 fields: 10u, 10v`."""
    count = "1 field" if len(names) == 1 else f"{len(names)} fields"
    return f"{count}: {', '.join(dict.fromkeys(names))}"


def spell_channels(names: Iterable[str]) -> str:
    """Spell channels: `u10 (10m_u_component_of_wind); z, t on levels 50, 100 hPa; q on all levels`."""
    channels = [CHANNELS[index(name)] for name in names]
    phrases = [f"{c.name} ({WB2_NAMES[c.variable]})" for c in channels if c.level is None]
    levels: dict[str, list[int]] = {}
    for channel in channels:
        if channel.level is not None:
            levels.setdefault(channel.variable, []).append(channel.level)
    by_levels: dict[tuple[int, ...], list[str]] = {}
    for variable, its_levels in levels.items():
        by_levels.setdefault(tuple(its_levels), []).append(f"{variable} ({WB2_NAMES[variable]})")
    for shared_levels, variables in by_levels.items():
        where = "all levels" if shared_levels == LEVELS else f"levels {', '.join(map(str, shared_levels))} hPa"
        phrases.append(f"{', '.join(variables)} on {where}")
    return "; ".join(phrases)


def spell_times(times: Iterable[np.datetime64]) -> str:
    """Spell times: `2 times (2024-01-01T00, 2024-01-01T06)`; of more than four only the first two and the last."""
    shown = [str(time) for time in times]
    count = "1 time" if len(shown) == 1 else f"{len(shown)} times"
    return f"{count} ({', '.join(shown if len(shown) <= 4 else [*shown[:2], '...', shown[-1]])})"


def global_grid(latitude: ArrayLike, longitude: ArrayLike, label: str) -> Grid:
    """Return the grid of a product from its rows and columns in any order; raise StateError if it is not global."""
    # Longitudes are often coded in millionths of a degree: rounding keeps 359.9999999 from being a separate column.
    rows = np.sort(np.asarray(latitude, float))[::-1]
    columns = np.sort(np.round(np.asarray(longitude, float) % 360, 6) % 360)
    if rows.ndim != 1 or columns.ndim != 1:
        raise StateError(f"{label}: latitude and longitude are tables; interpolate it to latitude-longitude first")
    if not (len(rows) and len(columns) and np.isfinite(rows).all() and np.isfinite(columns).all()):
        raise StateError(f"{label}: latitude or longitude is empty or not finite")
    if abs(rows).max() > 90:
        raise StateError(f"{label}: a latitude of {max(rows, key=abs):g} is beyond a pole")
    for kind, axis in (("row", rows), ("column", columns)):
        twice = axis[1:][np.diff(axis) == 0]
        if len(twice):
            what = f"the {kind} at {twice[0]:g} is there twice"
            raise StateError(f"{label}: {what} (as with both 0 and 360 E); leave one of them")
    across, down = 1.5 * 360 / len(columns), 1.5 * 180 / len(rows)
    gaps = [
        np.diff(columns, append=columns[0] + 360).max() > across,
        np.diff(rows, prepend=90, append=-90).min() < -down,
    ]
    if any(gaps) or min(len(rows), len(columns)) < _LEAST_LINES:
        raise StateError(f"{label} covers only part of the globe ({len(rows)} x {len(columns)}); a state needs all")
    return Grid("its own", rows, columns)
