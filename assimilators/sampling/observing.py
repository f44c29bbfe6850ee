"""Observations to train with: drawn afresh for every sample, from networks of random density, as a cycle sees them.

The same sources, quality control, operators and superobs as in a cycle. What differs from sample to sample is how much
of the network there is: one file then serves many networks.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import PLANES
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.quality import control as quality
from dacycle.obs_ingest.simulation.stations import Simulated
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.superobs import GriddedObservations, grid_observations
from dacycle.obs_ingest.table import ObservationError, concatenate
from dacycle.obs_ingest.window import Window

__all__ = ["USUAL", "Network", "Observing", "observing_of", "random_network"]

DENIABLE = ("t2m", "td2m", "msl", "u10", "v10", "tp", "z", "q", "u", "v", "t", "olr")
WHOLE = 0.5
"""Probability that nothing is left out but a share like the one that experiments withhold."""
DENIED = 0.1
"""Probability that a variable, or a source, is left out of a network that is not whole."""
LEAST = 0.05
"""Least share of the sites in a network that is not whole; its logarithm is uniform."""


@dataclass(frozen=True)
class Network:
    """A part of an observing system: a share of its sites, and what of it is denied (sources or variables)."""

    share: float = 1.0
    deny: tuple[str, ...] = ()


USUAL = Network(1 - quality.WITHHELD)
"""As much as an experiment assimilates; its sites are drawn anew each time."""


def random_network(generator: np.random.Generator, sources: Sequence[str]) -> Network:
    """As much as an experiment assimilates, half the time; else some of the sites, with each type denied at times."""
    if generator.random() < WHOLE:
        return USUAL
    share = LEAST ** generator.random()
    deny = [name for name in dict.fromkeys([*sources, *DENIABLE]) if generator.random() < DENIED]
    return Network(share, tuple(deny))


class Observing:
    """Draws what the sources of an observing system would see of a world's reference, on the grid.

    Args:
        world: its reference is observed.
        sources: as an experiment's `observations`; simulated ones, each with all its values in time.

    Raises:
        ObservationError: a source cannot be drawn from the reference.
    """

    def __init__(self, world: World, sources: Sequence[Mapping[str, Any]]) -> None:
        self.world = world
        self._sources: list[Simulated] = []
        for spec in sources:
            source = build_source({**spec, "cutoff": "none"}, world, seed=0)
            if not isinstance(source, Simulated):
                raise ObservationError(f"source {source.name} is not drawn from a reference: nothing to train with")
            self._sources.append(source)

    @property
    def names(self) -> list[str]:
        return [source.name for source in self._sources]

    def draw(
        self,
        time: np.datetime64,
        background: NDArray,
        network: Network,
        generator: np.random.Generator,
        planes: tuple[str, ...] = tuple(PLANES),
    ) -> GriddedObservations:
        """Superobs at `time`, (69 + M, H, W); departures are from `background` (69, H, W) SI."""
        world, window = self.world, Window(time, None)
        tables = []
        for source in self._sources:
            if source.name in network.deny:
                continue
            seeded = copy.copy(source)
            seeded.seed = int(generator.integers(1 << 62))
            tables.append(seeded.read(window)[0])
        table = concatenate(tables)
        site = table["site"].array
        table = table[(generator.random(len(site.categories)) < network.share)[site.codes]]
        background_equivalents = equivalents(table, background, world.grid, world.orography)
        at_rows = quality.background_at_rows(
            table, background_equivalents, quality.BACKGROUND_ERROR * world.statistics.std, world.grid, world.orography
        )
        table = quality.check(table, window, at_rows, quality.Selection(deny=network.deny, share=0, planes=planes))
        return grid_observations(table, background_equivalents, background, world.grid, planes, world.statistics.std)


def observing_of(world: World, reference: Reference, sources: Sequence[Mapping[str, Any]]) -> Observing:
    """Return the observing system of a world, drawn from another reference of it: a year held out."""
    return Observing(dataclasses.replace(world, reference=reference), sources)
