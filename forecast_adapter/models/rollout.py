"""Roll a network forward from its own output, with the pair of frames in its memory between two calls.

The pair stays in the network's units, normalised if the network needs that, and is never converted back and forth.
Frames are normalised once, when a forecast starts; a state is converted to SI once, when it is returned. The file of a
network is therefore not wrapped in a graph that normalises: that would normalise both frames in every step, keep copies
of them between its nodes, and rewrite gigabytes of weights.

On the CPU the network reads and writes numpy's memory through IO binding. On a device the pair stays in the device's
memory: a second, tiny graph (`graphs/roll.onnx`) makes the next pair there, and the state in SI; only that is fetched.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, repeat
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import CHANNEL_COUNT
from dacycle.forecast_adapter.statistics import Statistics

__all__ = ["ROLL", "Chain", "DeviceChain", "HostChain", "Scaling"]

ROLL = Path(__file__).parent / "graphs/roll.onnx"
Array = NDArray[np.float32]


class Scaling:
    """The conversion between SI and a network's units by channel: x = offset + scale * normalised.

    Without statistics it is the identity.

    Attributes:
        scale, offset: (69,) float32.
    """

    def __init__(self, statistics: Statistics | None) -> None:
        self.identity = statistics is None
        self.scale = np.ones(CHANNEL_COUNT, np.float32) if statistics is None else statistics.std
        self.offset = np.zeros(CHANNEL_COUNT, np.float32) if statistics is None else statistics.mean

    def normalise(self, state: Array, out: Array) -> None:
        """Fill `out` from a state in SI, both (69, H, W)."""
        if self.identity:
            out[:] = state
            return
        for plane, target, scale, offset in zip(state, out, self.scale, self.offset, strict=True):
            np.subtract(plane, offset, out=target)
            target /= scale

    def restore(self, plane: Array, channel: int, out: Array) -> None:
        """Fill `out` (H, W) in SI from a channel of a network's frame."""
        if self.identity:
            out[:] = plane
            return
        np.multiply(plane, self.scale[channel], out=out)
        out += self.offset[channel]


class Chain(Protocol):
    """Forecasts from n starts that share the calls of a network."""

    def step(self, out: Array) -> bool:
        """Advance by six hours, fill `out` (n, 69, H, W) with the states in SI, and return whether they are finite.

        False may also mean that the values are finite but their sum is not.
        """
        ...


def start_pair(previous: Array, current: Array, scaling: Scaling) -> Array:
    """Return the pair (n, 138, H, W) in a network's units from two frames (n, 69, H, W) in SI."""
    pair = np.empty((len(previous), 2 * CHANNEL_COUNT, *previous.shape[2:]), np.float32)
    for member, before, now in zip(pair, previous, current, strict=True):
        scaling.normalise(before, member[:CHANNEL_COUNT])
        scaling.normalise(now, member[CHANNEL_COUNT:])
    return pair


class HostChain:
    """A chain in the host's memory, which holds only the pair and the network's output.

    Args:
        session: the network.
        pair: (n, 138, H, W) in the network's units.
        scaling: the network's conversion from and to SI.
        threads: number of threads that share the channels when frames are rolled.
    """

    def __init__(self, session: ort.InferenceSession, pair: Array, scaling: Scaling, threads: int = 1) -> None:
        self._session, self._pair, self._scaling = session, pair, scaling
        self._output = np.empty_like(pair)
        self._binding = session.io_binding()
        bound = ("cpu", 0, np.float32, list(pair.shape))
        self._binding.bind_input("input", *bound, self._pair.ctypes.data)
        self._binding.bind_output("output", *bound, self._output.ctypes.data)
        ends = np.linspace(0, CHANNEL_COUNT, threads + 1).astype(int)
        self._shares = [range(*bounds) for bounds in pairwise(ends)]

    def step(self, out: Array) -> bool:
        """Advance by six hours, see `Chain`."""
        self._session.run_with_iobinding(self._binding)
        if len(self._shares) == 1:
            return self._roll(self._shares[0], out)
        with ThreadPoolExecutor(len(self._shares)) as pool:
            return all(list(pool.map(self._roll, self._shares, repeat(out))))

    def _roll(self, channels: range, out: Array) -> bool:
        """Roll some channels: blocks are copied without arithmetic, then each channel is converted in the cache."""
        first, end = channels.start, channels.stop
        finite = True
        with np.errstate(over="ignore", invalid="ignore"):
            for member, output, state in zip(self._pair, self._output, out, strict=True):
                member[first:end] = member[CHANNEL_COUNT + first : CHANNEL_COUNT + end]
                member[CHANNEL_COUNT + first : CHANNEL_COUNT + end] = output[first:end]
                for channel in channels:
                    self._scaling.restore(output[channel], channel, state[channel])
                    finite &= bool(np.isfinite(state[channel].sum()))
        return finite


class DeviceChain:
    """A chain in a device's memory; between steps only the state in SI is copied to the host.

    Args:
        session: the network.
        roll: a session of `graphs/roll.onnx` on the same device.
        pair: (n, 138, H, W) in the network's units, on the host.
        scaling: the network's conversion from and to SI.
        device: `cuda`; `cpu` for tests.
        number: number of the device.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        roll: ort.InferenceSession,
        pair: Array,
        scaling: Scaling,
        device: str,
        number: int = 0,
    ) -> None:
        self._session, self._roll = session, roll
        where = (device, number)
        self._pair, self._scale, self._offset = (
            ort.OrtValue.ortvalue_from_numpy(array, *where) for array in (pair, scaling.scale, scaling.offset)
        )

        def empty(channels: int) -> ort.OrtValue:
            shape = [pair.shape[0], channels, *pair.shape[2:]]
            return ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, *where)

        self._output, self._following, self._state = (
            empty(2 * CHANNEL_COUNT),
            empty(2 * CHANNEL_COUNT),
            empty(CHANNEL_COUNT),
        )

    def roll(self) -> None:
        """Advance by six hours on the device, without a copy to the host."""
        _run(self._session, {"input": self._pair}, {"output": self._output})
        inputs = {"pair": self._pair, "output": self._output, "scale": self._scale, "offset": self._offset}
        _run(self._roll, inputs, {"following": self._following, "state": self._state})
        self._pair, self._following = self._following, self._pair

    def step(self, out: Array) -> bool:
        """Advance by six hours, see `Chain`; fetching the state is the only copy to the host."""
        self.roll()
        out[:] = self._state.numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.isfinite(out.sum()))


def _run(session: ort.InferenceSession, inputs: dict[str, ort.OrtValue], outputs: dict[str, ort.OrtValue]) -> None:
    """Run a session whose inputs and outputs are bound to memory on the device."""
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    for name, value in outputs.items():
        binding.bind_ortvalue_output(name, value)
    session.run_with_iobinding(binding)
