"""The protocol of all sources of observations, their inventory, and how an experiment names one.

A source reads a window and returns a checked table and an inventory. To add one, write a class with `name`, `cutoff`
and `read`, whose constructor takes `name`, `cutoff` and its own options by keyword, and `world` and `seed` if it needs
them; list it in `SOURCES`.
"""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.table import VARIABLES, ObservationError
from dacycle.obs_ingest.window import Window

__all__ = [
    "DEFAULT_CUTOFF",
    "DRAWN",
    "ERROR_KINDS",
    "SOURCES",
    "FileSource",
    "Inventory",
    "Source",
    "build_source",
    "duration",
    "error_kind",
    "take_inventory",
]

SOURCES: dict[str, str] = {
    "stations": "simulation.stations:Stations",
    "sondes": "simulation.stations:Sondes",
    "olr": "simulation.fields:Olr",
    "mask": "simulation.fields:Mask",
    "marine": "simulation.marine:Marine",
    "aircraft": "simulation.aircraft:Aircraft",
    "motion_vectors": "simulation.motion_vectors:MotionVectors",
    "synop_bufr": "sources.bufr.synop:SynopBufr",
    "marine_bufr": "sources.bufr.marine:MarineBufr",
    "aircraft_bufr": "sources.bufr.aircraft:AircraftBufr",
    "amv_bufr": "sources.bufr.motion_vectors:MotionVectorsBufr",
    "isd": "sources.text.isd:Isd",
    "ghcnh": "sources.text.ghcnh:Ghcnh",
    "ndbc": "sources.text.ndbc:Ndbc",
    "prepbufr": "sources.bufr.prepbufr:Prepbufr",
    "nnja": "sources.text.nnja:Nnja",
    "nnja_sondes": "sources.text.nnja:NnjaSondes",
    "metar": "sources.text.metar:Metar",
    "temp_bufr": "sources.bufr.temp:TempBufr",
    "igra": "sources.text.igra:Igra",
    "olr_netcdf": "sources.netcdf_fields:OlrNetcdf",
    "precipitation_netcdf": "sources.netcdf_fields:PrecipitationNetcdf",
    "table": "sources.ingested:TableFolder",
}
"""Sources that an experiment can name: module and class, imported on demand (a replay may not need ecCodes)."""

DRAWN: frozenset[str] = frozenset({"stations", "sondes", "olr", "mask", "marine", "aircraft", "motion_vectors"})
"""Sources whose values are drawn from the world's reference, with known errors."""

ERROR_KINDS: dict[str, str] = {
    "marine": "marine",
    "aircraft": "aircraft",
    "motion_vectors": "motion vectors",
    "marine_bufr": "marine",
    "ndbc": "marine",
    "aircraft_bufr": "aircraft",
    "amv_bufr": "motion vectors",
}
"""Whose errors the values of a source have (`errors.model.errors_of`); those of other sources have the usual ones."""

_ERRORS_OF_REPORTS = {"marine": "marine", "aircraft": "aircraft", "motion_vectors": "motion vectors"}

DEFAULT_CUTOFF = "3h"

MOST_PROBLEMS = 20
"""The most problems that an inventory names; all are counted."""


@dataclass
class Inventory:
    """What a source found for a window.

    Attributes:
        source: the source's name.
        found: reports that were there, or expected, before any was left out; a message that was not read counts as one.
        decoded: reports that became rows.
        missing: values or reports that were expected and absent.
        late: values received after the window's cutoff.
        latency: median minutes from a value's time to its receipt; None where unknown.
        skipped: reports, or values of reports, left out, by reason.
        values: rows by variable.
        files: files read.
        digests: the first digits of the SHA-256 of their content, by file.
        unreadable: files that could not be read.
        problems: those files and the first damaged messages, by file and number.
    """

    source: str
    found: int = 0
    decoded: int = 0
    missing: int = 0
    late: int = 0
    latency: float | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    unreadable: int = 0
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for a record or JSON."""
        return asdict(self)

    def skip(self, reason: str, count: int = 1) -> None:
        """Count reports that are left out, if any."""
        if count:
            self.skipped[reason] = self.skipped.get(reason, 0) + count

    def problem(self, sentence: str) -> None:
        """Add a sentence about something that could not be read, unless there are `MOST_PROBLEMS` already."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(sentence)


class Source(Protocol):
    """Observations of one kind.

    Attributes:
        name: the value of the table's `source` column.
        cutoff: how long after the analysis time a cycle waits for its values; None: without limit.
    """

    name: str
    cutoff: pd.Timedelta | None

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """Return the checked table of the window's values, and the inventory."""
        ...


@runtime_checkable
class FileSource(Source, Protocol):
    """A source that reads files."""

    def inputs(self, window: Window) -> dict[str, str]:
        """Return the digests of the files that hold something of the window, by path.

        The same digests mean the same table.

        Raises:
            ObservationError: there is no file.
        """
        ...


def error_kind(spec: Mapping[str, Any]) -> str:
    """Return whose errors the values of a source have (`errors.model.errors_of`); empty: the usual ones.

    Args:
        spec: an entry of an experiment's `observations`.
    """
    return ERROR_KINDS.get(str(spec.get("source")), _ERRORS_OF_REPORTS.get(str(spec.get("reports")), ""))


def take_inventory(inventory: Inventory, table: pd.DataFrame, window: Window) -> Inventory:
    """Fill in the inventory from the finished table: rows by variable, late values, latency."""
    counts = np.bincount(table["variable"].array.codes, minlength=len(VARIABLES))
    inventory.values = {name: int(count) for name, count in zip(VARIABLES, counts, strict=True) if count}
    received = table["received"].to_numpy()
    inventory.late = int(window.late(received).sum())
    rows = ~np.isnat(received)
    if rows.any():
        latencies = (received[rows] - table["time"].to_numpy()[rows]).astype("timedelta64[s]").astype(float)
        inventory.latency = round(float(np.median(latencies)) / 60, 1)
    return inventory


def build_source(spec: Mapping[str, Any], world: World | None, seed: int) -> Source:
    """Make the source that an entry of an experiment's `observations` describes.

    Args:
        spec: `source` (one of `SOURCES`), optional `name` (default: the same) and `cutoff` (a duration such as `3h`,
            the default, or `none`), and the source's own options.
        world: simulated observations are drawn from its reference, and its climatology scales errors; sources of
            files need none.
        seed: the experiment's seed.

    Raises:
        ObservationError: for an unknown source, option or duration, with the known ones.
    """
    options = dict(spec)
    kind = options.pop("source", None)
    if kind not in SOURCES:
        raise ObservationError(f"unknown observation source {kind!r}; the sources are {', '.join(SOURCES)}")
    module, _, attribute = SOURCES[kind].partition(":")
    factory = getattr(import_module(f"dacycle.obs_ingest.{module}"), attribute)
    given = {"world": world, "seed": seed}
    parameters = inspect.signature(factory).parameters
    known = [name for name in parameters if name not in given]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ObservationError(
            f"source {kind}: unknown option {', '.join(map(repr, unknown))}; its options are {', '.join(known)}"
        )
    required = [name for name in known if parameters[name].default is inspect.Parameter.empty]
    absent = [name for name in required if name not in (*options, "name", "cutoff")]
    if absent:
        raise ObservationError(f"source {kind}: needs the option {', '.join(absent)}")
    options.setdefault("name", kind)
    options["cutoff"] = _cutoff(options.get("cutoff", DEFAULT_CUTOFF), kind)
    return factory(**{name: value for name, value in given.items() if name in parameters}, **options)


def _cutoff(text: Any, kind: str) -> pd.Timedelta | None:
    if text is None or text == "none":
        return None
    return duration(text, f"source {kind}: cutoff")


def duration(text: Any, option: str) -> pd.Timedelta:
    """Parse a duration such as `45min` or `3h`; `option` names it in the message."""
    try:
        value = pd.Timedelta(text)
    except (TypeError, ValueError):
        value = pd.NaT
    if isinstance(text, int | float) or value is pd.NaT or value < pd.Timedelta(0):
        raise ObservationError(f"{option} is {text!r}, not a duration such as 45min, 3h or 2d")
    return value
