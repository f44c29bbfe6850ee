"""Quality control: which values a cycle assimilates, and why not the others. No row ever disappears.

The checks run in this order, and the first that objects gives the reason: missing value, unit, gross limits, position,
station lists, window, cutoff, duplicates, station height, background check, no operator, buddy check, spatial
consistency, withheld site, denied. A late value is set aside before duplicates are sought, so that it cannot displace
one that had arrived; a site is withheld before anything is denied, so that experiments which deny an observation type
are compared against the same withheld values.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import LEVELS, LOG_LEVELS, NAMES, index
from dacycle.forecast_adapter.grid import Grid, interpolate_to_points
from dacycle.forecast_adapter.physics import station_pressure_ratio
from dacycle.obs_ingest.operators.columns import MSL_HEIGHT_LIMIT
from dacycle.obs_ingest.quality.limits import beyond_limits, other_unit
from dacycle.obs_ingest.quality.spatial import buddy_check, spatial_consistency
from dacycle.obs_ingest.quality.station_lists import StationList, has_station
from dacycle.obs_ingest.quality.withheld import SALT, WITHHELD, withhold
from dacycle.obs_ingest.table import LEVEL_VARIABLES, REASONS, USES, VARIABLES, ObservationError
from dacycle.obs_ingest.window import HALF_WIDTH, Window

__all__ = [
    "BACKGROUND_ERROR",
    "HEIGHT_LIMIT",
    "PLANE_VARIABLES",
    "SALT",
    "USUAL_CHECKS",
    "WITHHELD",
    "Checks",
    "check",
    "judge",
    "withhold",
]

PLANE_VARIABLES: dict[str, str] = {"tp6h": "tp", "olr": "olr", "q2m": "td2m"}
"""Observation planes beside the channels, and the variable that fills each."""

HEIGHT_LIMIT = 500.0
"""Metres between station and model orography beyond which 2-metre temperature and dewpoint are not comparable."""

BACKGROUND_ERROR = 0.3
"""What the background check assumes unless told otherwise, in the world's standard deviations of each channel."""


@dataclass(frozen=True)
class Checks:
    """How strict quality control is, and what it is told of stations.

    Attributes:
        background_check: rejects |O-B| > this x sqrt(error^2 + background_error^2).
        buddy_check: the threshold of `spatial.buddy_check`; None: not made.
        spatial_consistency: the threshold of `spatial.spatial_consistency`; None: not made.
        blacklist: what it names is rejected; None: nothing.
        whitelist: stations' values that it does not name are rejected; None: nothing.
    """

    background_check: float = 4.0
    buddy_check: float | None = None
    spatial_consistency: float | None = None
    blacklist: StationList | None = None
    whitelist: StationList | None = None

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the station lists that there are."""
        lists = {"blacklist": self.blacklist, "whitelist": self.whitelist}
        return {name: found.digest for name, found in lists.items() if found is not None}


USUAL_CHECKS = Checks()
"""What is made unless told otherwise."""

_KEPT, _WITHHELD, _REJECTED, _LATE = range(len(USES))
_SCREEN_LEVEL = [VARIABLES.index(name) for name in ("t2m", "td2m")]


class _Verdicts:
    """Use and reason of every row; only rows still open (kept) can be marked, so that the first objection stands."""

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


def check(
    table: pd.DataFrame,
    window: Window,
    equivalents: NDArray,
    background_error: NDArray,
    grid: Grid,
    orography: NDArray,
    *,
    cutoffs: Mapping[str, pd.Timedelta | None] | None = None,
    deny: Collection[str] = (),
    share: float = WITHHELD,
    salt: str = SALT,
    planes: Collection[str] = tuple(PLANE_VARIABLES),
    checks: Checks = USUAL_CHECKS,
    learned_error: NDArray | None = None,
) -> pd.DataFrame:
    """The table with `use` and `reason` decided, and `error` grown with the distance from the analysis time.

    Args:
        table: a checked table of n rows, from any number of sources.
        window: of the cycle.
        equivalents: (n,) H(x_b), NaN where there is no operator.
        background_error: (69,) standard deviation of the background's error per channel, SI.
        grid, orography: the background's grid and its orography (H, W) in m.
        cutoffs: cutoff per source; a source not named has the window's.
        deny: what not to assimilate: sources or variables by name (`olr`, `td2m`), or one variable of a source
            (`stations:tp`).
        share, salt: of `withhold`.
        planes: observation planes that the assimilator takes; variables of the others are rejected as `no_operator`.
        checks: how strict.
        learned_error: (n,) standard deviation of the error of H(x_b) where a learned operator gave it, else NaN; see
            `learned.LearnedOperator.background_error`.

    Returns:
        A new table, with `height_difference` (see `table.DEPARTURE_COLUMNS`). The error of a value d hours from t is
        multiplied by sqrt(1 + (d / 3)^2): what it says about t is blurred by the weather's own change.

    Raises:
        ObservationError: `deny` or `planes` name what cannot exist, or `equivalents` do not fit the table.
    """
    codes = table["variable"].array.codes
    errors = _background_error(table, codes, background_error)
    if learned_error is not None:
        errors = np.where(np.isnan(learned_error), errors, learned_error)
    return judge(
        table,
        window,
        equivalents,
        errors,
        _ground(table, codes, grid, orography),
        cutoffs=cutoffs,
        deny=deny,
        share=share,
        salt=salt,
        planes=planes,
        checks=checks,
    )


def judge(
    table: pd.DataFrame,
    window: Window,
    equivalents: NDArray,
    background_error: NDArray,
    ground: NDArray,
    *,
    cutoffs: Mapping[str, pd.Timedelta | None] | None = None,
    deny: Collection[str] = (),
    share: float = WITHHELD,
    salt: str = SALT,
    planes: Collection[str] = (),
    checks: Checks = USUAL_CHECKS,
) -> pd.DataFrame:
    """`check` for backgrounds of any form: what it takes from channels and a grid is given for each of the n rows.

    Args:
        table, window, equivalents, cutoffs, deny, share, salt, planes, checks: as in `check`.
        background_error: (n,) standard deviation of the background's error, SI; NaN lets every departure pass.
        ground: (n,) height of the background's ground at each row in m; t2m and td2m are rejected where it is NaN.
    """
    if len(equivalents) != len(table):
        raise ObservationError(f"{len(equivalents)} background equivalents for {len(table)} observations")
    _check_names(planes, PLANE_VARIABLES, "observation plane")
    codes, value = table["variable"].array.codes, table["value"].to_numpy()
    time, received = table["time"].to_numpy(), table["received"].to_numpy()
    distance = abs(time - window.time.astype("datetime64[s]"))
    error = table["error"].to_numpy() * np.sqrt(1 + (distance / HALF_WIDTH) ** 2)

    verdicts = _Verdicts(len(table))
    verdicts.mark(np.isnan(value), "missing_value")
    verdicts.mark(other_unit(codes, value), "unit")
    verdicts.mark(beyond_limits(codes, value), "gross_limits")
    verdicts.mark(_at_origin(table), "position")
    if checks.blacklist is not None:
        verdicts.mark(checks.blacklist.names(table), "blacklisted")
    if checks.whitelist is not None:
        verdicts.mark(has_station(table) & ~checks.whitelist.names(table), "not_listed")
    verdicts.mark(~window.holds(time), "outside_window")
    verdicts.mark(_late(table, window, received, cutoffs or {}), "after_cutoff", _LATE)
    verdicts.mark(_duplicates(table, distance, verdicts.open), "duplicate")
    height = np.where(np.isin(codes, _SCREEN_LEVEL), table["elevation"].to_numpy() - ground, np.nan)
    verdicts.mark(_height_mismatch(table, codes, height), "station_height")
    departure = value - equivalents
    with np.errstate(invalid="ignore"):
        limit = checks.background_check * np.sqrt(error**2 + background_error**2)
        verdicts.mark(abs(departure) > limit, "background_check")
    on_channel = ~(np.isnan(equivalents) | _of_plane(codes))
    verdicts.mark(~on_channel & ~_on_plane(table, codes, planes), "no_operator")
    withheld, denied = withhold(table, share, salt), _denied(table, codes, deny)
    for name, test, threshold in (
        ("buddy_check", buddy_check, checks.buddy_check),
        ("spatial_consistency", spatial_consistency, checks.spatial_consistency),
    ):
        if threshold is not None:
            buddies = verdicts.open & ~withheld & ~denied
            verdicts.mark(test(table, departure / error, verdicts.open, buddies, threshold), name)
    verdicts.mark(withheld, "withheld_site", _WITHHELD)
    verdicts.mark(denied, "denied")
    return table.assign(
        error=error,
        height_difference=height,
        use=pd.Categorical.from_codes(verdicts.use, dtype=table["use"].dtype),
        reason=pd.Categorical.from_codes(verdicts.reason, dtype=table["reason"].dtype),
    )


def _at_origin(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Stations at 0 N 0 E, in the sea: nobody filled in their positions. Rasters do have a point there."""
    out = (abs(table["latitude"].to_numpy()) < 0.01) & (abs(table["longitude"].to_numpy()) < 0.01)
    if out.any():
        out &= has_station(table)
    return out


def _late(
    table: pd.DataFrame, window: Window, received: NDArray, cutoffs: Mapping[str, pd.Timedelta | None]
) -> NDArray[np.bool_]:
    sources = table["source"].array
    late = window.late(received)
    for i, name in enumerate(sources.categories):
        if name in cutoffs:
            mine = sources.codes == i
            late[mine] = Window(window.time, cutoffs[name]).late(received[mine])
    return late


def _duplicates(table: pd.DataFrame, distance: NDArray, candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Per site, variable, pressure and period, all but the report nearest to t; of equals, the first row stays."""
    rows = np.nonzero(candidates)[0]
    pressure = np.nan_to_num(table["pressure"].to_numpy()[rows])
    site, variable = table["site"].array.codes[rows], table["variable"].array.codes[rows]
    period = table["period"].to_numpy()[rows]
    thing = site.astype(np.int64) * len(VARIABLES) + variable
    order = np.lexsort((distance[rows], period, pressure, thing))
    same = np.zeros(len(rows), bool)
    same[1:] = (np.diff(thing[order]) == 0) & (np.diff(pressure[order]) == 0) & (np.diff(period[order]) == 0)
    out = np.zeros(len(table), bool)
    out[rows[order[same]]] = True
    return out


def _ground(table: pd.DataFrame, codes: NDArray, grid: Grid, orography: NDArray) -> NDArray:
    """(n,) the model's ground below screen-level values; NaN for the others, which need none."""
    out = np.full(len(table), np.nan)
    rows = np.nonzero(np.isin(codes, _SCREEN_LEVEL))[0]
    latitude, longitude = table["latitude"].to_numpy()[rows], table["longitude"].to_numpy()[rows]
    out[rows] = interpolate_to_points(orography, grid, latitude, longitude)
    return out


def _height_mismatch(table: pd.DataFrame, codes: NDArray, height: NDArray) -> NDArray[np.bool_]:
    """Screen-level values from an unknown height or too far from the model's ground; msl reduced from too high up."""
    out = (codes == VARIABLES.index("msl")) & (table["elevation"].to_numpy() > MSL_HEIGHT_LIMIT)
    return out | (np.isin(codes, _SCREEN_LEVEL) & ~(abs(height) <= HEIGHT_LIMIT))


def _background_error(table: pd.DataFrame, codes: NDArray, background_error: NDArray) -> NDArray:
    """(n,) the background's standard deviation for each row, linear in log p aloft; NaN without a channel."""
    out = np.full(len(table), np.nan)
    for name in ("t2m", "msl", "u10", "v10"):
        out[codes == VARIABLES.index(name)] = background_error[index(name)]
    station = codes == VARIABLES.index("ps")
    ratio = station_pressure_ratio(np.maximum(table["elevation"].to_numpy()[station], 0))
    out[station] = background_error[index("msl")] * ratio
    log_pressure = np.log(table["pressure"].to_numpy())
    for name in LEVEL_VARIABLES:
        rows = codes == VARIABLES.index(name)
        first = NAMES.index(f"{name}{LEVELS[0]}")
        out[rows] = np.interp(log_pressure[rows], LOG_LEVELS, background_error[first : first + len(LEVELS)])
    return out


def _of_plane(codes: NDArray, planes: Collection[str] = tuple(PLANE_VARIABLES)) -> NDArray[np.bool_]:
    """Rows of variables that no channel holds, whatever they are compared with."""
    return np.isin(codes, [VARIABLES.index(PLANE_VARIABLES[plane]) for plane in planes])


def _on_plane(table: pd.DataFrame, codes: NDArray, planes: Collection[str]) -> NDArray[np.bool_]:
    """Rows that an observation plane takes as they are: precipitation over 6 h, OLR over any period, dewpoint."""
    return _of_plane(codes, planes) & ((codes != VARIABLES.index("tp")) | (table["period"].to_numpy() == 6))


def _denied(table: pd.DataFrame, codes: NDArray, deny: Collection[str]) -> NDArray[np.bool_]:
    out = np.zeros(len(table), bool)
    for entry in deny:
        name, _, variable = entry.partition(":")
        mine = (table["source"] == name).to_numpy()
        if variable:
            _check_names([variable], VARIABLES, "variable to deny")
            out |= mine & (codes == VARIABLES.index(variable))
        else:
            out |= mine | (table["variable"] == name).to_numpy()
    return out


def _check_names(names: Collection[str], known: Collection[str], what: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ObservationError(f"unknown {what} {', '.join(unknown)}; known are {', '.join(known)}")
