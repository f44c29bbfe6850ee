"""Making of observation tables ahead of a run, one per window, from files of any source.

A window that is there with the same inputs is not made again. Files of single stations, of which a year has thousands,
are read a group at a time: the tables of each group wait in `.parts` until they are joined by window. Memory is that of
one group, whatever the number of stations.
"""

import gc
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import dacycle
from dacycle.obs_ingest.sources.base import MOST_PROBLEMS, FileSource, Inventory, build_source, take_inventory
from dacycle.obs_ingest.sources.files import digest
from dacycle.obs_ingest.sources.ingested import kept_inventory, read_window, window_file, write_table
from dacycle.obs_ingest.sources.surface import ReportFiles
from dacycle.obs_ingest.table import ObservationError, concatenate
from dacycle.obs_ingest.window import Window

__all__ = ["GROUP", "IngestedWindow", "ingest", "total"]

GROUP = 256 << 20
"""Bytes of the files that are read as one group; what is made of them takes about half as much memory."""

_PARTS = ".parts"
_YEAR = re.compile(r"[-_h]\d{4}$")
_PACKED = 8  # bytes of text in a byte of a packed file, about


@dataclass(frozen=True)
class IngestedWindow:
    """A window of a folder of tables: its analysis time, its inventory, and whether it was made now or was there."""

    time: np.datetime64
    inventory: Inventory
    made: bool


def ingest(
    spec: Mapping[str, Any],
    times: Sequence[np.datetime64] | NDArray[np.datetime64],
    folder: Path,
    say: Callable[[str], None] = lambda sentence: None,
) -> Iterator[IngestedWindow]:
    """Make the tables of windows, one after the other; after an interruption it continues when it is run again.

    Values are decoded, not checked: quality control belongs to the cycle. Each value keeps the time of its receipt, as
    far as that is known, so that the run decides with its own cutoff which values are late.

    Args:
        spec: of a source that reads files, as in an experiment.
        times: the analysis times.
        folder: where the tables are written.
        say: called with what is being done where that takes long before the first table is made.

    Raises:
        ObservationError: the source does not read files, or none of its files can be read.
    """
    source = build_source({**spec, "cutoff": "none"}, None, 0)
    if not isinstance(source, FileSource):
        raise ObservationError(f"source {spec['source']} does not read files; there is nothing to ingest")
    groups = _groups(source.paths()) if isinstance(source, ReportFiles) and source.by_station else []
    if len(groups) > 1:
        yield from _in_groups(spec, groups, times, folder, say)
    else:
        yield from _at_once(spec, source, times, folder)


def _at_once(
    spec: Mapping[str, Any], source: FileSource, times: Iterable[np.datetime64], folder: Path
) -> Iterator[IngestedWindow]:
    """Make the tables window by window, each from all files."""
    for time in times:
        window, path = Window(time), window_file(folder, time)
        made_of = _fingerprint(spec, source.inputs(window))
        present = kept_inventory(path, made_of)
        if present is not None:
            yield IngestedWindow(window.time, present, made=False)
            continue
        table, inventory = source.read(window)
        write_table(path, table, {"made_of": made_of, "inventory": inventory.as_dict()})
        yield IngestedWindow(window.time, inventory, made=True)


def _in_groups(
    spec: Mapping[str, Any],
    groups: list[list[Path]],
    times: Sequence[np.datetime64] | NDArray[np.datetime64],
    folder: Path,
    say: Callable[[str], None],
) -> Iterator[IngestedWindow]:
    """Make the tables of each group of files, then join them by window; a change of any file makes them all again."""
    contents = [{str(path): _digest(path) for path in group} for group in groups]
    made_of = _fingerprint(spec, {path: content for group in contents for path, content in group.items()})
    due = [time for time in times if kept_inventory(window_file(folder, time), made_of) is None]
    parts: list[Path] = []
    broken = Inventory("")
    for number, content in enumerate(contents if due else [], 1):
        say(f"group {number} of {len(groups)}")
        part, of_group = folder / _PARTS / _fingerprint(spec, content)[:16], {**spec, "path": list(content)}
        try:
            _make(of_group, due, part)
            parts.append(part)
        except ObservationError as error:
            broken.unreadable += len(content)
            broken.problem(str(error))
        gc.collect()  # a source refers to itself, and would else stay with all that it has read
    if due and not parts:
        raise ObservationError(broken.problems[0])
    for time in times:
        present = kept_inventory(window_file(folder, time), made_of)
        if present is not None:
            yield IngestedWindow(Window(time).time, present, made=False)
            continue
        table, inventory = _joined([window_file(part, time) for part in parts], Window(time), broken)
        write_table(window_file(folder, time), table, {"made_of": made_of, "inventory": inventory.as_dict()})
        yield IngestedWindow(Window(time).time, inventory, made=True)
    shutil.rmtree(folder / _PARTS, ignore_errors=True)


def _make(spec: Mapping[str, Any], times: Iterable[np.datetime64], folder: Path) -> None:
    """Make the tables of one group."""
    source = build_source({**spec, "cutoff": "none"}, None, 0)
    assert isinstance(source, FileSource)
    for _ in _at_once(spec, source, times, folder):
        pass


def _groups(paths: list[Path]) -> list[list[Path]]:
    """Return files of single stations in groups of at most `GROUP`, in order; no station is in two of them."""
    groups: list[list[Path]] = [[]]
    size = 0
    for _, files in groupby(sorted(paths, key=lambda path: (_station(path), path)), _station):
        of_station = list(files)
        more = sum(map(_size, of_station))
        if groups[-1] and size + more > GROUP:
            groups.append([])
            size = 0
        groups[-1] += of_station
        size += more
    return groups


def _station(path: Path) -> str:
    """Return the station of a file by its name: all but the year and the suffixes."""
    return _YEAR.sub("", path.name.partition(".")[0])


def _size(path: Path) -> int:
    """Return the bytes of a file when it is unpacked, about; 0 where it cannot be looked at."""
    with suppress(OSError):
        return path.stat().st_size * (_PACKED if path.suffix in (".gz", ".parquet") else 1)
    return 0


def _joined(parts: list[Path], window: Window, broken: Inventory) -> tuple[pd.DataFrame, Inventory]:
    """Return the table of a window and its inventory, in the order in which all files together would have given it."""
    tables, inventories = zip(*map(read_window, parts), strict=True)
    table = concatenate(tables)
    order = np.lexsort((table["received"], table["time"], table["variable"].array.codes))
    table = table.iloc[order].reset_index(drop=True)
    inventory = total(inventories)
    inventory.unreadable = broken.unreadable + sum(each.unreadable for each in inventories)
    inventory.problems = [*broken.problems, *inventory.problems][:MOST_PROBLEMS]
    return table, take_inventory(inventory, table, window)


def _digest(path: Path) -> str:
    try:
        return digest(path)
    except ObservationError:
        return "unreadable"


def total(inventories: Sequence[Inventory]) -> Inventory:
    """Return the inventory of several windows.

    Something that belongs to no window, such as a damaged row, is counted with each window that read it.
    """
    result = Inventory(inventories[0].source)
    for name in ("found", "decoded", "missing", "late"):
        setattr(result, name, sum(getattr(inventory, name) for inventory in inventories))
    result.skipped = _sum(inventory.skipped for inventory in inventories)
    result.values = _sum(inventory.values for inventory in inventories)
    result.digests = {file: content for inventory in inventories for file, content in inventory.digests.items()}
    result.files = list(result.digests)
    result.unreadable = max(inventory.unreadable for inventory in inventories)
    result.problems = list(dict.fromkeys(problem for inventory in inventories for problem in inventory.problems))
    latencies = [inventory.latency for inventory in inventories if inventory.latency is not None]
    result.latency = round(float(np.median(latencies)), 1) if latencies else None
    return result


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    result: Counter[str] = Counter()
    for count in counts:
        result.update(count)
    return dict(result)


def _fingerprint(spec: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the SHA-256 of all that a table depends on: names of files are part of it, their folders are not."""
    options = {key: _content(value) for key, value in spec.items() if key not in ("path", "cutoff")}
    files = sorted((Path(path).name, content) for path, content in inputs.items())
    text = json.dumps([dacycle.__version__, options, files], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(option: Any) -> Any:
    """Return an option's value, or the digest of the file that it names, such as a station list."""
    return digest(Path(option)) if isinstance(option, str) and Path(option).is_file() else option
