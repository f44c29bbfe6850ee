"""The static ensemble of forecast errors behind optimal interpolation: drawing it, and its file.

Members are the model's forecasts minus the reference, at mixed leads, drawn over the years of its recipe. Every lead's
errors are scaled to the size of all leads together, so that long ones do not drown the short ones; how large the
errors of a cycle's background are is what the inflation is tuned for.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml
from numpy.typing import NDArray

from dacycle.assimilators.base import AssimilatorError
from dacycle.assimilators.classical.olr import OlrOperator, OlrSamples, fit_olr
from dacycle.forecast_adapter.channels import GROUPS, NAMES
from dacycle.forecast_adapter.grid import Grid, get_grid
from dacycle.forecast_adapter.models.model import ForecastModel, load_model
from dacycle.forecast_adapter.state import STEP
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World, load_world

__all__ = [
    "BackgroundError",
    "Recipe",
    "Settings",
    "estimate_background_error",
    "estimate_from_recipe",
    "forecast_errors",
    "read_recipe",
]

_FORMAT = "dacycle background error 2"
_UNITS = 100  # of the largest value of a field, in which it is stored: finer ones make the file larger than 10 MB
_OLR_STATES = 36  # a year, to fit the operator to


@dataclass(frozen=True)
class Settings:
    """What is tuned for an ensemble by cycling with it.

    Attributes:
        inflation: factor on the members' amplitude, one for all channels or one per group (`surface z q u v t`).
        distance_km: great-circle distance from which on an observation has no influence.
    """

    inflation: float | Mapping[str, float] = 1.0
    distance_km: float = 2000.0

    def __post_init__(self) -> None:
        factors = self.inflation if isinstance(self.inflation, Mapping) else dict.fromkeys(GROUPS, self.inflation)
        if set(factors) != set(GROUPS):
            raise AssimilatorError(
                f"inflation is one number or one for each of {', '.join(GROUPS)}, not {sorted(factors)}"
            )
        if min(*factors.values(), self.distance_km) <= 0:
            raise AssimilatorError("inflation and distance_km must be positive")

    def inflation_by_channel(self) -> NDArray:
        """(69,) float32."""
        factors = np.empty(len(NAMES), np.float32)
        for group, channels in GROUPS.items():
            factors[channels] = self.inflation[group] if isinstance(self.inflation, Mapping) else self.inflation
        return factors


@dataclass(frozen=True, eq=False)
class BackgroundError:
    """A static ensemble of background errors.

    Attributes:
        members: (N, 69, H, W) float32, SI; their mean is 0.
        std: (69,) float32, SI: area-weighted standard deviation of the members, before inflation.
        grid, world: what they are of.
        settings: tuned for this ensemble.
        olr: the observation operator of OLR and the members' OLR; None: OLR is not used.
        provenance: model and its digest, leads, period, seed: recorded, not interpreted.
        digest: SHA-256 of the file it was read from, `""` if it was not.
    """

    members: NDArray
    std: NDArray
    grid: Grid
    world: str
    settings: Settings = field(default_factory=Settings)
    olr: OlrSamples | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @classmethod
    def from_samples(
        cls,
        samples: NDArray,
        grid: Grid,
        world: str,
        settings: Settings | None = None,
        olr: OlrSamples | None = None,
        **provenance: Any,
    ) -> "BackgroundError":
        """From N samples of background error, (N, 69, H, W) SI; their mean is removed."""
        members = np.asarray(samples - samples.mean(axis=0), np.float32)
        variance = (members.astype(np.float64) ** 2 * grid.weights).mean(axis=(2, 3)).sum(axis=0) / (len(members) - 1)
        return cls(members, np.sqrt(variance).astype(np.float32), grid, world, settings or Settings(), olr, provenance)

    def save(self, path: Path) -> None:
        """Write a netCDF file: members as 8-bit integers in units of 1/100 of each channel's largest value."""
        dims = ("member", "channel", "latitude", "longitude")
        packed, unit = _pack(self.members)
        variables: dict[str, Any] = {"members": (dims, packed), "unit": ("channel", unit), "std": ("channel", self.std)}
        attributes: dict[str, Any] = {
            "format": _FORMAT,
            "grid": self.grid.name,
            "world": self.world,
            "settings": json.dumps(asdict(self.settings)),
            "provenance": json.dumps(dict(self.provenance)),
        }
        if self.olr is not None:
            packed_olr, unit_olr = _pack(self.olr.members[:, None])
            variables["olr"] = (("member", "latitude", "longitude"), packed_olr[:, 0], {"scale": float(unit_olr[0])})
            variables["olr_weights"] = ("predictor", self.olr.operator.weights)
            attributes |= {"olr_constant": self.olr.operator.constant, "olr_error": self.olr.operator.error}
        coordinates = {"channel": NAMES, "latitude": self.grid.latitude, "longitude": self.grid.longitude}
        dataset = xr.Dataset(variables, coordinates, attributes)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        encoding = {"members": {"zlib": True, "complevel": 9, "chunksizes": (len(packed), 1, *self.grid.shape)}}
        dataset.to_netcdf(part, engine="h5netcdf", encoding=encoding)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> "BackgroundError":
        """Read what `save` wrote.

        Raises:
            AssimilatorError: another kind of file, or one of other channels; names the file.
        """
        try:
            with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as file:
                dataset = file.load()
        except (OSError, ValueError) as error:
            raise AssimilatorError(f"{path}: not a readable netCDF file ({error})") from error
        if dataset.attrs.get("format") != _FORMAT:
            raise AssimilatorError(f"{path}: not a background error file ({_FORMAT!r})")
        if list(dataset.channel.values) != NAMES:
            raise AssimilatorError(f"{path}: its channels are not the {len(NAMES)} of a state, in their order")
        members = dataset["members"].values * dataset["unit"].values[:, None, None].astype(np.float32)
        return cls(
            members - members.mean(axis=0),  # rounding left a mean that is not quite 0
            dataset["std"].values,
            get_grid(dataset.attrs["grid"]),
            dataset.attrs["world"],
            Settings(**json.loads(dataset.attrs["settings"])),
            _unpack_olr(dataset),
            json.loads(dataset.attrs["provenance"]),
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )


def _pack(members: NDArray) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(N, C, H, W) as 8-bit integers, and the unit of each channel (C,)."""
    largest = np.abs(members).max(axis=(0, 2, 3))
    unit = np.where(largest > 0, largest / _UNITS, 1).astype(np.float32)
    return np.rint(members / unit[:, None, None]).astype(np.int8), unit


def _unpack_olr(dataset: xr.Dataset) -> OlrSamples | None:
    if "olr" not in dataset:
        return None
    constant, error = (float(dataset.attrs[name]) for name in ("olr_constant", "olr_error"))
    members = dataset["olr"].values * np.float32(dataset["olr"].attrs["scale"])
    return OlrSamples(OlrOperator(dataset["olr_weights"].values, constant, error), members - members.mean(axis=0))


def forecast_errors(
    model: ForecastModel, reference: Reference, leads: Sequence[int], members: int, seed: int, years: Sequence[int]
) -> tuple[NDArray, NDArray]:
    """Errors of forecasts started from the reference.

    Args:
        leads: hours, multiples of 6, used in turn.
        members: how many to draw, spread evenly over the years: each start is random in its own stretch.
        years: no forecast leaves its year, because a nature run's years need not follow on each other.

    Returns:
        errors: (members, 69, H, W) float32, SI: forecast minus reference. leads: (members,) hours.

    Raises:
        AssimilatorError: no start in these years has its frames and its verifying state.
    """
    generator = np.random.default_rng(seed)
    used = np.resize(np.asarray(leads), members)
    generator.shuffle(used)
    held = set(reference.times)
    inside = reference.times_of(years)
    starts = {lead: [t for t in inside if _usable(t, lead, held)] for lead in leads}
    for lead in leads:
        if not starts[lead]:
            raise AssimilatorError(
                f"{reference.folder}: no forecast of {lead} h can be started and verified in {list(years)}"
            )
    errors = []
    for i, lead in enumerate(used):
        time = starts[lead][int((i + generator.random()) / members * len(starts[lead]))]
        previous, current = reference.array(time - STEP)[None], reference.array(time)[None]
        steps = int(lead) // 6
        forecast = next(islice(model.forecast(previous, current, steps), steps - 1, None))
        errors.append(forecast[0] - reference.array(time + np.timedelta64(int(lead), "h")))
    return np.stack(errors), used


def _usable(time: np.datetime64, lead: int, held: set[np.datetime64]) -> bool:
    """Whether both frames and the verifying state exist, in one calendar year."""
    last = time + np.timedelta64(lead, "h")
    same_year = (time - STEP).astype("datetime64[Y]") == last.astype("datetime64[Y]")
    return bool(same_year) and time - STEP in held and last in held


def estimate_background_error(
    model: ForecastModel,
    reference: Reference,
    world: World,
    *,
    leads: Sequence[int],
    members: int,
    seed: int,
    years: Sequence[int],
    settings: Settings,
    olr: bool = False,
) -> BackgroundError:
    """Draw the static ensemble of a model's errors; arguments as in `forecast_errors`.

    olr: whether OLR is to be used, through an operator fitted to the reference in these years.

    Raises:
        AssimilatorError: the model is of another world, or the years hold no usable start.
    """
    if model.world != world.name:
        raise AssimilatorError(f"the model {model.name} belongs to the world {model.world!r}, not to {world.name!r}")
    errors, used = forecast_errors(model, reference, leads, members, seed, years)
    squares = (errors.astype(np.float64) ** 2 * world.grid.weights).mean(axis=(2, 3))
    for lead in set(used):
        own = squares[used == lead].mean(axis=0)
        factor = np.sqrt(np.divide(squares.mean(axis=0), own, out=np.zeros(len(own)), where=own > 0))
        errors[used == lead] *= factor[:, None, None].astype(np.float32)
    return BackgroundError.from_samples(
        errors,
        world.grid,
        world.name,
        settings,
        fit_olr(reference, _spread_over(reference, years), errors - errors.mean(axis=0)) if olr else None,
        model=model.name,
        model_digest=model.digest,
        leads=[int(lead) for lead in leads],
        years=[int(year) for year in years],
        seed=seed,
    )


def _spread_over(reference: Reference, years: Sequence[int]) -> NDArray[np.datetime64]:
    """Times for the operator of OLR, evenly over the years."""
    inside = reference.times_of(years)
    return inside[np.linspace(0, len(inside) - 1, min(_OLR_STATES * len(years), len(inside))).astype(int)]


@dataclass(frozen=True)
class Recipe:
    """A recipe of `kind: oi`: the arguments of `estimate_background_error`, and the settings tuned for the result."""

    world: str
    model: str
    data: str
    years: list[int]
    leads: list[int]
    members: int
    seed: int
    inflation: float | dict[str, float]
    distance_km: float
    olr: bool


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; AssimilatorError names the file and every key that is missing or unknown."""
    entries = yaml.safe_load(path.read_text())
    if not isinstance(entries, dict) or entries.pop("kind", None) != "oi":
        raise AssimilatorError(f"{path}: not a recipe of `kind: oi`")
    wanted = {entry.name for entry in fields(Recipe)}
    if set(entries) != wanted:
        faults = [f"{key} is missing" for key in sorted(wanted - set(entries))]
        faults += [f"{key} is unknown" for key in sorted(map(str, set(entries) - wanted))]
        raise AssimilatorError(f"{path}: {', '.join(faults)}")
    recipe = Recipe(**entries)
    if recipe.members < 2 or not recipe.leads or any(lead < 6 or lead % 6 for lead in recipe.leads):
        raise AssimilatorError(f"{path}: needs at least 2 members, and leads that are multiples of 6 h")
    return recipe


def estimate_from_recipe(path: Path, out: Path, data: Path | str | None = None) -> BackgroundError:
    """Estimate what a recipe of `kind: oi` describes, write it to `out` (netCDF) and return it.

    data: folder of the reference, in place of the recipe's.
    """
    recipe = read_recipe(path)
    world = load_world(recipe.world)
    error = estimate_background_error(
        load_model(recipe.model),
        Reference(data or recipe.data),
        world,
        leads=recipe.leads,
        members=recipe.members,
        seed=recipe.seed,
        years=recipe.years,
        settings=Settings(recipe.inflation, recipe.distance_km),
        olr=recipe.olr,
    )
    error.save(out)
    return error
