"""Cut the genuine samples of this folder from their originals: `python -m tests.samples.cut ORIGINALS`.

MANIFEST.md says where the originals come from. Messages, records and rows are copied as they are; fields on fine grids
keep every so-many-th row and column, packed as they were.
"""

import gzip
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import eccodes
import numpy as np
import xarray as xr
import zarr

from dacycle.forecast_adapter.channels import LEVELS

HERE = Path(__file__).parent
WHOLE = (
    "grid/ecmwf_fc48_2t_N160_valid_2018112012.grib",
    "grid/gfs_2p5_3lev_2008021312_f000.grib2",
    "obs/isd_014160-99999-2016.gz",
    "obs/synop_dwd_20210516T1150.bufr",
    "obs/synop_europe_2018112012.bufr",
    "obs/synop_new_20200315.bufr",
    "obs/synop_wigos.bufr",
    "obs/temp_global_2008120812.bufr",
    "obs/wbx_metar_12stations_202001.parquet",
)
_UPPER = ("gh", "r", "u", "t")
_SURFACE = ("sp", "orog", "t", "2t", "2sh", "2r", "10u", "tp", "sulwrf", "lsm", "prmsl")
_LAYERS = ("surface", "heightAboveGround", "meanSea", "nominalTop", "tropopause", "sigma")


def grib(originals: Path, name: str, wanted: Callable[[dict, int], bool], thin: int = 1) -> None:
    """Copy the messages that are wanted, given their keys and number; keep every `thin`-th row and column."""
    keys = ("shortName", "typeOfLevel", "level", "dataDate", "dataTime", "number")
    with (originals / name).open("rb") as source, _new(name).open("wb") as out:
        count = 0
        while (message := eccodes.codes_grib_new_from_file(source)) is not None:
            held = {key: eccodes.codes_get(message, key) for key in keys if eccodes.codes_is_defined(message, key)}
            if wanted(held, count):
                if thin > 1:
                    _thin(message, thin)
                out.write(eccodes.codes_get_message(message))
            eccodes.codes_release(message)
            count += 1


def _thin(message: int, step: int) -> None:
    """Keep every `step`-th row and column of a regular grid."""
    rows, columns = eccodes.codes_get(message, "Nj"), eccodes.codes_get(message, "Ni")
    values = eccodes.codes_get_values(message).reshape(rows, columns)[::step, ::step]
    along = {key: eccodes.codes_get(message, f"{key}DirectionIncrementInDegrees") for key in "ij"}
    first = {key: eccodes.codes_get(message, f"{key}OfFirstGridPointInDegrees") for key in ("latitude", "longitude")}
    southward = -1 if first["latitude"] > 0 else 1
    for key, value in (
        ("Ni", values.shape[1]),
        ("Nj", values.shape[0]),
        ("iDirectionIncrementInDegrees", along["i"] * step),
        ("jDirectionIncrementInDegrees", along["j"] * step),
        ("latitudeOfLastGridPointInDegrees", first["latitude"] + southward * along["j"] * step * (len(values) - 1)),
        ("longitudeOfLastGridPointInDegrees", (first["longitude"] + along["i"] * step * (values.shape[1] - 1)) % 360),
    ):
        eccodes.codes_set(message, key, value)
    eccodes.codes_set_values(message, np.ascontiguousarray(values.ravel()))


def _new(name: str) -> Path:
    path = HERE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def is_of_gfs(keys: dict, _: int) -> bool:
    """Everything of a state, orography, precipitation, OLR, and decoys of the same names on other levels."""
    name, kind, level = keys["shortName"], keys["typeOfLevel"], keys["level"]
    if kind == "isobaricInhPa":
        return (name in _UPPER and level in LEVELS) or (name in ("w", "t", "gh") and level in (450, 500))
    return name in _SURFACE and kind in _LAYERS


def is_of_members(keys: dict, _: int) -> bool:
    """Two members of everything at 12 UTC on 1 January 2017, fewer fields at the other times."""
    if keys["number"] > 1:
        return False
    first = (keys["dataDate"], keys["dataTime"]) == (20170101, 1200)
    geopotential = keys["shortName"] == "z" and keys["level"] == 500
    return first or (geopotential and (keys["number"] == 0 or (keys["dataDate"], keys["dataTime"]) == (20170101, 0)))


def lines(originals: Path, name: str, wanted: Callable[[int, str], bool]) -> None:
    """Copy lines of a text, bytes as they are."""
    text = (originals / name).read_bytes().splitlines(keepends=True)
    _new(name).write_bytes(b"".join(line for i, line in enumerate(text) if wanted(i, line.decode("latin-1"))))


def soundings(originals: Path, name: str, count: int) -> None:
    """Copy the last soundings of IGRA's text into the folder of observations."""
    _, *last = gzip.decompress((originals / name).read_bytes()).rsplit(b"\n#", count)
    _new(f"obs/{Path(name).name}").write_bytes(gzip.compress(b"#" + b"\n#".join(last), mtime=0))


def netcdf(originals: Path, name: str, cut: Callable[[xr.Dataset], xr.Dataset], engine: str = "h5netcdf") -> None:
    """Copy a cut of a netCDF file, packed as it was."""
    with xr.open_dataset(originals / name, engine=engine, decode_cf=False) as dataset:
        less = cut(dataset).load()
    for variable in less.variables.values():
        variable.encoding = {} if engine == "scipy" else {"zlib": True, "complevel": 9, "shuffle": True}
    for variable in less.variables.values():
        if not variable.ndim:
            variable.encoding = {}
    less.to_netcdf(_new(name), engine=engine, **({"format": "NETCDF3_CLASSIC"} if engine == "scipy" else {}))


def store(originals: Path, name: str, step: int) -> None:
    """Copy a Zarr group with every `step`-th row and column and its first three times."""
    source = zarr.open_group(originals / name, mode="r")
    shutil.rmtree(HERE / name, ignore_errors=True)
    target = zarr.open_group(_new(name), mode="w", zarr_format=3)
    target.attrs.update(source.attrs.asdict())
    for key, array in source.arrays():
        names = array.metadata.dimension_names or ()
        cut = tuple(
            slice(None, 3) if "time" in str(n) else slice(None, None, step) for n in (names or [key] * array.ndim)
        )
        values = array[cut]
        copy = target.create_array(
            key, data=values, chunks=(1, *values.shape[1:]) if values.ndim > 1 else values.shape,
            attributes=array.attrs.asdict(), dimension_names=names or None,
        )  # fmt: skip
        assert copy.shape == values.shape


def main(originals: Path) -> None:
    """Make every sample anew."""
    for name in WHOLE:
        shutil.copyfile(originals / name, _new(name))
        (HERE / name).chmod(0o644)
    grib(originals, "grid/gfs_2p5_2011011012_f120.grib2", is_of_gfs)
    grib(originals, "grid/era5_eda10_zt_500_850_3deg_20170101-02_12h.grib", is_of_members)
    grib(originals, "grid/ecmwf_opendata_0p4_2024010100_first10msgs.grib2", lambda *_: True, thin=15)
    grib(originals, "grid/ecmwf_opendata_aifs_0p25_t500_2026031012.grib2", lambda *_: True, thin=24)
    grib(originals, "grid/gfs_1deg_uv_4lev_2004040200_f000-012.grb1", lambda *_: True, thin=6)
    grib(originals, "grid/gdas_0p25_2023011112_msg12.grib2", lambda *_: True, thin=24)
    lines(originals, "obs/metar_global_2020100106.csv", lambda i, row: i <= 40 or i % 8 == 0 or "PAMD 010551Z" in row)
    lines(originals, "obs/isd_global_hourly_00702699999.csv", lambda i, _: i <= 400 or 4230 <= i <= 4330)
    lines(originals, "static/isd-history.csv", lambda i, row: i == 0 or i % 100 == 1 or "ENJA" in row)
    soundings(originals, "network/igra/AUM00011035-data.txt.gz", 24)
    levels = sorted([*LEVELS, 10])
    kept = ["geopotential", "specific_humidity", "u_component_of_wind", "v_component_of_wind", "temperature", "time"]
    netcdf(originals, "grid/era5_64x32_37lev_19590102T00.nc", lambda d: d[kept].sel(level=levels), "scipy")
    netcdf(originals, "grid/era5_sfc_N20_20240101_6h.nc", lambda d: d[["u10", "v10", "d2m", "t2m", "msl", "sst"]])
    netcdf(originals, "olr/noaa_olr_cdr_daily_2000-2005_5x7pts.nc", lambda d: d.isel(time=slice(366)))
    netcdf(originals, "olr/noaa_olr_2p5deg_20080125_with_uvh.nc", lambda d: d[["o", "pres", "time"]])
    netcdf(originals, "olr/ncep_june_climo_T42_FLUT_TZUVq.nc", lambda d: d[["FLUT"]], "scipy")
    store(originals, "grid/era5_sfc_1deg_20260325-31.zarr", 6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
