"""Measure what Prefect adds to a hindcast: the flow `hindcast` against the plain functions, in pairs."""

import os
import tempfile
import time as clock
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP, Experiment, write_experiment
from dacycle.cycler.timing.measure import children_seconds, machine
from dacycle.forecast_adapter.worlds.world import load_world

__all__ = ["Control", "measure_control"]

Seconds = tuple[float, float]
"""Of the processor, and of the wall clock."""


@dataclass(frozen=True)
class Control:
    """Hold what was measured; seconds are of the processor, of all threads of this process, unless they say wall.

    Attributes:
        machine: processor, cores, Python.
        cycles, pairs: number of cycles of a run, and of pairs of runs.
        plain: milliseconds a cycle of `run_due_cycles`, median of the pairs.
        added: milliseconds a cycle that the flow takes beyond the plain functions, report included in both, median.
        share: `added` over `plain`, of each pair.
        wall: the same share of wall time, of each pair.
        server: share of a core that Prefect's server takes beside, in a process of its own, most of it when idle.
        load: load of the machine at the end.
    """

    machine: str
    cycles: int
    pairs: int
    plain: float
    added: float
    share: list[float]
    wall: list[float]
    server: float
    load: float


def measure_control(experiment: Experiment, cycles: int, pairs: int) -> Control:
    """Run the first cycles of an experiment, without forecasts and free run, by both ways in turns."""
    from dacycle.cycler.operations import flows
    from dacycle.cycler.report.page import write_report

    drift = experiment.drift.model_copy(update={"starts": (), "free_run": False})
    short = experiment.model_copy(update={"end": experiment.start + (cycles - 1) * STEP, "drift": drift})
    plain, whole, flow = list[Seconds](), list[Seconds](), list[Seconds]()
    with tempfile.TemporaryDirectory(prefix="dacycle-bench-") as name:
        folder = Path(name)
        file = folder / "experiment.yaml"
        file.write_text(write_experiment(short.as_dict()))

        def by_hand(archive: Path) -> None:
            plain.append(_taken(lambda: run_due_cycles(short, Archive(archive, create=True))))
            write_report(Archive(archive).branch(short.name), load_world(short.world))

        others = set(children_seconds())
        with flows.embedded_server(folder / "prefect"):
            servers = set(children_seconds()) - others
            by_hand(folder / "first")  # fills caches of both
            flows.hindcast(str(file), str(folder / "first"))
            plain.clear()
            before, begun = children_seconds(), clock.perf_counter()
            for pair in range(pairs):
                ways: list[tuple[list[Seconds], Callable[[], object]]] = [
                    (whole, partial(by_hand, folder / f"plain-{pair}")),
                    (flow, partial(flows.hindcast, str(file), str(folder / f"flow-{pair}"))),
                ]
                for taken, way in ways if pair % 2 == 0 else reversed(ways):
                    taken.append(_taken(way))
            after, wall = children_seconds(), clock.perf_counter() - begun
            server = sum(after[process] - before[process] for process in servers) / wall
    plains, added = np.array(plain), np.array(flow) - np.array(whole)
    shares = added / plains
    return Control(
        machine=machine(),
        cycles=cycles,
        pairs=pairs,
        plain=float(1000 * np.median(plains[:, 0]) / cycles),
        added=float(1000 * np.median(added[:, 0]) / cycles),
        share=shares[:, 0].tolist(),
        wall=shares[:, 1].tolist(),
        server=server,
        load=os.getloadavg()[0],
    )


def _taken(call: Callable[[], object]) -> Seconds:
    """Return the seconds of the processor and of the wall clock that a call takes."""
    begin = clock.process_time(), clock.perf_counter()
    call()
    return clock.process_time() - begin[0], clock.perf_counter() - begin[1]
