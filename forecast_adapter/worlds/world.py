"""Worlds: a reference, its statistics, climatology and static fields, which belong together, in one folder.

* world.yaml: see `Description`
* reference/*.nc: states and extra fields by time (see `reference`), where world.yaml names no `states`
* statistics.nc: mean and standard deviation of each channel over the training years
* climatology.nc: mean, two annual and two daily harmonics of each channel and grid point over the training years
* static.nc: geopotential_at_surface, land_sea_mask
"""

import logging
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field, field_validator

import dacycle
from dacycle.common.configuration import Strict, read_checked, write_yaml
from dacycle.common.errors import DacycleError
from dacycle.common.files import write_whole
from dacycle.common.foreign import reading
from dacycle.common.settings import read_settings
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, NAMES, index
from dacycle.forecast_adapter.grid import Grid, conservative_average, get_grid, named
from dacycle.forecast_adapter.physics import GRAVITY, station_pressure_ratio
from dacycle.forecast_adapter.remote import is_url
from dacycle.forecast_adapter.state import make_state, to_dataset
from dacycle.forecast_adapter.states.dataset_writer import write_netcdf
from dacycle.forecast_adapter.statistics import Statistics
from dacycle.forecast_adapter.worlds.manifest import DatasetError, is_dataset
from dacycle.forecast_adapter.worlds.reference import EXTRA_FIELDS, ProductReference, Reference, ReferenceDataError

__all__ = [
    "Climatology",
    "World",
    "WorldError",
    "annual_basis",
    "build_world",
    "climatology_basis",
    "load_world",
    "world_folders",
]

logger = logging.getLogger(__name__)

ANNUAL_TERMS, DAILY_TERMS = 5, 9
_YEAR = 365.2425
_HARMONICS = 2
_WHOLE_DAYS = 300
"""Days with a state at 00, 06, 12 and 18 UTC from which a climatology has the hour of the day."""


class WorldError(DacycleError, ValueError):
    """A world cannot be found, or its parts do not belong together."""


class Description(Strict):
    """The content of world.yaml.

    Attributes:
        name: the world's; that of its statistics is the same.
        grid: the name of its grid.
        description: a sentence on it.
        reference: `era5` or `operational`, where the reference holds such states, so that forecast models made for them
            may be used; empty where the reference is this world's alone.
        states: where the reference is, relative to the folder: a dataset that `dacycle dataset` made, or a product
            that `products.open_states` reads. None: in the folder `reference`.
    """

    name: str = Field(description="what experiments call the world")
    grid: str = Field(description="such as 5.625deg")
    description: str = ""
    reference: str = ""
    states: str | None = None

    @field_validator("grid")
    @classmethod
    def _is_known(cls, grid: str) -> str:
        get_grid(grid)
        return grid


@dataclass(frozen=True, eq=False)
class Climatology:
    """The mean cycle of the year and, where the training years show it, of the day.

    Attributes:
        coefficients: (5, 69, H, W) of `annual_basis`, or (14, 69, H, W) of it and `daily_basis`.
    """

    coefficients: NDArray[np.float32]

    def at(self, time: np.datetime64) -> NDArray[np.float32]:
        """Return the climatology (69, H, W) in SI units at `time`."""
        daily = len(self.coefficients) > ANNUAL_TERMS
        return np.tensordot(climatology_basis(np.array([time]), daily)[0], self.coefficients, 1)

    def harmonics(self, daily: bool) -> NDArray[np.float32]:
        """Return the coefficients (5, 69, H, W) of the year, or (14, 69, H, W) of year and day; 0 where none is known.

        Args:
            daily: whether the day is wanted.
        """
        if not daily:
            return self.coefficients[:ANNUAL_TERMS]
        absent = ANNUAL_TERMS + DAILY_TERMS - len(self.coefficients)
        return np.concatenate([self.coefficients, np.zeros((absent, *self.coefficients.shape[1:]), np.float32)])


def climatology_basis(times: NDArray, daily: bool) -> NDArray[np.float32]:
    """Return the basis functions at `times` (n,): (n, 5) of the year, or (n, 14) with those of the day."""
    annual = annual_basis(times)
    return np.concatenate([annual, daily_basis(times)], axis=1) if daily else annual


def annual_basis(times: NDArray) -> NDArray[np.float32]:
    """Return the annual basis functions (n, 5) at `times` (n,): 1, cos, sin, cos 2, sin 2 of the day of the year."""
    start = times.astype("datetime64[Y]").astype("datetime64[s]")
    angle = 2 * np.pi * (times.astype("datetime64[s]") - start).astype(float) / (86400 * _YEAR)
    columns = [np.ones_like(angle)]
    for k in range(1, _HARMONICS + 1):
        columns += [np.cos(k * angle), np.sin(k * angle)]
    return np.stack(columns, -1).astype(np.float32)


def daily_basis(times: NDArray) -> NDArray[np.float32]:
    """Return the daily basis functions (n, 9) at `times` (n,), whose size and phase vary with the season.

    They are cos and sin of the 24-h wave and cos of the 12-h wave of the hour (UTC), each times 1, cos and sin of the
    day of the year. The sine of the 12-h wave is 0 at 00, 06, 12 and 18 UTC.
    """
    hours = (times.astype("datetime64[s]") - times.astype("datetime64[D]")).astype(float) / 3600
    waves = np.stack([f(2 * np.pi * hours / period) for f, period in ((np.cos, 24), (np.sin, 24), (np.cos, 12))], -1)
    seasons = annual_basis(times)[:, :3]
    return (waves[:, :, None] * seasons[:, None, :]).reshape(len(times), 9).astype(np.float32)


@dataclass(frozen=True, eq=False)
class World:
    """A reference with the statistics, climatology and static fields that belong to it.

    Attributes:
        name, grid, reference_kind: see `Description`.
        folder: where the world is.
        reference: what forecasts are verified against.
        statistics, climatology: of the training years.
        orography: (H, W) m.
        land_fraction: (H, W), 0 to 1.
    """

    name: str
    grid: Grid
    folder: Path
    reference: Reference
    statistics: Statistics
    climatology: Climatology
    orography: NDArray[np.float32]
    land_fraction: NDArray[np.float32]
    reference_kind: str = ""

    def on(self, grid: Grid) -> "World":
        """Return the world for a method on a coarser grid: statistics as they are, fields averaged conservatively."""
        climatology, orography, land = (
            conservative_average(fields, self.grid, grid)
            for fields in (self.climatology.coefficients, self.orography, self.land_fraction)
        )
        return replace(self, grid=grid, climatology=Climatology(climatology), orography=orography, land_fraction=land)

    def takes(self, made_for: str) -> bool:
        """Return whether a model that was made for this world or kind of reference forecasts its states."""
        return made_for in (self.name, self.reference_kind)

    def surface_pressure(self, time: np.datetime64) -> NDArray[np.float32]:
        """Return the reference's pressure (H, W) at the ground, Pa; where it has none, that of its msl and t2m."""
        fields = self.reference.surface(time)
        if "ps" in fields:
            return np.asarray(fields["ps"].values)
        state = self.reference.array(time)
        ratio = station_pressure_ratio(self.orography, state[index("t2m")])
        return (state[index("msl")] * ratio).astype(np.float32)


def world_folders() -> list[Path]:
    """Return the folders that hold worlds by name: `$DACYCLE_HOME/worlds`, then the packaged `deploy/worlds`."""
    return [read_settings().home / "worlds", Path(dacycle.__file__).resolve().parent / "deploy/worlds"]


def load_world(name_or_folder: str | Path) -> World:
    """Open a world by its name or its folder; where it is open already, take in new times of its reference.

    Raises:
        WorldError: there is none, world.yaml has errors, a file is missing, or statistics or grid are another world's.
    """
    candidates = [Path(name_or_folder), *(folder / str(name_or_folder) for folder in world_folders())]
    folder = next((candidate for candidate in candidates if (candidate / "world.yaml").exists()), None)
    if folder is None:
        searched = ", ".join(str(candidate) for candidate in candidates)
        raise WorldError(
            f"no world {str(name_or_folder)!r}: looked for world.yaml in {searched}; `dacycle world` makes one"
        )
    try:
        world = _load(folder.resolve())
        world.reference.refresh()
    except (ReferenceDataError, DatasetError) as error:
        raise WorldError(f"{folder}: its reference cannot be used: {error}") from error
    return world


@lru_cache(maxsize=8)
def _load(folder: Path) -> World:
    described = read_checked(folder / "world.yaml", Description, "a world", WorldError)
    for needed in ("statistics.nc", "climatology.nc", "static.nc"):
        if not (folder / needed).exists():
            raise WorldError(f"{folder}: the world has no {needed}")
    with reading(folder / "statistics.nc", WorldError):
        statistics = Statistics.load(folder / "statistics.nc")
    if statistics.world != described.name:
        raise WorldError(f"{folder}/statistics.nc belongs to {statistics.world!r}, not to {described.name!r}")
    grid = get_grid(described.grid)
    reference = _reference(folder, described.states, grid)
    if not reference.grid.matches(grid):
        raise WorldError(f"{folder}: the reference is on a {reference.grid.shape} grid, not on {grid.name}")
    ours = folder / "climatology.nc"
    with reading(ours, WorldError), xr.open_dataset(ours, engine="h5netcdf") as file:
        climatology = Climatology(file["coefficients"].sel(channel=NAMES).values.astype(np.float32, copy=False))
    ours = folder / "static.nc"
    with reading(ours, WorldError), xr.open_dataset(ours, engine="h5netcdf") as file:
        orography = file["geopotential_at_surface"].values.astype(np.float32) / np.float32(GRAVITY)
        land = file["land_sea_mask"].values.astype(np.float32)
    return World(
        described.name, grid, folder, reference, statistics, climatology, orography, land, described.reference
    )  # fmt: skip


def _reference(folder: Path, states: str | None, grid: Grid) -> Reference:
    """Open the reference of a world in `folder`; `states` as in `Description`."""
    if states is None:
        return Reference(folder / "reference")
    if is_url(states):
        return ProductReference(states, grid)
    return Reference(folder / states) if is_dataset(folder / states) else ProductReference(str(folder / states), grid)


def build_world(
    data: Path,
    folder: Path,
    name: str,
    training_years: list[int],
    times: NDArray | None,
    description: str,
    statistics: Statistics | None = None,
    kind: str = "",
) -> None:
    """Make a world from a nature run or a dataset: statistics and climatology of the training years, and a reference.

    Args:
        data: the folder of the nature run or the dataset.
        folder: the world's folder, made here.
        name: the world's name.
        training_years: years that the statistics and the climatology are computed from.
        times: times of `data` that are copied into the world as its reference, rounded to 0.03 standard deviations and
            split into files of a week; none of them is in a training year. None: the reference is `data` itself, with
            what is added to it later.
        description: a sentence on the world.
        statistics: statistics to normalise with in place of the training years', such as FengWu's.
        kind: `era5`, `operational` or empty, see `Description.reference`.

    Raises:
        WorldError: training years are sampled or hold no state, or `data` has no static fields.
    """
    reference = Reference(data)
    grid, training = named(reference.grid), reference.times_of(training_years)
    if not len(training):
        span = f"{reference.times[0]} to {reference.times[-1]}"
        raise WorldError(f"{data}: no state of the training years {training_years}; it holds {span}")
    if times is not None and np.isin(times, training).any():
        raise WorldError(f"{name}: the sample holds times of the training years {training_years}")
    if not (data / "static.nc").is_file():
        raise WorldError(f"{data}: no static.nc with orography and land_sea_mask; `dacycle dataset --static` adds it")
    folder.mkdir(parents=True, exist_ok=True)
    mean, std, coefficients = _describe(reference, training)
    made_from = f"{data.name}, years {', '.join(map(str, training_years))}, {len(training)} states"
    normalisation = Statistics(mean, std, name, made_from) if statistics is None else replace(statistics, world=name)
    normalisation.save(folder / "statistics.nc")
    rounded = _round(coefficients, 0.03 * std[:, None, None])
    dataset = xr.Dataset(
        {"coefficients": (("term", "channel", "latitude", "longitude"), rounded, {"description": made_from})},
        {"channel": NAMES, "latitude": grid.latitude, "longitude": grid.longitude},
    )
    packed = {"coefficients": {"zlib": True, "complevel": 9, "shuffle": True}}
    dataset.to_netcdf(folder / "climatology.nc", engine="h5netcdf", encoding=packed)
    (folder / "static.nc").write_bytes((data / "static.nc").read_bytes())
    described = {"name": name, "grid": grid.name, "description": description}
    if kind:
        described["reference"] = kind
    if times is None:
        described["states"] = os.path.relpath(data.resolve(), folder.resolve())
    else:
        for start in range(0, len(times), 28):
            _write_sample(reference, folder / "reference", times[start : start + 28], std)
    write_whole(folder / "world.yaml", write_yaml(described).encode())


def _describe(reference: Reference, times: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Return mean (69,), standard deviation (69,) and harmonics (5 or 14, 69, H, W), from one pass over the states."""
    _, counts = np.unique(times.astype("datetime64[D]"), return_counts=True)
    whole_days = int((counts == 4).sum())
    if whole_days < _WHOLE_DAYS:
        logger.warning(
            "%s: the climatology has no hour of the day: %d days of the training years have states at 00, 06, 12 and "
            "18 UTC, %d are needed; the diurnal cycle then counts as skill (`dacycle dataset --every 6h`)",
            reference.folder, whole_days, _WHOLE_DAYS,
        )  # fmt: skip
    basis = climatology_basis(times, daily=whole_days >= _WHOLE_DAYS).astype(np.float64)
    weights = reference.grid.weights / reference.grid.weights.sum()
    first = reference.array(times[0]).astype(np.float64)
    projected, total, square = (
        np.zeros((basis.shape[1], *first.shape)),
        np.zeros(CHANNEL_COUNT),
        np.zeros(CHANNEL_COUNT),
    )
    origin = (first * weights).sum((1, 2))[:, None, None]  # near the mean: variances without cancellation
    for row, time in zip(basis, times, strict=True):
        departure = reference.array(time) - origin
        projected += row[:, None, None, None] * departure
        total += (departure * weights).sum((1, 2))
        square += (departure**2 * weights).sum((1, 2))
    mean = total / len(times)
    std = np.sqrt(square / len(times) - mean**2)
    flat = np.linalg.solve(basis.T @ basis, projected.reshape(len(projected), -1)).reshape(projected.shape)
    flat[0] += origin
    return (mean + origin[:, 0, 0]).astype(np.float32), std.astype(np.float32), flat.astype(np.float32)


def _round(values: NDArray, step: NDArray | float) -> NDArray[np.float32]:
    """Round to multiples of the power of two at or below `step`, so that values end in zero bits, which compress."""
    power = np.exp2(np.floor(np.log2(step)))
    return (np.round(values / power) * power).astype(np.float32)


def _write_sample(reference: Reference, folder: Path, times: NDArray, std: NDArray) -> None:
    """Write one file of a packaged reference, rounded to 0.03 standard deviations."""
    write_netcdf(folder / f"{str(times[0])[:10]}.nc", (_rounded(reference, time, std) for time in times), {}, level=9)


def _rounded(reference: Reference, time: np.datetime64, std: NDArray) -> xr.Dataset:
    """Return the state and the extra fields at a time, rounded, in the units of WeatherBench2's files."""
    array = _round(reference.array(time), 0.03 * std[:, None, None])
    dataset = to_dataset(make_state(array, reference.grid, time))
    steps = {"tp6h": 1e-5, "olr": 1.0, "td2m": 0.1, "ps": 20.0}  # in the unit of the file
    for short, field in reference.surface(time).items():
        name, _, factor = EXTRA_FIELDS[str(short)]
        values = _round(field.values / np.float32(factor), steps[str(short)])
        dataset[name] = (("time", "latitude", "longitude"), values[None])
    return dataset
