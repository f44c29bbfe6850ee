"""Make one analysis from files: surface fields and a table of observations, without a world, a model or an archive.

Each channel is analysed by itself with isotropic optimal interpolation. The analysis is verified at stations that are
held back: everything, from the lapse rate to the error statistics, is then estimated from the other stations.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.assimilators.base import AssimilatorError
from dacycle.assimilators.classical.isotropic import ErrorStatistics, estimate_statistics, increment, weights
from dacycle.forecast_adapter.states.points import PointFields, positions
from dacycle.obs_ingest.operators.points import PointOperator, lapse_rate
from dacycle.obs_ingest.quality.control import USUAL_CHECKS, BackgroundAtRows, Checks, Selection, check, withhold
from dacycle.obs_ingest.table import ObservationError, add_departures
from dacycle.obs_ingest.window import Window

__all__ = ["BACKGROUND_ERROR", "Analyser", "Scores", "SingleAnalysis"]

BACKGROUND_ERROR = {"t2m": 2.0, "msl": 150.0, "u10": 2.0, "v10": 2.0}
"""Errors (SI) of a forecast of one or two days, which the background check assumes before any are estimated."""
USUAL_LENGTH_KM = 250.0
"""Correlation length of such errors near the surface, as a proposal where none can be estimated."""


@dataclass(frozen=True)
class Scores:
    """Hold number, means and root mean squares (SI) of the departures of one channel.

    `raw_rms` is that of the background without the height correction.
    """

    number: int
    raw_rms: float
    o_b_rms: float
    o_a_rms: float
    o_b_mean: float
    o_a_mean: float


@dataclass(frozen=True, eq=False)
class SingleAnalysis:
    """Hold an analysis, and the statistics that it was made with.

    Attributes:
        values: (n,) by channel, SI, on the background's points; only channels that were observed.
        table: every observation with use, reason, the error as used, and departures.
        statistics: by channel, the error statistics as used.
        lapse_rate: K per m, with which H moves 2-metre temperature to the stations' heights; 0 where none is needed.
        height: (rows,) m, of each station above the model's ground.
        spacing_km: largest distance between neighbouring points of the background.
    """

    values: dict[str, NDArray]
    table: pd.DataFrame
    statistics: dict[str, ErrorStatistics]
    lapse_rate: float
    height: NDArray
    spacing_km: float

    def scores(self, channel: str, use: str) -> Scores:
        """Return the departures of a channel at the stations of one use (`assimilated` or `withheld`)."""
        rows = ((self.table["variable"] == channel) & (self.table["use"] == use)).to_numpy()
        o_b, o_a = (self.table[name].to_numpy()[rows] for name in ("o_b", "o_a"))
        raw = o_b - self.lapse_rate * self.height[rows] if channel == "t2m" else o_b
        return Scores(len(o_b), _rms(raw), _rms(o_b), _rms(o_a), _mean(o_b), _mean(o_a))


class Analyser:
    """Analyse one background with one table of observations.

    Args:
        background: surface fields at the analysis time.
        table: observations around that time, n rows; it may hold variables that the background lacks.
        orography: the model's ground, on any points; None: from the stations' own heights.
        lapse_rate: K per m; None: estimated from the departures.
        statistics: of the errors; None: estimated from the departures, for each channel.
        checks: of the observations.
        reach_km: distance beyond which an observation changes nothing, where statistics are estimated.

    Raises:
        ObservationError: there is no observation.
    """

    def __init__(
        self,
        background: PointFields,
        table: pd.DataFrame,
        *,
        orography: PointFields | None = None,
        lapse_rate: float | None = None,
        statistics: ErrorStatistics | None = None,
        checks: Checks = USUAL_CHECKS,
        reach_km: float = 1000.0,
    ) -> None:
        if table.empty:
            raise ObservationError(f"no observation in the window of {background.time}")
        self._background, self._table, self._window = background, table, Window(background.time)
        self._checks = checks
        self._given_lapse_rate, self._given_statistics, self._reach_km = lapse_rate, statistics, reach_km
        self._operator = PointOperator(background, table, orography)
        self._points = positions(background.latitude, background.longitude)
        self._stations = positions(table["latitude"].to_numpy(), table["longitude"].to_numpy())

    def analyse(self) -> SingleAnalysis:
        """Analyse with all observations that pass quality control.

        Raises:
            ObservationError: no observation of any channel passes, or the observations give no lapse rate.
            AssimilatorError: the observations give no error statistics, or are too many.
        """
        return self._analyse(0.0, "", np.arange(len(self._points)))

    def hold_back(self, share: float, salt: str) -> SingleAnalysis:
        """Analyse without a share of the sites (`quality.withhold`), and only at the points around the stations."""
        return self._analyse(share, salt, np.unique(self._operator.stencil.points))

    def _analyse(self, share: float, salt: str, points: NDArray) -> SingleAnalysis:
        values = self._background.values
        rate = self._lapse_rate(~withhold(self._table, share, salt))
        equivalents = self._operator(values, rate)
        table = self._judge(equivalents, share, salt)
        analysed, statistics = {}, {}
        for channel in values:
            rows = self._operator.of(channel) & (table["use"] == "assimilated").to_numpy()
            if rows.any():
                departures = table["value"].to_numpy()[rows] - equivalents[rows]
                statistics[channel] = self._statistics_of(channel, rows, departures)
                table["error"] = self._errors(table["error"].to_numpy(), channel, rows, statistics[channel])
                analysed[channel] = values[channel].copy()
                analysed[channel][points] += self._increment(
                    points, rows, departures, table["error"].to_numpy()[rows], statistics[channel]
                )
        if not analysed:
            raise ObservationError(self._why_none(table))
        table = add_departures(table, equivalents, self._operator({**values, **analysed}, rate))
        return SingleAnalysis(
            analysed, table, statistics, rate, self._operator.height, self._operator.stencil.spacing_km
        )

    def _lapse_rate(self, usable: NDArray[np.bool_]) -> float:
        rows = self._operator.of("t2m") & usable
        if "t2m" not in self._background.values or not rows.any():
            return 0.0
        if self._given_lapse_rate is not None:
            return self._given_lapse_rate
        interpolated = self._operator.stencil(self._background.values["t2m"])
        return lapse_rate((self._table["value"].to_numpy() - interpolated)[rows], self._operator.height[rows])

    def _judge(self, equivalents: NDArray, share: float, salt: str) -> pd.DataFrame:
        assumed = np.full(len(self._table), np.nan)
        for channel, error in BACKGROUND_ERROR.items():
            assumed[self._operator.of(channel)] = error
        ground = self._table["elevation"].to_numpy() - self._operator.height
        selection = Selection(share=share, salt=salt, planes=(), checks=self._checks)
        return check(self._table, self._window, BackgroundAtRows(equivalents, assumed, ground), selection)

    def _statistics_of(self, channel: str, rows: NDArray, departures: NDArray) -> ErrorStatistics:
        if self._given_statistics is not None:
            return self._given_statistics
        try:
            return estimate_statistics(self._stations[rows], departures, self._reach_km)
        except AssimilatorError as error:
            assumed = float(_rms(self._table["error"].to_numpy()[rows]))
            raise AssimilatorError(
                f"{channel}: {error}; usual are --channel {channel} --background-error {BACKGROUND_ERROR[channel]:g} "
                f"--observation-error {assumed:.2g} --length {USUAL_LENGTH_KM:g}"
            ) from None

    def _errors(self, errors: NDArray, channel: str, rows: NDArray, statistics: ErrorStatistics) -> NDArray:
        """Return the errors (n,), a channel's scaled to the estimated error; their growth with time is kept."""
        scaled = errors * statistics.observation_error / _rms(errors[rows])
        return np.where(self._operator.of(channel), scaled, errors)

    def _increment(
        self, points: NDArray, rows: NDArray, departures: NDArray, errors: NDArray, statistics: ErrorStatistics
    ) -> NDArray:
        stations = self._stations[rows]
        solution = weights(stations, departures, errors, statistics)
        return increment(self._points[points], stations, solution, statistics)

    def _why_none(self, table: pd.DataFrame) -> str:
        reasons = table["reason"].value_counts()
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count and reason)
        return (
            f"{self._background.path}: none of {len(table)} observations at {self._background.time} can be used for "
            f"{', '.join(self._background.values)} ({counts})"
        )


def _rms(values: NDArray) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else np.nan


def _mean(values: NDArray) -> float:
    return float(values.mean()) if len(values) else np.nan
