"""The blocks of an experiment's file, such as `guards` and `drift`, and how cycle times and names are written."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from dacycle.assimilators.step import StepGuards
from dacycle.common.configuration import Strict
from dacycle.common.times import parse_time
from dacycle.forecast_adapter.durations import Duration, parse_duration, write_duration
from dacycle.forecast_adapter.state import STEP_HOURS
from dacycle.obs_ingest.errors.table import ErrorSettings, read_errors
from dacycle.obs_ingest.quality import control as quality
from dacycle.obs_ingest.quality.station_lists import read_station_list

logger = logging.getLogger(__name__)

__all__ = [
    "STEP",
    "BiasSettings",
    "ColdStart",
    "DriftSettings",
    "Errors",
    "GuardSettings",
    "KeepSettings",
    "LateSettings",
    "ModelBiasRemoval",
    "Name",
    "ObservationSource",
    "PathOrUrl",
    "QualitySettings",
    "Time",
    "parse_cycle_time",
    "parse_donor",
]

STEP = pd.Timedelta(hours=STEP_HOURS)
"""Time from one cycle to the next."""


def parse_cycle_time(value: object) -> pd.Timestamp:
    """Return the UTC time of a cycle, at hour 00, 06, 12 or 18, from what `parse_time` takes.

    Raises:
        ValueError: the text is no time, or not on a cycle hour.
    """
    time = pd.Timestamp(parse_time(value))
    if time != time.floor("6h"):
        raise ValueError(f"{value} is not a cycle time; cycles are at 00, 06, 12 and 18 UTC")
    return time.as_unit("s")


def _write_time(value: pd.Timestamp) -> str:
    return f"{value:%Y-%m-%dT%H}"


def _read_cutoff(value: object) -> object:
    return None if value == "none" else parse_duration(value)


def _write_cutoff(value: pd.Timedelta | None) -> str:
    return "none" if value is None else write_duration(value)


def _none_is_absent(value: object) -> object:
    return None if value == "none" else value


def _normalise_path(value: object) -> object:
    """Return a path in its shortest form; leave a URL as it is."""
    return str(Path(value)) if isinstance(value, str | Path) and "://" not in str(value) else value


def _branch_name(name: str) -> str:
    """Return a name that a branch and its folder can have, and that no file could be meant by."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{,99}", name):
        raise ValueError(
            f"{name!r} is no name of an experiment: at most 100 letters, digits, `.`, `_` and `-`, the first a letter "
            "or a digit"
        )
    if name == "main" or name.endswith((".yaml", ".yml")):
        why = "the archive's trunk has this name" if name == "main" else "that is a file; write the name alone"
        raise ValueError(f"{name!r} is no name of an experiment: {why}")
    return name


def parse_donor(text: str) -> tuple[str, pd.Timestamp]:
    """Split `EXPERIMENT@TIME`.

    Raises:
        ValueError: it has no `@`, or no cycle time after it.
    """
    name, at, time = text.partition("@")
    if not (name and at):
        raise ValueError(f"{text!r} is not EXPERIMENT@TIME, e.g. demo@20240110T00")
    return name, parse_cycle_time(time)


def _donor_form(value: str) -> str:
    parse_donor(value)
    return value


Time = Annotated[pd.Timestamp, BeforeValidator(parse_cycle_time), PlainSerializer(_write_time)]
Cutoff = Annotated[pd.Timedelta | None, BeforeValidator(_read_cutoff), PlainSerializer(_write_cutoff)]
Errors = Annotated[ErrorSettings | None, BeforeValidator(read_errors)]
ModelBiasRemoval = Annotated[Literal["removed"] | None, BeforeValidator(_none_is_absent)]
PathOrUrl = Annotated[str, BeforeValidator(_normalise_path)]
Name = Annotated[str, AfterValidator(_branch_name)]
Donor = Annotated[str, AfterValidator(_donor_form)]


class ColdStart(Strict):
    """Say where the two frames before the first cycle come from: exactly one of lagged, state, climatology, from."""

    lagged: Duration | None = None
    """Length of a forecast that starts from the reference and ends 6 h before the first cycle."""
    state: PathOrUrl | None = None
    """Path or URL of the states 12 and 6 hours before the first cycle, as `products.open_states` reads them."""
    one_frame: Literal[True] | None = None
    """Whether `state` holds only the later of the two, which is then used for both; the record says so."""
    climatology: Literal[True] | None = None
    """Use the world's climatology at both times."""
    from_: Annotated[Donor | None, Field(alias="from")] = None
    """EXPERIMENT@TIME: continue from that cycle of another experiment; the branch shares its past."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "ColdStart":
        if len(self.model_fields_set - {"one_frame"}) != 1:
            raise ValueError("give exactly one of lagged, state, climatology, from")
        if self.one_frame and self.state is None:
            raise ValueError("one_frame goes with state: the others have both frames")
        return self

    @field_validator("lagged")
    @classmethod
    def _whole_steps(cls, value: pd.Timedelta | None) -> pd.Timedelta | None:
        if value is not None and (value < 2 * STEP or value % STEP):
            raise ValueError("a lagged start is a multiple of 6h, at least 12h")
        return value


class ObservationSource(BaseModel):
    """Name a source of observations and its cutoff; the source itself checks its further options."""

    model_config = ConfigDict(extra="allow", frozen=True, arbitrary_types_allowed=True)

    source: str
    """Kind of the source, e.g. `stations` (drawn from the world) or `synop_bufr` (read from files)."""
    cutoff: Cutoff = Field(description="a duration such as 3h, or none")
    """Only values received by the analysis time plus this duration are used; `none` uses all."""

    @property
    def name(self) -> str:
        """Return the name that the table's `source` column holds."""
        return str((self.model_extra or {}).get("name", self.source))


class GuardSettings(Strict):
    """Set the limits beyond which a cycle keeps its background, is marked, or stops the run."""

    increment_limit: float = Field(default=StepGuards.increment_limit, gt=0)
    """Largest increment anywhere, in standard deviations of the background's error, by channel and latitude."""
    rms_limit: float = Field(default=StepGuards.rms_limit, gt=0)
    """Largest root mean square increment over the globe, in those of that error or of the past week's increments."""
    cold_factor: float = Field(default=2.0, ge=1)
    """Factor by which both are larger in the first cycles of a cold start."""
    cold_cycles: int = Field(default=8, ge=0)
    """Number of these first cycles."""
    water_limit: float = Field(default=0.5, gt=0)
    """Largest amount of water that clipping humidity at 0 may add, kg m-2 averaged over the globe."""
    minimum_observations: int = Field(default=100, ge=1)
    """Fewer observed values on the grid mark the cycle `degraded`."""
    fallbacks_in_a_row: int = Field(default=4, ge=0)
    """More fallbacks in a row than this stop the run."""

    @model_validator(mode="before")
    @classmethod
    def _former_key(cls, content: Any) -> Any:
        """Leave out `background_error`, which earlier versions and their archives hold, and the limit in its unit."""
        former = ("background_error", "increment_limit")
        if isinstance(content, Mapping) and "background_error" in content:
            logger.warning(
                "guards.background_error, and increment_limit beside it, are of an earlier version and not used: "
                "limits are in units of the background's error, which the run estimates"
            )
            return {key: value for key, value in content.items() if key not in former}
        return content

    def of_step(self) -> StepGuards:
        """Return the guards of a single analysis step."""
        return StepGuards(
            increment_limit=self.increment_limit,
            rms_limit=self.rms_limit,
            cold_factor=self.cold_factor,
            water_limit=self.water_limit,
            minimum_observations=self.minimum_observations,
        )


class BiasSettings(Strict):
    """Set how biases of single stations are estimated from past cycles and removed (`errors.station_bias`)."""

    variables: tuple[Literal["t2m", "msl", "ps", "u10", "v10"], ...] = ("t2m", "msl", "ps")
    """Variables whose station biases are removed."""
    memory: Duration = pd.Timedelta(days=30)
    """Only cycles at most this long before the analysis count."""
    n0: float = Field(default=20.0, gt=0)
    """Number of departures at which half of a station's deviation from its neighbours is removed."""
    radius_km: float = Field(default=300.0, gt=0)
    """Distance within which stations are neighbours."""


Threshold = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]


class QualitySettings(Strict):
    """Set the checks of observations that differ from the default ones (`obs_ingest.quality.control.CYCLE_CHECKS`)."""

    background_check: Threshold = quality.CYCLE_CHECKS.background_check
    """Largest departure from the background, in standard deviations of both their errors as the run estimates them."""
    buddy_check: Threshold | None = None
    """Largest difference from the departures of the neighbours, in their standard deviations; 4 is usual."""
    spatial_consistency: Threshold | None = None
    """Threshold of the spatial consistency test; 9 is mild."""
    blacklist: Path | None = None
    """Station list; values of its stations are not used."""
    whitelist: Path | None = None
    """Station list; only values of its stations are used."""

    def checks(self) -> quality.Checks:
        """Return the checks with the station lists read.

        Raises:
            ObservationError: a list cannot be read.
        """
        lists = {
            name: None if path is None else read_station_list(path)
            for name, path in (("blacklist", self.blacklist), ("whitelist", self.whitelist))
        }
        return quality.Checks(self.background_check, self.buddy_check, self.spatial_consistency, **lists)


class DriftSettings(Strict):
    """Set which forecasts start from the analyses, to be scored against the reference."""

    starts: tuple[Literal[0, 6, 12, 18], ...] = (0, 12)
    """Hours of the day (UTC) whose analyses start a forecast."""
    lead: Duration = pd.Timedelta(hours=240)
    """Longest lead of these forecasts, a multiple of 6 h such as `240h` or `10d`."""
    members: int | None = Field(default=None, ge=3)
    """Number of members whose forecasts are made and scored, too, in a run that has some; default: none."""
    free_run: bool = True
    """Whether NAME-free, the same run without assimilation, is also made."""


class LateSettings(Strict):
    """Set the late chain: a second pass over the same times, NAME-late, from which each cycle starts."""

    cutoff: Duration
    """The late cycle at t takes what was received by t plus this; sources with `cutoff: none` keep that."""
    from_: Annotated[Donor | None, Field(alias="from")] = None
    """EXPERIMENT@TIME: the late cycle that the late chain of a fork goes on from; default: as `cold_start` says."""


class KeepSettings(Strict):
    """Set how long the states of every cycle are kept; records, departures, scores and headline fields always are."""

    cycles: Duration = Field(description="a duration such as 60d")
    """How long, before the newest cycle, every cycle keeps its states."""
    then: Literal["daily", "none"] = "daily"
    """Which states are kept of older cycles: those of 00 UTC with the analysis 6 h before, from which a forecast or a
    fork can start, or none."""

    @field_validator("cycles")
    @classmethod
    def _long_enough(cls, value: pd.Timedelta) -> pd.Timedelta:
        if value < pd.Timedelta(days=2):
            raise ValueError("the newest 2d are always kept, because cycles start from them; give at least 2d")
        return value
