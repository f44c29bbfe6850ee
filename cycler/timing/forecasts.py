"""What a forecast costs beside its network: time and memory, against the loop that anyone would write first."""

import json
import tempfile
import time as clock
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.cycler.timing.cycles import machine
from dacycle.cycler.timing.memory import peak_memory
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
    """What was measured, one state a call.

    Attributes:
        machine, running: processor and cores; on what the model runs.
        steps: of each loop.
        clock: `processor` seconds on one thread of the CPU, which a busy machine does not lengthen; else `wall`.
        network, outside: seconds a step within the network and beside it, in the rollout.
        naive_network, naive_outside: the same in the loop that normalises both frames, joins them, runs and converts
            back in numpy.
        input_bytes: the network's input.
        memory, naive_memory: peak of both loops, without what the network itself needs beside input and output, in
            units of its input; None where the system does not tell.
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


class _Timed:
    """A session that adds up the seconds spent in the network."""

    def __init__(self, session: Any, now: Callable[[], float]) -> None:
        self._session, self.now, self.seconds = session, now, 0.0
        self.io_binding = session.io_binding

    def run_with_iobinding(self, binding: Any) -> None:
        """Run, and count."""
        begun = self.now()
        self._session.run_with_iobinding(binding)
        self.seconds += self.now() - begun

    def run(self, names: list[str], inputs: dict[str, NDArray]) -> Any:
        """Run, and count."""
        begun = self.now()
        found = self._session.run(names, inputs)
        self.seconds += self.now() - begun
        return found


def bench_forecast(name: str = DOUBLE, steps: int = 6, threads: int = 1) -> ForecastBench:
    """Measure the forecasts of an added network; the double at 0.25 degrees is made and added where it is not.

    Raises:
        ModelFileError: the name is not that of an added network.
    """
    added = registered_models()
    if name not in added and name != DOUBLE:
        raise ModelFileError(f"no added model {name!r}; there are {', '.join([DOUBLE, *added])}")
    made = added[name] if name in added else add_double("0.25deg", "era5")
    model = OnnxForecastModel(made, threads)
    bare, session = peak_memory(lambda: _run_bare(model)), model.session
    alone = model.provider == CPU and threads == 1
    model.session = timed = _Timed(session, clock.process_time if alone else clock.perf_counter)
    totals: list[tuple[float, float]] = []

    def rollout() -> None:
        # Frames are handed over and states let go: a caller who keeps two of either holds one input's worth more.
        deque(_clocked(model.forecast(*_frames(model.grid, made.statistics), steps), totals, timed), maxlen=0)

    peak = peak_memory(rollout)
    network, outside = np.median(np.array(totals[1:]), axis=0)
    totals.clear()
    naive_peak = peak_memory(lambda: _naive(timed, model.grid, made.statistics, steps, totals))
    naive_network, naive_outside = np.median(np.array(totals[1:]), axis=0)
    input_bytes = 4 * 2 * CHANNEL_COUNT * int(np.prod(model.grid.shape))
    own = None if bare is None else bare - 2 * input_bytes
    memory, naive_memory = (
        None if found is None or own is None else (found - own) / input_bytes for found in (peak, naive_peak)
    )
    copies = None if model.provider == CPU else _device_copies(made, model, steps, threads)
    seconds = (float(network), float(outside), float(naive_network), float(naive_outside))
    running = (machine(), model.running, steps, "processor" if alone else "wall")
    return ForecastBench(*running, *seconds, input_bytes, memory, naive_memory, copies)


def _frames(grid: Grid, statistics: Statistics) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    state = artificial_state(grid, statistics)[None]
    return state, state.copy()


def _clocked(states: Iterator[NDArray], totals: list[tuple[float, float]], timed: _Timed) -> Iterator[NDArray]:
    """Each state, after noting the seconds inside and outside the network that it took."""
    while True:
        begun, before = timed.now(), timed.seconds
        state = next(states, None)
        if state is None:
            return
        inside = timed.seconds - before
        totals.append((inside, timed.now() - begun - inside))
        yield state
        del state


def _run_bare(model: OnnxForecastModel) -> None:
    """The network alone, with input and output in place."""
    pair = np.zeros((1, 2 * CHANNEL_COUNT, *model.grid.shape), np.float32)
    pair[:] = 1.0
    output = np.empty_like(pair)
    binding = model.session.io_binding()
    for bind, array in ((binding.bind_input, pair), (binding.bind_output, output)):
        name = "input" if array is pair else "output"
        bind(name, "cpu", 0, np.float32, list(array.shape), array.ctypes.data)
    for _ in range(2):
        model.session.run_with_iobinding(binding)


def _naive(timed: _Timed, grid: Grid, statistics: Statistics, steps: int, totals: list[tuple[float, float]]) -> None:
    """States in SI between the steps: both frames normalised in each, joined, and the output converted back."""
    previous, current = _frames(grid, statistics)
    for _ in range(steps):
        begun, before = timed.now(), timed.seconds
        pair = np.concatenate([statistics.normalise(previous), statistics.normalise(current)], axis=1)
        (output,) = timed.run(["output"], {"input": pair})
        previous, current = current, statistics.denormalise(output[:, :CHANNEL_COUNT])
        inside = timed.seconds - before
        totals.append((inside, timed.now() - begun - inside))


def _device_copies(made: Registration, model: OnnxForecastModel, steps: int, threads: int) -> int:
    """Nodes that ONNX Runtime put in to copy between host and device, as often as they ran in a chain."""
    runtime = Runtime.from_settings(threads)
    with tempfile.TemporaryDirectory() as folder:
        network = runtime.open(made.network, True, Path(folder) / "network")
        roll = replace(runtime, provider="cuda").open(ROLL, True, Path(folder) / "roll")
        pair = start_pair(*_frames(model.grid, made.statistics), model.scaling)
        chain = DeviceChain(network, roll, pair, model.scaling, "cuda", runtime.device)
        for _ in range(steps):
            chain.roll()
        events = [event for s in (network, roll) for event in json.loads(Path(s.end_profiling()).read_text())]
    return sum(str(event.get("args", {}).get("op_name", "")).startswith("Memcpy") for event in events)
