"""Quality control: which values a cycle assimilates, and why not the others. No row ever disappears.

The checks run in this order, and the first that objects gives the reason: missing value, unit, gross limits, position,
window, cutoff, duplicates, station height, background check, no operator, withheld site, denied. A late value is set
aside before duplicates are sought, so that it cannot displace one that had arrived; a site is withheld before anything
is denied, so that experiments which deny an observation type are compared against the same withheld values.
"""

import hashlib
from collections.abc import Collection, Mapping
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dacycle.forecast_adapter.channels import LEVELS, NAMES, index
from dacycle.forecast_adapter.grid import EARTH_RADIUS_KM, Grid, interpolate_to_points
from dacycle.obs_ingest.operators import MSL_HEIGHT_LIMIT, station_pressure_ratio
from dacycle.obs_ingest.table import LEVEL_VARIABLES, OTHER_UNITS, REASONS, USES, VARIABLES, ObservationError
from dacycle.obs_ingest.window import HALF_WIDTH, Window

__all__ = [
    "BACKGROUND_ERROR",
    "GROSS_LIMITS",
    "HEIGHT_LIMIT",
    "PLANE_VARIABLES",
    "SALT",
    "WITHHELD",
    "WITHHELD_KM",
    "check",
    "judge",
    "withhold",
]

GROSS_LIMITS: dict[str, tuple[float, float]] = {
    "t2m": (180.0, 335.0),
    "td2m": (170.0, 310.0),
    "msl": (86000.0, 109000.0),
    "ps": (45000.0, 109000.0),
    "u10": (-75.0, 75.0),
    "v10": (-75.0, 75.0),
    "tp": (0.0, 1000.0),
    "olr": (50.0, 400.0),
    "z": (-8000.0, 240000.0),
    "q": (0.0, 0.05),
    "u": (-150.0, 150.0),
    "v": (-150.0, 150.0),
    "t": (150.0, 335.0),
}
"""What each variable has never exceeded on Earth, or hardly, in SI units."""

PLANE_VARIABLES: dict[str, str] = {"tp6h": "tp", "olr": "olr", "q2m": "td2m"}
"""Observation planes beside the channels, and the variable that fills each."""

HEIGHT_LIMIT = 500.0
"""Metres between station and model orography beyond which 2-metre temperature and dewpoint are not comparable."""

BACKGROUND_ERROR = 0.3
"""What the background check assumes unless told otherwise, in the world's standard deviations of each channel."""
WITHHELD = 0.1
"""Share of the sites that are withheld unless told otherwise."""
WITHHELD_KM = 10.0
SALT = "dacycle withheld sites 1"

_KEPT, _WITHHELD, _REJECTED, _LATE = range(len(USES))
_LOG_LEVELS = np.log(np.array(LEVELS, float) * 100)
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
    learned_error: NDArray | None = None,
    k: float = 4.0,
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
        learned_error: (n,) standard deviation of the error of H(x_b) where a learned operator gave it, else NaN; see
            `learned.LearnedOperator.background_error`.
        k: the background check rejects |O-B| > k sqrt(error^2 + background_error^2).

    Returns:
        A new table. The error of a value d hours from t is multiplied by sqrt(1 + (d / 3)^2): what it says about t is
        blurred by the weather's own change.

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
        k=k,
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
    k: float = 4.0,
) -> pd.DataFrame:
    """`check` for backgrounds of any form: what it takes from channels and a grid is given for each of the n rows.

    Args:
        table, window, equivalents, cutoffs, deny, share, salt, planes, k: as in `check`.
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
    verdicts.mark(_other_unit(codes, value), "unit")
    verdicts.mark(_beyond_limits(codes, value), "gross_limits")
    verdicts.mark(_at_origin(table), "not_listed")
    verdicts.mark(~window.holds(time), "outside_window")
    verdicts.mark(_late(table, window, received, cutoffs or {}), "after_cutoff", _LATE)
    verdicts.mark(_duplicates(table, distance, verdicts.open), "duplicate")
    verdicts.mark(_height_mismatch(table, codes, ground), "station_height")
    with np.errstate(invalid="ignore"):
        verdicts.mark(abs(value - equivalents) > k * np.sqrt(error**2 + background_error**2), "background_check")
    on_channel = ~(np.isnan(equivalents) | _of_plane(codes))
    verdicts.mark(~on_channel & ~_on_plane(table, codes, planes), "no_operator")
    verdicts.mark(withhold(table, share, salt), "withheld_site", _WITHHELD)
    verdicts.mark(_denied(table, codes, deny), "denied")
    return table.assign(
        error=error,
        use=pd.Categorical.from_codes(verdicts.use, USES),
        reason=pd.Categorical.from_codes(verdicts.reason, REASONS),
    )


def withhold(table: pd.DataFrame, share: float = WITHHELD, salt: str = SALT) -> NDArray[np.bool_]:
    """(n,) rows that no experiment assimilates, so that each cycle is checked against data it has not seen.

    A position is chosen by the SHA-256 of the salt and the position rounded to 0.1 degree; with it goes every row
    within 10 km, whatever its source.

    Args:
        table: needs latitude and longitude only.
        share: of the positions, in [0, 1).
        salt: another salt chooses other sites; dacycle's experiments all use the same.
    """
    if not 0 <= share < 1:
        raise ObservationError(f"the withheld share is {share!r}, not in [0, 1)")
    if share == 0 or not len(table):
        return np.zeros(len(table), bool)
    latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
    positions, back = np.unique(latitude + 1j * (longitude % 360), return_inverse=True)
    rows = np.rint(positions.real * 10).astype(int).tolist()
    columns = (np.rint(positions.imag * 10).astype(int) % 3600).tolist()
    chosen = np.array([_uniform(salt, i, j) < share for i, j in zip(rows, columns, strict=True)])
    if not chosen.any():
        return np.zeros(len(table), bool)
    points = _unit_vectors(positions.real, positions.imag)
    chord = 2 * np.sin(WITHHELD_KM / EARTH_RADIUS_KM / 2)
    reach, _ = cKDTree(points[chosen]).query(points, distance_upper_bound=chord)
    return (np.isfinite(reach) | chosen)[back]


@lru_cache(maxsize=1 << 18)
def _uniform(salt: str, row: int, column: int) -> float:
    """A number in [0, 1) that depends on the salt and the position in tenths of a degree alone."""
    digest = hashlib.sha256(f"{salt}|{row}|{column}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _unit_vectors(latitude: NDArray, longitude: NDArray) -> NDArray:
    lat, lon = np.deg2rad(latitude), np.deg2rad(longitude)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def _other_unit(codes: NDArray, value: NDArray) -> NDArray[np.bool_]:
    """Values that lie where the usual wrong unit would put them."""
    low, high = (np.full(len(VARIABLES), limit) for limit in (np.inf, -np.inf))
    for name, (below, above, _) in OTHER_UNITS.items():
        low[VARIABLES.index(name)], high[VARIABLES.index(name)] = below, above
    return (value > low[codes]) & (value < high[codes])


def _beyond_limits(codes: NDArray, value: NDArray) -> NDArray[np.bool_]:
    low, high = np.array([GROSS_LIMITS[name] for name in VARIABLES]).T
    return (value < low[codes]) | (value > high[codes])


def _at_origin(table: pd.DataFrame) -> NDArray[np.bool_]:
    """0 N 0 E is in the sea: what a record says whose position nobody filled in."""
    return (abs(table["latitude"].to_numpy()) < 0.01) & (abs(table["longitude"].to_numpy()) < 0.01)


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
    """(n,) the model's ground below screen-level values; NaN for the others, whose height is not judged by it."""
    out = np.full(len(table), np.nan)
    rows = np.nonzero(np.isin(codes, _SCREEN_LEVEL))[0]
    latitude, longitude = table["latitude"].to_numpy()[rows], table["longitude"].to_numpy()[rows]
    out[rows] = interpolate_to_points(orography, grid, latitude, longitude)
    return out


def _height_mismatch(table: pd.DataFrame, codes: NDArray, ground: NDArray) -> NDArray[np.bool_]:
    """Screen-level values from an unknown height or too far from the model's ground; msl reduced from too high up."""
    elevation = table["elevation"].to_numpy()
    out = (codes == VARIABLES.index("msl")) & (elevation > MSL_HEIGHT_LIMIT)
    return out | (np.isin(codes, _SCREEN_LEVEL) & ~(abs(elevation - ground) <= HEIGHT_LIMIT))


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
        out[rows] = np.interp(log_pressure[rows], _LOG_LEVELS, background_error[first : first + len(LEVELS)])
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
