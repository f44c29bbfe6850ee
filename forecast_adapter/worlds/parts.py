"""One time of a dataset: its state and extra fields on the dataset's grid, in a file of its own.

The file is one of numpy's, with a checksum of each array, since it is read once: opening netCDF takes longer than all
else that a time needs.
"""

import io
import json
from collections.abc import Collection
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path

import numpy as np
import xarray as xr

from dacycle.common.files import write_whole
from dacycle.common.foreign import reading
from dacycle.forecast_adapter.grid import Grid, get_grid, regrid
from dacycle.forecast_adapter.state import StateError, make_state, to_dataset
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.states.source import StateSource
from dacycle.forecast_adapter.worlds.manifest import DatasetError
from dacycle.forecast_adapter.worlds.reference import EXTRA_FIELDS
from dacycle.forecast_adapter.worlds.transfers import Place, lacking

__all__ = ["about_part", "make_part", "opened", "read_part"]


def make_part(places: tuple[Place, ...], grid_name: str, time: np.datetime64, part: Path) -> str | None:
    """Write one time on a grid to a file; return the reason where that fails."""
    try:
        grid, sources = get_grid(grid_name), [opened(*place) for place in places]
        state = sources[0].state(time, grid)
        dataset = to_dataset(state)
        for source in sources:
            _add_extra_fields(dataset, source, time, grid)
        extra = [name for name, _, _ in EXTRA_FIELDS.values() if name in dataset]
        notes = [note for note in (state.attrs["notes"], *_periods(dataset)) if note]
        about = {"notes": notes, "attrs": {name: dataset[name].attrs for name in extra}}
        arrays = {name: dataset[name].values for name in extra}
        arrays |= {"state": state.values, "about": np.array(json.dumps(about))}
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        write_whole(part, content.getvalue())
    except (StateError, OSError) as error:
        return str(error)
    return None


def about_part(part: Path) -> tuple[list[str], list[str]]:
    """Return the extra fields of a time's file, and notes; raise DatasetError where it is damaged."""
    with _own(part), np.load(part) as file:
        about = json.loads(str(file["about"]))
        return list(about["attrs"]), list(about["notes"])


def read_part(part: Path, grid: Grid, extra: Collection[str]) -> xr.Dataset:
    """Return the state and some extra fields of a time's file; raise DatasetError where it is damaged."""
    with _own(part), np.load(part) as file:
        attrs = json.loads(str(file["about"]))["attrs"]
        dataset = to_dataset(make_state(file["state"], grid, np.datetime64(part.stem, "h")))
        fields = {name: (("time", "latitude", "longitude"), file[name], attrs[name]) for name in attrs if name in extra}
        return dataset.assign(fields)


def _own(part: Path) -> AbstractContextManager[None]:
    return reading(f"{part} is damaged; delete it and run the command again", DatasetError)


def _add_extra_fields(dataset: xr.Dataset, source: StateSource, time: np.datetime64, grid: Grid) -> None:
    """Add the extra fields that a source has and the dataset lacks, or has over another period than six hours."""
    names = {short: name for short, (name, _, _) in EXTRA_FIELDS.items()}
    there = {short: dataset[name] for short, name in names.items() if name in dataset}
    wanted = lacking(xr.Dataset(there), list(names))
    fields = source.surface(time, wanted) if wanted and time in source.times else xr.Dataset()
    for short in wanted:
        if short not in fields or not np.isfinite(fields[short].values).all():
            continue
        period = fields[short].attrs.get("period")
        if period is not None and short in there:
            continue
        values = regrid(fields[short].values, source.grid, grid) / np.float32(EXTRA_FIELDS[short][2])
        about = {} if period is None else {"period": period, "long_name": f"mean of the {period} before"}
        dataset[names[short]] = (("time", "latitude", "longitude"), values[None].astype(np.float32), about)


def _periods(dataset: xr.Dataset) -> list[str]:
    """Return notes on fields of another period than six hours."""
    return [
        f"{name} is a mean over the {field.attrs['period']} before each time, in place of 6 h"
        for name, field in dataset.items()
        if "period" in field.attrs
    ]


@lru_cache(maxsize=8)
def opened(product: str, kept: Path) -> StateSource:
    """Return a product, open as long as this process lives; another build in the same process clears the cache."""
    return open_states(product, kept=kept, fresh=False)
