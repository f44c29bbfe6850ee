"""Static fields of a grid, orography and land fraction, from a product or a file: Zarr, netCDF, GRIB."""

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.common.files import whole
from dacycle.common.foreign import reading
from dacycle.forecast_adapter.grid import Grid, regrid
from dacycle.forecast_adapter.physics import GRAVITY
from dacycle.forecast_adapter.remote import is_url
from dacycle.forecast_adapter.state import StateError, check_ground
from dacycle.forecast_adapter.states.cf import described, global_attributes
from dacycle.forecast_adapter.states.grib_messages import key_of, messages, on_grid
from dacycle.forecast_adapter.states.grib_products import why_unfit
from dacycle.forecast_adapter.states.products import is_grib, is_zarr
from dacycle.forecast_adapter.states.source import global_grid
from dacycle.forecast_adapter.zarr_store import KeptStore

__all__ = ["write_static"]

logger = logging.getLogger(__name__)

Fields = dict[str, tuple[NDArray, Grid]]

_FIELDS = {"geopotential_at_surface": "m2 s-2", "land_sea_mask": "1"}
_SPELLINGS = {
    "geopotential_at_surface": ("m2 s-2", "m**2 s**-2", "m^2 s^-2", "m2/s2"),
    "land_sea_mask": ("1", "(0 - 1)", "fraction", "0-1", ""),
}
_TIMES = ("time", "valid_time", "step", "prediction_timedelta")
_LEVELS = {"level", "pressure_level", "isobaricInhPa", "plev"}
_SHORT = {"z": "geopotential_at_surface", "lsm": "land_sea_mask"}  # names in the Climate Data Store's netCDF
# By ecCodes' name at the surface: our name of the field, its unit in GRIB, and the factor to our unit.
_GRIB = {
    "z": ("geopotential_at_surface", "m**2 s**-2", 1.0),
    "orog": ("geopotential_at_surface", "m", GRAVITY),
    "lsm": ("land_sea_mask", "(0 - 1)", 1.0),
}


def write_static(product: str, path: Path, grid: Grid, time: np.datetime64) -> None:
    """Write `geopotential_at_surface` and `land_sea_mask` on a grid to a netCDF file, as a world has it.

    Args:
        product: a Zarr store or a file that holds both, or a folder of such files; local, or the URL of a store.
        path: the file to write.
        grid: the grid to write on; fields are averaged conservatively to a coarser grid, else interpolated bilinearly.
        time: the time to take where the fields have a time.

    Raises:
        StateError: one of the two is not there; names it.
    """
    fields = _from_store(product, time) or _from_files(product)
    missing = [name for name in _FIELDS if name not in fields]
    if missing:
        raise StateError(f"{product}: it holds no {' and no '.join(missing)}")
    variables = {}
    for name, unit in _FIELDS.items():
        values, source_grid = fields[name]
        if not np.isfinite(values).all():
            raise StateError(f"{product}: {name} has values that are not finite")
        if name == "geopotential_at_surface":
            check_ground(values / GRAVITY, product)
        values = regrid(values.astype(np.float32), source_grid, grid)
        variables[name] = (("latitude", "longitude"), values, {"units": unit})
    coordinates = {"latitude": grid.latitude, "longitude": grid.longitude}
    with whole(path) as temporary:
        dataset = described(xr.Dataset(variables, coordinates, global_attributes({"source": product})))
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding={axis: {"_FillValue": None} for axis in coordinates})


def _from_store(product: str, time: np.datetime64) -> Fields:
    """Return the fields of a Zarr store; none where the product is no store."""
    if not is_zarr(product):
        return {}
    with TemporaryDirectory() as kept:  # a remote store is asked again where a connection breaks
        store = KeptStore(product, Path(kept), fresh=False) if is_url(product) else product
        with reading(product, StateError), xr.open_zarr(store, chunks=None) as dataset:
            return _fields(dataset, product, time)


def _fields(dataset: xr.Dataset, source: str, time: np.datetime64 | None = None) -> Fields:
    """Return the static fields of a dataset by name, rows from the north, columns from 0 E, and their grids."""
    dataset = dataset.rename({k: v for k, v in {"lat": "latitude", "lon": "longitude"}.items() if k in dataset.coords})
    fields: Fields = {}
    for key, field in dataset.data_vars.items():
        name = _SHORT.get(str(key), str(key))
        if name not in _FIELDS or not {"latitude", "longitude"} <= set(field.dims) or _has_level(field):
            continue
        if (unit := field.attrs.get("units", _FIELDS[name])) not in _SPELLINGS[name]:
            raise StateError(f"{source}: {key} is in {unit!r}, not in {_FIELDS[name]!r}")
        for dim in [d for d in field.dims if d not in ("latitude", "longitude")]:
            instant = None if time is None else time.astype("datetime64[ns]")
            has_time = instant is not None and dim == "time" and instant in field[dim].values
            field = field.sel(time=instant) if has_time else field.isel({dim: 0})
        latitude, longitude = (np.asarray(field[axis], float) for axis in ("latitude", "longitude"))
        values = field.transpose("latitude", "longitude").values
        values = values[np.argsort(-latitude)][:, np.argsort(np.round(longitude % 360, 6) % 360)]
        fields[name] = (values, global_grid(latitude, longitude, f"{source}: {name}"))
    return fields


def _has_level(field: xr.DataArray) -> bool:
    """Return whether a field is of a level aloft: geopotential of any level has the short name of that at the surface.

    A field of the surface has at most times beside its rows and columns.
    """
    return not set(field.dims) <= {"latitude", "longitude", *_TIMES} or not _LEVELS.isdisjoint(map(str, field.coords))


def _from_files(product: str) -> Fields:
    """Return the fields of a file, or of the files of a folder, until both are there."""
    path = Path(product)
    files = (
        sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith(".")) if path.is_dir() else [path]
    )
    fields: Fields = {}
    for file in files:
        if not file.is_file():
            raise StateError(f"{product}: no such file, folder or store")
        try:
            fields |= dict(_from_grib(file)) if is_grib(file) else _from_netcdf(file)
        except StateError as error:
            if len(files) == 1:
                raise
            logger.warning("%s; the fields of the ground are looked for in the other files", error)
        if len(fields) == len(_FIELDS):
            break
    return fields


def _from_netcdf(path: Path) -> Fields:
    with reading(path, StateError), xr.open_dataset(path) as dataset:
        return _fields(dataset, str(path))


def _from_grib(path: Path) -> Iterator[tuple[str, tuple[NDArray, Grid]]]:
    for count, message in enumerate(messages(path), 1):
        with reading(f"{path}: field {count}", StateError):
            short, kind = key_of(message, "shortName"), key_of(message, "typeOfLevel")
            if short not in _GRIB or kind != "surface" or why_unfit(message):
                continue
        name, unit, factor = _GRIB[short]
        grid, values = on_grid(message, f"{path}: {short}", unit)
        yield name, (factor * values, grid)
