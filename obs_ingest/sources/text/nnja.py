"""NNJA-AI, NOAA's and NASA's archive of what their analyses were given, in Parquet: `nnja` and `nnja_sondes`.

A file holds the reports of a day of one kind of message. Columns have NCEP's mnemonics, of which names differ between
kinds only in what stands before the last dot (`TMPSQ1.TMDB`, `TEMHUMDA.TMDB`), in SI units. No genuine file was at
hand: this follows the archive's documents, its notebooks and NCEP's tables of mnemonics.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dacycle.common.arrow import open_parquet, read_batches
from dacycle.common.foreign import reading
from dacycle.obs_ingest.sources.ascent_files import Ascent, AscentFiles, Levels
from dacycle.obs_ingest.sources.surface import Parsed, ReportFiles, new_reports, put, put_wind, stacked
from dacycle.obs_ingest.sources.text.columns import by_text, numbers, read_tables, times
from dacycle.obs_ingest.table import ObservationError

__all__ = ["Nnja", "NnjaSondes"]

USABLE = 3
"""The largest quality mark of a value to use: 0 kept by hand, 1 good, 2 not checked, 3 suspect, which analyses use;
higher ones are rejected."""

_MISSING = 1e10  # NCEP's fill value is 1e11
_NOT_CORRECTED, _SUFFIX = 0, "_PRLC"
_PLACE = ("obs_timestamp", "lat", "lon", "rpid")
_VALUES = {"t2m": ("tmdb", "qmat"), "td2m": ("tmdp", "qmdd"), "msl": ("pmsl", "qmpr"), "ps": ("pres", "qmpr")}
_SURFACE = (
    "selv",
    "hsmsl",
    "corn",
    "wdir",
    "wspd",
    "qmwn",
    "tp06",
    *(name for pair in _VALUES.values() for name in pair),
)
_NESTED = {
    "t": ("UATMP", "TMDB", "QMAT"), "td": ("UATMP", "TMDP", "QMDD"),
    "direction": ("UAWND", "WDIR", "QMWN"), "speed": ("UAWND", "WSPD", "QMWN"),
}  # fmt: skip
_RECEIPT = ("rcyr", "rcmo", "rcdy", "rchr", "rcmi")


class Nnja(ReportFiles):
    """Station reports of NNJA-AI (conv-adpsfc): t2m, td2m, msl, ps, u10, v10, 6-h precipitation where it is TP06."""

    patterns = ("*.parquet",)

    def parse(self, path: Path) -> Parsed:
        """Parse all reports of a file."""
        problems: list[str] = []
        aliases = {name.lower(): _mnemonic(name) for name in _names(path)}
        if any(_SUFFIX in name for name in _names(path)):
            raise ObservationError(f"{path}: soundings; the source nnja_sondes reads them")
        tables = read_tables(path, _PLACE, (*_SURFACE, *_RECEIPT), problems=problems, aliases=aliases)
        return Parsed(stacked(map(_surface, tables)), problems)


def _surface(table: pa.Table) -> NDArray:
    reports = new_reports(table.num_rows)
    reports["time"] = times(table["obs_timestamp"])
    reports["received"] = _receipt(table)
    reports["station"] = by_text(table["rpid"], str, object)
    reports["version"] = np.nan_to_num(_column(table, "corn"), nan=_NOT_CORRECTED).clip(0, 255).astype(int)
    reports["latitude"], reports["longitude"] = _column(table, "lat"), _column(table, "lon")
    elevation = _column(table, "selv")
    reports["elevation"] = np.where(np.isnan(elevation), _column(table, "hsmsl"), elevation)
    for name, (column, mark) in _VALUES.items():
        put(reports, name, _column(table, column), _usable(_column(table, mark)))
    put_wind(reports, _column(table, "wdir"), _column(table, "wspd"), _usable(_column(table, "qmwn")))
    put(reports, "tp", np.maximum(_column(table, "tp06"), 0))  # -0.1 is a trace
    return reports


class NnjaSondes(AscentFiles):
    """Radiosondes of NNJA-AI (conv-adpupa): z, q, u, v, t on the standard levels, q up to 200 hPa.

    Levels come from the nested column UARLV, geopotentials of the mandatory levels also from the columns GP10_PRLC.
    """

    kind = "nnja_sondes"
    patterns = ("*.parquet",)

    def ascents(self, path: Path, problems: list[str]) -> Iterator[Ascent]:
        """Yield the soundings of a file."""
        with reading(path, ObservationError), open_parquet(path) as file:
            names = {_mnemonic(name): name for name in reversed(file.schema_arrow.names)}
            absent = [name for name in (*_PLACE, "uarlv") if name not in names]
            if absent:
                raise ObservationError(f"{path}: no column {', '.join(name.upper() for name in absent)}")
            heights = {int(n.partition("prlc")[2]): c for n, c in names.items() if n.startswith("gp10_prlc")}
            wanted = [names[name] for name in (*_PLACE, "uarlv", *_RECEIPT, "selv", "corn") if name in names]
            for table in read_batches(file, [*wanted, *heights.values()], 2000):
                table = table.rename_columns([_mnemonic(name) for name in table.column_names])
                yield from _soundings(table, sorted(heights))

    def levels(self, batch: list[Ascent]) -> list[Levels]:
        """Return the levels of soundings."""
        return [ascent.content for ascent in batch]


def _soundings(table: pa.Table, heights: Sequence[int]) -> Iterator[Ascent]:
    columns = [_column(table, name) for name in ("lat", "lon", "selv", "corn")]
    names, at, received = by_text(table["rpid"], str, object), times(table["obs_timestamp"]), _receipt(table)
    at_heights = (
        np.stack([_column(table, f"gp10_prlc{p}") for p in heights], axis=1) if heights else np.empty((len(at), 0))
    )
    nested = table["uarlv"].combine_chunks()
    ends = np.cumsum(pc.fill_null(pc.list_value_length(nested), 0).to_numpy(zero_copy_only=False))
    levels, removed = _nested(nested.flatten())
    for i, end in enumerate(ends):
        rows = slice(ends[i - 1] if i else 0, end)
        own = {name: values[rows] for name, values in levels.items()}
        content = _with_heights(own, np.array(heights, float), at_heights[i])
        left_out = Counter({"value rejected by its provider": int(removed[rows].sum())})
        latitude, longitude, elevation, corrected = (float(column[i]) for column in columns)
        version = 0 if np.isnan(corrected) else int(np.clip(corrected, 0, 255))
        yield Ascent(names[i], at[i], latitude, longitude, (content, left_out), elevation, version, received[i])


def _nested(flat: pa.StructArray) -> tuple[dict[str, NDArray], NDArray[np.int_]]:
    """Return the levels of all soundings one after the other, and how many values of each are marked as bad."""

    def field(*path: str) -> NDArray:
        column: Any = flat
        for name in path:
            if not pa.types.is_struct(column.type) or column.type.get_field_index(name) < 0:
                return np.full(len(flat), np.nan)
            column = pc.struct_field(column, name)
        return _filled(column.cast(pa.float64()).to_numpy(zero_copy_only=False))

    removed = np.zeros(len(flat), int)
    levels = {"pressure": field("PRLC"), "z": np.full(len(flat), np.nan), "surface": np.zeros(len(flat), bool)}
    for name, (group, element, mark) in _NESTED.items():
        values, good = field(group, element), _usable(field(group, mark))
        removed += np.isfinite(values) & ~good
        levels[name] = np.where(good, values, np.nan)
    return levels, removed


def _with_heights(levels: dict[str, NDArray], pressure: NDArray, z: NDArray) -> dict[str, NDArray]:
    """Return levels with the geopotentials of the mandatory ones as further levels."""
    known = np.isfinite(z)
    further = {name: np.full(known.sum(), np.nan) for name in levels}
    further |= {"pressure": pressure[known], "z": z[known], "surface": np.zeros(known.sum(), bool)}
    return {name: np.concatenate([values, further[name]]) for name, values in levels.items()}


def _names(path: Path) -> list[str]:
    with reading(path, ObservationError), open_parquet(path) as file:
        return list(file.schema_arrow.names)


def _mnemonic(name: str) -> str:
    """Return what follows the last dot of a column's name, in lower case."""
    return name.rpartition(".")[2].lower()


def _column(table: pa.Table, name: str) -> NDArray[np.float64]:
    """Return a column's values (n,), NaN where there is none."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return _filled(numbers(table[name])[0])


def _filled(values: NDArray) -> NDArray[np.float64]:
    return np.where(np.abs(values) < _MISSING, values, np.nan)


def _usable(mark: NDArray) -> NDArray[np.bool_]:
    """Return whether each quality mark (n,) lets its value be used; a missing one does."""
    return ~(mark > USABLE)


def _receipt(table: pa.Table) -> NDArray[np.datetime64]:
    """Return when reports were received (n,), NaT where they do not say."""
    clock = [_column(table, name) for name in _RECEIPT]
    good = np.isfinite(clock).all(axis=0) & (clock[0] > 1900) & (clock[0] < 2200)
    year, month, day, hour, minute = (
        np.where(good, part, low) for part, low in zip(clock, (2000, 1, 1, 0, 0), strict=True)
    )
    start = (year - 1970).astype("M8[Y]").astype("M8[M]") + (month.astype(int) - 1)
    time = start.astype("M8[s]") + ((day.astype(int) - 1) * 86400 + hour.astype(int) * 3600 + minute.astype(int) * 60)
    return np.where(good, time, np.datetime64("NaT"))
