"""The nature run: SPEEDY T31 (the `jcm` package), on 13 pressure levels and a regular grid.

Each "year" is an independent realisation: its own seed, spun up for 90 days before 1 January. SPEEDY has 8 sigma
levels, daily-mean insolation (no diurnal cycle) and climatological sea-surface temperatures. Its default initial
state holds too much air; the native initial state's log surface pressure is shifted by ln 0.985, which holds.

Surface pressure is reduced to sea level, and temperature and geopotential are continued below the ground, as ECMWF
does (Trenberth, Berry and Buja 1993, NCAR/TN-396+STR, section 3).
"""

import hashlib
import logging
import warnings
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from dacycle.common.files import whole
from dacycle.common.pieces import processes
from dacycle.forecast_adapter.channels import LEVELS, LOG_LEVELS, WB2_NAMES
from dacycle.forecast_adapter.grid import Grid, conservative_average, get_grid
from dacycle.forecast_adapter.physics import (
    DRY_AIR_GAS_CONSTANT,
    GRAVITY,
    LAPSE_RATE,
    STANDARD_PRESSURE,
    STANDARD_TEMPERATURE,
    TROPOPAUSE_HEIGHT,
    TROPOPAUSE_PRESSURE,
    TROPOPAUSE_TEMPERATURE,
    dewpoint,
)
from dacycle.forecast_adapter.worlds.reference import write_times

__all__ = ["run", "run_twins", "to_pressure_levels"]

logger = logging.getLogger(__name__)

EXPONENT = DRY_AIR_GAS_CONSTANT * LAPSE_RATE / GRAVITY
SPIN_UP = pd.Timedelta(days=90)
EXCESS_AIR = np.log(0.985)
DRIEST = 1e-7  # kg/kg; spectral models have humidity of 0 and below
STEPS_PER_6H = 12  # half-hour steps
TWIN_DAYS = 11
"""Length of a pair of runs: a day in which the perturbation takes the model's own form, and ten to follow it."""
TWIN_SHARE = 0.01
"""A twin starts from the control's state plus this share of the control's change since the pair before."""
Array = NDArray[np.floating]


def run(folder: Path, years: list[int], seed: int = 1, workers: int = 1) -> None:
    """Make the nature run's years: `folder/YYYY/YYYY-MM.nc` in the WeatherBench2 schema, and `folder/static.nc`.

    Every file holds the 69 channels at 00, 06, 12, 18 UTC; precipitation and mean outgoing long-wave radiation over the
    6 hours that end then; 2-m dewpoint and surface pressure. Months that exist are kept, so that an interrupted run
    continues. The same seed and year give the same fields on the same machine and jcm version.

    Args:
        folder: the folder to write to.
        years: labels of the realisations, e.g. [2021, 2022].
        seed: decides a realisation, together with its year.
        workers: number of years run at the same time, each in its own process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with processes(workers) as pool:
        jobs = {pool.submit(_run_year, folder, year, seed): year for year in years}
        for job in as_completed(jobs):
            logger.info("%d: %d months written", jobs[job], job.result())


def _run_year(folder: Path, year: int, seed: int) -> int:
    """Run one year from its latest checkpoint; return the number of months written."""
    months = [pd.Timestamp(year, month, 1) for month in range(1, 13)]
    todo = [m for m in months if not (folder / str(year) / f"{m:%Y-%m}.nc").exists()]
    if not todo:
        return 0
    speedy = _Speedy(start=months[0] - SPIN_UP, seed=_year_seed(seed, year))
    _write_static(speedy, folder / "static.nc")
    if todo == months:
        for _ in speedy.days(SPIN_UP.days):
            pass
    else:
        speedy.load(_checkpoint(folder, todo[0] - pd.Timedelta(days=1)))
    for month in todo:
        dataset = xr.concat(list(speedy.days(month.days_in_month)), "time")
        _check_month(dataset, month)
        # The checkpoint first: a month's file then always means that the run can go on from its end.
        speedy.save(_checkpoint(folder, month))
        write_times(dataset, folder / str(year) / f"{month:%Y-%m}.nc")
        _checkpoint(folder, month - pd.Timedelta(days=1)).unlink(missing_ok=True)
    return len(todo)


def run_twins(folder: Path, year: int, pairs: int, seed: int = 1) -> None:
    """Make pairs of runs from slightly different states, `folder/control/START.nc` and `folder/twin/START.nc`.

    The control is the realisation of `year`, in pieces of `TWIN_DAYS` from 1 January on. At the start of each piece the
    twin differs by `TWIN_SHARE` of the control's change over the piece before, which has the atmosphere's own scales
    and balance. Files hold the same fields as those of `run`.

    Args:
        folder: the folder to write to.
        year: label of the realisation.
        pairs: number of pairs, one after the other.
        seed: decides the realisation, together with its year.
    """
    start = pd.Timestamp(year, 1, 1)
    speedy = _Speedy(start - SPIN_UP, _year_seed(seed, year))
    for _ in speedy.days(SPIN_UP.days - TWIN_DAYS):
        pass
    before = speedy.model.run_state
    for _ in speedy.days(TWIN_DAYS):
        pass
    for date in pd.date_range(start, periods=pairs, freq=f"{TWIN_DAYS}D"):
        now = speedy.model.run_state
        speedy.shift(TWIN_SHARE, before)
        for kind in ("twin", "control"):
            dataset = xr.concat(list(speedy.days(TWIN_DAYS)), "time")
            write_times(dataset, folder / kind / f"{date:%Y-%m-%d}.nc")
            if kind == "twin":
                speedy.restore(now)
        before = now
        logger.info("pair of %s: %d days", f"{date:%Y-%m-%d}", TWIN_DAYS)


def _checkpoint(folder: Path, month: pd.Timestamp) -> Path:
    return folder / str(month.year) / f"{month:%Y-%m}.checkpoint"


def _year_seed(seed: int, year: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{year}".encode()).digest()[:4], "big") >> 1


def _check_month(dataset: xr.Dataset, month: pd.Timestamp) -> None:
    expected = pd.date_range(month, periods=4 * month.days_in_month, freq="6h")
    if not np.array_equal(dataset.time.values, expected.values):
        raise RuntimeError(f"nature run {month:%Y-%m}: times {dataset.time.values[[0, -1]]} are not that month's")
    bad = [str(name) for name, field in dataset.items() if not np.isfinite(field.values).all()]
    if bad:
        raise RuntimeError(f"nature run {month:%Y-%m}: not finite: {', '.join(bad)}; the model has blown up")


class _Speedy:
    """SPEEDY from 6 hours before `start`, so that a day of its output is 00, 06, 12 and 18 UTC of one date."""

    def __init__(self, start: pd.Timestamp, seed: int) -> None:
        from jcm.forcing import ForcingData
        from jcm.model import Model
        from jcm.physics.speedy.speedy_coords import get_speedy_coords
        from jcm.terrain import TerrainData

        warnings.filterwarnings("ignore", module="jcm")
        logging.getLogger("jcm").setLevel(logging.ERROR)
        data = resources.files("jcm") / "data/bc/t30/clim"
        coords = get_speedy_coords()
        self.terrain = TerrainData.from_file(data / "terrain.nc", coords=coords)
        self.forcing = ForcingData.from_file(data / "forcing.nc", coords=coords, align_mode="wrap_year")
        begin = start - pd.Timedelta(hours=6)
        self.model = Model(coords=coords, terrain=self.terrain, start_time=begin.isoformat(), time_step=30)
        state = self.model.initial_state(random_seed=seed)
        uniform = coords.horizontal.to_modal(np.full(coords.horizontal.nodal_shape, EXCESS_AIR, np.float32))
        self.model.bootstrap_state(state.replace(log_surface_pressure=state.log_surface_pressure + uniform))
        self.sigma = np.asarray(coords.vertical.centers, float)
        self.grid = Grid(
            "T31",
            np.rad2deg(np.asarray(coords.horizontal.latitudes, float))[::-1],
            np.rad2deg(np.asarray(coords.horizontal.longitudes, float)),
        )

    def days(self, count: int) -> Iterator[xr.Dataset]:
        """Integrate `count` days, and yield datasets of five days, then of one, in the WeatherBench2 schema."""
        for length in [5] * (count // 5) + [1] * (count % 5):
            output = self.model.resume(forcing=self.forcing, save_interval=1 / 48, total_time=length)
            yield self._convert(output)

    def _convert(self, output: Any) -> xr.Dataset:
        """Turn model output at every half hour into 6-hourly states, means and sums on `5.625deg`."""
        target = get_grid("5.625deg")
        keep = slice(STEPS_PER_6H - 1, None, STEPS_PER_6H)
        state, physics = output._predictions.dynamics, output._predictions.physics

        def at_time(field: Any) -> Array:
            return self._regrid(np.asarray(field[keep], np.float64), target)

        def over_6h(field: Any) -> Array:
            values = np.asarray(field, np.float64)
            return self._regrid(values.reshape(-1, STEPS_PER_6H, *values.shape[1:]).mean(1), target)

        surface, longwave = physics["_surface_flux"], physics["_longwave_rad"]
        rain = over_6h(physics["_convection"].precnv) + over_6h(physics["_condensation"].precls)  # g m-2 s-1
        upper = {
            "z": at_time(state.geopotential),
            "q": at_time(state.specific_humidity),
            "u": at_time(state.u_wind),
            "v": at_time(state.v_wind),
            "t": at_time(state.temperature),
        }
        ps = 1e5 * at_time(state.normalized_surface_pressure)
        levels, msl = to_pressure_levels(upper, ps, self.sigma)
        t2m = at_time(surface.t0)
        # SPEEDY's lowest level stands for the mixed layer: its humidity is the 2-m one, up to saturation.
        td2m = np.minimum(dewpoint(upper["q"][:, -1], ps, least=DRIEST), t2m)
        fields = {
            WB2_NAMES["u10"]: at_time(surface.u0),
            WB2_NAMES["v10"]: at_time(surface.v0),
            WB2_NAMES["t2m"]: t2m,
            WB2_NAMES["msl"]: msl,
            "2m_dewpoint_temperature": td2m,
            "surface_pressure": ps,
            "total_precipitation_6hr": np.clip(rain, 0, None) * 21600 / 1e6,  # m of water
            "outgoing_longwave_radiation": over_6h(longwave.ftop),
            **{WB2_NAMES[name]: values for name, values in levels.items()},
        }
        times = pd.DatetimeIndex(np.asarray(output.times.to_datetime64())).round("min")[keep]
        return _dataset(fields, times, target)

    def _regrid(self, field: Array, target: Grid) -> Array:
        """Regrid fields (..., lon, lat ascending) on the model's grid to (..., lat descending, lon) on `target`."""
        return conservative_average(np.swapaxes(field, -1, -2)[..., ::-1, :], self.grid, target)

    def shift(self, share: float, before: Any) -> None:
        """Move the prognostic fields by a share of their change since an earlier state."""
        now = self.model.run_state
        moved = now.dynamics + share * (now.dynamics - before.dynamics)
        self.restore(replace(now, dynamics=moved.replace(sim_time=now.dynamics.sim_time)))

    def restore(self, state: Any) -> None:
        """Go back to a state of this run."""
        self.model.restore_state(state.dynamics, state.physics, time=state.time, step=state.step)

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        from jcm.checkpoint import save_checkpoint

        save_checkpoint(self.model, path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        from jcm.checkpoint import load_checkpoint

        load_checkpoint(self.model, path)


def to_pressure_levels(fields: dict[str, Array], ps: Array, sigma: Array) -> tuple[dict[str, Array], Array]:
    """Interpolate sigma-level fields to the 13 pressure levels, and reduce surface pressure to sea level.

    Interpolation is linear in ln p; that of geopotential acts on its departure from a standard atmosphere, which is
    nearly linear. Below the lowest full level humidity and wind are constant, and temperature increases by 6.5 K/km
    down to the ground; below the ground it follows ECMWF's rule. The height of the ground is derived from the column's
    hydrostatic balance. The physics' orography is rougher than the dynamics' and would make the fields jump by hundreds
    of m2/s2 whenever surface pressure crosses a level.

    Args:
        fields: z q u v t, each (T, sigma level, H, W), top down.
        ps: (T, H, W) Pa.   sigma: (levels,) of the full levels.

    Returns:
        The same fields (T, 13, H, W), q >= 0; and mean sea-level pressure (T, H, W) in Pa.
    """
    log_p = np.log(sigma[None, :, None, None] * ps[:, None])
    target = LOG_LEVELS
    out = {}
    for name, values in fields.items():
        base = _standard_geopotential(np.exp(log_p)) if name == "z" else 0.0
        out[name] = np.stack([_interpolate(values - base, log_p, x) for x in target], 1)
    out["z"] += _standard_geopotential(np.exp(target))[None, :, None, None]
    out["q"] = np.clip(out["q"], 0, None)
    phis = fields["z"][:, -1] - GRAVITY * fields["t"][:, -1] / LAPSE_RATE * ((1 / sigma[-1]) ** EXPONENT - 1)
    _extrapolate_down(out, fields, ps, phis, sigma)
    return out, _sea_level_pressure(fields["t"][:, -1], ps, phis, sigma[-1])


def _interpolate(values: Array, log_p: Array, x: float) -> Array:
    """Interpolate values (T, K, H, W) to the level ln p = x, (T, H, W); constant outside the full levels."""
    above = np.clip((log_p < x).sum(1) - 1, 0, log_p.shape[1] - 2)[:, None]
    x0, x1 = (np.take_along_axis(log_p, above + i, 1)[:, 0] for i in (0, 1))
    y0, y1 = (np.take_along_axis(values, above + i, 1)[:, 0] for i in (0, 1))
    weight = np.clip((x - x0) / (x1 - x0), 0, 1)
    return y0 + weight * (y1 - y0)


def _standard_geopotential(pressure: Array) -> Array:
    """Return the geopotential of the ICAO standard atmosphere at a pressure (Pa), isothermal above 11 km."""
    troposphere = STANDARD_TEMPERATURE / LAPSE_RATE * (1 - (pressure / STANDARD_PRESSURE) ** EXPONENT)
    depth = DRY_AIR_GAS_CONSTANT * TROPOPAUSE_TEMPERATURE / GRAVITY * np.log(TROPOPAUSE_PRESSURE / pressure)
    stratosphere = TROPOPAUSE_HEIGHT + depth
    return GRAVITY * np.where(pressure > TROPOPAUSE_PRESSURE, troposphere, stratosphere)


def _ground_temperature(t_low: Array, sigma_low: float) -> Array:
    """Return the temperature at the ground, with 6.5 K/km below the lowest full level."""
    return t_low * (1 + EXPONENT * (1 / sigma_low - 1))


def _below_ground(t_low: Array, phis: Array, sigma_low: float) -> tuple[Array, Array]:
    """Return surface temperature and lapse exponent (R gamma / g) for pressure and height, damped where hot or cold."""
    t_star = _ground_temperature(t_low, sigma_low)
    t_sea = t_star + LAPSE_RATE * phis / GRAVITY
    alpha = np.full_like(t_star, EXPONENT)
    hot = (t_sea > 290.5) & (t_star <= 290.5)
    alpha = np.where(hot, DRY_AIR_GAS_CONSTANT * (290.5 - t_star) / np.maximum(phis, 1.0), alpha)
    very_hot = (t_sea > 290.5) & (t_star > 290.5)
    alpha, t_star = np.where(very_hot, 0.0, alpha), np.where(very_hot, (290.5 + t_star) / 2, t_star)
    return np.where(t_star < 255, (255 + t_star) / 2, t_star), alpha


def _sea_level_pressure(t_low: Array, ps: Array, phis: Array, sigma_low: float) -> Array:
    """Return the pressure reduced to sea level, Pa."""
    t_star, alpha = _below_ground(t_low, phis, sigma_low)
    x = alpha * phis / (DRY_AIR_GAS_CONSTANT * t_star)
    return ps * np.exp(phis / (DRY_AIR_GAS_CONSTANT * t_star) * (1 - x / 2 + x**2 / 3))


def _extrapolate_down(out: dict[str, Array], fields: dict[str, Array], ps: Array, phis: Array, sigma: Array) -> None:
    """Replace t and z below the lowest full level, above the ground and below it, in place.

    Temperature starts from the undamped ground temperature. From the damped one it would jump by up to 10 K over
    cold high ground whenever surface pressure crosses a level. The damping applies to what is integrated over depth.
    """
    p_low, t_low, z_low = sigma[-1] * ps, fields["t"][:, -1], fields["z"][:, -1]
    t_ground = _ground_temperature(t_low, float(sigma[-1]))
    t_star, alpha = _below_ground(t_low, phis, float(sigma[-1]))
    for k, level in enumerate(LEVELS):
        p = 100.0 * level
        thin, under = (p > p_low) & (p <= ps), p > ps
        warmer = (p / p_low) ** EXPONENT
        y = alpha * np.log(p / ps)
        below_t = t_ground * (1 + y + y**2 / 2 + y**3 / 6)
        below_z = phis - DRY_AIR_GAS_CONSTANT * t_star * np.log(p / ps) * (1 + y / 2 + y**2 / 6)
        thin_z = z_low - GRAVITY * t_low / LAPSE_RATE * (warmer - 1)
        out["t"][:, k] = np.where(under, below_t, np.where(thin, t_low * warmer, out["t"][:, k]))
        out["z"][:, k] = np.where(under, below_z, np.where(thin, thin_z, out["z"][:, k]))


def _dataset(fields: dict[str, Array], times: pd.DatetimeIndex, grid: Grid) -> xr.Dataset:
    variables = {}
    for name, values in fields.items():
        dims = ("time", "level", "latitude", "longitude") if values.ndim == 4 else ("time", "latitude", "longitude")
        variables[name] = (dims, values.astype(np.float32))
    coords = {
        "time": times,
        "level": np.array(LEVELS, np.int32),
        "latitude": grid.latitude,
        "longitude": grid.longitude,
    }
    return xr.Dataset(variables, coords)


def _write_static(speedy: _Speedy, path: Path) -> None:
    """Write orography (as surface geopotential) and land fraction on the target grid."""
    target = get_grid("5.625deg")
    variables = {}
    for name, field, factor in (
        ("geopotential_at_surface", speedy.terrain.orog, GRAVITY),
        ("land_sea_mask", speedy.terrain.fmask, 1.0),
    ):
        values = factor * speedy._regrid(np.asarray(field, np.float64)[None], target)[0]
        variables[name] = (("latitude", "longitude"), values.astype(np.float32))
    coords = {"latitude": target.latitude, "longitude": target.longitude}
    with whole(path) as temporary:  # years run side by side, and each writes this file
        xr.Dataset(variables, coords).to_netcdf(temporary, engine="h5netcdf")
