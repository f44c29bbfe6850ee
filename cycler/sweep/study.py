"""The file of a study: an experiment, the methods and settings to run in its place, and what they are judged by.

A trial is one setting of one method. It is run once in each of the study's `runs` (seeds, windows, observing systems),
and each run of a trial is an experiment with a branch of its own, whose name says what was set.
"""

import itertools
import json
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field, model_validator

from dacycle.common.configuration import Strict, read_checked, set_entry
from dacycle.common.errors import DacycleError
from dacycle.cycler.experiment import (
    Experiment,
    ExperimentError,
    load_experiment,
    parse_experiment,
    write_experiment,
)
from dacycle.forecast_adapter.durations import Duration

__all__ = ["Method", "Study", "StudyError", "Trial", "load_study", "trials_of"]

LONGEST_NAME = 100
"""Letters of the name of a branch."""


class StudyError(DacycleError, ValueError):
    """A study's file is wrong; the message names file and key."""


class Method(Strict):
    """One method of a study, with the settings of it that are tried.

    Attributes:
        name: in the table.
        set: keys of the experiment, `a` or `a.b`, and their values.
        grid: values by key; every combination is a trial.
        trials: one by one in place of a grid, each with its keys and their values.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+, -]*$")
    set: dict[str, Any] = Field(default={})
    grid: dict[str, list[Any]] = Field(default={})
    trials: tuple[dict[str, Any], ...] = ()

    def settings(self) -> tuple[dict[str, Any], ...]:
        """Return the settings of each trial beyond `set`; one without any where nothing is varied."""
        if self.trials:
            return self.trials
        return tuple(dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values()))

    @model_validator(mode="after")
    def _one_way(self) -> "Method":
        if self.grid and self.trials:
            raise ValueError(f"{self.name}: give a grid or trials, not both")
        if empty := [key for key, values in self.grid.items() if not values]:
            raise ValueError(f"{self.name}: grid: {', '.join(empty)} has no value")
        return self


class Study(Strict):
    """Say what is compared.

    Attributes:
        experiment: file of the experiment that all trials begin with.
        archive: folder of the archive of all trials.
        set: keys of the experiment and their values, for all trials; as of a method.
        methods: what is compared; all have the same number of trials, unless `unequal`.
        runs: by name, what each trial is run with: other seeds, windows or observations.
        separate: whether there is a table for each run, as where they differ in their observations; else their cases
            are taken together.
        spin_up: cycles within this time of a run's start are not scored.
        metric: the errors that trials are judged by: of the analyses, of the backgrounds, or of the forecasts of a day,
            such as `day 3`. In the mean of the headline channels, each relative to the baseline.
        forecasts: whether forecasts from the analyses are made; a metric of a day needs them.
        baseline: the method, by its first trial, that the others are compared with.
        unequal: methods may have different numbers of trials; the table says so.
    """

    experiment: Path
    archive: Path
    set: dict[str, Any] = Field(default={})
    methods: tuple[Method, ...] = Field(min_length=1)
    runs: dict[str, dict[str, Any]] = Field(default={"": {}}, min_length=1)
    separate: bool = False
    spin_up: Duration = pd.Timedelta(days=4)
    metric: str = Field(default="analysis", pattern=r"^(analysis|background|day ([1-9]|10))$")
    forecasts: bool = False
    baseline: str
    unequal: Literal[True] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        names = [method.name for method in self.methods]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"methods: two are called {', '.join(sorted(twice))}")
        if self.baseline not in names:
            raise ValueError(f"baseline: {self.baseline!r} is none of the methods {', '.join(names)}")
        numbers = {method.name: len(method.settings()) for method in self.methods}
        if len(set(numbers.values())) > 1 and not self.unequal:
            listed = ", ".join(f"{name} {number}" for name, number in numbers.items())
            raise ValueError(
                f"methods: the numbers of trials differ ({listed}), which favours those with more; give each the same, "
                "or say `unequal: true`"
            )
        if self.metric.startswith("day") and not self.forecasts:
            raise ValueError(f"metric: {self.metric} needs `forecasts: true`")
        return self


@dataclass(frozen=True)
class Trial:
    """One setting of one method.

    Attributes:
        method: its name.
        settings: what is varied, by key.
        experiments: by the name of the run.
    """

    method: str
    settings: Mapping[str, Any]
    experiments: Mapping[str, Experiment]

    @property
    def name(self) -> str:
        """Method and settings, for people."""
        varied = ", ".join(f"{key} {_short(value)}" for key, value in self.settings.items())
        return f"{self.method} ({varied})" if varied else self.method


def load_study(path: Path) -> Study:
    """Read and check a study's file; raise StudyError with one line per problem."""
    return read_checked(path, Study, "a study", StudyError)


def trials_of(study: Study, name: str) -> list[Trial]:
    """Return all trials of a study, in order; `name` is the study's, with which all branches begin.

    Raises:
        StudyError: a setting makes no experiment, or two trials are the same.
    """
    base = load_experiment(study.experiment)
    trials = [
        Trial(method.name, settings, _experiments(study, base, name, method, settings))
        for method in study.methods
        for settings in method.settings()
    ]
    names: dict[str, Trial] = {}
    for trial in trials:
        for experiment in trial.experiments.values():
            other = names.setdefault(experiment.name, trial)
            if other is not trial:
                raise StudyError(f"{name}: {other.name} and {trial.name} are both called {experiment.name}")
    return trials


def _experiments(
    study: Study, base: Experiment, name: str, method: Method, settings: Mapping[str, Any]
) -> dict[str, Experiment]:
    """Return the experiments of a trial, by the name of the run."""
    found = {}
    for run, of_run in study.runs.items():
        content = deepcopy(base.as_dict())
        for key, value in ({"drift.free_run": False} | study.set | of_run | method.set | dict(settings)).items():
            set_entry(content, key, value, f"{name}: {method.name}", StudyError)
        parts = [name, method.name, *(f"{key.split('.')[-1]} {_short(value)}" for key, value in settings.items()), run]
        content["name"] = "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-") for part in parts if part)
        if len(content["name"]) > LONGEST_NAME:
            raise StudyError(f"{content['name']} is too long for a name; give shorter names to study, method and run")
        try:
            found[run] = parse_experiment(write_experiment(content), content["name"])
        except ExperimentError as error:
            raise StudyError(f"{name}: {method.name}, {dict(settings)}: {error}") from error
    return found


def _short(value: Any) -> str:
    """Return a value as one short word."""
    return value if isinstance(value, str) else json.dumps(value, default=str).replace('"', "")
