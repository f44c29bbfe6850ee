"""The daily cycle of increments: harmonics of 24 and 12 h in local solar time, by season, over land and sea.

A model that damps the daily cycle gets it back from the observations: the increments then have a daily cycle of their
own, in phase with that of the backgrounds. At one hour in UTC all local times occur, but at different places. Over the
four hours of a day every cell has four local times, so that what differs between places drops out of the 24 hours.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.worlds.world import World

__all__ = ["daily_cycles", "project"]

SURFACES = ("land", "sea")
SEASONS = {1: "December to February", 2: "March to May", 3: "June to August", 4: "September to November"}
LEAST = 2
"""Cycles that a season must have at each of the four hours."""
CLEAR = 3.0
"""A background's daily cycle counts from so many standard errors on."""
_HOURS = range(0, 24, 6)


def project(fields: NDArray, hour: int, world: World) -> NDArray[np.float64]:
    """Return (2, C, 5) means over land and over sea of fields times 1, cos, sin, and cos and sin of twice local time.

    Args:
        fields: (C, H, W).
        hour: of their time, UTC.
        world: its grid and its land.
    """
    return np.einsum("shw,chw,bw->scb", _weights(world), fields, _basis(hour, world))


def daily_cycles(
    times: Sequence[pd.Timestamp], increments: NDArray, backgrounds: NDArray, world: World
) -> pd.DataFrame:
    """Return the harmonics of the increments of headline channels, a row by season, surface and channel.

    Args:
        times: of n cycles.
        increments, backgrounds: (n, 2, 6, 5) of `project`.
        world: as for `project`.

    Returns:
        season, surface, channel, mean; amplitude (24 h), its standard error, and the local hour of its maximum;
        amplitude_12 (12 h), SI; `share`, that part of the increments' 24-h cycle which is in phase with that of the
        backgrounds, over the backgrounds' own: above 0 where the model damps the cycle; NaN where the backgrounds have
        none. A season without two cycles at each of 00, 06, 12 and 18 UTC has no rows.
    """
    index = pd.DatetimeIndex(times)
    seasons, hours = index.month.to_numpy() % 12 // 3 + 1, index.hour.to_numpy()
    rows = []
    for number, season in SEASONS.items():
        groups = [np.flatnonzero((seasons == number) & (hours == hour)) for hour in _HOURS]
        if min(map(len, groups)) < LEAST:
            continue
        for s, surface in enumerate(SURFACES):
            if _weights(world)[s].sum() == 0:
                continue
            of_increments, error = _harmonics(increments[:, s], groups, world, s)
            of_backgrounds, limit = _harmonics(backgrounds[:, s], groups, world, s)
            for c, channel in enumerate(HEADLINE):
                own, daily = of_backgrounds[c, 1:3], of_increments[c, 1:3]
                clear = np.hypot(*own) > CLEAR * limit[c]
                rows.append({
                    "season": season, "surface": surface, "channel": channel, "mean": of_increments[c, 0],
                    "amplitude": np.hypot(*daily), "error": error[c],
                    "hour": np.arctan2(daily[1], daily[0]) * 12 / np.pi % 24,
                    "amplitude_12": np.hypot(*of_increments[c, 3:]),
                    "share": daily @ own / (own @ own) if clear else np.nan,
                })  # fmt: skip
    return pd.DataFrame(rows)


def _harmonics(
    projections: NDArray, groups: list[NDArray], world: World, surface: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (6, 5) least-squares coefficients, and (6,) the standard error of those of 24 h.

    Args:
        projections: (n, 6, 5) of one surface.
        groups: indices of its cycles at each of the four hours, which have equal weights.
        world, surface: where they are from.
    """
    bases = np.stack([_basis(hour, world) for hour in _HOURS])
    products = np.einsum("hw,kbw,kcw->bc", _weights(world)[surface], bases, bases) / len(_HOURS)
    # Where a harmonic cannot be told from another, as on few meridians, the smallest coefficients are taken.
    coefficients = projections @ np.linalg.pinv(products)
    means = np.mean([coefficients[group].mean(0) for group in groups], axis=0)
    variances = np.sum([coefficients[group].var(0, ddof=1) / len(group) for group in groups], axis=0) / len(groups) ** 2
    return means, np.sqrt(variances[:, 1:3].mean(1))


def _basis(hour: int, world: World) -> NDArray[np.float64]:
    """Return (5, W) functions of local solar time."""
    phase = 2 * np.pi * (hour / 24 + np.asarray(world.grid.longitude, float) / 360)
    return np.stack([np.ones_like(phase), np.cos(phase), np.sin(phase), np.cos(2 * phase), np.sin(2 * phase)])


def _weights(world: World) -> NDArray[np.float64]:
    """Return (2, H, W) shares of each cell in the area of the land and of the sea; 0 where there is none."""
    land = np.asarray(world.land_fraction, float)
    areas = np.stack([land, 1 - land]) * world.grid.weights
    totals = areas.sum((1, 2), keepdims=True)
    return np.divide(areas, totals, out=np.zeros_like(areas), where=totals > 0)
