"""Single analyses under controlled observations: DAMBench's protocol (arXiv 2511.01468) and variations of it.

In the protocol 5 % of the grid's points are observed with noise, chosen for each channel by itself, with precipitation
at stations and OLR beside them; the background is a forecast of 24 or 48 hours. Each setting changes one thing: the
density, the denied types, the stated errors, or the places of the observations.

Needs no torch. The same seed gives every method the same backgrounds and observations.
"""

from __future__ import annotations

import time as clock
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from dacycle.assimilators.base import Assimilator
from dacycle.assimilators.sampling.backgrounds import Backgrounds
from dacycle.assimilators.sampling.observing import DENIABLE, USUAL, Observing, Subset
from dacycle.common.configuration import Strict
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import GROUPS, HEADLINE, NAMES, index
from dacycle.forecast_adapter.grid import Grid, great_circle_km

__all__ = ["OVERALL", "Setting", "score_single_analyses"]

Pattern = Literal["points", "columns", "swaths", "network"]
PROTOCOL_PLANES = ("tp", "olr")
"""Variables that the protocol observes beside the channels."""
SOUNDED = ("q", "t")
"""Groups of channels that a sounder observes."""
SWATH_KM = 1000.0
OVERALL = "all"
"""In place of a channel's name: scores over all channels, in the world's standard deviations."""


class Setting(Strict):
    """Describe what is observed, and with which stated errors.

    Attributes:
        name: as in the tables.
        pattern: `points`, of each channel by itself; `columns`, all channels at once; `swaths`, temperature and
            humidity in strips over the poles; `network`, the observing system of the world's experiments.
        density: share of the grid's points.
        noise: standard deviation of the observations' error, in those of the channels.
        assumed: the error that is stated, over the true one.
        deny: sources or variables that are denied.
    """

    name: str
    pattern: Pattern = "points"
    density: Annotated[float, Field(gt=0, le=1)] = 0.05
    noise: Annotated[float, Field(gt=0)] = 0.05
    assumed: Annotated[float, Field(gt=0)] = 1.0
    deny: tuple[str, ...] = ()


def score_single_analyses(
    assimilator: Assimilator, observing: Observing, backgrounds: Backgrounds, setting: Setting, seed: int
) -> pd.DataFrame:
    """Analyse every background once and compare with the truth.

    Returns:
        Rows of sample, time, lead, field (background, analysis), channel, score, value.

        - Each headline channel: `mse`, area-weighted, SI.
        - All channels together, in standard deviations: the published `mse` and `mae`, unweighted; `weighted_mse` and
          `weighted_mae`; with a spread also `crps` and `spread_mse`, weighted; and the `seconds` of the analysis.
        - Divergences of the mean spectra of all samples of a lead, averaged over the headline channels, with sample -1:
          `specdiv` (the published one) and `zonal_divergence`.
    """
    world = observing.world
    std = world.statistics.std[:, None, None]
    rows: list[tuple[int, np.datetime64, int, str, str, str, float]] = []
    spectra = _Spectra(world.grid)
    for sample, (time, lead, error) in enumerate(
        zip(backgrounds.times, backgrounds.leads.tolist(), backgrounds.errors, strict=True)
    ):
        truth = world.reference.array(time)
        background = truth + error.astype(np.float32) * std
        values, errors = _draw(observing, time, background, setting, seed, sample, assimilator.planes)
        began = clock.perf_counter()
        analysis = assimilator.analyse(background[None], values[None], errors[None])
        seconds = clock.perf_counter() - began
        fields = {"background": background, "analysis": analysis.state[0]}
        for name, field in fields.items():
            spectra.add(lead, name, field)
            for channel, score, value in _scores(field, truth, std, world.grid):
                rows.append((sample, time, lead, name, channel, score, value))
        spectra.add(lead, "truth", truth)
        rows.append((sample, time, lead, "analysis", OVERALL, "seconds", seconds))
        if analysis.spread is not None:
            for score, value in _spread_scores(analysis.state[0], analysis.spread[0], truth, std, world.grid):
                rows.append((sample, time, lead, "analysis", OVERALL, score, value))
    no_time = np.datetime64("NaT")
    rows += [(-1, no_time, lead, name, OVERALL, score, value) for lead, name, score, value in spectra.divergences()]
    return pd.DataFrame(rows, columns=["sample", "time", "lead", "field", "channel", "score", "value"])


def _scores(field: NDArray, truth: NDArray, std: NDArray, grid: Grid) -> list[tuple[str, str, float]]:
    error = (field.astype(np.float64) - truth) / std
    weighted = scores.mse(error, np.zeros_like(error), grid)[:, 0]
    overall = [
        (OVERALL, "mse", float(np.square(error).mean())),
        (OVERALL, "mae", float(np.abs(error).mean())),
        (OVERALL, "weighted_mse", float(weighted.mean())),
        (OVERALL, "weighted_mae", float(scores.mae(error, np.zeros_like(error), grid)[:, 0].mean())),
    ]
    return overall + [(name, "mse", float(weighted[index(name)] * std[index(name), 0, 0] ** 2)) for name in HEADLINE]


def _spread_scores(
    state: NDArray, spread: NDArray, truth: NDArray, std: NDArray, grid: Grid
) -> list[tuple[str, float]]:
    crps = scores.region_means(scores.gaussian_crps(state / std, spread / std, truth / std), grid)[:, 0]
    square = scores.region_means(np.square(spread / std, dtype=np.float64), grid)[:, 0]
    return [("crps", float(crps.mean())), ("spread_mse", float(square.mean()))]


class _Spectra:
    """Sum the headline channels' spectra by lead and field."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._sums: dict[tuple[int, str], tuple[NDArray, NDArray]] = {}

    def add(self, lead: int, name: str, field: NDArray) -> None:
        chosen = field[[index(channel) for channel in HEADLINE]]
        radial, zonal = scores.radial_power_spectrum(chosen), scores.zonal_power_spectrum(chosen, self.grid)
        before = self._sums.get((lead, name))
        self._sums[lead, name] = (radial, zonal) if before is None else (before[0] + radial, before[1] + zonal)

    def divergences(self) -> list[tuple[int, str, str, float]]:
        rows = []
        for (lead, name), (radial, zonal) in self._sums.items():
            if name == "truth":
                continue
            true_radial, true_zonal = self._sums[lead, "truth"]
            published = scores.high_wavenumber_divergence(radial, true_radial).mean()
            rows.append((lead, name, "specdiv", float(published)))
            rows.append((lead, name, "zonal_divergence", float(scores.spectral_divergence(zonal, true_zonal).mean())))
        return rows


def _draw(
    observing: Observing,
    time: np.datetime64,
    background: NDArray,
    setting: Setting,
    seed: int,
    sample: int,
    planes: tuple[str, ...],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return values and errors (69 + M, H, W) of a sample.

    They are the observing system's superobs, or idealised observations of the channels with its superobs of the planes.
    """
    # Points have a generator of their own, so that denying a type does not move them.
    generator, points = np.random.default_rng([seed, sample]), np.random.default_rng([seed, sample, 1])
    if setting.pattern == "network":
        drawn = observing.draw(time, background, Subset(USUAL.share, setting.deny), generator, planes)
        return drawn.values, drawn.errors * np.float32(setting.assumed)
    left_out = tuple(name for name in DENIABLE if name not in PROTOCOL_PLANES)
    drawn = observing.draw(time, background, Subset(1.0, (*setting.deny, *left_out)), generator, planes)
    world = observing.world
    error = (setting.noise * world.statistics.std)[:, None, None]
    seen = _seen(setting, world.grid, points)
    noisy = world.reference.array(time) + error * points.standard_normal(seen.shape)
    noisy[GROUPS["q"]] = np.maximum(noisy[GROUPS["q"]], 0)
    values, errors = drawn.values.copy(), drawn.errors * np.float32(setting.assumed)
    values[: len(NAMES)] = np.where(seen, noisy, 0)
    errors[: len(NAMES)] = np.where(seen, error * setting.assumed, 0)
    return values, errors


def _seen(setting: Setting, grid: Grid, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return (69, H, W), true where something is observed."""
    shape = (len(NAMES), *grid.shape)
    if setting.pattern == "points":
        return generator.random(shape) < setting.density
    if setting.pattern == "columns":
        return np.broadcast_to(generator.random(grid.shape) < setting.density, shape)
    seen = np.zeros(shape, bool)
    cells = _swaths(setting.density, grid, generator)
    for group in SOUNDED:
        seen[GROUPS[group]] = cells
    return seen


def _swaths(density: float, grid: Grid, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return (H, W), true in strips along great circles over the poles, which cover a share of the globe."""
    seen = np.zeros(grid.shape, bool)
    area = grid.weights / grid.weights.sum()
    while (seen * area).sum() < density and not seen.all():
        longitude = generator.uniform(0, 360)
        distance = great_circle_km(grid.latitude[:, None], grid.longitude, grid.latitude[:, None], np.array(longitude))
        seen |= distance < SWATH_KM / 2
    return seen
