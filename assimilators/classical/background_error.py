"""The static ensemble of forecast errors behind optimal interpolation: its estimate and its file.

Members are the model's forecasts minus the reference, at mixed leads, drawn over the years of the recipe. The errors of
each lead are scaled to the size of all leads together, so that long leads do not dominate. The inflation then sets the
size of a cycle's background error, and is tuned by cycling.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.assimilators.base import AssimilatorError
from dacycle.assimilators.classical.olr import OlrOperator, OlrSamples, fit_olr, fit_operator
from dacycle.common.files import whole
from dacycle.common.foreign import reading
from dacycle.forecast_adapter.channels import GROUPS, NAMES
from dacycle.forecast_adapter.grid import Grid, conservative_average, get_grid
from dacycle.forecast_adapter.models.model import ForecastModel
from dacycle.forecast_adapter.state import STEP
from dacycle.forecast_adapter.worlds.reference import Reference, ReferenceDataError
from dacycle.forecast_adapter.worlds.world import World

__all__ = [
    "BackgroundError",
    "Tuning",
    "draw_forecast_errors",
    "estimate_background_error",
    "fit_olr_operator",
    "shifted",
]

logger = logging.getLogger(__name__)

_FORMAT = "dacycle background error 2"
_UNITS = 100  # steps up to a field's largest value, in which it is stored: finer ones make the file exceed 10 MB
_OLR_STATES = 36  # states a year that the operator of OLR is fitted to


@dataclass(frozen=True)
class Tuning:
    """Hold the settings that are tuned for an ensemble by cycling with it.

    Attributes:
        inflation: factor on the members' amplitude, one for all channels or one per group (`surface z q u v t`).
        distance_km: great-circle distance from which on an observation has no influence.
        shift: degrees of longitude by which the members are also shifted, to the west and to the east; 0: they are not.
            Their statistics hardly change along a parallel, so that this makes three members of one.
        block: weights are computed at the centres of blocks of so many cells along a side, and interpolated.
    """

    inflation: float | Mapping[str, float] = 1.0
    distance_km: float = 2000.0
    shift: float = 0.0
    block: int = 1

    def __post_init__(self) -> None:
        factors = self.inflation if isinstance(self.inflation, Mapping) else dict.fromkeys(GROUPS, self.inflation)
        if set(factors) != set(GROUPS):
            raise AssimilatorError(
                f"inflation is one number or one for each of {', '.join(GROUPS)}, not {sorted(factors)}"
            )
        if min(*factors.values(), self.distance_km) <= 0:
            raise AssimilatorError("inflation and distance_km must be positive")
        if not 0 <= self.shift < 180 or self.block < 1:
            raise AssimilatorError("shift is 0 or more degrees, below 180, and block is 1 or more cells")

    def inflation_by_channel(self) -> NDArray:
        """Return the inflation of each channel, (69,) float32."""
        factors = np.empty(len(NAMES), np.float32)
        for group, channels in GROUPS.items():
            factors[channels] = self.inflation[group] if isinstance(self.inflation, Mapping) else self.inflation
        return factors


@dataclass(frozen=True, eq=False)
class BackgroundError:
    """Hold a static ensemble of background errors.

    Attributes:
        members: (N, 69, H, W) float32, SI; their mean is 0.
        std: (69,) float32, SI: area-weighted standard deviation of the members, before inflation.
        grid, world: of the members.
        tuning: for this ensemble.
        olr: the observation operator of OLR and the members' OLR; None: OLR is not used.
        provenance: model and its digest, leads, period, seed: recorded, not interpreted.
        digest: SHA-256 of the file it was read from, `""` if it was not.
    """

    members: NDArray
    std: NDArray
    grid: Grid
    world: str
    tuning: Tuning = field(default_factory=Tuning)
    olr: OlrSamples | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @classmethod
    def from_samples(
        cls,
        samples: NDArray,
        grid: Grid,
        world: str,
        tuning: Tuning | None = None,
        olr: OlrSamples | None = None,
        **provenance: Any,
    ) -> "BackgroundError":
        """Make an ensemble of N samples of background error, (N, 69, H, W) SI; their mean is removed."""
        members = np.asarray(samples - samples.mean(axis=0), np.float32)
        variance = (members.astype(np.float64) ** 2 * grid.weights).mean(axis=(2, 3)).sum(axis=0) / (len(members) - 1)
        return cls(members, np.sqrt(variance).astype(np.float32), grid, world, tuning or Tuning(), olr, provenance)

    def save(self, path: Path) -> None:
        """Write a netCDF file: members as 8-bit integers in units of 1/100 of each channel's largest value."""
        dims = ("member", "channel", "latitude", "longitude")
        packed, unit = _pack(self.members)
        variables: dict[str, Any] = {"members": (dims, packed), "unit": ("channel", unit), "std": ("channel", self.std)}
        attributes: dict[str, Any] = {
            "format": _FORMAT,
            "grid": self.grid.name,
            "world": self.world,
            "settings": json.dumps(asdict(self.tuning)),
            "provenance": json.dumps(dict(self.provenance)),
        }
        if self.olr is not None:
            packed_olr, unit_olr = _pack(self.olr.members[:, None])
            variables["olr"] = (("member", "latitude", "longitude"), packed_olr[:, 0], {"scale": float(unit_olr[0])})
            variables["olr_weights"] = ("predictor", self.olr.operator.weights)
            attributes |= {"olr_constant": self.olr.operator.constant, "olr_error": self.olr.operator.error}
        coordinates = {"channel": NAMES, "latitude": self.grid.latitude, "longitude": self.grid.longitude}
        dataset = xr.Dataset(variables, coordinates, attributes)
        encoding = {"members": {"zlib": True, "complevel": 9, "chunksizes": (len(packed), 1, *self.grid.shape)}}
        with whole(path) as temporary:
            dataset.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)

    @classmethod
    def load(cls, path: Path) -> "BackgroundError":
        """Read what `save` wrote.

        Raises:
            AssimilatorError: another kind of file, or one of other channels; names the file.
        """
        with reading(path, AssimilatorError):
            with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as file:
                dataset = file.load()
            found = dataset.attrs.get("format")
            if found != _FORMAT:
                what = f"not a background error file ({_FORMAT!r})"
                if str(found).startswith("dacycle variational covariance"):
                    what = (
                        "of 3dvar and 4dvar; say `assimilator: 3dvar` and name it in `variational: {covariance: FILE}`"
                    )
                raise AssimilatorError(f"{path}: {what}")
            if list(dataset.channel.values) != NAMES:
                raise AssimilatorError(f"{path}: its channels are not the {len(NAMES)} of a state, in their order")
            members = dataset["members"].values * dataset["unit"].values[:, None, None].astype(np.float32)
            return cls(
                members - members.mean(axis=0),  # rounding leaves a mean that is not exactly 0
                dataset["std"].values,
                get_grid(dataset.attrs["grid"]),
                dataset.attrs["world"],
                Tuning(**json.loads(dataset.attrs["settings"])),
                _unpack_olr(dataset),
                json.loads(dataset.attrs["provenance"]),
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )


def shifted(fields: NDArray, degrees: float) -> NDArray:
    """Return fields (N, ..., W), and the same shifted by degrees of longitude to the west and to the east, (3 N, ...).

    Where the shift is less than half a cell, there is nothing to add.
    """
    turn = round(degrees / 360 * fields.shape[-1])
    return np.concatenate([np.roll(fields, cells, axis=-1) for cells in sorted({-turn, 0, turn})])


def _pack(members: NDArray) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return members (N, C, H, W) as 8-bit integers, and the unit of each channel, (C,)."""
    largest = np.abs(members).max(axis=(0, 2, 3))
    unit = np.where(largest > 0, largest / _UNITS, 1).astype(np.float32)
    return np.rint(members / unit[:, None, None]).astype(np.int8), unit


def _unpack_olr(dataset: xr.Dataset) -> OlrSamples | None:
    if "olr" not in dataset:
        return None
    constant, error = (float(dataset.attrs[name]) for name in ("olr_constant", "olr_error"))
    members = dataset["olr"].values * np.float32(dataset["olr"].attrs["scale"])
    return OlrSamples(OlrOperator(dataset["olr_weights"].values, constant, error), members - members.mean(axis=0))


def draw_forecast_errors(
    model: ForecastModel,
    reference: Reference,
    grid: Grid,
    leads: Sequence[int],
    members: int,
    seed: int,
    years: Sequence[int],
) -> tuple[NDArray, NDArray]:
    """Draw errors of forecasts that start from the reference.

    Args:
        model: the forecast model.
        reference: holds the frames of the starts and the verifying states, on the model's grid.
        grid: of the errors: the model's, or a coarser one, to whose cells they are averaged.
        leads: hours, multiples of 6, used in turn.
        members: how many to draw; the years are cut into as many stretches, with one random start in each.
        seed: of the starts.
        years: no forecast leaves its year, because a nature run's years need not follow on each other.

    Returns:
        errors: (members, 69, H, W) float32, SI: forecast minus reference. leads: (members,) hours.

    Raises:
        AssimilatorError: no start in these years has its frames and its verifying state.
    """
    generator = np.random.default_rng(seed)
    drawn_leads = np.resize(np.asarray(leads), members)
    generator.shuffle(drawn_leads)
    available = set(reference.times)
    starts = {lead: [t for t in reference.times_of(years) if _is_start(t, lead, available)] for lead in leads}
    for lead in leads:
        if not starts[lead]:
            raise AssimilatorError(
                f"{reference.folder}: no forecast of {lead} h can be started and verified in {list(years)}"
            )
    errors = []
    for i, lead in enumerate(drawn_leads):
        time = starts[lead][int((i + generator.random()) / members * len(starts[lead]))]
        previous, current = reference.array(time - STEP)[None], reference.array(time)[None]
        steps = int(lead) // 6
        forecast = next(islice(model.forecast(previous, current, steps), steps - 1, None))
        error = forecast[0] - reference.array(time + np.timedelta64(int(lead), "h"))
        errors.append(_averaged(error, reference.grid, grid))
    return np.stack(errors), drawn_leads


def _averaged(fields: NDArray, source: Grid, grid: Grid) -> NDArray:
    """Return fields (..., H, W) on a grid that is theirs or coarser."""
    return fields if source.matches(grid) else conservative_average(fields, source, grid)


def _is_start(time: np.datetime64, lead: int, available: set[np.datetime64]) -> bool:
    """Return whether both frames and the verifying state are available, in one calendar year."""
    last = time + np.timedelta64(lead, "h")
    same_year = (time - STEP).astype("datetime64[Y]") == last.astype("datetime64[Y]")
    return bool(same_year) and time - STEP in available and last in available


def estimate_background_error(
    model: ForecastModel,
    reference: Reference,
    world: World,
    *,
    leads: Sequence[int],
    members: int,
    seed: int,
    years: Sequence[int],
    tuning: Tuning,
    olr: bool = False,
) -> BackgroundError:
    """Estimate the static ensemble of a model's errors.

    Args:
        model, reference, leads, members, seed, years: as in `draw_forecast_errors`.
        world: of the ensemble. Where the model's grid is finer, so that the ensemble gives increments on a coarser
            one (`assimilators.incremental`), errors are averaged.
        tuning: for the ensemble.
        olr: fit an operator of OLR to the reference in these years, so that OLR is used.

    Raises:
        AssimilatorError: the model was made for another world or is on another grid than the reference, or the years
            hold no usable start.
    """
    if not world.takes(model.world):
        raise AssimilatorError(f"the model {model.name} belongs to the world {model.world!r}, not to {world.name!r}")
    if not model.grid.matches(reference.grid):
        raise AssimilatorError(
            f"{reference.folder}: the data are on a {reference.grid.shape} grid, {model.name} runs on {model.grid.name}"
        )
    errors, drawn_leads = draw_forecast_errors(model, reference, world.grid, leads, members, seed, years)
    squares = (errors.astype(np.float64) ** 2 * world.grid.weights).mean(axis=(2, 3))
    for lead in set(drawn_leads):
        of_lead = squares[drawn_leads == lead].mean(axis=0)
        factor = np.sqrt(np.divide(squares.mean(axis=0), of_lead, out=np.zeros(len(of_lead)), where=of_lead > 0))
        errors[drawn_leads == lead] *= factor[:, None, None].astype(np.float32)
    return BackgroundError.from_samples(
        errors,
        world.grid,
        world.name,
        tuning,
        _olr_of(errors, reference, world.grid, years) if olr else None,
        model=model.name,
        model_digest=model.digest,
        leads=[int(lead) for lead in leads],
        years=[int(year) for year in years],
        seed=seed,
    )


def _olr_of(errors: NDArray, reference: Reference, grid: Grid, years: Sequence[int]) -> OlrSamples | None:
    """Return the operator of OLR, with the OLR of the errors' deviations; None where the reference has no OLR."""
    fitted = _states_and_olr(reference, grid, years)
    return None if fitted is None else fit_olr(*fitted, grid.weights, errors - errors.mean(axis=0))


def fit_olr_operator(reference: Reference, grid: Grid, years: Sequence[int]) -> OlrOperator | None:
    """Fit the operator of OLR to a reference; None, with a warning, where it has no OLR.

    Raises:
        AssimilatorError: the reference's fields are damaged.
    """
    fitted = _states_and_olr(reference, grid, years)
    return None if fitted is None else fit_operator(*fitted, grid.weights)


def _states_and_olr(reference: Reference, grid: Grid, years: Sequence[int]) -> tuple[NDArray, NDArray] | None:
    """Return states (n, 69, H, W) and their OLR (n, H, W); None, with a warning, where the reference has no OLR."""
    times = _spread_over(reference, years)
    try:
        has_olr = "olr" in reference.extra_fields(times)
    except ReferenceDataError as error:
        raise AssimilatorError(str(error)) from error
    if not has_olr:
        logger.warning("%s: no outgoing_longwave_radiation, so OLR is not used", reference.folder)
        return None
    states, olr = (
        np.stack([_averaged(fields(time), reference.grid, grid) for time in times])
        for fields in (reference.array, lambda time: reference.surface(time, ("olr",))["olr"].values)
    )
    return states, olr


def _spread_over(reference: Reference, years: Sequence[int]) -> NDArray[np.datetime64]:
    """Return times for the operator of OLR, spread evenly over the years."""
    times = reference.times_of(years)
    return times[np.linspace(0, len(times) - 1, min(_OLR_STATES * len(years), len(times))).astype(int)]
