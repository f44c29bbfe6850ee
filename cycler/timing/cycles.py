"""Measure where the time of a run goes: real cycles and forecasts in a temporary archive."""

import resource
import tempfile
import time as clock
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cycle import replay
from dacycle.cycler.cycle.inputs import load_inputs
from dacycle.cycler.experiment import STEP, Experiment, cycle_id, write_experiment
from dacycle.cycler.timing.measure import machine, timed
from dacycle.cycler.verification import drift
from dacycle.cycler.verification.ahead import sharing_ahead

__all__ = ["Bench", "bench"]


@dataclass(frozen=True)
class Bench:
    """Hold what was measured; seconds are wall time.

    Attributes:
        machine: processor, cores, Python.
        cycles, first, last: number of cycles, and the first and last of them.
        stages: seconds per cycle by stage, with `other` for the rest. They are medians over the cycles after the
            first, which also fills caches.
        seconds: time of all cycles, loading included, forecasts not.
        loading: time to load networks and world, and for the cold start.
        forecasts, forecast_steps: number of forecasts, and of their 6-h steps.
        forecast_seconds: time of all forecasts, scoring included.
        prefect_start, prefect: time that an embedded Prefect server took to start and run a flow of one cycle, and the
            additional time of the same cycles as one flow run on it; None where not asked for.
        megabytes: size of the archive of the cycles.
        peak_megabytes: peak memory of this process.
    """

    machine: str
    cycles: int
    first: str
    last: str
    stages: dict[str, float]
    seconds: float
    loading: float
    forecasts: int
    forecast_steps: int
    forecast_seconds: float
    prefect_start: float | None
    prefect: float | None
    megabytes: float
    peak_megabytes: float

    @property
    def rate(self) -> float:
        """Return cycles per second, without loading and forecasts."""
        return self.cycles / (self.seconds - self.loading)

    @property
    def year(self) -> float:
        """Return the minutes of a year, 1464 cycles and then their forecasts, at the measured rates."""
        return 1464 / self.rate_with_forecasts / 60

    @property
    def rate_with_forecasts(self) -> float:
        """Return cycles per second, with the forecasts that the experiment starts, one after the other."""
        if not self.forecasts:
            return self.rate
        return self.cycles / (self.seconds - self.loading + self.forecast_seconds)


def bench(
    experiment: Experiment, cycles: int, forecasts: bool = True, prefect: bool = False, threads: int = 1
) -> Bench:
    """Run the first `cycles` cycles of an experiment, and the forecasts from them, in a temporary archive."""
    last = experiment.start + (cycles - 1) * STEP
    short = experiment.model_copy(update={"end": last})
    with tempfile.TemporaryDirectory(prefix="dacycle-bench-") as folder:
        archive = Archive(Path(folder) / "plain", create=True)
        walls: list[float] = []
        begin = clock.perf_counter()
        done = replay.run_due_cycles(
            short, archive, threads=threads, progress=lambda _: walls.append(clock.perf_counter() - begin)
        )
        seconds = clock.perf_counter() - begin
        count, steps, forecast_seconds = _forecasts(short, archive, threads) if forecasts else (0, 0, 0.0)
        start, extra = _prefect(short, Path(folder), seconds) if prefect else (None, None)
        megabytes = _size(archive.folder / "states.icechunk") + _size(archive.folder / "branches")
    return Bench(
        machine=machine(),
        cycles=len(done),
        first=cycle_id(done[0].time),
        last=cycle_id(done[-1].time),
        stages=_stages(done, walls),
        seconds=seconds,
        loading=walls[0] - sum(done[0].seconds.values()),
        forecasts=count,
        forecast_steps=steps,
        forecast_seconds=forecast_seconds,
        prefect_start=start,
        prefect=extra,
        megabytes=megabytes / 1e6,
        peak_megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _stages(done: list[replay.Cycle], walls: list[float]) -> dict[str, float]:
    table = pd.DataFrame([cycle.seconds for cycle in done])
    table["other"] = pd.Series(walls).diff() - table.sum(axis=1)
    return {str(stage): float(value) for stage, value in table.iloc[min(1, len(done) - 1) :].median().items()}


def _forecasts(experiment: Experiment, archive: Archive, threads: int) -> tuple[int, int, float]:
    inputs = load_inputs(experiment, threads)
    branch = archive.branch(experiment.name)

    def run() -> list[pd.Timestamp]:
        with sharing_ahead(branch, drift.due(branch, inputs.world), threads):
            return list(drift.make_forecasts(branch, inputs.world, inputs.model))

    starts, seconds = timed(run)
    return len(starts), len(starts) * (experiment.drift.lead // STEP), seconds


def _prefect(experiment: Experiment, folder: Path, plain: float) -> tuple[float, float]:
    """Return the time of a first flow run with the server's start, and the cost of a flow run of the same cycles."""
    from dacycle.cycler.operations import flows

    one = experiment.model_copy(update={"end": experiment.start})
    seconds = []
    with flows.embedded_server(folder / "prefect"):
        for name, run in (("one", one), ("all", experiment)):
            file = folder / f"{name}.yaml"
            file.write_text(write_experiment(run.as_dict()))
            seconds.append(timed(partial(flows.cycle, str(file), str(folder / name)))[1])
    return seconds[0], seconds[1] - plain


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
