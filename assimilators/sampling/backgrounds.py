"""Backgrounds to train an assimilator with: errors of a model's forecasts, stored by their valid time.

A store is a folder of netCDF files, one a month. Its samples are background minus truth in the world's standard
deviations, in half precision. Files are mapped into memory, not read, so a store may be larger than memory, and all
processes of a training share the pages that the system keeps.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import h5netcdf
import h5py
import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.exceptions import DataError
from dacycle.common.files import whole
from dacycle.common.pieces import processes
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import conservative_average
from dacycle.forecast_adapter.models.model import ForecastModel, load_model
from dacycle.forecast_adapter.state import STEP
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World, climatology_basis, load_world

__all__ = [
    "CYCLED",
    "LEADS",
    "Backgrounds",
    "Errors",
    "check_years",
    "forecast_errors",
    "held_out",
    "joined",
    "make_forecasts",
    "make_months",
    "month_of_forecasts",
    "months_of",
    "read_store",
    "systematic_error",
    "within_years",
    "write_backgrounds",
    "year_times",
]

logger = logging.getLogger(__name__)

LEADS = (6, 12, 24, 48)
"""Leads in hours: backgrounds of well observed cycles resemble the short ones, of sparsely observed cycles the long."""
CYCLED = 0
"""In place of a lead for a cycle's background (`cycled_backgrounds`), whose errors have grown over many cycles."""
HELD_OUT_LEADS = (6, 24, 48)
DAY = 24
BLOCK = 32
"""Samples that are summed at once."""
NOISE = 200
"""Ridge of the bias, in samples: so many errors weigh as much as the prior knowledge that a model has no bias. Errors
of 6-hourly forecasts are correlated over days, and several times as large as their mean."""


class Errors:
    """Hold errors (n, 69, H, W) float16 of several files as one sequence; each is read when it is asked for.

    Args:
        arrays: (n_i, 69, H, W) each, mapped, in memory, or of several files themselves.
    """

    def __init__(self, arrays: Sequence[NDArray[np.float16] | Errors]) -> None:
        self._arrays = list(arrays)
        self._ends = np.cumsum([len(array) for array in arrays])
        self.shape: tuple[int, ...] = (int(self._ends[-1]), *arrays[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.float16]]:
        return (sample for array in self._arrays for sample in array)

    @overload
    def __getitem__(self, item: int) -> NDArray[np.float16]: ...
    @overload
    def __getitem__(self, item: NDArray[np.integer]) -> NDArray[np.float16]: ...
    def __getitem__(self, item: int | NDArray[np.integer]) -> NDArray[np.float16]:
        """Return the sample of a number, (69, H, W), or the samples of m numbers, (m, 69, H, W)."""
        if isinstance(item, np.ndarray):
            return np.stack([self[int(number)] for number in item])
        file = int(np.searchsorted(self._ends, item, side="right"))
        return np.asarray(self._arrays[file][item - (self._ends[file - 1] if file else 0)])


@dataclass(frozen=True, eq=False)
class Backgrounds:
    """Hold n backgrounds by their errors.

    Attributes:
        times: (n,) datetime64[h], when each is valid.
        leads: (n,) hours since the forecast began from the truth; `CYCLED` for those of cycles.
        errors: (n, 69, H, W) float16: background minus truth, in standard deviations.
        model: digest of the model that made them.
    """

    times: NDArray[np.datetime64]
    leads: NDArray[np.int64]
    errors: NDArray[np.float16] | Errors
    model: str

    def digest(self) -> str:
        """Return the SHA-256 of times, leads and errors."""
        digest = hashlib.sha256(self.times.astype("datetime64[h]").astype(np.int64).tobytes())
        digest.update(self.leads.astype(np.int64).tobytes())
        for error in self.errors:
            digest.update(np.ascontiguousarray(error).data)
        return digest.hexdigest()


def joined(parts: Sequence[Backgrounds]) -> Backgrounds:
    """Return the samples of several stores of one model, one after the other."""
    times, leads = (np.concatenate([getattr(part, name) for part in parts]) for name in ("times", "leads"))
    return Backgrounds(times, leads, Errors([part.errors for part in parts]), parts[0].model)


def systematic_error(backgrounds: Backgrounds, daily: bool = False) -> NDArray[np.float16]:
    """Return the mean error that one step of the model adds, by place, season and hour, in standard deviations.

    It recurs in every cycle and accumulates where nothing is observed, so it is better removed than left to the
    observations (Dee 2005, doi:10.1256/qj.05.137).

    Args:
        backgrounds: of forecasts, or of forecasts and cycles.
        daily: whether to tell hours apart: what an hour adds to the day's mean is taken from the shortest lead.

    Returns:
        (5 or 14, 69, H, W) float16 coefficients of `worlds.world.climatology_basis`: a ridge regression of the errors
        of 24 h, or of the longest lead below that, divided by their number of steps.
    """
    leads = sorted(set(backgrounds.leads.tolist()) - {CYCLED})
    lead = max((lead for lead in leads if lead <= DAY), default=leads[0])
    annual = _mean_error(backgrounds, lead, daily=False) * 6 / lead
    if not daily:
        return annual.astype(np.float16)
    hourly = _mean_error(backgrounds, leads[0], daily=True)[len(annual) :] * 6 / leads[0]
    return np.concatenate([annual, hourly]).astype(np.float16)


def _mean_error(backgrounds: Backgrounds, lead: int, daily: bool) -> NDArray[np.float64]:
    """Return the coefficients (5 or 14, 69, H, W) of a ridge regression of the errors of a lead."""
    samples = np.flatnonzero(backgrounds.leads == lead)
    basis = climatology_basis(backgrounds.times[samples], daily).astype(float)
    terms = basis.shape[1]
    regression = np.linalg.solve(basis.T @ basis + NOISE * np.eye(terms), basis.T)
    coefficients = np.zeros((terms, *backgrounds.errors.shape[1:]))
    for start in range(0, len(samples), BLOCK):
        block = slice(start, start + BLOCK)
        coefficients += np.tensordot(regression[:, block], backgrounds.errors[samples[block]].astype(float), 1)
    return coefficients


def year_times(year: int) -> NDArray[np.datetime64]:
    """Return every 6 h of a year, from 1 January 00 UTC, datetime64[h]."""
    return np.arange(np.datetime64(f"{year}-01-01T00", "h"), np.datetime64(f"{year + 1}-01-01T00", "h"), STEP)


def within_years(
    reference: Reference, first: NDArray[np.datetime64], last: NDArray[np.datetime64]
) -> NDArray[np.bool_]:
    """Return (n,) whether a reference has both of two times, and they are in one year: years need not follow on."""
    whole = first.astype("datetime64[Y]") == last.astype("datetime64[Y]")
    return whole & np.isin(first, reference.times) & np.isin(last, reference.times)


def months_of(years: Sequence[int]) -> list[np.datetime64]:
    """Return all months of some years."""
    return [np.datetime64(f"{year}-{month:02d}", "M") for year in years for month in range(1, 13)]


def make_forecasts(
    nature: Path | str,
    folder: Path,
    years: Sequence[int],
    world: str,
    model: str,
    leads: Sequence[int] = LEADS,
    workers: int = 1,
) -> None:
    """Write the forecast errors of whole years, a file a month; months that exist are kept.

    Args:
        nature: folder of the reference, on the model's grid. Where that is finer than the world's, errors are averaged
            to the world's, on which an assimilator of increments is trained (`assimilators.incremental`).
        folder: of the store.
        years: no forecast leaves its year, because a nature run's years need not follow on each other.
        world, model: their names or files.
        leads: hours, multiples of 6.
        workers: months made at the same time, each in its own process.

    Raises:
        DataError: a year is incomplete, or on another grid; nothing has been written.
    """
    check_years(nature, years, world, finer=True)
    data, forecaster = Reference(nature).grid, load_model(model).grid
    if not data.matches(forecaster):
        raise DataError(f"{nature}: the data are on a {data.shape} grid, {model} runs on {forecaster.name}")
    make_months(_make_month, folder, years, workers, nature, world, model, tuple(leads))


def check_years(nature: Path | str, years: Sequence[int], world: str, finer: bool = False) -> None:
    """Raise DataError where a year of the reference is incomplete, or it is on another grid than the world.

    Args:
        nature, years, world: as for `make_forecasts`.
        finer: whether a finer grid than the world's will do.
    """
    reference, home = Reference(nature), load_world(world)
    fine = finer and reference.grid.spacing < home.grid.spacing
    if not (fine or reference.grid.matches(home.grid)):
        raise DataError(f"{nature}: the data are on a {reference.grid.shape} grid, the world's is {home.grid.name}")
    for year in years:
        missing = reference.missing(year_times(year))
        if missing:
            raise DataError(f"{nature}: {len(missing)} times of {year} are missing, first {missing[0]}")


def make_months(make: Callable[..., None], folder: Path, years: Sequence[int], workers: int, *arguments: Any) -> None:
    """Call ``make(folder, month, *arguments)`` in a process of its own for each month that a store lacks."""
    months = [month for month in months_of(years) if not (folder / f"{month}.nc").exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with processes(workers) as pool:
        futures = {pool.submit(make, folder, month, *arguments): month for month in months}
        for future in as_completed(futures):
            future.result()
            logger.info("backgrounds of %s", futures[future])


def _make_month(
    folder: Path, month: np.datetime64, nature: Path | str, world: str, model: str, leads: tuple[int, ...]
) -> None:
    home = load_world(world)
    backgrounds = month_of_forecasts(load_model(model), Reference(nature), home, month, leads)
    write_backgrounds(backgrounds, folder / f"{month}.nc", home)


def month_of_forecasts(
    model: ForecastModel, reference: Reference, world: World, month: np.datetime64, leads: Sequence[int]
) -> Backgrounds:
    """Return the backgrounds that are valid in a month, of all forecasts that start in its year, every 6 h."""
    first, last = month.astype("datetime64[h]"), (month + 1).astype("datetime64[h]")
    year = month.astype("datetime64[Y]").astype("datetime64[h]")
    times, used_leads, errors = [], [], []
    for start in np.arange(max(first - np.timedelta64(max(leads), "h"), year + STEP), last - STEP, STEP):
        for lead, error in forecast_errors(model, reference, world, start, leads):
            valid = start + np.timedelta64(lead, "h")
            if first <= valid < last:
                times.append(valid)
                used_leads.append(lead)
                errors.append(error)
    return Backgrounds(np.array(times), np.array(used_leads), np.stack(errors), model.digest)


def forecast_errors(
    model: ForecastModel, reference: Reference, world: World, start: np.datetime64, leads: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.float16]]]:
    """Yield lead and error (69, H, W), in standard deviations, of one forecast, up to the end of its year.

    Model and reference are on one grid; errors on a finer one than the world's are averaged to that.
    """
    end = (start.astype("datetime64[Y]") + 1).astype("datetime64[h]")
    steps = min(max(leads) // 6, int((end - STEP - start) / STEP))
    previous, current = (reference.array(time)[None] for time in (start - STEP, start))
    for step, state in enumerate(model.forecast(previous, current, steps), 1):
        if 6 * step in leads:
            error = state[0] - reference.array(start + step * STEP)
            if not model.grid.matches(world.grid):
                error = conservative_average(error, model.grid, world.grid)
            yield 6 * step, (error / world.statistics.std[:, None, None]).astype(np.float16)


def write_backgrounds(backgrounds: Backgrounds, path: Path, world: World) -> None:
    """Write one file of a store, whole or not at all."""
    with whole(path) as temporary, h5netcdf.File(temporary, "w") as file:
        file.attrs.update(world=world.name, grid=world.grid.name, channels=" ".join(NAMES), model=backgrounds.model)
        file.dimensions = {"sample": len(backgrounds.times), "channel": len(NAMES)} | dict(
            zip(("latitude", "longitude"), world.grid.shape, strict=True)
        )
        time = file.create_variable("time", ("sample",), "i8")
        time[:] = backgrounds.times.astype("datetime64[h]").astype(np.int64)
        time.attrs["units"] = "hours since 1970-01-01"
        file.create_variable("lead", ("sample",), "i8")[:] = backgrounds.leads
        error = file.create_variable("error", ("sample", "channel", "latitude", "longitude"), "f2")
        error[:] = backgrounds.errors
        error.attrs["units"] = "standard deviations of the channel"


def read_store(folders: Path | Sequence[Path], world: World, years: Sequence[int] = ()) -> Backgrounds:
    """Return all samples of one or more stores, or those of some years, in the order of their files.

    Raises:
        DataError: a folder holds none; a file is damaged, or of another world, grid or model than the rest; or a value
            is not finite. Names the file and the time.
    """
    folders = [folders] if isinstance(folders, Path) else folders
    months: list[Backgrounds] = []
    for folder in folders:
        paths = sorted(folder.glob("[0-9]*.nc"))
        if years:
            paths = [path for path in paths if int(path.name[:4]) in years]
        if not paths:
            raise DataError(
                f"{folder}: no backgrounds{f' of {list(years)}' if years else ''}; see `dacycle backgrounds`"
            )
        months += [_read_file(path, world) for path in paths]
    models = {month.model for month in months}
    if len(models) > 1:
        raise DataError(
            f"{', '.join(map(str, folders))}: backgrounds of {len(models)} different models; make them anew with one"
        )
    return joined(months)


def _mapped(path: Path, name: str) -> NDArray[np.float16]:
    """Map a variable of a file into memory; read it where the file does not hold it in one piece."""
    with h5py.File(path, "r") as file:
        variable = file[name]
        offset, shape, dtype = variable.id.get_offset(), variable.shape, variable.dtype
        if offset is None:
            return np.asarray(variable)
    return np.memmap(path, dtype, "r", offset, shape)


def _read_file(path: Path, world: World) -> Backgrounds:
    try:
        with h5netcdf.File(path, "r") as file:
            attributes = {name: str(file.attrs[name]) for name in ("world", "grid", "channels", "model")}
            times = file["time"][:].astype("datetime64[h]")
            leads = file["lead"][:]
        errors = _mapped(path, "error")
    except (OSError, KeyError) as error:
        raise DataError(f"{path}: not a whole file of backgrounds ({error}); delete it and make it anew") from error
    expected = {"world": world.name, "grid": world.grid.name, "channels": " ".join(NAMES)}
    different = [name for name, value in expected.items() if attributes[name] != value]
    if different:
        raise DataError(f"{path}: its {', '.join(different)} are not those of the world {world.name}; make it anew")
    if errors.shape != (len(times), len(NAMES), *world.grid.shape):
        raise DataError(f"{path}: errors are {errors.shape}, not on the grid {world.grid.name}")
    for time, sample in zip(times, errors, strict=True):
        bad = ~np.isfinite(sample.sum(axis=(1, 2), dtype=np.float32))
        if bad.any():
            channel = NAMES[int(bad.argmax())]
            raise DataError(f"{path}: {channel} at {time} is not finite; delete the file and make it anew")
    return Backgrounds(times, leads, errors, attributes["model"])


def held_out(
    model: ForecastModel, reference: Reference, world: World, starts: int, leads: Sequence[int] = HELD_OUT_LEADS
) -> Backgrounds:
    """Return backgrounds of forecasts from times spread evenly over a reference, `len(leads)` from each start.

    Raises:
        DataError: the reference has too few times.
    """
    times = reference.times
    last = len(times) - 1 - max(leads) // 6
    if last < starts:
        raise DataError(f"{reference.folder}: {len(times)} times, too few for {starts} starts")
    forecasts = [
        (start + np.timedelta64(lead, "h"), lead, error)
        for start in times[np.linspace(1, last, starts).astype(int)]
        for lead, error in forecast_errors(model, reference, world, start, leads)
    ]
    valid_times, used_leads, errors = zip(*forecasts, strict=True)
    return Backgrounds(np.array(valid_times), np.array(used_leads), np.stack(errors), model.digest)
