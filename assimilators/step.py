"""The guarded step: one call of an assimilator for B chains, with a fallback where the analysis cannot be used.

Its input and output are plain arrays, without files or a clock, so that cycles, single analyses and training loops run
the same step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.balance import thickness_imbalance
from dacycle.assimilators.base import Assimilator, OlderFrame
from dacycle.forecast_adapter.channels import GROUPS, NAMES
from dacycle.forecast_adapter.scores import water_column

__all__ = ["Status", "StepGuards", "StepResult", "assimilate"]

Status = Literal["ok", "degraded", "fallback"]
_Q = GROUPS["q"]


@dataclass(frozen=True)
class StepGuards:
    """Hold the limits beyond which an analysis is not used, or a cycle is marked.

    Attributes:
        increment_limit: largest increment allowed anywhere, in standard deviations of the background's error there.
        rms_limit: largest root mean square of an increment over the globe, in those of the background's error or of the
            largest usual increment, whichever is larger.
        cold_factor: factor on both limits in the first cycles of a cold start.
        water_limit: largest amount of water that clipping humidity at 0 may add, kg m-2 averaged over the globe.
        minimum_observations: with fewer observed values the cycle is marked `degraded`.
    """

    increment_limit: float = 20.0
    rms_limit: float = 3.0
    cold_factor: float = 2.0
    water_limit: float = 0.5
    minimum_observations: int = 100


@dataclass(frozen=True)
class StepResult:
    """Hold the analyses of B chains and their status.

    Attributes:
        state: (B, 69, H, W) float32: the analyses; the background where the status is `fallback` or nothing was
            observed.
        spread: (B, 69, H, W) or None: posterior standard deviation; NaN for chains whose analysis is the background.
        status, reason: per chain; the reason is empty where the status is `ok`.
        observations: (B,) number of observed values.
        clipped_water: (B,) kg m-2, global mean: water added by clipping humidity at 0, also to analyses not used.
        increment_rms, increment_max: (B, 69) SI: area-weighted root mean square, and largest magnitude, of the
            increment.
        thickness_imbalance: (B, 12) K by layer: hydrostatic imbalance of the increment; see `balance`.
        diagnostics: of the assimilator.
        members: per chain, perturbations of the analysis; None where the method has none, or where the analysis is the
            background, whose perturbations then remain.
        older: per chain, the frame before the analysis; None where the method does not correct it, and as `members`.
    """

    state: NDArray
    spread: NDArray | None
    status: list[Status]
    reason: list[str]
    observations: NDArray
    clipped_water: NDArray
    increment_rms: NDArray
    increment_max: NDArray
    thickness_imbalance: NDArray
    diagnostics: dict[str, Any] = field(default_factory=dict)
    members: Sequence[NDArray | None] = (None,)
    older: Sequence[OlderFrame | None] = (None,)


def assimilate(
    assimilator: Assimilator,
    background: NDArray,
    values: NDArray,
    errors: NDArray,
    guards: StepGuards,
    background_error: NDArray,
    usual_increment: NDArray | float = 0.0,
    cold: bool = False,
) -> StepResult:
    """Analyse B chains, and keep the background of those whose analysis does not pass the guards.

    Args:
        assimilator: the method.
        background: (B, 69, H, W) float32, SI.
        values, errors: (B, 69 + M, H, W), SI; error > 0 exactly where observed.
        guards: the limits.
        background_error: standard deviation of the background's error, SI, (69, H or 1, W or 1).
        usual_increment: (69,) the largest root mean square increment of past cycles, SI; 0: there are none.
        cold: whether these are first cycles of a cold start.
    """
    observations = np.count_nonzero(errors > 0, axis=(1, 2, 3))
    observed = np.flatnonzero(observations)
    chains = len(background)
    state = background.copy()
    spread: NDArray | None = None
    diagnostics: dict[str, Any] = {}
    status: list[Status] = ["degraded"] * chains
    reason = ["no observations"] * chains
    clipped = np.zeros(chains)
    members: list[NDArray | None] = [None] * chains
    older: list[OlderFrame | None] = [None] * chains
    if observed.size:
        analysis = assimilator.analyse(background[observed], values[observed], errors[observed])
        diagnostics = analysis.diagnostics
        if analysis.spread is not None:
            spread = np.full_like(background, np.nan)
        limits = _Limits.of(guards, background_error, usual_increment, assimilator.grid.weights, cold)
        for i, chain in enumerate(observed):
            candidate, clipped[chain] = _clip_humidity(analysis.state[i], assimilator.grid.weights)
            refusal = _refusal(candidate, background[chain], limits, clipped[chain])
            if refusal:
                status[chain], reason[chain] = "fallback", refusal
                continue
            state[chain] = candidate
            if spread is not None and analysis.spread is not None:
                spread[chain] = analysis.spread[i]
            if analysis.members is not None:
                members[chain] = analysis.members[i]
            if analysis.older:
                older[chain] = analysis.older[i]
            doubt = analysis.doubts[i] if analysis.doubts else ""
            status[chain], reason[chain] = _sufficiency(int(observations[chain]), guards, doubt)
    weights = assimilator.grid.weights
    sizes = [
        [_sizes(a, b, weights) for a, b in zip(*pair, strict=True)] for pair in zip(state, background, strict=True)
    ]
    rms, largest = np.moveaxis(np.array(sizes), -1, 0)
    imbalance = [thickness_imbalance(b, a, weights) for a, b in zip(state, background, strict=True)]
    return StepResult(
        state,
        spread,
        status,
        reason,
        observations,
        clipped,
        rms,
        largest,
        np.array(imbalance),
        diagnostics,
        members,
        older,
    )


def _sizes(state: NDArray, background: NDArray, weights: NDArray) -> tuple[float, float]:
    """Return the root mean square over the globe, and the largest magnitude, of a channel's increment (H, W)."""
    increment = state.astype(np.float64) - background
    return float(np.sqrt((increment**2 * weights).mean())), float(np.abs(increment).max())


def _clip_humidity(state: NDArray, weights: NDArray) -> tuple[NDArray, float]:
    """Return the state with humidity at least 0, and the water that this added."""
    humidity = state[_Q]
    negative = (humidity < 0) & np.isfinite(humidity)  # `_refusal` reports values that are not finite
    if not negative.any():
        return state, 0.0
    clipped = state.copy()
    clipped[_Q] = np.where(negative, 0, humidity)
    return clipped, water_column(np.where(negative, -humidity, 0), weights)


@dataclass(frozen=True, eq=False)
class _Limits:
    """Hold what increments are measured in: errors (69, H or 1, W or 1), and usual sizes over the globe (69,), SI."""

    guards: StepGuards
    factor: float
    error: NDArray
    usual: NDArray
    weights: NDArray

    @classmethod
    def of(cls, guards: StepGuards, error: NDArray, usual: NDArray | float, weights: NDArray, cold: bool) -> "_Limits":
        rms = np.array([np.sqrt((channel**2 * weights).mean()) for channel in error])
        return cls(guards, guards.cold_factor if cold else 1.0, error, np.maximum(rms, usual), weights)


def _refusal(state: NDArray, background: NDArray, limits: _Limits, clipped_water: float) -> str:
    """Return why the analysis must not be used; empty if it may be."""
    finite = np.isfinite(state).all(axis=(1, 2))
    if not finite.all():
        return f"analysis not finite in {_listed(~finite)}"
    guards = limits.guards
    increments = (after.astype(np.float64) - before for after, before in zip(state, background, strict=True))
    sizes = [
        (np.abs(increment / error).max(), np.sqrt((increment**2 * limits.weights).mean()))
        for increment, error in zip(increments, limits.error, strict=True)
    ]
    largest, rms = np.array(sizes).T
    worst, limit = int(np.argmax(largest)), guards.increment_limit * limits.factor
    if largest[worst] > limit:
        return f"increment of {NAMES[worst]} reaches {largest[worst]:.3g} background errors, the limit is {limit:g}"
    rms = rms / limits.usual
    worst, limit = int(np.argmax(rms)), guards.rms_limit * limits.factor
    if rms[worst] > limit:
        return f"increment of {NAMES[worst]} is {rms[worst]:.3g} times the usual one (rms), the limit is {limit:g}"
    if clipped_water > guards.water_limit:
        return f"clipping humidity at 0 would add {clipped_water:.3g} kg m-2, the limit is {guards.water_limit:.3g}"
    return ""


def _sufficiency(observations: int, guards: StepGuards, doubt: str) -> tuple[Status, str]:
    """Return the status of an analysis that has passed the guards, and why it is not `ok`."""
    reasons = [doubt] if doubt else []
    if observations < guards.minimum_observations:
        reasons.insert(0, f"{observations} observed values, fewer than {guards.minimum_observations}")
    return "degraded" if reasons else "ok", "; ".join(reasons)


def _listed(channels: NDArray) -> str:
    names = [NAMES[i] for i in np.flatnonzero(channels)]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
