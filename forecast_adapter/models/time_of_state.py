"""The day of the year and the hour of the day, estimated from a state: FengWu's contract holds no date.

The day follows from the zonal mean temperatures, the hour from where on the globe the land is warm near the surface.
Both are linear regressions, whose weights are fitted to the training years (`assimilators.training.data`).
"""

import torch
from torch import Tensor
from torch.nn import functional

from dacycle.forecast_adapter.channels import GROUPS, index

__all__ = ["annual_cycle", "cycles", "hour_of_day", "hour_predictors", "local_time"]

T2M = index("t2m")


def annual_cycle(state: Tensor, season: Tensor) -> Tensor:
    """Estimate the day of the year from a normalised state (B, 69, H, W); return its 1, cos, sin, cos 2, sin 2, (B, 5).

    Args:
        state: normalised.
        season: (2, 13 H + 1) regression of cos and sin of the day of the year on the normalised zonal mean
            temperatures of the 13 levels and a constant.
    """
    zonal = state[:, GROUPS["t"]].mean(-1).flatten(1)
    estimate = functional.linear(zonal, season[:, :-1], season[:, -1])
    cos, sin = functional.normalize(estimate, dim=1).unbind(1)
    return torch.stack([torch.ones_like(cos), cos, sin, cos**2 - sin**2, 2 * cos * sin], dim=1)


def hour_predictors(state: Tensor, land: Tensor, annual: Tensor) -> Tensor:
    """Return what the hour is estimated from, (B, 2 H + 5): 2-m temperature over land, and the season.

    The daily wave of temperature moves around the globe with the sun, so the first wave in longitude of each row tells
    where it is. What stays in place changes with the season alone.

    Args:
        state: (B, 69, H, W), normalised.
        land: (H, W) land fraction.
        annual: (B, 5) of `annual_cycle`.
    """
    angle = _longitude(land.shape[1], state)
    warm = state[:, T2M] * land
    return torch.cat([(warm * angle.cos()).mean(-1), (warm * angle.sin()).mean(-1), annual], dim=1)


def hour_of_day(state: Tensor, hour: Tensor, land: Tensor, annual: Tensor) -> Tensor:
    """Estimate the hour (UTC) of a normalised state; return its cos and sin, (B, 2), 24 hours a full circle.

    Args:
        state, land, annual: as for `hour_predictors`.
        hour: (2, 2 H + 5) regression of cos and sin of the hour on the predictors.
    """
    return functional.normalize(functional.linear(hour_predictors(state, land, annual), hour), dim=1)


def cycles(annual: Tensor, hour: Tensor | None) -> Tensor:
    """Return the basis functions of a climatology, (B, 5) of the year, or (B, 14) of year and day.

    They are those of `worlds.world.annual_basis` and `daily_basis`.

    Args:
        annual: (B, 5) of `annual_cycle`.
        hour: (B, 2) of `hour_of_day`; None: there is no daily cycle.
    """
    if hour is None:
        return annual
    cos, sin = hour.unbind(1)
    waves = torch.stack([cos, sin, cos**2 - sin**2], dim=1)
    return torch.cat([annual, (waves[:, :, None] * annual[:, None, :3]).flatten(1)], dim=1)


def local_time(hour: Tensor, rows: int, columns: int) -> Tensor:
    """Return cos and sin of the local solar time, (B, 2, rows, columns), from those of the hour (UTC), (B, 2)."""
    cos, sin = hour[:, :, None].unbind(1)
    angle = _longitude(columns, hour)
    planes = torch.stack([cos * angle.cos() - sin * angle.sin(), sin * angle.cos() + cos * angle.sin()], dim=1)
    return planes[:, :, None].expand(-1, -1, rows, -1)


def _longitude(columns: int, like: Tensor) -> Tensor:
    """Return the longitudes (columns,) in radians, from 0 eastward."""
    return torch.arange(columns, dtype=like.dtype, device=like.device) * (2 * torch.pi / columns)
