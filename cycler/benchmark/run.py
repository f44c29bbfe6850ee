"""Run a benchmark: all methods on the same single analyses, and in the same cycles.

One YAML file says what is compared. The scores of single analyses are kept in a table, each run of a method in a
setting with a key made from everything that decides its scores. An interrupted benchmark therefore goes on where it
stopped, and a new method is added to what is there. Cycled runs are experiments like any other, in an archive of their
own.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from dacycle.assimilators.base import Assimilator, AssimilatorError, load_assimilator
from dacycle.assimilators.judging.benchmark import OVERALL, Setting, score_single_analyses
from dacycle.assimilators.sampling.backgrounds import held_out
from dacycle.assimilators.sampling.observing import observing_of
from dacycle.assimilators.trained.network import TrainedAssimilator
from dacycle.common.configuration import Strict, read_checked
from dacycle.common.errors import DacycleError
from dacycle.common.pieces import Each, in_turn
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.archive.derived import read_tables, write_tables
from dacycle.cycler.cycle.replay import each_due_cycle
from dacycle.cycler.experiment import Experiment, load_experiment
from dacycle.cycler.report import tables
from dacycle.cycler.timing.measure import in_new_process, peak_memory
from dacycle.cycler.verification import drift
from dacycle.cycler.verification.cycles import trends, verify
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.durations import Duration
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import load_world

__all__ = [
    "Benchmark",
    "BenchmarkError",
    "CycledResults",
    "CycledRuns",
    "cycled_results",
    "load_benchmark",
    "run_cycles",
    "run_single_analyses",
]

logger = logging.getLogger(__name__)


class BenchmarkError(DacycleError, ValueError):
    """A benchmark's file is wrong; the message names file, line and key."""


class CycledRuns(Strict):
    """Say what is cycled: an experiment, run once for each method, in an archive.

    Attributes:
        experiment: its file; name and assimilator are replaced for each method.
        archive: folder of the archive.
        spin_up: cycles within this time of the experiment's start are not scored, because their analyses still depend
            on the cold start.
    """

    experiment: Path
    archive: Path
    spin_up: Duration = pd.Timedelta(days=4)


class Benchmark(Strict):
    """Say what is compared, and how.

    Attributes:
        world, model: of all analyses and forecasts.
        data: folder of the world's reference states, with a sub-folder for each year.
        year: the year of the samples; no method may have been trained on it.
        methods: names of assimilators; the first is the one that the others are compared with.
        observations: the sources that the setting `network` observes with, and the planes of the protocol.
        leads: hours; the backgrounds are forecasts of these leads.
        starts: number of backgrounds of each lead.
        seeds: each draws other observations.
        settings: the first is the protocol and is run with every seed, the others with the first seed only.
        cycled: what is cycled; None: nothing.
    """

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

    def seeds_of(self, setting: Setting) -> list[int]:
        """Return all seeds for the protocol, the first seed for any other setting."""
        return self.seeds if setting == self.settings[0] else self.seeds[:1]


def load_benchmark(path: Path) -> Benchmark:
    """Read and check a benchmark's file; raise BenchmarkError with one line per problem."""
    return read_checked(path, Benchmark, "a benchmark", BenchmarkError)


def run_single_analyses(benchmark: Benchmark, folder: Path, each: Each = in_turn) -> pd.DataFrame:
    """Run the single analyses that are not there yet, and return all scores.

    Args:
        benchmark: what is compared.
        folder: where the table is kept; only this process writes it.
        each: where the runs of methods in settings go.

    Returns:
        The rows of `score_single_analyses` with method, setting and seed before them; for the protocol also the
        `megabytes` of each method (`memory_of`), with sample -1.

    Raises:
        AssimilatorError: a method was trained on the benchmark's year.
    """
    stored, stored_keys = read_tables(folder, ["single"])
    keys = {_job_name(*job): _key(benchmark, *job) for job in _jobs(benchmark)}
    due = [job for job in _jobs(benchmark) if stored_keys.get(_job_name(*job)) != keys[_job_name(*job)]]
    for number, table in each(_run_job, [(benchmark, *job) for job in due]):
        job = _job_name(*due[number])
        logger.info("%s", job)
        others = stored["single"][stored["single"]["job"] != job] if "job" in stored["single"] else None
        stored["single"] = table if others is None else pd.concat([others, table], ignore_index=True)
        stored_keys = {**stored_keys, job: keys[job]}
        write_tables(folder, stored, stored_keys)
    order = pd.Categorical(stored["single"]["job"], list(keys))
    found = stored["single"].assign(job=order).dropna(subset="job").sort_values("job", kind="stable")
    return found.drop(columns="job").reset_index(drop=True)


def _run_job(benchmark: Benchmark, method: str, setting: Setting, seed: int) -> pd.DataFrame:
    """Return the scores of a method in a setting, for one seed."""
    table = score_single_analyses(
        _method(benchmark, method), _observing(benchmark), _backgrounds(benchmark), setting, seed
    )
    if (setting, seed) == (benchmark.settings[0], benchmark.seeds[0]):
        table = pd.concat([table, _memory(benchmark, method)], ignore_index=True)
    columns = {"job": _job_name(method, setting, seed), "method": method, "setting": setting.name, "seed": seed}
    for column, value in reversed(columns.items()):
        table.insert(0, column, value)
    return table


def _job_name(method: str, setting: Setting, seed: int) -> str:
    return f"{method} | {setting.name} | {seed}"


def _jobs(benchmark: Benchmark) -> Iterator[tuple[str, Setting, int]]:
    for method in benchmark.methods:
        for setting in benchmark.settings:
            for seed in benchmark.seeds_of(setting):
                yield method, setting, seed


def _key(benchmark: Benchmark, method: str, setting: Setting, seed: int) -> str:
    """Return the SHA-256 of everything that decides the scores of a run."""
    content = {
        "method": _method(benchmark, method).digest,
        "model": load_model(benchmark.model).digest,
        "backgrounds": _backgrounds(benchmark).digest(),
        "setting": setting.model_dump(),
        "seed": seed,
        **benchmark.model_dump(include={"world", "year", "observations", "leads", "starts"}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _method(benchmark: Benchmark, name: str) -> Assimilator:
    """Load a method; raise AssimilatorError where it was trained on the benchmark's year."""
    assimilator = _load_once(name, benchmark.world)
    if isinstance(assimilator, TrainedAssimilator) and benchmark.year in assimilator.metadata["training"]["years"]:
        raise AssimilatorError(f"{name} was trained on {benchmark.year}: it cannot be compared by that year")
    return assimilator


@lru_cache(maxsize=2)
def _load_once(name: str, world: str) -> Assimilator:
    return load_assimilator(name, load_world(world))


@lru_cache(maxsize=1)
def _held_out_once(data: Path, world: str, model: str, leads: tuple[int, ...], starts: int) -> Any:
    return held_out(load_model(model), Reference(data), load_world(world), starts, leads)


def _backgrounds(benchmark: Benchmark) -> Any:
    folder = benchmark.data / str(benchmark.year)
    return _held_out_once(folder, benchmark.world, benchmark.model, tuple(benchmark.leads), benchmark.starts)


def _observing(benchmark: Benchmark) -> Any:
    reference = Reference(benchmark.data / str(benchmark.year))
    return observing_of(load_world(benchmark.world), reference, benchmark.observations)


def _memory(benchmark: Benchmark, method: str) -> pd.DataFrame:
    row = {"sample": -1, "time": np.datetime64("NaT"), "field": "analysis", "channel": OVERALL, "score": "megabytes"}
    megabytes = memory_of(benchmark, method)
    return pd.DataFrame([{**row, "lead": lead, "value": megabytes} for lead in benchmark.leads])


def memory_of(benchmark: Benchmark, method: str) -> float:
    """Return the peak memory (MB) of a new process that loads a method and makes one analysis.

    Memory that the process held before it loaded the method is not counted. NaN where the system does not tell.
    """
    return in_new_process(_measure_memory, benchmark.world, method)


def _measure_memory(world_name: str, method: str) -> float:
    world = load_world(world_name)
    state = world.reference.array(world.reference.times[0])[None]

    def analyse() -> None:
        assimilator = load_assimilator(method, world)
        errors = np.zeros((1, state.shape[1] + len(assimilator.planes), *world.grid.shape), np.float32)
        errors[:, : state.shape[1]] = world.statistics.std[:, None, None]
        values = np.zeros_like(errors)
        values[:, : state.shape[1]] = state + errors[:, : state.shape[1]]
        assimilator.analyse(state, values, errors)

    peak = peak_memory(analyse)
    return np.nan if peak is None else peak / 2**20


def run_cycles(benchmark: Benchmark, each: Each = in_turn) -> None:
    """Run the cycled experiment with every method, then the forecasts from its analyses; skip those already made.

    Args:
        benchmark: what is compared.
        each: where the methods go; each has a branch of its own.
    """
    if benchmark.cycled is None:
        return
    folder, experiments = benchmark.cycled.archive, _experiments(benchmark, benchmark.cycled)
    Archive(folder, create=True)
    methods = list(experiments)
    for number, _ in each(_run_method, [(folder, experiment) for experiment in experiments.values()]):
        logger.info("%s: cycles and forecasts are made", methods[number])


def _run_method(folder: Path, experiment: Experiment) -> None:
    archive = Archive(folder)
    for _ in each_due_cycle(experiment, archive):
        pass
    branch, world = archive.branch(experiment.name), load_world(experiment.world)
    for _ in drift.make_forecasts(branch, world, load_model(experiment.model)):
        pass


def _experiments(benchmark: Benchmark, cycled: CycledRuns) -> dict[str, Experiment]:
    """Return the experiment of each method; `none`, the free run, comes first."""
    base = load_experiment(cycled.experiment)
    methods = dict.fromkeys(["none", *benchmark.methods])
    return {
        method: base.model_copy(update={"name": f"{base.name}-{method}", "assimilator": method}) for method in methods
    }


@dataclass(frozen=True)
class CycledResults:
    """Hold the scores of the cycled runs.

    Attributes:
        errors: a row per method and headline channel, SI: `rmse` of the analyses after the spin-up, its `trend` per day
            with `low` and `high` of the 95 % interval and its `effective` sample size, number of `cycles`, and number
            of `fallbacks`.
        mse: method, time, channel -> global `mse` of the analyses after the spin-up.
        drift: method, channel, kind, lead (hours) -> `rmse` of forecasts from the analyses, and from the reference.
    """

    errors: pd.DataFrame
    mse: pd.DataFrame
    drift: pd.DataFrame


def cycled_results(benchmark: Benchmark) -> CycledResults | None:
    """Score the cycled runs; return None where nothing is cycled."""
    errors, squares, drifts = [], [], []
    if benchmark.cycled is None:
        return None
    archive = Archive(benchmark.cycled.archive)
    for method, experiment in _experiments(benchmark, benchmark.cycled).items():
        branch, world = archive.branch(experiment.name), load_world(experiment.world)
        times = branch.times[branch.times >= experiment.start + benchmark.cycled.spin_up]
        verification = verify(branch, world).within(times)
        slopes = trends(verification, HEADLINE).query("kind == 'analysis'").set_index("of")
        fallbacks = int((branch.cycles["status"] == "fallback").sum())
        for channel in HEADLINE:
            slope = slopes.loc[f"{channel} error"]
            errors.append(
                {
                    "method": method,
                    "channel": channel,
                    "rmse": tables.rmse_of(verification.errors, "analysis", channel),
                    "trend": slope["estimate"],
                    "low": slope["low"],
                    "high": slope["high"],
                    "effective": slope["effective"],
                    "cycles": len(times),
                    "fallbacks": fallbacks,
                }
            )
        of_analyses = verification.errors.query("kind == 'analysis' and region == 'globe' and channel in @HEADLINE")
        squares.append(of_analyses[["time", "channel", "mse"]].assign(method=method))
        curves, _ = tables.drift_summary(drift.read_scores(branch, world))
        from_states = curves[curves["kind"].isin(["analysis", "reference"])]
        drifts.append(from_states.assign(method=method))
    return CycledResults(
        pd.DataFrame(errors), pd.concat(squares, ignore_index=True), pd.concat(drifts, ignore_index=True)
    )
