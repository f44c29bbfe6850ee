"""Scores of a forecast model over a validation year: errors by lead beside persistence and climatology, stability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.models.model import ForecastModel
from dacycle.forecast_adapter.scores import anomaly_correlation, mse
from dacycle.forecast_adapter.state import STEP_HOURS
from dacycle.forecast_adapter.statistics import Statistics
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import Climatology

__all__ = ["JUDGED_LEADS", "ForecastScores", "FreeRunScores", "run_freely", "score_forecasts"]

JUDGED_LEADS = (6, 24, 48, 72, 120, 168, 240)
"""Hours at which forecasts are judged."""
BATCH = 8


@dataclass(frozen=True)
class ForecastScores:
    """Hold global scores (lead, headline channel), in the channels' units, over `starts` forecasts.

    Attributes:
        leads: hours.
        model, persistence, climatology: root of the mean area-weighted squared error.
        correlation: mean anomaly correlation of the model's forecasts.
    """

    leads: tuple[int, ...]
    starts: int
    model: NDArray[np.float64]
    persistence: NDArray[np.float64]
    climatology: NDArray[np.float64]
    correlation: NDArray[np.float64]

    def as_dict(self) -> dict[str, Any]:
        """Return a list over the leads for each measure and channel."""
        measures = {
            measure: {name: [float(f"{v:.5g}") for v in values[:, k]] for k, name in enumerate(HEADLINE)}
            for measure, values in vars(self).items()
            if isinstance(values, np.ndarray)
        }
        return {"leads_h": list(self.leads), "starts": self.starts, **measures}


@dataclass(frozen=True)
class FreeRunScores:
    """Compare forecasts of `days` without any analysis with the reference, over the last sixth of the days.

    Attributes:
        days: length of each forecast.
        starts: number of forecasts.
        spread: standard deviation of the anomalies from climatology, as a share of the reference's over the same
            dates, for each headline channel; 1 is right, far above it is a blow-up, far below a faded state.
        drift: global mean minus the reference's, in the channel's standard deviations.
        largest: largest departure of any value from its channel's mean, in standard deviations, over the whole run.
    """

    days: int
    starts: int
    spread: dict[str, float]
    drift: dict[str, float]
    largest: float


def score_forecasts(
    model: ForecastModel,
    reference: Reference,
    climatology: Climatology,
    times: NDArray[np.datetime64],
    starts: int,
    leads: tuple[int, ...] = JUDGED_LEADS,
) -> ForecastScores:
    """Score forecasts from `starts` times spread evenly over `times` (one year, every 6 h) at `leads` hours."""
    last = len(times) - 1 - max(leads) // STEP_HOURS
    chosen = np.unique(np.linspace(1, last, starts).astype(int))
    chunks = [
        _score(model, reference, climatology, times, chosen[k : k + BATCH], leads) for k in range(0, len(chosen), BATCH)
    ]
    squared, persistence, climate, correlation = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return ForecastScores(
        leads,
        len(chosen),
        np.sqrt(squared.mean(0)),
        np.sqrt(persistence.mean(0)),
        np.sqrt(climate.mean(0)),
        correlation.mean(0),
    )


def _score(
    model: ForecastModel,
    reference: Reference,
    climatology: Climatology,
    times: NDArray[np.datetime64],
    starts: NDArray[np.intp],
    leads: tuple[int, ...],
) -> tuple[NDArray[np.float64], ...]:
    """Return squared errors of model, persistence, climatology, and the correlation, each (start, lead, channel)."""
    headline, grid = [index(name) for name in HEADLINE], model.grid
    previous, current = _frames(reference, times, starts - 1), _frames(reference, times, starts)
    rows = []
    for step, state in enumerate(model.forecast(previous, current, max(leads) // STEP_HOURS), 1):
        if STEP_HOURS * step not in leads:
            continue
        truth = _frames(reference, times, starts + step)[:, headline]
        climate = np.stack([climatology.at(times[k])[headline] for k in starts + step])
        forecast = state[:, headline]
        rows.append(
            (
                mse(forecast, truth, grid)[..., 0],
                mse(current[:, headline], truth, grid)[..., 0],
                mse(climate, truth, grid)[..., 0],
                anomaly_correlation(forecast, truth, climate, grid)[..., 0],
            )
        )
    return tuple(np.stack(measure, axis=1) for measure in zip(*rows, strict=True))


def run_freely(
    model: ForecastModel,
    reference: Reference,
    climatology: Climatology,
    statistics: Statistics,
    times: NDArray[np.datetime64],
    days: int = 60,
    starts: int = 4,
) -> FreeRunScores:
    """Run forecasts of `days` from `starts` times spread over `times`, and compare their last days with the reference.

    Returns:
        The comparison; see `FreeRunScores`.
    """
    headline, steps = [index(name) for name in HEADLINE], 24 // STEP_HOURS * days
    tail = range(steps - steps // 6 + 1, steps + 1)
    chosen = np.linspace(1, len(times) - 1 - steps, starts).astype(int)
    previous, current = _frames(reference, times, chosen - 1), _frames(reference, times, chosen)
    area = model.grid.weights / model.grid.weights.sum()
    anomalies, true_anomalies, largest = [], [], 0.0
    for step, state in enumerate(model.forecast(previous, current, steps), 1):
        largest = max(largest, float(np.abs(statistics.normalise(state)).max()))
        if step in tail:
            climate = np.stack([climatology.at(times[k])[headline] for k in chosen + step])
            anomalies.append(state[:, headline] - climate)
            true_anomalies.append(_frames(reference, times, chosen + step)[:, headline] - climate)
    model_anomaly, true_anomaly = np.stack(anomalies), np.stack(true_anomalies)
    spread = [np.sqrt((np.square(a) * area).sum((-2, -1)).mean((0, 1))) for a in (model_anomaly, true_anomaly)]
    mean = ((model_anomaly - true_anomaly) * area).sum((-2, -1)).mean((0, 1)) / statistics.std[headline]
    return FreeRunScores(
        days,
        starts,
        {name: float(value) for name, value in zip(HEADLINE, spread[0] / spread[1], strict=True)},
        {name: float(value) for name, value in zip(HEADLINE, mean, strict=True)},
        largest,
    )


def _frames(reference: Reference, times: NDArray[np.datetime64], where: NDArray[np.intp]) -> NDArray[np.float32]:
    return np.stack([reference.array(times[k]) for k in where])
