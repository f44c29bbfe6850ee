"""Measure how fast observations come in: reading BUFR and CSV, quality control, superobs, and memory.

The files are genuine ones where the folder of samples has them, else files of the same form made here.
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pandas as pd

from dacycle.cycler.timing.measure import in_new_process, peak_memory, processor_seconds, timed
from dacycle.forecast_adapter.worlds.world import World, load_world
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.quality import control as quality
from dacycle.obs_ingest.quality.background_error import first_guess
from dacycle.obs_ingest.simulation.bufr_encoder import encode_synops
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.sources.bufr import decoder
from dacycle.obs_ingest.sources.bufr.synop import SynopBufr
from dacycle.obs_ingest.sources.kept import anew
from dacycle.obs_ingest.sources.surface import new_reports, put, put_wind, surface_table
from dacycle.obs_ingest.sources.text.columns import CHUNK
from dacycle.obs_ingest.sources.text.isd import Isd
from dacycle.obs_ingest.superobs import grid_observations
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window

__all__ = ["Amount", "IngestBench", "bench_ingest"]

FIRST_WINDOW = np.datetime64("2024-01-04T06", "h")
_ISD_HEADER = "STATION,DATE,LATITUDE,LONGITUDE,ELEVATION,REPORT_TYPE,WND,TMP,DEW,SLP,MA1,AA1,REM"


@dataclass(frozen=True)
class Amount:
    """How much is read.

    Attributes:
        messages: SYNOPs in the BUFR file, where it is made.
        reports: lines of the CSV file.
        stations: of the day of hourly reports.
        chunks: sizes of the CSV files whose memory is measured, in pieces of `CHUNK` bytes.
    """

    messages: int = 4000
    reports: int = 200_000
    stations: int = 10_000
    chunks: tuple[int, ...] = (1, 4, 16)


@dataclass(frozen=True)
class IngestBench:
    """Hold what was measured; seconds are processor time, child processes included.

    Attributes:
        real: whether the BUFR and CSV files were samples; the lines of the CSV sample are repeated.
        synop_messages, synop_wanted, synop_seconds: messages of the BUFR file, reports decoded, and the time taken.
        isd_reports, isd_seconds: reports of the CSV file, and the time taken.
        stations, day_values: a day of hourly reports, in the demonstration's world.
        check_seconds, superob_seconds: quality control and superobs of the day's four cycles.
        memory: for CSV files of so many chunks: (chunks, MB of the file, peak MB while it is read, MB of the reports).
            The peak is None where the system does not tell.
    """

    real: bool
    synop_messages: int
    synop_wanted: int
    synop_seconds: float
    isd_reports: int
    isd_seconds: float
    stations: int
    day_values: int
    check_seconds: float
    superob_seconds: float
    memory: list[tuple[int, float, float | None, float]]


USUAL = Amount()


def bench_ingest(samples: Path | None, amount: Amount = USUAL) -> IngestBench:
    """Measure the reading of observations.

    Args:
        samples: a folder with `synop_*YYYYMMDDHH.bufr` and `isd_*.csv`, at any depth; None: files are made.
        amount: how much is read.

    Raises:
        ObservationError: the folder has no such file.
    """
    with tempfile.TemporaryDirectory(prefix="dacycle-bench-") as name:
        folder = Path(name)
        bufr = _made_bufr(folder, amount) if samples is None else _largest(samples, "synop_*[0-9].bufr")
        header, lines = _made_csv() if samples is None else _lines(_largest(samples, "isd_*.csv"))
        decoder.stop()
        inventory, synop_seconds = timed(lambda: _read_synops(bufr), processor_seconds)
        csv = _write_csv(folder / "isd.csv", header, lines, amount.reports)
        parsed, isd_seconds = timed(lambda: Isd(csv).parse(csv), processor_seconds)
        values, check_seconds, superob_seconds = _day(amount.stations)
        memory = [_memory(folder / "chunks.csv", header, lines, chunks) for chunks in amount.chunks]
    return IngestBench(
        real=samples is not None,
        synop_messages=inventory.found,
        synop_wanted=inventory.decoded,
        synop_seconds=synop_seconds,
        isd_reports=len(parsed.reports),
        isd_seconds=isd_seconds,
        stations=amount.stations,
        day_values=values,
        check_seconds=check_seconds,
        superob_seconds=superob_seconds,
        memory=memory,
    )


# --- files ------------------------------------------------------------------------------------------------------------


def _largest(samples: Path, pattern: str) -> Path:
    paths = sorted(samples.rglob(pattern), key=lambda path: path.stat().st_size)
    if not paths:
        raise ObservationError(f"{samples}: no sample file {pattern}; without a folder of samples, files are made")
    return paths[-1]


def _read_synops(bufr: Path) -> Inventory:
    """Read a file as if for the first time; the time of the decoding process counts once it has ended."""
    with anew():
        _, inventory = SynopBufr(bufr).read(_window(bufr))
    decoder.stop()
    return inventory


def _window(bufr: Path) -> Window:
    """Return the window around the time in a file's name, `..._2018110212.bufr`."""
    digits = re.search(r"(\d{4})(\d\d)(\d\d)(\d\d)\.bufr$", bufr.name)
    if digits is None:
        raise ObservationError(f"{bufr}: the name does not end with a time, YYYYMMDDHH")
    year, month, day, hour = digits.groups()
    return Window(np.datetime64(f"{year}-{month}-{day}T{hour}", "h"))


def _lines(path: Path) -> tuple[str, list[str]]:
    header, *lines = path.read_text().splitlines()
    return header, lines


def _write_csv(path: Path, header: str, lines: Sequence[str], count: int) -> Path:
    """Write `count` lines, repeating those given."""
    with path.open("w") as file:
        file.write(header + "\n")
        file.writelines(f"{line}\n" for line in islice(cycle(lines), count))
    return path


def _made_csv() -> tuple[str, list[str]]:
    """Return header and lines of a year of hourly reports in the form of ISD."""
    rng = np.random.default_rng(0)
    lines = []
    for hour in range(8760):
        time = np.datetime64("2024-01-01T00", "s") + np.timedelta64(hour, "h")
        temperature, pressure, angle, speed = rng.integers((-300, 9700, 1, 0), (350, 10500, 361, 300))
        lines.append(
            f'"01416099999","{time}","58.95","5.73","72.0","FM-15","{angle:03d},1,N,{speed:04d},1",'
            f'"{temperature:+05d},1","{temperature - 30:+05d},1","{pressure:05d},1","10150,1,10021,1",'
            f'"06,0010,9,1","MET104 METAR AUTO, made for measuring, with a remark as long as they usually are"'
        )
    return _ISD_HEADER, lines


def _made_bufr(folder: Path, amount: Amount) -> Path:
    """Write one message for each SYNOP, at most 400 different ones."""
    count = min(400, amount.messages)
    table = surface_table(_hourly(FIRST_WINDOW, count), "made", Inventory("made"))
    table = table[(table["time"] == pd.Timestamp(FIRST_WINDOW)) & (table["variable"] != "ps")]
    table["received"] = table["time"] + pd.Timedelta(minutes=20)
    messages = [encode_synops(report) for _, report in table.groupby("station", observed=True)]
    path = folder / f"synop_{pd.Timestamp(FIRST_WINDOW):%Y%m%d%H}.bufr"
    with path.open("wb") as file:
        file.writelines(islice(cycle(messages), amount.messages))
    return path


# --- a day, and memory ------------------------------------------------------------------------------------------------


def _day(stations: int) -> tuple[int, float, float]:
    """Return the number of values, and the seconds of quality control and of superobs, over four cycles."""
    world = load_world("demonstration")
    background = world.climatology.at(FIRST_WINDOW)
    values, check_seconds, superob_seconds = 0, 0.0, 0.0
    for time in FIRST_WINDOW + 6 * np.arange(4):
        table = surface_table(_hourly(time, stations), "made", Inventory("made"))
        modelled = equivalents(table, background, world.grid, world.orography)
        checked, seconds = timed(partial(_check, table, Window(time), modelled, world), processor_seconds)
        check_seconds += seconds
        superobs = partial(grid_observations, checked, modelled, background, world.grid)
        superob_seconds += timed(superobs, processor_seconds)[1]
        values += len(table)
    return values, check_seconds, superob_seconds


def _check(table: pd.DataFrame, window: Window, modelled: np.ndarray, world: World) -> pd.DataFrame:
    """Run quality control with the background's error at the rows, as a cycle does."""
    error = first_guess(world, window.time)
    at_rows = quality.background_at_rows(table, modelled, error, world.grid, world.orography)
    return quality.check(table, window, at_rows, quality.Selection())


def _hourly(time: np.datetime64, stations: int) -> np.ndarray:
    """Return six hourly reports of each station around a time, with every value present."""
    rng = np.random.default_rng(0)
    count = 6 * stations
    reports = new_reports(count)
    reports["time"] = np.repeat(time.astype("M8[s]") + np.arange(-2, 4).astype("m8[h]"), stations)
    reports["station"] = np.tile([f"S{i:05d}" for i in range(stations)], 6)
    reports["latitude"] = np.tile(np.degrees(np.arcsin(rng.uniform(-1, 1, stations))), 6)
    reports["longitude"] = np.tile(rng.uniform(-180, 180, stations), 6)
    reports["elevation"] = 10.0
    put(reports, "t2m", rng.normal(285, 5, count))
    put(reports, "td2m", rng.normal(278, 5, count))
    put(reports, "msl", rng.normal(101300, 500, count))
    put(reports, "ps", rng.normal(101180, 500, count))
    put_wind(reports, rng.uniform(1, 360, count), rng.uniform(0, 10, count))
    put(reports, "tp", rng.exponential(1, count))
    return reports


def _memory(path: Path, header: str, lines: Sequence[str], chunks: int) -> tuple[int, float, float | None, float]:
    """Return one row of `IngestBench.memory`."""
    line_size = sum(map(len, lines)) / len(lines) + 1
    _write_csv(path, header, lines, int(chunks * CHUNK / line_size))
    peak, reports = in_new_process(_read_csv, path)
    return chunks, path.stat().st_size / 2**20, None if peak is None else peak / 2**20, reports / 2**20


def _read_csv(path: Path) -> tuple[int | None, int]:
    """Return the peak memory of reading a file, and the size of its reports, in bytes."""
    kept: list[np.ndarray] = []
    peak = peak_memory(lambda: kept.append(Isd(path).parse(path).reports))
    return peak, kept[0].nbytes
