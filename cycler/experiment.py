"""An experiment: one YAML file that says everything about a run, checked before anything runs.

Unknown keys are errors. Each error names the file, the line and the key, and suggests the nearest known key.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import (
    Field,
    model_validator,
)

from dacycle.assimilators.base import ENSEMBLE_METHODS, VARIATIONAL_METHODS
from dacycle.assimilators.classical.settings import TuningSettings
from dacycle.assimilators.ensemble.settings import OF_FILTERS, EnsembleSettings
from dacycle.assimilators.variational.settings import VariationalSettings
from dacycle.common.configuration import Strict, parse_checked, read_checked, write_yaml
from dacycle.common.errors import DacycleError
from dacycle.common.times import cycle_id
from dacycle.cycler.blocks import (
    STEP,
    BiasSettings,
    ColdStart,
    DriftSettings,
    Errors,
    GuardSettings,
    KeepSettings,
    LateSettings,
    ModelBiasRemoval,
    Name,
    ObservationSource,
    QualitySettings,
    Time,
    parse_cycle_time,
    parse_donor,
)
from dacycle.forecast_adapter.durations import Duration, write_duration
from dacycle.forecast_adapter.grid import Grid, get_grid
from dacycle.forecast_adapter.models.frames import CycledFrames
from dacycle.forecast_adapter.worlds.relaxation import RelaxationSettings
from dacycle.obs_ingest.errors.table import ErrorTable
from dacycle.obs_ingest.quality import control as quality
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
    "parse_experiment",
    "write_experiment",
]

CHANGEABLE = ("end", "keep")
"""Keys that may change while a run goes on: they change no cycle."""


class ExperimentError(DacycleError, ValueError):
    """An experiment cannot run as written; the message names file, line, key and remedy."""


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
    relaxation: RelaxationSettings | None = None
    """How fast the background of every cycle is drawn towards the climate of its date, for a model that keeps errors
    which nothing observes; default: not at all."""
    assimilator: str
    """The method: a name that `dacycle models` lists, `letkf`, `hybrid`, `3dvar`, `4dvar`, a file, or `none`."""
    tuning: TuningSettings | None = None
    """Settings of `oi`, or of another file of background errors, in place of those that its file holds."""
    ensemble: EnsembleSettings | None = None
    """The ensemble of `letkf` and `hybrid`, where it differs from their default one; with another method: it runs for
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
        if self.assimilator == "4dvar" and self.relaxation is not None:
            raise ValueError("relaxation: 4dvar forecasts its window without it; leave it out, or take 3dvar")
        if getattr(self.variational, "olr", None) == "learned" and self.assimilation_grid not in (None, self.grid):
            raise ValueError("assimilation_grid: the learned operator of OLR is on the model's grid; leave it out")
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
        if self.relaxation is not None:
            content["relaxation"] = self.relaxation.model_dump(mode="json", exclude_none=True)
        if self.tuning is not None:
            content["tuning"] = self.tuning.model_dump(mode="json", exclude_none=True)
        if self.assimilator in VARIATIONAL_METHODS:
            settings = self.variational or VariationalSettings()
            content["variational"] = settings.model_dump(mode="json", exclude_none=True)
        # Unused keys are left out, so that experiments that are older than a key keep their digest.
        return {key: value for key, value in content.items() if value is not None or key == "end"}

    @property
    def members(self) -> EnsembleSettings | None:
        """Return the settings of the members, with the method's defaults; None without members."""
        if self.ensemble is None and self.assimilator not in ENSEMBLE_METHODS:
            return None
        return (self.ensemble or EnsembleSettings()).completed(self.assimilator)

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

    @property
    def late_name(self) -> str | None:
        """Return the name of the late chain; None where there is none."""
        return None if self.late is None else f"{self.name}-late"

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
        return self.model_copy(update={"name": self.late_name, **changes})

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
        longest, name = write_duration(waited.cutoff), waited.name
        raise ValueError(
            f"late.cutoff is {write_duration(late.cutoff)}, but source {name} is waited for {longest} already; it "
            "must be longer than every cutoff"
        )
    if experiment.keep is not None and experiment.keep.cycles < (least := late.cutoff + pd.Timedelta(days=1)):
        raise ValueError(
            f"keep.cycles is {write_duration(experiment.keep.cycles)}, but cycles start from late ones of up to "
            f"{write_duration(least)} before; give at least that"
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
