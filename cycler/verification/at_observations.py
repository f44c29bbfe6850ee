"""Score kept forecasts at observations: stations, soundings, ships and others, by lead, region and source.

The observations are those of the run's own departures at the valid times that quality control accepted. H of the
forecast is that of the cycles, with their height correction. For each observation the squared difference d^2 holds the
error of the forecast and that of the observation, so that

    error of the forecast at the observations = sqrt(mean d^2 - mean stated error^2)

is compared with the difference from the reference at the same places and times, H(forecast) - H(reference). At lead 0
only withheld values count, because the analysis has drawn to the others.

The scores are kept in branches/NAME/at_observations/, and made again for the starts whose analyses or valid cycles have
changed. Only the headline channels are stored of a forecast: values of 2-m temperature, sea-level pressure, and values
aloft on the level of a headline channel count.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.archive.derived import read_tables, write_tables
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.experiment import STEP, cycle_id
from dacycle.cycler.verification.cycles import fingerprint
from dacycle.cycler.verification.drift import forecasts
from dacycle.forecast_adapter.channels import CHANNELS, HEADLINE, NAMES, index
from dacycle.forecast_adapter.scores import REGIONS, in_regions
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.table import VARIABLES

__all__ = ["WITHHELD", "at_observations", "by_lead"]

WITHHELD = ", withheld"
"""Ends the source of rows of withheld values alone, which the rows of the source hold too."""

_TABLE = "at_observations"
_KEY = ["source", "channel", "region"]
_ORDER = ["start", "lead", *_KEY]
_SUMS = [
    "n", "d_squared", "error_squared", "verified", "verified_error_squared", "from_reference_squared",
    "reference_d_squared",
]  # fmt: skip
_PLACES = {(CHANNELS[index(name)].variable, CHANNELS[index(name)].level): i for i, name in enumerate(HEADLINE)}
"""Variable and level (hPa, None at the surface) of each headline channel."""


def at_observations(branch: Branch, world: World, new: bool = True) -> pd.DataFrame:
    """Return sums of squared differences of each kept forecast from the observations of the run.

    Args:
        branch: the run.
        world: its world.
        new: score the forecasts that have no scores yet; else their starts are left out.

    Returns:
        start, lead (hours), source, channel, region -> `n` observations; `d_squared`, observation minus forecast;
        `error_squared`, the stated error; and where the reference holds the valid time, `verified` of them with
        `verified_error_squared`, their stated error, `from_reference_squared`, H(forecast) - H(reference), and
        `reference_d_squared`, observation minus H(reference). Beyond lead 0, where nothing else counts, withheld
        values have rows of their own too, whose source ends in `WITHHELD`.
        Sums in SI units squared.

    Raises:
        ArchiveError: no forecast has been made, or a departure table is damaged.
    """
    kept = forecasts(branch)
    records = {record.time: record for record in branch.records if record.departures is not None}
    leads = [int(lead) for lead in kept["lead"].values]
    starts = [pd.Timestamp(time) for time in kept["time"].values]
    keys = {}
    for start in starts:
        used = [start - STEP, *(start + pd.Timedelta(hours=lead) for lead in leads)]
        held = [world.reference.mark(np.datetime64(time, "h")) for time in used[1:]]
        cycles = fingerprint([records[time] for time in used if time in records])
        keys[cycle_id(start)] = hashlib.sha256(f"{cycles}|{world.name}|{held}".encode()).hexdigest()[:32]
    folder = branch.folder / _TABLE
    tables, stored = read_tables(folder, (_TABLE,))
    same = [start for start in starts if stored.get(cycle_id(start)) == keys[cycle_id(start)]]
    scored = tables[_TABLE]
    parts = [scored[scored["start"].isin(same)]] if same else []
    observed = _Observed(branch, world, records)
    found = []
    for start in (start for start in starts if new and start not in same):
        fields = np.stack([kept[name].sel(time=start).values for name in HEADLINE], axis=1)
        found += [observed.score(start, lead, state) for lead, state in zip(leads, fields, strict=True)]
    if found := [of_state for of_state in found if of_state]:
        parts.append(pd.DataFrame({name: np.concatenate([of_state[name] for of_state in found]) for name in found[0]}))
    parts = [part for part in parts if len(part)]
    result = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*_ORDER, *_SUMS])
    result = result.sort_values(_ORDER, ignore_index=True)[[*_ORDER, *_SUMS]]
    if new and (len(same) < len(starts) or stored.keys() - keys.keys()):
        write_tables(folder, {_TABLE: result}, keys)
    return result


def by_lead(scored: pd.DataFrame) -> pd.DataFrame:
    """Return errors over all starts by lead, source, channel and region, in SI units.

    Returns:
        lead, source, channel, region -> `n`; `starts`; `rms`, of observation minus forecast; `observation_error`, the
        stated one; `error`, of the forecast without that of the observation, NaN where the stated error is larger than
        the whole; `against_reference`, the difference from the reference at the same places; `reference_error`, what
        the reference itself has as `error`.
    """
    sums = scored.groupby(["lead", *_KEY], as_index=False).agg(
        starts=("start", "nunique"), **{name: (name, "sum") for name in _SUMS}
    )
    n, verified = sums["n"].astype(float), sums["verified"].astype(float).replace(0, np.nan)
    stated = sums["error_squared"] / n
    return pd.DataFrame(
        {
            **{name: sums[name] for name in ("lead", *_KEY, "starts", "n")},
            "rms": np.sqrt(sums["d_squared"] / n),
            "observation_error": np.sqrt(stated),
            "error": _root(sums["d_squared"] / n - stated),
            "against_reference": np.sqrt(sums["from_reference_squared"] / verified),
            "reference_error": _root((sums["reference_d_squared"] - sums["verified_error_squared"]) / verified),
        }
    )


def _root(squared: pd.Series) -> pd.Series:
    return np.sqrt(squared.where(squared >= 0))


@dataclass(frozen=True, eq=False)
class _Values:
    """Accepted values of a time that a headline channel can be compared with.

    Attributes:
        table: their rows (n).
        reference: H(reference) at each, NaN where there is none.
        group: the pair of source and channel that each value belongs to, from 0.
        inside: (regions, n) whether each value is in each region.
        labels: region, source and channel of each sum: the pairs of the first region, of the second one, and so on.
    """

    table: pd.DataFrame
    reference: NDArray[np.float64]
    group: NDArray[np.int64]
    inside: NDArray[np.bool_]
    labels: dict[str, NDArray[np.str_]]


class _Observed:
    """The observations of a run that kept forecasts are compared with, one valid time in memory after the other."""

    def __init__(self, branch: Branch, world: World, records: Mapping[pd.Timestamp, CycleRecord]) -> None:
        self._branch, self._world, self._records = branch, world, records
        self._kept: dict[pd.Timestamp, _Values] = {}

    def score(self, start: pd.Timestamp, lead: int, headline: NDArray) -> dict[str, NDArray]:
        """Return the columns of the sums of a forecast state (6, H, W) valid `lead` hours after `start`, or nothing."""
        valid = start + pd.Timedelta(hours=lead)
        self._kept = {time: kept for time, kept in self._kept.items() if time >= start}
        if valid not in self._records:
            return {}
        values = self._at(valid)
        forecast, withheld = self._equivalents(values.table, headline), (values.table["use"] == "withheld").to_numpy()
        parts = [_sums(values, forecast, withheld)]
        if lead:
            parts[0]["source"] = np.char.add(parts[0]["source"], WITHHELD)
            parts.append(_sums(values, forecast, np.ones_like(withheld)))
        sums = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        count = len(sums["n"])
        return sums | {"start": np.full(count, start.to_datetime64()), "lead": np.full(count, lead)}

    def _at(self, valid: pd.Timestamp) -> _Values:
        if valid not in self._kept:
            table = self._branch.departures_of(self._records[valid])
            channel = np.where(table["use"].isin(["assimilated", "withheld"]), _channels(table), -1)
            table, channel = table[channel >= 0], channel[channel >= 0]
            when, reference = np.datetime64(valid, "h"), np.full(len(table), np.nan)
            if when in self._world.reference:
                fields = self._world.reference.array(when)[[index(name) for name in HEADLINE]]
                reference = self._equivalents(table, fields)
            sources, of = np.unique(table["source"].to_numpy("U"), return_inverse=True)
            labels = {
                "region": np.repeat(list(REGIONS), len(sources) * len(HEADLINE)),
                "source": np.tile(np.repeat(sources, len(HEADLINE)), len(REGIONS)),
                "channel": np.tile(HEADLINE, len(REGIONS) * len(sources)),
            }
            group, inside = of * len(HEADLINE) + channel, in_regions(table["latitude"].to_numpy())
            self._kept[valid] = _Values(table, reference, group, inside, labels)
        return self._kept[valid]

    def _equivalents(self, table: pd.DataFrame, headline: NDArray) -> NDArray[np.float64]:
        """Return H of fields (6, H, W) at the rows, each of which needs one of them alone."""
        state = np.zeros((len(NAMES), *headline.shape[1:]), np.float32)
        state[[index(name) for name in HEADLINE]] = headline
        return equivalents(table, state, self._world.grid, self._world.orography)


def _channels(table: pd.DataFrame) -> NDArray[np.int64]:
    """Return the position in `HEADLINE` of the channel that each row (n,) observes; -1: none."""
    channel, codes = np.full(len(table), -1), table["variable"].array.codes
    pressure = table["pressure"].to_numpy(float)
    for (variable, level), position in _PLACES.items():
        there = np.isnan(pressure) if level is None else np.isclose(pressure, 100.0 * (level or 0), rtol=1e-5)
        channel[(codes == VARIABLES.index(variable)) & there] = position
    return channel


def _sums(values: _Values, forecast: NDArray, chosen: NDArray[np.bool_]) -> dict[str, NDArray]:
    """Return the columns of the sums of a forecast at chosen values; sums of no value are left out."""
    value, reference = values.table["value"].to_numpy(float), values.reference
    compared = chosen & np.isfinite(value - forecast)
    verified = np.isfinite(reference)
    stated = np.square(values.table["error"].to_numpy(float))
    columns = {
        "n": np.ones(len(value)),
        "d_squared": np.square(value - forecast),
        "error_squared": stated,
        "verified": verified.astype(float),
        "verified_error_squared": np.where(verified, stated, 0.0),
        "from_reference_squared": np.where(verified, np.square(forecast - reference), 0.0),
        "reference_d_squared": np.where(verified, np.square(value - reference), 0.0),
    }
    region, position = np.nonzero(values.inside & compared)
    count = len(values.labels["region"])
    place = region * (count // len(REGIONS)) + values.group[position]
    sums = {name: np.bincount(place, column[position], count) for name, column in columns.items()}
    return {name: column[sums["n"] > 0] for name, column in (values.labels | sums).items()}
