"""A made-up static ensemble, and one chain with observations, for the classical methods and the ensemble filters."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import Assimilator
from dacycle.assimilators.classical.background_error import BackgroundError, Tuning
from dacycle.forecast_adapter.channels import NAMES, index
from dacycle.forecast_adapter.grid import Grid, get_grid, great_circle_km

GRID = get_grid("5.625deg")
SMALL = Grid("small", 90 - 22.5 * (np.arange(8) + 0.5), 45.0 * np.arange(8))
OMEGA, RADIUS = 7.292e-5, 6.371e6


def smooth_noise(grid: Grid, count: int, generator: np.random.Generator, width_km: float = 1500.0) -> NDArray:
    """Return (count, H, W) random fields of standard deviation 1: white noise on the sphere, smoothed."""
    latitude, longitude = np.meshgrid(grid.latitude, grid.longitude, indexing="ij")
    centres = generator.uniform(-1, 1, (2, 400))
    centre_latitude, centre_longitude = np.rad2deg(np.arcsin(centres[0])), 180 * centres[1]
    distance = great_circle_km(latitude.ravel()[:, None], longitude.ravel()[:, None], centre_latitude, centre_longitude)
    bells = np.exp(-0.5 * (distance / width_km) ** 2)
    fields = generator.standard_normal((count, 400)) @ (bells / np.linalg.norm(bells, axis=1, keepdims=True)).T
    return fields.reshape(count, *grid.shape)


@cache
def make_error(grid: Grid = GRID, members: int = 40, seed: int = 3, **tuning: float) -> BackgroundError:
    """Make an ensemble whose channels share smooth fields; u500 and v500 are geostrophic poleward of 20 degrees."""
    generator = np.random.default_rng(seed)
    patterns = smooth_noise(grid, 3 * members, generator).reshape(3, members, *grid.shape)
    mixing = generator.standard_normal((len(NAMES), 3))
    samples = np.einsum("ck,knij->ncij", mixing, patterns)
    z = 400 * patterns[0]
    samples[:, index("z500")] = z
    coriolis = 2 * OMEGA * np.sin(np.deg2rad(grid.latitude))[:, None]
    balance = np.where(np.abs(grid.latitude)[:, None] > 20, 1 / coriolis, 0)
    spacing = np.deg2rad(grid.latitude[0] - grid.latitude[1]) * RADIUS
    samples[:, index("u500")] = balance * np.gradient(z, axis=1) / spacing  # rows run southwards
    east = (np.roll(z, -1, axis=2) - np.roll(z, 1, axis=2)) / (2 * spacing * np.cos(np.deg2rad(grid.latitude))[:, None])
    samples[:, index("v500")] = balance * east
    return BackgroundError.from_samples(samples.astype(np.float32), grid, "synthetic", Tuning(**tuning))


@dataclass
class Case:
    """Hold one chain's background, and its observations."""

    grid: Grid

    def __post_init__(self) -> None:
        shape = (1, len(NAMES), *self.grid.shape)
        self.background = np.random.default_rng(0).normal(250, 30, shape).astype(np.float32)
        self.values, self.errors = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def observe(self, channel: str, row: int, column: int, departure: float, error: float) -> "Case":
        where = (0, index(channel), row, column)
        self.values[where] = self.background[where] + np.float32(departure)
        self.errors[where] = error
        return self

    def observe_many(self, count: int, error: NDArray, seed: int = 1) -> "Case":
        generator = np.random.default_rng(seed)
        for place in generator.choice(self.values[0].size, count, replace=False):
            where = (0, *np.unravel_index(place, self.values[0].shape))
            self.values[where] = self.background[where] + generator.normal(0, 2 * error[where[1]])
            self.errors[where] = error[where[1]]
        return self

    def increment(self, method: Assimilator) -> NDArray:
        return method.analyse(self.background, self.values, self.errors).state[0] - self.background[0]
