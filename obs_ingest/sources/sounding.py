"""From the levels of a sounding to the 13 standard ones: checks of the levels, and interpolation in the vertical.

A standard level that is reported is taken as it is. Between reported levels temperature, dewpoint and the components of
the wind are linear in ln p: TEMP's significant levels are chosen for that (WMO Manual on Codes, FM 35). Geopotential is
not linear; it follows from the reported values below and above by hydrostatic integration of the temperatures between.
Nothing is extrapolated, and there are no values below the station.

Two checks reject levels (their z, t and q), with limits set on 420 genuine soundings. If temperature falls with height
faster than in dry adiabatic ascent, by more than `SUPERADIABATIC`, it is wrong at one of the two levels. And the
thickness between two standard levels, or the station and the first of them, must agree with the temperatures between.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import LEVELS
from dacycle.forecast_adapter.physics import (
    DRY_AIR_GAS_CONSTANT,
    GRAVITY,
    KAPPA,
    humidity_from_dewpoint,
    virtual_temperature,
    wind_components,
)
from dacycle.obs_ingest.errors.model import HUMIDITY_TOP

__all__ = [
    "GAP",
    "POSSIBLE",
    "REJECTED",
    "STANDARD",
    "SUPERADIABATIC",
    "THICKNESS_ERROR",
    "above_ground",
    "standard_levels",
]

STANDARD = np.array(LEVELS, float) * 100
"""(13,) Pa, from the top down."""

GAP = 0.25
"""The widest gap in ln p, about 150 hPa at 600 hPa, over which t, td, u and v are interpolated. Within it the error
(rms), measured at levels left out of genuine soundings, is half the observation error (0.8 of it for wind); over wider
gaps it is as large as the observation error or larger."""

POSSIBLE = (100.0, 335.0)
"""K; temperatures and dewpoints beyond do not occur, and thicknesses computed with them make no sense."""

SUPERADIABATIC = 2.0
"""K; three standard deviations of the difference of two sensor temperatures (`errors.model`: 0.4 to 0.5 K each)."""

THICKNESS_ERROR = (200.0, 2.0)
"""Tolerance of a reported thickness: m2/s2, and K of the layer's mean temperature. Heights from 500 hPa up are reported
in tens of metres, which alone causes up to 98 m2/s2; the first number is twice that."""

REJECTED = (
    "level without pressure",
    "level below the station",
    "impossible temperature",
    "superadiabatic level",
    "level out of hydrostatic balance",
    "geopotential above a hydrostatic break",
    "level that repeats a pressure",
)
"""Why levels are left out, as `standard_levels` counts them."""

_COARSE, _THICK = 0.5, np.log(2.01)
"""ln p; layers with a wider gap between temperatures, or thicker than from 100 to 50 hPa, are not integrated."""


@dataclass(frozen=True)
class _Profile:
    """Reported levels from the top down, none of them below the station (n of them); NaN where missing."""

    pressure: NDArray
    t: NDArray
    td: NDArray
    ground: float

    @cached_property
    def warm(self) -> NDArray[np.intp]:
        """Return the levels with a temperature, the first of several at one pressure."""
        return _distinct(self.pressure, self.t)

    @cached_property
    def log_pressure(self) -> NDArray:
        """Return ln p of the levels."""
        return np.log(self.pressure)

    def without(self, levels: NDArray[np.bool_]) -> "_Profile":
        """Return the profile without the temperatures of some levels, and without the dewpoints derived from them."""
        if not levels.any():
            return self
        return replace(self, t=np.where(levels, np.nan, self.t), td=np.where(levels, np.nan, self.td))


def standard_levels(
    sounding: Mapping[str, NDArray], elevation: float, rejected: Counter[str], tolerance: float = 1.0
) -> NDArray[np.float64]:
    """Return z, q, u, v, t of a sounding on the standard levels.

    Args:
        sounding: arrays over its levels, in any order: `pressure` (Pa), `z` (m2/s2), `t`, `td` (K), `direction`
            (degrees), `speed` (m/s), `surface` (whether it is the station's level); NaN where missing.
        elevation: of the station, m; NaN if unknown, and the first thickness is then not checked.
        rejected: counts the levels that are left out, by reason.
        tolerance: `SUPERADIABATIC` and `THICKNESS_ERROR` are multiplied by it.

    Returns:
        (5, 13) in SI units, NaN where the sounding gives no value; q up to 200 hPa only.
    """
    pressure = sounding["pressure"]
    ground = _ground(sounding)
    kept = (pressure > 0) & (pressure <= ground)
    rejected["level without pressure"] += int((~(pressure > 0)).sum())
    rejected["level below the station"] += int((pressure > ground).sum())
    if not kept.any():
        return np.full((5, len(STANDARD)), np.nan)
    order = np.nonzero(kept)[0][np.argsort(pressure[kept], kind="stable")]
    level = {name: values[order] for name, values in sounding.items()}
    pressure = level["pressure"]
    rejected["level that repeats a pressure"] += _contradictions(level)
    impossible = _outside(level["t"]) | _outside(level["td"])
    rejected["impossible temperature"] += int(impossible.sum())
    profile = _Profile(pressure, level["t"], level["td"], ground).without(impossible)
    unstable = _superadiabatic(profile, tolerance)
    rejected["superadiabatic level"] += int(unstable.sum())
    profile = profile.without(unstable)
    z, broken = _geopotential(profile, np.where(unstable, np.nan, level["z"]), elevation, rejected, tolerance)
    profile = profile.without(broken)

    t, td = _interpolate(pressure, profile.t[None])[0], _interpolate(pressure, profile.td[None])[0]
    u, v = _interpolate(pressure, np.stack(wind_components(level["direction"], level["speed"])))
    # A rejected level is not replaced by interpolation between its neighbours.
    lost = np.isin(STANDARD, pressure[impossible | unstable | broken])
    z[lost] = t[lost] = td[lost] = np.nan
    q = np.where(STANDARD >= HUMIDITY_TOP, humidity_from_dewpoint(td, STANDARD), np.nan)
    return np.stack([z, q, u, v, t])


def above_ground(sounding: Mapping[str, NDArray]) -> NDArray[np.bool_]:
    """Return which values (5, 13) a complete sounding has: standard levels above its station, q up to 200 hPa."""
    expected = np.repeat((_ground(sounding) >= STANDARD)[None], 5, axis=0)
    expected[1] &= STANDARD >= HUMIDITY_TOP
    return expected


def _ground(sounding: Mapping[str, NDArray]) -> float:
    """Return the pressure at the station: of the level marked so, else the highest with a measurement, else 0.

    Geopotential is also reported for standard levels below ground, by extrapolation; temperature and wind never are.
    """
    pressure = sounding["pressure"]
    for marked in (sounding["surface"], np.isfinite(sounding["t"]) | np.isfinite(sounding["speed"])):
        if np.isfinite(pressure[marked]).any():
            return float(np.fmax.reduce(pressure[marked]))
    return 0.0


def _contradictions(level: Mapping[str, NDArray]) -> int:
    """Return how many levels, in ascending order of pressure, have another value than the one before at its pressure.

    The first counts. Levels that complete one another, as mandatory and significant ones do, are none of these.
    """
    same = np.diff(level["pressure"]) == 0
    if not same.any():
        return 0
    names = ("z", "t", "td", "direction", "speed")
    other = [np.abs(np.diff(level[name])) > 0 for name in names]  # NaN where one of them is missing
    return int((same & np.any(other, axis=0)).sum())


def _outside(temperature: NDArray) -> NDArray[np.bool_]:
    return (temperature < POSSIBLE[0]) | (temperature > POSSIBLE[1])


def _superadiabatic(profile: _Profile, tolerance: float) -> NDArray[np.bool_]:
    """Return both levels (n,) of each layer that is too unstable, but at the ground, where a hot surface causes it."""
    rows = profile.warm
    pressure, t = profile.pressure[rows], profile.t[rows]
    # the lower level's air after dry ascent to the upper level
    lifted = t[1:] * (pressure[:-1] / pressure[1:]) ** KAPPA
    bad = (t[:-1] < lifted - tolerance * SUPERADIABATIC) & (pressure[1:] < profile.ground)
    unstable = np.zeros(len(profile.pressure), bool)
    unstable[rows[:-1][bad]] = unstable[rows[1:][bad]] = True
    return unstable


def _geopotential(
    profile: _Profile, z: NDArray, elevation: float, rejected: Counter[str], tolerance: float
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Return geopotential (13,) on the standard levels, and the levels (n,) that are out of hydrostatic balance.

    The station and the reported geopotentials of the standard levels form a chain of layers. A level is wrong, in
    geopotential or temperature, if all of its layers are off. A layer that is off between two levels that are not wrong
    breaks the chain: the temperatures at its ends are suspect, and so is every geopotential above it, because it is a
    sum from the ground up. (If the layer begins at the station, the station's height or pressure is wrong, not the
    temperatures.)
    """
    rows = _distinct(profile.pressure, np.where(_is_standard(profile.pressure), z, np.nan))
    at = np.append(profile.pressure[rows], profile.ground)
    chain = np.append(z[rows], GRAVITY * elevation)
    height = _hydrostatic_height(profile, np.concatenate([at, STANDARD]))
    excess = chain - height[: len(at)]
    depth = np.diff(np.log(at))
    integrated = (depth <= _THICK) & (_coarseness(profile, at) <= _COARSE)
    absolute, warmth = THICKNESS_ERROR
    off = integrated & (abs(np.diff(excess)) > tolerance * (absolute + warmth * DRY_AIR_GAS_CONSTANT * depth))

    wrong = np.append(True, off) & np.append(off, False)  # the last is the station, which has no other layer
    breaks = np.nonzero(off & ~wrong[:-1] & ~wrong[1:])[0]
    lost = wrong.copy()
    lost[: breaks.max(initial=-1) + 1] = True
    aloft = breaks[breaks < len(rows) - 1]
    suspect = np.unique(np.concatenate([np.nonzero(wrong)[0], aloft, aloft + 1]))
    broken = np.zeros(len(profile.pressure), bool)
    broken[rows[suspect]] = True
    rejected["level out of hydrostatic balance"] += len(suspect)
    rejected["geopotential above a hydrostatic break"] += int(lost.sum() - lost[suspect].sum())

    geopotential = np.full(len(STANDARD), np.nan)
    sound = ~lost[:-1]
    geopotential[np.searchsorted(STANDARD, at[:-1][sound])] = chain[:-1][sound]
    layer = np.searchsorted(at, STANDARD) - 1  # the layer that a standard level lies in
    whole = np.append(integrated & ~off & ~lost[:-1] & ~lost[1:], False)
    within = np.flatnonzero((layer >= 0) & whole[layer] & (at[np.minimum(layer + 1, len(rows))] > STANDARD))
    layer = layer[within]
    share = np.log(STANDARD[within] / at[layer]) / depth[layer]
    geopotential[within] = height[len(at) :][within] + excess[layer] + share * (excess[layer + 1] - excess[layer])
    return geopotential, broken


def _hydrostatic_height(profile: _Profile, at: NDArray) -> NDArray:
    """Return geopotential (m2/s2, from an arbitrary zero) at pressures by the trapezoidal rule.

    It is NaN beyond the levels with a temperature.

    Air of unknown humidity counts as dry, also above the highest dewpoint. The thickness is then wrong by less than
    1.5 %, and by far less in the cold, where soundings lack humidity.
    """
    rows = profile.warm
    if len(rows) < 2:
        return np.full(len(at), np.nan)
    x = profile.log_pressure
    wet = _distinct(profile.pressure, profile.td)
    q = np.zeros(len(rows))
    if len(wet):
        humidity = humidity_from_dewpoint(profile.td[wet], profile.pressure[wet])
        q = np.interp(x[rows], x[wet], humidity, left=0.0)
    virtual = virtual_temperature(profile.t[rows], q)
    wanted = np.log(at)
    grid = np.sort(np.concatenate([x[rows], wanted]))
    on_grid = np.interp(grid, x[rows], virtual)
    layers = np.diff(grid) * (on_grid[1:] + on_grid[:-1]) / 2
    height = -DRY_AIR_GAS_CONSTANT * np.concatenate([[0.0], np.cumsum(layers)])
    inside = (at >= profile.pressure[rows[0]]) & (at <= profile.pressure[rows[-1]])
    return np.where(inside, height[np.searchsorted(grid, wanted)], np.nan)


def _coarseness(profile: _Profile, at: NDArray) -> NDArray:
    """Return the widest gap (ln p) between temperatures in each layer between the pressures `at`."""
    x = profile.log_pressure[profile.warm]
    edges = np.log(at)
    in_layer = (x[None, :-1] < edges[1:, None]) & (x[None, 1:] > edges[:-1, None])
    return np.max(np.where(in_layer, np.diff(x), 0.0), axis=1, initial=0.0)


def _interpolate(pressure: NDArray, values: NDArray) -> NDArray:
    """Return values (k, 13) on the standard levels: as reported, or linear in ln p over at most `GAP`.

    Args:
        pressure: (n,) of the levels.
        values: (k, n) of fields that are missing at the same levels.
    """
    rows = _distinct(pressure, values[0])
    if not len(rows):
        return np.full((len(values), len(STANDARD)), np.nan)
    pressure, values = pressure[rows], values[:, rows]
    lower = np.minimum(np.searchsorted(pressure, STANDARD), len(rows) - 1)
    upper = np.maximum(lower - 1, 0)
    below, above = pressure[lower], pressure[upper]
    gap = np.log(below / above)
    between = (above < STANDARD) & (below > STANDARD) & (gap <= GAP)
    weight = np.log(STANDARD / above) / np.where(between, gap, 1.0)
    inside = np.where(between, values[:, upper] + weight * (values[:, lower] - values[:, upper]), np.nan)
    return np.where(below == STANDARD, values[:, lower], inside)


def _is_standard(pressure: NDArray) -> NDArray[np.bool_]:
    """Return whether pressures are those of standard levels."""
    return STANDARD[np.minimum(np.searchsorted(STANDARD, pressure), len(STANDARD) - 1)] == pressure


def _distinct(pressure: NDArray, values: NDArray) -> NDArray[np.intp]:
    """Return the levels that have a value, the first of several at one pressure; pressures are in ascending order."""
    rows = np.flatnonzero(np.isfinite(values))
    rises = np.ones(len(rows), bool)
    rises[1:] = pressure[rows[1:]] > pressure[rows[:-1]]
    return rows[rises]
