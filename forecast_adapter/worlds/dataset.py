"""Datasets: states of a product, regridded to a chosen grid, in files that `Reference` reads, for training and scores.

    FOLDER/manifest.json            its product, its files and their SHA-256 (see `manifest`)
    FOLDER/YYYY/FIRST_TIME.nc       states, and the extra fields that the product has, in WeatherBench2's schema
    FOLDER/static.nc                orography (geopotential_at_surface) and land_sea_mask, where the product has them
    FOLDER/.parts/                  times that are not yet in a file, and objects of remote stores (see `transfers`)

The times of a month (on fine grids: of a day) are fetched together, made side by side, each into a file of its own, and
then joined to one file. An interruption loses only what is in transfer. A file is never written again; an extension
adds files.
"""

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.common.foreign import reading
from dacycle.common.pieces import Each, in_turn
from dacycle.forecast_adapter.channels import CHANNEL_COUNT
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.dataset_writer import write_netcdf
from dacycle.forecast_adapter.states.source import StateSource
from dacycle.forecast_adapter.worlds.manifest import DatasetError, Entry, Manifest
from dacycle.forecast_adapter.worlds.parts import about_part, make_part, opened, read_part
from dacycle.forecast_adapter.worlds.reference import EXTRA_FIELDS
from dacycle.forecast_adapter.worlds.static import write_static
from dacycle.forecast_adapter.worlds.transfers import Place, Transfer, Transfers

__all__ = ["Plan", "build_dataset", "plan_dataset"]

logger = logging.getLogger(__name__)

_MONTH_CELLS = 121 * 240
"""Grids with no more cells than these have a file a month, up to 1 GB each; finer grids have a file a day."""


@dataclass(frozen=True)
class Plan:
    """What a dataset still needs.

    Attributes:
        times: (n,) the times that are to be made.
        transfers: what is to be fetched of each remote store.
        size: bytes of the new states on disk, at most.
        between: bytes on disk until they are made, at most.
    """

    times: NDArray[np.datetime64]
    transfers: list[Transfer]
    size: float
    between: float


def build_dataset(
    product: str,
    folder: Path,
    grid: Grid,
    times: NDArray[np.datetime64],
    static: str | None = None,
    each: Each = in_turn,
    fetched: Callable[[int, int], None] = lambda done, total: None,
    beside: Sequence[str] = (),
    requests: int = 2,
) -> Manifest:
    """Make a dataset, continue one that was interrupted, or add times to a finished one.

    Args:
        product: the product, as `open_states` takes it.
        folder: the folder to write to.
        grid: a named grid; states are averaged conservatively to a coarser grid, else interpolated bilinearly.
        times: (n,) datetime64[h], ascending. Times that the product does not hold are logged and left out.
        static: the file or store of the static fields, if they are not in the product.
        each: where states are made, such as `pieces.in_processes`; its processes see the folder.
        beside: further products, whose extra fields are taken where the product (and those before) lacks them.
        fetched: called with the number of times fetched so far and the number to fetch, for a progress bar.
        requests: number of objects that are fetched at once.

    Returns:
        The manifest as it stands in the folder.

    Raises:
        DatasetError: the folder holds another dataset, or times could not be read; names them and keeps all others.
        StateError: the product, or one beside it, cannot be opened, or is in other units.
    """
    opened.cache_clear()
    places = _places((product, *beside), folder)
    transfers = Transfers(places)
    source, *others = transfers.sources
    wanted = _available(source, times)
    for other in others:
        _check_beside(other, wanted)
    manifest = _manifest(folder, product, grid, list(beside))
    present = _present(folder, manifest)
    todo = [time for time in wanted if time not in present]
    manifest.write(folder)
    if "static.nc" not in manifest.files:
        _add_static(static or product, folder, grid, wanted[0], manifest)
    failures: dict[np.datetime64, str] = {}
    parts = {time: _part(folder, time) for time in todo}
    groups = [list(group) for _, group in groupby(todo, key=lambda time: _period(time, grid))]
    done = 0
    for group, coming in pairwise([*groups, []]):
        missing = [time for time in group if not parts[time].exists()]
        transfers.fetch(missing, requests)
        for number, error in each(make_part, [(places, grid.name, time, parts[time]) for time in missing]):
            failures |= {} if error is None else {missing[number]: error}
            fetched(done := done + 1, len(todo))
        fetched(done := done + len(group) - len(missing), len(todo))
        if not failures.keys() & set(group):
            _join([parts[time] for time in group], folder, grid, manifest)
            transfers.forget(group, coming)
    if failures:
        raise DatasetError(_spell(folder, failures, len(todo)))
    manifest.finished = True
    manifest.write(folder)
    shutil.rmtree(folder / ".parts", ignore_errors=True)
    return manifest


def plan_dataset(
    product: str, folder: Path, grid: Grid, times: NDArray[np.datetime64], beside: Sequence[str] = ()
) -> Plan:
    """Return what `build_dataset` would still fetch and need, for the same arguments; nothing is fetched but metadata.

    Raises:
        DatasetError: the folder holds another dataset, or the product holds none of the times.
        StateError: the product, or one beside it, cannot be opened.
    """
    manifest = _manifest(folder, product, grid, list(beside)) if folder.exists() else None
    products = (product, *beside)
    kept = [place for _, place in _places(products, folder)]
    with TemporaryDirectory() as temporary:
        transfers = Transfers(_places(products, Path(temporary)))
        wanted = _available(transfers.sources[0], times)
        present = set() if manifest is None else _present(folder, manifest)
        todo = [time for time in wanted if time not in present]
        missing = [time for time in todo if not _part(folder, time).exists()]
        groups = [list(group) for _, group in groupby(missing, key=lambda time: _period(time, grid))]
        largest = max(groups, key=len, default=[])
        a_state = 4 * (CHANNEL_COUNT + len(EXTRA_FIELDS)) * grid.shape[0] * grid.shape[1]
        between = sum(transfer.size for transfer in transfers.estimate(largest, kept))
        return Plan(
            np.array(todo, "datetime64[h]"), transfers.estimate(missing, kept), a_state * len(todo),
            between + a_state * len(largest),
        )  # fmt: skip


def _part(folder: Path, time: np.datetime64) -> Path:
    return folder / ".parts" / f"{time}.npz"


def _places(products: Sequence[str], folder: Path) -> tuple[Place, ...]:
    """Return the products of a dataset, each with its folder of kept objects."""
    return tuple((product, folder / ".parts" / f"store-{number}") for number, product in enumerate(products))


def _check_beside(source: StateSource, times: Sequence[np.datetime64]) -> None:
    """Raise DatasetError where a product beside has no extra field at the last of the times that it holds."""
    held = [time for time in times if time in source.times]
    if not held:
        span = f"{source.times[0]} to {source.times[-1]}" if len(source.times) else "nothing"
        raise DatasetError(f"{source.name}: holds none of the times from {times[0]} to {times[-1]}; it has {span}")
    if not set(source.surface(held[-1])) & set(EXTRA_FIELDS):
        step = np.diff(source.times).min() if len(source.times) > 1 else None
        periods = "; ".join(f"{name} is there over {', '.join(map(str, h))} h" for name, h in source.periods().items())
        apart = f"; {periods}" if periods else f"; its times are {step.astype(int)} h apart" if step is not None else ""
        needed = ", ".join(name for name, *_ in EXTRA_FIELDS.values())
        raise DatasetError(
            f"{source.name}: gives none of {needed} at {held[-1]}{apart}; precipitation and radiation are summed from "
            "accumulations of one hour (in GRIB also of two, three or six), which are needed for each of the six hours "
            "up to a time"
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
            damaged = f"{path} is damaged; delete it and run the command again"
            with reading(damaged, DatasetError), xr.open_dataset(path, engine="h5netcdf") as file:
                present.update(file["time"].values.astype("datetime64[h]"))
    return present


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


def _join(parts: list[Path], folder: Path, grid: Grid, manifest: Manifest) -> None:
    """Join the files of single times to one, enter it in the manifest, and only then remove them."""
    kept, notes = _common(parts)
    for text in notes:
        manifest.note(text)
    first, last = parts[0].stem, parts[-1].stem
    name = f"{first[:4]}/{first}.nc"
    attrs = {"source": manifest.source, "notes": "; ".join(notes)}
    write_netcdf(folder / name, (read_part(part, grid, kept) for part in parts), attrs)
    manifest.files[name] = Entry.of(folder / name, (first, last, len(parts)))
    manifest.write(folder)
    for part in parts:
        part.unlink()


def _common(parts: Iterable[Path]) -> tuple[list[str], list[str]]:
    """Return the extra fields that all times have, and notes: those of the times, and which fields some or all lack."""
    names: list[set[str]] = []
    notes: dict[str, None] = {}
    for part in parts:
        extra, of_time = about_part(part)
        names.append(set(extra))
        notes |= dict.fromkeys(of_time)
    common = set.intersection(*names)
    for name in sorted(set.union(*names) - common):
        notes[f"{name} is left out where a time of its month or day lacks it"] = None
    if absent := [name for name, _, _ in EXTRA_FIELDS.values() if name not in set.union(*names)]:
        notes[f"no {', '.join(absent)} read: their observations cannot be drawn"] = None
    return sorted(common), list(notes)


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
