"""Iterative methods: a graph that makes one step, and the loop around it, the same for torch and for ONNX Runtime.

The inputs of the graph are background and observations, `step`, (1,) int64 from 0, and the tensors carried from the
step before. Its outputs are `analysis`, `spread` where there is one, and the carried tensors, each named `next_NAME`.
Everything else that changes from step to step, such as a schedule, is part of the graph. The analysis of the last step
is the method's.

A graph takes one chain, and its noise is derived from the chain's background. So an analysis is the same, to the last
bit, whenever it is made and whichever other chains are analysed with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import Analysis

__all__ = ["STEP_INPUT", "Carried", "Stepping", "next_name"]

STEP_INPUT = "step"
INITIAL = ("zeros", "normal")
Tensors = Sequence[NDArray]


def next_name(name: str) -> str:
    """Return the name of a carried tensor among the outputs."""
    return f"next_{name}"


@dataclass(frozen=True)
class Carried:
    """Describe a float32 tensor that is carried from one step to the next.

    Attributes:
        name, shape: as in the graph.
        initial: its value in the first step: `zeros`, or `normal` for independent unit normal numbers.
    """

    name: str
    shape: tuple[int, ...]
    initial: str = "zeros"

    def __post_init__(self) -> None:
        if self.initial not in INITIAL:
            raise ValueError(f"carried {self.name}: initial is {self.initial!r}, but must be {' or '.join(INITIAL)}")


@dataclass(frozen=True)
class Stepping:
    """Hold how often a graph is called, and the tensors that are carried from call to call."""

    steps: int
    carried: tuple[Carried, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the form that a file's metadata hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> Stepping:
        """Read a file's metadata. Raises KeyError, TypeError or ValueError where they are malformed."""
        carried = (Carried(**{**entry, "shape": tuple(entry["shape"])}) for entry in entries["carried"])
        return cls(int(entries["steps"]), tuple(carried))

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs after background and observations."""
        return [STEP_INPUT, *(tensor.name for tensor in self.carried)]

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs after analysis and spread."""
        return [next_name(tensor.name) for tensor in self.carried]

    def start(self, background: NDArray) -> list[NDArray[np.float32]]:
        """Return the carried tensors of the first step; their noise is derived from the background (69, H, W)."""
        content = np.ascontiguousarray(background, np.float32).data
        seed = int.from_bytes(hashlib.sha256(content).digest(), "big")
        generator = np.random.default_rng(seed)
        return [
            generator.standard_normal(tensor.shape, np.float32)
            if tensor.initial == "normal"
            else np.zeros(tensor.shape, np.float32)
            for tensor in self.carried
        ]

    def run(self, graph: Callable[..., Tensors], fields: Tensors, carried: Tensors) -> Tensors:
        """Run all steps of one chain, and return analysis and, where there is one, spread of the last.

        Args:
            graph: takes `fields`, the step and the carried tensors; returns analysis, perhaps spread, and the carried
                tensors.
            fields: background, observations and their errors, (1, ..., H, W) each.
            carried: as `start` returns them.
        """
        results: Tensors = ()
        for step in range(self.steps):
            outputs = graph(*fields, np.array([step]), *carried)
            count = len(outputs) - len(self.carried)
            results, carried = outputs[:count], outputs[count:]
        return results

    def analyse(self, graph: Callable[..., Tensors], *fields: NDArray) -> Analysis:
        """Analyse B chains, one after the other.

        Args:
            graph: as in `run`.
            fields: background, observations and their errors, (B, ..., H, W) each.
        """
        chains = [
            self.run(graph, [field[None] for field in chain], self.start(chain[0]))
            for chain in zip(*fields, strict=True)
        ]
        results = [np.concatenate(outputs) for outputs in zip(*chains, strict=True)]
        return Analysis(results[0], results[1] if len(results) > 1 else None)
