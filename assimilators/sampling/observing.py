"""Observations to train with: drawn for every sample from a random subset of an observing system.

Sources, quality control, operators and superobs are those of a cycle. Because the subset differs from sample to
sample, one trained file serves observing systems of many densities.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import PLANES
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.quality import control as quality
from dacycle.obs_ingest.quality.background_error import BackgroundError, first_guess
from dacycle.obs_ingest.simulation.drawing import Simulated
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.superobs import GriddedObservations, grid_observations
from dacycle.obs_ingest.table import ObservationError, concatenate
from dacycle.obs_ingest.window import Window

__all__ = ["USUAL", "Observing", "Subset", "observing_of", "random_subset"]

DENIABLE = ("t2m", "td2m", "msl", "u10", "v10", "tp", "z", "q", "u", "v", "t", "olr")
WHOLE = 0.5
"""Probability of `USUAL`."""
DENIED = 0.1
"""Probability that a variable, or a source, is denied in any other subset."""
LEAST = 0.05
"""Least share of the sites in any other subset; the logarithm of the share is uniform."""


@dataclass(frozen=True)
class Subset:
    """Say which part of an observing system is used: a share of its sites, without sources or variables in `deny`."""

    share: float = 1.0
    deny: tuple[str, ...] = ()


USUAL = Subset(1 - quality.WITHHELD)
"""The share of the sites that an experiment assimilates; the sites are drawn anew each time."""


def random_subset(generator: np.random.Generator, sources: Sequence[str], optional: Sequence[str] = ()) -> Subset:
    """Return `USUAL` in half of the cases, else a share of the sites with each source and variable denied at times.

    Half of the cases, of either kind, are without the `optional` sources.
    """
    without = optional if optional and generator.random() < WHOLE else ()
    if generator.random() < WHOLE:
        return Subset(USUAL.share, tuple(without))
    share = LEAST ** generator.random()
    deny = [name for name in dict.fromkeys([*sources, *DENIABLE]) if generator.random() < DENIED]
    return Subset(share, tuple(dict.fromkeys([*without, *deny])))


class Observing:
    """Draw what the sources of an observing system would observe of a world's reference, on the grid.

    Args:
        world: its reference is observed.
        sources: simulated sources, written as an experiment's `observations`; no value arrives too late.
        planes: the planes that `draw` fills where it is not told which.
        optional: names of the sources that half of all subsets are without, all together.

    Raises:
        ObservationError: a source cannot be drawn from the reference.
    """

    def __init__(
        self,
        world: World,
        sources: Sequence[Mapping[str, Any]],
        planes: tuple[str, ...] = tuple(PLANES),
        optional: Sequence[str] = (),
    ) -> None:
        self.world, self.planes, self.optional = world, planes, tuple(optional)
        self._sources: list[Simulated] = []
        for spec in sources:
            source = build_source({**spec, "cutoff": "none"}, world, seed=0)
            if not isinstance(source, Simulated):
                raise ObservationError(f"source {source.name} is not drawn from a reference: nothing to train with")
            self._sources.append(source)

    @property
    def names(self) -> list[str]:
        """Names of the sources."""
        return [source.name for source in self._sources]

    def usual(self, number: int) -> Subset:
        """Return `USUAL` for a sample or a chain; those of odd number are without the optional sources."""
        return dataclasses.replace(USUAL, deny=self.optional) if number % 2 else USUAL

    def random_subset(self, generator: np.random.Generator) -> Subset:
        """Return a random subset of these sources."""
        return random_subset(generator, self.names, self.optional)

    def draw(
        self,
        time: np.datetime64,
        background: NDArray,
        subset: Subset,
        generator: np.random.Generator,
        planes: tuple[str, ...] | None = None,
    ) -> GriddedObservations:
        """Return superobs at `time`, (69 + M, H, W), SI, for the background (69, H, W)."""
        return self.draw_with_error(time, background, subset, generator, planes)[0]

    def draw_with_error(
        self,
        time: np.datetime64,
        background: NDArray,
        subset: Subset,
        generator: np.random.Generator,
        planes: tuple[str, ...] | None = None,
    ) -> tuple[GriddedObservations, BackgroundError]:
        """Return what `draw` returns, and the error of the background, estimated from the departures as drawn."""
        planes = self.planes if planes is None else planes
        world, window = self.world, Window(time, None)
        tables = []
        for source in self._sources:
            if source.name in subset.deny:
                continue
            seeded = copy.copy(source)
            seeded.seed = int(generator.integers(1 << 62))
            tables.append(seeded.read(window)[0])
        table = concatenate(tables)
        sites = table["site"].array
        table = table[(generator.random(len(sites.categories)) < subset.share)[sites.codes]]
        background_equivalents = equivalents(table, background, world.grid, world.orography)
        at_rows = partial(
            quality.background_at_rows, table, background_equivalents, grid=world.grid, orography=world.orography
        )
        chosen = quality.Selection(deny=subset.deny, share=0, planes=planes, checks=quality.CYCLE_CHECKS)
        error = quality.first_estimate(first_guess(world, time), table, window, at_rows, chosen)
        table = quality.check(table, window, at_rows(error), chosen)
        gridded = grid_observations(table, background_equivalents, background, world.grid, planes, world.statistics.std)
        return gridded, error


def observing_of(
    world: World,
    reference: Reference,
    sources: Sequence[Mapping[str, Any]],
    planes: tuple[str, ...] = tuple(PLANES),
    optional: Sequence[str] = (),
) -> Observing:
    """Return the observing system of a world, drawn from another of its references, such as a held-out year."""
    return Observing(dataclasses.replace(world, reference=reference), sources, planes, optional)
