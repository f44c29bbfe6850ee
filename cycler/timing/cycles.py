"""Where the time of a run goes, on this machine: real cycles and forecasts in a temporary archive."""

import os
import platform
import resource
import tempfile
import time as clock
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cycle import replay
from dacycle.cycler.cycle.inputs import load_inputs
from dacycle.cycler.experiment import STEP, Experiment, cycle_id, write_experiment
from dacycle.cycler.verification import drift

__all__ = ["Bench", "bench", "machine"]


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        machine: processor, cores, Python.
        cycles, first, last: how many cycles, and which.
        stages: seconds per cycle by stage; `other` is what no stage counts. Medians, and over the cycles after the
            first, which also warms caches up.
        seconds: all cycles, without forecasts, loading included.
        loading: networks, world, and the cold start.
        forecasts, forecast_steps: how many forecasts, and their 6-h steps.
        forecast_seconds: all of them, scoring included.
        prefect_start, prefect: seconds that an embedded Prefect server took to start and run a flow of one cycle, and
            by how much the same cycles took longer as one flow run on it; None where not asked for.
        megabytes: the archive of the cycles.
        peak_megabytes: most memory that this process held.
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
        """Cycles per second without forecasts, loading left out."""
        return self.cycles / (self.seconds - self.loading)

    @property
    def rate_with_forecasts(self) -> float:
        """Cycles per second with the forecasts that the experiment starts from them, one after the other."""
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
        begun = clock.perf_counter()
        done = replay.run_due_cycles(
            short, archive, threads=threads, progress=lambda _: walls.append(clock.perf_counter() - begun)
        )
        seconds = clock.perf_counter() - begun
        made, steps, forecast_seconds = _forecasts(short, archive, threads) if forecasts else (0, 0, 0.0)
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
        forecasts=made,
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
    begun = clock.perf_counter()
    made = list(drift.make_forecasts(archive.branch(experiment.name), inputs.world, inputs.model))
    return len(made), len(made) * (experiment.drift.lead // STEP), clock.perf_counter() - begun


def _prefect(experiment: Experiment, folder: Path, plain: float) -> tuple[float, float]:
    """Seconds of a first flow run, server start included, and the cost of a flow run over the same cycles."""
    from dacycle.cycler.operations import flows

    one = experiment.model_copy(update={"end": experiment.start})
    spent = []
    with flows.embedded_server(folder / "prefect"):
        for name, run in (("one", one), ("all", experiment)):
            file = folder / f"{name}.yaml"
            file.write_text(write_experiment(run.as_dict()))
            begun = clock.perf_counter()
            flows.cycle(str(file), str(folder / name))
            spent.append(clock.perf_counter() - begun)
    return spent[0], spent[1] - plain


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def machine() -> str:
    """Processor, cores and Python."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
