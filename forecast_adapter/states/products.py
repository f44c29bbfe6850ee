"""Open products of states: ERA5 and operational analyses, in files, folders and stores, local or remote.

    source = open_states("gs://weatherbench2/datasets/era5/1959-2023_01_10-6h-64x32_equiangular_conservative.zarr")
    source.times, source.grid, source.state("2020-01-01T06")

The format is recognised by content: Zarr (WeatherBench2, ARCO-ERA5), netCDF (WeatherBench2, both spellings of the
Climate Data Store), GRIB (ERA5, ECMWF open data, GFS). `source.StateSource` describes an open product.
"""

from glob import glob
from pathlib import Path

import fsspec

from dacycle.forecast_adapter.remote import FetchError, is_url, local_copies
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.grib import GribStates
from dacycle.forecast_adapter.states.netcdf_zarr import NETCDF, NetcdfStates, ZarrStates
from dacycle.forecast_adapter.states.source import StateSource

__all__ = ["is_grib", "open_states"]

_ZARR = ("zarr.json", ".zmetadata", ".zgroup")
_PATTERNS = tuple(f"{folder}*.{kind}*" for folder in ("", "**/") for kind in ("nc", "grib", "grb", "pgrb"))
_SUFFIXES = (".nc", ".grib", ".grib1", ".grib2", ".grb", ".grb1", ".grb2")


def open_states(product: Path | str, analyses: bool = False) -> StateSource:
    """Open the states of one product.

    Args:
        product: a Zarr store, a netCDF or GRIB file, a folder of files of one kind (searched recursively) or a pattern
            such as `gfs.*/*/atmos/gfs.t*z.pgrb2.0p25.f000`; local, or a URL that fsspec knows (`gs://`, `s3://`,
            `https://`; credentials are fsspec's own settings). Remote files are copied to a cache; remote stores are
            read in place.
        analyses: whether to ignore forecasts among GRIB fields.

    Raises:
        StateError: there is nothing there, it cannot be read, or holds no field of a state; names it and the remedy.
    """
    name = str(product)
    if _is_zarr(name):
        return ZarrStates(name)
    paths = _files(name)
    grib = [path for path in paths if is_grib(path)]
    if not grib:
        return NetcdfStates(name, paths)
    if len(grib) < len(paths):
        other = next(path.name for path in paths if path not in grib)
        raise StateError(f"{name}: holds GRIB and netCDF files ({grib[0].name}, {other}); give one kind alone")
    return GribStates(name, paths, analyses)


def is_grib(path: Path) -> bool:
    """Return whether a path is to be read as GRIB: every file that is not netCDF, whose content ecCodes then checks."""
    if path.is_dir():
        return False
    try:
        with path.open("rb") as file:
            return file.read(3) not in NETCDF
    except FileNotFoundError:
        raise StateError(f"{path}: no such file") from None
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error}") from error


def _files(product: str) -> list[Path]:
    """Return the files that a product names, remote ones as local copies; raise StateError where there are none."""
    path = Path(product)
    if path.is_file():
        return [path]
    if is_url(product):
        try:
            paths = local_copies(product, patterns=_PATTERNS)
        except FetchError as error:
            raise StateError(str(error)) from error
    elif path.is_dir():
        _refuse_stores(path)
        paths = sorted(path.rglob("*"))
    else:
        paths = [Path(name) for name in sorted(glob(product, recursive=True))]
    data_files = [file for file in paths if file.is_file() and _is_data(file)]
    if not data_files:
        exists = paths or path.is_dir()
        problem = "holds no GRIB or netCDF file, and is no Zarr store" if exists else "no such file or folder"
        raise StateError(f"{product}: {problem}")
    return data_files


def _refuse_stores(folder: Path) -> None:
    """Raise StateError for a folder of Zarr stores, whose many files are no products by themselves."""
    stores = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and _is_zarr(str(path))]
    if stores:
        raise StateError(f"{folder}: holds the Zarr stores {', '.join(stores)}; name one")


def _is_data(path: Path) -> bool:
    """Return whether a file holds fields, by name or content; hidden files are unfinished, others are indexes."""
    if path.name.startswith("."):
        return False
    with path.open("rb") as file:
        start = file.read(4)
    return path.suffix in _SUFFIXES or start == b"GRIB" or start[:3] in NETCDF


def _is_zarr(product: str) -> bool:
    try:
        system, path = fsspec.core.url_to_fs(product)
        return any(system.exists(f"{path.rstrip('/')}/{name}") for name in _ZARR)
    except (ImportError, ValueError) as error:
        raise StateError(f"{product}: cannot be read: {error}") from error
    except OSError as error:
        raise StateError(f"{product}: cannot be reached: {error}") from error
