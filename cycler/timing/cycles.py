"""Measure where the time of a run goes: real cycles and forecasts in a temporary archive."""

import resource
import tempfile
import time as clock
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cycle import replay
from dacycle.cycler.cycle.run_cycle import Cycle
from dacycle.cycler.experiment import STEP, Experiment, cycle_id, write_experiment
from dacycle.cycler.timing.measure import machine, timed
from dacycle.cycler.verification.beside import forecasting, starts_until

__all__ = ["Bench", "bench"]


@dataclass(frozen=True)
class Bench:
    """Hold what was measured; seconds are wall time.

    Attributes:
        machine: processor, cores, Python.
        cycles, first, last: number of cycles, and the first and last of them.
        stages: seconds per cycle by stage, with `other` for the rest. They are medians over the cycles after the
            first, which also fills caches. `commit` is what the next cycle waits for.
        seconds: time of all cycles, loading included, forecasts not.
        loading: time to load networks and world, and for the cold start.
        forecasts, forecast_steps: number of forecasts, and of their 6-h steps.
        with_forecasts: time of the same cycles together with their forecasts and scores, in another archive, as
            `dacycle hindcast --forecasts` makes them, from the first cycle on.
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
    with_forecasts: float
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
        """Return the minutes of a year, 1464 cycles with their forecasts, at the measured rate."""
        return 1464 / self.rate_with_forecasts / 60

    @property
    def rate_with_forecasts(self) -> float:
        """Return cycles per second, with the forecasts that the experiment starts."""
        return self.cycles / self.with_forecasts if self.forecasts else self.rate


def bench(
    experiment: Experiment, cycles: int, forecasts: bool = True, prefect: bool = False, threads: int = 1
) -> Bench:
    """Run the first `cycles` cycles of an experiment, and the forecasts from them, in a temporary archive."""
    last = experiment.start + (cycles - 1) * STEP
    short = experiment.model_copy(update={"end": last})
    with tempfile.TemporaryDirectory(prefix="dacycle-bench-") as folder:
        archive = Archive(Path(folder) / "plain", create=True)
        begin = clock.perf_counter()
        done = replay.run_due_cycles(short, archive, threads=threads)
        seconds = clock.perf_counter() - begin
        count, seconds_with = _forecasts(short, Path(folder) / "whole", threads) if forecasts else (0, 0.0)
        start, extra = _prefect(short, Path(folder), seconds) if prefect else (None, None)
        megabytes = _size(archive.folder / "states.icechunk") + _size(archive.folder / "branches")
    return Bench(
        machine=machine(),
        cycles=len(done),
        first=cycle_id(done[0].time),
        last=cycle_id(done[-1].time),
        stages=_stages(done, begin + seconds),
        seconds=seconds,
        loading=done[0].began - begin,
        forecasts=count,
        forecast_steps=count * (short.drift.lead // STEP),
        with_forecasts=seconds_with,
        prefect_start=start,
        prefect=extra,
        megabytes=megabytes / 1e6,
        peak_megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _stages(done: list[Cycle], ended: float) -> dict[str, float]:
    table = pd.DataFrame([cycle.seconds for cycle in done])
    walls = np.diff([*(cycle.began for cycle in done), ended])
    table["other"] = walls - table.sum(axis=1)
    return {str(stage): float(value) for stage, value in table.iloc[min(1, len(done) - 1) :].median().items()}


def _forecasts(experiment: Experiment, folder: Path, threads: int) -> tuple[int, float]:
    """Return the number of forecasts, and the time that they and their cycles took from the first cycle on."""
    archive = Archive(folder, create=True)
    expected = starts_until(experiment, None)
    with forecasting(archive, [experiment.name], expected, threads) as making:
        done = replay.run_due_cycles(experiment, archive, threads=threads)
        list(making.rest())
        seconds = clock.perf_counter() - done[0].began
    return expected, seconds


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
