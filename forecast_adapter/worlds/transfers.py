"""What a dataset fetches from its products: each object of a remote store once, and how much that is.

The times of a dataset are fetched in groups, in order. The objects that a group is made from are fetched first, several
at once, and stay on disk as long as a time needs them, also when the command ends in between.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from dacycle.forecast_adapter.channels import CHANNELS, EXTRA_CHANNELS
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.states.source import StateSource

__all__ = ["Place", "Transfer", "Transfers", "lacking"]

Place = tuple[str, Path]
"""A product, and the folder that keeps the objects of its store."""


@dataclass(frozen=True)
class Transfer:
    """What is still to be fetched of a remote store: the number of objects, and their bytes."""

    product: str
    requests: int
    size: float


def lacking(fields: xr.Dataset, wanted: Collection[str] = tuple(EXTRA_CHANNELS)) -> list[str]:
    """Return which of the wanted extra fields are not among these, or are means over another period than six hours."""
    return [short for short in wanted if short not in fields or "period" in fields[short].attrs]


class Transfers:
    """The objects of the products' stores.

    Args:
        places: the products, that of the states first.

    Attributes:
        sources: the products, open.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.sources = [open_states(product, kept=kept) for product, kept in places]

    def fetch(self, times: Sequence[np.datetime64], at_once: int) -> None:
        """Fetch what these times are made from and is not kept yet; an extra field from the first that has it."""
        wanted: Collection[str] = tuple(EXTRA_CHANNELS)
        for source in self.sources:
            held = _held(source, times)
            if source.store is not None:
                source.store.fetch(self._objects(source, held, wanted), at_once)
            if held and source is not self.sources[-1]:
                wanted = lacking(source.surface(held[0], wanted), wanted)

    def forget(self, done: Sequence[np.datetime64], coming: Sequence[np.datetime64]) -> None:
        """Remove from disk what the times that are done are made from and those that come next are not."""
        for source in self.sources:
            if source.store is not None:
                gone, needed = (self._objects(source, _held(source, times)) for times in (done, coming))
                source.store.forget(gone - needed)

    def estimate(self, times: Sequence[np.datetime64], kept: Sequence[Path]) -> list[Transfer]:
        """Return what is to be fetched of each store for these times, by its chunks and the sizes of some of them.

        An extra field is counted once, for the first product whose metadata list it with the period of six hours.

        Args:
            times: the times, all of which are in the first product.
            kept: for each product the folder of the objects that are there already.
        """
        wanted: Collection[str] = tuple(EXTRA_CHANNELS)
        transfers = []
        for source, folder in zip(self.sources, kept, strict=True):
            held = _held(source, times)
            if source.store is not None:
                objects = self._objects(source, held, wanted)
                missing = sorted(key for key in objects if not (folder / key).exists())
                transfers.append(Transfer(source.name, len(missing), source.size(missing)))
                wanted = [short for short in wanted if short not in source.declared()]
            elif held:
                wanted = lacking(source.surface(held[0], wanted), wanted)
        return transfers

    def _objects(
        self, source: StateSource, times: Sequence[np.datetime64], extra: Collection[str] = tuple(EXTRA_CHANNELS)
    ) -> set[str]:
        """Return the keys of the objects that times are made from: extra fields, and states of the first product."""
        channels = CHANNELS if source is self.sources[0] else ()
        return set().union(*(source.objects(time, channels, extra) for time in times))


def _held(source: StateSource, times: Sequence[np.datetime64]) -> list[np.datetime64]:
    return [time for time in times if time in source.times]
