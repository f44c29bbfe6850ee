"""The formats under test: their seeds, how they are mutated, and who reads them."""

import gzip
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import eccodes
import numpy as np
import xarray as xr

from dacycle.assimilators.training.recipe import load_recipe
from dacycle.cycler.benchmark.run import load_benchmark
from dacycle.cycler.experiment import load_experiment
from dacycle.obs_ingest.errors.table import read_errors
from dacycle.obs_ingest.quality.station_lists import read_station_list
from dacycle.obs_ingest.sources.ingested import window_file
from dacycle.obs_ingest.sources.ingesting import ingest
from dacycle.obs_ingest.station_network.stations import load_stations
from tests.archives.content import ndbc_file, reports
from tests.assimilators.trained.test_trained import make_file
from tests.fuzz import mutations, readers
from tests.obs_ingest.sources.bufr import prepbufr_encoder, test_aloft, test_marine, test_prepbufr
from tests.obs_ingest.sources.text import test_nnja
from tests.worlds import make_model

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests/samples"


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
    yield from _observation_formats()
    yield from _state_formats()
    yield from _method_formats()
    yield from _setting_formats()


def _observation_formats() -> Iterator[Format]:
    samples, text, message = SAMPLES / "obs", mutations.mutate_text, mutations.mutate_message
    synop, temp = _messages(samples.glob("synop*.bufr")), _messages(samples.glob("temp*.bufr"))
    yield Format("SYNOP in BUFR", ".bufr", synop, message, _source("synop_bufr", "2018-11-20T12"), batch=50, share=8)
    yield Format("TEMP in BUFR", ".bufr", temp, message, _source("temp_bufr", "2008-12-08T12"), batch=50, share=8)
    isd = _lines(samples / "isd_global_hourly_00702699999.csv", 60)
    yield Format("ISD in CSV", ".csv", [isd], text, _source("isd", "2017-01-01T06"), batch=10, share=3)
    packed = gzip.decompress((samples / "isd_014160-99999-2016.gz").read_bytes())
    columns = gzip.compress(b"\n".join(packed.splitlines()[:60]) + b"\n")
    yield Format(
        "ISD in its own columns", ".gz", [columns], _in_gzip, _source("isd", "2016-01-01T06"), batch=10, share=3
    )
    metar, date = _lines(samples / "metar_global_2020100106.csv", 80), "2020-10-01"
    yield Format("METAR in columns", ".csv", [metar], text, _source("metar", f"{date}T06"), batch=10, share=3)
    yield Format(
        "METAR in text", ".txt", [_bulletin(metar)], text, _source("metar", f"{date}T06", date=date), batch=10, share=2
    )
    yield Format("GHCNh", ".psv", [_ghcnh()], text, _source("ghcnh", "2024-01-02T12"), batch=10, share=3)
    igra = b"".join(gzip.decompress((samples / "AUM00011035-data.txt.gz").read_bytes()).splitlines(keepends=True)[:250])
    yield Format("IGRA", "-data.txt", [igra], text, _source("igra", "2015-06-19T12"))
    buoy = ndbc_file(reports(3, 2024)).encode()
    network = str(ROOT / "obs_ingest/station_network/stations.csv")
    yield Format(
        "NDBC", "h2024.txt", [buoy], text, _source("ndbc", "2024-01-02T12", network=network), batch=10, share=2
    )
    for name, kind, seed in (
        ("aircraft in BUFR", "aircraft_bufr", test_aloft.encode(311001, 4, **test_aloft.AIRCRAFT)),
        ("motion vectors in BUFR", "amv_bufr", test_aloft.encode(310077, 5, **test_aloft.VECTOR)),
        ("ships in BUFR", "marine_bufr", test_marine.encode(**test_marine.SHIP)),
    ):
        yield Format(name, ".bufr", [seed], message, _source(kind, "2024-01-02T12"), batch=50, share=2)
    yield Format(
        "PrepBUFR",
        ".prepbufr",
        [_prepbufr()],
        mutations.mutate_bytes,
        _source("prepbufr", "2024-01-02T12", reports="sondes"),
    )
    for kind, seed in _nnja().items():
        yield Format(f"Parquet of {kind}", ".parquet", [seed], mutations.mutate_bytes, _source(kind, "2021-01-01T00"))
    olr = [path.read_bytes() for path in sorted((SAMPLES / "olr").glob("noaa_olr_cdr*.nc"))]
    daily = _source("olr_netcdf", "2000-01-02T00", stamp="start", period="24h")
    yield Format("OLR in netCDF", ".nc", olr, mutations.mutate_hdf, daily, share=0.5)
    yield Format("tables in Parquet", ".parquet", [_table(isd)], mutations.mutate_bytes, readers.read_table, share=2)


def _state_formats() -> Iterator[Format]:
    grid, message, hdf = SAMPLES / "grid", mutations.mutate_message, mutations.mutate_hdf
    names = ("gfs_2p5_3lev*.grib2", "gfs_1deg*.grb1", "ecmwf_opendata*", "gdas*")
    grib = _messages([path for name in names for path in sorted(grid.glob(name))], most=200_000)
    yield Format("states in GRIB", ".grib", grib, message, readers.read_states, share=4)
    yield Format("points in GRIB", ".grib", _surface_messages(grid), message, readers.read_fields, share=4)
    yield Format("states in netCDF", ".nc", _small_netcdf(), hdf, readers.read_states, share=0.5)
    store = _zipped(next(grid.glob("*.zarr")))
    yield Format("states in Zarr", ".zip", [store], mutations.mutate_store, readers.read_store, share=0.4)
    states = [path.read_bytes() for path in sorted((readers.tiny().folder / "reference").iterdir())]
    yield Format("references in netCDF", ".nc", states, hdf, readers.read_reference, share=0.3)


def _method_formats() -> Iterator[Format]:
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model.onnx").read_bytes()
        method = make_file(Path(folder) / "method.onnx").read_bytes()
    yield Format("models in ONNX", ".onnx", [model], mutations.mutate_onnx, readers.run_model, share=3)
    yield Format("assimilators in ONNX", ".onnx", [method], mutations.mutate_onnx, readers.run_assimilator, share=2)
    oi = (ROOT / "assimilators/weights/oi.nc").read_bytes()
    yield Format("assimilators in netCDF", ".nc", [oi], mutations.mutate_hdf, readers.load_classical, share=0.2)


def _setting_formats() -> Iterator[Format]:
    yaml, text = mutations.mutate_yaml, mutations.mutate_text
    for name, pattern, load in (
        ("experiments", "deploy/experiments/*.yaml", load_experiment),
        ("recipes", "deploy/recipes/*-cpu.yaml", load_recipe),
        ("benchmarks", "deploy/benchmarks/*.yaml", load_benchmark),
        ("error tables", "tests/fuzz/errors.yaml", lambda path: read_errors(str(path))),
    ):
        seeds = [path.read_bytes() for path in sorted(ROOT.glob(pattern))]
        yield Format(name, ".yaml", seeds, yaml, partial(readers.load, load), share=2)
    world = (ROOT / "deploy/worlds/demonstration/world.yaml").read_bytes()
    yield Format("worlds", ".yaml", [world], yaml, readers.read_world, share=0.5)
    lists = b"station,variable,from,to,note\nCWDZ,t2m,2024-01-01,,broken\n0-20000-0-01416,,,2024-02-01T06,moved\n"
    yield Format("station lists", ".csv", [lists], text, partial(readers.load, read_station_list), share=3)
    network = _lines(ROOT / "obs_ingest/station_network/stations.csv", 60)
    sites = partial(readers.load, lambda path: load_stations(path, "x"))
    yield Format("station networks", ".csv", [network], text, sites, share=3)


def _source(kind: str, time: str, **options: str) -> Callable[[list[Path]], None]:
    return partial(readers.read_observations, kind, time, **options)


def _table(isd: bytes) -> bytes:
    """Return a table that `dacycle ingest` made."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "00702699999.csv").write_bytes(isd)
        spec = {"source": "isd", "path": name}
        (window,) = ingest(spec, np.array(["2017-01-01T06"], "datetime64[h]"), Path(name))
        return window_file(Path(name), window.time).read_bytes()


def _prepbufr() -> bytes:
    table = prepbufr_encoder.parse(test_prepbufr.SHORT)
    reports = [test_prepbufr.SONDE, test_prepbufr.WINDS]
    return prepbufr_encoder.dictionary(table) + prepbufr_encoder.data(table, "ADPUPA", reports)


def _nnja() -> dict[str, bytes]:
    """Return a file for each source of NNJA."""
    with tempfile.TemporaryDirectory() as folder:
        stations = test_nnja.surface(Path(folder) / "a.parquet").read_bytes()
        sondes = test_nnja.sondes(Path(folder) / "b.parquet", test_nnja.LEVELS).read_bytes()
    return {"nnja": stations, "nnja_sondes": sondes}


def _lines(path: Path, count: int) -> bytes:
    return b"".join(path.read_bytes().splitlines(keepends=True)[:count])


def _messages(paths: Iterable[Path], most: int = 20_000) -> list[bytes]:
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


def _in_gzip(content: bytes, others: Sequence[bytes], random: np.random.Generator) -> bytes:
    if random.random() < 0.2:
        return mutations.mutate_bytes(content, others, random)
    return gzip.compress(mutations.mutate_text(gzip.decompress(content), [b"0" * 99], random))


def _small_netcdf() -> list[bytes]:
    with (
        xr.open_dataset(SAMPLES / "grid/era5_64x32_37lev_19590102T00.nc") as dataset,
        tempfile.TemporaryDirectory() as folder,
    ):
        dataset.isel(level=slice(0, 37, 6)).to_netcdf(Path(folder) / "x.nc", engine="h5netcdf")
        return [(Path(folder) / "x.nc").read_bytes()]


def _zipped(folder: Path) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        return Path(shutil.make_archive(str(Path(name) / "store"), "zip", folder)).read_bytes()
