"""The benchmark: all methods on the same single analyses, and in the same cycles, as tables, CSV and pictures.

One YAML file says what is compared. Results of single analyses are kept in a table, each run of a method in a setting
with a key of everything that decides it, so that an interrupted benchmark goes on, and a new method adds to it. Cycled
runs are experiments like any other, in an archive of their own.
"""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from dacycle.assimilators.base import Assimilator, AssimilatorError, load_assimilator
from dacycle.assimilators.judging.benchmark import OVERALL, Setting, score_single_analyses
from dacycle.assimilators.judging.evaluation import held_out, observing_of
from dacycle.assimilators.trained.network import TrainedAssimilator
from dacycle.common.configuration import read_checked
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.archive.derived import read_tables, write_tables
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import Experiment, ExperimentError, load_experiment
from dacycle.cycler.report import tables
from dacycle.cycler.timing.memory import peak_memory
from dacycle.cycler.verification import drift
from dacycle.cycler.verification.cycles import trends, verify
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import load_world

__all__ = ["Benchmark", "CycledRuns", "cycled_results", "load_benchmark", "run_cycles", "run_single_analyses"]

Say = Callable[[str], None]
SPIN_UP = pd.Timedelta(days=4)
"""Cycles at the beginning that are not looked at: an analysis has not yet forgotten where it came from."""


class CycledRuns(BaseModel):
    """Cycled runs: an experiment, run once for each method, in an archive."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: Path
    archive: Path


class Benchmark(BaseModel):
    """What is compared, and how.

    `year` is held out from every method's training. Each `seed` draws other observations; settings beside the first,
    the protocol, are run with the first seed alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    world: str
    model: str
    data: Path
    year: int
    methods: list[str] = Field(min_length=1)
    observations: list[dict[str, Any]] = Field(min_length=1)
    leads: list[int]
    starts: int = Field(gt=0)
    seeds: list[int] = Field(min_length=1)
    settings: list[Setting] = Field(min_length=1)
    cycled: CycledRuns | None = None

    @field_validator("settings", mode="before")
    @classmethod
    def _named(cls, value: Any) -> list[Setting]:
        try:
            return [Setting(**{**entry, "deny": tuple(entry.get("deny", ()))}) for entry in value]
        except (AttributeError, TypeError) as error:
            raise ValueError(f"a setting has name, pattern, density, noise, assumed, deny: {error}") from None

    def seeds_of(self, setting: Setting) -> list[int]:
        """The protocol is repeated, what is varied is not."""
        return self.seeds if setting == self.settings[0] else self.seeds[:1]


def load_benchmark(path: Path) -> Benchmark:
    """Read and check a benchmark's file. ExperimentError, one line per problem, names the line."""
    return read_checked(path, Benchmark, "a benchmark", ExperimentError)


def run_single_analyses(benchmark: Benchmark, folder: Path, say: Say = print) -> pd.DataFrame:
    """Run what is not there yet, and return all scores.

    Args:
        folder: where the table is kept.

    Returns:
        The rows of `score_single_analyses` with method, setting and seed before them; of the protocol also the
        `megabytes` of each method (`memory_of`), with sample -1.
    """
    kept, known = read_tables(folder, ["single"])
    wanted: dict[str, str] = {}
    for method, setting, seed in _jobs(benchmark):
        name = f"{method} | {setting.name} | {seed}"
        wanted[name] = _key(benchmark, method, setting, seed)
        if known.get(name) == wanted[name]:
            continue
        say(name)
        table = score_single_analyses(
            _method(benchmark, method), _observing(benchmark), _backgrounds(benchmark), setting, seed
        )
        if (setting, seed) == (benchmark.settings[0], benchmark.seeds[0]):
            table = pd.concat([table, _memory(benchmark, method)], ignore_index=True)
        for column, value in reversed({"job": name, "method": method, "setting": setting.name, "seed": seed}.items()):
            table.insert(0, column, value)
        others = kept["single"][kept["single"]["job"] != name] if "job" in kept["single"] else None
        kept["single"] = table if others is None else pd.concat([others, table], ignore_index=True)
        known = {**known, name: wanted[name]}
        write_tables(folder, kept, known)
    return kept["single"][kept["single"]["job"].isin(wanted)].drop(columns="job")


def _jobs(benchmark: Benchmark) -> Iterator[tuple[str, Setting, int]]:
    for method in benchmark.methods:
        for setting in benchmark.settings:
            for seed in benchmark.seeds_of(setting):
                yield method, setting, seed


def _key(benchmark: Benchmark, method: str, setting: Setting, seed: int) -> str:
    """Of everything that decides a run's scores."""
    content = {
        "method": _method(benchmark, method).digest,
        "model": load_model(benchmark.model).digest,
        "backgrounds": _backgrounds(benchmark).digest(),
        "setting": asdict(setting),
        "seed": seed,
        **benchmark.model_dump(include={"world", "year", "observations", "leads", "starts"}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _method(benchmark: Benchmark, name: str) -> Assimilator:
    """The method; AssimilatorError where it was trained on the benchmark's year."""
    found = _loaded(name, benchmark.world)
    if isinstance(found, TrainedAssimilator) and benchmark.year in found.metadata["training"]["years"]:
        raise AssimilatorError(f"{name} was trained on {benchmark.year}: it cannot be compared by that year")
    return found


@lru_cache(maxsize=2)
def _loaded(name: str, world: str) -> Assimilator:
    return load_assimilator(name, load_world(world))


@lru_cache(maxsize=1)
def _made(data: Path, world: str, model: str, leads: tuple[int, ...], starts: int) -> Any:
    return held_out(load_model(model), Reference(data), load_world(world), starts, leads)


def _backgrounds(benchmark: Benchmark) -> Any:
    folder = benchmark.data / str(benchmark.year)
    return _made(folder, benchmark.world, benchmark.model, tuple(benchmark.leads), benchmark.starts)


def _observing(benchmark: Benchmark) -> Any:
    reference = Reference(benchmark.data / str(benchmark.year))
    return observing_of(load_world(benchmark.world), reference, benchmark.observations)


def _memory(benchmark: Benchmark, method: str) -> pd.DataFrame:
    row = {"sample": -1, "time": np.datetime64("NaT"), "field": "analysis", "channel": OVERALL, "score": "megabytes"}
    measured = memory_of(benchmark, method)
    return pd.DataFrame([{**row, "lead": lead, "value": measured} for lead in benchmark.leads])


def memory_of(benchmark: Benchmark, method: str) -> float:
    """Most memory (MB) that a process holds which loads a method and makes one analysis, beyond one that has none.

    NaN where the system does not tell.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure_memory, benchmark.world, method).result()


def _measure_memory(world: str, method: str) -> float:
    home = load_world(world)
    state = home.reference.array(home.reference.times[0])[None]

    def analyse() -> None:
        assimilator = load_assimilator(method, home)
        errors = np.zeros((1, state.shape[1] + len(assimilator.planes), *home.grid.shape), np.float32)
        errors[:, : state.shape[1]] = home.statistics.std[:, None, None]
        values = np.zeros_like(errors)
        values[:, : state.shape[1]] = state + errors[:, : state.shape[1]]
        assimilator.analyse(state, values, errors)

    taken = peak_memory(analyse)
    return np.nan if taken is None else taken / 2**20


def run_cycles(benchmark: Benchmark, say: Say = print) -> None:
    """Run the cycled experiment with every method, and the forecasts from its analyses; what is there is kept."""
    if benchmark.cycled is None:
        return
    archive = Archive(benchmark.cycled.archive, create=True)
    for method, experiment in _experiments(benchmark, benchmark.cycled).items():
        say(f"{method}: cycles")
        run_due_cycles(experiment, archive)
        say(f"{method}: forecasts")
        branch, world = archive.branch(experiment.name), load_world(experiment.world)
        for _ in drift.make_forecasts(branch, world, load_model(experiment.model)):
            pass


def _experiments(benchmark: Benchmark, cycled: CycledRuns) -> dict[str, Experiment]:
    """The experiment of each method."""
    base = load_experiment(cycled.experiment)
    names = dict.fromkeys(["none", *benchmark.methods])
    return {
        method: base.model_copy(update={"name": f"{base.name}-{method}", "assimilator": method}) for method in names
    }


def cycled_results(benchmark: Benchmark) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the cycled runs are worth.

    Returns:
        Errors: a row per method and headline channel, SI: `rmse` of the analyses after `SPIN_UP`, its `trend` a day
        with `low` and `high` of the 95 % interval, `cycles`, and how many of them were `fallback`.
        Drift: method, channel, lead (hours), `rmse` of forecasts from the analyses, and from the reference.
    """
    errors, drifts = [], []
    if benchmark.cycled is None:
        return pd.DataFrame(), pd.DataFrame()
    archive = Archive(benchmark.cycled.archive)
    for method, experiment in _experiments(benchmark, benchmark.cycled).items():
        branch, world = archive.branch(experiment.name), load_world(experiment.world)
        times = branch.times[branch.times >= experiment.start + SPIN_UP]
        found = verify(branch, world).within(times)
        slopes = trends(found, HEADLINE).query("kind == 'analysis'").set_index("of")
        fallbacks = int((branch.cycles["status"] == "fallback").sum())
        for channel in HEADLINE:
            slope = slopes.loc[f"{channel} error"]
            errors.append(
                {
                    "method": method,
                    "channel": channel,
                    "rmse": tables.rmse_of(found.errors, "analysis", channel),
                    "trend": slope["estimate"],
                    "low": slope["low"],
                    "high": slope["high"],
                    "cycles": len(times),
                    "fallbacks": fallbacks,
                }
            )
        curves, _ = tables.drift_summary(drift.read_scores(branch))
        own = curves[curves["kind"].isin(["analysis", "reference"])]
        drifts.append(own.assign(method=method))
    return pd.DataFrame(errors), pd.concat(drifts, ignore_index=True)
