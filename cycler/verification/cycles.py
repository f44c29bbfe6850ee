"""Verify a run, cycle by cycle: errors, fits to observations, global means.

Everything is computed from the archive and the world's reference. The tables are kept in branches/NAME/verification/
and used again for the cycles whose record and whose reference have not changed since.
"""

import hashlib
import heapq
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from numpy.typing import NDArray

from dacycle.common.times import cycle_id
from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.archive.derived import REMOVED, read_cycle_tables, read_rows, write_tables
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.experiment import parse_donor
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import GROUPS, LEVELS, NAMES, index
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.intervals import trend_interval
from dacycle.forecast_adapter.worlds.world import World

__all__ = [
    "LAYERS",
    "QUANTITIES",
    "Verification",
    "fingerprint",
    "free_run_of",
    "kept_rows",
    "layer_of",
    "means_of_profile",
    "trends",
    "unverified",
    "verify",
    "verify_all",
    "verify_free_run",
    "withheld_fits",
]

logger = logging.getLogger(__name__)

LAYERS: dict[str, tuple[float, float]] = {
    "1000-700 hPa": (70000.0, np.inf),
    "700-300 hPa": (30000.0, 70000.0),
    "300-200 hPa": (20000.0, 30000.0),
    "above 200 hPa": (0.0, 20000.0),
}
"""Layers in which observations with a pressure are counted: name -> lowest (included) and highest pressure, Pa."""

QUANTITIES: dict[str, str] = {
    "mean sea-level pressure": "Pa",
    "temperature": "K",
    "column water": "kg m-2",
    "kinetic energy": "J kg-1",
}
"""Global means and their units. Temperature and kinetic energy are weighted by mass between 1000 and 50 hPa; water is
integrated between them."""


@dataclass(frozen=True)
class Verification:
    """Hold the tidy tables of a run; the columns before `->` are the key of a row.

    Attributes:
        errors: time, kind (background, analysis), channel, region -> mse, mae, bias; only where there is a reference.
        means: time, kind (background, analysis, reference), quantity -> value.
        fits: time, source, variable, layer, use, reason -> `count` of values, count of departures (`compared`), and
            the sums over them of error squared, o_b, o_b squared, o_a, o_a squared, o_b o_a, and of the last three
            over error squared.
    """

    errors: pd.DataFrame
    means: pd.DataFrame
    fits: pd.DataFrame

    def within(self, times: pd.DatetimeIndex) -> "Verification":
        """Return the tables of these cycles alone."""
        return Verification(*(table[table["time"].isin(times)] for table in (self.errors, self.means, self.fits)))


def verify(branch: Branch, world: World) -> Verification:
    """Verify every committed cycle of a branch; the two states of a cold start are no cycles.

    A cycle whose states were removed keeps the errors that it had; where it had none, it has only its fits.

    Raises:
        ArchiveError: a state or a departure table is damaged, or a table with errors of removed states.
    """
    return verify_all([branch], world)[0]


def verify_all(branches: Sequence[Branch], world: World) -> list[Verification]:
    """Verify branches of one world together, so that each state of the reference is read once. Errors as `verify`."""
    kept = {branch.folder: _Kept(branch, world) for branch in branches}
    for time, table, run in heapq.merge(*(run.departures() for run in kept.values()), key=itemgetter(0)):
        run.new.append(_verify_cycle(run.branch, world, time, table, time in run.kept))
    verified = {folder: run.joined() for folder, run in kept.items()}
    return [verified[branch.folder] for branch in branches]


def unverified(branch: Branch, world: World) -> list[pd.Timestamp]:
    """Return the cycles that `verify` would verify now: their rows are not on disk. Errors as `verify`."""
    return _Kept(branch, world).due


def kept_rows(branch: Branch, name: str, rows: pc.Expression, records: Sequence[CycleRecord]) -> pd.DataFrame:
    """Return some rows of a kept table of a run, as it is kept; nothing is computed or written.

    Args:
        branch: of the run.
        name: `errors`, `means` or `fits`.
        rows: which rows.
        records: of the cycles whose rows are returned, if the rows were made of these very records.

    Raises:
        ArchiveError: the file is damaged.
    """
    remedy = f"`dacycle verify {branch.name}` makes it again, or says that only a backup does"
    table, keys = read_rows(branch.folder / "verification", name, rows, remedy)
    current = [r.time for r in records if keys.get(r.id, "").startswith(fingerprint([r]))]
    return table[table["time"].isin(current)]


class _Kept:
    """The tables that are kept of a branch, and those of the cycles that are due."""

    def __init__(self, branch: Branch, world: World) -> None:
        self.branch, self.new = branch, list[Verification]()
        records = [r for r in branch.records if r.status != "cold_start"]
        self.kept = set(branch.kept("background"))
        removed = {record.id for record in records if record.time not in self.kept}
        self._tables, self._stored_keys = read_cycle_tables(branch.folder / "verification", removed)
        self._reference, self._against_others = world.reference, list[pd.Timestamp]()
        self._keys = {record.id: self._key(record) for record in records}
        self._current = {cycle for cycle, key in self._keys.items() if self._stored_keys.get(cycle) == key}

    def _key(self, record: CycleRecord) -> str:
        """Return what the rows of a cycle are to be made of: its record, and the reference's state.

        Where the cycle's states were removed, or the reference no longer holds its own, that is what they were made of.
        """
        made_of, kept = fingerprint([record]), record.time in self.kept
        mark = self._reference.mark(np.datetime64(record.time, "h")) if kept else ""
        then = self._stored_keys.get(record.id, "")
        if not then.startswith(made_of):
            return f"{made_of} {mark or 'unverified'}" if kept else made_of + REMOVED
        if not mark:
            return then
        if not then.endswith((mark, "unverified", REMOVED)):
            self._against_others.append(record.time)
        return f"{made_of} {mark}"

    @property
    def due(self) -> list[pd.Timestamp]:
        """Return the cycles whose rows are missing, or were made of something else."""
        return [pd.Timestamp(cycle) for cycle in self._keys if cycle not in self._current]

    def departures(self) -> Iterator[tuple[pd.Timestamp, pd.DataFrame, "_Kept"]]:
        """Yield time and departures of each cycle that is due, in order, and this."""
        if self._against_others:
            logger.warning(
                "%s: %d cycles from %s on had been scored against other states of the reference than those of %s; "
                "they are scored again",
                self.branch.name, len(self._against_others), cycle_id(self._against_others[0]), self._reference.folder,
            )  # fmt: skip
        for time, departures in self.branch.each_departures(self.due):
            yield time, departures, self

    def joined(self) -> Verification:
        """Return all tables, and keep them."""
        tables, new = self._tables, self.new
        if new or self._stored_keys.keys() != self._keys.keys():
            for name in tables:
                stored = tables[name][tables[name]["time"].isin([pd.Timestamp(cycle) for cycle in self._current])]
                filled = [table for table in (stored, *(getattr(cycle, name) for cycle in new)) if len(table)]
                joined = pd.concat(filled, ignore_index=True) if filled else getattr(new[0], name) if new else stored
                tables[name] = joined.sort_values("time", kind="stable", ignore_index=True)
            write_tables(self.branch.folder / "verification", tables, self._keys)
        return Verification(**tables)


def free_run_of(branch: Branch) -> Branch | None:
    """Return the run to compare an experiment with that assimilates nothing; None where the archive has none.

    It is the experiment's own, NAME-free, or that of the experiment from which it was forked with the same model.
    """
    branches = branch.archive.branches()
    if f"{branch.name}-free" in branches:
        return branch.archive.branch(f"{branch.name}-free")
    origin = branch.experiment.cold_start.from_
    donor = parse_donor(origin)[0] if origin is not None else None
    if donor not in branches:
        return None
    forked_from = branch.archive.branch(donor)
    return free_run_of(forked_from) if forked_from.experiment.model == branch.experiment.model else None


def verify_free_run(branch: Branch, world: World) -> Verification | None:
    """Verify an experiment's free run over the experiment's own times; None where the archive has no free run."""
    free = free_run_of(branch)
    return None if free is None else verify(free, world).within(branch.times)


def fingerprint(records: list[CycleRecord]) -> str:
    """Return the SHA-256 of cycle records; cycles that are run again with the same result have the same one."""
    return hashlib.sha256(f"[{', '.join(record.to_json() for record in records)}]".encode()).hexdigest()


# --- one cycle --------------------------------------------------------------------------------------------------------


def _verify_cycle(
    branch: Branch, world: World, time: pd.Timestamp, departures: pd.DataFrame, kept: bool
) -> Verification:
    """Verify one cycle; raise ArchiveError where its states, `kept` when the tables were read, have gone meanwhile."""
    when = np.datetime64(time, "h")
    kinds = ("background", "analysis") if kept else ()
    states = {kind: branch.state(kind, time).values for kind in kinds}
    errors = []
    if states and when in world.reference:
        truth = world.reference.array(when)
        errors = [_error_table(time, kind, state, truth, world.grid) for kind, state in states.items()]
        states["reference"] = truth
    means = [
        {"time": time, "kind": kind, "quantity": quantity, "value": value}
        for kind, state in states.items()
        for quantity, value in global_means(state, world.grid).items()
    ]
    return Verification(
        pd.concat(errors, ignore_index=True) if errors else pd.DataFrame(columns=_ERROR_COLUMNS),
        pd.DataFrame(means, columns=["time", "kind", "quantity", "value"]),
        fit_table(time, departures),
    )


_ERROR_COLUMNS = ["time", "kind", "channel", "region", "mse", "mae", "bias"]


def _error_table(time: pd.Timestamp, kind: str, state: NDArray, truth: NDArray, grid: Grid) -> pd.DataFrame:
    regions = list(scores.REGIONS)
    return pd.DataFrame(
        {
            "time": time,
            "kind": kind,
            "channel": np.repeat(NAMES, len(regions)),
            "region": np.tile(regions, len(NAMES)),
            "mse": scores.mse(state, truth, grid).ravel(),
            "mae": scores.mae(state, truth, grid).ravel(),
            "bias": scores.bias(state, truth, grid).ravel(),
        }
    )


def global_means(state: NDArray, grid: Grid) -> dict[str, float]:
    """Return the QUANTITIES of a state (69, H, W). Values below ground count as they are in the state."""
    profile = (state * grid.weights).mean(axis=(1, 2), dtype=np.float64)
    energy = ((state[GROUPS["u"]] ** 2 + state[GROUPS["v"]] ** 2) / 2 * grid.weights).mean(axis=(1, 2), dtype=float)
    return {**means_of_profile(profile), "kinetic energy": _by_mass(energy)}


def means_of_profile(profile: NDArray) -> dict[str, float]:
    """Return those of the QUANTITIES that are linear in a state, from global means (69,) of it or of its error."""
    return {
        "mean sea-level pressure": float(profile[index("msl")]),
        "temperature": _by_mass(profile[GROUPS["t"]]),
        "column water": scores.water_column(profile[GROUPS["q"], None, None], np.ones((1, 1))),
    }


def _by_mass(profile: NDArray) -> float:
    """Return the mean of values (13,) on `LEVELS`, weighted by mass."""
    pressure = np.asarray(LEVELS, float)
    return float(np.trapezoid(profile, pressure) / (pressure[-1] - pressure[0]))


def layer_of(pressure: NDArray) -> NDArray:
    """Return the names (n,) of the LAYERS of pressures (Pa); `surface` where the pressure is NaN."""
    conditions = [(pressure >= low) & (pressure < high) for low, high in LAYERS.values()]
    return np.select(conditions, list(LAYERS), default="surface")


def fit_table(time: pd.Timestamp, departures: pd.DataFrame) -> pd.DataFrame:
    """Return the counts and sums of one cycle's departures, as in `Verification.fits`."""
    compared = np.isfinite(departures["o_b"]) & np.isfinite(departures["o_a"])
    o_b, o_a = (departures[name].where(compared, 0.0).astype(float) for name in ("o_b", "o_a"))
    error = departures["error"].astype(float)
    rows = pd.DataFrame(
        {
            "source": departures["source"].astype(str),
            "variable": departures["variable"].astype(str),
            "layer": layer_of(departures["pressure"].to_numpy(float)),
            "use": departures["use"].astype(str),
            "reason": departures["reason"].astype(str),
            "count": 1,
            "compared": compared.astype(int),
            "error_squared": error.where(compared, 0.0) ** 2,
            "o_b": o_b,
            "o_b_squared": o_b**2,
            "o_a": o_a,
            "o_a_squared": o_a**2,
            "o_b_o_a": o_b * o_a,
            "o_b_in_errors_squared": (o_b / error) ** 2,
            "o_a_in_errors_squared": (o_a / error) ** 2,
            "o_b_o_a_in_errors": o_b * o_a / error**2,
        }
    )
    sums = rows.groupby(["source", "variable", "layer", "use", "reason"], as_index=False).sum()
    sums.insert(0, "time", time)
    return sums


def withheld_fits(fits: pd.DataFrame) -> pd.DataFrame:
    """Return the fits of withheld values up to 200 hPa; those of whole regions have a `source` of their own."""
    withheld = fits[(fits["use"] == "withheld") & (fits["layer"] != "above 200 hPa")]
    in_region = withheld["reason"] == "withheld_region"
    return withheld.assign(source=withheld["source"].where(~in_region, withheld["source"] + ", withheld regions"))


# --- the whole run ----------------------------------------------------------------------------------------------------


def trends(verification: Verification, channels: tuple[str, ...]) -> pd.DataFrame:
    """Return linear trends over the run, per day, with 95 % intervals.

    There is a trend for the global RMSE of backgrounds and analyses in each of `channels` (SI), and for each global
    mean of the analyses, minus the reference's where the reference holds all cycles.

    Returns:
        Columns `of`, `kind`, `estimate`, `low`, `high`, `effective` (sample size) and `excludes_zero`; no row where
        there is one cycle only.
    """
    errors, means = verification.errors, verification.means
    all_series = []
    for kind in ("background", "analysis"):
        for channel in channels:
            selected = (errors["kind"] == kind) & (errors["channel"] == channel) & (errors["region"] == "globe")
            all_series.append((f"{channel} error", kind, np.sqrt(errors[selected].set_index("time")["mse"])))
    table = means.pivot(index="time", columns=["quantity", "kind"], values="value")
    for quantity in QUANTITIES if len(table) else ():
        series = table[quantity]["analysis"]
        if "reference" in table[quantity] and table[quantity]["reference"].notna().all():
            series = series - table[quantity]["reference"]
        all_series.append((quantity, "analysis", series))
    return pd.DataFrame(
        [{"of": of, "kind": kind, **_trend(series)} for of, kind, series in all_series if len(series) > 1]
    )


def _trend(series: pd.Series) -> dict[str, float | bool]:
    days = (series.index - series.index[0]) / pd.Timedelta(days=1)
    slope = trend_interval(days.to_numpy(float), series.to_numpy(float))
    return {**asdict(slope), "excludes_zero": slope.excludes_zero}
