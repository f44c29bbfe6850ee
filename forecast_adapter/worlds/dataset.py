"""Datasets: states of a product, regridded to a chosen grid, in files that `Reference` reads, for training and scores.

    FOLDER/manifest.json            its product, its files and their SHA-256 (see `manifest`)
    FOLDER/YYYY/FIRST_TIME.nc       states, and the extra fields that the product has, in WeatherBench2's schema
    FOLDER/static.nc                orography (geopotential_at_surface) and land_sea_mask, where the product has them
    FOLDER/.parts/                  times that were fetched and are not yet in a file

Times are fetched side by side, each into a file of its own, so that an interruption loses only the times in transfer.
The times of a month (on fine grids: of a day) are then joined to one file. A file is never written again; an extension
adds files.
"""

import logging
import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.common.foreign import reading
from dacycle.forecast_adapter.grid import Grid, get_grid, regrid
from dacycle.forecast_adapter.state import StateError, to_dataset
from dacycle.forecast_adapter.states.dataset_writer import write_netcdf
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.states.source import StateSource
from dacycle.forecast_adapter.worlds.manifest import DatasetError, Entry, Manifest
from dacycle.forecast_adapter.worlds.reference import EXTRA_FIELDS
from dacycle.forecast_adapter.worlds.static import write_static

__all__ = ["build_dataset"]

logger = logging.getLogger(__name__)

_MONTH_CELLS = 121 * 240
"""Grids with no more cells than these have a file a month, up to 1 GB each; finer grids have a file a day."""


def build_dataset(
    product: str,
    folder: Path,
    grid: Grid,
    times: NDArray[np.datetime64],
    static: str | None = None,
    workers: int = 1,
    fetched: Callable[[int, int], None] = lambda done, total: None,
    beside: Sequence[str] = (),
) -> Manifest:
    """Make a dataset, continue one that was interrupted, or add times to a finished one.

    Args:
        product: the product, as `open_states` takes it.
        folder: the folder to write to.
        grid: a named grid; states are averaged conservatively to a coarser grid, else interpolated bilinearly.
        times: (n,) datetime64[h], ascending. Times that the product does not hold are logged and left out.
        static: the file or store of the static fields, if they are not in the product.
        workers: number of processes that fetch.
        beside: further products, whose extra fields are taken where the product (and those before) lacks them.
        fetched: called with the number of times fetched so far and the number to fetch, for a progress bar.

    Returns:
        The manifest as it stands in the folder.

    Raises:
        DatasetError: the folder holds another dataset, or times could not be read; names them and keeps all others.
        StateError: the product, or one beside it, cannot be opened, or is in other units.
    """
    source = open_states(product)
    wanted = _available(source, times)
    for other in beside:
        _check_beside(other, wanted)
    manifest = _manifest(folder, product, grid, list(beside))
    present = _present(folder, manifest)
    todo = [time for time in wanted if time not in present]
    manifest.write(folder)
    if "static.nc" not in manifest.files:
        _add_static(static or product, folder, grid, wanted[0], manifest)
    failures: dict[np.datetime64, str] = {}
    parts = {time: folder / ".parts" / f"{time}.nc" for time in todo}
    groups = [list(group) for _, group in groupby(todo, key=lambda time: _period(time, grid))]
    for done, (time, error) in enumerate(_fetch_all((product, *beside), grid, parts, workers), 1):
        fetched(done, len(todo))
        if error is not None:
            failures[time] = error
        for group in [group for group in groups if time in group]:
            if all(parts[t].exists() for t in group):
                _join([parts[t] for t in group], folder, manifest)
    if failures:
        raise DatasetError(_spell(folder, failures, len(todo)))
    manifest.finished = True
    manifest.write(folder)
    shutil.rmtree(folder / ".parts", ignore_errors=True)
    return manifest


def _check_beside(product: str, times: Sequence[np.datetime64]) -> None:
    """Raise DatasetError where a product beside has no extra field at the last of the times that it holds."""
    source = open_states(product)
    held = [time for time in times if time in source.times]
    if not held:
        span = f"{source.times[0]} to {source.times[-1]}" if len(source.times) else "nothing"
        raise DatasetError(f"{product}: holds none of the times from {times[0]} to {times[-1]}; it has {span}")
    if not set(source.surface(held[-1])) & set(EXTRA_FIELDS):
        step = np.diff(source.times).min() if len(source.times) > 1 else None
        apart = f"; its times are {step.astype(int)} h apart" if step is not None else ""
        needed = ", ".join(name for name, *_ in EXTRA_FIELDS.values())
        raise DatasetError(
            f"{product}: gives none of {needed} at {held[-1]}{apart}; precipitation and radiation are summed from "
            "accumulations of one hour, which are needed at each of the six hours up to a time"
        )


def _manifest(folder: Path, product: str, grid: Grid, beside: list[str]) -> Manifest:
    """Return the manifest of the folder, or a new one; leave out files that are missing or have another size."""
    manifest = Manifest.read(folder)
    if manifest is None:
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise DatasetError(f"{folder} holds other files and no manifest; give an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        return Manifest(product, grid.name, beside=beside)
    if (manifest.source, manifest.beside, manifest.grid) != (product, beside, grid.name):
        content = f"{folder} holds states of {' beside '.join([manifest.source, *manifest.beside])} on {manifest.grid}"
        asked = " beside ".join([product, *beside])
        raise DatasetError(f"{content}, not of {asked} on {grid.name}; give another folder")
    paths = {name: folder / name for name in manifest.files}
    intact = {
        name: entry
        for name, entry in manifest.files.items()
        if paths[name].is_file() and paths[name].stat().st_size == entry.size
    }
    manifest.finished = manifest.finished and len(intact) == len(manifest.files)
    manifest.files = intact
    return manifest


def _present(folder: Path, manifest: Manifest) -> set[np.datetime64]:
    """Return the times of the files that belong to the dataset."""
    present: set[np.datetime64] = set()
    for name, entry in manifest.files.items():
        if entry.times is not None:
            path = folder / name
            with _own(path), xr.open_dataset(path, engine="h5netcdf") as file:
                present.update(file["time"].values.astype("datetime64[h]"))
    return present


def _own(path: Path) -> AbstractContextManager[None]:
    """Return the guard for reading a file of the dataset itself, or of its parts."""
    return reading(f"{path} is damaged; delete it and run the command again", DatasetError)


def _available(source: StateSource, times: NDArray[np.datetime64]) -> list[np.datetime64]:
    """Return those of `times` that the product holds, and log which it does not hold."""
    there = np.isin(times, source.times)
    if not there.any():
        span = f"{source.times[0]} to {source.times[-1]}" if len(source.times) else "nothing"
        raise DatasetError(f"{source.name}: holds none of the times from {times[0]} to {times[-1]}; it has {span}")
    first, last = source.times[0], source.times[-1]
    outside = (times < first) | (times > last)
    if outside.any():
        logger.info("%s holds %s to %s: %d times are not there (yet)", source.name, first, last, outside.sum())
    gaps = times[~there & ~outside]
    if len(gaps):
        listed = ", ".join(map(str, gaps[:4])) + (", ..." if len(gaps) > 4 else "")
        logger.info(
            "%s has gaps: %d times are missing (%s); the dataset goes on without them", source.name, len(gaps), listed
        )
    return list(times[there])


def _period(time: np.datetime64, grid: Grid) -> np.datetime64:
    """Return the month, or on fine grids the day, whose times share a file."""
    return time.astype("datetime64[M]" if grid.shape[0] * grid.shape[1] <= _MONTH_CELLS else "datetime64[D]")


def _fetch_all(
    products: tuple[str, ...], grid: Grid, parts: dict[np.datetime64, Path], workers: int
) -> Iterator[tuple[np.datetime64, str | None]]:
    """Yield each time once its file is on disk, with None, or with the reason where it could not be fetched."""
    missing = [time for time in parts if not parts[time].exists()]
    yield from ((time, None) for time in parts if time not in missing)
    if workers == 1 or len(missing) < 2:
        yield from ((time, _fetch(products, grid.name, time, parts[time])) for time in missing)
        return
    # Spawned: the threads of a network file system do not survive a fork.
    pool: Executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        waiting: dict[Future[str | None], np.datetime64] = {
            pool.submit(_fetch, products, grid.name, time, parts[time]): time for time in missing
        }
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _fetch(products: tuple[str, ...], grid_name: str, time: np.datetime64, part: Path) -> str | None:
    """Write one time on a grid to a file; return the reason where that fails."""
    try:
        grid, sources = get_grid(grid_name), [_source(product) for product in products]
        state = sources[0].state(time, grid)
        dataset, notes = to_dataset(state), [state.attrs["notes"]]
        for source in sources:
            notes += _add_extra_fields(dataset, source, time, grid)
        write_netcdf(part, [dataset], {"notes": "; ".join(note for note in notes if note)})
    except (StateError, OSError) as error:
        return str(error)
    return None


def _add_extra_fields(dataset: xr.Dataset, source: StateSource, time: np.datetime64, grid: Grid) -> list[str]:
    """Add the extra fields that a source has and the dataset lacks; return notes on fields of another period."""
    if time not in source.times:
        return []
    surface = source.surface(time)
    notes: list[str] = []
    for short, (name, _, factor) in EXTRA_FIELDS.items():
        if name in dataset or short not in surface or not np.isfinite(surface[short].values).all():
            continue
        values = regrid(surface[short].values, source.grid, grid) / np.float32(factor)
        about: dict[str, str] = {}
        if "period" in surface[short].attrs:
            period = surface[short].attrs["period"]
            about = {"period": period, "long_name": f"mean of the {period} before"}
            notes.append(f"{name} is a mean over the {period} before each time, in place of 6 h")
        dataset[name] = (("time", "latitude", "longitude"), values[None].astype(np.float32), about)
    return notes


@lru_cache(maxsize=8)
def _source(product: str) -> StateSource:
    return open_states(product)


def _join(parts: list[Path], folder: Path, manifest: Manifest) -> None:
    """Join the files of single times to one, enter it in the manifest, and only then remove them."""
    kept, notes = _common(parts)
    for text in notes:
        manifest.note(text)
    first, last = parts[0].stem, parts[-1].stem
    name = f"{first[:4]}/{first}.nc"
    attrs = {"source": manifest.source, "notes": "; ".join(notes)}
    write_netcdf(folder / name, (_read(part, kept) for part in parts), attrs)
    manifest.files[name] = Entry.of(folder / name, (first, last, len(parts)))
    manifest.write(folder)
    for part in parts:
        part.unlink()


def _common(parts: Iterable[Path]) -> tuple[list[str], list[str]]:
    """Return the fields that all times have, and notes: those of the times, and which fields some or all lack."""
    names: list[set[str]] = []
    notes: dict[str, None] = {}
    for part in parts:
        with _own(part), xr.open_dataset(part, engine="h5netcdf") as file:
            names.append({str(name) for name in file.data_vars})
            notes |= {note: None for note in file.attrs["notes"].split("; ") if note}
    common = set.intersection(*names)
    for name in sorted(set.union(*names) - common):
        notes[f"{name} is left out where a time of its month or day lacks it"] = None
    if absent := [name for name, _, _ in EXTRA_FIELDS.values() if name not in set.union(*names)]:
        notes[
            f"no {', '.join(absent)} read (the first two are never read from GRIB): their observations cannot be drawn"
        ] = None
    return sorted(common), list(notes)


def _read(part: Path, names: list[str]) -> xr.Dataset:
    with _own(part), xr.open_dataset(part, engine="h5netcdf") as file:
        return file[names].load()


def _add_static(product: str, folder: Path, grid: Grid, time: np.datetime64, manifest: Manifest) -> None:
    """Write the static fields, or log that there are none."""
    try:
        write_static(product, folder / "static.nc", grid, time)
    except StateError as error:
        logger.info("no static fields: %s; `dacycle world` needs them: give --static, a file that has them", error)
        return
    manifest.files["static.nc"] = Entry.of(folder / "static.nc")
    manifest.write(folder)


def _spell(folder: Path, failures: dict[np.datetime64, str], total: int) -> str:
    """Return the message on times that could not be read: how many, the first five, and the remedy."""
    shown = [f"  {time}: {failures[time]}" for time in sorted(failures)[:5]]
    more = [f"  and {len(failures) - 5} more"] if len(failures) > 5 else []
    remedy = "what was read is kept, the same command goes on; --without TIME leaves a time out"
    return "\n".join([f"{folder}: {len(failures)} of {total} times could not be read; {remedy}", *shown, *more])
