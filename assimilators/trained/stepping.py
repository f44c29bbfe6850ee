"""Iterative methods: a graph that makes one step, and the loop around it, the same for torch and for ONNX Runtime.

Beside background and observations the graph of a step takes `step`, (1,) int64 from 0, and the tensors that one step
hands to the next; it returns these, each named `next_NAME`, behind `analysis` and `spread`. Whatever else changes from
step to step, such as a schedule, stands in the graph. The last step's analysis is the method's.

A graph takes one chain, and its noise comes from that chain's background: an analysis is the same, to the last bit,
whenever it is made and whatever other chains are beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import Analysis

__all__ = ["STEP", "Carried", "Stepping", "next_name"]

STEP = "step"
INITIAL = ("zeros", "normal")
Tensors = Sequence[NDArray]


def next_name(name: str) -> str:
    """What the graph calls a carried tensor that it returns."""
    return f"next_{name}"


@dataclass(frozen=True)
class Carried:
    """A float32 tensor that a step hands to the next.

    Attributes:
        name, shape: as in the graph.
        initial: what the first step is given: `zeros`, or `normal` for independent unit normal numbers.
    """

    name: str
    shape: tuple[int, ...]
    initial: str = "zeros"

    def __post_init__(self) -> None:
        if self.initial not in INITIAL:
            raise ValueError(f"carried {self.name}: initial is {self.initial!r}, but must be {' or '.join(INITIAL)}")


@dataclass(frozen=True)
class Stepping:
    """How often a graph is called, and what is handed on between the calls."""

    steps: int
    carried: tuple[Carried, ...]

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a file's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> Stepping:
        """From a file's metadata. Raises KeyError, TypeError or ValueError where they are malformed."""
        carried = (Carried(**{**entry, "shape": tuple(entry["shape"])}) for entry in entries["carried"])
        return cls(int(entries["steps"]), tuple(carried))

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs behind background and observations."""
        return [STEP, *(tensor.name for tensor in self.carried)]

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs behind analysis and spread."""
        return [next_name(tensor.name) for tensor in self.carried]

    def start(self, background: NDArray) -> list[NDArray[np.float32]]:
        """The tensors that the first step is given; the noise is that of the background (69, H, W)."""
        given = np.ascontiguousarray(background, np.float32)
        seed = int.from_bytes(hashlib.sha256(given.data).digest(), "big")
        generator = np.random.default_rng(seed)
        return [
            generator.standard_normal(tensor.shape, np.float32)
            if tensor.initial == "normal"
            else np.zeros(tensor.shape, np.float32)
            for tensor in self.carried
        ]

    def run(self, graph: Callable[..., Tensors], given: Tensors, carried: Tensors) -> Tensors:
        """All steps of one chain; what the last returns without what it would hand on.

        Args:
            graph: takes `given`, the step and what is carried; returns analysis, perhaps spread, and what is carried.
            given: background and observations, (1, ..., H, W) each.
            carried: as `start` makes them.
        """
        results: Tensors = ()
        for step in range(self.steps):
            found = graph(*given, np.array([step]), *carried)
            ahead = len(found) - len(self.carried)
            results, carried = found[:ahead], found[ahead:]
        return results

    def analyse(self, graph: Callable[..., Tensors], *given: NDArray) -> Analysis:
        """Analyses of B chains, one after the other.

        given: background, observations and their errors, (B, ..., H, W) each.
        """
        chains = [
            self.run(graph, [part[None] for part in chain], self.start(chain[0])) for chain in zip(*given, strict=True)
        ]
        results = [np.concatenate(parts) for parts in zip(*chains, strict=True)]
        return Analysis(results[0], results[1] if len(results) > 1 else None)
