"""How fast observations come in on this machine: from genuine files where there are some, else from made ones."""

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TypeVar

import eccodes
import numpy as np
import pandas as pd

from dacycle.forecast_adapter.worlds.world import World, load_world
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.quality import control as quality
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.sources.bufr.synop import SynopBufr
from dacycle.obs_ingest.sources.surface import new_reports, put, put_wind, surface_table
from dacycle.obs_ingest.sources.text.columns import CHUNK
from dacycle.obs_ingest.sources.text.isd import Isd
from dacycle.obs_ingest.superobs import grid_observations
from dacycle.obs_ingest.window import Window

__all__ = ["IngestBench", "bench_ingest", "bufr_message"]

SYNOP, SYNOP_TIME = "obs/synop_global_2018110212.bufr", "2018-11-02T12"
ISD = "obs/isd_global_hourly_00702699999.csv"
T = TypeVar("T")

REPORTS = 200_000
STATIONS = 10_000
MESSAGES = 7912
CHUNKS = (1, 4, 16)

_HEADER = "STATION,DATE,LATITUDE,LONGITUDE,ELEVATION,REPORT_TYPE,WND,TMP,DEW,SLP,MA1,AA1,REM"
# station, date, time, place, height, pressures, wind, temperatures: a template without replications, as ECMWF's are
_DESCRIPTORS = (301001, 301011, 301012, 301023, 7001, 10004, 10051, 11011, 11012, 12004, 12006)
_PEAK = """
import sys
from pathlib import Path
from dacycle.obs_ingest.sources.text.isd import Isd
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
before = peak()
reports = Isd(sys.argv[1]).parse(Path(sys.argv[1])).reports
print(peak() - before, reports.nbytes / 2**20)
"""


@dataclass(frozen=True)
class IngestBench:
    """What was measured. Seconds are of processor time, child processes included: another's work does not count.

    Attributes:
        real: whether the BUFR and CSV files were samples; the CSV one is repeated to `isd_reports`.
        synop_messages, synop_wanted, synop_seconds: of one file: found, decoded, and how long it took.
        isd_reports, isd_seconds: of one CSV file.
        row_reports, row_seconds: the first reports of the same file, read row by row with the csv module.
        day_reports, day_values, check_seconds, superob_seconds: a day of hourly reports of `STATIONS` stations, made,
            through quality control and superobs of its four cycles, on the demonstration's grid.
        memory: files of so many chunks: (chunks, MB of the file, MB that reading it took at its peak, MB of the
            reports that stay).
    """

    real: bool
    synop_messages: int
    synop_wanted: int
    synop_seconds: float
    isd_reports: int
    isd_seconds: float
    row_reports: int
    row_seconds: float
    day_reports: int
    day_values: int
    check_seconds: float
    superob_seconds: float
    memory: list[tuple[int, float, float, float]]


def bench_ingest(samples: Path | None) -> IngestBench:
    """Measure; `samples` is a folder with the genuine files `SYNOP` and `ISD`, None makes files of the same form."""
    with tempfile.TemporaryDirectory(prefix="dacycle-bench-") as name:
        folder = Path(name)
        bufr = _made_bufr(folder / "made.bufr") if samples is None else samples / SYNOP
        header, rows = _made_csv() if samples is None else _rows(samples / ISD)
        table = _repeat(folder / "isd.csv", header, rows, REPORTS)
        (_, inventory), synop_seconds = _timed(lambda: SynopBufr(bufr).read(Window(np.datetime64(SYNOP_TIME))))
        parsed, isd_seconds = _timed(lambda: Isd(table).parse(table))
        row_reports, row_seconds = _timed(lambda: _row_by_row(table, REPORTS // 10))
        day = _day(load_world("demonstration"))
        memory = [_memory(folder / "chunks.csv", header, rows, chunks) for chunks in CHUNKS]
    return IngestBench(
        samples is not None,
        inventory.found,
        inventory.decoded,
        synop_seconds,
        len(parsed.reports),
        isd_seconds,
        row_reports,
        row_seconds,
        *day,
        memory,
    )


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    begun = _processor()
    return call(), _processor() - begun


def _processor() -> float:
    return sum(os.times()[:4])


def _rows(path: Path) -> tuple[str, list[str]]:
    header, *rows = path.read_text().splitlines()
    return header, rows


def _made_csv() -> tuple[str, list[str]]:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(8760):
        time = np.datetime64("2024-01-01T00", "s") + np.timedelta64(i, "h")
        temperature, pressure, angle, speed = rng.integers((-300, 9700, 1, 0), (350, 10500, 361, 300))
        rows.append(
            f'"01416099999","{time}","58.95","5.73","72.0","FM-15","{angle:03d},1,N,{speed:04d},1",'
            f'"{temperature:+05d},1","{temperature - 30:+05d},1","{pressure:05d},1","10150,1,10021,1",'
            f'"06,0010,9,1","MET104 METAR AUTO, made for measuring, with a remark as long as they usually are"'
        )
    return _HEADER, rows


def _repeat(path: Path, header: str, rows: list[str], count: int) -> Path:
    with path.open("w") as file:
        file.write(header + "\n")
        file.writelines(f"{row}\n" for row in islice(cycle(rows), count))
    return path


def _row_by_row(path: Path, count: int) -> int:
    """Read the same elements as `Isd` does, a row at a time."""
    reports = []
    with path.open(newline="") as file:
        for row in islice(csv.DictReader(file), count):
            direction, _, _, speed, _ = row["WND"].split(",")
            values = [row[name].split(",")[0] for name in ("TMP", "DEW", "SLP")]
            place = [float(row[name]) for name in ("LATITUDE", "LONGITUDE", "ELEVATION")]
            numbers = [float(value) / 10 for value in (*values, direction, speed)]
            reports.append((np.datetime64(row["DATE"]), row["STATION"], *place, *numbers))
    return len(reports)


def _made_bufr(path: Path) -> Path:
    """As many messages as the sample has: half SYNOPs, half of a sub-category that is left out unread."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for subcategory in (1, 2):
            made = [bufr_message(subcategory, i, rng) for i in range(min(400, MESSAGES))]
            file.writelines(islice(cycle(made), MESSAGES))
    return path


def bufr_message(subcategory: int, number: int, rng: np.random.Generator) -> bytes:
    """A SYNOP of `SYNOP_TIME` with a temperature, of ECMWF's sub-category."""
    time = np.datetime64(SYNOP_TIME).astype(object)
    handle = eccodes.codes_bufr_new_from_samples("BUFR4")
    try:
        header = {"edition": 4, "masterTablesVersionNumber": 24, "bufrHeaderCentre": 98, "dataCategory": 0}
        header |= {"dataSubCategory": subcategory, "numberOfSubsets": 1, "observedData": 1, "compressedData": 0}
        for key in ("Year", "Month", "Day", "Hour", "Minute"):
            header[f"typical{key}"] = getattr(time, key.lower())
        body = {key: getattr(time, key) for key in ("year", "month", "day", "hour", "minute")}
        body |= {"blockNumber": 1 + number // 100, "stationNumber": number % 100}
        body |= {"latitude": rng.uniform(-60, 60), "longitude": rng.uniform(-180, 180), "airTemperatureAt2M": 285.0}
        for key, value in header.items():
            eccodes.codes_set(handle, key, value)
        eccodes.codes_set_array(handle, "unexpandedDescriptors", _DESCRIPTORS)
        for key, value in body.items():
            eccodes.codes_set(handle, f"#1#{key}", value)
        eccodes.codes_set(handle, "pack", 1)
        return eccodes.codes_get_message(handle)
    finally:
        eccodes.codes_release(handle)


def _day(world: World) -> tuple[int, int, float, float]:
    """Reports, values, and seconds of quality control and of superobs."""
    background = world.climatology.at(np.datetime64("2024-01-04T12", "h"))
    reports, values, check, superobs = 0, 0, 0.0, 0.0
    first = np.datetime64("2024-01-04T06", "h")
    for time in first + 6 * np.arange(4):
        records = _hourly(time)
        table = surface_table(records, "made", Inventory("made"))
        background_equivalents = equivalents(table, background, world.grid, world.orography)
        checked, seconds = _timed(partial(_checked, table, Window(time), background_equivalents, world))
        check += seconds
        superobs += _timed(partial(grid_observations, checked, background_equivalents, background, world.grid))[1]
        reports, values = reports + len(records), values + len(table)
    return reports, values, check, superobs


def _checked(table: pd.DataFrame, window: Window, background_equivalents: np.ndarray, world: World) -> pd.DataFrame:
    """Return the table after quality control."""
    std, grid, orography = world.statistics.std, world.grid, world.orography
    at_rows = quality.background_at_rows(table, background_equivalents, std, grid, orography)
    return quality.check(table, window, at_rows, quality.Selection())


def _hourly(time: np.datetime64) -> np.ndarray:
    """Six hourly reports of each station, all values present."""
    rng = np.random.default_rng(0)
    n = 6 * STATIONS
    reports = new_reports(n)
    reports["time"] = np.repeat(time.astype("M8[s]") + np.arange(-2, 4).astype("m8[h]"), STATIONS)
    reports["station"] = np.tile([f"S{i:05d}" for i in range(STATIONS)], 6)
    reports["latitude"] = np.tile(np.degrees(np.arcsin(rng.uniform(-1, 1, STATIONS))), 6)
    reports["longitude"] = np.tile(rng.uniform(-180, 180, STATIONS), 6)
    reports["elevation"] = 10.0
    put(reports, "t2m", rng.normal(285, 5, n))
    put(reports, "td2m", rng.normal(278, 5, n))
    put(reports, "msl", rng.normal(101300, 500, n))
    put(reports, "ps", rng.normal(101180, 500, n))
    put_wind(reports, rng.uniform(1, 360, n), rng.uniform(0, 10, n))
    put(reports, "tp", rng.exponential(1, n))
    return reports


def _memory(path: Path, header: str, rows: list[str], chunks: int) -> tuple[int, float, float, float]:
    """A process of its own reads a file of so many chunks, and says how far its memory went above what it had."""
    size = sum(map(len, rows)) / len(rows) + 1
    _repeat(path, header, rows, int(chunks * CHUNK / size))
    done = subprocess.run([sys.executable, "-c", _PEAK, str(path)], capture_output=True, text=True, check=True)
    peak, stays = map(float, done.stdout.split())
    return chunks, path.stat().st_size / 2**20, peak, stays
