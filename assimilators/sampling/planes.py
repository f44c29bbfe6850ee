"""Which observation planes a reference can give, and their true values."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.exceptions import DataError
from dacycle.forecast_adapter.channels import PLANES
from dacycle.forecast_adapter.physics import humidity_from_dewpoint
from dacycle.forecast_adapter.worlds.reference import EXTRA_FIELDS, Reference, ReferenceDataError
from dacycle.forecast_adapter.worlds.world import World

__all__ = ["planes_in", "true_planes"]

logger = logging.getLogger(__name__)

_FIELDS = {"tp6h": "tp6h", "olr": "olr", "q2m": "td2m"}
"""The extra field that a plane is made of."""


def planes_in(reference: Reference, times: Iterable[np.datetime64]) -> tuple[str, ...]:
    """Return those of `PLANES` that a reference has at all of `times`, and log which it lacks.

    Raises:
        DataError: an extra field is there at a part of the times only; names the field and the years.
    """
    try:
        fields = reference.extra_fields(times)
    except ReferenceDataError as error:
        raise DataError(str(error)) from error
    lacking = {plane: EXTRA_FIELDS[_FIELDS[plane]][0] for plane in PLANES if _FIELDS[plane] not in fields}
    if lacking:
        absent, names = ", ".join(lacking), ", ".join(lacking.values())
        logger.warning(
            "%s: no %s, so trained without %s; `dacycle dataset --beside` adds fields", reference.folder, names, absent
        )
    return tuple(plane for plane in PLANES if plane not in lacking)


def true_planes(world: World, times: Iterable[np.datetime64], planes: tuple[str, ...]) -> NDArray[np.float32]:
    """Return (n, M, H, W) the true planes of the world's reference, SI."""
    fields = []
    for time in times:
        surface = world.reference.surface(time, [_FIELDS[plane] for plane in planes])
        here = [
            humidity_from_dewpoint(surface["td2m"].values, world.surface_pressure(time))
            if plane == "q2m"
            else surface[plane].values
            for plane in planes
        ]
        fields.append(np.stack(here) if here else np.zeros((0, *world.grid.shape)))
    return np.stack(fields).astype(np.float32)
