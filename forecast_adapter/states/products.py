"""Open products of states: ERA5 and operational analyses, in files, folders and stores, local or remote.

    source = open_states("gs://weatherbench2/datasets/era5/1959-2023_01_10-6h-64x32_equiangular_conservative.zarr")
    source.times, source.grid, source.state("2020-01-01T06")

The format is recognised by content: Zarr (WeatherBench2, ARCO-ERA5), netCDF (WeatherBench2, both spellings of the
Climate Data Store), GRIB (ERA5, ECMWF open data, GFS). `source.StateSource` describes an open product.
"""

import os
from collections import Counter
from collections.abc import Iterable
from glob import glob
from pathlib import Path

import fsspec

from dacycle.common.foreign import reading
from dacycle.common.limits import in_time
from dacycle.forecast_adapter import remote
from dacycle.forecast_adapter.remote import FetchError, is_url, local_copies
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.formats import GRIB, ZARR_METADATA, file_kind
from dacycle.forecast_adapter.states.grib import GribStates
from dacycle.forecast_adapter.states.netcdf_zarr import NetcdfStates, ZarrStates
from dacycle.forecast_adapter.states.source import StateSource

__all__ = ["is_grib", "is_zarr", "open_states"]

_PATTERNS = tuple(f"{folder}*.{kind}*" for folder in ("", "**/") for kind in ("nc", "grib", "grb", "pgrb"))


def open_states(
    product: Path | str, analyses: bool = False, kept: Path | None = None, fresh: bool = True
) -> StateSource:
    """Open the states of one product.

    Args:
        product: a Zarr store, a netCDF or GRIB file, a folder of files of one kind (searched recursively) or a pattern
            such as `gfs.*/*/atmos/gfs.t*z.pgrb2.0p25.f000`; local, or a URL that fsspec knows (`gs://`, `s3://`,
            `https://`; credentials are fsspec's own settings). Remote files are copied to a cache; remote stores are
            read in place.
        analyses: whether to ignore forecasts among GRIB fields.
        kept, fresh: for a remote store, see `netcdf_zarr.ZarrStates`.

    Raises:
        StateError: there is nothing there, it cannot be read, or holds no field of a state; names it and the remedy.
    """
    name = str(product)
    if is_zarr(name):
        return ZarrStates(name, kept, fresh)
    paths, left_out = _files(name)
    kinds, left_out = _kinds(paths, left_out)
    files = {label: path for label, path in paths.items() if kinds.get(label)}
    if not files:
        left = "".join(f"; left out: {label} ({why})" for label, why in left_out.items())
        raise StateError(f"{name}: holds no GRIB or netCDF file, and is no Zarr store{left}")
    grib = [label for label in files if kinds[label] == GRIB]
    if not grib:
        return NetcdfStates(name, files, left_out)
    if len(grib) < len(files):
        other = next(label for label in files if label not in grib)
        raise StateError(f"{name}: holds GRIB and netCDF files ({grib[0]}, {other}); give one kind alone")
    return GribStates(name, files, left_out, analyses)


def is_grib(path: Path) -> bool:
    """Return whether a path is to be read as GRIB: every file that is not netCDF, whose content ecCodes then checks.

    Raises:
        StateError: there is no such file, or it cannot be read as it is; names the remedy.
    """
    if path.is_dir():
        return False
    if not path.exists():
        raise StateError(f"{path}: no such file")
    return (file_kind(path) or GRIB) == GRIB


def _kinds(paths: dict[str, Path], left_out: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the kinds of files that can be opened, and why others are left out, besides those left out before."""
    kinds, out = {}, dict(left_out)
    for label, path in paths.items():
        try:
            kind = file_kind(path)
        except StateError as error:
            if len(paths) == 1:
                raise
            out[label] = str(error).removeprefix(f"{path}: ")
            continue
        kinds[label] = kind or (GRIB if len(paths) == 1 else "")
    return kinds, out


def _files(product: str) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the files that a product names, by their labels, and folders that cannot be read, with the reasons.

    Remote files are copied. Hidden files, which are unfinished, are left away. A label is the file's name, or its path
    where there are several of that name.
    """
    path, left_out = Path(product), {}
    with reading(product, StateError):
        is_file, is_folder = path.is_file(), path.is_dir()
    paths: Iterable[Path]
    if is_file:
        return {path.name: path}, {}
    if is_url(product):
        try:
            paths = local_copies(product, patterns=_PATTERNS)
        except FetchError as error:
            raise StateError(str(error)) from error
    elif is_folder:
        _refuse_stores(path)
        walk = os.walk(path, onerror=lambda error: left_out.update({str(error.filename): str(error.strerror)}))
        paths = sorted(Path(root, name) for root, _, names in walk for name in names)
    else:
        paths = [Path(name) for name in sorted(glob(product, recursive=True))]
        if not paths:
            raise StateError(f"{product}: no such file or folder")
    with reading(product, StateError):
        files = [file for file in paths if not file.name.startswith(".") and file.is_file()]
    count = Counter(file.name for file in files)
    return {file.name if count[file.name] == 1 else str(file): file for file in files}, left_out


def _refuse_stores(folder: Path) -> None:
    """Raise StateError for a folder of Zarr stores, whose many files are no products by themselves."""
    with reading(folder, StateError):
        stores = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and is_zarr(str(path))]
    if stores:
        raise StateError(f"{folder}: holds the Zarr stores {', '.join(stores)}; name one")


def is_zarr(product: str) -> bool:
    """Return whether a path or URL is that of a Zarr store; raise StateError where that cannot be told."""

    def look() -> bool:
        system, path = fsspec.core.url_to_fs(product)
        return any(system.exists(f"{path.rstrip('/')}/{name}") for name in ZARR_METADATA)

    with reading(product, StateError):
        return in_time(remote.OBJECT, look) if is_url(product) else look()
