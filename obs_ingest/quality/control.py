"""Quality control: which values a cycle assimilates, and why not the others. No row ever disappears.

The checks run in this order, and the first one that fails gives the reason: missing value, unit, gross limits,
position, station lists, window, cutoff, duplicates, station height, background check, no operator, buddy check, spatial
consistency, withheld region, withheld site, denied. Late values are set aside before duplicates are sought, so that a
late value cannot displace one that had arrived. Regions and sites are withheld before anything is denied, so that
experiments which deny an observation type are compared against the same withheld values.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.grid import Grid, interpolate_to_points
from dacycle.obs_ingest.operators.columns import MSL_HEIGHT_LIMIT, reduction_error
from dacycle.obs_ingest.quality.background_error import BackgroundError
from dacycle.obs_ingest.quality.duplicates import duplicates
from dacycle.obs_ingest.quality.limits import beyond_limits, other_unit
from dacycle.obs_ingest.quality.spatial import buddy_check, spatial_consistency
from dacycle.obs_ingest.quality.station_lists import StationList, has_station
from dacycle.obs_ingest.quality.withheld import SALT, WITHHELD, withhold, withhold_regions
from dacycle.obs_ingest.table import (
    PLANE_VARIABLES,
    REASONS,
    USES,
    VARIABLES,
    ObservationError,
    at_origin,
)
from dacycle.obs_ingest.window import HALF_WIDTH, Window

__all__ = [
    "CYCLE_CHECKS",
    "HEIGHT_LIMIT",
    "USUAL_CHECKS",
    "WITHHELD",
    "BackgroundAtRows",
    "Checks",
    "Selection",
    "background_at_rows",
    "check",
    "first_estimate",
    "withhold",
]

HEIGHT_LIMIT = 500.0
"""Metres between station and model orography beyond which 2-metre temperature and dewpoint are not comparable."""


@dataclass(frozen=True)
class Checks:
    """How strict quality control is, and its station lists.

    Attributes:
        background_check: rejects |O-B| > this x sqrt(error^2 + background_error^2).
        buddy_check: the threshold of `spatial.buddy_check`; None: the check is not made.
        spatial_consistency: the threshold of `spatial.spatial_consistency`; None: the check is not made.
        blacklist: rows that it names are rejected; None: there is no such list.
        whitelist: rows of stations that it does not name are rejected; None: there is no such list.
    """

    background_check: float = 4.0
    buddy_check: float | None = None
    spatial_consistency: float | None = None
    blacklist: StationList | None = None
    whitelist: StationList | None = None

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each station list that is given."""
        lists = {"blacklist": self.blacklist, "whitelist": self.whitelist}
        return {name: stations.digest for name, stations in lists.items() if stations is not None}


USUAL_CHECKS = Checks()
"""The default where the background's error is assumed."""

CYCLE_CHECKS = Checks(background_check=3.4)
"""The default where it is estimated (`background_error`): the limit then need not allow for a wrong one."""


@dataclass(frozen=True)
class Selection:
    """What a cycle assimilates of the observations that it has.

    Attributes:
        cutoffs: cutoff by source; a source that is not named has the window's.
        deny: what is not assimilated: sources or variables by name (`olr`, `td2m`), or one variable of a source
            (`stations:tp`).
        share, salt, network: of the withheld sites, see `withhold`.
        regions: share of the withheld regions, see `withheld.withhold_regions`.
        planes: observation planes that the assimilator takes; variables of the others are rejected as `no_operator`.
        checks: how strict quality control is.
    """

    cutoffs: Mapping[str, pd.Timedelta | None] = field(default_factory=dict)
    deny: Collection[str] = ()
    share: float = WITHHELD
    salt: str = SALT
    network: NDArray[np.float64] | None = None
    regions: float = 0.0
    planes: Collection[str] = tuple(PLANE_VARIABLES)
    checks: Checks = USUAL_CHECKS


@dataclass(frozen=True, eq=False)
class BackgroundAtRows:
    """What the background says at each of the n rows of a table.

    Attributes:
        equivalents: (n,) H(x_b), NaN where there is no operator.
        error: (n,) standard deviation of the error of H(x_b), SI; where it is NaN every departure passes.
        ground: (n,) height of the model's ground, m; t2m and td2m are rejected where it is NaN.
    """

    equivalents: NDArray[np.float64]
    error: NDArray[np.float64]
    ground: NDArray[np.float64]


_KEPT, _WITHHELD, _REJECTED, _LATE = range(len(USES))
_SCREEN_LEVEL = [VARIABLES.index(name) for name in ("t2m", "td2m")]


class _Verdicts:
    """Use and reason of each row; only rows that are still open can be marked, so that the first failure stands."""

    def __init__(self, n: int) -> None:
        self.use = np.zeros(n, np.int8)
        self.reason = np.zeros(n, np.int8)

    @property
    def open(self) -> NDArray[np.bool_]:
        return self.use == _KEPT

    def mark(self, rows: NDArray[np.bool_], reason: str, use: int = _REJECTED) -> None:
        rows = rows & self.open
        self.use[rows] = use
        self.reason[rows] = REASONS.index(reason)


def background_at_rows(
    table: pd.DataFrame,
    equivalents: NDArray,
    background_error: BackgroundError,
    grid: Grid,
    orography: NDArray,
    learned_error: NDArray | None = None,
) -> BackgroundAtRows:
    """Return what quality control needs of a gridded background at the n rows of a table.

    Args:
        table: observations, n rows.
        equivalents: (n,) H(x_b), NaN where there is no operator.
        background_error: of the background.
        grid, orography: the background's grid and its orography (H, W) in m.
        learned_error: (n,) standard deviation of the error of H(x_b) where a learned operator gave it, else NaN; see
            `learned.LearnedOperator.background_error`.
    """
    codes = table["variable"].array.codes
    error = background_error.at_rows(table)
    if learned_error is not None:
        error = np.where(np.isnan(learned_error), error, learned_error)
    return BackgroundAtRows(equivalents, error, _ground(table, codes, grid, orography))


def first_estimate(
    guess: BackgroundError,
    table: pd.DataFrame,
    window: Window,
    at_rows: Callable[[BackgroundError], BackgroundAtRows],
    selection: Selection,
) -> BackgroundError:
    """Return the error of a background that no earlier cycle tells of, from its own departures.

    Args:
        guess: the first guess of it.
        table, window, selection: as for `check`, but no value is rejected for its departure.
        at_rows: what quality control needs at the rows of the table, for an error of the background.
    """
    background = at_rows(guess)
    lenient = replace(selection, checks=replace(selection.checks, background_check=np.inf))
    checked = check(table, window, background, lenient)
    departures = checked["value"].to_numpy() - background.equivalents
    return guess.after(checked, departures, background.error, gain=1.0, most=np.inf)


def check(table: pd.DataFrame, window: Window, background: BackgroundAtRows, selection: Selection) -> pd.DataFrame:
    """Return the table with `use` and `reason` decided, and `error` grown with the distance from the analysis time.

    The error of station pressure grows with height as well (`columns.reduction_error`).

    Args:
        table: a checked table of n rows, from any number of sources.
        window: of the cycle.
        background: at the n rows.
        selection: what the cycle assimilates.

    Returns:
        A new table, with `height_difference` (see `table.DEPARTURE_COLUMNS`). The error of a value d hours from t is
        multiplied by sqrt(1 + (d / 3)^2), because the weather changes in that time.

    Raises:
        ObservationError: `deny` or `planes` name something that cannot exist, or the background's rows are not the
            table's.
    """
    if len(background.equivalents) != len(table):
        raise ObservationError(f"{len(background.equivalents)} background equivalents for {len(table)} observations")
    _check_names(selection.planes, PLANE_VARIABLES, "observation plane")
    checks = selection.checks
    codes, value = table["variable"].array.codes, table["value"].to_numpy()
    time, received = table["time"].to_numpy(), table["received"].to_numpy()
    distance = abs(time - window.time.astype("datetime64[s]"))
    error = table["error"].to_numpy() * np.sqrt(1 + (distance / HALF_WIDTH) ** 2)
    error = np.hypot(error, reduction_error(table, background.equivalents))

    verdicts = _Verdicts(len(table))
    verdicts.mark(np.isnan(value), "missing_value")
    verdicts.mark(other_unit(codes, value), "unit")
    verdicts.mark(beyond_limits(codes, value), "gross_limits")
    verdicts.mark(_without_position(table), "position")
    if checks.blacklist is not None:
        verdicts.mark(checks.blacklist.names(table), "blacklisted")
    if checks.whitelist is not None:
        verdicts.mark(has_station(table) & ~checks.whitelist.names(table), "not_listed")
    verdicts.mark(~window.holds(time), "outside_window")
    verdicts.mark(_late(table, window, received, selection.cutoffs), "after_cutoff", _LATE)
    verdicts.mark(duplicates(table, distance, verdicts.open), "duplicate")
    height = np.where(np.isin(codes, _SCREEN_LEVEL), table["elevation"].to_numpy() - background.ground, np.nan)
    verdicts.mark(_height_mismatch(table, codes, height), "station_height")
    departure = value - background.equivalents
    with np.errstate(invalid="ignore"):
        limit = checks.background_check * np.sqrt(error**2 + background.error**2)
        verdicts.mark(abs(departure) > limit, "background_check")
    on_channel = ~(np.isnan(background.equivalents) | _of_plane(codes))
    verdicts.mark(~on_channel & ~_on_plane(table, codes, selection.planes), "no_operator")
    regions = withhold_regions(table, selection.regions, selection.salt)
    withheld = withhold(table, selection.share, selection.salt, selection.network)
    denied = _denied(table, codes, selection.deny)
    for name, test, threshold in (
        ("buddy_check", buddy_check, checks.buddy_check),
        ("spatial_consistency", spatial_consistency, checks.spatial_consistency),
    ):
        if threshold is not None:
            buddies = verdicts.open & ~regions & ~withheld & ~denied
            verdicts.mark(test(table, departure / error, verdicts.open, buddies, threshold), name)
    verdicts.mark(regions, "withheld_region", _WITHHELD)
    verdicts.mark(withheld, "withheld_site", _WITHHELD)
    verdicts.mark(denied, "denied")
    return table.assign(
        error=error,
        height_difference=height,
        use=pd.Categorical.from_codes(verdicts.use, dtype=table["use"].dtype),
        reason=pd.Categorical.from_codes(verdicts.reason, dtype=table["reason"].dtype),
    )


def _without_position(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return the stations (n,) at 0 N 0 E: nobody filled in their positions. A raster does have a point there."""
    rows = at_origin(table["latitude"].to_numpy(), table["longitude"].to_numpy())
    if rows.any():
        rows &= has_station(table)
    return rows


def _late(
    table: pd.DataFrame, window: Window, received: NDArray, cutoffs: Mapping[str, pd.Timedelta | None]
) -> NDArray[np.bool_]:
    sources = table["source"].array
    late = window.late(received)
    for i, name in enumerate(sources.categories):
        if name in cutoffs:
            rows = sources.codes == i
            late[rows] = Window(window.time, cutoffs[name]).late(received[rows])
    return late


def _ground(table: pd.DataFrame, codes: NDArray, grid: Grid, orography: NDArray) -> NDArray:
    """Return the height (n,) of the model's ground below screen-level values; NaN for others, which need none."""
    ground = np.full(len(table), np.nan)
    rows = np.nonzero(np.isin(codes, _SCREEN_LEVEL))[0]
    latitude, longitude = table["latitude"].to_numpy()[rows], table["longitude"].to_numpy()[rows]
    ground[rows] = interpolate_to_points(orography, grid, latitude, longitude)
    return ground


def _height_mismatch(table: pd.DataFrame, codes: NDArray, height: NDArray) -> NDArray[np.bool_]:
    """Return screen-level values from an unknown height or too far from the model's ground, and msl from too high."""
    reduced = (codes == VARIABLES.index("msl")) & (table["elevation"].to_numpy() > MSL_HEIGHT_LIMIT)
    return reduced | (np.isin(codes, _SCREEN_LEVEL) & ~(abs(height) <= HEIGHT_LIMIT))


def _of_plane(codes: NDArray, planes: Collection[str] = tuple(PLANE_VARIABLES)) -> NDArray[np.bool_]:
    """Return the rows (n,) of the planes' variables, which no channel holds."""
    return np.isin(codes, [VARIABLES.index(PLANE_VARIABLES[plane]) for plane in planes])


def _on_plane(table: pd.DataFrame, codes: NDArray, planes: Collection[str]) -> NDArray[np.bool_]:
    """Return the rows (n,) that an observation plane takes: precipitation over 6 h, OLR over any period, dewpoint."""
    return _of_plane(codes, planes) & ((codes != VARIABLES.index("tp")) | (table["period"].to_numpy() == 6))


def _denied(table: pd.DataFrame, codes: NDArray, deny: Collection[str]) -> NDArray[np.bool_]:
    denied = np.zeros(len(table), bool)
    for entry in deny:
        name, _, variable = entry.partition(":")
        of_source = (table["source"] == name).to_numpy()
        if variable:
            _check_names([variable], VARIABLES, "variable to deny")
            denied |= of_source & (codes == VARIABLES.index(variable))
        else:
            denied |= of_source | (table["variable"] == name).to_numpy()
    return denied


def _check_names(names: Collection[str], known: Collection[str], kind: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ObservationError(f"unknown {kind} {', '.join(unknown)}; known are {', '.join(known)}")
