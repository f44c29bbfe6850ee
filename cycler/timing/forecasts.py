"""Measure what a forecast costs beside its network, in time and memory, and compare with a plain numpy loop."""

import json
import tempfile
import time as clock
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.cycler.timing.measure import Clock, machine, peak_memory, processor_seconds, timed
from dacycle.forecast_adapter.channels import CHANNEL_COUNT
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.double import add_double
from dacycle.forecast_adapter.models.half import artificial_state
from dacycle.forecast_adapter.models.model import OnnxForecastModel
from dacycle.forecast_adapter.models.onnxfile import CPU, ModelFileError
from dacycle.forecast_adapter.models.registry import Registration, registered_models
from dacycle.forecast_adapter.models.rollout import ROLL, DeviceChain, start_pair
from dacycle.forecast_adapter.models.runtime import Runtime
from dacycle.forecast_adapter.statistics import Statistics

__all__ = ["DOUBLE", "ForecastBench", "bench_forecast"]

DOUBLE = "double-0.25deg"


@dataclass(frozen=True)
class ForecastBench:
    """Hold what was measured, with one state a call.

    Attributes:
        machine, running: processor and cores; on what the model runs.
        steps: of each loop.
        clock: `processor` seconds on one thread of the CPU, else `wall` seconds.
        network, outside: seconds per step within the network and beside it, in the rollout.
        naive_network, naive_outside: likewise in the plain loop, which normalises both frames, joins them, runs the
            network and converts its output back in numpy.
        input_bytes: size of the network's input.
        memory, naive_memory: peak memory of both loops in units of the network's input, without the memory that the
            network needs beside input and output; None where the system does not tell.
        copies: copies between host and device in a chain of `steps`, by ONNX Runtime's profile; None on the CPU.
    """

    machine: str
    running: str
    steps: int
    clock: str
    network: float
    outside: float
    naive_network: float
    naive_outside: float
    input_bytes: int
    memory: float | None
    naive_memory: float | None
    copies: int | None


class _TimedSession:
    """Wrap a session and add up the seconds spent in the network."""

    def __init__(self, session: Any, now: Clock) -> None:
        self._session, self.now, self.seconds = session, now, 0.0
        self.io_binding = session.io_binding

    def run_with_iobinding(self, binding: Any) -> None:
        """Run the network, and add its time."""
        self.seconds += timed(lambda: self._session.run_with_iobinding(binding), self.now)[1]

    def run(self, names: list[str], inputs: dict[str, NDArray]) -> Any:
        """Run the network, and add its time."""
        outputs, seconds = timed(lambda: self._session.run(names, inputs), self.now)
        self.seconds += seconds
        return outputs


def bench_forecast(name: str = DOUBLE, steps: int = 6, threads: int = 1) -> ForecastBench:
    """Measure the forecasts of a registered network; make and register the double at 0.25 degrees where it is missing.

    Raises:
        ModelFileError: no network of this name is registered.
    """
    models = registered_models()
    if name not in models and name != DOUBLE:
        raise ModelFileError(f"no added model {name!r}; there are {', '.join([DOUBLE, *models])}")
    registration = models[name] if name in models else add_double("0.25deg", "era5")
    model = OnnxForecastModel(registration, threads)
    bare, session = peak_memory(lambda: _run_bare(model)), model.session
    alone = model.provider == CPU and threads == 1
    model.session = timed_session = _TimedSession(session, processor_seconds if alone else clock.perf_counter)
    totals: list[tuple[float, float]] = []

    def rollout() -> None:
        # Neither frames nor states are kept here: two of either would add the size of one input.
        states = model.forecast(*_frames(model.grid, registration.statistics), steps)
        deque(_clocked(states, totals, timed_session), maxlen=0)

    peak = peak_memory(rollout)
    network, outside = np.median(np.array(totals[1:]), axis=0)
    totals.clear()
    naive_peak = peak_memory(lambda: _naive(timed_session, model.grid, registration.statistics, steps, totals))
    naive_network, naive_outside = np.median(np.array(totals[1:]), axis=0)
    input_bytes = 4 * 2 * CHANNEL_COUNT * int(np.prod(model.grid.shape))
    network_memory = None if bare is None else bare - 2 * input_bytes
    memory, naive_memory = (
        None if loop_peak is None or network_memory is None else (loop_peak - network_memory) / input_bytes
        for loop_peak in (peak, naive_peak)
    )
    copies = None if model.provider == CPU else _device_copies(registration, model, steps, threads)
    seconds = (float(network), float(outside), float(naive_network), float(naive_outside))
    running = (machine(), model.running, steps, "processor" if alone else "wall")
    return ForecastBench(*running, *seconds, input_bytes, memory, naive_memory, copies)


def _frames(grid: Grid, statistics: Statistics) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    state = artificial_state(grid, statistics)[None]
    return state, state.copy()


def _clocked(states: Iterator[NDArray], totals: list[tuple[float, float]], session: _TimedSession) -> Iterator[NDArray]:
    """Yield each state, and note the seconds that it took inside and outside the network."""
    while True:
        begin, before = session.now(), session.seconds
        state = next(states, None)
        if state is None:
            return
        inside = session.seconds - before
        totals.append((inside, session.now() - begin - inside))
        yield state
        del state


def _run_bare(model: OnnxForecastModel) -> None:
    """Run the network alone, with input and output in place."""
    pair = np.zeros((1, 2 * CHANNEL_COUNT, *model.grid.shape), np.float32)
    pair[:] = 1.0
    output = np.empty_like(pair)
    binding = model.session.io_binding()
    for bind, array in ((binding.bind_input, pair), (binding.bind_output, output)):
        name = "input" if array is pair else "output"
        bind(name, "cpu", 0, np.float32, list(array.shape), array.ctypes.data)
    for _ in range(2):
        model.session.run_with_iobinding(binding)


def _naive(
    session: _TimedSession, grid: Grid, statistics: Statistics, steps: int, totals: list[tuple[float, float]]
) -> None:
    """Step in SI units: normalise both frames, join them, run the network, and convert its output back."""
    previous, current = _frames(grid, statistics)
    for _ in range(steps):
        begin, before = session.now(), session.seconds
        pair = np.concatenate([statistics.normalise(previous), statistics.normalise(current)], axis=1)
        (output,) = session.run(["output"], {"input": pair})
        previous, current = current, statistics.denormalise(output[:, :CHANNEL_COUNT])
        inside = session.seconds - before
        totals.append((inside, session.now() - begin - inside))


def _device_copies(registration: Registration, model: OnnxForecastModel, steps: int, threads: int) -> int:
    """Count the runs, in a chain, of the nodes that ONNX Runtime inserts to copy between host and device."""
    runtime = Runtime.from_settings(threads)
    with tempfile.TemporaryDirectory() as folder:
        network = runtime.open(registration.network, True, Path(folder) / "network")
        roll = replace(runtime, provider="cuda").open(ROLL, True, Path(folder) / "roll")
        pair = start_pair(*_frames(model.grid, registration.statistics), model.scaling)
        chain = DeviceChain(network, roll, pair, model.scaling, "cuda", runtime.device)
        for _ in range(steps):
            chain.roll()
        events = [event for s in (network, roll) for event in json.loads(Path(s.end_profiling()).read_text())]
    return sum(str(event.get("args", {}).get("op_name", "")).startswith("Memcpy") for event in events)
