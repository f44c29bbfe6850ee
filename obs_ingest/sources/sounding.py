"""From the levels of a sounding to the 13 standard ones: checks of the levels, and interpolation in the vertical.

A standard level that is reported is taken as it is. Between reported levels temperature, dewpoint and the components of
the wind are linear in ln p: TEMP's significant levels are chosen so that this comes near (WMO Manual on Codes, FM 35).
Geopotential is far from linear; it follows from the reported one below and above by hydrostatic integration of the
temperatures between. Nothing is extrapolated, and nothing is given below the station.

Two checks reject levels (their z, t and q), with limits set on 420 genuine soundings. Temperature that falls with
height faster than dry air can, by more than `SUPERADIABATIC`, is wrong at one of the two levels. And the thickness
between two standard levels, or the station and the first of them, must be what the temperatures between make it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import cumulative_trapezoid

from dacycle.forecast_adapter.channels import LEVELS
from dacycle.forecast_adapter.physics import (
    DRY_AIR_GAS_CONSTANT,
    GRAVITY,
    KAPPA,
    humidity_from_dewpoint,
    virtual_temperature,
    wind_components,
)
from dacycle.obs_ingest.simulation.stations import HUMIDITY_TOP

__all__ = ["GAP", "POSSIBLE", "STANDARD", "SUPERADIABATIC", "THICKNESS_ERROR", "above_ground", "standard_levels"]

STANDARD = np.array(LEVELS, float) * 100
"""(13,) Pa, from the top down."""

GAP = 0.25
"""Difference of ln p, about 150 hPa at 600 hPa, over which t, td, u and v are interpolated. Up to it the error, as
measured at levels left out of genuine soundings, is half the observation error (0.8 of it for wind, rms); over wider
gaps it is as large as the observation error or larger."""

POSSIBLE = (100.0, 335.0)
"""K; temperatures and dewpoints beyond are nobody's, and thicknesses made with them nonsense."""

SUPERADIABATIC = 2.0
"""K; three standard deviations of the difference of two sensor temperatures (`errors.py`: 0.4 to 0.5 K each)."""

THICKNESS_ERROR = (200.0, 2.0)
"""m2/s2 and K of the layer's mean temperature: what a reported thickness may be off. Heights from 500 hPa up are
reported in tens of metres, which alone makes up to 98 m2/s2: the first is twice that."""

_COARSE, _THICK = 0.5, np.log(2.01)
"""ln p: not integrated are layers whose temperatures are further apart, or that are thicker than 100 to 50 hPa."""


@dataclass(frozen=True)
class _Profile:
    """Reported levels from the top down, none of them below the station (n of them); NaN where missing."""

    pressure: NDArray
    t: NDArray
    td: NDArray
    ground: float

    def without(self, levels: NDArray[np.bool_]) -> "_Profile":
        """The profile without the temperatures of some levels; nor dewpoints, which TEMP derives from them."""
        return replace(self, t=np.where(levels, np.nan, self.t), td=np.where(levels, np.nan, self.td))


def standard_levels(
    sounding: Mapping[str, NDArray], elevation: float, rejected: Counter[str], tolerance: float = 1.0
) -> NDArray[np.float64]:
    """z, q, u, v, t of a sounding on the standard levels.

    Args:
        sounding: arrays over its levels, in any order: `pressure` (Pa), `z` (m2/s2), `t`, `td` (K), `direction`
            (degrees), `speed` (m/s), `surface` (whether it is the station's level); NaN where missing.
        elevation: of the station, m; NaN if unknown, and the first thickness is then not checked.
        rejected: counts the levels that are left out, by reason.
        tolerance: `SUPERADIABATIC` and `THICKNESS_ERROR` are multiplied by it.

    Returns:
        (5, 13) in SI units, NaN where the sounding does not say; q up to 200 hPa only.
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
    impossible = _outside(level["t"]) | _outside(level["td"])
    rejected["impossible temperature"] += int(impossible.sum())
    profile = _Profile(pressure, level["t"], level["td"], ground).without(impossible)
    unstable = _superadiabatic(profile, tolerance)
    rejected["superadiabatic level"] += int(unstable.sum())
    profile = profile.without(unstable)
    z, broken = _geopotential(profile, np.where(unstable, np.nan, level["z"]), elevation, rejected, tolerance)
    profile = profile.without(broken)

    u, v = wind_components(level["direction"], level["speed"])
    t, td, u, v = (_interpolate(pressure, field) for field in (profile.t, profile.td, u, v))
    # What was rejected is not made up for by its neighbours.
    lost = np.isin(STANDARD, pressure[impossible | unstable | broken])
    z[lost] = t[lost] = td[lost] = np.nan
    q = np.where(STANDARD >= HUMIDITY_TOP, humidity_from_dewpoint(td, STANDARD), np.nan)
    return np.stack([z, q, u, v, t])


def above_ground(sounding: Mapping[str, NDArray]) -> NDArray[np.bool_]:
    """(5, 13) the values that a complete sounding has: standard levels above its station, q up to 200 hPa."""
    expected = np.repeat((_ground(sounding) >= STANDARD)[None], 5, axis=0)
    expected[1] &= STANDARD >= HUMIDITY_TOP
    return expected


def _ground(sounding: Mapping[str, NDArray]) -> float:
    """Pressure at the station: of the level marked so, else the highest with a measurement; 0 if there is none.

    Geopotential is also reported, by extrapolation, for standard levels below ground; temperature and wind never are.
    """
    pressure = sounding["pressure"]
    for marked in (sounding["surface"], np.isfinite(sounding["t"]) | np.isfinite(sounding["speed"])):
        if np.isfinite(pressure[marked]).any():
            return float(np.nanmax(pressure[marked]))
    return 0.0


def _outside(temperature: NDArray) -> NDArray[np.bool_]:
    return (temperature < POSSIBLE[0]) | (temperature > POSSIBLE[1])


def _superadiabatic(profile: _Profile, tolerance: float) -> NDArray[np.bool_]:
    """(n,) both levels of every layer that is too unstable to be true; at the ground, a hot surface makes it true."""
    rows = _distinct(profile.pressure, profile.t)
    pressure, t = profile.pressure[rows], profile.t[rows]
    lifted = t[1:] * (pressure[:-1] / pressure[1:]) ** KAPPA  # the lower level's air, taken up dry to the upper level
    bad = (t[:-1] < lifted - tolerance * SUPERADIABATIC) & (pressure[1:] < profile.ground)
    out = np.zeros(len(profile.pressure), bool)
    out[rows[:-1][bad]] = out[rows[1:][bad]] = True
    return out


def _geopotential(
    profile: _Profile, z: NDArray, elevation: float, rejected: Counter[str], tolerance: float
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Geopotential (13,) on the standard levels, and the levels (n,) that are out of hydrostatic balance.

    The reported geopotentials of the standard levels, on top of the station's own, are a chain of layers. A level all
    of whose layers are off is itself wrong, in geopotential or temperature. A layer whose ends are both sound otherwise
    breaks the chain: the temperatures at its ends are suspect, and every geopotential above it, which is a sum from the
    ground up. (If it stands on the station, height or pressure of the station are wrong, not the temperatures.)
    """
    rows = _distinct(profile.pressure, np.where(np.isin(profile.pressure, STANDARD), z, np.nan))
    at = np.append(profile.pressure[rows], profile.ground)
    chain = np.append(z[rows], GRAVITY * elevation)
    height = _hydrostatic_height(profile, np.concatenate([at, STANDARD]))
    excess = chain - height[: len(at)]
    depth = np.diff(np.log(at))
    known = (depth <= _THICK) & (_coarseness(profile, at) <= _COARSE)
    absolute, warmth = THICKNESS_ERROR
    off = known & (abs(np.diff(excess)) > tolerance * (absolute + warmth * DRY_AIR_GAS_CONSTANT * depth))

    wrong = np.append(True, off) & np.append(off, False)  # the last is the station, of which nothing else is known
    breaks = np.nonzero(off & ~wrong[:-1] & ~wrong[1:])[0]
    lost = wrong.copy()
    lost[: breaks.max(initial=-1) + 1] = True
    aloft = breaks[breaks < len(rows) - 1]
    suspect = np.unique(np.concatenate([np.nonzero(wrong)[0], aloft, aloft + 1]))
    broken = np.zeros(len(profile.pressure), bool)
    broken[rows[suspect]] = True
    rejected["level out of hydrostatic balance"] += len(suspect)
    rejected["geopotential above a hydrostatic break"] += int(lost.sum() - lost[suspect].sum())

    out = np.full(len(STANDARD), np.nan)
    taken = ~lost[:-1]
    out[np.isin(STANDARD, at[:-1][taken])] = chain[:-1][taken]
    for layer in np.nonzero(known & ~off & ~lost[:-1] & ~lost[1:])[0]:
        within = (at[layer] < STANDARD) & (at[layer + 1] > STANDARD)
        part = np.log(STANDARD[within] / at[layer]) / depth[layer]
        out[within] = height[len(at) :][within] + excess[layer] + part * (excess[layer + 1] - excess[layer])
    return out, broken


def _hydrostatic_height(profile: _Profile, at: NDArray) -> NDArray:
    """Geopotential (m2/s2, from an arbitrary zero) at pressures, by the trapezoidal rule; NaN beyond the temperatures.

    Air whose humidity is unknown counts as dry, above the highest dewpoint as well: its thickness is then wrong by less
    than 1.5 %, and by far less where soundings lack humidity, in the cold.
    """
    rows = _distinct(profile.pressure, profile.t)
    if len(rows) < 2:
        return np.full(len(at), np.nan)
    x = np.log(profile.pressure)
    wet = _distinct(profile.pressure, profile.td)
    q = np.zeros(len(rows))
    if len(wet):
        humidity = humidity_from_dewpoint(profile.td[wet], profile.pressure[wet])
        q = np.interp(x[rows], x[wet], humidity, left=0.0)
    virtual = virtual_temperature(profile.t[rows], q)
    grid = np.union1d(x[rows], np.log(at))
    height = -DRY_AIR_GAS_CONSTANT * cumulative_trapezoid(np.interp(grid, x[rows], virtual), grid, initial=0)
    inside = (at >= profile.pressure[rows[0]]) & (at <= profile.pressure[rows[-1]])
    return np.where(inside, height[np.searchsorted(grid, np.log(at))], np.nan)


def _coarseness(profile: _Profile, at: NDArray) -> NDArray:
    """The widest gap (ln p) between temperatures in each layer between the pressures `at`."""
    x = np.log(profile.pressure[_distinct(profile.pressure, profile.t)])
    edges = np.log(at)
    in_layer = (x[None, :-1] < edges[1:, None]) & (x[None, 1:] > edges[:-1, None])
    return np.max(np.where(in_layer, np.diff(x), 0.0), axis=1, initial=0.0)


def _interpolate(pressure: NDArray, values: NDArray) -> NDArray:
    """(13,) values on the standard levels: as reported, or linear in ln p over at most `GAP`."""
    rows = _distinct(pressure, values)
    if not len(rows):
        return np.full(len(STANDARD), np.nan)
    pressure, values = pressure[rows], values[rows]
    lower = np.minimum(np.searchsorted(pressure, STANDARD), len(rows) - 1)
    upper = np.maximum(lower - 1, 0)
    exact = pressure[lower] == STANDARD
    gap = np.log(pressure[lower] / pressure[upper])
    between = (pressure[upper] < STANDARD) & (pressure[lower] > STANDARD) & (gap <= GAP)
    weight = np.log(STANDARD / pressure[upper]) / np.where(between, gap, 1.0)
    inside = np.where(between, values[upper] + weight * (values[lower] - values[upper]), np.nan)
    return np.where(exact, values[lower], inside)


def _distinct(pressure: NDArray, values: NDArray) -> NDArray[np.intp]:
    """The levels that have a value, of several at one pressure the first; pressures are in ascending order."""
    rows = np.nonzero(np.isfinite(values))[0]
    return rows[np.diff(pressure[rows], prepend=-1.0) > 0]
