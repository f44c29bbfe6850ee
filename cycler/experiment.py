"""An experiment: one YAML file that says everything about a run, checked before anything runs.

Unknown keys are errors. Each error names the file, the line and the key, and suggests the nearest known key.
"""

import hashlib
import json
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

from dacycle.assimilators.base import ENSEMBLE_METHODS, VARIATIONAL_METHODS
from dacycle.assimilators.classical.settings import TuningSettings
from dacycle.assimilators.ensemble.settings import OF_FILTERS, EnsembleSettings
from dacycle.assimilators.step import StepGuards
from dacycle.assimilators.variational.settings import VariationalSettings
from dacycle.common.configuration import Strict, parse_checked, read_checked, write_yaml
from dacycle.common.errors import DacycleError
from dacycle.common.times import cycle_id, parse_time
from dacycle.forecast_adapter.grid import Grid, get_grid
from dacycle.forecast_adapter.models.frames import CycledFrames
from dacycle.forecast_adapter.state import STEP_HOURS
from dacycle.obs_ingest.errors.table import ErrorSettings, ErrorTable, read_errors
from dacycle.obs_ingest.quality import control as quality
from dacycle.obs_ingest.quality.station_lists import read_station_list
from dacycle.obs_ingest.sources.base import DRAWN, error_kind

logger = logging.getLogger(__name__)

__all__ = [
    "STEP",
    "ColdStart",
    "Experiment",
    "ExperimentError",
    "ObservationSource",
    "cycle_id",
    "differences",
    "load_experiment",
    "parse_cycle_time",
    "parse_donor",
    "parse_duration",
    "parse_experiment",
    "write_experiment",
]

STEP = pd.Timedelta(hours=STEP_HOURS)
"""Time from one cycle to the next."""


CHANGEABLE = ("end", "keep")
"""Keys that may change while a run goes on: they change no cycle."""


class ExperimentError(DacycleError, ValueError):
    """An experiment cannot run as written; the message names file, line, key and remedy."""


def parse_cycle_time(value: object) -> pd.Timestamp:
    """Return the UTC time of a cycle, at hour 00, 06, 12 or 18, from what `parse_time` takes.

    Raises:
        ValueError: the text is no time, or not on a cycle hour.
    """
    time = pd.Timestamp(parse_time(value))
    if time != time.floor("6h"):
        raise ValueError(f"{value} is not a cycle time; cycles are at 00, 06, 12 and 18 UTC")
    return time.as_unit("s")


def parse_duration(value: object) -> pd.Timedelta:
    """Return the duration that `90min`, `48h` or `10d` says.

    Raises:
        ValueError: the text has no such form; a bare number has none, as its unit would be a guess.
    """
    if isinstance(value, pd.Timedelta):
        return value
    match = re.fullmatch(r"(\d+)(min|h|d)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration; write it as 90min, 48h or 10d")
    unit = {"min": "minutes", "h": "hours", "d": "days"}[match[2]]
    return pd.Timedelta(**{unit: int(match[1])})


def _write_time(value: pd.Timestamp) -> str:
    return f"{value:%Y-%m-%dT%H}"


def _write_duration(value: pd.Timedelta) -> str:
    minutes = round(value.total_seconds() / 60)
    return f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}min"


def _read_cutoff(value: object) -> object:
    return None if value == "none" else parse_duration(value)


def _write_cutoff(value: pd.Timedelta | None) -> str:
    return "none" if value is None else _write_duration(value)


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


Time = Annotated[pd.Timestamp, BeforeValidator(parse_cycle_time), PlainSerializer(_write_time)]
Duration = Annotated[pd.Timedelta, BeforeValidator(parse_duration), PlainSerializer(_write_duration)]
Cutoff = Annotated[pd.Timedelta | None, BeforeValidator(_read_cutoff), PlainSerializer(_write_cutoff)]
Errors = Annotated[ErrorSettings | None, BeforeValidator(read_errors)]
ModelBiasRemoval = Annotated[Literal["removed"] | None, BeforeValidator(_none_is_absent)]
PathOrUrl = Annotated[str, BeforeValidator(_normalise_path)]
Name = Annotated[str, AfterValidator(_branch_name)]


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
    from_: Annotated[str | None, Field(alias="from")] = None
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

    @field_validator("from_")
    @classmethod
    def _donor_form(cls, value: str | None) -> str | None:
        if value is not None:
            parse_donor(value)
        return value


def parse_donor(text: str) -> tuple[str, pd.Timestamp]:
    """Split `EXPERIMENT@TIME`.

    Raises:
        ValueError: it has no `@`, or no cycle time after it.
    """
    name, at, time = text.partition("@")
    if not (name and at):
        raise ValueError(f"{text!r} is not EXPERIMENT@TIME, e.g. demo@20240110T00")
    return name, parse_cycle_time(time)


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
    from_: Annotated[str | None, Field(alias="from")] = None
    """EXPERIMENT@TIME: the late cycle that the late chain of a fork goes on from; default: as `cold_start` says."""

    @field_validator("from_")
    @classmethod
    def _donor_form(cls, value: str | None) -> str | None:
        if value is not None:
            parse_donor(value)
        return value


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


class Experiment(Strict):
    """Hold one experiment, as its YAML file says."""

    name: Name
    """Name of the experiment and of its branch in the archive: letters, digits, `.`, `_` and `-`; it is no file's."""
    world: str
    """Reference, statistics and static fields that belong together: the name of a world, or its folder."""
    grid: str
    """Grid of the states and of the model: `5.625deg`, `1.5deg`, `0.25deg`, or rows x columns such as `181x360`."""
    start: Time
    """The first cycle, e.g. `2024-01-04T00`; cycles are at 00, 06, 12 and 18 UTC."""
    end: Time | None = None
    """The last cycle; without it the experiment runs live, without an end."""
    cold_start: ColdStart
    """Where the two states before the first cycle come from."""
    model: str
    """The forecast model: a name that `dacycle models` lists, or an ONNX file."""
    unpaired_model: Literal[True] | None = None
    """Run a model that was made for another world or kind of reference; every record says so."""
    frames: CycledFrames = Field(default=None, description="newest, both, {both: SHARE}, or smoothed")
    """Which frames of the next forecast get the increment: the newest one, or both, the older one a share of it;
    with `smoothed` the older one gets what the members of `letkf` or `hybrid` say of it. Default: newest.
    `dacycle models MODEL` says what the model needs."""
    model_bias: ModelBiasRemoval = Field(default=None, description="none or removed")
    """`removed`: the mean error of the model, from the file beside the model's, is taken off every background; default:
    none. Trained methods that remove it themselves do not go with it."""
    assimilator: str
    """The method: a name that `dacycle models` lists, `letkf`, `hybrid`, `3dvar`, `4dvar`, a file, or `none`."""
    tuning: TuningSettings | None = None
    """Settings of `oi`, or of another file of background errors, in place of those that its file holds."""
    ensemble: EnsembleSettings | None = None
    """The ensemble of `letkf` and `hybrid`, where it differs from the default one; with another method: it runs for
    members, too, with perturbed observations and backgrounds, which gives a spread."""
    variational: VariationalSettings | None = None
    """The cost function of `3dvar` and `4dvar`, where it differs from the default one."""
    assimilation_grid: str | None = None
    """The assimilator's grid where it is coarser than the model's; then only increments are interpolated to `grid`."""
    operator: str | None = None
    """Observation operator of OLR and precipitation: a packaged name, a file, or `none`; default: the world's own."""
    observations: tuple[ObservationSource, ...]
    """The sources of observations, each with its cutoff and its own options."""
    deny: tuple[str, ...] = ()
    """Sources, variables or SOURCE:VARIABLE that are compared but not assimilated (observing-system experiment)."""
    withhold: float = Field(default=quality.WITHHELD, ge=0, lt=1)
    """Share of the sites that are compared but not assimilated."""
    withhold_regions: float | None = Field(default=None, gt=0, lt=1)
    """Share of the regions of about 1000 km in which everything is compared but not assimilated; default: none."""
    errors: Errors = None
    """Observation errors by VARIABLE or SOURCE:VARIABLE that replace built-in ones: a mapping, or a file with one."""
    bias: BiasSettings | None = None
    """Removal of station biases; default: none."""
    guards: GuardSettings = GuardSettings()
    """Limits beyond which a cycle keeps its background, is marked, or stops the run."""
    quality: QualitySettings = QualitySettings()
    """Checks of observations that differ from the default ones."""
    drift: DriftSettings = DriftSettings()
    """Forecasts from the analyses, and the free run."""
    late: LateSettings | None = None
    """Also make NAME-late, the same run with a longer cutoff, and start each cycle from its analyses; default: none."""
    fetch_limit: Duration | None = None
    """How long a cycle waits for the files of all its sources from servers and buckets together; default: 10 minutes.
    A source that is not there by then is left out of the cycle."""
    keep: KeepSettings | None = None
    """How long states are kept (`dacycle archive tidy`); default: for ever. It may be changed while the run goes on."""
    seed: int = Field(ge=0)
    """Seed of everything that is drawn: simulated observations, perturbations, samples of a method."""

    @model_validator(mode="after")
    def _consistent(self) -> "Experiment":
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end {cycle_id(self.end)} is before start {cycle_id(self.start)}")
        is_filter = self.assimilator in ENSEMBLE_METHODS
        foreign = sorted(self.ensemble.model_fields_set & set(OF_FILTERS)) if self.ensemble and not is_filter else []
        if foreign:
            names = " and ".join(ENSEMBLE_METHODS)
            raise ValueError(f"ensemble.{foreign[0]} goes with {names}, not with {self.assimilator}; leave it out")
        if self.variational is not None and self.assimilator not in VARIATIONAL_METHODS:
            names = " and ".join(VARIATIONAL_METHODS)
            raise ValueError(f"variational goes with {names}, not with {self.assimilator}; leave it out")
        available = 0 if self.members is None else self.members.members
        if (self.drift.members or 0) > available:
            have = f"the run has {available}" if available else "the run has none; the key ensemble gives it some"
            raise ValueError(f"drift.members is {self.drift.members}, but {have}")
        if self.frames == "smoothed" and not is_filter:
            names = " and ".join(ENSEMBLE_METHODS)
            raise ValueError(
                f"frames: smoothed goes with {names}, whose weights serve both frames, not with {self.assimilator}; "
                "say newest, both, or {both: SHARE}"
            )
        if self.members is not None and self.assimilation_grid not in (None, self.grid):
            raise ValueError(f"assimilation_grid: {self.assimilator} has its members on the model's grid; leave it out")
        if self.assimilator == "4dvar" and self.assimilation_grid not in (None, self.grid):
            raise ValueError("assimilation_grid: 4dvar controls states on the model's grid; leave it out")
        if self.late is not None:
            _check_late(self, self.late)
        if self.cold_start.from_ is not None:
            donor, time = parse_donor(self.cold_start.from_)
            if donor == self.name:
                raise ValueError(f"cold_start.from names the experiment itself, {donor!r}")
            if time + STEP != self.start:
                after = cycle_id(time + STEP)
                raise ValueError(f"start is {cycle_id(self.start)}, but after {donor}@{cycle_id(time)} comes {after}")
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return the experiment as plain values, as in YAML or JSON."""
        content = self.model_dump(mode="json", by_alias=True)
        content["cold_start"] = {k: v for k, v in content["cold_start"].items() if v is not None}
        content["drift"] = {k: v for k, v in content["drift"].items() if v is not None}
        content["quality"] = self.quality.model_dump(mode="json", exclude_defaults=True) or None
        if self.late is not None:
            content["late"] = self.late.model_dump(mode="json", by_alias=True, exclude_none=True)
        if self.members is not None:  # with the default settings, which another version may change
            others = () if self.assimilator in ENSEMBLE_METHODS else OF_FILTERS
            content["ensemble"] = self.members.model_dump(mode="json", exclude_none=True, exclude=set(others))
        if self.tuning is not None:
            content["tuning"] = self.tuning.model_dump(mode="json", exclude_none=True)
        if self.assimilator in VARIATIONAL_METHODS:
            content["variational"] = (self.variational or VariationalSettings()).model_dump(mode="json")
        # Unused keys are left out, so that experiments that are older than a key keep their digest.
        return {key: value for key, value in content.items() if value is not None or key == "end"}

    @property
    def members(self) -> EnsembleSettings | None:
        """Return the settings of the members, with the method's defaults; None without members."""
        is_filter = self.assimilator in ENSEMBLE_METHODS
        if self.ensemble is None and not is_filter:
            return None
        return (self.ensemble or EnsembleSettings()).completed(is_filter)

    @property
    def digest(self) -> str:
        """Return the SHA-256 of all keys but those that may change while a run goes on: `end` and `keep`."""
        content = {key: value for key, value in self.as_dict().items() if key not in CHANGEABLE}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def error_table(self) -> ErrorTable:
        """Return the observation errors that the experiment assumes."""
        drawn = frozenset(source.name for source in self.observations if source.source in DRAWN)
        kinds = {source.name: error_kind(source.model_dump()) for source in self.observations}
        return ErrorTable(self.errors or {}, self.observation_grid.spacing, drawn, kinds)

    @property
    def observation_grid(self) -> Grid:
        """Return the grid of the superobs."""
        return get_grid(self.assimilation_grid or self.grid)

    def free_run(self) -> "Experiment":
        """Return the free run: the same experiment on branch NAME-free, without assimilation.

        It removes no station biases, since departures from a free run do not measure a station.
        """
        drift = self.drift.model_copy(update={"free_run": False, "members": None})
        methods = dict.fromkeys(("ensemble", "tuning", "variational", "assimilation_grid", "bias", "late"))
        without = {"assimilator": "none", **methods}
        return self.model_copy(update={"name": f"{self.name}-free", **without, "drift": drift})

    def late_run(self) -> "Experiment":
        """Return the late chain: the same experiment on branch NAME-late, with the late cutoff, without forecasts."""
        assert self.late is not None, "only an experiment with `late` has a late chain"
        cutoff, origin = self.late.cutoff, self.late.from_
        later = [s if s.cutoff is None else s.model_copy(update={"cutoff": cutoff}) for s in self.observations]
        drift = self.drift.model_copy(update={"starts": (), "members": None, "free_run": False})
        changes: dict[str, Any] = {"observations": tuple(later), "late": None, "drift": drift}
        if origin is not None:
            begin = ColdStart.model_validate({"from": origin})
            changes |= {"cold_start": begin, "start": parse_donor(origin)[1] + STEP}
        return self.model_copy(update={"name": f"{self.name}-late", **changes})

    def runs(self) -> list["Experiment"]:
        """Return the runs that this experiment asks for, in the order in which they run.

        They are its late chain, itself, and its free run.
        """
        late = [] if self.late is None else [self.late_run()]
        free = [self.free_run()] if self.drift.free_run and self.assimilator != "none" else []
        return [*late, self, *free]

    @property
    def wait(self) -> pd.Timedelta:
        """Return how long after an analysis time a live run waits: the longest cutoff."""
        return max((s.cutoff for s in self.observations if s.cutoff is not None), default=pd.Timedelta(0))

    def times(self) -> pd.DatetimeIndex:
        """Return all analysis times of a replay, `start` to `end`.

        Raises:
            ExperimentError: the experiment has no end.
        """
        if self.end is None:
            raise ExperimentError(f"experiment {self.name}: it has no end; give one to replay it")
        return pd.date_range(self.start, self.end, freq=STEP)


def _check_late(experiment: Experiment, late: LateSettings) -> None:
    """Raise ValueError where a late chain would have nothing more than the experiment, or begin after it."""
    if experiment.assimilator == "none":
        raise ValueError("late: a run without assimilation takes no observations, however late; leave it out")
    waited = max(experiment.observations, key=lambda s: s.cutoff or pd.Timedelta(-1), default=None)
    if waited is None or waited.cutoff is None:
        raise ValueError("late: no source has a cutoff, so that nothing more would come; leave it out")
    if late.cutoff <= waited.cutoff:
        longest, name = _write_duration(waited.cutoff), waited.name
        raise ValueError(
            f"late.cutoff is {_write_duration(late.cutoff)}, but source {name} is waited for {longest} already; it "
            "must be longer than every cutoff"
        )
    if experiment.keep is not None and experiment.keep.cycles < (least := late.cutoff + pd.Timedelta(days=1)):
        raise ValueError(
            f"keep.cycles is {_write_duration(experiment.keep.cycles)}, but cycles start from late ones of up to "
            f"{_write_duration(least)} before; give at least that"
        )
    if late.from_ is not None and parse_donor(late.from_)[1] >= experiment.start:
        raise ValueError(f"late.from is {late.from_}, which is not before the start, {cycle_id(experiment.start)}")


def differences(old: Experiment, new: Experiment) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys in which two experiments differ, but for `end` and `keep`, each with both values."""
    before, after = (
        _flatten({key: value for key, value in experiment.as_dict().items() if key not in CHANGEABLE})
        for experiment in (old, new)
    )
    keys = sorted(before.keys() | after.keys())
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    branches = (_flatten(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items())
    return {key: item for branch in branches for key, item in branch.items()}


def load_experiment(path: Path | str) -> Experiment:
    """Read and check an experiment file (paths in it are relative to the working directory).

    Raises:
        ExperimentError: the file cannot be read, or one line per problem, `FILE:LINE: key: problem`.
    """
    return read_checked(path, Experiment, "an experiment", ExperimentError)


def parse_experiment(text: str, source: str) -> Experiment:
    """Check the text of an experiment file; `source` names it in errors. Raises as `load_experiment`."""
    return parse_checked(text, source, Experiment, "an experiment", ExperimentError)


def write_experiment(content: Mapping[str, Any]) -> str:
    """Return the text of an experiment file with this content (`Experiment.as_dict`), keys in their order."""
    return write_yaml(content)
