"""The readers under test: seeds of each format, how they are mutated, and what a reader may return."""

import atexit
import gzip
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import eccodes
import numpy as np

from dacycle.assimilators.base import load_assimilator
from dacycle.assimilators.training.recipe import load_recipe
from dacycle.common.errors import DacycleError
from dacycle.cycler.benchmark.run import load_benchmark
from dacycle.cycler.experiment import load_experiment
from dacycle.forecast_adapter.channels import CHANNELS
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.states.points import read_orography, read_points
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World, load_world
from dacycle.obs_ingest.errors.table import read_errors
from dacycle.obs_ingest.quality.limits import beyond_limits
from dacycle.obs_ingest.quality.station_lists import read_station_list
from dacycle.obs_ingest.sources.base import Source, build_source
from dacycle.obs_ingest.sources.ingested import TableFolder, ingest, window_file
from dacycle.obs_ingest.station_network.stations import load_stations
from dacycle.obs_ingest.table import VARIABLES, check_table
from dacycle.obs_ingest.window import Window
from tests.assimilators.trained.test_trained import make_file
from tests.fuzz import mutations
from tests.worlds import make_model, make_world

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests/samples"

RANGES = {
    "t2m": (150, 350), "msl": (80000, 115000), "u10": (-150, 150), "v10": (-150, 150), "z": (-15000, 700000),
    "q": (-0.01, 0.1), "u": (-300, 300), "v": (-300, 300), "t": (100, 400), "orography": (-1000, 9000),
}  # fmt: skip
"""Range of each variable of a state that no atmosphere leaves, SI: wider than the product's own checks."""


class ImplausibleError(Exception):
    """A reader returned a value that cannot be."""


@dataclass(frozen=True)
class Format:
    """A format under test.

    Attributes:
        name: of the format and its reader.
        suffix: of its files.
        seeds: inputs that are right.
        mutate: makes an input from a seed.
        read: reads a folder with inputs and judges the result; DacycleError is a refusal.
        batch: inputs in one folder.
        share: of the inputs, relative to the other formats: those that are slow to read get fewer.
    """

    name: str
    suffix: str
    seeds: list[bytes]
    mutate: mutations.Mutation
    read: Callable[[list[Path]], None]
    batch: int = 1
    share: float = 1.0


def formats() -> Iterator[Format]:
    """Yield all formats with their seeds."""
    observations = SAMPLES / "obs"
    text, message, hdf = mutations.mutate_text, mutations.mutate_message, mutations.mutate_hdf
    yield Format(
        "SYNOP in BUFR", ".bufr", _messages(observations.glob("synop*.bufr")), message,
        partial(_observations, "synop_bufr", "2018-11-20T12"), batch=50, share=8,
    )  # fmt: skip
    yield Format(
        "TEMP in BUFR", ".bufr", _messages(observations.glob("temp*.bufr")), message,
        partial(_observations, "temp_bufr", "2008-12-08T12"), batch=50, share=8,
    )  # fmt: skip
    isd = _lines(observations / "isd_global_hourly_00702699999.csv", 60)
    yield Format("ISD in CSV", ".csv", [isd], text, partial(_observations, "isd", "2017-01-01T06"))
    packed = gzip.decompress((observations / "isd_014160-99999-2016.gz").read_bytes())
    yield Format(
        "ISD in its own columns", ".gz", [gzip.compress(b"\n".join(packed.splitlines()[:60]) + b"\n")],
        _in_gzip, partial(_observations, "isd", "2016-01-01T06"),
    )  # fmt: skip
    metar = _lines(observations / "metar_global_2020100106.csv", 80)
    yield Format("METAR in columns", ".csv", [metar], text, partial(_observations, "metar", "2020-10-01T06"))
    yield Format(
        "METAR in text",
        ".txt",
        [_bulletin(metar)],
        text,
        partial(_observations, "metar", "2020-10-01T06", date="2020-10-01"),
    )
    yield Format("GHCNh", ".psv", [_ghcnh()], text, partial(_observations, "ghcnh", "2024-01-02T12"))
    olr = [path.read_bytes() for path in sorted((SAMPLES / "olr").glob("noaa_olr_cdr*.nc"))]
    yield Format(
        "OLR in netCDF",
        ".nc",
        olr,
        hdf,
        partial(_observations, "olr_netcdf", "2000-01-02T00", stamp="start", period="24h"),
    )

    grid = SAMPLES / "grid"
    grib = _messages([*sorted(grid.glob("gfs_2p5_3lev*.grib2")), *sorted(grid.glob("gfs_1deg*.grb1")),
                      *sorted(grid.glob("ecmwf_opendata*")), *sorted(grid.glob("gdas*"))], most=200_000)  # fmt: skip
    yield Format("states in GRIB", ".grib", grib, message, _state, share=3)
    yield Format("points in GRIB", ".grib", _surface_messages(grid), message, _points, share=3)
    yield Format("states in netCDF", ".nc", _small_netcdf(), hdf, _state, share=0.5)
    yield Format(
        "states in Zarr", ".zip", [_zipped(next(grid.glob("*.zarr")))], mutations.mutate_store, _store, share=0.5
    )

    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "double.onnx").read_bytes()
    yield Format("models in ONNX", ".onnx", [model], mutations.mutate_onnx, _model)
    yield Format(
        "assimilators in netCDF", ".nc", [(ROOT / "assimilators/weights/oi.nc").read_bytes()], hdf, _assimilator,
        share=0.5,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        method = make_file(Path(folder) / "double.onnx").read_bytes()
    yield Format("assimilators in ONNX", ".onnx", [method], mutations.mutate_onnx, _trained)
    states = [path.read_bytes() for path in sorted((_tiny().folder / "reference").iterdir())]
    yield Format("references in netCDF", ".nc", states, hdf, _reference, share=0.5)
    yield Format("tables in Parquet", ".parquet", [_table(isd)], mutations.mutate_bytes, _ingested)
    for name, pattern, load in (
        ("experiments", "deploy/experiments/*.yaml", load_experiment),
        ("recipes", "deploy/recipes/*.yaml", load_recipe),
        ("benchmarks", "deploy/benchmarks/*.yaml", load_benchmark),
        ("error tables", "tests/fuzz/errors.yaml", lambda path: read_errors(str(path))),
    ):
        seeds = [path.read_bytes() for path in sorted(ROOT.glob(pattern))]
        yield Format(name, ".yaml", seeds, mutations.mutate_yaml, partial(_loaded, load))
    yield Format(
        "worlds",
        ".yaml",
        [(ROOT / "deploy/worlds/demonstration/world.yaml").read_bytes()],
        mutations.mutate_yaml,
        _world,
    )
    lists = [b"station,variable,from,to,note\nCWDZ,t2m,2024-01-01,,broken\n0-20000-0-01416,,,2024-02-01T06,moved\n"]
    yield Format("station lists", ".csv", lists, text, partial(_loaded, read_station_list))
    network = _lines(ROOT / "obs_ingest/station_network/stations.csv", 60)
    yield Format("station networks", ".csv", [network], text, partial(_loaded, lambda path: load_stations(path, "x")))


@lru_cache(maxsize=1)
def _tiny() -> World:
    """Return a world of one state."""
    folder = tempfile.mkdtemp(prefix="dacycle-fuzz-")
    atexit.register(shutil.rmtree, folder)
    return load_world(make_world(Path(folder), days=0))


def _table(isd: bytes) -> bytes:
    """Return a table that `dacycle ingest` made."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "00702699999.csv").write_bytes(isd)
        spec = {"source": "isd", "path": name}
        (window,) = ingest(spec, np.array(["2017-01-01T06"], "datetime64[h]"), Path(name))
        return window_file(Path(name), window.time).read_bytes()


def _lines(path: Path, count: int) -> bytes:
    return b"".join(path.read_bytes().splitlines(keepends=True)[:count])


def _messages(paths: Any, most: int = 20_000) -> list[bytes]:
    """Return GRIB and BUFR messages of files, the first hundred of each that are not too long."""
    found = []
    for path in sorted(paths):
        content = path.read_bytes()
        starts = [i for i in range(len(content)) if content[i : i + 4] in (b"GRIB", b"BUFR")]
        pieces = [content[a:b] for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]
        found += [piece for piece in pieces if len(piece) < most][:100]
    return found


def _surface_messages(grid: Path) -> list[bytes]:
    files = [grid / "gfs_2p5_2011011012_f120.grib2", *sorted(grid.glob("ecmwf_*"))]
    found = []
    for message in _messages(files, most=200_000):
        handle = eccodes.codes_new_from_message(message)
        if eccodes.codes_get(handle, "shortName") in ("10u", "10v", "2t", "prmsl", "orog"):
            found.append(message)
        eccodes.codes_release(handle)
    return found


def _bulletin(columns: bytes) -> bytes:
    rows = columns.decode("latin-1").splitlines()[1:]
    reports = [row for line in rows for row in line.split('"') if "Z " in row]
    return ("SAXX99 KWBC 010600\n" + "".join(f"METAR {report.strip()}=\n" for report in reports[:40])).encode()


def _ghcnh() -> bytes:
    names = ("STATION", "Station_name", "DATE", "LATITUDE", "LONGITUDE", "ELEVATION")
    elements = {
        "temperature": 12.5, "dew_point_temperature": -3.1, "station_level_pressure": 1002.1,
        "sea_level_pressure": 1013.2, "wind_direction": 270, "wind_speed": 5.1, "precipitation": 9.9,
        "precipitation_6_hour": 3.4, "altimeter": 1015.0,
    }  # fmt: skip
    codes = ("Measurement_Code", "Quality_Code", "Report_Type", "Source_Code")
    header = [*names, *(x for e in elements for x in (e, *(f"{e}_{code}" for code in codes)))]
    rows = [
        ["NOM00001416", "SOLA", f"2024-01-02T12:{minute:02}:00", "58.88", "5.64", "7.0",
         *(x for value in elements.values() for x in (str(value), "", "1", "FM12", "343"))]
        for minute in range(0, 60, 10)
    ]  # fmt: skip
    return "\n".join("|".join(row) for row in [header, *rows]).encode()


def _in_gzip(content: bytes, others: Any, random: np.random.Generator) -> bytes:
    if random.random() < 0.2:
        return mutations.mutate_bytes(content, others, random)
    return gzip.compress(mutations.mutate_text(gzip.decompress(content), [b"0" * 99], random))


def _small_netcdf() -> list[bytes]:
    import xarray as xr

    with (
        xr.open_dataset(SAMPLES / "grid/era5_64x32_37lev_19590102T00.nc") as dataset,
        tempfile.TemporaryDirectory() as folder,
    ):
        dataset.isel(level=slice(0, 37, 6)).to_netcdf(Path(folder) / "x.nc", engine="h5netcdf")
        return [(Path(folder) / "x.nc").read_bytes()]


def _zipped(folder: Path) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        return Path(shutil.make_archive(str(Path(name) / "store"), "zip", folder)).read_bytes()


def _observations(kind: str, time: str, paths: list[Path], **options: str) -> None:
    source = build_source({"source": kind, "path": [str(path) for path in paths], **options}, None, 0)
    _check_observations(kind, source, Window(np.datetime64(time)))


def _ingested(paths: list[Path]) -> None:
    window = Window(np.datetime64("2017-01-01T06"))
    shutil.copy(paths[0], window_file(paths[0].parent, window.time))
    _check_observations("table", TableFolder(paths[0].parent), window)


def _check_observations(kind: str, source: Source, window: Window) -> None:
    table, inventory = source.read(window)
    check_table(table, kind)
    values = table["value"].to_numpy()
    if not np.isfinite(values).all():
        raise ImplausibleError(f"{kind}: a value is not finite")
    if not (np.abs(table["latitude"]) <= 90).all() or not (np.abs(table["longitude"]) <= 360).all():
        raise ImplausibleError(f"{kind}: a position is not on Earth")
    if not (table["error"].to_numpy() > 0).all():
        raise ImplausibleError(f"{kind}: an error is not positive")
    if sum(inventory.values.values()) != len(table):
        raise ImplausibleError(f"{kind}: the inventory counts {inventory.values}, the table has {len(table)} rows")
    codes = table["variable"].array.codes
    wild = ~beyond_limits(codes, values) & (np.abs(values) > 3e5)
    if wild.any():
        raise ImplausibleError(f"{kind}: {VARIABLES[codes[wild][0]]} of {values[wild][0]} passes the limits")


def _check(name: str, values: np.ndarray) -> None:
    low, high = RANGES[name]
    if not np.isfinite(values).all() or values.min() < low or values.max() > high:
        raise ImplausibleError(f"{name} from {values.min()} to {values.max()}")


def _state(paths: list[Path]) -> None:
    source = open_states(paths[0])
    for time in source.times[:4]:
        absent = set(source.gaps(time))
        for channel in CHANNELS:
            if channel.name not in absent:
                _check(channel.variable, source.fields(time, [channel.name]).values)
        source.surface(time).load()


def _points(paths: list[Path]) -> None:
    refusals = []
    for read in (read_points, read_orography):
        try:
            fields = read(paths[0])
        except DacycleError as error:
            refusals.append(error)
            continue
        for name, values in fields.values.items():
            _check(name, values)
    if len(refusals) == 2:
        raise refusals[0]


def _store(paths: list[Path]) -> None:
    folder = paths[0].with_suffix(".zarr")
    shutil.unpack_archive(paths[0], folder)
    try:
        _state([folder])
    finally:
        shutil.rmtree(folder)


def _model(paths: list[Path]) -> None:
    model = load_model(paths[0])
    frame = np.full((1, len(CHANNELS), *model.grid.shape), 250, np.float32)
    for state in model.forecast(frame, frame, 1):
        if not np.isfinite(state).all():
            raise ImplausibleError("a forecast that is not finite")


def _assimilator(paths: list[Path]) -> None:
    load_assimilator(paths[0], load_world("demonstration"))


def _trained(paths: list[Path]) -> None:
    method = load_assimilator(paths[0], _tiny())
    background = _tiny().reference.array(_tiny().reference.times[0])[None]
    nothing = np.zeros((1, len(CHANNELS) + len(method.planes), *method.grid.shape), np.float32)
    method.analyse(background, nothing, nothing)


def _reference(paths: list[Path]) -> None:
    folder = Path(tempfile.mkdtemp(dir=paths[0].parent))
    try:
        shutil.copy(paths[0], folder / "2024-01-01.nc")
        reference = Reference(folder)
        for time in reference.times:
            state = reference.state(time)
            for channel in CHANNELS:
                _check(channel.variable, state.sel(channel=channel.name).values)
            for name in reference.surface_names(time):
                reference.surface(time, (name,))
    finally:
        shutil.rmtree(folder)


def _world(paths: list[Path]) -> None:
    folder = Path(tempfile.mkdtemp(dir=paths[0].parent))
    try:
        for path in (ROOT / "deploy/worlds/demonstration").iterdir():
            os.symlink(path, folder / path.name) if path.name != "world.yaml" else None
        shutil.copy(paths[0], folder / "world.yaml")
        load_world(folder)
    finally:
        shutil.rmtree(folder)


def _loaded(load: Callable[[Path], Any], paths: list[Path]) -> None:
    load(paths[0])
