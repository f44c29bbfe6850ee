"""An experiment: one YAML file that says everything about a run, checked before anything runs.

Unknown keys are errors. Every complaint names the file, the line and the key, and what was probably meant.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pandas as pd
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from dacycle.assimilators.step import StepGuards
from dacycle.forecast_adapter.grid import get_grid
from dacycle.obs_ingest.errors.table import ErrorSettings, ErrorTable, read_errors
from dacycle.obs_ingest.quality import control as quality
from dacycle.obs_ingest.quality.station_lists import read_station_list
from dacycle.obs_ingest.sources.base import DRAWN

__all__ = [
    "STEP",
    "Bias",
    "ColdStart",
    "Drift",
    "Experiment",
    "ExperimentError",
    "Guards",
    "ObservationSource",
    "Quality",
    "cycle_id",
    "differences",
    "load_experiment",
    "parse_checked",
    "parse_donor",
    "parse_duration",
    "parse_experiment",
    "parse_time",
    "suggestion",
    "write_experiment",
]

Content = TypeVar("Content", bound=BaseModel)

STEP = pd.Timedelta(hours=6)
"""Time from one cycle to the next."""


class ExperimentError(ValueError):
    """An experiment cannot run as written; the message names file, line, key and remedy."""


def cycle_id(time: pd.Timestamp) -> str:
    """The name of a cycle, e.g. `20240104T00`."""
    return f"{time:%Y%m%dT%H}"


def parse_time(value: object) -> pd.Timestamp:
    """A UTC time on a cycle hour (00, 06, 12, 18) from `2024-01-04T00`, `20240104T00` or a YAML timestamp.

    Raises:
        ValueError: the text is no time, or not on a cycle hour.
    """
    if not isinstance(value, str | date | pd.Timestamp):
        raise ValueError(f"{value!r} is not a time; write it as 2024-01-04T00")
    try:
        time = pd.Timestamp(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a time; write it as 2024-01-04T00") from None
    if time.tzinfo is not None:
        time = time.tz_convert("UTC").tz_localize(None)
    if time != time.floor("6h"):
        raise ValueError(f"{value} is not a cycle time; cycles are at 00, 06, 12 and 18 UTC")
    return time.as_unit("s")


def parse_duration(value: object) -> pd.Timedelta:
    """A duration from `90min`, `48h` or `10d`; a bare number is refused, as its unit would be a guess."""
    if isinstance(value, pd.Timedelta):
        return value
    found = re.fullmatch(r"(\d+)(min|h|d)", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{value!r} is not a duration; write it as 90min, 48h or 10d")
    unit = {"min": "minutes", "h": "hours", "d": "days"}[found[2]]
    return pd.Timedelta(**{unit: int(found[1])})


def _write_time(value: pd.Timestamp) -> str:
    return f"{value:%Y-%m-%dT%H}"


def _write_duration(value: pd.Timedelta) -> str:
    minutes = round(value.total_seconds() / 60)
    return f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}min"


def _read_cutoff(value: object) -> object:
    return None if value == "none" else parse_duration(value)


def _write_cutoff(value: pd.Timedelta | None) -> str:
    return "none" if value is None else _write_duration(value)


def _read_place(value: object) -> object:
    """Paths in their shortest form; URLs as they are."""
    return str(Path(value)) if isinstance(value, str | Path) and "://" not in str(value) else value


Time = Annotated[pd.Timestamp, BeforeValidator(parse_time), PlainSerializer(_write_time)]
Duration = Annotated[pd.Timedelta, BeforeValidator(parse_duration), PlainSerializer(_write_duration)]
Cutoff = Annotated[pd.Timedelta | None, BeforeValidator(_read_cutoff), PlainSerializer(_write_cutoff)]
Errors = Annotated[ErrorSettings | None, BeforeValidator(read_errors)]
Place = Annotated[str, BeforeValidator(_read_place)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class ColdStart(_Strict):
    """Where the two frames before the first cycle come from: exactly one of lagged, state, climatology, from."""

    lagged: Duration | None = None
    """A forecast this long, started from the reference, ends one step before the first cycle."""
    state: Place | None = None
    """Where the states 12 and 6 hours before the first cycle are: whatever `products.open_states` reads."""
    one_frame: Literal[True] | None = None
    """Whether `state` holds the later of the two only, which then stands for both; the record says so."""
    climatology: Literal[True] | None = None
    """The world's climatology at both times."""
    from_: Annotated[str | None, Field(alias="from")] = None
    """EXPERIMENT@TIME: go on from that experiment's cycle; the branch shares its past."""

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
    return name, parse_time(time)


class ObservationSource(BaseModel):
    """A source, its cutoff, and the options of its own that the source itself checks."""

    model_config = ConfigDict(extra="allow", frozen=True, arbitrary_types_allowed=True)

    source: str
    cutoff: Cutoff
    """Only what was received by the analysis time plus this is used; `none` uses everything."""

    @property
    def name(self) -> str:
        """What the table's `source` column says."""
        return str((self.model_extra or {}).get("name", self.source))


class Guards(_Strict):
    """When a cycle keeps its background as the analysis, when it is marked, and when the run stops."""

    increment_limit: float = Field(default=6.0, gt=0)
    """Largest increment, in the world's standard deviations of each channel."""
    background_error: float = Field(default=quality.BACKGROUND_ERROR, gt=0)
    """Error of the background that its check of observations assumes, in the same unit."""
    cold_factor: float = Field(default=2.0, ge=1)
    """By how much both are larger in the first cycles of a cold start."""
    cold_cycles: int = Field(default=8, ge=0)
    """How many those first cycles are."""
    water_limit: float = Field(default=0.5, gt=0)
    """Largest amount of water that clipping humidity at 0 may add, kg m-2 averaged over the globe."""
    minimum_observations: int = Field(default=100, ge=1)
    """Fewer observed values on the grid mark the cycle degraded."""
    fallbacks_in_a_row: int = Field(default=4, ge=0)
    """More fallbacks in a row than this stop the run."""

    def of_step(self) -> StepGuards:
        """The guards of a single analysis step."""
        return StepGuards(
            increment_limit=self.increment_limit,
            cold_factor=self.cold_factor,
            water_limit=self.water_limit,
            minimum_observations=self.minimum_observations,
        )


class Bias(_Strict):
    """Biases of single stations, estimated from past cycles and taken off; see `obs_ingest.station_bias`."""

    variables: tuple[Literal["t2m", "msl", "ps", "u10", "v10"], ...] = ("t2m", "msl", "ps")
    memory: Duration = pd.Timedelta(days=30)
    """Cycles this long before the analysis count."""
    n0: float = Field(default=20.0, gt=0)
    """Number of departures at which half of a station's deviation from its neighbours is removed."""
    radius_km: float = Field(default=300.0, gt=0)
    """Stations nearer than this are neighbours."""


Threshold = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]


class Quality(_Strict):
    """Checks of observations that are stricter, or others, than the usual ones; see `obs_ingest.quality.Checks`."""

    background_check: Threshold = quality.Checks.background_check
    """Largest departure from the background, in standard deviations of both their errors."""
    buddy_check: Threshold | None = None
    """Largest departure from the neighbours' departures, in standard deviations of these; 4 is usual."""
    spatial_consistency: Threshold | None = None
    """Threshold of the spatial consistency test; 9 is mild."""
    blacklist: Path | None = None
    """A station list whose values are not used."""
    whitelist: Path | None = None
    """A station list; no other station's values are used."""

    def checks(self) -> quality.Checks:
        """The same with the lists read; raises ObservationError for a bad one."""
        lists = {
            name: None if path is None else read_station_list(path)
            for name, path in (("blacklist", self.blacklist), ("whitelist", self.whitelist))
        }
        return quality.Checks(self.background_check, self.buddy_check, self.spatial_consistency, **lists)


class Drift(_Strict):
    """Forecasts started from the analyses, to be scored against the reference."""

    starts: tuple[Literal[0, 6, 12, 18], ...] = (0, 12)
    """Hours of the day (UTC) from whose analyses forecasts start."""
    lead: Duration = pd.Timedelta(hours=240)
    free_run: bool = True
    """Whether NAME-free, the same run without assimilation, is kept beside it."""


class Experiment(_Strict):
    """One experiment, as its YAML file says."""

    name: Name
    world: str
    grid: str
    start: Time
    end: Time | None = None
    """The last cycle; without it the experiment runs live, for ever."""
    cold_start: ColdStart
    model: str
    unpaired_model: Literal[True] | None = None
    """Run a model although it was made for another world, or kind of reference; every record says so."""
    assimilator: str
    assimilation_grid: str | None = None
    """The assimilator's grid where it is coarser than the model's: then only increments are brought up to `grid`."""
    operator: str | None = None
    """Observation operator of OLR and precipitation: a packaged name, a file, or `none`; without it the world's own."""
    observations: tuple[ObservationSource, ...]
    deny: tuple[str, ...] = ()
    """Sources or variables that are compared, never assimilated, as in an observing-system experiment."""
    withhold: float = Field(default=quality.WITHHELD, ge=0, lt=1)
    """Share of the sites that are compared, never assimilated."""
    errors: Errors = None
    """Observation errors in place of the built-in ones, by VARIABLE or SOURCE:VARIABLE: a mapping, or a file of one."""
    bias: Bias | None = None
    """How biases of stations are removed; by default they are not."""
    guards: Guards = Guards()
    quality: Quality = Quality()
    drift: Drift = Drift()
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> "Experiment":
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end {cycle_id(self.end)} is before start {cycle_id(self.start)}")
        if self.cold_start.from_ is not None:
            donor, time = parse_donor(self.cold_start.from_)
            if donor == self.name:
                raise ValueError(f"cold_start.from names the experiment itself, {donor!r}")
            if time + STEP != self.start:
                after = cycle_id(time + STEP)
                raise ValueError(f"start is {cycle_id(self.start)}, but after {donor}@{cycle_id(time)} comes {after}")
        return self

    def as_dict(self) -> dict[str, Any]:
        """The experiment as plain values, as YAML or JSON would hold it."""
        content = self.model_dump(mode="json", by_alias=True)
        content["cold_start"] = {k: v for k, v in content["cold_start"].items() if v is not None}
        content["quality"] = self.quality.model_dump(mode="json", exclude_defaults=True) or None
        # A key that is not used is not there: experiments from before it existed keep their digest.
        return {key: value for key, value in content.items() if value is not None or key == "end"}

    @property
    def digest(self) -> str:
        """SHA-256 of everything a cycle depends on: all but `end`, so that a run may be made longer."""
        content = self.as_dict()
        del content["end"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def error_table(self) -> ErrorTable:
        """The errors that it assumes of its observations."""
        drawn = frozenset(source.name for source in self.observations if source.source in DRAWN)
        return ErrorTable(self.errors or {}, get_grid(self.assimilation_grid or self.grid).spacing, drawn)

    def free_run(self) -> "Experiment":
        """The control of this experiment: the same run on branch NAME-free, without assimilation.

        Nothing is taken off its observations: departures from a free run are no measure of a station.
        """
        drift = self.drift.model_copy(update={"free_run": False})
        without = {"assimilator": "none", "assimilation_grid": None, "bias": None}
        return self.model_copy(update={"name": f"{self.name}-free", **without, "drift": drift})

    def runs(self) -> list["Experiment"]:
        """This experiment, and its free run where it keeps one."""
        return [self, self.free_run()] if self.drift.free_run and self.assimilator != "none" else [self]

    def times(self) -> pd.DatetimeIndex:
        """All analysis times of a replay, `start` to `end`.

        Raises:
            ExperimentError: the experiment is live, it has no end.
        """
        if self.end is None:
            raise ExperimentError(f"experiment {self.name}: it has no end; give one to replay it")
        return pd.date_range(self.start, self.end, freq=STEP)


def differences(old: Experiment, new: Experiment) -> dict[str, tuple[Any, Any]]:
    """Keys (dotted) in which two experiments differ, `end` apart, with both values."""
    a, b = _flatten(old.as_dict()), _flatten(new.as_dict())
    keys = sorted((a.keys() | b.keys()) - {"end"})
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    parts = (_flatten(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items())
    return {key: item for part in parts for key, item in part.items()}


def suggestion(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """`; did you mean X?` where a known name is near, else the known names."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(known))}"


def load_experiment(path: Path | str) -> Experiment:
    """Read and check an experiment file (paths in it are relative to the working directory).

    Raises:
        ExperimentError: one line per problem, `FILE:LINE: key: problem`.
    """
    path = Path(path)
    if not path.is_file():
        raise ExperimentError(f"{path}: there is no such experiment file")
    return parse_experiment(path.read_text(), str(path))


def parse_experiment(text: str, source: str) -> Experiment:
    """Check the text of an experiment file; `source` names it in complaints. Raises as `load_experiment`."""
    return parse_checked(text, source, Experiment, "an experiment")


def parse_checked(text: str, source: str, kind: type[Content], what: str) -> Content:
    """Check the text of a YAML file of any kind; ExperimentError with one line per problem."""
    try:
        node = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ExperimentError(f"{source}:{line}: not valid YAML: {error.problem}") from None
    if not isinstance(node, CommentedMap):
        raise ExperimentError(f"{source}:1: {what} is a mapping of keys to values")
    try:
        return kind.model_validate(_plain(node))
    except ValidationError as error:
        problems = sorted((_explain(node, kind, problem) for problem in error.errors()), key=lambda p: p[0])
        raise ExperimentError("\n".join(f"{source}:{line}: {text}" for line, text in problems)) from None


def write_experiment(content: Mapping[str, Any]) -> str:
    """The text of an experiment file with this content (`Experiment.as_dict`), keys in their usual order."""
    text = StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.dump(dict(content), text)
    return text.getvalue()


def _plain(node: Any) -> Any:
    if isinstance(node, CommentedMap):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value) for value in node]
    return node


def _line_of(node: Any, location: tuple[str | int, ...]) -> int:
    """The line (from 1) of the deepest part of `location` that a document read with positions holds."""
    line = 1
    for part in location:
        if isinstance(node, CommentedMap) and part in node:
            line = node.lc.key(part)[0] + 1
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0] + 1
        else:
            break
        node = node[part]
    return line


_MODELS: dict[str, type[BaseModel]] = {
    "cold_start": ColdStart,
    "bias": Bias,
    "guards": Guards,
    "quality": Quality,
    "drift": Drift,
}


def _explain(node: CommentedMap, kind: type[BaseModel], problem: Any) -> tuple[int, str]:
    """Line and text of one complaint of pydantic's."""
    location = tuple(problem["loc"])
    line, key = _line_of(node, location), ".".join(str(part) for part in location) or "the file"
    if problem["type"] == "extra_forbidden":
        model = _MODELS[str(location[0])] if len(location) > 1 else kind
        known = [field.alias or name for name, field in model.model_fields.items()]
        return line, f"{key}: unknown key{suggestion(str(location[-1]), known)}"
    if problem["type"] == "missing":
        hint = " (a duration such as 3h, or none)" if location[-1] == "cutoff" else ""
        return line, f"{key}: this key is required{hint}"
    return line, f"{key}: {problem['msg'].removeprefix('Value error, ')}"
